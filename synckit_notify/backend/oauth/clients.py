"""Apps as OAuth clients: their names, and the redirect addresses that they may use.

Every app may use a loopback address, since no other machine can listen there. Every other address must be registered
and is compared exactly. Functions that take a `connection` are parts of a transaction.
"""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, select

from .. import accounts
from ..database.schema import apps, redirects
from ..database.store import upsert
from ..errors import InvalidField, NotFound

MAX_ADDRESS_CHARACTERS = 2048

_PATH = r"(?:/[\w.~!$&'()*+,;=:@%/?-]*)?"
LOOPBACK = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]|localhost)(?::\d{1,5})?" + _PATH, re.ASCII)
"""Any port and path (RFC 8252, section 7.3); `localhost` too, since existing SyncKit clients use it.

A pattern instead of a URL parser: browsers and parsers disagree on the host of `http://evil.example\\@127.0.0.1/`.
"""

REGISTRABLE = re.compile(r"(?:https://[\w.-]+(?::\d{1,5})?|[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+:)" + _PATH, re.ASCII)
"""An https address, or a private-use scheme, which is a reversed domain name (RFC 8252, section 7.1)."""


@dataclass(frozen=True, slots=True)
class Client:
    """An app and its registered redirect addresses."""

    app: str
    name: str
    addresses: frozenset[str]

    def accepts_redirect(self, address: str) -> bool:
        """Return whether the app may be redirected to this address."""
        return LOOPBACK.fullmatch(address) is not None or address in self.addresses


def find(connection: Connection, api_key: str) -> Client | None:
    """Return the app with this API key."""
    app = accounts.find_client(connection, api_key)
    if app is None:
        return None
    name = connection.execute(select(apps.c.name).where(apps.c.id == app)).scalar_one()
    registered = connection.execute(select(redirects.c.uri).where(redirects.c.app_id == app)).scalars()
    return Client(app, name, frozenset(registered))


def register(connection: Connection, app: str, address: str) -> None:
    """Register a redirect address of an app; raise NotFound, and InvalidField for an address that is not safe."""
    if len(address) > MAX_ADDRESS_CHARACTERS or REGISTRABLE.fullmatch(address) is None:
        raise InvalidField(
            "the address must be https://... or use the app's own scheme, like com.example.app:/..., without a fragment"
        )
    if connection.execute(select(apps.c.id).where(apps.c.id == app)).first() is None:
        raise NotFound("there is no such app")
    connection.execute(upsert(connection, redirects).values(app_id=app, uri=address).on_conflict_do_nothing())


def forget(connection: Connection, app: str, address: str) -> None:
    """Remove a redirect address of an app; raise NotFound."""
    mine = redirects.delete().where(redirects.c.app_id == app, redirects.c.uri == address)
    if connection.execute(mine.returning(redirects.c.uri)).first() is None:
        raise NotFound("the app has no such address")
