"""The faults: a table of what breaks, for how long, and which devices it may delay; and the thread that applies them.

    one to four faults of different parts, at the same time ──▶ all repaired ──▶ a calm without faults ──▶ the next

The kinds come from a shuffled list, so that each strikes as often as the others. A calm is longer than the bound of
staleness, since staleness is only judged in calms; every fourth is longer than the SDK's longest pause. A permanent
fault strikes once, before all others, and lasts to the end.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from synckit_notify.client.lifecycle import SILENT_PERIODS
from synckit_notify.streams.stream import RECONNECT_MILLISECONDS
from tests.support.broker_servers import ENGINES, REMOTE, LocalServer, RedisServer

from .ledger import BOUND_SECONDS, PAUSE_SECONDS, Episode
from .network import Network
from .processes import Client
from .site import KEEPALIVE_SECONDS, Site

MAX_STEP_SECONDS = 3600
LINE_LIVES = (20.0, 59.0)
"""Seconds after which a line cuts a connection, as many proxies and mobile networks do."""

CALM_SECONDS = (BOUND_SECONDS + 2.0, BOUND_SECONDS + 8.0)
LONG_CALM_SECONDS = (PAUSE_SECONDS + 5.0, PAUSE_SECONDS + 10.0)
ROUNDS_TO_A_LONG_CALM = 4
MAX_AT_ONCE = 4
MAX_RETRY_SECONDS = RECONNECT_MILLISECONDS[1] / 1000
WATCHDOG_SECONDS = SILENT_PERIODS * KEEPALIVE_SECONDS

Strike = Callable[[Site, random.Random], "Hit"]


def nothing(*_: object) -> None:
    """Do nothing: the fault needs no repair."""


class Hit(NamedTuple):
    """What a fault did: its target, how to repair it, and which networks' devices it may delay; None means all."""

    target: str
    repair: Callable[[], object] = nothing
    touches: frozenset[int] | None = None


class Fault(NamedTuple):
    """A kind of fault; two faults of one part never strike together.

    `seconds` is the range of its duration, None for the whole run. `needs` is the database that it needs. `brokers` are
    those that it can strike.
    """

    kind: str
    part: str
    strike: Strike
    seconds: tuple[float, float] | None = (0.0, 0.0)
    needs: str = ""
    brokers: tuple[str, ...] = ENGINES


NO_NETWORKS: frozenset[int] = frozenset()
"""Faults of the broker may delay no device beyond the bound: the sweep replaces its notices."""


def _signal_worker(number: int, repairing: int = 0) -> Strike:
    def strike(site: Site, chance: random.Random) -> Hit:
        server = chance.choice(site.servers)
        worker = chance.choice(server.workers())
        server.signal_worker(number, worker)
        return Hit(f"{server.name}, process {worker}", lambda: server.signal_worker(repairing, worker))

    return strike


def _kill_master(site: Site, chance: random.Random) -> Hit:
    server = chance.choice(site.servers)
    server.signal(signal.SIGKILL)
    return Hit(server.name, server.start)


def _reload_master(site: Site, chance: random.Random) -> Hit:
    server = chance.choice(site.servers)
    server.signal(signal.SIGHUP)
    return Hit(server.name, server.wait_until_it_serves)


def _kill_broker(site: Site, chance: random.Random) -> Hit:
    site.broker.kill()
    return Hit("broker", site.broker.start, NO_NETWORKS)


def _hang_broker(site: Site, chance: random.Random) -> Hit:
    assert not isinstance(site.broker, LocalServer)
    site.broker.pause()
    return Hit("broker", site.broker.resume, NO_NETWORKS)


def _flush_broker(site: Site, chance: random.Random) -> Hit:
    assert isinstance(site.broker, RedisServer)
    site.broker.flush_all()
    return Hit("broker", touches=NO_NETWORKS)


def _cut_subscribers(site: Site, chance: random.Random) -> Hit:
    site.broker.cut_listeners()
    return Hit("broker", touches=NO_NETWORKS)


def _cut_senders(site: Site, chance: random.Random) -> Hit:
    site.broker.cut_senders()
    return Hit("broker", touches=NO_NETWORKS)


def _on_network(begin: Callable[[Network], object], end: Callable[[Network], object] = nothing) -> Strike:
    def strike(site: Site, chance: random.Random) -> Hit:
        number = chance.randrange(len(site.networks))
        begin(site.networks[number])
        return Hit(f"network {number}", lambda: end(site.networks[number]), frozenset({number}))

    return strike


def _on_client(begin: Callable[[Client], object], end: Callable[[Client], object] = nothing) -> Strike:
    def strike(site: Site, chance: random.Random) -> Hit:
        number = chance.randrange(len(site.clients))
        begin(site.clients[number])
        return Hit(f"client {number}", lambda: end(site.clients[number]), frozenset({number}))

    return strike


def _lock_database(site: Site, chance: random.Random) -> Hit:
    return Hit("database", site.lock_database())


def _stop_database_and_reload(site: Site, chance: random.Random) -> Hit:
    """Start new workers while the database is stopped, as after a power failure."""
    server = chance.choice(site.servers)
    start = site.stop_database()
    server.signal(signal.SIGHUP)

    def repair() -> None:
        start()
        for each in site.servers:
            each.wait_until_it_serves()

    return Hit(f"database, {server.name}", repair)


def _step_clock(site: Site, chance: random.Random) -> Hit:
    """Set the servers' clock wrong; the repair sets it right."""
    seconds = chance.choice((-1, 1)) * chance.randint(1, MAX_STEP_SECONDS)
    site.clock.step(seconds)
    return Hit(f"clock {seconds:+} s", lambda: site.clock.step(0), NO_NETWORKS)


def _age_line(site: Site, chance: random.Random) -> Hit:
    """Let one network cut every connection at a certain age."""
    number = chance.randrange(len(site.networks))
    network = site.networks[number]
    network.limit_age(*LINE_LIVES)
    return Hit(f"network {number}", network.forget_age, NO_NETWORKS)


def _log_out(site: Site, chance: random.Random) -> Hit:
    return Hit(site.log_out(chance))


DRAINED = (MAX_RETRY_SECONDS, MAX_RETRY_SECONDS)
"""A draining server asks its clients to stay away for so long; until then it counts as not repaired."""

NOTICED = (WATCHDOG_SECONDS, WATCHDOG_SECONDS)
"""A device notices a stream that died silently only by its watchdog."""

FAULTS = (
    Fault("worker killed", "server", _signal_worker(signal.SIGKILL)),
    Fault("worker paused", "server", _signal_worker(signal.SIGSTOP, signal.SIGCONT), (1.0, 10.0)),
    Fault("worker TERM", "server", _signal_worker(signal.SIGTERM), DRAINED),
    Fault("master killed, started again", "server", _kill_master, (0.0, 3.0)),
    Fault("master HUP", "server", _reload_master, DRAINED),
    Fault("broker killed, started again", "broker", _kill_broker, (0.5, 6.0)),
    Fault("broker paused", "broker", _hang_broker, (1.0, 12.0), brokers=REMOTE),
    Fault("broker FLUSHALL", "broker", _flush_broker, brokers=("redis",)),
    Fault("broker's subscribers disconnected", "broker", _cut_subscribers),
    Fault("broker's senders disconnected", "broker", _cut_senders),
    Fault("network resets connections", "network", _on_network(Network.cut)),
    Fault("network refuses connections", "network", _on_network(Network.refuse, Network.accept), (1.0, 6.0)),
    Fault("network delays streams", "network", _on_network(Network.hold, Network.release), (1.0, 8.0)),
    Fault("network silent, then reset", "network", _on_network(Network.fall_silent, Network.recover), (1.0, 15.0)),
    Fault(
        "network loses responses, then reset", "network", _on_network(Network.lose_answers, Network.recover), (1.0, 8.0)
    ),
    Fault("network forgets streams", "network", _on_network(Network.forget_streams), NOTICED),
    Fault("client's sockets shut down", "client", _on_client(Client.sever)),
    Fault("client killed, started again", "client", _on_client(Client.kill, Client.start), (0.0, 2.0)),
    Fault("client paused", "client", _on_client(Client.pause, Client.resume), (1.0, 12.0)),
    Fault("database locked", "database", _lock_database, (1.0, 8.0)),
    Fault("user logged out", "database", _log_out),
    Fault("database stopped during a reload", "database", _stop_database_and_reload, (2.0, 10.0), needs="postgresql"),
    Fault("clock of the servers wrong by up to an hour", "clock", _step_clock, (5.0, 15.0)),
    Fault("network cuts every connection after 20 to 59 s", "line", _age_line, None),
)


class Chaos(threading.Thread):
    """A thread that applies faults until `stop`; every fault is repaired before it ends."""

    def __init__(self, site: Site, episodes: list[Episode], faults: Sequence[Fault], seed: int) -> None:
        super().__init__(name="chaos", daemon=True)
        self.failures: list[str] = []
        self._site, self._episodes, self._faults = site, episodes, faults
        self._random = random.Random(seed)
        self._shuffled: list[Fault] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop, and return when every fault is repaired."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Apply faults, wait until all are repaired, and begin again after a calm."""
        permanent = self._begin([fault for fault in self._faults if fault.seconds is None])
        rounds = 0
        while not self._stopping.wait(self._random.uniform(*self._calm(rounds))):
            for each in self._begin(self._next_faults()):
                each.join()
            rounds += 1
        for each in permanent:
            each.join()

    def _calm(self, rounds: int) -> tuple[float, float]:
        return LONG_CALM_SECONDS if rounds and rounds % ROUNDS_TO_A_LONG_CALM == 0 else CALM_SECONDS

    def _begin(self, faults: Sequence[Fault]) -> list[threading.Thread]:
        begun = [threading.Thread(target=self._episode, args=(fault, self._random.random())) for fault in faults]
        for each in begun:
            each.start()
        return begun

    def _next_faults(self) -> list[Fault]:
        """Take the next kinds of different parts out of the shuffled list."""
        chosen: list[Fault] = []
        passing = [fault for fault in self._faults if fault.seconds is not None]
        for _ in range(self._random.randint(1, MAX_AT_ONCE)):
            if not self._shuffled:
                self._shuffled = self._random.sample(passing, len(passing))
            taken = {fault.part for fault in chosen}
            fault = next((fault for fault in self._shuffled if fault.part not in taken), None)
            if fault is not None:
                self._shuffled.remove(fault)
                chosen.append(fault)
        return chosen

    def _episode(self, fault: Fault, seed: float) -> None:
        chance = random.Random(seed)
        struck = time.time()
        try:
            hit = fault.strike(self._site, chance)
            touches = frozenset(range(len(self._site.networks))) if hit.touches is None else hit.touches
            episode = Episode(fault.kind, hit.target, touches, struck, permanent=fault.seconds is None, part=fault.part)
            self._episodes.append(episode)
            self._stopping.wait(threading.TIMEOUT_MAX if fault.seconds is None else chance.uniform(*fault.seconds))
            hit.repair()
            episode.repaired = time.time()
        except Exception as error:
            self.failures.append(f"{fault.kind}: {type(error).__name__}: {error}")
