"""What `flask synckit doctor` examines: one Finding for each setting, hook, broker and process that matters.

It asks in this order, calls the host's hooks as a server would, and talks to the other processes over the broker. It
prints nothing, and no finding holds a key, a password or a token.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from . import brokers
from .app_state import AppState
from .brokers import Broker
from .brokers.survey import ask
from .errors import HookFailed, KeysUnavailable
from .streams.recovery import SWEEP_OVERLAP
from .tokens import TokenVerifier

ALONE = (
    "memory:// connects no processes: set SYNCKIT_BROKER_URL to one broker for the servers and this command, or read "
    "the number of streams of one process from its route /ready"
)
_UNREACHABLE = (
    "check that the broker runs, that SYNCKIT_BROKER_URL has its address and password, and that this user may "
    "publish and subscribe"
)
_UNUSABLE_FOLDER = (
    "the log line above says what is wrong with the folder: correct it, or set SYNCKIT_BROKER_URL to another broker"
)
NO_ANSWER = "no streams: no process answered, and a process answers from its first stream on"


class Finding(NamedTuple):
    """One line of the doctor: `ok`, `warn` or `FAIL`, what was found, and for the latter two what to do."""

    verdict: str
    what: str
    advice: str = ""


def examine(app_state: AppState) -> Iterator[Finding]:
    """Yield the findings one by one; waits for hooks, the broker, and the answers of other processes."""
    yield from _settings(app_state)
    yield from _hooks(app_state)
    broker = brokers.connect(*app_state.broker_address)
    try:
        yield from _broker(broker)
    finally:
        broker.close()


def advice_for(broker: Broker) -> str:
    """Return what to do if a broker does not work, without a full stop."""
    return _UNUSABLE_FOLDER if broker.name == "local" else _UNREACHABLE


def _settings(app_state: AppState) -> Iterator[Finding]:
    settings = app_state.settings
    yield Finding("ok", f"routes: {settings.url_prefix}/subscribe, /live and /ready")
    yield Finding(
        "ok",
        f"periods: keepalive {settings.keepalive_seconds:g} s, sweep {settings.sweep_seconds:g} s, "
        f"maximum age of a stream {_or_none(settings.max_stream_seconds)}",
    )
    if settings.verifier is None:
        yield Finding("ok", "tokens: checked by the hook authenticate")
    else:
        yield _tokens(settings.verifier)


def _tokens(verifier: TokenVerifier) -> Finding:
    what = f"tokens: {verifier.describe()}"
    try:
        verifier.check()
    except KeysUnavailable:
        advice = "Servers that have no keys yet answer 503. The log line above names the reason."
        return Finding("FAIL", f"{what}: no keys", advice)
    return Finding("ok", what)


def _hooks(app_state: AppState) -> Iterator[Finding]:
    hooks, calls = app_state.hooks, app_state.calls
    if hooks.valid_since is None:
        yield Finding(
            "warn",
            "hook valid_since: not set",
            "Tokens cannot be revoked: after a log-out, a device may connect until its token expires. Register a "
            "function with @notifier.valid_since.",
        )
    else:
        yield Finding("ok", "hook valid_since: set")
    if hooks.changed_channels is None:
        yield Finding(
            "warn",
            "hook changed_channels: not set, so there is no sweep",
            "If a process dies between commit and publish, or the broker loses a notice, devices learn of the change "
            "only with the next one. Register a function with @notifier.changed_channels.",
        )
    else:
        yield _called(
            "changed_channels",
            lambda: sum(1 for _ in calls.changed_channels(datetime.now(UTC) - SWEEP_OVERLAP)) >= 0,
            "Sweeps fail in the servers too, unless they have another database.",
        )
    if hooks.ready_check is None:
        yield Finding("ok", "hook ready_check: not set, so /ready does not check the application")
    else:
        yield _called("ready_check", lambda: calls.readiness()[0], "/ready answers 503.")


def _called(name: str, call: Callable[[], bool], effect: str) -> Finding:
    began = time.perf_counter()
    try:
        succeeded = call()
    except HookFailed:
        succeeded = False
    took = (time.perf_counter() - began) * 1000
    if succeeded:
        return Finding("ok", f"hook {name}: called, took {took:.0f} ms")
    return Finding("FAIL", f"hook {name}: failed", f"{effect} The log line above names the error, if there was one.")


def _broker(broker: Broker) -> Iterator[Finding]:
    if broker.name == "memory":
        yield Finding("warn", f"broker: {broker.describe()}", f"Enough for a service of one process. {ALONE}.")
        return
    survey = ask(broker)
    if not survey.connected:
        fault = "a message does not come back" if survey.status.connected else "not connected"
        yield Finding("FAIL", f"broker: {broker.describe()}: {fault}", _sentence(advice_for(broker)))
        return
    took = survey.echo_seconds * 1000
    yield Finding("ok", f"broker: {broker.describe()}: a message came back, {took:.0f} ms with connecting")
    if survey.status.invalid:
        yield Finding(
            "warn",
            f"broker: {survey.status.invalid} malformed messages while the doctor listened",
            "Something else publishes in this namespace: choose another SYNCKIT_BROKER_NAMESPACE.",
        )
    if not survey.reports:
        yield Finding("ok", f"processes: {NO_ANSWER}")
    for report in survey.reports:
        where = f"process {report.pid} on {report.host}"
        server = report.server or "a server other than gunicorn"
        yield Finding("ok", f"{where}: streams open: {report.streams}, {server}")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _or_none(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:g} s"
