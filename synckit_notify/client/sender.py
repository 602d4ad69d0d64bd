"""The sender of the queue, for `push` and for `run`: one batch at a time, in order.

In: the session and the state with its queue. Out: requests, and the answers kept in the queue. Thread-safe: of several
threads that send, one sends and the others wait, so that no batch overtakes another.
"""

import threading
from collections.abc import Iterable
from datetime import datetime

from .cancellable import holding
from .conflicts import ReadAgain
from .errors import ServerError
from .models import ChangeEntry
from .queue import Batch
from .serialization import Keys, batches, digest, member, moment
from .session import Session
from .state import State


class Sender:
    """Queues and sends the changes of one installation."""

    def __init__(self, session: Session, state: State, keys: Keys) -> None:
        self._session, self._state, self._keys = session, state, keys
        self._sending = threading.Lock()

    def push(self, entries: Iterable[ChangeEntry]) -> int:
        """Queue the changes, send the whole queue, and return the server's cursor after it.

        If the log must be read first, the next pull reads it from its start, and ServerError is raised.
        """
        entries = list(entries)
        if entries:
            sealed = list(batches(entries, self._keys.codec(), self._session.account()))
            self._state.queue.add(digest(entries), sealed)
        self._state.device_id()  # raises StateError also where nothing is queued
        while (batch := self._state.queue.next()) is not None:
            try:
                self.send(batch)
            except ServerError as error:
                again = ReadAgain.asked_by(error)
                if again is None:
                    raise
                self._state.restart(self._state.position()[0])
                raise again.as_error() from error
        return self._state.pushed_to()

    def send(self, batch: Batch) -> datetime | None:
        """Send a batch that is the next of the queue, unless another thread did; return the server's time if told."""
        with holding(self._sending):
            following = self._state.queue.next()
            if following is None or following.push_id != batch.push_id:
                return None
            device_id = self._state.device_id()
            body = {"device_id": device_id, "push_id": batch.push_id, "changes": batch.changes}
            answer = self._session.call("POST", "/api/sync/push", body, idempotent=True)
            cursor = member(answer, "cursor", int)
            told = {name: moment(answer, name) for name in ("received_at", "server_time") if name in answer}
            server_time = told.get("server_time")
            self._state.queue.finish(batch.push_id, cursor, told.get("received_at", server_time), device_id)
            return server_time

    def discard(self) -> int:
        """Drop the queue, and return the number of its changes; waits for a batch that is being sent."""
        with holding(self._sending):
            return self._state.queue.discard()
