"""A real PgBouncer in transaction mode before a PostgreSQL server of the tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .postgresql import PostgreSQL, unprivileged
from .programs import need
from .server import free_port
from .wait import until


@contextmanager
def pgbouncer(postgresql: PostgreSQL, sessions: int) -> Iterator[str]:
    """Return the URL of the server's database through a pooler that has this many connections to it."""
    program = need("pgbouncer", Path("/usr/sbin"))
    port = free_port()
    folder = postgresql.folder / "pgbouncer"
    folder.mkdir()
    server_port = "" if postgresql.port is None else f"port={postgresql.port}"
    (folder / "ini").write_text(f"""
[databases]
postgres = host={postgresql.folder} {server_port} dbname=postgres user=synckit
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
""")
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(unprivileged([program, str(folder / "ini")]), stderr=log)
    try:
        assert until(lambda: "process up" in (folder / "log").read_text(), 20.0), (folder / "log").read_text()
        yield f"postgresql://synckit:secret@127.0.0.1:{port}/postgres"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
