"""`SyncKitClient`: what an app calls. Changes go in and come out, everything between is the SDK's.

    push:  entries ── seal, cut into batches ──▶ state ──▶ server ──▶ answered: out of the state
    pull:  server ──▶ page ── open, without the own echo ──▶ the app ──▶ confirmed: the cursor moves over it (LogReader)

A crash anywhere repeats a change or sends it later; it never skips or doubles one. Any thread may call anything.
"""

import os
import threading
import time
import weakref
import webbrowser
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Self

import httpx2

from ..runtime.per_process import PerProcess
from .browser_login import log_in
from .errors import NetworkError, StateError
from .log_reader import LogReader
from .master_key import Encryption, NoEncryption
from .models import (
    Account,
    ChangeEntry,
    Device,
    PulledChange,
    PulledChanges,
    PullFilter,
    PullResult,
    Status,
    UnreadableChange,
)
from .serialization import batches, digest, member, read_device, read_status
from .session import Session
from .state import Pending, State
from .stream import StreamState, SyncNotifyStream


class Resources:
    """What each process has of a client for itself: state, session, reader of the log, locks and streams."""

    def __init__(
        self,
        server_url: str,
        api_key: str,
        state: str | os.PathLike[str] | None,
        keys: Encryption | NoEncryption,
        *,
        strict: bool,
        http: httpx2.Client | None,
        clock: Callable[[], float],
        wait: Callable[[float], object] | None,
    ) -> None:
        self.state = State.open(state)
        try:
            self.session = Session(server_url, api_key, self.state, http=http, clock=clock, wait=wait)
        except BaseException:
            self.state.close()
            raise
        self.log = LogReader(self.session, self.state, keys, strict=strict)
        self.pushing = threading.Lock()
        self.streams: weakref.WeakSet[SyncNotifyStream] = weakref.WeakSet()

    def close(self) -> None:
        """End the streams and the waits of other threads, close connections and file."""
        for stream in list(self.streams):
            stream.close()
        self.session.close()
        self.state.close()


class SyncKitClient:
    """One installation of an app; close it, or use it in a `with`.

    `state` is a file that survives the process, None is memory. The master key is never in it: set up encryption in
    each process. With `strict` a change that cannot be read stops a pull instead of being left out. A process that is
    forked later can use the client too, with connections of its own, if `state` is a file and `http` is not given; else
    its calls raise StateError. Raises ValueError for an address that is none, StateError for a file that cannot be
    used. Every call may raise NetworkError, ServerError, ProtocolError, NotAuthenticated and StateError.
    """

    def __init__(
        self,
        server_url: str,
        *,
        api_key: str,
        state: str | os.PathLike[str] | None = None,
        encrypt: bool = True,
        strict: bool = False,
        http: httpx2.Client | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._maker, self._closed = os.getpid(), False
        self._keys = Encryption(lambda: self._session) if encrypt else NoEncryption()

        def open_here() -> Resources:
            self._require_usable_here(in_memory=state is None, shared_http=http is not None)
            return Resources(server_url, api_key, state, self._keys, strict=strict, http=http, clock=clock, wait=wait)

        self._here = PerProcess(open_here)
        self._here.get()

    @property
    def _state(self) -> State:
        return self._here.get().state

    @property
    def _session(self) -> Session:
        return self._here.get().session

    @property
    def _log(self) -> LogReader:
        return self._here.get().log

    def authenticate(self, email: str, password: str) -> Account:
        """Log in; raises NotAuthenticated for wrong credentials, StateError if the state is another account's."""
        return self._session.authenticate(email, password)

    def login(self, *, open_browser: Callable[[str], object] = webbrowser.open, timeout: float = 300.0) -> Account:
        """Log in in the browser; `open_browser` is given the address. Raises as `authenticate`, and if declined."""
        return log_in(self._session, open_browser, timeout)

    def register_device(self, name: str, platform: str) -> Device:
        """Register this installation, or rename it; needed before push and pull, again if the server forgot it."""
        body = {"device_name": name, "platform": platform, "installation_id": self._state.installation_id}
        device = read_device(self._session.call("POST", "/api/sync/devices", body, idempotent=True), platform)
        self._state.keep_device(device)
        return device

    def push(self, entries: Iterable[ChangeEntry]) -> int:
        """Send changes, those that are still pending first; return the server's cursor after the last one.

        They are in the state before anything is sent: after an error or a crash `push([])` sends the rest, and the same
        entries given again meanwhile count once. A batch that the server refuses stays, and holds up what is behind it:
        register the device again after a 404, else `discard_pending()`. Raises ValueError for an entry that no server
        takes, and NoMasterKey; then nothing is kept.
        """
        entries = list(entries)
        device = self._state.device_id()
        if entries:
            sealed = list(batches(entries, self._keys.codec(), self._session.account()))
            self._state.add_pending(digest(entries), sealed)
        with self._here.get().pushing:
            while (batch := self._state.next_pending()) is not None:
                self._send(batch, device)
        return self._state.pushed_to()

    @property
    def pending_changes(self) -> int:
        """Return how many pushed changes the server has not answered yet."""
        return self._state.count_pending()

    def discard_pending(self) -> int:
        """Give up what is pending, which the server may have or not; return how many changes that were."""
        with self._here.get().pushing:
            return self._state.discard_pending()

    def pull(
        self,
        apply: Callable[[list[PulledChange]], object] | None = None,
        *,
        on_unreadable: Callable[[UnreadableChange], object] | None = None,
    ) -> PullResult:
        """Return all changes since those that are confirmed, but this device's own.

        With `apply`, which is called with each page in turn, a page is confirmed when it returns, and the result holds
        no changes. Without, they come again until `confirm()`. After the server's log was replaced all changes come
        from its beginning, the own ones too, and the result says `restarted`.

        A change that cannot be read is left out, logged, counted in `unreadable` and given to `on_unreadable`; with
        `strict=True` it raises DecryptionFailed instead. One under a key that is not here is left out and counted in
        `locked`; the pull after that key was set up gives it, and all changes since, again. Raises NoMasterKey.
        """
        return self._log.collect(on_unreadable) if apply is None else self._log.apply(apply, on_unreadable)

    def pull_filtered(
        self, chosen: PullFilter, *, on_unreadable: Callable[[UnreadableChange], object] | None = None
    ) -> PulledChanges:
        """Return the chosen changes of the whole log, or those after the filter's position; `pull` is not touched.

        What cannot be read, or not yet, is left out as in `pull`.
        """
        return self._log.choose(chosen, on_unreadable)

    def retry_unreadable(self) -> bool:
        """Let the next `pull` begin at the lowest change that could not be read; return whether there was one."""
        return self._state.retry_unreadable()

    def status(self) -> Status:
        """Ask how far the server's log has come."""
        return read_status(self._session.call("GET", "/api/sync/status", idempotent=True))

    @property
    def last_sync_time(self) -> datetime | None:
        """Up to when, by the server's clock, all changes are confirmed; None before the first time."""
        return self._state.last_sync_time()

    def subscribe_notifications(self, on_state: Callable[[StreamState, str], None] | None = None) -> SyncNotifyStream:
        """Return a stream that says when to pull; it connects when it is iterated."""
        stream = SyncNotifyStream(self._session, on_state=on_state)
        self._here.get().streams.add(stream)
        return stream

    def setup_encryption_new(self, passphrase: str) -> None:
        """Make the account's master key, on its first device; raises EncryptionExists if there is one."""
        self._keys.setup_new(passphrase)

    def setup_encryption_existing(self, passphrase: str) -> None:
        """Fetch the account's master key; raises NoMasterKey if it has none, InvalidEnvelope for a wrong passphrase."""
        self._keys.setup_existing(passphrase)

    def change_passphrase(self, old: str, new: str) -> None:
        """Wrap the master key anew; raises as `setup_encryption_existing`, ServerError 409 if another was faster."""
        self._keys.change_passphrase(old, new)

    def close(self) -> None:
        """End the streams and the waits of other threads, close connections and file; twice does nothing more."""
        self._closed = True
        here = self._here.made()
        if here is not None:
            here.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_usable_here(self, *, in_memory: bool, shared_http: bool) -> None:
        """Raise if this process cannot use a client that its parent made, or if the client is closed."""
        if self._closed:
            raise NetworkError("the client is closed")
        if os.getpid() == self._maker:
            return
        if in_memory:
            raise StateError(
                "this client was made before the process was forked, and its state is in memory: two processes would "
                "end each other's session; give it state=<file>, or make a client in each process"
            )
        if shared_http:
            raise StateError(
                "this client was made before the process was forked, with http=...: two processes on one connection "
                "get each other's answers; leave http out, or make a client in each process"
            )

    def _send(self, batch: Pending, device: str) -> None:
        body = {"device_id": device, "push_id": batch.push_id, "changes": batch.changes}
        answer = self._session.call("POST", "/api/sync/push", body, idempotent=True)
        self._state.finish_pending(batch.push_id, member(answer, "cursor", int))
