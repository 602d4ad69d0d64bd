"""Three devices, any interleaving of edits, outages, crashes, wrong clocks and restores: equal tables in the end.

Each walk is a list of random steps from a seed, which a failure names. `edits` are the steps that change rows; the
others disturb. No edit is undone by one that its device had seen. A device that was silent for 200 days, in which the
server forgot deletions, revives no row and loses none that is new.
"""

import os
from pathlib import Path

import pytest

from ...support.store_walk import HOUR, Device, LinkedWorld, World

QUIET = ("edit", "edit", "edit", "sync", "sync", "busy", "outage", "crash", "clock", "unrecorded", "compact")
SERVER = (*QUIET, "server backup", "server restore")
ALL = (*SERVER, "copy", "copy", "app restore", "state restore", "clone")
SILENT = (*QUIET, "silence", "late push")
OWN_COPIES = ("copy", "copy", "own app restore", "own state restore", "own restore")
SILENT_COPIES = (*QUIET, "silence", *OWN_COPIES)
SILENT_SERVER = (*SERVER, "silence", *OWN_COPIES)
"""Two machines with one device id stay in step only while no deletion is forgotten. So each has its own copies here."""

SEEDS = int(os.environ.get("SEEDS", "3"))
"""The number of seeds, at most 10, of each thorough test; with 10 there are 1,200 walks."""


def step(world: World, device: Device, kind: str) -> None:
    random = world.random
    world.tick()
    match kind:
        case "edit" | "unrecorded":
            world.edit(device, random.choice("abc"), is_recorded=kind == "edit")
        case "sync":
            device.sync()
        case "busy":

            def meanwhile() -> None:
                world.tick()
                if random.random() < 0.3:
                    world.edit(device, random.choice("abc"))

            device.sync(meanwhile=meanwhile, faults=random.choices(["", "", "unanswered"], k=4))
        case "compact":
            world.log.compact()
        case "outage":
            device.sync(faults=random.choices(["", "", "lost", "unanswered"], k=4))
        case "crash":
            device.sync(die_at=random.randint(1, 120), faults=random.choices(["", "", "", "unanswered"], k=4))
        case "clock":
            device.error += random.choice([-3, -1, 1, 3]) * HOUR
        case "server backup":
            world.backup = world.log.backup()
        case "server restore":
            world.log.restore(world.backup)
        case "copy":
            world.copy(device)
        case "app restore":
            world.restore(device, app=True, state=False)
        case "state restore":
            world.restore(device, app=False, state=True)
        case "clone":
            world.restore(device, app=True, state=True)
        case "own app restore":
            world.restore(device, app=True, state=False, is_own=True)
        case "own state restore":
            world.restore(device, app=False, state=True, is_own=True)
        case "own restore":
            world.restore(device, app=True, state=True, is_own=True)
        case "silence":
            world.leave_alone(device)
        case "late push":  # a process that was asleep sends before it pulls
            device.sync(sends_first=True)


def walk(folder: Path, seed: int, steps: tuple[str, ...], length: int) -> None:
    world = World(folder, seed)
    try:
        for _ in range(length):
            step(world, world.random.choice(world.devices), world.random.choice(steps))
        world.settle()
        winners = world.log.winners()
        expected = sorted(
            (change.row_id, change.data["title"], change.data["done"]) for change in winners.values() if change.data
        )
        for device in world.devices:
            assert device.rows("tasks") == expected
        rows = {row for row, *_ in expected}
        if steps in (QUIET, SILENT, SILENT_COPIES):
            assert not rows & world.deleted_rows
        if steps in (QUIET, SILENT):
            assert rows >= world.new_rows
        require_no_edit_undone(world, steps)
    finally:
        world.close()


def linked_walk(folder: Path, seed: int, steps: tuple[str, ...], length: int) -> None:
    """Walk with rows that clash and that refer to each other: equal tables, without orphans."""
    world = LinkedWorld(folder, seed)
    try:
        for _ in range(length):
            step(world, world.random.choice(world.devices), world.random.choice(steps))
        world.settle()
        tables = [
            (device.rows("lists", "id, name"), device.rows("tasks", "id, title, position, list_id, parent_id"))
            for device in world.devices
        ]
        assert tables[0] == tables[1] == tables[2]
    finally:
        world.close()


def require_no_edit_undone(world: World, steps: tuple[str, ...]) -> None:
    """Require that the winner of a row is not a change that the device of another edit of it had seen."""
    sent = {change.data["title"] for change in world.log.changes if change.data}
    # a file that was restored has lost the edits that it did not send
    edits = [edit for edit in world.edits if "copy" not in steps or edit.id in sent]
    followed = {known for edit in edits for known in edit.past}
    winners = world.log.winners()
    for edit in edits:
        winner = winners.get(("tasks", edit.row))
        if winner is None or edit.id in followed or (edit.is_deletion and winner.op == "DELETE"):
            continue
        assert world.uid(winner) not in edit.past, edit
        if steps in (QUIET, SILENT) and winner.data:
            assert winner.data["title"] not in edit.past, edit


WALKS = {
    "no restores": QUIET,
    "server restores": SERVER,
    "all restores": ALL,
    "silence": SILENT,
    "silence and copies": SILENT_COPIES,
    "silence and server restores": SILENT_SERVER,
}


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("steps", WALKS.values(), ids=WALKS)
def test_devices_end_with_equal_tables(tmp_path: Path, seed: int, steps: tuple[str, ...]) -> None:
    walk(tmp_path, seed, steps, 40)


@pytest.mark.parametrize("seed", range(11))
@pytest.mark.parametrize(
    "steps", [QUIET, ALL, SILENT_COPIES], ids=["no restores", "all restores", "silence and copies"]
)
def test_rows_that_clash_and_refer_to_each_other_end_equal(tmp_path: Path, seed: int, steps: tuple[str, ...]) -> None:
    linked_walk(tmp_path, seed, steps, 40)


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("steps", WALKS.values(), ids=WALKS)
def test_devices_end_with_equal_tables_in_hundreds_of_walks(tmp_path: Path, part: int, steps: tuple[str, ...]) -> None:
    for seed in range(1000 + part * 10, 1000 + part * 10 + SEEDS):
        for walking in walk, linked_walk:
            folder = tmp_path / f"{walking.__name__}-{seed}"
            folder.mkdir()
            walking(folder, seed, steps, 80)
