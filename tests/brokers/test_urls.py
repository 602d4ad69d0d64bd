"""The URL of a broker as hosting companies, Celery, Valkey and people write it: read, or refused by the wrong part."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.connection import parse_url

from synckit_notify.brokers import Broker, Notice, check_url, connect
from synckit_notify.brokers.urls import normalize
from synckit_notify.errors import ConfigurationError

from ..support.brokers import Process
from ..support.tls_tunnel import TlsTunnel
from ..support.valkey import Valkey
from ..support.wait import until

LOCAL = {"host": "localhost", "port": 6379}

READ: list[tuple[str, str, dict[str, Any]]] = [
    # as redis-py reads it
    ("redis://localhost:6379", "redis", LOCAL),
    ("redis://localhost:6379/0", "redis", LOCAL | {"db": 0}),
    ("redis://localhost:6379/0/", "redis", LOCAL | {"db": 0}),
    ("redis://", "redis", {}),
    ("redis://[::1]:6380/2", "redis", {"host": "::1", "port": 6380, "db": 2}),
    ("redis://u:p%40ss%2Fword@localhost:6379", "redis", LOCAL | {"username": "u", "password": "p@ss/word"}),
    ("redis://h?password=p%40ss", "redis", {"host": "h", "password": "p@ss"}),
    ("redis://h?socket_timeout=2&max_connections=9&", "redis", {"host": "h", "socket_timeout": 2.0}),
    ("unix://u:p@/run/redis@1/redis.sock?db=3", "unix", {"path": "/run/redis@1/redis.sock", "db": 3, "password": "p"}),
    # passwords with special characters that are read all the same
    ("redis://:p@ss:word+%zz!$&'()*=@h", "redis", {"host": "h", "password": "p@ss:word+%zz!$&'()*="}),
    ("redis://default:pä;ß,w@h:1", "redis", {"host": "h", "port": 1, "password": "pä;ß,w"}),
    # as it is copied: an environment file with quotes, a line break at the end of a secret
    ("redis://localhost:6379\n", "redis", LOCAL),
    ("\t'redis://localhost:6379/1'\r\n", "redis", LOCAL | {"db": 1}),
    ('"redis://localhost:6379"', "redis", LOCAL),
    ("\u201credis://localhost:6379\u201d", "redis", LOCAL),
    ("\ufeffREDIS://localhost:6379", "redis", LOCAL),
    # Valkey
    ("valkey://default:pw@h:6379/1", "redis", {"host": "h", "username": "default", "password": "pw", "db": 1}),
    ("valkeys://default:pw@h:25061", "rediss", {"host": "h", "port": 25061, "password": "pw"}),
    # Celery, kombu and limits
    ("redis+socket:///run/redis.sock?virtual_host=2", "unix", {"path": "/run/redis.sock", "db": 2}),
    ("redis+socket:///run/redis.sock?virtual_host=/2", "unix", {"path": "/run/redis.sock", "db": 2}),
    ("redis+unix:///run/redis.sock", "unix", {"path": "/run/redis.sock"}),
    ("valkey+unix:///run/redis.sock", "unix", {"path": "/run/redis.sock"}),
    ("redis+tls://h:6380", "rediss", {"host": "h", "port": 6380}),
    ("redis+ssl://h:6380", "rediss", {"host": "h", "port": 6380}),
    ("rediss://:pw@h:6379/0?ssl_cert_reqs=CERT_NONE", "rediss", {"ssl_cert_reqs": "none", "password": "pw", "db": 0}),
    ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", "rediss", {"ssl_cert_reqs": "required"}),
    ("rediss://h?ssl_cert_reqs=ssl.CERT_OPTIONAL", "rediss", {"ssl_cert_reqs": "optional"}),
    ("rediss://h?ssl_cert_reqs=none", "rediss", {"ssl_cert_reqs": "none"}),
    ("rediss://h?ssl_cert_reqs=None", "rediss", {"ssl_cert_reqs": "none"}),
    ("rediss://h?ssl_cert_reqs=required", "rediss", {"ssl_cert_reqs": "required"}),
    (
        "rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false&ssl_cert_reqs=optional",
        "rediss",
        {"ssl_ca_certs": "/etc/ca.pem", "ssl_check_hostname": False, "ssl_cert_reqs": "optional"},
    ),
]


@pytest.mark.parametrize(("text", "scheme", "options"), READ)
def test_a_url_is_read_by_redis_py_as_it_was_meant(text: str, scheme: str, options: dict[str, Any]) -> None:
    url = check_url(text)
    assert url.partition("://")[0] == scheme
    assert options.items() <= parse_url(url).items()
    assert check_url(url) == url


OTHERS = [
    ("memory://", "memory://"),
    (" Memory://\n", "memory://"),
    ("local:///srv/a folder", "local:///srv/a folder"),
    ("postgres://u:p@h:5432/d", "postgresql://u:p@h:5432/d"),
    ("postgresql+psycopg://u:p@h/d?sslmode=require", "postgresql://u:p@h/d?sslmode=require"),
    ("postgresql+psycopg2://u:p@h/d", "postgresql://u:p@h/d"),
    ("postgresql://h1:5432,h2:5432/d?target_session_attrs=read-write",) * 2,
]


@pytest.mark.parametrize(("text", "url"), OTHERS)
def test_the_urls_of_other_engines_keep_all_but_the_spelling_of_their_scheme(text: str, url: str) -> None:
    assert normalize(text) == url


SCHEME = "SYNCKIT_BROKER_URL must begin with a scheme and ://, such as redis://localhost:6379"
PASSWORD = "SYNCKIT_BROKER_URL must have special characters percent-encoded, above all those of its password: @ is %40"
ADDRESS = "SYNCKIT_BROKER_URL must have one host and a port from 1 to 65535; a password goes before the host"

REFUSED = [
    # no scheme
    ("localhost:6379", SCHEME),
    ("localhost", SCHEME),
    ("hunter2", SCHEME),
    (":hunter2@localhost:6379/0", SCHEME),
    ("redis:/:hunter2@localhost", SCHEME),
    ("redis:localhost:6379", SCHEME),
    ("cache.windows.net:6380,password=hunter2,ssl=True,abortConnect=False", SCHEME),
    (":hunter2://x@localhost", SCHEME),
    # another scheme
    ("amqp://u:hunter2@h//", "SYNCKIT_BROKER_URL must begin with local://, memory://, redis://, .*, not 'amqp'"),
    ("sentinel://:hunter2@h1:26379;sentinel://h2:26379", "cannot be a list of sentinels: give the address of a proxy"),
    ("redis+sentinel://:hunter2@h:26379/mymaster/0", "cannot be a list of sentinels"),
    ("redis-sentinel://h:26379?sentinelMasterId=mymaster", "cannot be a list of sentinels"),
    ("redis+cluster://:hunter2@h1:7000,h2:7000", "must name one node of the cluster, such as redis://"),
    # a password that is not percent-encoded
    ("redis://:hunt/er2@localhost", PASSWORD),
    ("redis://:12/hunter2@localhost", PASSWORD),
    ("redis://:hunt#er2@localhost", PASSWORD),
    ("redis://:12#hunter2@localhost", PASSWORD),
    ("redis://:hunt?er2@localhost", PASSWORD),
    ("redis://:12?hunter2=1@localhost", PASSWORD),
    ("redis://:hunt er2@localhost", PASSWORD),
    ("redis://:hunt[er2@localhost", PASSWORD),
    ("redis://:hunt]er2[@localhost", PASSWORD),
    ("redis://u:hun@ter2/x@localhost", PASSWORD),
    ("redis://:hunter\u2100@localhost", r"SYNCKIT_BROKER_URL must be redis://\[\[user\]:password@\]host"),
    ("redis://:hunter2@localhost\nSYNCKIT_WORKERS=2", "must be one line without control characters"),
    ("redis://:hun\tter2@localhost", "must be one line without control characters"),
    # the address
    ("redis://:hunter2@localhost:x", ADDRESS),
    ("redis://:hunter2@localhost:", ADDRESS),
    ("redis://:hunter2@localhost:0", ADDRESS),
    ("redis://:hunter2@localhost:65536", ADDRESS),
    ("redis://:hunter2@localhost:6379:6380", ADDRESS),
    ("redis://default:hunter2", ADDRESS),
    ("redis://:hunter2@h1:6379,h2:6379", ADDRESS),
    ("redis://h1;redis://h2", ADDRESS),
    ("redis://::1:6379", ADDRESS),
    ("redis://h:6379/0;redis://h2:6379/0", "may have only the number of a database after the host"),
    ("redis://h:6379/hunter2", "may have only the number of a database after the host"),
    ("unix://run/redis.sock", "must have three slashes and a path, such as unix:///run/redis/redis.sock"),
    ("redis+socket://:hunter2@host", "must have three slashes and a path"),
    ("unix://", "must have three slashes and a path"),
    # an option
    (
        "redis://h?no_such=hunter2",
        "the option 'no_such' does not exist for redis:// or has a wrong value",
    ),
    ("redis://h?db=1&socket_timeout=hunter2", "the option 'socket_timeout' does not exist for redis:// or has a wrong"),
    ("redis://h?db=hunter2", "the option 'db' does not exist for redis:// or has a wrong value"),
    ("redis://:hunter2@h:6379/0?ssl_cert_reqs=CERT_NONE", "'ssl_cert_reqs' does not exist .* write rediss:// for TLS"),
    ("redis://:hunter2@h:6379/0?ssl_cert_reqs=required", "'ssl_cert_reqs' does not exist .* write rediss:// for TLS"),
    ("redis://:hunter2@h?ssl=true", "'ssl' does not exist .* write rediss:// for TLS"),
    ("redis://:hunter2@h?tls=true", "'tls' does not exist .* write rediss:// for TLS"),
    ("rediss://:hunter2@h?ssl=true", "the option 'ssl' does not exist for rediss:// or has a wrong value$"),
    ("rediss://:hunter2@h?ssl_cert_reqs=CERT_MAYBE", "ssl_cert_reqs must be none, optional or required"),
    ("rediss://:hunter2@h?ssl_no_such=hunter2", "the option 'ssl_no_such' does not exist for rediss://"),
    ("unix:///run/redis.sock?ssl_cert_reqs=none", "the option 'ssl_cert_reqs' does not exist for unix://"),
    ("redis://h?virtual_host=2", "the option 'virtual_host' does not exist for redis://"),
    ("redis://h?hunter2", "must have its options as name=value, separated by &"),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED)
def test_a_wrong_url_is_refused_by_its_part_and_never_shown(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        check_url(text)
    assert str(raised.value).startswith("SYNCKIT_BROKER_URL")
    assert "hunt" not in "".join(traceback.format_exception(raised.value))


def test_every_option_of_a_url_that_redis_py_documents_is_accepted() -> None:
    options = {"socket_timeout": "1", "socket_connect_timeout": "1", "socket_keepalive": "yes", "client_name": "x"}
    options |= {"health_check_interval": "5", "retry_on_timeout": "true", "max_connections": "5", "encoding": "utf-8"}
    options |= {"ssl_keyfile": "k", "ssl_certfile": "c", "ssl_ca_path": "p", "ssl_ca_data": "d", "ssl_password": "s"}
    check_url("rediss://h?" + "&".join(f"{name}={value}" for name, value in options.items()))


@pytest.fixture
def tunnel(valkey: Valkey, tmp_path: Path) -> Iterator[TlsTunnel]:
    with TlsTunnel(tmp_path, valkey.port) as tunnel:
        yield tunnel


@pytest.fixture
def over_tls() -> Iterator[list[Broker]]:
    """Brokers that are closed after the test."""
    made: list[Broker] = []
    yield made
    for each in made:
        each.close()


@pytest.mark.parametrize(
    "options", ["ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs=none", "ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}"]
)
def test_celerys_spelling_connects_over_tls(
    options: str, valkey: Valkey, tunnel: TlsTunnel, over_tls: list[Broker]
) -> None:
    url = f"rediss://localhost:{tunnel.port}/0?{options.format(ca=tunnel.certificate)}"
    over_tls += [connect(url), connect(f"valkey://127.0.0.1:{valkey.port}")]
    encrypted, plain = (Process(broker) for broker in over_tls)
    assert until(lambda: encrypted.ready() and plain.ready())
    encrypted.broker.publish(Notice("notes", "alice"))
    plain.broker.publish(Notice("notes", "bob"))
    assert until(lambda: plain.heard.messages == [Notice("notes", "alice")])
    assert until(lambda: encrypted.heard.messages == [Notice("notes", "bob")])


def test_a_certificate_that_nobody_signed_is_refused_by_default(
    tunnel: TlsTunnel, over_tls: list[Broker], caplog: pytest.LogCaptureFixture
) -> None:
    over_tls.append(connect(f"valkeys://localhost:{tunnel.port}"))
    refused = Process(over_tls[0])
    assert until(lambda: any("CERTIFICATE_VERIFY_FAILED" in record.getMessage() for record in caplog.records))
    assert not refused.ready()
