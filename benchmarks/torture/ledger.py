"""What the devices reported and what the database holds, compared.

    record(message) ──▶ attempts, answers, pulled changes, notices
    read(rows)      ──▶ the log, as it is in the database
    judge(now)      ──▶ errors in order and content, each written once; and how stale every device is

A device is correct when it has pulled all changes of its user's other devices in the order of the log, none twice but
after a kill of its process, and when the log has each row that it pushed exactly once.

A device is stale from the commit of a change until it has pulled the change. Of this time only the longest stretch
counts in which no fault affected the device. Three bounds are judged in each stretch:

    paused      the whole stretch: at most the SDK's longest pause
    answered    from the device's first answered request: the answer of a server makes a waiting stream connect again
    connected   while the device's stream is connected: the promise of the protocol

A gap of the broker affects no device in this sense. Measured too: from its end, or from a commit in the seconds after
it, to the pull of each change; for devices whose stream stayed connected, and for others from their first answered
request.
"""

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from synckit_notify.client.lifecycle import GATHER_SECONDS
from synckit_notify.client.stream import DEFAULT_POLICY

PAUSE_SECONDS = DEFAULT_POLICY.cap
"""The most that a device may be stale after the last fault that affected it: the SDK's longest pause."""

BOUND_SECONDS = 10.0
"""The most after the first of its requests that was answered since."""

PROMISED_SECONDS = 5.0
"""The most while its stream is connected and no fault affects it."""


STAYED, RECONNECTED = "connected", "reconnecting"
"""Whether a device's stream was connected from the end of a broker's gap on."""

ANSWERED = frozenset({"device", "pushed", "pulled", "noticed"})
"""What a device reports after a request was answered."""


class Row(NamedTuple):
    """A change as the database has it; `at` is when it was committed, in Unix seconds."""

    user: str
    seq: int
    row: str
    device_id: str
    at: float


@dataclass(slots=True)
class Episode:
    """A fault that struck; `touches` are the networks whose devices it may delay."""

    kind: str
    target: str
    touches: frozenset[int]
    struck: float
    repaired: float | None = None
    permanent: bool = False
    part: str = ""


@dataclass(slots=True)
class Holder:
    """What one device has reported."""

    user: str
    network: int
    id: str = ""
    state: str = ""
    since: float = math.inf
    """When its first stream was connected; before that it need not be up to date."""
    connected: float = math.inf
    """Since when its stream has been connected."""
    answered: list[float] = field(default_factory=list)
    """When requests of it were answered."""
    held: dict[int, tuple[str, float]] = field(default_factory=dict)
    last: int = 0
    forgiven: int = 0
    """Changes up to this `seq` may come again: the process was killed."""
    next: int = 1
    """The first `seq` that has not been judged."""
    new: int = 0
    finished: bool = False
    attempted: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)


class Staleness(NamedTuple):
    """How long a device waited for a change in one stretch; `after` is the last fault before it, if any."""

    seconds: float = 0.0
    device: str = ""
    row: str = ""
    after: str = ""


class Ledger:
    """Everything that devices and database reported; for one thread."""

    def __init__(self, devices: Mapping[str, tuple[str, int]]) -> None:
        self.devices = {name: Holder(user, network) for name, (user, network) in devices.items()}
        self.log: dict[str, list[Row]] = {user: [] for user, _ in devices.values()}
        self.episodes: list[Episode] = []
        self.wrong: list[str] = []
        self.answered: set[str] = set()
        self.counters: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.longest = Staleness()
        self.longest_answered = Staleness()
        self.longest_connected = Staleness()
        self.longest_in_all = Staleness()
        self.after_gap: dict[str, list[Staleness]] = {STAYED: [], RECONNECTED: []}
        """How long each change was waited for after the end of a broker's gap."""
        self.longest_after: defaultdict[str, float] = defaultdict(float)

    @property
    def streams(self) -> int:
        """Return how many devices have a connected stream."""
        return sum(holder.state == "connected" for holder in self.devices.values())

    def record(self, message: Mapping[str, Any]) -> None:
        """Record a message of a client process."""
        if message["is"] == "broken":
            self.wrong.append(message["text"])
            return
        if message["is"] == "ended":
            self._ended(message["network"])
            return
        holder = self.devices[message["device"]]
        if message["is"] in ANSWERED:
            bisect.insort(holder.answered, message["at"])  # a device reports from two threads
        match message["is"]:
            case "device":
                holder.id = message["id"]
            case "pushing":
                holder.attempted.update(message["rows"])
                holder.unanswered.update(message["rows"])
                self.counters["pushes"] += 1
            case "pushed":
                self.answered |= holder.unanswered
                holder.unanswered.clear()
                self.counters["answers"] += 1
            case "pulled":
                self._pulled(message["device"], holder, message["changes"], message["at"])
            case "noticed":
                self.counters["notices"] += 1
                self.counters["spurious notices"] += holder.new == 0
                holder.new = 0
            case "state":
                holder.state = message["state"]
                holder.connected = message["at"] if holder.state == "connected" else math.inf
                holder.since = min(holder.since, holder.connected)
                self.counters[f"streams {message['state']}"] += 1
            case "logged_in":
                self.counters["log-ins"] += 1
            case "trouble":
                self.troubles[message["text"]] += 1
            case "finished":
                holder.finished = True

    def _ended(self, network: int) -> None:
        """Record the end of these devices' process: a page may come again, and a push may never have begun."""
        for holder in self.devices.values():
            if holder.network == network:
                holder.forgiven, holder.state, holder.connected = holder.last, "", math.inf
                holder.unanswered.clear()

    def read(self, rows: Iterable[Row]) -> None:
        """Record new rows of the database, in the order of their numbers."""
        for row in rows:
            log = self.log[row.user]
            if row.seq != len(log) + 1:
                self.wrong.append(f"the log of {row.user} continues with {row.seq} after {len(log)}")
            log.append(row)

    def judge(self, now: float) -> Staleness:
        """Compare every device with the log; return the longest staleness that has not ended yet."""
        present = Staleness()
        for name, holder in self.devices.items():
            log = self.log[holder.user]
            while holder.next <= len(log) and self._settled(name, holder, log[holder.next - 1]):
                holder.next += 1
            if holder.next <= len(log):
                row = log[holder.next - 1]
                present = max(present, self._stale(name, holder, row, now))
        return present

    def complete(self) -> bool:
        """Return whether every device has finished and holds everything."""
        return all(h.finished and h.next > len(self.log[h.user]) for h in self.devices.values())

    def verdict(self) -> list[str]:
        """Return what is wrong at the end; call it after the last `judge`."""
        wrong = list(self.wrong)
        for longest, bound, when in (
            (self.longest, PAUSE_SECONDS, "without a fault"),
            (self.longest_answered, BOUND_SECONDS, "after an answered request"),
            (self.longest_connected, PROMISED_SECONDS, "while connected"),
            (self.longest_after_gap(STAYED), PROMISED_SECONDS, "after a gap of the broker, while connected"),
            (self.longest_after_gap(RECONNECTED), BOUND_SECONDS, "after a gap of the broker, with a reconnect"),
        ):
            if longest.seconds > bound:
                wrong.append(f"stale for more than {bound:g} s {when}: {longest}")
        for name, holder in self.devices.items():
            log = self.log[holder.user]
            if holder.next <= len(log):
                wrong.append(f"{name} lacks {log[holder.next - 1]} and holds {holder.last} of {len(log)}")
            if not holder.finished:
                wrong.append(f"{name} has pushes that were never answered")
            stored = Counter(row.row for row in log if row.device_id == holder.id)
            wrong += [f"{name} pushed {row!r}, the log has it {n} times" for row, n in stored.items() if n > 1]
            wrong += [f"the log has {row!r}, which {name} never pushed" for row in stored.keys() - holder.attempted]
            lost = (holder.attempted & self.answered) - stored.keys()
            wrong += [f"{name} got an answer for {row!r}, which is not stored" for row in lost]
        return wrong

    def longest_after_gap(self, how: str) -> Staleness:
        """Return the longest time from the end of a broker's gap to a pull, of devices that stayed or reconnected."""
        return max(self.after_gap[how], default=Staleness())

    def _pulled(self, name: str, holder: Holder, changes: list[tuple[int, str, bool]], at: float) -> None:
        holder.new += len(changes)
        for seq, row, sound in changes:
            if not sound:
                self.wrong.append(f"{name} pulled {seq} {row!r} with other data than was pushed")
            if seq in holder.held:
                self.counters["repeats after a kill"] += 1
                if seq > holder.forgiven or holder.held[seq][0] != row:
                    self.wrong.append(f"{name} pulled {seq} {row!r} twice")
                continue
            if seq <= holder.last:
                self.wrong.append(f"{name} pulled {seq} {row!r} after {holder.last}")
            holder.held[seq] = row, at
            holder.last = max(holder.last, seq)

    def _settled(self, name: str, holder: Holder, row: Row) -> bool:
        """Judge one row of the log; return False if the device may still pull it."""
        if row.device_id == holder.id:
            if row.seq in holder.held:
                self.wrong.append(f"{name} pulled its own {row.seq} {row.row!r}")
            return True
        held = holder.held.get(row.seq)
        if held is None:
            if row.seq < holder.last:
                self.wrong.append(f"{name} holds {holder.last}, but not {row}")
            return row.seq < holder.last
        if held[0] != row.row:
            self.wrong.append(f"{name} holds {held[0]!r} as {row.seq}, which is {row.row!r}")
        self._stale(name, holder, row, held[1])
        self._measure_gaps(name, holder, row, held[1])
        return True

    def _measure_gaps(self, name: str, holder: Holder, row: Row, until: float) -> None:
        """Measure from the end of each broker's gap, or from a commit soon after it, up to the pull or a fault."""
        begin = max(row.at, holder.since)
        ends = [each.repaired for each in self.episodes if each.part == "broker" and each.repaired is not None]
        for ended in ends:
            since = max(ended, begin)
            if not since < until or since >= ended + BOUND_SECONDS:
                continue
            for start, end, after in self._calms(holder.network, begin, until):
                if start <= since < end:
                    how = STAYED if holder.connected <= since else RECONNECTED
                    answered = since if how == STAYED else self._first_answer(holder, since, end)
                    self.after_gap[how].append(Staleness(end - answered, name, row.row, after))

    def _stale(self, name: str, holder: Holder, row: Row, until: float) -> Staleness:
        """Measure how long a device has waited for a row, and keep the longest time."""
        begin = max(row.at, holder.since)
        stretches = list(self._calms(holder.network, begin, until))
        seconds, after = max((end - start, after) for start, end, after in stretches)
        staleness = Staleness(seconds, name, row.row, after)
        self.longest = max(self.longest, staleness)
        for start, end, fault in stretches:
            answered = end - self._first_answer(holder, start, end)
            connected = end - max(start, holder.connected + GATHER_SECONDS)
            self.longest_answered = max(self.longest_answered, Staleness(answered, name, row.row, fault))
            self.longest_connected = max(self.longest_connected, Staleness(connected, name, row.row, fault))
        self.longest_in_all = max(self.longest_in_all, Staleness(until - begin, name, row.row))
        self.longest_after[after] = max(self.longest_after[after], seconds)
        return staleness

    def _first_answer(self, holder: Holder, start: float, end: float) -> float:
        """Return when the first request of a device in a stretch was answered; its end if none was."""
        found = bisect.bisect_left(holder.answered, start)
        return min(holder.answered[found], end) if found < len(holder.answered) else end

    def _calms(self, network: int, begin: float, end: float) -> Iterator[tuple[float, float, str]]:
        """Yield the stretches in which no fault affected a network, each with the last fault before it."""
        calm_since, last = begin, ""
        for episode in self.episodes:  # in the order in which they struck
            if episode.struck > end:
                break
            if network in episode.touches and (episode.repaired is None or episode.repaired > calm_since):
                if episode.struck > calm_since:
                    yield calm_since, episode.struck, last
                calm_since = end if episode.repaired is None else min(episode.repaired, end)
            last = episode.kind if not episode.permanent else last
        yield calm_since, end, last
