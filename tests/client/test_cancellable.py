"""A call in a thread of its own: its result, its error, its cancellation at any moment, and the end of its waits."""

import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from synckit_notify.client.cancellable import (
    Cancelled,
    Signal,
    finished_first,
    holding,
    on_cancel,
    raise_if_cancelled,
    start,
)

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
    future = start(lambda: go_on.wait(60), discard=lambda result: discarded.set())
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(60)
    go_on.set()
    assert discarded.wait(60)


def wait_for_a_signal() -> None:
    Signal().wait(30)


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    with lock, holding(lock):
        pass


def wait_in_an_inner_call() -> None:
    start(wait_for_a_signal).result(30)


def swallow_errors() -> None:
    while True:
        try:
            wait_for_a_signal()
        except Exception:
            continue


@pytest.mark.parametrize("wait", [wait_for_a_signal, wait_for_a_lock, wait_in_an_inner_call, swallow_errors])
def test_the_waits_inside_a_call_end_with_cancelled(wait: Callable[[], None]) -> None:
    before, later = start(wait), start(wait)
    before.end_waits()
    with pytest.raises(Cancelled):
        before.result(5)
    assert not later.done()
    later.end_waits()
    with pytest.raises(Cancelled):
        later.result(5)


def test_what_does_not_wait_is_finished_and_so_is_what_must_be() -> None:
    began, go_on, order = threading.Event(), threading.Event(), []

    def work() -> str:
        with on_cancel(lambda: order.append("told")):
            began.set()
            go_on.wait(60)
        with finished_first():
            raise_if_cancelled()
            Signal().wait(0.01)
            order.append("finished first")
        raise_if_cancelled()
        return "too far"

    call = start(work)
    assert began.wait(60)
    call.end_waits()
    go_on.set()
    with pytest.raises(Cancelled):
        call.result(60)
    assert order == ["told", "finished first"]


def test_a_signal_is_an_event_whose_actions_run_once_it_is_set() -> None:
    signal, order = Signal(), []
    assert not signal.wait(0)
    with signal.calling(lambda: order.append("a")):
        signal.set()
    with signal.calling(lambda: order.append("b")):
        assert signal.wait(30)
    assert (signal.is_set(), order) == (True, ["a", "b"])


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
