"""The key set of an identity provider: fetched on first use, cached, and refreshed in the background.

    no keys yet       the first requests wait for the first fetch; if it fails, it is tried again after 1, 2, 4 ... 30
                      s, and until one succeeds every request gets KeysUnavailable at once
    keys              used without end, even while refreshes fail; fetched again every 5 minutes
    an unknown kid    causes a fetch that its request waits for, one in 30 s; in between it is just unknown

One background thread per process fetches, so there is one fetch at a time. Under gevent that thread is a greenlet, and
the fetch runs in a native thread: neither a provider that hangs nor a long key set delays a stream.
"""

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from urllib.parse import urlsplit

from ..errors import KeysUnavailable
from ..runtime.background import Periodic
from ..runtime.gevent_compat import run_in_native_thread
from ..runtime.logs import RateLimitedLog
from ..runtime.per_process import PerProcess
from .download import MAX_SECONDS, DownloadFailed, download
from .public_key import Keys, PublicKey, UnusableKey

REFRESH_SECONDS = 300.0
"""The longest time between two fetches; each is up to a tenth earlier, so that not all processes ask at once."""

MAX_RETRY_SECONDS = 30.0
UNKNOWN_KID_SECONDS = 30.0


def fetch(url: str) -> Keys:
    """Return the keys at a URL; raises DownloadFailed or UnusableKey. It blocks its thread."""
    return Keys.from_json(download(url))


class KeySet:
    """The public keys at a URL. Usable in any thread, and in any process after a fork; each fetches its own.

    The thread that fetches ends at the next fetch after the last reference to this object is gone.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        owner = weakref.ref(self)
        self._caches = PerProcess(lambda: KeyCache(url, needed=lambda: owner() is not None))

    def describe(self) -> str:
        """Return the address, without a user name, a password or a query."""
        parts = urlsplit(self._url)
        return f"keys from {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def check(self) -> None:
        """Raise KeysUnavailable if no fetch has succeeded yet. May wait for one, 5 s at most."""
        self._caches.get().check()

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """Return the key to use, None if there is none; raises KeysUnavailable. May wait for a fetch, 5 s at most."""
        return self._caches.get().find(kid, algorithm)


class Schedule:
    """When the next fetch is due. Not thread-safe; times are those of the caller's clock."""

    def __init__(self, now: float) -> None:
        self.due_at = now
        self._failures = 0
        self._may_ask_at = now

    def ask(self, now: float) -> bool:
        """Make a fetch due for an unknown kid, if one is allowed; return whether it is."""
        if now < self._may_ask_at:
            return False
        self._may_ask_at = now + UNKNOWN_KID_SECONDS
        self.due_at = now
        return True

    def fetched(self, now: float) -> None:
        """Plan the next fetch after one that succeeded."""
        self._failures = 0
        self.due_at = now + REFRESH_SECONDS * random.uniform(0.9, 1.0)

    def failed(self, now: float, *, has_keys: bool) -> None:
        """Plan the next fetch after one that failed: soon while there are no keys."""
        wait = REFRESH_SECONDS if has_keys else min(2.0**self._failures, MAX_RETRY_SECONDS)
        self._failures = min(self._failures + 1, 10)
        self.due_at = now + wait


class KeyCache:
    """The keys of one process, and the thread that fetches them."""

    def __init__(self, url: str, *, needed: Callable[[], bool] = lambda: True) -> None:
        self._url = url
        self._keys: Keys | None = None
        self._changed = threading.Condition()
        self._schedule = Schedule(time.monotonic())
        self._ended = 0
        self._answer_by = time.monotonic() + MAX_SECONDS
        self._log = RateLimitedLog()
        self._thread = Periodic("synckit-key-set", 0.0, self._refresh, needed, pause=self._wait_until_due)

    def check(self) -> None:
        """Raise KeysUnavailable if no fetch has succeeded yet."""
        if self._keys is None:
            self._first_keys()

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """Return the key to use, None if there is none; raises KeysUnavailable."""
        keys = self._keys or self._first_keys()
        if not keys.knows(kid):
            keys = self._keys_after_asking()
        return keys.find(kid, algorithm)

    def _first_keys(self) -> Keys:
        """Return the keys once the first fetch has ended; after one that failed, do not wait for another."""
        self._ensure_thread()
        with self._changed:
            self._wait_for_fetch(1)
        if self._keys is None:
            raise KeysUnavailable
        return self._keys

    def _keys_after_asking(self) -> Keys:
        """Return the keys after a fetch for an unknown kid, or after the one that runs; at once if none is allowed."""
        self._ensure_thread()
        with self._changed:
            now = time.monotonic()
            is_due = self._schedule.due_at <= now  # then it runs, or is about to
            if not is_due and self._schedule.ask(now):
                is_due, self._answer_by = True, now + MAX_SECONDS
            if is_due:
                self._changed.notify_all()
                self._wait_for_fetch(self._ended + 1)
            return self._keys or Keys({})

    def _wait_for_fetch(self, number: int) -> None:
        """Wait for the end of this fetch, until 5 s after its begin: only name resolution may take longer."""
        while self._ended < number and (left := self._answer_by - time.monotonic()) > 0:
            self._changed.wait(left)

    def _ensure_thread(self) -> None:
        try:
            self._thread.ensure()
        except RuntimeError as error:  # no thread can be started now
            raise KeysUnavailable from error

    def _wait_until_due(self, _: float) -> None:
        with self._changed:
            while (left := self._schedule.due_at - time.monotonic()) > 0:
                self._changed.wait(left)
            self._answer_by = time.monotonic() + MAX_SECONDS

    def _refresh(self) -> None:
        keys: Keys | None = None
        try:
            keys = run_in_native_thread(fetch, self._url)
        except (DownloadFailed, UnusableKey) as error:
            self._log_failure(error)
        finally:
            with self._changed:
                self._ended += 1
                if keys is None:
                    self._schedule.failed(time.monotonic(), has_keys=self._keys is not None)
                else:
                    self._keys = keys
                    self._schedule.fetched(time.monotonic())
                self._changed.notify_all()
        if keys is not None:
            self._log_skipped(keys)

    def _log_failure(self, error: Exception) -> None:
        effect = "the keys fetched before stay in use" if self._keys else "until then tokens are answered with 503"
        line = "the key set at %s cannot be used: %s; it will be fetched again, %s"
        self._log.error("failed", line, _shown(self._url), error, effect)

    def _log_skipped(self, keys: Keys) -> None:
        if keys.skipped:
            line = "the key set at %s has keys that are not used: %s"
            self._log.write(logging.WARNING, "skipped", line, _shown(self._url), "; ".join(keys.skipped)[:500])


def _shown(url: str) -> str:
    """Return the URL for a log, without its query, which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
