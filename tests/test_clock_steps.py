"""A wall clock that is stepped by an hour, either way: no change is lost, and no channel is woken repeatedly."""

import random
from collections.abc import Iterator
from datetime import datetime

import pytest

from synckit_notify.errors import TooManyStreams
from synckit_notify.streams.channel import ChannelKey, Subscriber
from synckit_notify.streams.recovery import Sweep
from synckit_notify.streams.registry import Registry

HOUR = 3600.0
PERIOD = 3.0
COMMIT_TAKES = 1.5


class World:
    """A host with a log, a process that listens, and two clocks: one is steady, the other one is stepped."""

    def __init__(self) -> None:
        self.steady, self.ahead = 50.0, 1_790_000_000.0
        self.log: dict[ChannelKey, tuple[float, float]] = {}
        """For each channel the time of its newest change, and when by the steady clock that was committed."""
        self.registry = Registry(clock=lambda: self.wall)
        self.sweep = Sweep(
            self.registry, self.changed_channels, clock=lambda: self.wall, steady_clock=lambda: self.steady
        )

    @property
    def wall(self) -> float:
        return self.steady + self.ahead

    def changed_channels(self, since: datetime) -> Iterator[tuple[ChannelKey, float]]:
        for key, (changed_at, committed) in self.log.items():
            if changed_at >= since.timestamp() and committed <= self.steady:
                yield key, changed_at

    def push(self, key: ChannelKey, *, told: bool, takes: float = 0.0) -> None:
        """Store a change, with a time as the included server gives it; its notice comes here or is lost."""
        previous = self.log.get(key, (None, 0.0))[0]
        changed_at = self.wall if previous is None else max(self.wall, previous + 1e-6)
        self.log[key] = changed_at, self.steady + takes
        if told:
            self.registry.deliver(key, "laptop", changed_at=changed_at, previous_at=previous)

    def pass_time(self, seconds: float = PERIOD) -> None:
        self.steady += seconds
        self.sweep.run()


@pytest.fixture
def world() -> World:
    return World()


def woken(subscriber: Subscriber) -> int:
    return subscriber.take().count(b"changed")


STEPS = pytest.mark.parametrize("step", [-HOUR, HOUR, -7.0, 7.0])


@STEPS
def test_a_channel_that_changed_before_a_clock_step_is_woken_at_most_once(world: World, step: float) -> None:
    told, early, late = (ChannelKey("notes", user) for user in ("told", "early", "late"))
    streams = [world.registry.subscribe(key, "phone") for key in (told, early)]
    for key in (told, early, late):
        world.push(key, told=key is told)
        world.pass_time()
    for stream in streams:
        woken(stream)
    world.ahead += step
    streams.append(world.registry.subscribe(late, "phone"))
    for _ in range(100):
        world.pass_time()
    assert all(woken(stream) <= 1 for stream in streams)


@STEPS
def test_a_push_wakes_every_other_device_once_and_not_its_own(world: World, step: float) -> None:
    key = ChannelKey("notes", "alice")
    laptop, phone = world.registry.subscribe(key, "laptop"), world.registry.subscribe(key, "phone")
    world.push(key, told=True)
    world.pass_time()
    woken(phone)
    world.ahead += step
    for _ in range(20):
        world.push(key, told=True)
        world.pass_time()
        assert (woken(laptop), woken(phone)) == (0, 1)


@STEPS
@pytest.mark.parametrize("before", [0.0, 0.5, 2.9, 10.0])
def test_a_change_whose_notice_is_lost_is_found_by_the_sweep_after_its_commit(
    world: World, step: float, before: float
) -> None:
    """The change is stored before the step or after it, and committed in between or later."""
    for takes in (0.0, COMMIT_TAKES):
        for first in ("change", "step"):
            key = ChannelKey("notes", f"{takes} {first}")
            phone = world.registry.subscribe(key, "phone")
            for _ in range(3):
                world.pass_time()
            world.steady += before % PERIOD
            if first == "step":
                world.ahead += step
            world.push(key, told=False, takes=takes)
            if first == "change":
                world.ahead += step
            woken(phone)
            world.steady = world.log[key][1]
            world.pass_time()
            assert woken(phone) == 1, (takes, first)


def test_many_clock_steps_and_lost_notices_lose_no_change(world: World) -> None:
    chance = random.Random(12)
    keys = [ChannelKey("notes", str(number)) for number in range(20)]
    streams = {key: world.registry.subscribe(key, "phone") for key in keys}
    for _ in range(2_000):
        if chance.random() < 0.1:
            world.ahead += chance.choice([-HOUR, HOUR, -5.0, 5.0])
        pushed = chance.sample(keys, 3)
        for key in pushed:
            woken(streams[key])
            world.push(key, told=chance.random() < 0.5)
        world.pass_time(chance.uniform(1.0, 5.0))
        assert all(woken(streams[key]) >= 1 for key in pushed)


def test_a_hook_that_lists_every_change_wakes_no_channel_repeatedly() -> None:
    key, now = ChannelKey("notes", "alice"), [1000.0]
    registry = Registry(clock=lambda: now[0])
    phone = registry.subscribe(key, "phone")
    sweep = Sweep(registry, lambda since: [(key, 1001.0), (key, 1002.0), (key, 1003.0)])
    now[0] = 100.0
    for _ in range(50):
        sweep.run()
    assert woken(phone) <= 3


def test_a_hook_that_fails_is_called_again_with_the_same_time(world: World) -> None:
    key = ChannelKey("notes", "alice")
    phone = world.registry.subscribe(key, "phone")
    away = True

    def changed_channels(since: datetime) -> list[tuple[ChannelKey, float]]:
        if away:
            raise TooManyStreams("as a database that is away", status=503)
        return list(world.changed_channels(since))

    world.sweep = Sweep(world.registry, changed_channels, clock=lambda: world.wall, steady_clock=lambda: world.steady)
    world.push(key, told=False)
    for _ in range(400):
        world.pass_time()
    away = False
    world.pass_time()
    assert woken(phone) == 1
