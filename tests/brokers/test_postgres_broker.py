"""What only PostgreSQL has: poolers, standbys, several hosts, its own queue, and statements in flight."""

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from synckit_notify.backend import create_app
from synckit_notify.backend.settings import default_broker_url
from synckit_notify.brokers import Notice, connect
from synckit_notify.brokers.engine import ConnectionLost, Signal
from synckit_notify.brokers.messages import MAX_MESSAGE_BYTES, encode
from synckit_notify.brokers.postgres import MAX_CHANNEL_BYTES, PostgresConnection, PostgresEngine, channel_name
from synckit_notify.errors import ConfigurationError
from synckit_notify.sse import CHANGED, CONNECTED

from ..support.backend import Caller, make_clone, over_http, start
from ..support.broker_servers import PostgresServer
from ..support.brokers import QUICK, Heard, MakeBroker, MakeProcess
from ..support.pgbouncer import pgbouncer
from ..support.postgresql import PostgreSQL
from ..support.raw_client import Listener
from ..support.server import ROOT, free_port
from ..support.tcp_proxy import Proxy
from ..support.tokens import KEY, make_token
from ..support.wait import until

ALICE, BOB = Notice("notes", "alice"), Notice("notes", "bob")
POOLER = "LISTEN does not work through this pooler: give SYNCKIT_BROKER_URL a direct address, Redis or local://"


@pytest.fixture
def server(postgresql_server: PostgresServer) -> PostgresServer:
    return postgresql_server


@pytest.fixture
def connection(server: PostgresServer) -> Iterator[PostgresConnection]:
    connection = PostgresEngine(server.url, "synckit", timeout=5.0).connect()
    yield connection
    connection.close()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_spelling_of_the_scheme_is_read(scheme: str, server: PostgresServer, process: MakeProcess) -> None:
    one, other = process(server.url.replace("postgresql", scheme)), process(server.url)
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])


@pytest.mark.parametrize("url", ["postgresql://[", "postgresql://u:hunter2%zz@h/d", "postgresql://u:hunter2@h/d?x=y"])
def test_a_url_that_libpq_cannot_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_BROKER_URL must be postgresql://") as refused:
        connect(url)
    assert "hunter2" not in str(refused.value)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match='invalid URI query parameter: "pool_size"'):
        connect("postgresql://localhost/db?pool_size=5")


def test_without_psycopg_the_error_names_what_to_install() -> None:
    code = "import sys; sys.modules['psycopg'] = None; from synckit_notify.brokers import connect; connect('postgresql://')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "ConfigurationError: SYNCKIT_BROKER_URL needs psycopg" in run.stderr
    assert "pip install 'synckit-notify[postgres]'" in run.stderr


def test_a_host_name_is_resolved_and_the_first_host_that_answers_is_used(
    server: PostgresServer, process: MakeProcess
) -> None:
    hosts = f"unknown.invalid,127.0.0.1,localhost&port=1,{free_port()},{server.port}"
    one, other = process(f"postgresql://synckit@/postgres?host={hosts}"), process(server.url)
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])


@pytest.mark.parametrize("namespace", ["synckit", "n" * 55, "n" * 56, "ä", 'a"b'])
def test_a_channel_fits_into_an_identifier(namespace: str) -> None:
    assert len(channel_name(namespace).encode()) <= MAX_CHANNEL_BYTES
    assert channel_name(namespace) != channel_name(namespace + "x")


def test_the_longest_message_fits_into_a_notification(server: PostgresServer, connection: PostgresConnection) -> None:
    longest = "\U0001f600" * 128
    message = encode("f" * 16, Notice(longest, longest, longest, 1790000000.123456, 1790000000.123456))
    assert len(message) < MAX_MESSAGE_BYTES < 8000
    connection.publish([message, b"x" * MAX_MESSAGE_BYTES])


def test_notifications_that_arrive_during_a_ping_or_a_publish_are_received(
    server: PostgresServer, connection: PostgresConnection
) -> None:
    connection.subscribe()
    assert connection.wait(5.0) is Signal.SUBSCRIBED
    server.publish_raw(b"before")
    connection.ping()
    server.publish_raw(b"during")
    received = [connection.wait(5.0) for _ in range(3)]
    assert sorted(map(str, received)) == sorted(map(str, [b"before", b"during", Signal.PONG]))
    assert connection.wait(0.0) is None


def test_a_batch_is_one_statement_and_keeps_its_order(server: PostgresServer, connection: PostgresConnection) -> None:
    connection.subscribe()
    assert connection.wait(5.0) is Signal.SUBSCRIBED
    sender = PostgresEngine(server.url, "synckit", timeout=5.0).connect()
    messages = [f'{{"n":{number},"quote":"\\"\\u0000"}}'.encode() for number in range(100)]
    sender.publish(messages)
    assert [connection.wait(5.0) for _ in messages] == messages
    sender.close()


def test_close_ends_the_wait_of_another_thread(server: PostgresServer, connection: PostgresConnection) -> None:
    ended = threading.Event()

    def wait() -> None:
        with contextlib.suppress(ConnectionLost):
            connection.wait(60.0)
        ended.set()

    threading.Thread(target=wait).start()
    assert not ended.wait(0.1)
    connection.close()
    assert ended.wait(10.0)
    with pytest.raises(ConnectionLost):
        connection.ping()
    assert until(lambda: server.connections() == 0)


def test_a_wrong_password_is_never_shown(server: PostgresServer, broker: MakeBroker, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    one = broker(server.url.replace("synckit:secret", "nobody:hunter2"), timing=QUICK)
    one.start(Heard())
    one.publish(ALICE)
    assert until(lambda: len(caplog.records) >= 2)
    assert 'role "nobody" does not exist' in caplog.text
    assert "hunter2" not in caplog.text


class TestPooler:
    """PgBouncer in transaction mode accepts LISTEN, and the session that listens is given to somebody else."""

    @pytest.fixture
    def pooled(self, _postgresql: PostgreSQL) -> Iterator[str]:
        with pgbouncer(_postgresql, 3) as url:
            yield url

    def test_a_subscription_through_it_is_never_confirmed_and_the_warning_comes_once(
        self, pooled: str, server: PostgresServer, broker: MakeBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, heard = broker(pooled, timing=QUICK._replace(answer=0.3, deaf_pause=0.1)), Heard()
        one.start(heard)
        assert until(lambda: POOLER in caplog.text)
        time.sleep(2.0)  # several attempts
        assert [record.message for record in caplog.records] == [POOLER]
        assert (one.status().connected, one.status().echo, heard.gaps) == (False, False, 0)

    def test_after_two_attempts_it_does_not_try_again_for_minutes(
        self, pooled: str, broker: MakeBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Proxy(int(pooled.rpartition(":")[2].partition("/")[0])) as proxy:
            one = broker(server_url(proxy.port), timing=QUICK._replace(answer=0.3))
            one.start(Heard())
            assert until(lambda: POOLER in caplog.text)
            time.sleep(0.3)  # the sender connects anew for the last probe
            before = proxy.connections
            time.sleep(2.0)
            assert proxy.connections == before
            started = time.monotonic()
            one.close()
            assert time.monotonic() - started < 2.0

    def test_a_process_that_only_publishes_may_use_it(
        self, pooled: str, server: PostgresServer, broker: MakeBroker, process: MakeProcess
    ) -> None:
        publisher, other = broker(pooled), process(server.url)
        for number in range(250):
            publisher.publish(Notice("notes", str(number)))
        assert until(lambda: len(other.heard.messages) == 250)


@pytest.mark.thorough
class TestStandby:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[PostgreSQL, PostgreSQL]]:
        with (
            PostgreSQL(port=free_port()) as primary,
            PostgreSQL(port=free_port(), standby_of=primary) as standby,
        ):
            yield primary, standby

    def test_it_is_a_lost_connection_until_it_is_promoted(
        self,
        pair: tuple[PostgreSQL, PostgreSQL],
        broker: MakeBroker,
        process: MakeProcess,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        primary, standby = map(PostgresServer, pair)
        with Proxy(standby.port) as proxy:
            one, heard = broker(server_url(proxy.port), timing=QUICK), Heard()
            one.start(heard)
            one.publish(ALICE)
            assert until(lambda: "read-only" in caplog.text)
            assert (one.status().connected, heard.gaps, one.status().pending) == (False, 0, 1)
            proxy.to_port = primary.port
            assert until(lambda: one.status().echo and one.status().pending == 0)
            proxy.to_port = standby.port
            pair[0].stop()
            assert until(lambda: not one.status().connected)
            standby.execute("SELECT pg_promote()")
            assert until(lambda: one.status().echo)
            other = process(standby.url, timing=QUICK)
            one.publish(BOB)
            assert until(lambda: BOB in other.heard.messages)

    def test_of_several_hosts_the_primary_is_used(
        self, pair: tuple[PostgreSQL, PostgreSQL], process: MakeProcess
    ) -> None:
        primary, standby = pair
        ports = f"{standby.port},{primary.port}"
        one = process(f"postgresql://synckit@/postgres?host=127.0.0.1,127.0.0.1&port={ports}")
        other = process(PostgresServer(primary).url)
        one.broker.publish(ALICE)
        assert until(lambda: other.heard.messages == [ALICE])


class TestQueue:
    def test_its_fill_is_seen_while_a_session_in_a_transaction_listens(
        self, server: PostgresServer, _postgresql: PostgreSQL, process: MakeProcess
    ) -> None:
        one = process(server.url, timing=QUICK)
        with _postgresql.connect() as busy:
            busy.execute("LISTEN something")
            busy.execute("BEGIN")
            busy.execute("SELECT 1")
            for number in range(30):
                server.publish_raw(b"%d" % number + b"x" * 7000)
            assert until(lambda: one.broker.status().queue_usage > 0.0)

    def test_a_full_one_keeps_messages_waiting_and_the_subscription(
        self, server: PostgresServer, process: MakeProcess, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The server's own functions are hidden by some that answer as those of a full queue; filling it takes 8 GB."""
        server.execute(FULL_QUEUE)
        one, other = (
            process(server.url + '?options=-csearch_path%3D"full",pg_catalog', timing=QUICK),
            process(server.url),
        )
        server.execute('UPDATE "full".usage SET usage = 1.0 RETURNING 1')
        one.broker.publish(ALICE)
        assert until(lambda: "too many notifications in the NOTIFY queue" in caplog.text)
        assert until(lambda: one.broker.status().queue_usage == 1.0)
        assert (one.broker.status().connected, one.broker.status().pending, one.heard.gaps) == (True, 1, 1)
        other.broker.publish(BOB)
        assert until(lambda: one.heard.messages == [BOB])
        server.execute('UPDATE "full".usage SET usage = 0.0 RETURNING 1')
        assert until(lambda: other.heard.messages == [ALICE])
        server.execute('DROP SCHEMA "full" CASCADE; SELECT 1')


FULL_QUEUE = """
CREATE SCHEMA "full";
CREATE TABLE "full".usage AS SELECT 0.0::float8 AS usage;
CREATE FUNCTION "full".pg_notification_queue_usage() RETURNS float8 LANGUAGE sql
    AS 'SELECT usage FROM "full".usage';
CREATE FUNCTION "full".pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT usage FROM "full".usage) = 1.0 THEN
        RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
    END IF;
    PERFORM pg_catalog.pg_notify($1, $2);
END $$;
SELECT 1
"""


def server_url(port: int) -> str:
    return f"postgresql://synckit:secret@127.0.0.1:{port}/postgres"


class TestTheIncludedBackend:
    @pytest.mark.parametrize(
        ("database", "expected"),
        [
            ("postgresql://u@h:5433/db", {"user": "u", "host": "h", "port": "5433", "dbname": "db"}),
            ("postgresql+psycopg://u:p%40%2F+%25@/db?host=/run", {"user": "u", "password": "p@/+%", "host": "/run"}),
            ("postgresql:///db?host=a:1&host=b:2&sslmode=require", {"host": "a,b", "port": "1,2"}),
        ],
    )
    def test_its_broker_is_its_database_if_that_is_postgresql(self, database: str, expected: dict[str, str]) -> None:
        url = default_broker_url(database)
        assert expected.items() <= conninfo_to_dict(url).items()
        connect(url)

    @pytest.mark.parametrize(
        ("database", "url"),
        [
            ("sqlite:////srv/synckit.db", "local:///srv/synckit.db-sockets"),
            ("sqlite:////srv/with space.db", "local:///srv/with%20space.db-sockets"),
            (f"sqlite:////srv/{'x' * 99}/synckit.db", "local://"),
            ("sqlite://", "local://"),
        ],
        ids=["a file", "a space", "too long for a socket", "memory"],
    )
    def test_its_broker_is_a_folder_beside_a_sqlite_file(self, database: str, url: str) -> None:
        assert default_broker_url(database) == url
        connect(url)

    @pytest.mark.parametrize(
        ("config", "name"),
        [({}, "postgresql"), ({"SYNCKIT_BROKER_URL": "memory://"}, "memory"), ({"TESTING": True}, "memory")],
    )
    def test_uses_it_unless_another_broker_is_set(
        self, config: dict[str, object], name: str, server: PostgresServer, tmp_path: Path
    ) -> None:
        settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": server.url, "SYNCKIT_BROKER_URL": ""}
        app = create_app(settings | config, instance_path=tmp_path)
        assert app.test_client().get("/api/sync/ready").get_json()["broker"] == name
        assert app.extensions["synckit_backend"].settings.redis_url is None
        app.extensions["synckit_backend"].store.dispose()

    @pytest.mark.thorough
    def test_a_push_reaches_the_stream_of_another_machine_at_once(self, server: PostgresServer, tmp_path: Path) -> None:
        """The sweep is an hour away, so only the database can have carried the notice."""
        settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": server.url, "SYNCKIT_SWEEP_SECONDS": "3600"}
        path = "/api/sync/subscribe?app_id=notes"
        clone = make_clone(tmp_path)
        with (
            start(clone, **settings) as here,
            start(clone, **settings) as there,
            Listener(there.port, path, make_token()) as listener,
        ):
            assert listener.next_frame() == CONNECTED
            assert listener.next_frame() == CHANGED  # the gap of the first subscription
            alice = Caller(over_http(here.url), make_token())
            alice.push(alice.register())
            assert listener.next_frame(20.0) == CHANGED
