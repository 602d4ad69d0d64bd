"""Bodies of event streams and the messages in them, by WHATWG HTML, section 9.2.6; for the decoders of both SDKs.

Each case is a whole body and the messages in it. The name of a case is the rule that it tests.
"""

from synckit_notify import sse
from synckit_notify.sse import MAX_CHARACTERS, Comment, Event, Message, Retry

BOM = b"\xef\xbb\xbf"
CHANGED = Event("changed", "", "")


def message(data: str, *, event: str = "message", id: str = "") -> Event:
    return Event(event, data, id)


CASES: dict[str, tuple[bytes, list[Message]]] = {
    # Our own frames.
    "connected": (sse.CONNECTED, [Comment("connected")]),
    "changed": (sse.CHANGED, [CHANGED]),
    "keepalive": (sse.KEEPALIVE, [Comment("keepalive")]),
    "retry and bye": (sse.retry(500) + sse.comment("bye draining"), [Retry(500), Comment("bye draining")]),
    "several frames": (sse.CONNECTED + sse.CHANGED * 2, [Comment("connected"), CHANGED, CHANGED]),
    "nothing at all": (b"", []),
    # Ends of lines.
    "LF": (b"event: changed\ndata:\n\n", [CHANGED]),
    "CR": (b"event: changed\rdata:\r\r", [CHANGED]),
    "CRLF": (b"event: changed\r\ndata:\r\n\r\n", [CHANGED]),
    "all three in one block": (b"event: changed\rdata: a\ndata: b\r\n\n", [message("a\nb", event="changed")]),
    "CRLF is one end": (b"data: a\r\n", []),
    "CR then CRLF is two ends": (b"data: a\r\r\n", [message("a")]),
    "LF then CR is two ends": (b"data: a\n\r", [message("a")]),
    "CRLF then CR": (b"data: a\r\n\r", [message("a")]),
    "an LF after a CRLF counts again": (b"data: a\r\n\n", [message("a")]),
    "empty lines say nothing": (b"\n\n\r\r\r\n\r\n", []),
    "empty lines before a block": (b"\n\r\ndata: a\n\n", [message("a")]),
    "form feed ends no line": (b"data: a\x0cb\n\n", [message("a\x0cb")]),
    "vertical tab ends no line": (b"data: a\x0bb\n\n", [message("a\x0bb")]),
    "NEL ends no line": ("data: a\u0085b\n\n".encode(), [message("a\u0085b")]),
    "line separator ends no line": ("data: a\u2028b\n\n".encode(), [message("a\u2028b")]),
    # The byte order mark.
    "one mark is taken off": (BOM + b"data: a\n\n", [message("a")]),
    "a second mark is part of the name": (BOM + BOM + b"data: a\n\n", []),
    "a mark inside stays": (b"data: " + BOM + b"a\n\n", [message("\ufeffa")]),
    "a mark at a later line is part of the name": (b"data: a\n\n" + BOM + b"data: b\n\n", [message("a")]),
    "a mark before a comment": (BOM + b": a\n", [Comment("a")]),
    "a mark alone": (BOM, []),
    "half a mark is broken UTF-8": (b"\xef\xbb\ndata: a\n\n", [message("a")]),
    # UTF-8.
    "two, three and four bytes": ("data: é€😀\n\n".encode(), [message("é€😀")]),
    "a lone continuation byte": (b"data: \x80a\n\n", [message("\ufffda")]),
    "a cut character before an ASCII one": (b"data: \xe2\x82a\n\n", [message("\ufffda")]),
    "a cut character before the end of its line": (b"data: \xf0\x9f\x98\n\n", [message("\ufffd")]),
    "a cut character before CR": (b"data: \xe2\x82\r\r", [message("\ufffd")]),
    "a surrogate is three errors": (b"data: \xed\xa0\x80\n\n", [message("\ufffd\ufffd\ufffd")]),
    "an overlong form is two errors": (b"data: \xc0\xaf\n\n", [message("\ufffd\ufffd")]),
    "beyond Unicode is four errors": (b"data: \xf4\x90\x80\x80\n\n", [message("\ufffd" * 4)]),
    "0xFF is an error": (b"data: \xff\n\n", [message("\ufffd")]),
    "a broken name is an unknown name": (b"da\xffta: a\n\n", []),
    # Fields and their values.
    "no space after the colon": (b"data:a\n\n", [message("a")]),
    "one space goes": (b"data: a\n\n", [message("a")]),
    "only one space goes": (b"data:  a \n\n", [message(" a ")]),
    "a tab stays": (b"data:\ta\n\n", [message("\ta")]),
    "further colons stay": (b"data: a: b:\n\n", [message("a: b:")]),
    "a line without colon is a name": (b"data\n\n", [message("")]),
    "names are case-sensitive": (b"Data: a\nDATA: b\n\n", []),
    "a space before the name": (b" data: a\n\n", []),
    "a space after the name": (b"data : a\n\n", []),
    "an unknown field is ignored": (b"foo: bar\ndata: a\nevents: x\n\n", [message("a")]),
    # Data makes the event.
    "two data lines": (b"data: a\ndata: b\n\n", [message("a\nb")]),
    "an empty last data line": (b"data: a\ndata:\n\n", [message("a\n")]),
    "two empty data lines": (b"data\ndata\n\n", [message("\n")]),
    "NUL in data stays": (b"data: a\0b\n\n", [message("a\0b")]),
    "an event without data is none": (b"event: changed\n\n", []),
    "its name does not reach the next block": (b"event: changed\n\ndata: a\n\n", [message("a")]),
    "the last name counts": (b"event: a\nevent: changed\ndata:\n\n", [CHANGED]),
    "an empty name is the default": (b"event: a\nevent\ndata: b\n\n", [message("b")]),
    "the name may come after the data": (b"data:\nevent: changed\n\n", [CHANGED]),
    # Ids.
    "an id": (b"id: 7\ndata: a\n\n", [message("a", id="7")]),
    "an id stays for later blocks": (b"id: 7\ndata: a\n\ndata: b\n\n", [message("a", id="7"), message("b", id="7")]),
    "an id of a block without data counts": (b"id: 7\n\ndata: a\n\n", [message("a", id="7")]),
    "an empty id takes it back": (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [message("a", id="7"), message("b")]),
    "an id with NUL is ignored": (b"id: 7\n\nid: 8\x009\ndata: a\n\n", [message("a", id="7")]),
    "the last id of a block counts": (b"id: 7\nid: 8\ndata: a\n\n", [message("a", id="8")]),
    # Retry.
    "retry in a block of its own": (b"retry: 3000\n\n", [Retry(3000)]),
    "retry at the end of its line": (b"retry: 3000\n", [Retry(3000)]),
    "retry inside an event": (b"data: a\nretry: 5\n\n", [Retry(5), message("a")]),
    "retry of zero": (b"retry:0\n", [Retry(0)]),
    "retry with leading zeros": (b"retry: 007\n", [Retry(7)]),
    "retry with a sign": (b"retry: -5\nretry: +5\n", []),
    "retry with a fraction": (b"retry: 5.0\n", []),
    "retry with a space inside": (b"retry: 5 \nretry:  5\n", []),
    "retry with letters": (b"retry: 5s\nretry: 0x5\nretry: 1_000\n", []),
    "retry without a value": (b"retry\nretry:\n", []),
    "retry in Arabic-Indic digits": ("retry: \u0663\n".encode(), []),
    "retry with a superscript": ("retry: 5\u00b2\n".encode(), []),
    "retry of nine digits": (b"retry: 999999999\n", [Retry(999_999_999)]),
    "retry of ten digits is too long": (b"retry: 1000000000\n", []),
    "retry of five thousand digits": (b"retry: " + b"9" * 5000 + b"\n", []),
    # Comments.
    "a comment at the end of its line": (b": a\n", [Comment("a")]),
    "an empty comment": (b":\n\n", [Comment("")]),
    "a comment without space": (b":a\n", [Comment("a")]),
    "a comment keeps its further colons and spaces": (b":  a: b \n", [Comment(" a: b ")]),
    "a comment inside an event": (b"event: changed\n: a\ndata:\n\n", [Comment("a"), CHANGED]),
    # The end of the body.
    "a block without its empty line": (b"data: a\n\nevent: changed\ndata:\n", [message("a")]),
    "a line without its end": (b"data: a\n\n: keepal", [message("a")]),
    "an empty line that is only begun": (b"data: a", []),
    # Limits.
    "a line of just the limit": (
        b"data:" + b"a" * (MAX_CHARACTERS - 5) + b"\n\n" + sse.CHANGED,
        [message("a" * (MAX_CHARACTERS - 5)), CHANGED],
    ),
    "a line over the limit": (b"data:" + b"a" * (MAX_CHARACTERS - 4) + b"\n\n" + sse.CHANGED, [CHANGED]),
    "an overlong line takes its block along": (
        b"data: a\nfoo:" + b"a" * MAX_CHARACTERS + b"\nevent: x\n\n" + sse.CHANGED,
        [CHANGED],
    ),
    "an overlong comment takes nothing along": (
        b"event: changed\n:" + b" " * MAX_CHARACTERS + b"\ndata:\n\n",
        [CHANGED],
    ),
    "an overlong line without a colon": (b"a" * (MAX_CHARACTERS + 1) + b"\n\n" + sse.CHANGED, [CHANGED]),
    "data over the limit": (b"data: 12345678\n" * 8192 + b"\n" + sse.CHANGED, [CHANGED]),
    "empty data lines over the limit": (b"data\n" * (MAX_CHARACTERS + 1) + b"\n" + sse.CHANGED, [CHANGED]),
    "an id of a dropped block does not count": (
        b"id: 7\n\nid: 8\ndata:" + b"a" * MAX_CHARACTERS + b"\n\ndata: b\n\n",
        [message("b", id="7")],
    ),
}
