"""The state survives the process, is private to its owner, and is never written into a foreign file."""

import contextlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from synckit_notify.client import statefile
from synckit_notify.client.errors import StateError
from synckit_notify.client.models import BEGINNING, Account, Device, Position
from synckit_notify.client.queue import SealedEdit
from synckit_notify.client.state import LeftOut, State, Tokens

ALICE = Account("alice", "notes")
TOKENS = Tokens("access-1", "refresh-1", 3600.0, 100.0)
OTHERS = Tokens("access-2", "refresh-2", 3600.0, 200.0)
LAPTOP = Device("d1", "Laptop", "linux", datetime(2026, 1, 31, 12, tzinfo=UTC))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.state"


def fill(state: State) -> None:
    state.bind("http://server", "key")
    state.log_in(ALICE, TOKENS)
    state.keep_device(LAPTOP)
    state.advance(0, Position("e1", 7), "2026-01-31T12:00:00.000000Z")
    state.queue.add("digest", [['{"a":1}', '{"a":2}'], ['{"a":3}']])
    state.queue.add_edits([SealedEdit("version", LAPTOP.created_at, '{"a":4}')])
    state.keep_envelope("an envelope")


def everything(state: State) -> tuple[object, ...]:
    return (
        state.installation_id,
        state.account(),
        state.tokens(),
        state.device(),
        state.position(),
        state.last_sync_time(),
        state.queue.next(),
        state.queue.count(),
        state.queue.answered(),
        state.pushed_to(),
        state.envelope(),
    )


def test_everything_survives_the_process(file: Path) -> None:
    state = State.open(file)
    fill(state)
    before = everything(state)
    state.close()
    again = State.open(file)
    assert everything(again) == before
    assert again.tokens() == TOKENS
    again.close()


def test_a_state_in_memory_works_the_same_and_ends_with_the_process() -> None:
    state, other = State.open(None), State.open(None)
    fill(state)
    assert everything(state)[1:4] == (ALICE, TOKENS, LAPTOP)
    assert state.installation_id != other.installation_id
    assert other.account() is None
    state.close()
    other.close()


def test_the_file_is_readable_by_its_owner_only_from_the_first_moment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    real = sqlite3.connect

    def connect(*args: object, **kwargs: object) -> sqlite3.Connection:
        modes.append(stat.S_IMODE(file.stat().st_mode))
        return real(*args, **kwargs)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(statefile.sqlite3, "connect", connect)
    old = os.umask(0)
    try:
        State.open(file).close()
    finally:
        os.umask(old)
    assert modes == [0o600]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_empty_file_that_others_may_read_is_made_private_before_anything_is_in_it(file: Path) -> None:
    file.touch(0o644)
    State.open(file).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def a_foreign_database(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.commit()
    connection.close()


def a_later_version(file: Path) -> None:
    State.open(file).close()
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {statefile.VERSION + 1}")
    connection.close()


def cut_in_half(file: Path) -> None:
    state = State.open(file)
    fill(state)
    state.close()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwritten_within(file: Path) -> None:
    state = State.open(file)
    fill(state)
    state.close()
    content = bytearray(file.read_bytes())
    content[4096 : 4096 + 2000] = os.urandom(2000)
    content[110:300] = bytes(190)
    file.write_bytes(content)


def without_its_row(file: Path) -> None:
    State.open(file).close()
    connection = sqlite3.connect(file)
    connection.execute("DELETE FROM state")
    connection.commit()
    connection.close()


def a_text(file: Path) -> None:
    file.write_text("my shopping list\n" * 20)


def a_few_bytes(file: Path) -> None:
    file.write_bytes(b"SQLite")


UNUSABLE = [a_foreign_database, a_later_version, cut_in_half, overwritten_within, without_its_row, a_text, a_few_bytes]


@pytest.mark.parametrize("make", UNUSABLE)
def test_a_file_of_another_program_or_a_damaged_one_is_refused_and_left_unchanged(file: Path, make: object) -> None:
    make(file)  # type: ignore[operator]
    file.chmod(0o640)
    before, listing = file.read_bytes(), sorted(file.parent.iterdir())
    with pytest.raises(StateError) as raised:
        State.open(file)
    assert str(raised.value)
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(file.parent.iterdir()) == listing


def a_device(place: Path) -> None:
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null


def a_pipe(place: Path) -> None:
    os.mkfifo(place, 0o666)


def a_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))


def a_folder(place: Path) -> None:
    place.mkdir()


@pytest.mark.parametrize("make", [a_device, a_pipe, a_socket, a_folder])
@pytest.mark.parametrize("way", ["itself", "a link", "beside"])
def test_only_a_regular_file_is_opened_and_the_check_never_blocks(file: Path, make: object, way: str) -> None:
    place = {"itself": file, "a link": file.with_name("elsewhere"), "beside": file.with_name("tasks.state-journal")}[
        way
    ]
    try:
        make(place)  # type: ignore[operator]
    except PermissionError:
        pytest.skip("needs the right to make a device")
    if way == "a link":
        file.symlink_to(place)
    place.chmod(0o666)
    before = place.lstat()
    with pytest.raises(StateError, match=f"{place.name} must be a (regular )?file"):
        State.open(file)
    assert (place.lstat().st_mode, place.lstat().st_ctime_ns) == (before.st_mode, before.st_ctime_ns)


def test_a_link_to_a_file_of_ours_is_followed(file: Path) -> None:
    real = file.with_name("dotfiles")
    file.symlink_to(real)
    for _ in range(2):
        state = State.open(file)
        fill(state)
        state.close()
        assert file.is_symlink()
        assert stat.S_IMODE(real.lstat().st_mode) == 0o600
        real.chmod(0o644)


def test_a_file_of_another_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    State.open(file).close()
    file.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(StateError, match="belongs to another user"):
        State.open(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_opening_a_file_takes_no_lock_from_another_state_of_the_process(file: Path) -> None:
    """Closing any descriptor of a file releases all locks of the process on it (fcntl)."""
    first = State.open(file)
    opened: list[State] = []
    thread = threading.Thread(target=lambda: opened.append(State.open(file)))
    with first._transaction():
        thread.start()
        other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0.3).execute('BEGIN IMMEDIATE')"
        ended = subprocess.run([sys.executable, "-c", other, str(file)], capture_output=True, text=True, timeout=60)
        assert "database is locked" in ended.stderr
    thread.join()
    for state in (first, *opened):
        state.close()


def use_all(state: State) -> None:
    """Call every method, as an app would."""
    state.bind("http://server", "key")
    everything(state)
    state.take_lease("me", 1000.0, 60.0)
    state.release_lease("me")
    state.advance(0, Position("e1", 99), "2026-02-01T00:00:00.000000Z")
    state.replace_tokens("refresh-1", OTHERS)
    state.queue.add("another", [["{}"]])
    if (batch := state.queue.next()) is not None:
        state.queue.take_out(batch, 0)
        state.queue.finish(batch.push_id, 5)
        state.queue.drop(batch.push_id)
        state.queue.forget(batch.push_id)
    state.restart(Position("e1", 7))
    state.queue.discard()


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("intact") / "tasks.state"
    state = State.open(file)
    fill(state)
    state.close()
    return file.read_bytes()


def damaged_and_used(content: bytes) -> None:
    """Use a file with this content; only StateError may be raised."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tasks.state")
        file.write_bytes(content)
        with contextlib.suppress(StateError):
            state = State.open(file)
            try:
                use_all(state)
            finally:
                state.close()


def damages(examples: int) -> Callable[[Any], Any]:
    """Decorate a test with files of which some bytes are overwritten, and which may be truncated."""
    places = st.integers(0, 20_479) | st.integers(0, 300) | st.integers(3_000, 4_700)
    spots = st.lists(st.tuples(places, st.integers(0, 255) | st.sampled_from([0, 1, 127, 128, 255])), max_size=5)
    given = hypothesis.given(spots=spots, end=st.none() | st.integers(0, 20_479))
    slow = [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow]
    limits = hypothesis.settings(max_examples=examples, deadline=None, suppress_health_check=slow)
    return lambda test: limits(given(test))


def check_damage(intact: bytes, spots: list[tuple[int, int]], end: int | None) -> None:
    content = bytearray(intact)
    for place, value in spots:
        content[place % len(content)] = value
    damaged_and_used(bytes(content[:end]))


@damages(60)
def test_each_kind_of_damage_is_a_state_error(intact: bytes, spots: list[tuple[int, int]], end: int | None) -> None:
    check_damage(intact, spots, end)


@pytest.mark.thorough
@damages(500)
def test_each_of_hundreds_of_random_damages_is_a_state_error(
    intact: bytes, spots: list[tuple[int, int]], end: int | None
) -> None:
    check_damage(intact, spots, end)


@pytest.mark.thorough
def test_a_wrong_byte_anywhere_in_the_tables_is_a_state_error(intact: bytes) -> None:
    """Column names may then be invalid UTF-8, and types wrong. Each fifth used byte is changed once."""
    for place in [place for place, value in enumerate(intact) if value][::5]:
        damaged_and_used(intact[:place] + bytes([intact[place] ^ 0xFF]) + intact[place + 1 :])


DAMAGED_ROWS = [
    "UPDATE state SET cursor = 'seven'",
    "UPDATE state SET installation_id = x'ff'",
    "UPDATE state SET access_token = x'00ff'",
    "UPDATE state SET received_at = NULL",
    "UPDATE state SET app_id = NULL",
    "UPDATE state SET last_sync_time = 'yesterday'",
    "UPDATE state SET device_created_at = 'yesterday'",
    "UPDATE state SET device_created_at = NULL",
    "UPDATE state SET lease_until = 'soon'",
    "ALTER TABLE state RENAME COLUMN cursor TO cursos",
    "DROP TABLE pending",
]


@pytest.mark.parametrize("damage", DAMAGED_ROWS)
def test_a_row_that_state_never_wrote_is_refused(file: Path, damage: str) -> None:
    state = State.open(file)
    fill(state)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA ignore_check_constraints = ON; PRAGMA writable_schema = ON; {damage}")
    with pytest.raises(StateError):
        use_all(state)
    state.close()
    with pytest.raises(StateError, match="damaged"):
        State.open(file)


@pytest.mark.parametrize("changes", ["", "{", "7", "null", "[" * 100_000, "[1e999999999999999999999]"])
def test_a_pending_batch_that_cannot_be_read_is_a_state_error(file: Path, changes: str) -> None:
    state = State.open(file)
    fill(state)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE pending SET changes = ?", (changes,))
    with contextlib.suppress(StateError):
        state.queue.next()
    assert state.queue.discard() == 4
    state.close()


def test_a_folder_and_a_missing_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="directory"):
        State.open(tmp_path)
    with pytest.raises(StateError, match="No such file"):
        State.open(tmp_path / "nowhere" / "tasks.state")


def test_a_state_belongs_to_one_api_key(file: Path) -> None:
    state = State.open(file)
    state.bind("http://server", "key")
    state.bind("http://server", "key")
    with pytest.raises(StateError, match="another API key"):
        state.bind("http://server", "other")
    state.close()
    assert b"other" not in file.read_bytes()


def test_a_state_belongs_to_one_server_until_it_is_told_that_the_server_moved(file: Path) -> None:
    state = State.open(file)
    state.bind("http://former", "key", "http://even-before")
    for moved_from in None, "http://unknown":
        with pytest.raises(
            StateError, match=r"belongs to the server http://former, not to http://latter: .*moved_from"
        ):
            state.bind("http://latter", "key", moved_from)
    for _ in range(2):
        state.bind("http://latter", "key", "http://former")
    with pytest.raises(StateError, match="http://latter, not to http://former"):
        state.bind("http://former", "key")
    state.close()


def test_a_log_out_forgets_the_tokens_alone(file: Path) -> None:
    state = State.open(file)
    fill(state)
    before = everything(state)
    state.log_out()
    assert state.tokens() is None
    assert everything(state)[:2] + everything(state)[3:] == before[:2] + before[3:]
    state.close()
    assert b"access-1" not in file.read_bytes()
    assert b"refresh-1" not in file.read_bytes()


def test_the_last_envelope_is_kept(file: Path) -> None:
    state = State.open(file)
    assert state.envelope() is None
    for envelope in "first", "second":
        state.keep_envelope(envelope)
    state.close()
    again = State.open(file)
    assert again.envelope() == "second"
    again.close()


def test_the_api_key_is_kept_as_a_hash_only(file: Path) -> None:
    state = State.open(file)
    state.bind("http://server", "a-key-to-find")
    state.close()
    assert b"a-key-to-find" not in file.read_bytes()


def test_a_state_belongs_to_one_account() -> None:
    state = State.open(None)
    state.log_in(ALICE, TOKENS)
    state.log_in(ALICE, OTHERS)
    with pytest.raises(StateError, match="another account"):
        state.log_in(Account("bob", "notes"), TOKENS)
    assert state.tokens() == OTHERS
    state.close()


def test_tokens_are_only_replaced_by_their_own_successors() -> None:
    """A slow renewal may finish after another one, or after a log-in."""
    state = State.open(None)
    state.log_in(ALICE, OTHERS)
    state.replace_tokens("refresh-1", None)
    assert state.tokens() == OTHERS
    state.replace_tokens("refresh-2", TOKENS)
    assert state.tokens() == TOKENS
    state.replace_tokens("refresh-1", None)
    assert state.tokens() is None
    assert state.account() == ALICE
    state.close()


def test_one_process_holds_the_lease_until_it_is_released_or_expires() -> None:
    state = State.open(None)
    assert state.take_lease("one", 100.0, 60.0)
    assert not state.take_lease("two", 159.0, 60.0)
    assert state.take_lease("one", 159.0, 60.0)
    state.release_lease("two")
    assert not state.take_lease("two", 160.0, 60.0)
    state.release_lease("one")
    assert state.take_lease("two", 160.0, 60.0)
    assert state.take_lease("three", 220.0, 60.0), "a dead holder's runs out"
    assert state.take_lease("four", 10.0, 60.0), "and the clock may be set back"
    state.close()


ADVANCES = {
    "the next part": ((0, 5), (5, 9), 9),
    "one that overlaps": ((0, 5), (3, 9), 9),
    "the same again": ((0, 5), (0, 5), 5),
    "less than is confirmed": ((0, 5), (0, 3), 5),
    "one behind a gap": ((0, 5), (6, 9), 5),
}


@pytest.mark.parametrize("story", ADVANCES)
def test_the_cursor_moves_only_over_changes_that_the_result_contained(story: str) -> None:
    state = State.open(None)
    first, second, cursor = ADVANCES[story]
    for start, end in (first, second):
        state.advance(start, Position("e1", end), None)
    assert state.position() == (Position("e1", cursor), False)
    state.close()


def test_a_result_of_a_replaced_log_confirms_nothing_in_the_new_one() -> None:
    state = State.open(None)
    state.advance(0, Position("e2", 5), None)
    state.advance(0, Position("e1", 9), "2026-01-31T12:00:00.000000Z")
    assert state.position()[0] == Position("e2", 5)
    assert state.last_sync_time() is None
    state.close()


def test_the_last_sync_time_is_set_by_complete_pulls_and_never_decreases() -> None:
    state = State.open(None)
    state.advance(0, Position("e1", 5), "2026-01-31T12:00:00.000000Z")
    state.advance(5, Position("e1", 6), None)
    state.advance(6, Position("e1", 7), "2026-01-30T12:00:00.000000Z")
    assert state.last_sync_time() == datetime(2026, 1, 31, 12, tzinfo=UTC)
    state.close()


def test_a_restart_happens_once_and_ends_when_all_changes_are_confirmed() -> None:
    state = State.open(None)
    state.advance(0, Position("e1", 5), "2026-01-31T12:00:00.000000Z")
    stale = state.position()[0]
    state.restart(stale)
    assert state.position() == (BEGINNING, True)
    assert state.last_sync_time() is None
    state.advance(0, Position("e2", 2), None)
    state.restart(stale)
    assert state.position() == (Position("e2", 2), True)
    state.advance(2, Position("e2", 3), "2026-01-31T13:00:00.000000Z")
    assert state.position() == (Position("e2", 3), False)
    state.close()


def test_the_lowest_change_that_was_left_out_is_kept_with_the_cursor(file: Path) -> None:
    state = State.open(file)
    state.advance(0, Position("e1", 5), None, LeftOut(unreadable=4, locked=3, key_ids=frozenset({"k1", "k2"})))
    state.advance(5, Position("e1", 9), None, LeftOut(unreadable=8, locked=7, key_ids=frozenset({"k1"})))
    state.advance(20, Position("e1", 30), None, LeftOut(unreadable=1, locked=1))
    state.close()
    state = State.open(file)
    state.unlock(frozenset({"k1"}))
    assert state.position()[0] == Position("e1", 9)
    state.unlock(frozenset({"k2"}))
    assert state.position()[0] == Position("e1", 2), "k2 was not here for all of them"
    state.advance(2, Position("e1", 9), None)
    assert state.retry_unreadable()
    assert state.position()[0] == Position("e1", 3)
    assert not state.retry_unreadable()
    state.close()


def test_going_back_never_moves_the_cursor_forward() -> None:
    state = State.open(None)
    state.advance(0, Position("e1", 9), None, LeftOut(unreadable=2, locked=6))
    assert state.retry_unreadable()
    state.unlock(frozenset({"k1"}))
    assert state.position()[0] == Position("e1", 1)
    state.close()


def test_a_restart_forgets_what_was_left_out() -> None:
    state = State.open(None)
    state.advance(0, Position("e1", 9), None, LeftOut(unreadable=2, locked=6))
    state.restart(state.position()[0])
    state.advance(0, Position("e2", 9), None)
    state.unlock(frozenset({"k1"}))
    assert not state.retry_unreadable()
    assert state.position()[0] == Position("e2", 9)
    state.close()


def test_a_file_of_the_first_release_works_with_this_version_and_back(file: Path) -> None:
    """It lacks the tables `left_out` and `edits`; the first release ignores them."""
    state = State.open(file)
    fill(state)
    before = everything(state)
    state.close()
    connection = sqlite3.connect(file)
    for table in "left_out", "edits":
        connection.execute(f"DROP TABLE {table}")
    connection.close()
    state = State.open(file)
    assert everything(state) == before
    assert not state.retry_unreadable()
    state.advance(7, Position("e1", 9), None, LeftOut(unreadable=8))
    state.close()
    connection = sqlite3.connect(file)
    connection.execute("UPDATE state SET cursor = 0, epoch = NULL")  # as the first release restarts
    connection.commit()
    connection.close()
    state = State.open(file)
    state.advance(0, Position("e2", 9), None)
    assert not state.retry_unreadable(), "of another epoch"
    state.close()


def test_pending_batches_come_in_order_and_the_same_push_counts_once() -> None:
    state = State.open(None)
    state.queue.add("first", [["1", "2"], ["3"]])
    state.queue.add("second", [["4"]])
    state.queue.add("first", [["1", "2"], ["3"]])
    sent = []
    while (batch := state.queue.next()) is not None:
        sent.append(batch.changes)
        state.queue.finish(batch.push_id, 10 + len(sent))
    assert sent == [[1, 2], [3], [4]]
    assert state.pushed_to() == 13
    state.queue.add("first", [["1"]])
    assert state.queue.count() == 1, "what was answered may be pushed again"
    assert state.queue.discard() == 1
    assert state.queue.next() is None
    state.close()


def test_no_repr_contains_a_secret() -> None:
    state = State.open(None)
    fill(state)
    for words in map(repr, (state, state.tokens(), state.queue.next())):
        assert not any(secret in words for secret in ("access-1", "refresh-1", "key"))
    state.close()


def test_a_closed_state_raises_a_clear_error() -> None:
    state = State.open(None)
    state.close()
    state.close()
    with pytest.raises(StateError):
        state.tokens()
    with pytest.raises(StateError):
        state.log_in(ALICE, TOKENS)


def test_many_threads_lose_nothing(file: Path) -> None:
    state = State.open(file)

    def work(name: int) -> None:
        for number in range(10):
            state.queue.add(f"{name} {number}", [["1"]])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.queue.count() == 80
    state.close()


WORK = """
import sys
from synckit_notify.client.state import State
state = State.open(sys.argv[1])
state.bind("http://server", "key")
for number in range(25):
    state.queue.add(f"{sys.argv[2]} {number}", [["1"]])
print(state.installation_id)
state.close()
"""


@pytest.mark.thorough
def test_many_processes_make_and_fill_one_file_together(file: Path) -> None:
    command = [sys.executable, "-c", WORK, str(file)]
    cwd = Path(__file__).parents[2]
    workers = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True, cwd=cwd) for number in range(4)
    ]
    installations = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    assert len(installations) == 1
    state = State.open(file)
    assert state.queue.count() == 100
    state.close()
