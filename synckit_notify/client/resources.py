"""The parts of a client that each process makes for itself, and the loops that run on them.

    State ──▶ Session ──▶ LogReader, Sender ──▶ RunLoop: one at a time

Only the client uses this.
"""

import os
import threading
import weakref
from collections.abc import Callable

import httpx2

from .errors import StateError
from .log_reader import Apply, LogReader, OnPage, OnReadAgain
from .master_key import Encryption, NoEncryption
from .models import Device
from .outbox import Parts
from .run import Reports, RunLoop, harmless, protected
from .sender import Sender
from .serialization import read_device
from .session import Session
from .state import State
from .stores import Store
from .stores.no_edits import NoEdits
from .stream import SyncNotifyStream


class Resources:
    """State, session, log reader, sender, streams and the running loop of one client in one process."""

    def __init__(
        self,
        server_url: str,
        api_key: str,
        state: str | os.PathLike[str] | None,
        keys: Encryption | NoEncryption,
        *,
        moved_from: str | None,
        strict: bool,
        http: httpx2.Client | None,
        clock: Callable[[], float],
        wait: Callable[[float], object] | None,
    ) -> None:
        self.state = State.open(state)
        try:
            self.session = Session(
                server_url, api_key, self.state, moved_from=moved_from, http=http, clock=clock, wait=wait
            )
        except BaseException:
            self.state.close()
            raise
        self.log = LogReader(self.session, self.state, keys, strict=strict)
        self.sender = Sender(self.session, self.state, keys)
        self.streams: weakref.WeakSet[SyncNotifyStream] = weakref.WeakSet()
        self.wall_clock = clock
        self._keys = keys
        self._loop: RunLoop | None = None
        self._running = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """End the loops, the streams and the waits of other threads; close the connections and the state file."""
        self._closed = True
        loop = self._loop
        if loop is not None:
            loop.close()
        for stream in list(self.streams):
            stream.close()
        self.session.close()
        self.state.close()

    def retry_unreadable(self) -> bool:
        """Let the next pull start at the first unreadable change, and a running loop pull now."""
        found, loop = self.state.retry_unreadable(), self._loop
        if found and loop is not None:
            loop.pull_soon()
        return found

    def register_device(self, name: str, platform: str) -> Device:
        """Register this installation, or rename it."""
        body = {"device_name": name, "platform": platform, "installation_id": self.state.installation_id}
        device = read_device(self.session.call("POST", "/api/sync/devices", body, idempotent=True), platform)
        self.state.keep_device(device)
        return device

    def run(self, store: Store, reports: Reports) -> None:
        """Keep a store in step until the client is closed."""

        def pull(on_page: OnPage, on_read_again: OnReadAgain) -> None:
            self.log.feed(store, harmless(reports.on_unreadable), on_page, on_read_again)

        self._run(store, pull, lambda again: self.log.begin_again(store, was_away=again.was_away), reports)

    def follow(self, apply: Apply, reports: Reports, *, latest: bool) -> None:
        """Pull with `apply` until the client is closed."""
        safely = protected(apply)

        def pull(on_page: OnPage, on_read_again: OnReadAgain) -> None:
            on_unreadable = harmless(reports.on_unreadable)
            self.log.apply(safely, on_unreadable, latest=latest, on_page=on_page, on_read_again=on_read_again)

        self._run(NoEdits(), pull, lambda again: self.log.read_again(), reports)

    def _run(
        self,
        store: Store,
        pull: Callable[[OnPage, OnReadAgain], object],
        begin_again: OnReadAgain,
        reports: Reports,
    ) -> None:
        if not self._running.acquire(blocking=False):
            raise RuntimeError("this client runs already: make another client, with a state file of its own")
        try:
            parts = Parts(self.session, self.state, self._keys, self.sender)
            self._loop = RunLoop(
                parts, store, pull, begin_again, self._register_again, reports, wall_clock=self.wall_clock
            )
            if self._closed:
                self._loop.close()
            self._loop.run()
        finally:
            self._loop = None
            self._running.release()

    def _register_again(self) -> None:
        device = self.state.device()
        if device is not None:
            self.register_device(device.name, device.platform)


def require_forkable(*, in_memory: bool, shared_http: bool) -> None:
    """Raise StateError if a process that was forked cannot use its parent's client."""
    if in_memory:
        raise StateError(
            "this client was made before the process was forked, and its state is in memory: two processes would "
            "end each other's session; pass state=<file>, or make a client in each process"
        )
    if shared_http:
        raise StateError(
            "this client was made before the process was forked, with http=...: two processes on one connection "
            "get each other's answers; leave http out, or make a client in each process"
        )
