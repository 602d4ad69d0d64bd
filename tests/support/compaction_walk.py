"""A random walk of devices over a log that is compacted: they push with wrong clocks, pull page by page, are away,
are restored from copies; at the end each must have exactly the rows of a model that forgets nothing.

Works on any server that answers push and pull: `post` sends a request, the other callables do what an operator does.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Answer = dict[str, Any]
Post = Callable[[str, Any], tuple[int, Any]]
Order = tuple[str, str, int]

DAY = 86_400.0
REPLACED = "the log was replaced after this cursor"
AWAY = "this device was away for too long: pull again from cursor 0, without an epoch, until has_more is false"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Known:
    """The last change of a row that a device knows."""

    order: Order
    op: str
    data: str | None


@dataclass
class Memory:
    """What a device keeps, and what is in a copy of it."""

    rows: dict[str, Known] = field(default_factory=dict)
    cursor: int = 0
    pending: list[Answer] = field(default_factory=list)
    seen: set[str] | None = None
    """The rows met since the device began to read the log at 0; None after its end."""
    is_away: bool = False
    """Whether the device must read the log to its end before it may push."""


class Device:
    """A client of the kind that the protocol asks for: it applies by the one order, and reads again when told so."""

    def __init__(self, walk: "Walk", name: str) -> None:
        self.walk = walk
        self.memory = Memory()
        self.copy = Memory()
        self.error = timedelta(hours=walk.chance.choice([-3, 0, 0, 2]))
        self.id = str(walk.asked("/devices", {"device_name": name, "platform": "linux"})[1]["id"])

    def live(self) -> dict[str, str | None]:
        """Return the rows that the app shows."""
        shown = {row: known.data for row, known in self.memory.rows.items() if known.op != "DELETE"}
        for entry in self.memory.pending:
            if entry["op"] == "DELETE":
                shown.pop(entry["row_id"], None)
            else:
                shown[entry["row_id"]] = entry["data"]
        return shown

    def edit(self) -> None:
        """Make a new row, or change or delete one that is here."""
        chance, walk = self.walk.chance, self.walk
        here = sorted(self.live())
        op = chance.choice(["INSERT", "UPDATE", "UPDATE", "DELETE", "DELETE"]) if here else "INSERT"
        row = walk.new_name("row") if op == "INSERT" else chance.choice(here)
        earlier = [entry["timestamp"] for entry in self.memory.pending if entry["row_id"] == row]
        if row in self.memory.rows:
            earlier.append(self.memory.rows[row].order[0])
        moment = walk.now() + self.error
        if earlier:
            moment = max(moment, datetime.fromisoformat(max(earlier)) + MICROSECOND)
        data = None if op == "DELETE" else walk.new_name("data")
        entry = {"table": "tasks", "op": op, "row_id": row, "timestamp": text(moment), "data": data}
        self.memory.pending.append(entry)

    def push(self) -> None:
        """Send what is pending; read again instead if the server says so."""
        memory, sent = self.memory, self.memory.pending[:3]
        if not sent or memory.is_away:
            return
        status, answer = self.walk.asked("/push", {"device_id": self.id, "changes": sent})
        if status == 409:
            assert answer == {"error": AWAY}
            self.begin_again()
            return
        del memory.pending[:3]
        for seq, entry in enumerate(sent, answer["cursor"] - len(sent) + 1):
            order = min(entry["timestamp"], answer["received_at"]), self.id, seq
            self.walk.model.append((entry["row_id"], Known(order, entry["op"], entry["data"])))
            self.learn(entry["row_id"], Known(order, entry["op"], entry["data"]))

    def pull(self, limit: int, *, latest: bool) -> bool:
        """Apply one page; return whether the device is at the head."""
        memory = self.memory
        if memory.cursor == 0:
            memory.seen = set()
        asked = {"device_id": self.id, "cursor": memory.cursor, "limit": limit, "latest": latest}
        status, answer = self.walk.asked("/pull", asked)
        if status == 409:
            assert answer == {"error": AWAY}
            self.begin_again()
            return False
        for change in answer["changes"]:
            order = change["order_at"], change["device_id"], change["seq"]
            if memory.seen is not None:
                memory.seen.add(change["row_id"])
            self.learn(change["row_id"], Known(order, change["op"], change["data"]))
        memory.cursor = answer["cursor"]
        if answer["has_more"]:
            return False
        if memory.seen is not None:
            gone = memory.rows.keys() - memory.seen
            memory.rows = {row: known for row, known in memory.rows.items() if row in memory.seen}
            memory.pending = [entry for entry in memory.pending if entry["row_id"] not in gone]
            memory.seen = None
        memory.is_away = False
        return True

    def restore(self) -> None:
        """Go back to the copy.

        An edit of a new row that was sent after the copy was made is left out: nobody could tell it from one of a row
        that was never sent.
        """
        pushed = {row for row, _ in self.walk.model}
        self.memory = copy.deepcopy(self.copy)
        known = self.memory.rows
        self.memory.pending = [
            entry for entry in self.memory.pending if entry["row_id"] in known or entry["row_id"] not in pushed
        ]

    def begin_again(self) -> None:
        """Read the log again; copies of before are not used any more.

        The server could not tell one from the device that is reading again, if its cursor was on the same page.
        """
        self.memory.cursor, self.memory.is_away = 0, True
        self.copy = copy.deepcopy(self.memory)

    def learn(self, row: str, change: Known) -> None:
        known = self.memory.rows.get(row)
        if known is None or change.order > known.order:
            self.memory.rows[row] = change
        moment = self.memory.rows[row].order[0]
        self.memory.pending = [
            entry for entry in self.memory.pending if entry["row_id"] != row or entry["timestamp"] > moment
        ]

    def finish(self) -> None:
        """Pull, send and pull until nothing is left to do."""
        for _ in range(200):
            if self.pull(500, latest=self.walk.chance.random() < 0.5) and not self.memory.pending:
                return
            self.push()
        raise AssertionError("the device does not come to an end")


class Walk:
    """Devices, the server, and the model: every change that was ever pushed."""

    def __init__(
        self, seed: int, post: Post, advance: Callable[[float], None], compact: Callable[[int], object]
    ) -> None:
        self.chance = random.Random(seed)
        self.model: list[tuple[str, Known]] = []
        self.counted = {"away": 0, "compactions": 0}
        self._post, self._advance, self._compact = post, advance, compact
        self._elapsed, self._names = 0.0, 0
        self._keeps = [[1, 6, 3, 1], [4, 2, 1, 1]][seed % 2]
        self.devices = [Device(self, name) for name in ("laptop", "phone", "tablet")]

    def now(self) -> datetime:
        return START + timedelta(seconds=self._elapsed)

    def new_name(self, kind: str) -> str:
        self._names += 1
        return f"{kind} {self._names}"

    def asked(self, path: str, body: Any) -> tuple[int, Any]:
        self.pass_time(1.0)
        status, answer = self._post(path, body)
        assert status in (200, 409), answer
        self.counted["away"] += status == 409
        return status, answer

    def pass_time(self, seconds: float) -> None:
        self._elapsed += seconds
        self._advance(seconds)

    def compact(self, keep_days: int) -> None:
        self.counted["compactions"] += 1
        self._compact(keep_days)

    def run(self, moves: int) -> None:
        """Make random moves, then let every device finish, and compare it with the model."""
        for _ in range(moves):
            self.move()
        for _ in range(2):
            for device in self.devices:
                device.finish()
        expected = self.expected()
        for device in self.devices:
            assert device.live() == expected
        late = Device(self, "late")
        late.finish()
        assert late.live() == expected

    def move(self) -> None:
        chance = self.chance
        device = chance.choice(self.devices)
        match chance.choices(range(8), [6, 3, 8, 3, 3, 1, 2, 1])[0]:
            case 0:
                device.edit()
            case 1:
                device.push()
            case 2:
                if device.pull(chance.randint(1, 4), latest=chance.random() < 0.5) and not device.memory.pending:
                    assert device.live() == self.expected()
            case 3:
                self.compact(chance.choices([0, 1, 2, 10], self._keeps)[0])
            case 4:
                self.pass_time(chance.choice([60.0, 3600.0, DAY / 2, 2 * DAY]))
            case 5:
                device.copy = copy.deepcopy(device.memory)
            case 6:
                device.restore()
            case 7:
                asked = {"device_id": device.id, "cursor": 0, "tables": ["tasks"], "confirmed": device.memory.cursor}
                self.asked("/pull", asked)

    def expected(self) -> dict[str, str | None]:
        """Return the rows that are left when of two changes of a row the later in the one order wins."""
        winners: dict[str, Known] = {}
        for row, change in self.model:
            if row not in winners or change.order > winners[row].order:
                winners[row] = change
        return {row: known.data for row, known in winners.items() if known.op != "DELETE"}
