"""Messages between processes: only exactly the bytes that a broker writes are accepted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synckit_notify.brokers import Disconnect, Gap, Notice, Question, Report
from synckit_notify.brokers.messages import MAX_MESSAGE_BYTES, Content, Probe, apps_that_fit, decode, encode, is_sound

SOUND: list[Content] = [
    Notice("notes", "alice"),
    Notice("notes", "alice", "laptop", 1790000000.25, 1789999999.5),
    Notice("ноутс", "💙" * 128, '"', 0, -1.5),
    Disconnect("notes", "alice"),
    Disconnect("notes", "alice", "phone"),
    Gap(),
    Probe(),
    Question("5f0c"),
    Report("5f0c", "web-1", 7, "7f3a", "gunicorn gevent", 3, 1, {"notes": 2, "ноутс": 1}),
    Report("5f0c", "web-1", 7, "7f3a", "", 0, 0, {}),
]

HEAD = {"v": 1, "by": "somebody", "is": "notice"}
QUESTION = {"v": 1, "by": "somebody", "is": "question", "id": "5f0c"}
REPORT = json.loads(encode("somebody", SOUND[-2]))
NOTICE = {**HEAD, "app": "notes", "user": "alice"}

MALFORMED = [
    b"",
    b"changed",
    b"\xff",
    b"[]",
    b"null",
    b"1",
    b"[" * MAX_MESSAGE_BYTES,
    b'{"v":1}',
    HEAD,
    {**NOTICE, "v": 2},
    {**NOTICE, "v": "1"},
    {**NOTICE, "v": True},
    {**NOTICE, "v": 1.0},
    {**NOTICE, "v": None},
    {**NOTICE, "by": None},
    {**NOTICE, "by": ""},
    {**NOTICE, "by": "x" * 129},
    {**NOTICE, "is": "order"},
    {**NOTICE, "is": []},
    {**NOTICE, "is": "gap"},
    {**NOTICE, "is": "disconnect", "changed_at": 1},
    {**NOTICE, "app": ""},
    {**NOTICE, "app": None},
    {**NOTICE, "app": 7},
    {**NOTICE, "user": "x" * 129},
    {**NOTICE, "user": ["alice"]},
    {**NOTICE, "origin_device": ""},
    {**NOTICE, "origin_device": 7},
    {**NOTICE, "changed_at": "1790000000"},
    {**NOTICE, "changed_at": True},
    {**NOTICE, "changed_at": float("nan")},
    {**NOTICE, "changed_at": float("inf")},
    {**NOTICE, "previous_at": 10**400},
    {**NOTICE, "previous_at": -(10**12)},
    {**NOTICE, "anything": "else"},
    {**QUESTION, "id": ""},
    {**QUESTION, "id": "x" * 33},
    {**QUESTION, "id": "ü"},
    {**QUESTION, "id": 7},
    {**REPORT, "question": "x" * 33},
    {**REPORT, "host": ""},
    {**REPORT, "pid": "7"},
    {**REPORT, "node": None},
    {**REPORT, "server": 7},
    {**REPORT, "server": "x" * 129},
    {**REPORT, "streams": -1},
    {**REPORT, "streams": True},
    {**REPORT, "parked": 1.5},
    {**REPORT, "apps": ["notes"]},
    {**REPORT, "apps": {"notes": "2"}},
    {**REPORT, "apps": {"": 2}},
    {name: value for name, value in REPORT.items() if name != "apps"},
    {**NOTICE, "_cls": "else"},
    json.dumps(NOTICE).encode() + b" " * MAX_MESSAGE_BYTES,
    json.dumps(NOTICE).encode()[:-1],
]


@pytest.mark.parametrize("content", SOUND, ids=str)
def test_what_one_process_writes_another_reads(content: Content) -> None:
    assert is_sound(content)
    data = encode("5f0c", content)
    assert (len(data) <= MAX_MESSAGE_BYTES, b"\n" in data) == (True, False)
    sender, read = decode(data)
    assert (sender, type(read), read) == ("5f0c", type(content), content)


def test_the_longest_ids_fit() -> None:
    longest = Notice("💙" * 128, "💙" * 128, "💙" * 128, 1790000000.123456, 1790000000.123455)
    assert decode(encode("x" * 128, longest)) == ("x" * 128, longest)


def test_a_report_of_many_apps_keeps_those_with_the_most_streams_and_fits() -> None:
    apps = {f"{number:05}" + "💙" * 123: number for number in range(1000)} | {"": 5000, "x" * 129: 5000}
    fitting = apps_that_fit(apps)
    assert list(fitting.values()) == [999, 998]
    report = Report("x" * 32, "ü" * 128, 2**22, "7f3a55d0c0de", "gunicorn gevent", 500_000, 0, fitting)
    assert is_sound(report)
    assert len(encode("5f0c", report)) < MAX_MESSAGE_BYTES
    assert apps_that_fit({str(number): 1 for number in range(100)}) == {str(number): 1 for number in range(100)}


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data)[:60])
def test_anything_else_is_refused(data: bytes | dict[str, object]) -> None:
    with pytest.raises(ValueError):
        decode(data if isinstance(data, bytes) else json.dumps(data).encode())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


@pytest.mark.parametrize(
    "content",
    [
        Notice("", "alice"),
        Notice("notes", "x" * 129),
        Notice("notes", "alice", "x" * 129),
        Notice("notes", "alice", None, float("nan")),
        Disconnect("notes", "x" * 129),
        Disconnect("notes", "alice", ""),
    ],
    ids=str,
)
def test_what_others_would_refuse_is_known_before_it_is_sent(content: Content) -> None:
    assert not is_sound(content)
    with pytest.raises(ValueError):
        decode(encode("5f0c", content))
