"""The backend on a new SQLite database, whose tables are copied: creating them takes as long as the rest of the start.

tests/backend/test_sqlite.py, test_store.py and the tests that start servers create them.
"""

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask

from synckit_notify.backend import create_app
from synckit_notify.backend.database import schema

from .tokens import KEY


def make_app(config: Mapping[str, Any], folder: Path) -> Flask:
    """Return the backend with this instance folder; on the database that it holds, or else on an empty one."""
    file = folder / "synckit.db"
    if "SYNCKIT_DATABASE_URL" not in config and not file.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(_prepared_file())
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("UPDATE meta SET epoch = ?", (schema.new_epoch(),))
    return create_app(config, instance_path=folder)


@cache
def _prepared_file() -> bytes:
    """Return the file of a database with its tables and no row, made once in this process."""
    with tempfile.TemporaryDirectory(prefix="synckit-empty-") as folder:
        app = create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=folder)
        app.extensions["synckit_backend"].store.dispose()
        return Path(folder, "synckit.db").read_bytes()
