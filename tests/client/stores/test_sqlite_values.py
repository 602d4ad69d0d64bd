"""Keys and values of SQLite as JSON: there and back, and never two keys with one row id."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synckit_notify.client.stores.sqlite_values import digest, from_json, key_of, row_id_of, to_json

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.one_of(
    texts,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(),
)
types = st.sampled_from(["TEXT", "VARCHAR(36)", "INTEGER", "BLOB", "", "NUMERIC", "UUID"])
keys = st.lists(st.tuples(values, types), min_size=1, max_size=3)


def same(one: Any, other: Any) -> bool:
    """Return whether two keys are equal in value and type: to SQLite, 1 and '1' are two keys."""
    return bool(one == other) and [*map(type, one)] == [*map(type, other)]


@given(keys)
def test_a_key_comes_back_from_its_row_id(key: list[tuple[Any, str]]) -> None:
    columns, kinds = tuple(value for value, _ in key), [kind for _, kind in key]
    assert same(key_of(row_id_of(columns, kinds), kinds), columns)


@given(values, values, types)
def test_two_keys_have_two_row_ids(one: Any, other: Any, kind: str) -> None:
    assert (row_id_of((one,), [kind]) == row_id_of((other,), [kind])) is same((one,), (other,))


@given(values | st.none())
def test_a_value_comes_back_from_its_json(value: Any) -> None:
    again = from_json(json.loads(json.dumps(to_json(value))))
    assert same((again,), (value,))
    assert digest([again]) == digest([value])


@given(st.lists(values | st.none()), st.lists(values | st.none()))
def test_two_contents_have_two_digests(one: list[Any], other: list[Any]) -> None:
    assert (digest(one) == digest(other)) is (same(one, other) and repr(one) == repr(other))


@pytest.mark.parametrize(
    ("found", "value"),
    [(True, 1), (False, 0), ([1, "a"], '[1, "a"]'), ({"a": None}, '{"a": null}'), ({"$int": "7"}, 7), ({"$int": 7}, 7)],
)
def test_values_that_only_other_writers_send(found: Any, value: Any) -> None:
    assert from_json(found) == value


@pytest.mark.parametrize(
    "found", [2**63, {"$int": "x"}, {"$int": str(2**63)}, {"$blob": "*"}, {"$blob": 1}, {"$blob": None}, float("inf")]
)
def test_values_that_cannot_be_stored(found: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        from_json(found)


@pytest.mark.parametrize("row_id", ["a", "[1", "[1]", "[1,2,3]", '{"a":1}', '["a",1e999]'])
def test_a_row_id_of_another_kind_of_key(row_id: str) -> None:
    with pytest.raises(ValueError, match="must"):
        key_of(row_id, ["TEXT", "INT"])


@pytest.mark.parametrize("row_id", ["[null]", '["a",null]', '["\\ud800"]', '["a",1e400]', '["a",{"$blob":"*"}]'])
def test_a_row_id_that_is_no_key_is_a_value_error(row_id: str) -> None:
    with pytest.raises(ValueError, match=r"must|surrogates"):
        key_of(row_id, ["TEXT"] * len(json.loads(row_id)))
