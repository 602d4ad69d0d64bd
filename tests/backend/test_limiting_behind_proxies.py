"""Failed log-ins through the proxies of `deploy/`: each client is counted by its own address."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.programs import need
from ..support.proxies import Caddy, Haproxy, Nginx, Proxy
from ..support.server import ROOT, gunicorn
from ..support.tokens import KEY

pytestmark = pytest.mark.thorough

LIMIT = 3


@pytest.fixture(params=[Nginx, Haproxy, Caddy], ids=lambda proxy: proxy.name)
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy in front of the included server, with SYNCKIT_PROXIES=1."""
    for program in (request.param.name.lower(), "openssl"):
        need(program)
    env = {
        "SYNCKIT_JWT_KEY": KEY,
        "SYNCKIT_LOGIN_LIMIT": f"{LIMIT}/minute",
        "SYNCKIT_PROXIES": "1",
        "INSTANCE": str(tmp_path / "instance"),
        "TOKEN_SECONDS": "60",
    }
    options = ("--config", str(ROOT / "gunicorn.conf.py"))
    with (
        gunicorn("tests.support.short_lived_tokens:create()", tmp_path, *options, env=env) as service,
        request.param(tmp_path / "proxy", service.port) as started,
    ):
        yield started


def fail(proxy: Proxy, client: str, attempt: int, **headers: str) -> int:
    """Return the status of a failed log-in as another account each time."""
    unverified = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(
        "localhost", proxy.port, timeout=60, source_address=(client, 0), context=unverified
    )
    body = {"email": f"{attempt}@example.org", "password": "wrong", "api_key": "none"}
    with contextlib.closing(connection):
        connection.request("POST", "/api/sync/auth", json.dumps(body), {"Content-Type": "application/json", **headers})
        return connection.getresponse().status


def test_each_client_is_counted_by_its_own_address_whatever_it_claims(proxy: Proxy) -> None:
    assert [fail(proxy, "127.0.0.5", n) for n in range(LIMIT + 1)] == [401] * LIMIT + [429]
    lies = {"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7", "X-Real-IP": "192.0.2.7"}
    assert fail(proxy, "127.0.0.5", 10, **lies) == 429
    assert fail(proxy, "127.0.0.6", 11) == 401
