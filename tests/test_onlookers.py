"""A client that disconnects is not reported as an error by Sentry, OpenTelemetry, the debugger or the server's log."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import Server, flask_run, gunicorn
from .support.tokens import make_token
from .support.wait import until

THOROUGH = pytest.mark.thorough
APP = "tests.support.onlooking_host:create_app()"
SUBSCRIBE = "/api/sync/subscribe"

SERVERS: dict[str, Callable[[Path, dict[str, str]], Server]] = {
    "gevent": lambda folder, env: gunicorn(APP, folder, env=env),
    "parked": lambda folder, env: gunicorn(APP, folder, env=env | {"SYNCKIT_PARKING": "1"}),
    "gthread": lambda folder, env: gunicorn(APP, folder, "--threads", "20", worker_class="gthread", env=env),
    "flask run --debug": lambda folder, env: flask_run(APP, folder, env | {"FLASK_DEBUG": "1"}),
}


class Watched:
    """A server, and what its monitoring tools have reported."""

    def __init__(self, server: Server, errors: Path, spans: Path) -> None:
        self.server = server
        self._errors = errors
        self._spans = spans

    def errors(self) -> list[str]:
        return [json.loads(line) for line in self._errors.read_text().splitlines()]

    def spans(self, path: str) -> list[list[object]]:
        """Status and number of events of each span of a path."""
        lines = [json.loads(line) for line in self._spans.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == path]

    def streams(self) -> int:
        with urllib.request.urlopen(f"{self.server.url}/api/sync/ready", timeout=60) as answer:
            return int(json.load(answer)["streams"])


@pytest.fixture(
    scope="module",
    params=[
        "gevent",
        "parked",
        pytest.param("gthread", marks=THOROUGH),
        pytest.param("flask run --debug", marks=THOROUGH),
    ],
)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("onlookers")
    errors, spans = folder / "errors", folder / "spans"
    errors.touch(), spans.touch()
    env = {"ERRORS": str(errors), "SPANS": str(spans), "SYNCKIT_KEEPALIVE_SECONDS": "0.3"}
    with SERVERS[request.param](folder / "server", env) as server:
        watched = Watched(server, errors, spans)
        urllib.request.urlopen(f"{server.url}/api/sync/live", timeout=60).close()  # so many imports take their time
        yield watched
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}/fault", timeout=60)
        assert until(lambda: any(error.startswith("ValueError") for error in watched.errors())), "they do look on"
        assert until(lambda: any(status == "ERROR" for status, _ in watched.spans("/fault")))


@pytest.mark.parametrize("leave", [Listener.close, Listener.reset])
def test_a_client_that_disconnects_is_not_reported_as_an_error(
    watched: Watched, leave: Callable[[Listener], None]
) -> None:
    spans_before = len(watched.spans(SUBSCRIBE))
    listeners = [Listener(watched.server.port, f"{SUBSCRIBE}?app_id=notes", make_token()) for _ in range(5)]
    assert [listener.next_frame() for listener in listeners] == [CONNECTED] * 5
    request = urllib.request.Request(f"{watched.server.url}/push/notes/alice", method="POST")
    urllib.request.urlopen(request, timeout=60).close()
    assert [listener.next_news() for listener in listeners] == [CHANGED] * 5
    for listener in listeners:
        leave(listener)
    assert until(lambda: watched.streams() == 0)
    assert until(lambda: len(watched.spans(SUBSCRIBE)) >= spans_before + 10), "two instrumentations"
    assert watched.spans(SUBSCRIBE)[spans_before:] == [["UNSET", 0]] * 10
    assert watched.errors() == []
    assert not watched.server.tracebacks
    assert "Failed to detach" not in watched.server.log
