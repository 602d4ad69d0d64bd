"""What counts as a moment, a text and a JSON object."""

import pytest

from synckit_notify.backend import fields
from synckit_notify.backend.fields import Fields, Invalid, Malformed, rfc3339

MOMENTS = [
    ("1970-01-01T00:00:00Z", 0),
    ("1970-01-01t00:00:01z", 1_000_000),
    ("1970-01-01 00:00:01Z", 1_000_000),
    ("1970-01-01T01:00:00+01:00", 0),
    ("1969-12-31T23:30:00-00:30", 0),
    ("1970-01-01T00:00:00.5Z", 500_000),
    ("1970-01-01T00:00:00.000001Z", 1),
    ("1970-01-01T00:00:00.0000001Z", 1),  # a part of a microsecond counts as one: the bound is in whole ones
    ("1970-01-01T00:00:00.123456789Z", 123_457),
    ("1969-12-31T23:59:60Z", 0),
    ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
    ("0001-01-01T00:00:00+23:59", -62_135_683_140_000_000),
    ("9999-12-31T23:59:59-23:59", 253_402_387_139_000_000),
]

NO_MOMENTS = [
    "",
    "now",
    "2026-01-31",
    "2026-01-31T12:00:00",  # naive
    "2026-01-31T12:00Z",
    "2026-02-29T12:00:00Z",
    "2026-01-31T25:00:00Z",
    "2026-01-31T12:60:00Z",
    "2026-01-31T12:00:61Z",
    "2026-01-31T12:00:00+24:00",
    "2026-01-31T12:00:00+0100",
    "2026-01-31T12:00:00.Z",
    "2026-01-31T12:00:00Z\n",
    "0000-01-01T00:00:00Z",
    "२०२६-01-31T12:00:00Z",
    "1795475887",
]


@pytest.mark.parametrize(("text", "microseconds"), MOMENTS)
def test_a_moment_is_read_exactly(text: str, microseconds: int) -> None:
    assert Fields({"since": text}).optional_instant("since") == microseconds


@pytest.mark.parametrize("text", NO_MOMENTS)
def test_what_is_not_rfc_3339_with_a_zone_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="since: "):
        Fields({"since": text}).optional_instant("since")


def test_a_moment_is_answered_with_all_digits_and_z() -> None:
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
    with pytest.raises(Malformed):
        fields.parse(body)


def test_the_bounds_themselves_are_allowed() -> None:
    body = Fields({"name": "é" * 100, "cursor": 2**63 - 1, "data": "é" * 50, "list": ["x"]})
    assert body.text("name", longest=100) == "é" * 100
    assert body.integer("cursor", least=0) == 2**63 - 1
    assert body.ciphertext("data", most_bytes=100) == "é" * 50
    assert body.optional_texts("list", most=1, longest=1) == ["x"]
