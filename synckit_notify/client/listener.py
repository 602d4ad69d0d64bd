"""A stream in a thread of its own, for `run`: it tells of each CHANGED, and another stream follows if one ends.

In: the session. Out: calls of `changed` and of `moved`, and `failure`, an error that waiting cannot cure.
"""

import logging
import random as chance
import threading
from collections.abc import Callable

from .errors import NotAuthenticated, ServerError
from .schedule import FIRST_PROBE_SECONDS, JITTER, RetryPolicy, StreamState
from .stream import StreamSession, SyncNotification, SyncNotifyStream

log = logging.getLogger("synckit_notify.client")


class Listener:
    """Listens until `close`. `changed` is called for each CHANGED, `moved` when anything else may be of interest."""

    def __init__(self, session: StreamSession, changed: Callable[[], object], moved: Callable[[], object]) -> None:
        self.failure: NotAuthenticated | ServerError | None = None
        self.connections = 0
        self.state, self.reason = StreamState.CONNECTING, ""
        self._session, self._changed, self._moved = session, changed, moved
        self._closed = threading.Event()
        self._stream: SyncNotifyStream | None = None

    @property
    def is_live(self) -> bool:
        """Whether changes of other devices are noticed now."""
        return self.state in (StreamState.CONNECTED, StreamState.POLLING)

    def start(self) -> None:
        """Listen in a daemon thread."""
        threading.Thread(target=self._listen, name="synckit-listener", daemon=True).start()

    def close(self) -> None:
        """End the stream; does not wait for the thread."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def _listen(self) -> None:
        policy = RetryPolicy()
        while not self._closed.is_set():
            self._stream = stream = SyncNotifyStream(self._session, on_state=self._announced)
            if self._closed.is_set():
                stream.close()
            pause = FIRST_PROBE_SECONDS * (1 + JITTER * chance.random())
            try:
                for notification in stream:
                    if notification is SyncNotification.CHANGED:
                        self._changed()
            except NotAuthenticated as error:
                self._fail(error)
                return
            except ServerError as error:
                if error.status == 403:
                    self._fail(error)
                    return
            except Exception as error:  # of the state file, say
                log.warning("the stream ended with an error, another one follows: %s", error)
                pause, policy = policy.apply(chance.random())
                self._announced(StreamState.WAITING, str(error))
            finally:
                stream.close()
            self._closed.wait(pause)

    def _fail(self, error: NotAuthenticated | ServerError) -> None:
        self.failure = error
        self._moved()

    def _announced(self, state: StreamState, reason: str) -> None:
        self.state, self.reason = state, reason
        self.connections += state is StreamState.CONNECTED
        self._moved()
