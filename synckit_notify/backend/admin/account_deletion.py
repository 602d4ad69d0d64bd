"""Disabling an account until it is enabled again, and deleting it with all its data.

    delete:  disable ──▶ end the streams ──▶ changes, some at a time ──▶ everything else in one transaction

For a disabled account the correct password is refused like a wrong one, and so is every token, whenever it was issued.
Its data stay. Deletion may take long, and pushes must not wait for it. If it is interrupted, the account stays
disabled, and deleting it again continues. Only the account's id is kept, without anything that identifies the person: a
token without a session may name it until it expires, and must be refused.
"""

import time
from collections.abc import Callable

from sqlalchemy import Connection, delete, func, select, union

from .. import accounts, sessions
from ..accounts import DISABLED
from ..database.schema import apps, changes, codes, devices, envelopes, heads, pushes, users, winners
from ..database.schema import sessions as session_rows
from ..database.store import Store
from ..errors import Conflict
from ..sessions import Holder

CHANGES_AT_ONCE = 2_000
"""Deleting these takes 0.1 s on SQLite, during which all pushes wait."""


def disable(connection: Connection, user_id: str) -> set[Holder]:
    """Refuse the user's password and tokens; return the sessions whose streams must end. Raises NotFound."""
    ended = sessions.log_out(connection, user_id)
    connection.execute(users.update().where(users.c.id == user_id).values(valid_since=DISABLED))
    synced = select(heads.c.app_id).where(heads.c.user_id == user_id)
    every = connection.execute(union(synced, select(apps.c.id))).scalars()
    return ended | {Holder(app, user_id, None) for app in every}


def enable(connection: Connection, user_id: str) -> None:
    """Let a disabled user log in again; older tokens stay refused. Raises Conflict if the user is not disabled."""
    since = int(time.time()) + 1
    mine = users.update().where(users.c.id == user_id, users.c.valid_since == DISABLED)
    if connection.execute(mine.values(valid_since=since)).rowcount == 0:
        raise Conflict("this account is not disabled")


def count_changes(connection: Connection, user_id: str) -> int:
    """Return how many changes a user has stored."""
    stored = select(func.count()).select_from(changes).where(changes.c.app_id == heads.c.app_id)
    of_app = stored.where(changes.c.user_id == heads.c.user_id).correlate(heads).scalar_subquery()
    mine = select(func.coalesce(func.sum(of_app), 0)).where(heads.c.user_id == user_id)
    return int(connection.execute(mine).scalar_one())


def delete_account(store: Store, user_id: str, deleted: Callable[[int], None]) -> None:
    """Delete a disabled user with all data. `deleted` is called with the number of changes of each transaction."""
    while count := store.write(lambda connection: _delete_changes(connection, user_id)):
        deleted(count)
    store.write(lambda connection: _delete_rest(connection, user_id))


def _delete_changes(connection: Connection, user_id: str) -> int:
    """Delete some changes, and the push ids of the devices that pushed them. Return the number of changes."""
    for app in connection.execute(select(heads.c.app_id).where(heads.c.user_id == user_id)).scalars().all():
        mine = (changes.c.app_id == app, changes.c.user_id == user_id)
        first = connection.execute(select(func.min(changes.c.seq)).where(*mine)).scalar()
        if first is not None:
            some = (*mine, changes.c.seq < first + CHANGES_AT_ONCE)
            pushed_by = select(changes.c.device_id).where(*some)
            connection.execute(delete(pushes).where(pushes.c.device_id.in_(pushed_by)))
            mine_won = (winners.c.app_id == app, winners.c.user_id == user_id)
            connection.execute(delete(winners).where(*mine_won, winners.c.seq < first + CHANGES_AT_ONCE))
            return connection.execute(delete(changes).where(*some)).rowcount
    return 0


def _delete_rest(connection: Connection, user_id: str) -> None:
    accounts.hold(connection, user_id)
    for table in (codes, devices, session_rows, envelopes):
        connection.execute(delete(table).where(table.c.user_id == user_id))
    # A push in flight holds the lock of its head. Once this transaction has the lock, that push has committed.
    logs = connection.execute(delete(heads).where(heads.c.user_id == user_id).returning(heads.c.app_id)).scalars().all()
    for table in (changes, winners):
        connection.execute(delete(table).where(table.c.app_id.in_(logs), table.c.user_id == user_id))
    nobody = {"email": user_id, "password_hash": "", "valid_since": DISABLED, "created_at": 0}
    connection.execute(users.update().where(users.c.id == user_id).values(nobody))
