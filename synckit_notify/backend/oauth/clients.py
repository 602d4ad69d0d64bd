"""Apps as clients of OAuth: what a page tells of one, and at which addresses it may be answered.

Every app may be answered on the loopback of the person's own machine, where no other machine can listen; any other
address is registered before, and compared exactly. Functions on a `connection` are pieces of a transaction.
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
"""Any port and path (RFC 8252, section 7.3); `localhost` too, since upstream's clients use it.

A pattern and no parser: browsers and parsers disagree about whose host `http://evil.example\\@127.0.0.1/` names.
"""

REGISTRABLE = re.compile(r"(?:https://[\w.-]+(?::\d{1,5})?|[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+:)" + _PATH, re.ASCII)
"""A web address with TLS, or a scheme of the app's own: a domain turned round (RFC 8252, section 7.1)."""


@dataclass(frozen=True, slots=True)
class Client:
    """An app that asks."""

    app: str
    name: str
    addresses: frozenset[str]

    def may_be_answered_at(self, address: str) -> bool:
        """Return whether this is one of its addresses."""
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
    """Let an app be answered at an address; raises NotFound, and InvalidField for an address others could listen at."""
    if len(address) > MAX_ADDRESS_CHARACTERS or REGISTRABLE.fullmatch(address) is None:
        raise InvalidField(
            "give https://..., or a scheme of the app's own like com.example.app:/..., without a fragment"
        )
    if connection.execute(select(apps.c.id).where(apps.c.id == app)).first() is None:
        raise NotFound("there is no such app")
    connection.execute(upsert(connection, redirects).values(app_id=app, uri=address).on_conflict_do_nothing())


def forget(connection: Connection, app: str, address: str) -> None:
    """Answer an app no longer at an address; raises NotFound."""
    mine = redirects.delete().where(redirects.c.app_id == app, redirects.c.uri == address)
    if connection.execute(mine.returning(redirects.c.uri)).first() is None:
        raise NotFound("the app has no such address")
