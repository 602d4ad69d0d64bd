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
    "backend.presence",
    "backend.admin.connected",
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
    "runtime.logs:FaultLog",
    "runtime.logs:MAX_FAULTS",
    "gunicorn_hooks:FewAndDiscreet",
    "brokers:Link",
    "brokers.redis:RedisBroker",
    "brokers.listener:Lost",
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
    "client.schedule:passes",
    "client.schedule:Notices.tell",
    "client.schedule:Notices.hurry",
    "client.schedule:MAX_HURRIED_SECONDS",
    "client.lifecycle:CONVICTION",
    "client.encryption:decoded",
    "client.serialization:Page.opened",
    "client.statefile:opened",
    "client.statefile:in_memory",
    "client.responses:REFUSED_ON_THE_WAY",
    "client.foreign_text:WORDS",
    "client.session:LEASE_LOOK_SECONDS",
    "doctor.fixes:roomy",
    "doctor.fixes:patient",
    "doctor.fixes:prompt",
    "doctor.fixes:unlocked",
    "doctor.fixes:unkilled",
    "doctor.fixes:Remedy",
    "doctor.fixes:standing_there",
    "doctor.fixes:changes",
    "doctor.fixes:unbuffered",
    "doctor.fixes:uncompressed",
    "doctor.findings:lasting",
    "doctor.health_checks:detour",
    "doctor.health_checks:Answer.ours",
    "doctor.network:shake_hands",
    "doctor.network:Address.beside",
    "doctor.response:held",
    "doctor.stream:Watch",
    "doctor.stream:StreamRecorder.hear",
    "doctor.stream:StreamRecorder.has_heard_enough",
    "doctor.stream:Ear",
    "doctor.stream:Heard",
    "doctor.health_checks:Tried",
    "backend.rate_limit:admit",
    "backend.rate_limit:WIDER",
    "backend.passwords:everybody",
    "backend.request_limits:seat",
    "backend.request_limits:SMALL",
    "backend.request_fields:Malformed",
    "backend.request_fields:Invalid",
    "backend.accounts:Taken",
    "backend.accounts:Unknown",
    "backend.counters:Counters.clear",
    "backend.counters:SCHEME",
    "backend.database.schema:Step",
    "backend.database.schema:roll_calls",
    "backend.keys:Clash",
    "backend.keys:NoKeys",
    "backend.live:OnlyHere",
    "extension:Notifier.streams",
    "settings:sweep_seconds",
    "backend.admin.queries:names_of",
    "backend.oauth.authorization:asked",
    "backend.oauth.authorization:decided",
    "backend.oauth.authorization:redeemed",
    "backend.oauth.authorization:Asked",
    "backend.oauth.clients:Client.may_be_answered_at",
    "backend.oauth.codes:give",
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
