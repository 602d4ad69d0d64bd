"""A call in a thread of its own: its result, its error, and its cancellation at any moment."""

import contextvars
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from synckit_notify.client.cancellable import start

CALLER = contextvars.ContextVar("caller", default="nobody")


def test_the_caller_gets_the_result_or_the_error() -> None:
    assert start(lambda: 7).result(5) == 7
    with pytest.raises(ZeroDivisionError):
        start(lambda: 1 / 0).result(5)


def test_the_call_runs_in_another_thread_with_the_callers_context() -> None:
    CALLER.set("somebody")
    thread, caller = start(lambda: (threading.current_thread(), CALLER.get())).result(5)
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert caller == "somebody"


def test_a_call_that_is_given_up_ends_the_wait_and_its_result_is_discarded() -> None:
    go_on, discarded = threading.Event(), threading.Event()
    future = start(lambda: go_on.wait(10), discard=lambda result: discarded.set())
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(5)
    go_on.set()
    assert discarded.wait(5)


def test_without_a_thread_the_call_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert start(threading.current_thread).result(0) is threading.current_thread()


AT_EXIT = """
import atexit
from synckit_notify.client.cancellable import start
atexit.register(lambda: print(start(lambda: "pushed").result(5)))
"""


def test_a_call_from_an_exit_handler_works() -> None:
    """Since Python 3.12 no thread can be started in an exit handler."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "pushed\n"
