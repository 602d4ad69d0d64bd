"""The devices of the account that is logged in, by the routes of the server. Only the client uses this file."""

from urllib.parse import quote

from .errors import ProtocolError
from .models import Device
from .serialization import read_devices
from .session import Session

PATH = "/api/sync/devices"

MAX_PAGES = 100
"""Upper bound of the pages that are requested, so that no server can keep a client busy without end."""


def list_devices(session: Session) -> list[Device]:
    """Return all devices, ordered by id; raises what the session's `call` raises."""
    found: list[Device] = []
    path = PATH
    for _ in range(MAX_PAGES):
        page, has_more = read_devices(session.call("GET", path, idempotent=True))
        found += page
        if not has_more:
            return found
        path = f"{PATH}?after={quote(page[-1].id, safe='')}"
    raise ProtocolError(f"the server's list of devices has more than {MAX_PAGES} pages")


def delete_device(session: Session, device_id: str) -> None:
    """Delete a device; raises what the session's `call` raises."""
    session.call("DELETE", f"{PATH}/{quote(device_id, safe='')}", idempotent=True)
