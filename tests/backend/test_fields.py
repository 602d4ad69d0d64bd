"""Which timestamps, strings and JSON objects are accepted."""

import json
from pathlib import Path

import pytest

from synckit_notify.backend import request_parsing
from synckit_notify.backend.errors import InvalidField, MalformedBody
from synckit_notify.backend.request_fields import (
    Body,
    Ciphertext,
    Flag,
    Instant,
    Integer,
    Items,
    Optional,
    Text,
    Timestamp,
    rfc3339,
)

TIMESTAMPS = json.loads((Path(__file__).parents[1] / "timestamps.json").read_text())
"""Timestamps for the tests of both server and SDK, which must accept the same ones."""


@pytest.mark.parametrize(("text", "nanoseconds"), TIMESTAMPS["accepted"].items())
def test_a_timestamp_is_read_exactly_and_rounded_up_to_microseconds(text: str, nanoseconds: int) -> None:
    assert Instant().read(text, "since") == -(-nanoseconds // 1000)
    assert Timestamp().read(text, "timestamp") == (text, -(-nanoseconds // 1000))


@pytest.mark.parametrize("text", TIMESTAMPS["refused"])
def test_what_is_not_rfc_3339_within_the_years_1_to_9999_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="since: "):
        Instant().read(text, "since")
    with pytest.raises(InvalidField, match=r"changes\[3\]\.timestamp: "):
        Timestamp().read(text, "changes[3].timestamp")


def test_timestamps_are_formatted_with_six_digits_and_z() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(1_709_164_800_120_000) == "2024-02-29T00:00:00.120000Z"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"1", b"null", b"{'a': 1}", b'{"a": NaN}', b'{"a": -Infinity}']
    + [b"\xff", b'{"a": "\xed\xa0\x80"}']
    + ["{}".encode(code) for code in ("utf-16", "utf-8-sig")]
    + [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_what_is_not_a_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        request_parsing.parse(body)


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}"), ('["x", ', ", 1]")])
def test_json_has_at_most_64_levels_at_any_stack_depth(opens: str, closes: str) -> None:
    def body(levels: int) -> bytes:
        return f'{{"a": {opens * (levels - 1)}1{closes * (levels - 1)}}}'.encode()

    request_parsing.parse(body(64))
    for levels in (65, 66, 900, 100_000):
        with pytest.raises(MalformedBody, match="nested deeper than 64 levels"):
            request_parsing.parse(body(levels))
    assert request_parsing.parse(b'{"data": "' + b"[" * 1000 + b'"}') == {"data": "[" * 1000}


def test_the_bounds_themselves_are_allowed() -> None:
    assert Text(longest=100).read("é" * 100, "name") == "é" * 100
    assert Integer(least=0).read(2**63 - 1, "cursor") == 2**63 - 1
    assert Ciphertext(most_bytes=100).read("é" * 50, "data") == "é" * 50
    assert Items(Text(longest=1), most=1).read(["x"], "list") == ["x"]


@pytest.mark.parametrize(
    ("values", "expected"), [({}, False), ({"x": None}, False), ({"x": False}, False), ({"x": True}, True)]
)
def test_a_flag_that_is_missing_is_false(values: dict[str, object], expected: bool) -> None:
    class Flags(Body):
        x = Optional(Flag(), False)

    assert Flags(values).x is expected
