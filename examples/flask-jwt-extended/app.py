"""Tasks with Flask-SQLAlchemy and Flask-JWT-Extended: after a commit, the user's other devices are notified.

    flask --app app init-db
    gunicorn -k gevent 'app:create_app()'

Three hooks complete it: `valid_since` refuses tokens that were issued before the user logged out everywhere,
`changed_channels` finds changes whose notice was lost, and `ready_check` tells a load balancer whether the database
answers.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime

from flask import Flask, abort, request
from flask_jwt_extended import JWTManager, create_access_token
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select, text
from werkzeug.security import check_password_hash, generate_password_hash

from synckit_notify import Notifier, Principal

APP_ID = "tasks"
"""The id of the only app of this backend: in its tokens, and in `publish`."""

db = SQLAlchemy()
jwt = JWTManager()
notifier = Notifier()


def now() -> datetime:
    """Return the time as the database stores it: in UTC, without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)


class User(db.Model):  # type: ignore[name-defined, misc]
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(80), unique=True, nullable=False)
    password_hash = db.Column(db.String(200), nullable=False)
    valid_since = db.Column(db.DateTime)


class Change(db.Model):  # type: ignore[name-defined, misc]
    seq = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.ForeignKey(User.id), index=True, nullable=False)
    data = db.Column(db.Text, nullable=False)
    created_at = db.Column(db.DateTime, default=now, index=True, nullable=False)


def create_app(**config: object) -> Flask:
    app = Flask(__name__)
    key = os.environ.get("SECRET_KEY", "an example key, replace it: 32 bytes or more")
    app.config.update(JWT_SECRET_KEY=key, SYNCKIT_JWT_KEY=key)  # one key signs and checks all tokens
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL", "sqlite:///tasks.db")
    app.config.update(config)
    db.init_app(app)
    jwt.init_app(app)
    notifier.init_app(app)
    app.add_url_rule("/login", view_func=login, methods=["POST"])
    app.add_url_rule("/api/sync/push", view_func=push, methods=["POST"])
    app.add_url_rule("/api/sync/pull", view_func=pull)
    app.add_url_rule("/logout-everywhere", view_func=log_out_everywhere, methods=["POST"])
    app.cli.command("init-db")(db.create_all)
    return app


def login() -> dict[str, str]:
    """Return an access token; a new name becomes an account."""
    name, password = request.json["name"], request.json["password"]
    user = db.session.scalar(select(User).where(User.name == name))
    if user is None:
        user = User(name=name, password_hash=generate_password_hash(password))
        db.session.add(user)
        db.session.commit()
    elif not check_password_hash(user.password_hash, password):
        abort(401)
    return {"token": create_access_token(str(user.id), additional_claims={"app": APP_ID})}


def push() -> dict[str, int]:
    principal = notifier.authenticate(request)
    change = Change(user_id=int(principal.user), data=request.json["data"])
    db.session.add(change)
    db.session.commit()
    notifier.publish(APP_ID, principal.user, origin_device=request.json["device_id"])
    return {"cursor": change.seq}


def pull() -> dict[str, list[dict[str, object]]]:
    principal = notifier.authenticate(request)
    later = Change.seq > int(request.args.get("cursor", "0"))
    rows = db.session.scalars(select(Change).where(Change.user_id == int(principal.user), later).order_by(Change.seq))
    return {"changes": [{"seq": row.seq, "data": row.data} for row in rows]}


def log_out_everywhere() -> dict[str, bool]:
    principal = notifier.authenticate(request)
    db.session.get_one(User, int(principal.user)).valid_since = now()
    db.session.commit()
    notifier.disconnect(APP_ID, principal.user)
    return {"logged_out": True}


@notifier.valid_since
def valid_since(principal: Principal) -> datetime | None:
    return db.session.scalar(select(User.valid_since).where(User.id == int(principal.user)))


@notifier.changed_channels
def changed_channels(since: datetime) -> Iterator[tuple[str, str, datetime]]:
    newest = select(Change.user_id, func.max(Change.created_at)).group_by(Change.user_id)
    for user_id, changed_at in db.session.execute(newest.where(Change.created_at >= since.replace(tzinfo=None))):
        yield APP_ID, str(user_id), changed_at


@notifier.ready_check
def ready() -> None:
    db.session.execute(text("SELECT 1"))
