"""SDK clients that talk to a scripted server, with one state file; and the changes and answers that scripts need."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from synckit_notify.client.client import SyncKitClient
from synckit_notify.client.models import ChangeEntry

from .scripted_server import API_KEY, AUTH, DEVICES, KEYS, PASSWORD, PULL, PUSH, Answer, FakeClock, Script

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
AT_TEXT = "2026-01-31T12:00:00.000000Z"
LOGIN = {"token": "access", "user_id": "alice", "app_id": "notes", "expires_in": 1e9, "refresh_token": "refresh"}
LAPTOP = {"id": "d1", "device_name": "Laptop", "created_at": AT_TEXT}


def action(row: object = 1, **fields: Any) -> ChangeEntry:
    """Return a change to push."""
    return ChangeEntry(**{"table": "tasks", "op": "INSERT", "row_id": str(row), "timestamp": AT, "data": row} | fields)


def pulled(seq: int, device: str = "d2", **fields: object) -> dict[str, object]:
    """Return a change as the server answers it to a pull."""
    change = {"table": "tasks", "op": "INSERT", "row_id": str(seq), "timestamp": AT_TEXT, "data": str(seq)}
    return change | {"seq": seq, "device_id": device, "received_at": AT_TEXT} | fields


def page(*changes: dict[str, object], cursor: int, more: bool = False, epoch: str = "e1", **fields: object) -> Answer:
    """Return an answer to a pull."""
    answer = {"changes": list(changes), "cursor": cursor, "has_more": more, "epoch": epoch, "server_time": AT_TEXT}
    return Answer(answer | fields)


class ScriptedClients:
    """Makes clients with one state file, each with a script of its own; a second client is the app started again."""

    def __init__(self, folder: Path) -> None:
        self.file, self.clock = folder / "tasks.state", FakeClock()
        self.server = Script({})
        self._open: list[SyncKitClient] = []

    def open(
        self, *, encrypt: bool = False, strict: bool = False, registered: bool = True, **steps: list[Any]
    ) -> SyncKitClient:
        """Return a client whose server follows these steps; logged in and registered first unless told otherwise."""
        places = {"push": PUSH, "pull": PULL, "devices": DEVICES, "keys": KEYS, "auth": AUTH}
        self.server = Script({places[name]: told for name, told in steps.items()})
        made = SyncKitClient(
            "http://server",
            api_key=API_KEY,
            state=self.file,
            encrypt=encrypt,
            strict=strict,
            http=httpx2.Client(transport=self.server),
            clock=self.clock.time,
            wait=self.clock.wait,
        )
        self._open.append(made)
        if registered and made._state.device() is None:
            self.server.steps |= {AUTH: [Answer(LOGIN)], DEVICES: [Answer(LAPTOP), *self.server.steps.get(DEVICES, [])]}
            made.authenticate("alice@example.org", PASSWORD)
            made.register_device("Laptop", "linux")
            self.server.asked.clear()
        return made

    def close(self) -> None:
        for client in self._open:
            client.close()
