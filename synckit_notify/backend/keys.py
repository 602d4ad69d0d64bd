"""The envelope of a user's master key in one app: an opaque string with a version, which the server cannot open.

Losing an envelope means losing all of the user's data, so a client can replace it only by naming its current version.
Each function is a part of a transaction, to be run by a Store.
"""

from sqlalchemy import ColumnElement, Connection, and_, select

from .database.schema import envelopes, now
from .database.store import upsert
from .errors import Conflict, NotFound

MAX_ENVELOPE_BYTES = 4096
"""Upstream's limit, in bytes."""


def create(connection: Connection, app: str, user: str, envelope: str) -> int:
    """Store the first envelope and return its version; raises Conflict if one is stored already."""
    row = {"app_id": app, "user_id": user, "envelope": envelope, "version": 1, "updated_at": now()}
    statement = upsert(connection, envelopes).values(row).on_conflict_do_nothing().returning(envelopes.c.version)
    version: int | None = connection.execute(statement).scalar()
    if version is None:
        raise Conflict("an envelope is stored already: to replace it, send its version as expected_version")
    return version


def replace(connection: Connection, app: str, user: str, envelope: str, expected_version: int) -> int:
    """Replace exactly this version and return the new one; raises NotFound or Conflict."""
    found = envelopes.update().where(_owned(app, user), envelopes.c.version == expected_version)
    statement = found.values(envelope=envelope, version=envelopes.c.version + 1, updated_at=now())
    version: int | None = connection.execute(statement.returning(envelopes.c.version)).scalar()
    if version is None:
        _, current = fetch(connection, app, user)
        raise Conflict(f"expected_version: the stored envelope has version {current}")
    return version


def fetch(connection: Connection, app: str, user: str) -> tuple[str, int]:
    """Return the envelope and its version; raises NotFound."""
    mine = select(envelopes.c.envelope, envelopes.c.version).where(_owned(app, user))
    row = connection.execute(mine).first()
    if row is None:
        raise NotFound("there is no envelope yet")
    return row.envelope, row.version


def _owned(app: str, user: str) -> ColumnElement[bool]:
    return and_(envelopes.c.app_id == app, envelopes.c.user_id == user)
