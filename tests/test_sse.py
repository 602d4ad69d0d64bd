"""The encoder: every byte of each frame, and a refusal of text that would break out of its line."""

import pytest

from synckit_notify import sse

FRAMES = [
    (sse.CONNECTED, b": connected\n\n"),
    (sse.CHANGED, b"event: changed\ndata:\n\n"),
    (sse.KEEPALIVE, b": keepalive\n\n"),
    (sse.comment("bye draining"), b": bye draining\n\n"),
    (sse.retry(500), b"retry: 500\n\n"),
]


@pytest.mark.parametrize(("frame", "expected"), FRAMES)
def test_frames_are_these_bytes(frame: bytes, expected: bytes) -> None:
    assert frame == expected


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b"])
@pytest.mark.parametrize("encode", [sse.comment, sse.event])
def test_a_text_that_breaks_its_line_is_refused(encode, text: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        encode(text)
