"""The host's hooks, and how they are called: what one does wrong is named once and harms nobody else.

    authenticate       a request in, a Principal out, or a refusal
    valid_since        a Principal in, a datetime or None out
    changed_channels   a datetime in, rows out: one for each channel that changed; a wrong row is left out
    ready_check        raises, or returns False, when the host cannot serve

A hook that raises an error of its own, or returns what it must not, becomes HookFailed, 503 with Retry-After: a
database that is away must not look like a bad token. A refusal that the host means as one keeps its status. Each kind
of fault is one ERROR line that says what the hook must do; it is repeated once a minute at most. Hooks run inside the
application's context, also from a background thread, so a host's database session works in them as everywhere and is
given back afterwards.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jwt
from flask import Flask, Request
from werkzeug.exceptions import HTTPException

from .errors import Forbidden, HookFailed, InvalidToken, Refused
from .runtime import gevent_compat
from .runtime.logs import RateLimitedLog
from .streams.channel import ChannelKey
from .tokens import Principal

Id = str | int | UUID

Authenticate = Callable[[Request], Principal]
ValidSince = Callable[[Principal], datetime | None]
ChangedChannels = Callable[[datetime], Iterable[tuple[Id, Id] | tuple[Id, Id, datetime]]]
ReadyCheck = Callable[[], object]

_DUTIES = {
    "authenticate": "return a Principal, or raise InvalidToken or Forbidden",
    "valid_since": "return a datetime, or None where nothing was revoked",
    "changed_channels": "return rows (app_id, user_id) or (app_id, user_id, changed_at) where changed_at is a datetime",
    "ready_check": "raise or return False when the application cannot serve; it must not be async",
}
"""What the log says that a hook must do."""


@dataclass(slots=True)
class Hooks:
    """What the host told us, or None."""

    authenticate: Authenticate | None = None
    valid_since: ValidSince | None = None
    changed_channels: ChangedChannels | None = None
    ready_check: ReadyCheck | None = None


class HookCalls:
    """Calls the hooks for one application; any thread may call anything."""

    def __init__(self, app: Flask, hooks: Hooks) -> None:
        self._app = app
        self._hooks = hooks
        self._faults = RateLimitedLog()

    def authenticate(self, hook: Authenticate, request: Request) -> Principal:
        """Return whom the host recognises; raises a Refused."""
        with self._calling("authenticate"):
            try:
                answer = hook(request)
            except HTTPException:
                raise
            except Exception as error:
                refusal = self._meant_as_refusal(error, request)
                if refusal is None:
                    raise
                raise refusal from error
        with self._reading("authenticate"):
            return _principal(_plain(answer))

    def valid_since(self, principal: Principal) -> datetime | None:
        """Return the moment before which this user's tokens are revoked; raises a Refused."""
        if self._hooks.valid_since is None:
            return None
        with self._calling("valid_since"):
            answer = self._hooks.valid_since(principal)
        with self._reading("valid_since"):
            return None if answer is None else aware(_plain(answer))

    def changed_channels(self, since: datetime) -> Iterator[tuple[ChannelKey, float | None]]:
        """Yield the channels that changed and when; raises HookFailed, after the rows that came before the failure."""
        if self._hooks.changed_channels is None:
            return
        with self._app.app_context():
            with self._calling("changed_channels", refusals=False):
                answer = self._hooks.changed_channels(since)
            with self._reading("changed_channels"):
                rows = iter(_plain(answer))
            with self._calling("changed_channels", refusals=False):
                for row in rows:
                    key, changed_at = self._read_row(row)
                    if key is not None:
                        yield key, changed_at

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the host can serve, and the fields that its check adds to the answer."""
        if self._hooks.ready_check is None:
            return True, {}
        with suppress(Refused):
            with self._calling("ready_check", refusals=False):
                answer = self._hooks.ready_check()
            with self._reading("ready_check"):
                found = _plain(answer)
            fields = found.items() if isinstance(found, Mapping) else ()
            return found is not False, {
                str(name): value for name, value in fields if isinstance(value, bool | int | str)
            }
        return False, {}

    @contextmanager
    def _calling(self, name: str, *, refusals: bool = True) -> Iterator[None]:
        """Let the refusals that a hook raises pass, where it may raise any; name all other errors as HookFailed.

        A refusal with a 5xx passes everywhere: whoever raised it has written a log line of its own.
        """
        try:
            yield
        except gevent_compat.failures() as error:
            if isinstance(error, Refused) and (refusals or error.status >= 500):
                raise
            refusal = _aborted(error) if refusals and isinstance(error, HTTPException) else None
            if refusal is None:
                self._name("the hook %s raised %s: it must %s", name, type(error).__name__, error)
                refusal = HookFailed()
            raise refusal from error

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Name what is wrong with the answer of a hook as HookFailed."""
        try:
            yield
        except Exception as error:
            self._name("the hook %s gave a wrong answer (%s): it must %s", name, str(error))
            raise HookFailed from error

    def _name(self, line: str, hook: str, fault: str, error: BaseException | None = None) -> None:
        self._faults.error((hook, fault), line, hook, fault, _DUTIES[hook], exc_info=error)

    def _read_row(self, row: Any) -> tuple[ChannelKey | None, float | None]:
        """Return a channel and its time; no channel where the row names none, no time where it is none of a change."""
        key = moment = None
        with suppress(HookFailed), self._reading("changed_channels"):
            if isinstance(row, str | bytes | Mapping):
                raise TypeError(f"a row is a {type(row).__name__}")
            app_id, user_id, *times = row
            key = ChannelKey(canonical(app_id), canonical(user_id))
            moment = aware(times[0]).timestamp() if times and times[0] is not None else None
        return key, moment

    def _meant_as_refusal(self, error: Exception, request: Request) -> Refused | None:
        """Return the refusal that another library's error stands for: what the host's handler for it answers, if 4xx.

        Flask-JWT-Extended, for one, registers a handler for each of its errors. Without any, PyJWT's mean a bad token.
        """
        handler = self._handler_of_the_host(type(error), request.blueprints)
        if handler is None:
            return InvalidToken() if isinstance(error, jwt.InvalidTokenError) else None
        status = self._app.make_response(self._app.ensure_sync(handler)(error)).status_code
        return _refusal(status) if 400 <= status < 500 else None

    def _handler_of_the_host(self, kind: type[Exception], blueprints: list[str]) -> Callable[..., Any] | None:
        """Return the handler that Flask would call; one for every Exception says nothing about tokens."""
        for name in (*blueprints, None):
            handlers = self._app.error_handler_spec[name][None]
            for base in kind.__mro__[: kind.__mro__.index(Exception)]:
                if base in handlers:
                    return handlers[base]
        return None


def canonical(value: Id) -> str:
    """Return an id as it is compared everywhere; raises TypeError for anything but str, int and UUID."""
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise TypeError(f"an id is a str, an int or a UUID, not {type(value).__name__}")
    return str(value)


def aware(moment: datetime) -> datetime:
    """Return the moment with a zone: a naive one, as many databases give it, is read as UTC. Raises TypeError."""
    if not isinstance(moment, datetime):
        raise TypeError(f"a time is a datetime, not {type(moment).__name__}")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _principal(answer: object) -> Principal:
    """Return a host's Principal as ours are: ids as texts, times with their zone. Raises TypeError."""
    if not isinstance(answer, Principal):
        raise TypeError(f"it returned {type(answer).__name__}")
    values: dict[str, Any] = {}
    for name, convert in _FIELDS.items():
        value = getattr(answer, name)
        try:
            values[name] = None if value is None and name not in ("app", "user") else convert(value)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
    return Principal(**values)


_FIELDS: dict[str, Callable[[Any], object]] = {
    "app": canonical,
    "user": canonical,
    "device": canonical,
    "session": canonical,
    "issued_at": aware,
    "expires_at": aware,
}


def _plain(answer: Any) -> Any:
    """Return an answer that needs nobody to wait for it; raises TypeError."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns of it later
        raise TypeError("it is async")
    return answer


def _aborted(error: HTTPException) -> Refused | None:
    """Return what `abort()` raised as a refusal of ours; None for 500, which is no answer to a client."""
    response = error.get_response()
    if response.status_code == 500:
        return None
    refusal = _refusal(response.status_code, vars(error).get("description"))
    retry_after = response.headers.get("Retry-After", "")
    if retry_after.isascii() and retry_after.isdigit():
        refusal.retry_after = int(retry_after)
    return refusal


def _refusal(status: int, sentence: str | None = None) -> Refused:
    """Return a refusal with a status; a redirect leads to a page for people, so to a device it says: log in."""
    if status == 401 or status < 400:
        return InvalidToken(sentence)
    return Forbidden(sentence) if status == 403 else Refused(sentence, status=status)
