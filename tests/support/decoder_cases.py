"""The cases of docs/vectors/cases/decoder.json, for the decoders of both SDKs.

Each case is a whole body and the messages in it. The name of a case is the rule that it tests.
"""

from typing import Any

from synckit_notify.sse import Comment, Event, Message, Retry

from .cases import bytes_of, load

BOM = b"\xef\xbb\xbf"
CHANGED = Event("changed", "", "")


def _message(members: dict[str, Any]) -> Message:
    if "retry" in members:
        return Retry(members["retry"])
    if "comment" in members:
        return Comment(members["comment"])
    return Event(members["event"], bytes_of(members["data"]).decode(), members["id"])


CASES: dict[str, tuple[bytes, list[Message]]] = {
    case["about"]: (bytes_of(case["body"]), [_message(each) for each in case["messages"]]) for case in load("decoder")
}
