"""The HTTP API of the backend: one view for each endpoint of docs/protocol.md, JSON in and out.

Each view authenticates the request, reads the fields of the body, runs one transaction and returns the response. The
token is checked first: without a valid one the body is not parsed. A push is announced after its commit. Every error is
raised as a Refused, which an error handler of the application turns into JSON.
"""

from typing import Any

from flask import Blueprint, Response, request
from sqlalchemy import Connection, Row

from .. import Principal
from . import accounts, changelog, keys, pulls, rate_limit, request_fields, request_limits, sessions, winners
from .access_tokens import TOKEN_SECONDS
from .changelog import Change, Query
from .context import current_backend
from .database.schema import now
from .errors import Conflict, InvalidField
from .passwords import MAX_PASSWORD_CHARACTERS, hash_password
from .request_fields import Fields, rfc3339
from .sessions import Holder, Session

MAX_ID_CHARACTERS = 128
MAX_TABLES = 100
DEVICES_LISTED, MAX_DEVICES_LISTED = 100, 200
"""The default and the maximum number of devices in one page."""

MAX_DATA_BYTES = 256 * 1024
MAX_QUERY_BYTES = 256 * 1024
"""A hundred table names with every character escaped take 150 KiB."""

Answer = dict[str, Any]

blueprint = Blueprint("synckit_backend", __name__)


@blueprint.post("/auth")
def auth() -> Answer:
    """Exchange an e-mail, a password and an app's API key for a token, and begin a session."""
    backend = current_backend()
    body = _body()
    device = body.optional_text("device_id", longest=MAX_ID_CHARACTERS)
    app, user = accounts.log_in(
        backend.store,
        email=body.text("email", longest=accounts.MAX_EMAIL_CHARACTERS),
        password=body.text("password", longest=MAX_PASSWORD_CHARACTERS),
        api_key=body.text("api_key", longest=MAX_ID_CHARACTERS),
        check_rate_limit=rate_limit.check_rate_limit,
        address=rate_limit.client_address(),
    )

    def begin(connection: Connection) -> Session:
        accounts.require_unchanged(connection, user)
        return sessions.begin(connection, app, user.id, device=device)

    return _logged_in(backend.store.write(begin, owner=user.id))


@blueprint.post("/password")
def change_password() -> Answer:
    """Change the password, end all sessions, and answer as a log-in for the device that sent the request."""
    who = _principal()
    body = _body()
    backend = current_backend()
    old, new = (body.text(name, longest=MAX_PASSWORD_CHARACTERS) for name in ("old_password", "new_password"))
    address = rate_limit.client_address()
    user = accounts.require_password(backend.store, who.user, old, rate_limit.check_rate_limit, address)
    new_hash = hash_password(new, accounts.hashing_owners(user.email, address))

    def change(connection: Connection) -> tuple[set[Holder], Session]:
        accounts.require_unchanged(connection, user)
        device = sessions.device_of(connection, who.session)
        ended = sessions.set_password(connection, user.id, new_hash)
        return ended, sessions.begin(connection, who.app, user.id, device=device)

    ended, session = backend.store.write(change, owner=who.user)
    for holder in ended | {Holder(who.app, user.id, None)}:
        backend.notifier.disconnect(*holder)
    return _logged_in(session)


@blueprint.post("/logout")
def log_out() -> Response:
    """End the session of the token: its refresh token, its access tokens and its streams."""
    who = _principal()
    session = who.session
    if session is None:
        raise Conflict("this token belongs to no session: it is valid until it expires")
    backend = current_backend()
    holder = backend.store.write(lambda connection: sessions.end(connection, session), owner=who.user)
    if holder is not None:
        backend.notifier.disconnect(*holder)
    return Response(status=204)


@blueprint.post("/devices")
def register_device() -> Answer:
    """Register a device, or update the one with the same installation id or name."""
    who = _principal()
    body = _body()
    name = body.text("device_name", longest=100)
    platform = body.choice("platform", accounts.PLATFORMS)
    installation = body.optional_text("installation_id", longest=MAX_ID_CHARACTERS)

    def register(connection: Connection) -> Row[Any]:
        accounts.require_enabled(connection, who.user)
        device = accounts.register_device(
            connection, who.app, who.user, name=name, platform=platform, installation_id=installation
        )
        if who.session is not None:
            sessions.bind(connection, who.session, device.id)
        return device

    return _device(current_backend().store.write(register, owner=who.user))


@blueprint.get("/devices")
def list_devices() -> Answer:
    """Return one page of the user's devices in this app, ordered by id."""
    who = _principal()
    asked = Fields(dict(request.args))
    limit = asked.decimal("limit", least=1, most=MAX_DEVICES_LISTED, default=DEVICES_LISTED)
    after = asked.optional_text("after", longest=MAX_ID_CHARACTERS, shortest=0) or ""
    found = current_backend().store.read(
        lambda connection: accounts.list_devices(connection, who.app, who.user, after=after, most=limit + 1),
        owner=who.user,
    )
    return {"devices": [_listed(device) for device in found[:limit]], "has_more": len(found) > limit}


@blueprint.delete("/devices/<device_id>")
def delete_device(device_id: str) -> Response:
    """Delete a device, and end its sessions and streams."""
    who = _principal()
    request_fields.check_text(device_id, "id", MAX_ID_CHARACTERS)
    backend = current_backend()
    holder = backend.store.write(
        lambda connection: sessions.delete_device(connection, who.app, who.user, device_id), owner=who.user
    )
    backend.notifier.disconnect(*holder)
    return Response(status=204)


@blueprint.post("/push")
def push() -> Answer:
    """Append changes to the log and notify the user's other devices."""
    who = _principal()
    backend = current_backend()
    with request_limits.slot(request, who.user):
        device, push_id, pushed = _pushed()
        move = backend.store.write(
            lambda connection: changelog.push(connection, who.app, who.user, device, pushed, push_id),
            owner=who.user,
        )
    if move.device is not None:
        backend.last_seen.get().note(device, move.device)
    backend.notifier.publish(who.app, who.user, device, changed_at=move.changed_at, previous_at=move.previous_at)
    return {"cursor": move.cursor, "received_at": rfc3339(move.received_at), "server_time": rfc3339(now())}


@blueprint.post("/pull")
def pull() -> Answer:
    """Return changes after a cursor."""
    who = _principal()
    body = _body(MAX_QUERY_BYTES)
    device = body.text("device_id", longest=MAX_ID_CHARACTERS)
    query = Query(
        cursor=body.integer("cursor", least=0),
        limit=body.integer("limit", least=1, most=changelog.MAX_CHANGES, default=changelog.MAX_CHANGES),
        tables=body.optional_texts("tables", most=MAX_TABLES, longest=128),
        since=body.optional_instant("since"),
        until=body.optional_instant("until"),
        epoch=body.optional_text("epoch", longest=64),
        latest=body.flag("latest"),
        confirmed=body.optional_integer("confirmed", least=0),
    )
    backend = current_backend()
    page = pulls.pull(backend.store, who.app, who.user, device, query)
    if page.device is not None:
        backend.last_seen.get().note(device, page.device, page.confirmed)
    return {
        "changes": [_pulled(row) for row in page.rows],
        "cursor": page.cursor,
        "has_more": page.has_more,
        "server_time": rfc3339(page.complete_until),
        "epoch": page.epoch,
    }


@blueprint.get("/status")
def status() -> Answer:
    """Return the cursor of the newest change, the epoch, and the log mode of the app."""
    who = _principal()
    cursor, epoch, log = current_backend().store.read(
        lambda connection: changelog.status(connection, who.app, who.user), owner=who.user
    )
    return {"change_count": cursor, "cursor": cursor, "epoch": epoch, "log": log}


@blueprint.put("/keys")
def put_keys() -> Answer:
    """Store the envelope of the user's master key; other devices are not notified."""
    who = _principal()
    body = _body()
    envelope = body.ciphertext("envelope", most_bytes=keys.MAX_ENVELOPE_BYTES)
    if not envelope:
        raise InvalidField("envelope: is missing or empty")
    expected = body.optional_integer("expected_version", least=1)

    def put(connection: Connection) -> int:
        accounts.require_enabled(connection, who.user)
        if expected is None:
            return keys.create(connection, who.app, who.user, envelope)
        return keys.replace(connection, who.app, who.user, envelope, expected)

    return {"version": current_backend().store.write(put, owner=who.user)}


@blueprint.get("/keys")
def get_keys() -> Answer:
    """Return the envelope of the user's master key."""
    who = _principal()
    envelope, version = current_backend().store.read(
        lambda connection: keys.fetch(connection, who.app, who.user), owner=who.user
    )
    return {"envelope": envelope, "version": version}


def _principal() -> Principal:
    return current_backend().notifier.authenticate(request)


def _body(largest: int = request_limits.MAX_SMALL_BODY_BYTES) -> Fields:
    request.max_content_length = largest
    return request_fields.parse(request.get_data(cache=False))


def _pushed() -> tuple[str, str | None, list[Change]]:
    """Return device, push id and changes; the parsed JSON, which needs more memory, is freed on return."""
    body = request_fields.parse(request_limits.read(request))
    pushed = [_change(entry) for entry in body.objects("changes", most=changelog.MAX_CHANGES)]
    return body.text("device_id", longest=MAX_ID_CHARACTERS), body.optional_text("push_id", longest=64), pushed


def _logged_in(session: Session) -> Answer:
    signer = current_backend().signer
    return {
        "token": signer.sign(session.app, session.user, session=session.id, valid_since=session.valid_since),
        "user_id": session.user,
        "app_id": session.app,
        "expires_in": TOKEN_SECONDS,
        "refresh_token": session.refresh_token,
    }


def _change(entry: Fields) -> Change:
    op = entry.choice("op", changelog.OPERATIONS)
    data = entry.ciphertext("data", most_bytes=MAX_DATA_BYTES)
    if data is None and op != "DELETE":
        raise InvalidField(f"{entry.path}data: is missing; only a DELETE may omit it")
    table, row_id = entry.text("table", longest=128), entry.text("row_id", longest=256)
    timestamp, instant = entry.timestamp("timestamp")
    return Change(table, op, row_id, timestamp, data, instant)


def _pulled(row: Row[Any]) -> Answer:
    return {
        "seq": row.seq,
        "device_id": row.device_id,
        "table": row.table_name,
        "op": row.op,
        "row_id": row.row_id,
        "timestamp": row.timestamp,
        "data": row.data,
        "received_at": rfc3339(row.received_at),
        "order_at": rfc3339(winners.order_at(row)),
    }


def _device(row: Row[Any]) -> Answer:
    return {"id": row.id, "device_name": row.name, "created_at": rfc3339(row.created_at)}


def _listed(row: Row[Any]) -> Answer:
    seen_at = None if row.last_seen_at is None else rfc3339(row.last_seen_at)
    return _device(row) | {"platform": row.platform, "last_seen_at": seen_at}
