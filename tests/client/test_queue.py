"""The queue of a state file: edits of a store keep their versions, and the answer until the store knows it."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from synckit_notify.client.errors import StateError
from synckit_notify.client.models import Order
from synckit_notify.client.queue import Batch, Queue, SealedEdit
from synckit_notify.client.state import State

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = AT + timedelta(hours=1)


def edit(version: str, at: datetime = AT) -> SealedEdit:
    return SealedEdit(version, at, f'{{"row_id":"{version}"}}')


@pytest.fixture
def state() -> Iterator[State]:
    state = State.open(None)
    yield state
    state.close()


def next_of(queue: Queue) -> Batch:
    batch = queue.next()
    assert batch is not None
    return batch


def test_a_batch_of_edits_keeps_its_versions(state: State) -> None:
    assert state.queue.add_edits([edit("v1"), edit("v2")])
    batch = next_of(state.queue)
    assert batch.versions == ("v1", "v2")
    assert [change["row_id"] for change in batch.changes] == ["v1", "v2"]
    assert state.queue.count() == 2


def test_the_answer_is_kept_until_it_is_forgotten(state: State) -> None:
    state.queue.add_edits([edit("v1"), edit("v2", LATER)])
    batch = next_of(state.queue)
    state.queue.finish(batch.push_id, 8, AT + timedelta(minutes=1), "d1")
    assert state.queue.next() is None
    (answered,) = state.queue.answered()
    assert answered.orders == {"v1": Order(AT, "d1", 7), "v2": Order(AT + timedelta(minutes=1), "d1", 8)}
    state.queue.forget(batch.push_id)
    assert state.queue.answered() == []
    assert state.pushed_to() == 8


def test_an_answer_of_a_log_that_was_replaced_is_forgotten(state: State) -> None:
    state.queue.add_edits([edit("v1")])
    state.queue.finish(next_of(state.queue).push_id, 8, AT, "d1")
    state.queue.add_edits([edit("v2")])
    state.restart(state.position()[0])
    assert state.queue.answered() == []
    assert next_of(state.queue).versions == ("v2",)
    assert state.queue.count() == 1


def test_a_server_that_does_not_tell_when_it_received_a_batch_counts_as_on_time(state: State) -> None:
    state.queue.add_edits([edit("v1", LATER)])
    state.queue.finish(next_of(state.queue).push_id, 1, None, "d1")
    assert state.queue.answered()[0].orders == {"v1": Order(LATER, "d1", 1)}


def test_the_same_edit_is_queued_once(state: State) -> None:
    assert state.queue.add_edits([edit("v1")])
    assert not state.queue.add_edits([edit("v2"), edit("v1")])
    state.queue.finish(next_of(state.queue).push_id, 1)
    assert not state.queue.add_edits([edit("v1")])
    assert state.queue.next() is None


def test_a_pushed_batch_has_no_versions_and_no_answer(state: State) -> None:
    state.queue.add("digest", [["1"]])
    batch = next_of(state.queue)
    assert batch.versions == ()
    state.queue.finish(batch.push_id, 1, AT, "d1")
    assert state.queue.answered() == []


@pytest.mark.parametrize(("index", "rest"), [(0, ("v2", "v3")), (1, ("v1", "v3")), (2, ("v1", "v2"))])
def test_a_change_is_taken_out_and_the_rest_has_a_new_push_id(state: State, index: int, rest: tuple[str, ...]) -> None:
    state.queue.add_edits([edit("v1"), edit("v2"), edit("v3")])
    before = next_of(state.queue)
    state.queue.take_out(before, index)
    after = next_of(state.queue)
    assert after.versions == rest
    assert tuple(change["row_id"] for change in after.changes) == rest
    assert after.push_id != before.push_id
    state.queue.take_out(before, index)
    assert next_of(state.queue) == after, "it was taken out already"


def test_the_last_change_takes_the_batch_with_it(state: State) -> None:
    state.queue.add_edits([edit("v1")])
    state.queue.take_out(next_of(state.queue), 0)
    assert state.queue.next() is None
    assert state.queue.add_edits([edit("v1")])


def test_what_is_dropped_or_discarded_can_be_queued_again(state: State) -> None:
    for number in range(2):
        assert state.queue.add_edits([edit("v1")])
        if number:
            state.queue.drop(next_of(state.queue).push_id)
        else:
            assert state.queue.discard() == 1
    assert state.queue.add_edits([edit("v1")])


def test_a_batch_that_an_earlier_version_of_the_sdk_sent_can_be_queued_again(tmp_path: Path) -> None:
    """That version removes the batch and knows nothing of its versions; the store learns its place from the log."""
    state = State.open(tmp_path / "tasks.state")
    state.queue.add_edits([edit("v1")])
    connection = sqlite3.connect(tmp_path / "tasks.state")
    connection.execute("DELETE FROM pending")
    connection.commit()
    connection.close()
    assert state.queue.answered() == []
    assert state.queue.add_edits([edit("v1")])
    state.close()


@pytest.mark.parametrize(
    "damage",
    [
        "versions = 'x'",
        "versions = '[[1, 2]]'",
        "versions = '[]', cursor = 'x'",
        'versions = \'[["v1", "yesterday"]]\'',
        "received_at = 'x', cursor = 1",
        "received_at = '2026-01-31', cursor = 1",
        "cursor = x'00'",
    ],
)
def test_damage_is_a_state_error(tmp_path: Path, damage: str) -> None:
    state = State.open(tmp_path / "tasks.state")
    state.queue.add_edits([edit("v1")])
    connection = sqlite3.connect(tmp_path / "tasks.state")
    connection.execute(f"UPDATE edits SET {damage}")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match="damaged"):
        if "cursor" not in damage:
            state.queue.next()
            state.queue.finish("", 0)
            state._connection.execute("UPDATE edits SET cursor = 1")
        state.queue.answered()
    state.close()
