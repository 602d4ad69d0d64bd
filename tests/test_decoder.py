"""The decoder, by WHATWG HTML, section 9.2.6: bodies whole, byte by byte, and cut at random.

Each case is a whole body and what it says. The rules' own words are in the names of the cases.
"""

import random
import tracemalloc

import pytest

from synckit_notify import sse
from synckit_notify.sse import MAX_CHARACTERS, Decoder, Event, Message

from .support.decoder_cases import BOM, CASES, CHANGED

cases = pytest.mark.parametrize(("body", "expected"), CASES.values(), ids=CASES.keys())


def decode(pieces: list[bytes]) -> list[Message]:
    decoder = Decoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


def cut_at_random(body: bytes, draw: random.Random) -> list[bytes]:
    cuts = sorted(draw.randrange(len(body) + 1) for _ in range(draw.randrange(8)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def test_the_table_has_at_least_60_cases() -> None:
    assert len(CASES) >= 60


@cases
def test_a_body_in_one_piece(body: bytes, expected: list[Message]) -> None:
    assert decode([body]) == expected


@cases
def test_the_same_body_byte_by_byte(body: bytes, expected: list[Message]) -> None:
    assert decode([body[at : at + 1] for at in range(len(body))]) == expected


@cases
def test_the_same_body_cut_at_random(body: bytes, expected: list[Message]) -> None:
    draw = random.Random(body)
    for _ in range(20 if len(body) < 10_000 else 2):
        assert decode(cut_at_random(body, draw)) == expected


def test_any_bytes_decode_to_the_same_messages_however_they_are_cut() -> None:
    draw = random.Random(1)
    crumbs = [b"data", b"event", b"id", b"retry", b":", b" ", b"\n", b"\r", b"\r\n", b"\0", b"7", BOM, b"\xe2", b"\x82"]
    for _ in range(2000):
        body = b"".join(draw.choices(crumbs, k=draw.randrange(40)))
        assert decode([bytes([byte]) for byte in body]) == decode([body]) == decode(cut_at_random(body, draw))


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r", b"\r\n\r\n"])
def test_an_event_never_waits_for_another_byte(end: bytes) -> None:
    assert decode([b"event: changed\ndata:" + end]) == [CHANGED]


def test_a_crlf_cut_in_the_middle_is_one_end() -> None:
    assert decode([b"event: changed\r", b"\ndata:\r", b"\n"]) == []
    assert decode([b"event: changed\r", b"", b"\ndata:\r", b"\n\r"]) == [CHANGED]


@pytest.mark.parametrize("begin", [b"", b": ", b"data: ", b"id: ", b"foo: "])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_an_endless_block_uses_bounded_memory(begin: bytes, end: bytes) -> None:
    decoder = Decoder()
    piece = (begin + b"a" * 1000 + end) * 64
    tracemalloc.start()
    try:
        for _ in range(64):
            decoder.feed(piece)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * MAX_CHARACTERS
    assert isinstance(decoder.feed(b"\n\n" + sse.CHANGED)[-1], Event)
