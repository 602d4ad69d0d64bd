"""`SyncKitClient`: the class that an app uses to push changes, to pull them and to be notified.

    push:  entries ── encrypt, split into batches ──▶ state ──▶ server ──▶ answered: removed from the state
    pull:  server ──▶ page ── decrypt, drop own changes ──▶ the app ──▶ confirmed: the cursor moves on (LogReader)

After a crash, a change may be sent late or pulled again, but is never skipped or stored twice. Thread-safe.
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
from .cancellable import holding
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
    """The parts of a client that each process makes for itself: state, session, log reader, locks and streams."""

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
        """End the streams and the waits of other threads; close the connections and the state file."""
        for stream in list(self.streams):
            stream.close()
        self.session.close()
        self.state.close()


class SyncKitClient:
    """A client for one installation of an app; close it, or use it as a context manager.

    - `server_url` is an http or https URL without `/api/sync`.
    - `api_key` identifies the app to the server.
    - `state` is the path of a file that keeps the session, the cursor and unsent changes; None keeps them in memory.
      The file never contains the master key, so set up encryption in each process.
    - `encrypt=False` sends data as JSON that the server can read.
    - `strict=True` raises DecryptionFailed where a pull would leave out a change that cannot be read.
    - `http` is an `httpx2.Client` to use instead of one made here. It must not use HTTP/2, and it is not closed.
    - `clock` returns the time of day in seconds, `wait` sleeps for a number of seconds; both are for tests.

    Thread-safe. A child process that is forked later can use the client, with connections of its own, if `state` is a
    file and `http` is not given; otherwise its calls raise StateError.

    Raises ValueError if `server_url` is not such a URL, and StateError if the state file cannot be used. Methods that
    ask the server may raise NetworkError, ServerError, ProtocolError, NotAuthenticated and StateError.
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
        """Log in with a password.

        Raises NotAuthenticated for wrong credentials, and StateError if the state belongs to another account.
        """
        return self._session.authenticate(email, password)

    def login(self, *, open_browser: Callable[[str], object] = webbrowser.open, timeout: float = 300.0) -> Account:
        """Log in on the server's page in a browser (OAuth2 with PKCE); return when the user has finished.

        `open_browser` is called with the URL of that page; pass `print` where no browser can be opened. `timeout` is in
        seconds. Raises NotAuthenticated if the user declines or does not finish in time, and StateError if the state
        belongs to another account.
        """
        return log_in(self._session, open_browser, timeout)

    def register_device(self, name: str, platform: str) -> Device:
        """Register this installation as a device of the account, or rename it.

        Call this once before `push` and `pull`, and again if the server answers 404 because it deleted the device.
        `platform` is one of macos, windows, linux, ios, android and web.
        """
        body = {"device_name": name, "platform": platform, "installation_id": self._state.installation_id}
        device = read_device(self._session.call("POST", "/api/sync/devices", body, idempotent=True), platform)
        self._state.keep_device(device)
        return device

    def push(self, entries: Iterable[ChangeEntry]) -> int:
        """Send changes, after those still pending from earlier calls; return the server's cursor after the last one.

        The changes are written to the state before anything is sent. After an error or a crash, `push([])` sends the
        rest, and a call with the same entries while they are pending adds nothing. A batch that the server refuses
        stays pending and blocks later ones: after a 404 register the device again, otherwise call `discard_pending()`.

        Raises ValueError for an entry that no server accepts, and NoMasterKey; in both cases no entry is kept.
        """
        entries = list(entries)
        device = self._state.device_id()
        if entries:
            sealed = list(batches(entries, self._keys.codec(), self._session.account()))
            self._state.add_pending(digest(entries), sealed)
        with holding(self._here.get().pushing):
            while (batch := self._state.next_pending()) is not None:
                self._send(batch, device)
        return self._state.pushed_to()

    @property
    def pending_changes(self) -> int:
        """The number of pushed changes that the server has not answered yet."""
        return self._state.count_pending()

    def discard_pending(self) -> int:
        """Drop all pending changes and return their number; the server may already have stored some of them."""
        with holding(self._here.get().pushing):
            return self._state.discard_pending()

    def pull(
        self,
        apply: Callable[[list[PulledChange]], object] | None = None,
        *,
        on_unreadable: Callable[[UnreadableChange], object] | None = None,
    ) -> PullResult:
        """Return the changes of other devices after the last confirmed one.

        `apply` is called with one page of changes at a time, and each page is confirmed when it returns; the result
        then contains no changes. After a crash in `apply` the page comes again, so `apply` must tolerate repetition.
        Without `apply` the result contains the changes of all pages, and the next pull returns them again until
        `confirm()` is called on it.

        If the server's log was replaced, all changes come from the start of the new log, this device's own included,
        and `restarted` of the result is True.

        A change that cannot be read is left out, logged, counted in `unreadable` and passed to `on_unreadable`; with
        `strict=True` it raises DecryptionFailed instead. A change that is encrypted with a key that this process does
        not have is left out and counted in `locked`; once that key was set up, the next pull goes back to it. Raises
        NoMasterKey.
        """
        return self._log.collect(on_unreadable) if apply is None else self._log.apply(apply, on_unreadable)

    def pull_filtered(
        self, chosen: PullFilter, *, on_unreadable: Callable[[UnreadableChange], object] | None = None
    ) -> PulledChanges:
        """Return the changes that match the filter, from the whole log or after the filter's position.

        This never moves the cursor of `pull`. Changes that cannot be read are left out as in `pull`.
        """
        return self._log.choose(chosen, on_unreadable)

    def retry_unreadable(self) -> bool:
        """Make the next `pull` start at the first change that could not be read; return whether there is one."""
        return self._state.retry_unreadable()

    def status(self) -> Status:
        """Ask the server for the state of its log."""
        return read_status(self._session.call("GET", "/api/sync/status", idempotent=True))

    @property
    def last_sync_time(self) -> datetime | None:
        """The server's time up to which all changes are confirmed; None before the first complete pull."""
        return self._state.last_sync_time()

    def subscribe_notifications(self, on_state: Callable[[StreamState, str], None] | None = None) -> SyncNotifyStream:
        """Return an iterator that tells when to pull; it connects when the iteration starts.

        `on_state` is called with each new state of the stream and the reason for it.
        """
        stream = SyncNotifyStream(self._session, on_state=on_state)
        self._here.get().streams.add(stream)
        return stream

    def setup_encryption_new(self, passphrase: str) -> None:
        """Create the account's master key, on its first device; takes about 0.2 s and 64 MiB.

        The key is kept in memory; the server stores it encrypted with the passphrase. Raises EncryptionExists if the
        account already has a master key.
        """
        self._keys.setup_new(passphrase)

    def setup_encryption_existing(self, passphrase: str) -> None:
        """Fetch the account's master key and decrypt it with the passphrase; takes about 0.2 s and 64 MiB.

        Raises NoMasterKey if the account has none, and InvalidEnvelope for a wrong passphrase.
        """
        self._keys.setup_existing(passphrase)

    def change_passphrase(self, old: str, new: str) -> None:
        """Encrypt the same master key with a new passphrase.

        Raises what `setup_encryption_existing` raises, and ServerError with status 409 if another device changed the
        passphrase at the same time.
        """
        self._keys.change_passphrase(old, new)

    def close(self) -> None:
        """End the streams and the waits of other threads; close connections and state file. May be called twice."""
        self._closed = True
        here = self._here.made()
        if here is not None:
            here.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_usable_here(self, *, in_memory: bool, shared_http: bool) -> None:
        """Raise if the client is closed, or if this process was forked and cannot share its parent's client."""
        if self._closed:
            raise NetworkError("the client is closed")
        if os.getpid() == self._maker:
            return
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

    def _send(self, batch: Pending, device: str) -> None:
        body = {"device_id": device, "push_id": batch.push_id, "changes": batch.changes}
        answer = self._session.call("POST", "/api/sync/push", body, idempotent=True)
        self._state.finish_pending(batch.push_id, member(answer, "cursor", int))
