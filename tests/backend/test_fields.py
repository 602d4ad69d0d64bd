"""Which timestamps, strings and JSON objects are accepted."""

import json
from pathlib import Path

import pytest

from synckit_notify.backend import request_fields
from synckit_notify.backend.errors import InvalidField, MalformedBody
from synckit_notify.backend.request_fields import Fields, rfc3339

TIMESTAMPS = json.loads((Path(__file__).parents[1] / "timestamps.json").read_text())
"""Timestamps for the tests of both server and SDK, which must accept the same ones."""


@pytest.mark.parametrize(("text", "nanoseconds"), TIMESTAMPS["accepted"].items())
def test_a_timestamp_is_read_exactly_and_rounded_up_to_microseconds(text: str, nanoseconds: int) -> None:
    assert Fields({"since": text}).optional_instant("since") == -(-nanoseconds // 1000)
    assert Fields({"timestamp": text}).timestamp("timestamp") == (text, -(-nanoseconds // 1000))


@pytest.mark.parametrize("text", TIMESTAMPS["refused"])
def test_what_is_not_rfc_3339_within_the_years_1_to_9999_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="since: "):
        Fields({"since": text}).optional_instant("since")
    with pytest.raises(InvalidField, match=r"changes\[3\]\.timestamp: "):
        Fields({"timestamp": text}, "changes[3].").timestamp("timestamp")


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
        request_fields.parse(body)


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}"), ('["x", ', ", 1]")])
def test_json_has_at_most_64_levels_at_any_stack_depth(opens: str, closes: str) -> None:
    def body(levels: int) -> bytes:
        return f'{{"a": {opens * (levels - 1)}1{closes * (levels - 1)}}}'.encode()

    request_fields.parse(body(64))
    for levels in (65, 66, 900, 100_000):
        with pytest.raises(MalformedBody, match="nested deeper than 64 levels"):
            request_fields.parse(body(levels))
    assert request_fields.parse(b'{"data": "' + b"[" * 1000 + b'"}').ciphertext("data", most_bytes=1000) == "[" * 1000


def test_the_bounds_themselves_are_allowed() -> None:
    body = Fields({"name": "é" * 100, "cursor": 2**63 - 1, "data": "é" * 50, "list": ["x"]})
    assert body.text("name", longest=100) == "é" * 100
    assert body.integer("cursor", least=0) == 2**63 - 1
    assert body.ciphertext("data", most_bytes=100) == "é" * 50
    assert body.optional_texts("list", most=1, longest=1) == ["x"]


@pytest.mark.parametrize(
    ("values", "expected"), [({}, False), ({"x": None}, False), ({"x": False}, False), ({"x": True}, True)]
)
def test_a_flag_that_is_missing_is_false(values: dict[str, object], expected: bool) -> None:
    assert Fields(values).flag("x") is expected
