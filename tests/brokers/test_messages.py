"""Messages between processes: only exactly the bytes that a broker writes are accepted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synckit_notify.brokers import Disconnect, Gap, Notice
from synckit_notify.brokers.messages import MAX_MESSAGE_BYTES, Content, Probe, decode, encode, is_sound

SOUND: list[Content] = [
    Notice("notes", "alice"),
    Notice("notes", "alice", "laptop", 1790000000.25, 1789999999.5),
    Notice("ноутс", "💙" * 128, '"', 0, -1.5),
    Disconnect("notes", "alice"),
    Disconnect("notes", "alice", "phone"),
    Gap(),
    Probe(),
]

HEAD = {"v": 1, "by": "somebody", "is": "notice"}
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
