"""Brokers on a real server, and what they heard."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.brokers import Broker, connect

from ..support.broker_servers import (
    ENGINES,
    REMOTE,
    LocalServer,
    PostgresServer,
    RedisServer,
    RemoteServer,
    Server,
    running,
)
from ..support.brokers import MakeBroker, MakeProcess, Process
from ..support.postgresql import PostgreSQL
from ..support.server import free_port
from ..support.tcp_proxy import Proxy
from ..support.valkey import Valkey
from ..support.wait import until


@pytest.fixture(scope="session")
def _postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL(port=free_port()) as server:
        yield server


@pytest.fixture
def postgresql_server(_postgresql: PostgreSQL) -> Iterator[PostgresServer]:
    """One server of PostgreSQL for the tests of this process; it runs again after each of them."""
    server = PostgresServer(_postgresql)
    yield server
    _postgresql.resume()
    if not _postgresql.is_running():
        _postgresql.start()
    server.cut_listeners()
    server.cut_senders()


@pytest.fixture
def local_server() -> Iterator[LocalServer]:
    """A folder with a short name; pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="sk") as path:
        yield LocalServer(Path(path, "sockets"))


@pytest.fixture
def redis_server(valkey: Valkey) -> RedisServer:
    return RedisServer(valkey)


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest) -> Server:
    """The server of each engine in turn."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(params=REMOTE)
def remote_server(request: pytest.FixtureRequest) -> RemoteServer:
    """The server of each engine that has a process and a TCP port, in turn."""
    server: RemoteServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def second_server(remote_server: RemoteServer, tmp_path: Path) -> Iterator[RemoteServer]:
    """Another server of the same engine."""
    (tmp_path / "second").mkdir()
    with running("postgresql" if isinstance(remote_server, PostgresServer) else "redis", tmp_path / "second") as second:
        yield second


@pytest.fixture
def proxy(remote_server: RemoteServer) -> Iterator[Proxy]:
    with Proxy(remote_server.port) as proxy:
        yield proxy


@pytest.fixture
def broker() -> Iterator[MakeBroker]:
    """Make brokers that are closed after the test."""
    made: list[Broker] = []

    def make(url: str, namespace: str = "synckit", **options: Any) -> Broker:
        made.append(connect(url, namespace, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def process(broker: MakeBroker) -> MakeProcess:
    """Make brokers that listen, as if in processes of their own, ready to hear each other."""

    def make(url: str, namespace: str = "synckit", **options: Any) -> Process:
        process = Process(broker(url, namespace, **options))
        assert until(process.ready)
        return process

    return make
