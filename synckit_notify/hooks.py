"""The host's hooks and how they are called: a fault in one is logged once and affects nothing else.

    authenticate       a request in, a Principal out, or a refusal
    valid_since        a Principal in, a datetime or None out
    changed_channels   a datetime in, rows out: one for each channel that changed; a wrong row is skipped
    ready_check        raises, or returns False, when the host cannot serve; else returns None, True or a dict

A hook that raises an unexpected error, or returns a wrong value, becomes HookFailed, 503 with Retry-After: a database
that is down must not look like a bad token. A refusal that the host intends keeps its status. Each kind of fault is one
ERROR line that says what the hook must do, repeated once per minute at most. Hooks run inside the application context,
also in a background thread, so a host's database session works as usual and is released afterwards.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
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
F = TypeVar("F", bound=Callable[..., object])

Authenticate = Callable[[Request], Principal]
ValidSince = Callable[[Principal], datetime | None]
ChangedChannels = Callable[[datetime], Iterable[tuple[Id, Id] | tuple[Id, Id, datetime]]]
ReadyCheck = Callable[[], object]

_DUTIES = {
    "authenticate": "return a Principal, or raise InvalidToken or Forbidden",
    "valid_since": "return a datetime, or None where nothing was revoked",
    "changed_channels": "return rows (app_id, user_id) or (app_id, user_id, changed_at) where changed_at is a datetime",
    "ready_check": "raise or return False when the application cannot serve, else return None, True or a dict",
}
"""What each hook must do, for the log."""


@dataclass(slots=True)
class Hooks:
    """The functions that the host has registered, or None."""

    authenticate: Authenticate | None = None
    valid_since: ValidSince | None = None
    changed_channels: ChangedChannels | None = None
    ready_check: ReadyCheck | None = None


class HookCalls:
    """Calls the hooks of one application; any thread may call any method."""

    def __init__(self, app: Flask, hooks: Hooks) -> None:
        self._app = app
        self._hooks = hooks
        self._faults = RateLimitedLog()

    def authenticate(self, hook: Authenticate, request: Request) -> Principal:
        """Return the Principal of a request; raises a Refused."""
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
        """Return the moment before which this user's tokens are revoked, or None; raises a Refused."""
        if self._hooks.valid_since is None:
            return None
        with self._calling("valid_since"):
            answer = self._hooks.valid_since(principal)
        with self._reading("valid_since"):
            return None if answer is None else aware(_plain(answer))

    def changed_channels(self, since: datetime) -> Iterator[tuple[ChannelKey, float | None]]:
        """Yield each changed channel and its time; raises HookFailed after the rows before the failure."""
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
        """Return whether the host can serve, and the fields that its check adds to `/ready`."""
        if self._hooks.ready_check is None:
            return True, {}
        with suppress(Refused):
            with self._calling("ready_check", refusals=False):
                answer = self._hooks.ready_check()
            with self._reading("ready_check"):
                found = _plain(answer)
                if found is not None and not isinstance(found, bool | Mapping):
                    raise TypeError(f"it returned {type(found).__name__}")
            fields = found.items() if isinstance(found, Mapping) else ()
            return found is not False, {
                str(name): value for name, value in fields if isinstance(value, bool | int | str)
            }
        return False, {}

    @contextmanager
    def _calling(self, name: str, *, refusals: bool = True) -> Iterator[None]:
        """Pass on the refusals that a hook may raise; log any other error and raise HookFailed.

        A refusal with a 5xx status always passes: the code that raised it has logged it.
        """
        try:
            yield
        except gevent_compat.failures() as error:
            if isinstance(error, Refused) and (refusals or error.status >= 500):
                raise
            refusal = _aborted(error) if refusals and isinstance(error, HTTPException) else None
            if refusal is None:
                self._log_fault("the hook %s raised %s: it must %s", name, type(error).__name__, error)
                refusal = HookFailed()
            raise refusal from error

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Log a wrong return value of a hook and raise HookFailed."""
        try:
            yield
        except Exception as error:
            self._log_fault("the hook %s returned a wrong value (%s): it must %s", name, str(error))
            raise HookFailed from error

    def _log_fault(self, line: str, hook: str, fault: str, error: BaseException | None = None) -> None:
        self._faults.error((hook, fault), line, hook, fault, _DUTIES[hook], exc_info=error)

    def _read_row(self, row: Any) -> tuple[ChannelKey | None, float | None]:
        """Return the channel and the time of a row; None for the channel, or for the time, that is wrong or absent."""
        key = moment = None
        with suppress(HookFailed), self._reading("changed_channels"):
            if isinstance(row, str | bytes | Mapping):
                raise TypeError(f"a row is a {type(row).__name__}")
            values = tuple(row)
            if len(values) < 2:
                raise TypeError(f"a row has {len(values)} values")
            app_id, user_id, *times = values
            key = ChannelKey(canonical(app_id), canonical(user_id))
            moment = aware(times[0]).timestamp() if times and times[0] is not None else None
        return key, moment

    def _meant_as_refusal(self, error: Exception, request: Request) -> Refused | None:
        """Return another library's error as a refusal: with the status that the host's handler for it returns, if 4xx.

        Flask-JWT-Extended, for example, registers a handler for each of its errors. Without a handler, an error of
        PyJWT means a bad token.
        """
        handler = self._handler_of_the_host(type(error), request.blueprints)
        if handler is None:
            return InvalidToken() if isinstance(error, jwt.InvalidTokenError) else None
        status = self._app.make_response(self._app.ensure_sync(handler)(error)).status_code
        return _refusal(status) if 400 <= status < 500 else None

    def _handler_of_the_host(self, kind: type[Exception], blueprints: list[str]) -> Callable[..., Any] | None:
        """Return the handler that Flask would call; one for Exception itself says nothing about tokens."""
        for name in (*blueprints, None):
            handlers = self._app.error_handler_spec.get(name, {}).get(None, {})
            for base in kind.__mro__[: kind.__mro__.index(Exception)]:
                if base in handlers:
                    return handlers[base]
        return None


def function(hook: F) -> F:
    """Return a hook; raises TypeError if it cannot be called."""
    if not callable(hook):
        raise TypeError(f"a hook must be a function, not {type(hook).__name__}")
    return hook


def canonical(value: Id) -> str:
    """Return an id as a string; raises TypeError for anything but str, int and UUID."""
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise TypeError(f"an id must be a str, an int or a UUID, not {type(value).__name__}")
    return str(value)


def aware(moment: datetime) -> datetime:
    """Return the moment with a time zone; a naive one, as many databases return it, is UTC. Raises TypeError."""
    if not isinstance(moment, datetime):
        raise TypeError(f"a time must be a datetime, not {type(moment).__name__}")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _principal(answer: object) -> Principal:
    """Return a host's Principal with ids as strings and times with a zone. Raises TypeError."""
    if not isinstance(answer, Principal):
        raise TypeError(f"it returned {type(answer).__name__}")
    values: dict[str, Any] = {}
    for name, convert in _FIELDS.items():
        value = getattr(answer, name)
        try:
            values[name] = None if value is None and convert is not _required_id else convert(value)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
    return Principal(**values)


def _required_id(value: Id) -> str:
    """Return an id as a string; raises TypeError for an empty one too."""
    if not (text := canonical(value)):
        raise TypeError("an id must not be empty")
    return text


_FIELDS: dict[str, Callable[[Any], object]] = {
    "app": _required_id,
    "user": _required_id,
    "device": canonical,
    "session": canonical,
    "issued_at": aware,
    "expires_at": aware,
}


def _plain(answer: Any) -> Any:
    """Return the value as it is; raises TypeError if it is awaitable."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # else Python logs a warning
        raise TypeError("it is async")
    return answer


def _aborted(error: HTTPException) -> Refused | None:
    """Return what `abort()` raised as a Refused; None for a 500, which is a fault of the host."""
    response = error.get_response()
    if response.status_code == 500:
        return None
    refusal = _refusal(response.status_code, vars(error).get("description"))
    retry_after = response.headers.get("Retry-After", "")
    if retry_after.isascii() and retry_after.isdigit():
        refusal.retry_after = int(retry_after)
    return refusal


def _refusal(status: int, sentence: str | None = None) -> Refused:
    """Return a refusal with this status. A redirect leads to a login page, so for a device it means 401."""
    if status == 401 or status < 400:
        return InvalidToken(sentence)
    return Forbidden(sentence) if status == 403 else Refused(sentence, status=status)
