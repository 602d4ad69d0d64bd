"""`SyncKitClient`: the class that an app uses to push changes, to pull them and to be notified.

    push:  entries ── encrypt, split into batches ──▶ state ──▶ server ──▶ answered: removed from the state
    pull:  server ──▶ page ── decrypt, drop own changes ──▶ the app ──▶ confirmed: the cursor moves on (LogReader)
    run:   both, at each notification and after each local edit, until the client is closed (RunLoop)

After a crash, a change may be sent late or pulled again, but is never skipped or stored twice. Thread-safe.
"""

import os
import time
import webbrowser
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Self

import httpx2

from ..runtime.per_process import PerProcess
from .browser_login import log_in
from .connection import normalize_url
from .devices import delete_device, list_devices
from .errors import NetworkError
from .log_reader import LogReader
from .master_key import Encryption, NoEncryption
from .models import (
    Account,
    ChangeEntry,
    Device,
    EncryptionSetup,
    PulledChange,
    PulledChanges,
    PullFilter,
    PullResult,
    RefusedChange,
    Status,
    UnreadableChange,
)
from .resources import Resources, require_forkable
from .run import OnState, Reports
from .serialization import read_status
from .session import Session
from .state import State
from .stores import Store
from .stream import StreamState, SyncNotifyStream


class SyncKitClient:
    """A client for one installation of an app; close it, or use it as a context manager.

    - `server_url` is an http or https URL without `/api/sync`.
    - `api_key` identifies the app to the server.
    - `state` is the path of a file that keeps the session, the cursor and unsent changes; None keeps them in memory.
      The file never contains the master key, so set up encryption in each process.
    - `moved_from` is the former URL of a server that has moved, for a state file that belongs to that URL.
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
        moved_from: str | None = None,
        encrypt: bool = True,
        strict: bool = False,
        http: httpx2.Client | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._maker, self._closed = os.getpid(), False
        former = None if moved_from is None else normalize_url(moved_from, "moved_from")
        self._keys = Encryption(lambda: self._session, lambda: self._state, former) if encrypt else NoEncryption()

        def open_here() -> Resources:
            if self._closed:
                raise NetworkError("the client is closed")
            if os.getpid() != self._maker:
                require_forkable(in_memory=state is None, shared_http=http is not None)
            return Resources(
                *(server_url, api_key, state, self._keys),
                moved_from=former,
                strict=strict,
                http=http,
                clock=clock,
                wait=wait,
            )

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
        return self._here.get().register_device(name, platform)

    @property
    def account(self) -> Account | None:
        """The account that this state belongs to, also after a log-out; None before the first log-in."""
        return self._state.account()

    @property
    def device(self) -> Device | None:
        """The device that this state is registered as; None before `register_device`. Sends no request."""
        return self._state.device()

    def devices(self) -> list[Device]:
        """Return the account's devices in this app, ordered by id."""
        return list_devices(self._session)

    def delete_device(self, device_id: str) -> None:
        """Delete a device of the account and end its sessions; raises ServerError with status 404 if there is none."""
        delete_device(self._session, device_id)

    def change_password(self, old: str, new: str) -> None:
        """Change the password of the account; all its other sessions end, and this one goes on.

        Raises ServerError with status 403 if the old password is wrong. After a NetworkError the password may have been
        changed: log in with the new one, or with the old one.
        """
        self._session.change_password(old, new)

    def logout(self) -> bool:
        """Log out here; return whether the server ended the session too, which it cannot do while it is unreachable.

        Forgets the tokens, and removes the master key from this process and from the keychain. Everything else stays in
        the state: pending changes are sent after the next log-in with the same account. Raises KeychainError if the key
        cannot be removed from the keychain.
        """
        ended = self._session.log_out()
        self._keys.forget()
        return ended

    def push(self, entries: Iterable[ChangeEntry]) -> int:
        """Send changes, after those still pending from earlier calls; return the server's cursor after the last one.

        The changes are written to the state before anything is sent, also without a network and before
        `register_device`. After an error or a crash, `run`, `follow` or `push([])` sends the rest, and a call with the
        same entries while they are pending adds nothing. A batch that the server refuses stays pending and blocks later
        ones: after a 404 register the device again, otherwise call `discard_pending()`. A 409 with
        "call pull first" says that this device was away for too long: call `pull`, which reads the log from its start,
        then `push([])`.

        Raises ValueError for an entry that no server accepts, NotAuthenticated before the first log-in, and
        NoMasterKey; in these cases no entry is kept. Raises StateError before `register_device`.
        """
        return self._here.get().sender.push(entries)

    @property
    def pending_changes(self) -> int:
        """The number of pushed changes that the server has not answered yet."""
        return self._state.queue.count()

    def discard_pending(self) -> int:
        """Drop all pending changes and return their number; the server may already have stored some of them."""
        return self._here.get().sender.discard()

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

        If the server's log was replaced, or this device was away for too long, all changes come from the start of the
        log, this device's own included, and `restarted` of the result is True.

        A change that cannot be read is left out, logged, counted in `unreadable` and passed to `on_unreadable`; with
        `strict=True` it raises DecryptionFailed instead. A change that is encrypted with a key that this process does
        not have is left out and counted in `locked`; once that key was set up, the next pull goes back to it. Raises
        NoMasterKey.
        """
        return self._log.collect(on_unreadable) if apply is None else self._log.apply(apply, on_unreadable)

    def run(
        self,
        store: Store,
        *,
        on_state: OnState | None = None,
        on_refused: Callable[[RefusedChange], object] | None = None,
        on_unreadable: Callable[[UnreadableChange], object] | None = None,
    ) -> None:
        """Keep a store in step with the account until `close()`: send its edits, and apply the changes of the account.

        It goes on through outages, restarts of the server, sleep of the machine and full disks, and repeats what
        failed. `on_state` is called with each new state and its reason. Local changes that cannot be sent are passed to
        `on_refused`, changes that cannot be read to `on_unreadable`. The callbacks and the methods of the store are
        called in this thread.

        Raises NotAuthenticated if the user must log in, NoMasterKey if encryption was never set up in this process,
        StateError before `register_device`, ServerError with status 403, RuntimeError if the client runs already, and
        errors of the store that do not pass by themselves.
        """
        if not self._closed:
            self._here.get().run(store, Reports(on_state, on_refused, on_unreadable))

    def follow(
        self,
        apply: Callable[[list[PulledChange]], object],
        *,
        latest: bool = False,
        on_state: OnState | None = None,
        on_refused: Callable[[RefusedChange], object] | None = None,
        on_unreadable: Callable[[UnreadableChange], object] | None = None,
    ) -> None:
        """Pull with `apply` at each notification until `close()`, for an app with a storage of its own.

        `apply` is called as by `pull`. If it raises an exception, that is logged, and the page comes again later.
        Changes that `push` could not send are sent. `latest` asks the server for the winner of each row only, by the
        one order. Goes on, reports and raises as `run` does.
        """
        if not self._closed:
            self._here.get().follow(apply, Reports(on_state, on_refused, on_unreadable), latest=latest)

    def pull_filtered(
        self, chosen: PullFilter, *, on_unreadable: Callable[[UnreadableChange], object] | None = None
    ) -> PulledChanges:
        """Return the changes that match the filter, from the whole log or after the filter's position.

        This never moves the cursor of `pull`. Changes that cannot be read are left out as in `pull`. Raises ServerError
        with status 409 if this device was away for too long: call `pull` first.
        """
        return self._log.choose(chosen, on_unreadable)

    def retry_unreadable(self) -> bool:
        """Make the next `pull` start at the first change that could not be read; return whether there is one.

        While `run` or `follow` is running, it pulls at once.
        """
        return self._here.get().retry_unreadable()

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

    def setup_encryption(self, passphrase: str | None = None, *, remember: bool = False) -> EncryptionSetup:
        """Open the account's master key with the passphrase, or make the key if the account has none.

        Takes about 0.2 s and 64 MiB. Without the network it works if this state file has been set up before. Without a
        passphrase the key is read from the keychain of the operating system, where `remember=True` writes it (the
        extra `keychain`).

        Raises InvalidEnvelope for a wrong passphrase; NoMasterKey if the passphrase was changed on another device, or
        without a passphrase if the keychain has no key; KeychainError. After a NoMasterKey, changes can still be pushed
        with the former key if this state file was set up with it.
        """
        return self._keys.setup(passphrase, remember=remember)

    def change_passphrase(self, old: str, new: str) -> None:
        """Encrypt the same master key with a new passphrase.

        Raises InvalidEnvelope for a wrong passphrase, and NoMasterKey if there is no master key, or if another device
        changed the passphrase.
        """
        self._keys.change_passphrase(old, new)

    def rotate_master_key(self, old_passphrase: str, new_passphrase: str) -> None:
        """Make a new master key that encrypts from now on, and a new passphrase, in one step.

        The newest 32 older keys are kept for reading. Other devices need the new passphrase: their calls raise
        NoMasterKey until `setup_encryption` is called with it. Removes the key from the keychain. Raises what
        `change_passphrase` raises.
        """
        self._keys.rotate(old_passphrase, new_passphrase)

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
