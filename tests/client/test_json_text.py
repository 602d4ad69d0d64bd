"""The data of a change: every device can read what another one may send."""

import sys
import time

import pytest

from synckit_notify.client.json_text import MAX_NESTING, NestedTooDeeply, decode, encode


def nested(depth: int) -> object:
    value: object = 0
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


def deeper(frames: int, work: object) -> object:
    return work() if frames == 0 else deeper(frames - 1, work)  # type: ignore[operator]


@pytest.mark.parametrize("depth", [0, 1, 99, MAX_NESTING])
def test_up_to_the_bound_it_is_sent_and_read(depth: int) -> None:
    assert decode(encode(nested(depth))) == nested(depth)


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 930, 990, 1100, 5000])
def test_beyond_the_bound_it_is_neither_sent_nor_read(depth: int) -> None:
    with pytest.raises(NestedTooDeeply, match="deeper than 100 levels"):
        encode(nested(depth))
    with pytest.raises(NestedTooDeeply):
        decode('{"k":[' * depth + "0" + "]}" * depth)


def test_decoding_does_not_depend_on_the_depth_of_the_call_stack() -> None:
    text = encode(nested(MAX_NESTING))
    spare = sys.getrecursionlimit() - 300
    assert deeper(spare, lambda: decode(text)) == nested(MAX_NESTING)


@pytest.mark.parametrize("text", ["[" * 200, '"\\"[{' * 100, "\\[", '["]' + "[" * 99, "[]" * 101])
def test_brackets_in_strings_are_no_nesting(text: str) -> None:
    assert decode(encode([text, {text: "\\"}])) == [text, {text: "\\"}]


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "-Infinity", '"\\ud800"', '"\ud800"', '{"\\uDBFF":1}', "9" * 5000, "'a'"]
)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_surrogate_pair_is_a_character() -> None:
    assert decode('"\\ud83d\\ude00"') == "\U0001f600"


def test_256_kib_of_hostile_text_are_refused_quickly() -> None:
    """256 KiB is the upper bound of a change."""
    for text in ('"' + '\\"' * 131_000, "[" * 262_144, '["\\\\",' * 37_000, "[]," * 87_000):
        began = time.thread_time()
        with pytest.raises(ValueError):
            decode(text)
        assert time.thread_time() - began < 2.0
