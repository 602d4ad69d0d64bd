"""`client.run` or `client.follow` in a thread, with a record of what it tells."""

import threading
from collections.abc import Callable
from typing import Any

from synckit_notify.client import PulledChange, RefusedChange, RunState, Store, SyncKitClient, UnreadableChange

from .wait import until


class Runner:
    """A context manager that runs the client on a store, or on the `apply` of `follow`, and closes the client."""

    def __init__(
        self, client: SyncKitClient, store: Store | Callable[[list[PulledChange]], object], **options: Any
    ) -> None:
        self.client, self.error = client, None
        self.states: list[tuple[RunState, str]] = []
        self.refused: list[RefusedChange] = []
        self.unreadable: list[UnreadableChange] = []
        work: Any = client.follow if callable(store) else client.run
        reports = {
            "on_state": lambda state, reason: self.states.append((state, reason)),
            "on_refused": self.refused.append,
            "on_unreadable": self.unreadable.append,
        }

        def run() -> None:
            try:
                work(store, **(reports | options))
            except Exception as error:
                self.error = error

        self.error: Exception | None
        self.thread = threading.Thread(target=run, daemon=True)

    @property
    def state(self) -> RunState | None:
        """What it does now."""
        return self.states[-1][0] if self.states else None

    def is_in_step(self) -> bool:
        """Return whether there is nothing to do."""
        return self.state is RunState.UP_TO_DATE and self.client.pending_changes == 0

    def settles(self, seconds: float = 20.0) -> bool:
        """Return whether it comes to have nothing to do within this time."""
        return until(self.is_in_step, seconds)

    def told(self, state: RunState) -> list[str]:
        """Return the reasons that were told with this state."""
        return [reason for told, reason in self.states if told is state]

    def __enter__(self) -> "Runner":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
