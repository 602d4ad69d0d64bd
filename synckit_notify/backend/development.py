"""Defaults that make a fresh clone work without configuration, in development only: a random key and a demo account.

In: the Flask application, before its settings are read (`provide_key`), and the addresses of a worker that has started
(`offer_demo`). In production there is neither: the operator must set a key.
"""

import ipaddress
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import Connection, select

from .. import ConfigurationError
from ..settings import jwt_keys, with_environment
from . import accounts
from .access_tokens import PASTED_TOKEN_SECONDS
from .context import EXTENSION_NAME, Backend
from .database.schema import ROWS, apps, now
from .database.store import Store
from .errors import Busy
from .passwords import hash_password
from .request_fields import rfc3339
from .settings import is_production

DEMO_APP, DEMO_EMAIL = "Demo", "demo@example.org"
PAGE_APP = "Demo page"
"""The app of the live page and of the printed curl commands. The SDK uses `DEMO_APP`: it encrypts with a key of its
own, so neither could read the changes of the other."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What was stored for the demo: the API key for the SDK, and an app with a device for curl."""

    api_key: str
    user: str
    curl_app: str
    curl_device: str


def provide_key(app: Flask) -> None:
    """Set SYNCKIT_JWT_KEY to a random key kept in the instance folder, in development, unless a key is configured."""
    given = with_environment(app.config)
    if not is_production(given) and not jwt_keys(given):
        app.config["SYNCKIT_JWT_KEY"] = _kept_key(make_folder(app) / "jwt.key")


def make_folder(app: Flask) -> Path:
    """Return the instance folder; create it for its owner only, since it holds a key and password hashes."""
    folder = Path(app.instance_path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot create the folder {folder} ({error.strerror}): set SYNCKIT_DATABASE_URL and SYNCKIT_JWT_KEY"
        ) from error
    return folder


def default_database(app: Flask) -> str:
    """Return the URL of the SQLite file in the instance folder."""
    with suppress(ConfigurationError):  # it may exist later; until then the database is unavailable
        make_folder(app)
    return f"sqlite:///{Path(app.instance_path) / 'synckit.db'}"


def offer_demo(app: Flask, bind_addresses: Iterable[Any]) -> None:
    """Create a demo account in an empty database and print how to try it.

    Only in development, and only if every address (as `getsockname` returns it) is reachable from this machine alone.
    """
    addresses = list(bind_addresses)
    backend: Backend | None = app.extensions.get(EXTENSION_NAME)
    if backend is None or backend.settings.is_production:
        return
    if not addresses or not all(_is_local(address) for address in addresses):
        return
    password = secrets.token_hex(10)  # used on a command line, where a leading dash would begin an option
    try:
        demo = _demo(backend.store, password)
    except Busy:  # the log has the reason; the service starts without a demo
        return
    if demo is not None:
        token = backend.signer.sign(demo.curl_app, demo.user, seconds=PASTED_TOKEN_SECONDS)
        prefix = backend.settings.url_prefix
        print(_instructions(demo, password, token, addresses[0], prefix), flush=True)


def _demo(store: Store, password: str) -> Demo | None:
    """Return the new demo account, or None if the database is not empty."""
    if store.read(_has_apps):
        return None
    password_hash = hash_password(password)
    return store.write_alone(lambda connection: _make_demo(connection, password_hash))


def _kept_key(file: Path) -> str:
    """Return the key in the file, which is written once, however many processes start together."""
    try:
        if not file.exists():
            _write_once(file, secrets.token_hex(32) + "\n")
        return file.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"cannot store a key in {file} ({error.strerror}): set SYNCKIT_JWT_KEY") from error


def _write_once(file: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".jwt.key.") as draft:  # of mode 0600
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
        try:
            os.link(draft.name, file)
        except FileExistsError:
            return  # another process was faster: its key is used


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


def _has_apps(connection: Connection) -> bool:
    return connection.execute(select(apps.c.id).limit(1)).first() is not None


def _make_demo(connection: Connection, password_hash: str) -> Demo | None:
    """Store the demo, unless another worker or an administrator has stored an app meanwhile."""
    if _has_apps(connection):
        return None
    _, api_key = accounts.add_app(connection, DEMO_APP, ROWS)
    page, _ = accounts.add_app(connection, PAGE_APP)
    user = accounts.add_user(connection, DEMO_EMAIL, password_hash)
    device = accounts.register_device(connection, page, user, name="curl", platform="linux", installation_id=None)
    return Demo(api_key, user, page, device.id)


def _instructions(demo: Demo, password: str, token: str, address: Any, prefix: str) -> str:
    base = _curl_base(address, prefix)
    bearer = f"-H 'Authorization: Bearer {token}'"
    change = {"table": "tasks", "op": "INSERT", "row_id": "1", "timestamp": rfc3339(now()), "data": "ciphertext"}
    body = json.dumps({"device_id": demo.curl_device, "changes": [change]})
    return f"""{_page_line(address)}
The database was empty. It now has a demo account:
  e-mail    {DEMO_EMAIL}
  password  {password}
  API key   {demo.api_key}

Listen in one terminal:
curl -N {bearer} {base}/subscribe?app_id={demo.curl_app}'

Push in another, and the first one prints "event: changed":
curl {bearer} -d '{body}' {base}/push'

Or watch two devices that use the SDK, if it is installed:
{_demo_command(demo, password, address)}
"""


def _page_line(address: Any) -> str:
    """Return a line with the address of the live page, empty for a Unix socket, which a browser cannot open."""
    if not isinstance(address, tuple):
        return ""
    return f"\nOpen in a browser to see two devices side by side: http://{_host(address)}:{address[1]}/\n"


def _demo_command(demo: Demo, password: str, address: Any) -> str:
    if not isinstance(address, tuple):
        return "(not over a Unix socket)"
    account = f"--api-key {demo.api_key} --email {DEMO_EMAIL} --password {password}"
    return f"{_program()} demo --url http://{_host(address)}:{address[1]} {account}"


def _program() -> str:
    """Return how to call `synckit` here: it is beside the Python that runs, which need not be on the PATH."""
    beside = Path(sys.executable).with_name("synckit")
    if not beside.exists():
        return "synckit"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)


def _curl_base(address: Any, prefix: str) -> str:
    """Return curl's arguments for the base URL; the quote is left open for the rest of the URL."""
    if not isinstance(address, tuple):
        return f"--unix-socket '{os.fsdecode(address)}' 'http://localhost{prefix}"
    return f"'http://{_host(address)}:{address[1]}{prefix}"


def _host(address: Any) -> str:
    return f"[{address[0]}]" if ":" in address[0] else str(address[0])
