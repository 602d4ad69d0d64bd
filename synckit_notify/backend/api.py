"""The HTTP API of the backend: one view for each endpoint of docs/protocol.md, JSON in and out.

Each view authenticates the request, reads a Body, runs one transaction and returns the response. `payloads.py` declares
what a body and an answer hold. The token is checked first: without a valid one the body is not parsed. A push is
announced after its commit. Every error is raised as a Refused, which an error handler of the application turns into
JSON.
"""

from typing import Any, TypeVar

from flask import Blueprint, Response, request
from sqlalchemy import Connection, Row

from .. import Principal
from . import accounts, changelog, keys, payloads, pulls, rate_limit, request_limits, request_parsing, sessions, winners
from .access_tokens import TOKEN_SECONDS
from .changelog import Change, Query
from .context import current_backend
from .database.schema import now
from .errors import Conflict
from .passwords import hash_password
from .payloads import MAX_ID_CHARACTERS
from .request_fields import Body, check_text, rfc3339
from .sessions import Holder, Session

B = TypeVar("B", bound=Body)

blueprint = Blueprint("synckit_backend", __name__)


@blueprint.post("/auth")
def auth() -> payloads.LoggedIn:
    """Exchange an e-mail, a password and an app's API key for a token, and begin a session."""
    backend = current_backend()
    body = _read(payloads.LogIn)
    app, user = accounts.log_in(
        backend.store,
        email=body.email,
        password=body.password,
        api_key=body.api_key,
        check_rate_limit=rate_limit.check_rate_limit,
        address=rate_limit.client_address(),
    )

    def begin(connection: Connection) -> Session:
        accounts.require_unchanged(connection, user)
        return sessions.begin(connection, app, user.id, device=body.device_id)

    return _logged_in(backend.store.write(begin, owner=user.id))


@blueprint.post("/password")
def change_password() -> payloads.LoggedIn:
    """Change the password, end all sessions, and answer as a log-in for the device that sent the request."""
    who = _principal()
    body = _read(payloads.PasswordChange)
    backend = current_backend()
    address = rate_limit.client_address()
    user = accounts.require_password(backend.store, who.user, body.old_password, rate_limit.check_rate_limit, address)
    new_hash = hash_password(body.new_password, accounts.hashing_owners(user.email, address))

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
def register_device() -> payloads.Device:
    """Register a device, or update the one with the same installation id or name."""
    who = _principal()
    body = _read(payloads.Registration)

    def register(connection: Connection) -> Row[Any]:
        accounts.require_enabled(connection, who.user)
        device = accounts.register_device(
            connection,
            who.app,
            who.user,
            name=body.device_name,
            platform=body.platform,
            installation_id=body.installation_id,
        )
        if who.session is not None:
            sessions.bind(connection, who.session, device.id)
        return device

    return _device(current_backend().store.write(register, owner=who.user))


@blueprint.get("/devices")
def list_devices() -> payloads.Devices:
    """Return one page of the user's devices in this app, ordered by id."""
    who = _principal()
    query = payloads.DevicesQuery(request.args)
    found = current_backend().store.read(
        lambda connection: accounts.list_devices(
            connection, who.app, who.user, after=query.after, most=query.limit + 1
        ),
        owner=who.user,
    )
    return {"devices": [_listed(device) for device in found[: query.limit]], "has_more": len(found) > query.limit}


@blueprint.delete("/devices/<device_id>")
def delete_device(device_id: str) -> Response:
    """Delete a device, and end its sessions and streams."""
    who = _principal()
    check_text(device_id, "id", MAX_ID_CHARACTERS)
    backend = current_backend()
    holder = backend.store.write(
        lambda connection: sessions.delete_device(connection, who.app, who.user, device_id), owner=who.user
    )
    backend.notifier.disconnect(*holder)
    return Response(status=204)


@blueprint.post("/push")
def push() -> payloads.Pushed:
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
def pull() -> payloads.Pulled:
    """Return changes after a cursor."""
    who = _principal()
    body = _read(payloads.Pull)
    query = Query(
        cursor=body.cursor,
        limit=body.limit,
        tables=body.tables,
        since=body.since,
        until=body.until,
        epoch=body.epoch,
        latest=body.latest,
        confirmed=body.confirmed,
    )
    backend = current_backend()
    page = pulls.pull(backend.store, who.app, who.user, body.device_id, query)
    if page.device is not None:
        backend.last_seen.get().note(body.device_id, page.device, page.confirmed)
    return {
        "changes": [_pulled(row) for row in page.rows],
        "cursor": page.cursor,
        "has_more": page.has_more,
        "server_time": rfc3339(page.complete_until),
        "epoch": page.epoch,
    }


@blueprint.get("/status")
def status() -> payloads.Status:
    """Return the cursor of the newest change, the epoch, and the log mode of the app."""
    who = _principal()
    cursor, epoch, log = current_backend().store.read(
        lambda connection: changelog.status(connection, who.app, who.user), owner=who.user
    )
    return {"change_count": cursor, "cursor": cursor, "epoch": epoch, "log": log}


@blueprint.put("/keys")
def put_keys() -> payloads.EnvelopeVersion:
    """Store the envelope of the user's master key; other devices are not notified."""
    who = _principal()
    body = _read(payloads.NewEnvelope)

    def put(connection: Connection) -> int:
        accounts.require_enabled(connection, who.user)
        if body.expected_version is None:
            return keys.create(connection, who.app, who.user, body.envelope)
        return keys.replace(connection, who.app, who.user, body.envelope, body.expected_version)

    return {"version": current_backend().store.write(put, owner=who.user)}


@blueprint.get("/keys")
def get_keys() -> payloads.Envelope:
    """Return the envelope of the user's master key."""
    who = _principal()
    envelope, version = current_backend().store.read(
        lambda connection: keys.fetch(connection, who.app, who.user), owner=who.user
    )
    return {"envelope": envelope, "version": version}


def _principal() -> Principal:
    return current_backend().notifier.authenticate(request)


def _read(kind: type[B]) -> B:
    request.max_content_length = kind.most_bytes
    return kind(request_parsing.parse(request_limits.read(request)))


def _pushed() -> tuple[str, str | None, list[Change]]:
    """Return device, push id and changes; the parsed JSON, which needs more memory, is freed on return."""
    body = _read(payloads.Push)
    return body.device_id, body.push_id, [_change(sent) for sent in body.changes]


def _logged_in(session: Session) -> payloads.LoggedIn:
    signer = current_backend().signer
    return {
        "token": signer.sign(session.app, session.user, session=session.id, valid_since=session.valid_since),
        "user_id": session.user,
        "app_id": session.app,
        "expires_in": TOKEN_SECONDS,
        "refresh_token": session.refresh_token,
    }


def _change(sent: payloads.PushedChange) -> Change:
    timestamp, instant = sent.timestamp
    return Change(sent.table, sent.op, sent.row_id, timestamp, sent.data, instant)


def _pulled(row: Row[Any]) -> payloads.PulledChange:
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


def _device(row: Row[Any]) -> payloads.Device:
    return {"id": row.id, "device_name": row.name, "created_at": rfc3339(row.created_at)}


def _listed(row: Row[Any]) -> payloads.ListedDevice:
    seen_at = None if row.last_seen_at is None else rfc3339(row.last_seen_at)
    return {**_device(row), "platform": row.platform, "last_seen_at": seen_at}
