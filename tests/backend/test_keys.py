"""The envelope of the master key: created once, replaced only by a request with its version."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ..support.backend import Caller


def test_an_envelope_is_returned_unchanged_with_its_version(alice: Caller) -> None:
    envelope = '{"v": 1, "salt": "ü\u2028💩"}\n'
    assert alice.put("/keys", {"envelope": envelope}) == (200, {"version": 1})
    assert alice.get("/keys") == (200, {"envelope": envelope, "version": 1})


def test_without_an_envelope_get_and_replace_are_404(alice: Caller) -> None:
    assert alice.get("/keys") == (404, {"error": "there is no envelope yet"})
    assert alice.put("/keys", {"envelope": "e", "expected_version": 1}) == (404, {"error": "there is no envelope yet"})


def test_without_an_expected_version_put_only_creates(alice: Caller) -> None:
    alice.put("/keys", {"envelope": "first"})
    status, answer = alice.put("/keys", {"envelope": "second"})
    assert status == 409
    assert answer["error"].startswith("an envelope is stored already")
    assert alice.get("/keys")[1] == {"envelope": "first", "version": 1}


def test_with_an_expected_version_put_replaces_only_that_version(alice: Caller) -> None:
    alice.put("/keys", {"envelope": "first"})
    assert alice.put("/keys", {"envelope": "second", "expected_version": 1}) == (200, {"version": 2})
    for stale in (1, 3, 2**63 - 1):
        status, answer = alice.put("/keys", {"envelope": "third", "expected_version": stale})
        assert (status, answer) == (409, {"error": "expected_version: the stored envelope has version 2"})
    assert alice.get("/keys")[1] == {"envelope": "second", "version": 2}


def test_each_user_has_one_per_app(alice: Caller, as_user: Callable[..., Caller]) -> None:
    for number, caller in enumerate((alice, as_user("bob"), as_user("alice", "mail"))):
        assert caller.get("/keys")[0] == 404
        assert caller.put("/keys", {"envelope": f"envelope {number}"}) == (200, {"version": 1})
    assert alice.get("/keys")[1]["envelope"] == "envelope 0"


@pytest.mark.parametrize("fields", [{}, {"expected_version": 1}])
def test_one_of_many_concurrent_puts_is_stored(alice: Caller, fields: dict[str, int]) -> None:
    if fields:
        alice.put("/keys", {"envelope": "old"})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: alice.put("/keys", {"envelope": str(number)} | fields), range(8)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    (winner,) = [number for number, (status, _) in enumerate(answers) if status == 200]
    assert alice.get("/keys")[1]["envelope"] == str(winner)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"envelope": None}, "envelope: is missing"),
        ({"envelope": ""}, "envelope: must not be empty"),
        ({"envelope": {"v": 1}}, "envelope: must be a string"),
        ({"envelope": "x" * 4097}, "envelope: must have at most 4096 characters"),
        ({"envelope": "é" * 2049}, "envelope: must have at most 4096 bytes"),
        ({"envelope": "\0"}, "envelope: must not contain NUL or lone surrogates"),
        ({"expected_version": 0}, "expected_version: must be from 1 to 9223372036854775807"),
        ({"expected_version": "1"}, "expected_version: must be an integer"),
    ],
)
def test_keys_out_of_bounds_name_the_field(alice: Caller, fields: dict[str, Any], sentence: str) -> None:
    assert alice.put("/keys", {"envelope": "e"} | fields) == (422, {"error": sentence})


@pytest.mark.parametrize("envelope", ["x" * 4096, "é" * 2048])
def test_the_largest_envelope_is_stored_unchanged(alice: Caller, envelope: str) -> None:
    assert alice.put("/keys", {"envelope": envelope})[0] == 200
    assert alice.get("/keys")[1]["envelope"] == envelope
