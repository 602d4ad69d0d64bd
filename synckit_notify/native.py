"""The one room that may know gevent, and only if the process already runs on it.

In: a function that blocks without yielding (SQLite, a password hash). Out: its result. And the kernel's own epoll,
which gevent takes out of the `select` module.
Under a monkey-patched process such a call would stop every stream of the worker, so it goes to a native thread
of gevent's pool and only the calling greenlet waits. Everywhere else it is called directly. gevent is never
imported from here: where it is not loaded yet, nothing can be patched.
"""

import select
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def is_patched() -> bool:
    """Tell whether `threading` is gevent's in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def epoll() -> Any | None:
    """Return a new epoll of the kernel, never to be waited for longer than 0 s; None on systems without one."""
    if is_patched():
        make = sys.modules["gevent.monkey"].get_original("select", "epoll")
    else:
        make = getattr(select, "epoll", None)
    return make() if make is not None else None


def failures() -> tuple[type[BaseException], ...]:
    """Return what a failed call may raise: gevent's Timeout is no Exception."""
    gevent = sys.modules.get("gevent")
    return (Exception,) if gevent is None else (Exception, gevent.Timeout)


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` off the hub and return its result, or raise what it raised.

    Must not be nested: a native thread that calls here again would make a hub of its own.
    """
    if not is_patched():
        return function(*args, **kwargs)
    result, error = sys.modules["gevent"].get_hub().threadpool.apply(_attempt, (function, args, kwargs))
    if error is not None:
        raise error
    return cast(R, result)


def _attempt(
    function: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[R | None, BaseException | None]:
    """Return a result or an error: gevent prints whatever is raised in its native threads."""
    try:
        return function(*args, **kwargs), None
    except BaseException as error:
        return None, error
