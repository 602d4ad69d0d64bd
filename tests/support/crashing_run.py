"""A process that runs a DictStore and kills itself at one point; without a point it runs until it is in step.

python -m tests.support.crashing_run URL API_KEY FOLDER POINT
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synckit_notify.client import RunState, SyncKitClient
from synckit_notify.client.queue import Queue

from .dict_store import DictStore

BEFORE: dict[str, tuple[type, str]] = {
    "a batch is queued": (Queue, "add_edits"),
    "the answer is kept": (Queue, "finish"),
    "the store knows the answer": (DictStore, "sent"),
    "the answer is forgotten": (Queue, "forget"),
    "changes are applied": (DictStore, "apply"),
}
AFTER: dict[str, tuple[type, str]] = {
    "a batch was queued": (Queue, "add_edits"),
    "the answer was kept": (Queue, "finish"),
    "changes were applied": (DictStore, "apply"),
}


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Let the process die before or after the first call of a method; of `apply`, the first with changes."""
    kind, name = (BEFORE | AFTER)[point]
    method: Callable[..., Any] = getattr(kind, name)

    def call(self: Any, *arguments: Any) -> Any:
        if name == "apply" and not arguments[0]:
            return method(self, *arguments)
        if point in BEFORE:
            die()
        result = method(self, *arguments)
        die()
        return result

    setattr(kind, name, call)


def main(url: str, api_key: str, folder: str, point: str) -> None:
    if point:
        arm(point)
    client = SyncKitClient(url, api_key=api_key, state=Path(folder, "state"), encrypt=False)

    def tell(state: RunState, reason: str) -> None:
        if state is RunState.UP_TO_DATE:
            client.close()

    client.run(DictStore(Path(folder, "rows")), on_state=tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
