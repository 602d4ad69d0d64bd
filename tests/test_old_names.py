"""Names that were replaced by the field's standard terms stay gone: modules, classes, functions and constants."""

import importlib
import importlib.util

import pytest

OLD_MODULES = [
    "channel",
    "registry",
    "stream",
    "counts",
    "parking",
    "peer",
    "repair",
    "worker",
    "service",
    "guard",
    "native",
    "periodic",
    "logs",
    "process",
    "per_process",
    "wsgi_server",
    "closing",
    "process_end",
    "brokers.listening",
    "brokers.sending",
    "client.command",
    "client.doctor",
    "client.login",
    "client.masterkey",
    "client.pacing",
    "client.changes",
    "client.wire",
    "doctor.answer",
    "doctor.examination",
    "doctor.reaching",
    "doctor.remedies",
    "doctor.watch",
    "doctor.way",
    "backend.limiting",
    "backend.bodies",
    "backend.fields",
    "backend.rollcall",
    "backend.directory",
    "backend.removal",
    "backend.commands",
]

OLD_NAMES = [
    "node:Worker",
    "app_state:Service",
    "app_state:AppState.worker",
    "streams.channel:End",
    "streams.channel:Ready",
    "streams.channel:Channel.has_heard",
    "streams.counters:Counts",
    "streams.recovery:Repair",
    "streams.parking:Wheel",
    "streams.parking:RELIEF_SECONDS",
    "streams.stream:Stream.look_again",
    "streams.stream:Stream.turn",
    "streams.stream:Stream.due",
    "streams.peers:bound",
    "streams.peers:stop_reading",
    "streams.parking:Parking.ring",
    "runtime.gevent_compat:call",
    "runtime.background:Periodic.settle",
    "runtime.logs:SparingLog",
    "gunicorn_hooks:FewAndDiscreet",
    "brokers:Link",
    "brokers.connection:Lost",
    "brokers.listener:Echo.fresh",
    "brokers.messages:LONGEST_MESSAGE",
    "settings:LONGEST_SECONDS",
    "tokens:LATEST_INSTANT",
    "sse:LONGEST",
    "client.connection:Line",
    "client.connection:checked",
    "client.responses:words",
    "client.responses:parsed",
    "client.lifecycle:Task",
    "client.schedule:FUZZ",
    "client.schedule:LONGEST_PAUSE",
    "doctor.fixes:roomy",
    "doctor.fixes:patient",
    "doctor.fixes:prompt",
    "doctor.fixes:unlocked",
    "doctor.fixes:unkilled",
    "doctor.stream:Ear",
    "doctor.stream:Heard",
    "doctor.health_checks:Tried",
    "backend.rate_limit:admit",
    "backend.passwords:everybody",
    "backend.request_limits:seat",
    "backend.request_fields:Malformed",
    "backend.request_fields:Invalid",
    "backend.oauth.authorization:asked",
    "backend.oauth.authorization:decided",
    "backend.oauth.authorization:redeemed",
]


@pytest.mark.parametrize("module", OLD_MODULES)
def test_an_old_module_is_gone(module: str) -> None:
    name = f"synckit_notify.{module}"
    spec = importlib.util.find_spec(name) if importlib.util.find_spec(name.rpartition(".")[0]) else None
    assert spec is None or spec.origin is None  # a folder that only holds caches of the time before has no origin


@pytest.mark.parametrize("name", OLD_NAMES)
def test_an_old_name_is_gone(name: str) -> None:
    module, _, path = name.partition(":")
    *holders, last = path.split(".")
    found: object = importlib.import_module(f"synckit_notify.{module}")
    for holder in holders:
        found = getattr(found, holder)
    assert not hasattr(found, last)


@pytest.mark.parametrize(
    "name",
    [
        "phases",
        "trials",
        "streams",
        "torture.clock",
        "attack_connections:Swarm",
        "attack_run:suffer",
        "attack_run:Holdings",
        "attack_run:broken",
        "churn:Crowd",
        "churn:Visitor",
        "comparison:SAT1",
        "fairness:Stand",
        "load:EndReason",
        "scale:Crowd",
        "scenarios:Trial",
        "torture.devices:Resident",
    ],
)
def test_an_old_name_of_the_benchmarks_is_gone(name: str) -> None:
    module, _, attribute = name.partition(":")
    if attribute:
        assert not hasattr(importlib.import_module(f"benchmarks.{module}"), attribute)
    else:
        assert importlib.util.find_spec(f"benchmarks.{module}") is None
