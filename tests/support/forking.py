"""Programs that fork after they made a client: `python -m tests.support.forking CASE URL API_KEY STATE`.

They run outside pytest, whose threads a fork must not copy. Each prints a line for each result of parent and children.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2

from synckit_notify.client import PullFilter, SyncKitClient
from synckit_notify.client.models import Account
from synckit_notify.client.state import State, Tokens

EMAIL, PASSWORD = "alice@example.org", "correct horse battery"
SECONDS = 0.5

url, api_key, state = sys.argv[2:]


def tell(*words: object) -> None:
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


def in_child(work: Callable[[], object]) -> Callable[[], None]:
    """Fork a child that works and ends; return a function that waits for it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            tell(f"child: {type(error).__name__}: {error}")
        finally:
            os._exit(0)
    return lambda: tell("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def client(**options: object) -> SyncKitClient:
    made = SyncKitClient(url, api_key=api_key, encrypt=False, **({"state": state} | options))  # type: ignore[arg-type]
    made.authenticate(EMAIL, PASSWORD)
    made.register_device("laptop", "linux")
    return made


def tried(name: str, call: Callable[[], object]) -> None:
    try:
        call()
        tell(f"{name}: right")
    except Exception as error:
        tell(f"{name}: {type(error).__name__}: {error}")


def together() -> None:
    """Three processes use one client at once, with requests whose answers differ."""
    shared = client()

    def ask(call: Callable[[], object]) -> None:
        seen: Counter[str] = Counter()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                call()
            except Exception as error:
                seen[f"{type(error).__name__}: {error}"] += 1
        tell("wrong:", dict(seen))

    waits = [in_child(lambda: ask(shared.status)), in_child(lambda: ask(lambda: shared.pull_filtered(PullFilter())))]
    ask(lambda: shared.register_device("laptop", "linux"))
    for wait in waits:
        wait()


def renewals() -> None:
    """The parent renews its tokens three times, then the child does, which slept, then the parent again."""
    shift = [0.0]
    shared = client(clock=lambda: time.time() + shift[0])
    read, write = os.pipe()

    def late() -> None:
        os.read(read, 1)
        shift[0] = 3 * 3601.0
        tried("child", shared.status)

    wait = in_child(late)
    for hour in (1, 2, 3):
        shift[0] = hour * 3601.0
        tried("parent", shared.status)
    os.write(write, b"x")
    wait()
    shift[0] = 4 * 3601.0
    tried("parent", shared.status)


def in_memory() -> None:
    with client(state=None) as shared:
        in_child(lambda: tried("child", shared.status))()
        in_child(shared.close)()
        tried("parent", shared.status)


def given_http() -> None:
    with httpx2.Client() as http, client(http=http) as shared:
        in_child(lambda: tried("child", shared.status))()
        tried("parent", shared.status)


def busy_threads() -> None:
    """Another thread holds the lock for pushes and is in a transaction when the process forks."""
    shared, other = client(), State.open(state)
    pushing, writing = threading.Event(), threading.Event()

    def push() -> None:
        with shared._here.get().sender._sending:
            pushing.set()
            time.sleep(60)

    def write() -> None:
        with other._transaction():
            writing.set()
            time.sleep(0.3)

    for work, begun in (push, pushing), (write, writing):
        threading.Thread(target=work, daemon=True).start()
        begun.wait()
    in_child(lambda: tried("child", lambda: shared.push([])))()
    tokens = Tokens("access", "refresh", 60.0, 0.0)
    in_child(lambda: tried("child", lambda: shared._state.log_in(shared._state.account() or Account("", ""), tokens)))()


def stream() -> None:
    """A child cannot use its parent's stream, and closing it in the child does not end it in the parent."""
    shared = client()
    with shared.subscribe_notifications() as notifications:
        tell(next(notifications))
        in_child(lambda: tried("child", lambda: next(notifications)))()
        in_child(notifications.close)()
        in_child(shared.close)()
        in_child(lambda: tried("child", lambda: next(shared.subscribe_notifications())))()
        while notifications.state == "connected" and str(next(notifications)) != "SyncNotification.KEEPALIVE":
            pass
        tell("parent:", notifications.state)


if __name__ == "__main__":
    Path(state).parent.mkdir(exist_ok=True)
    {each.__name__: each for each in (together, renewals, in_memory, given_http, busy_threads, stream)}[sys.argv[1]]()
