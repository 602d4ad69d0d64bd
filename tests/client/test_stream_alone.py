"""A stream with an app's own tokens, on backends that only mount the Notifier, under gunicorn."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.client import NetworkError, NotAuthenticated, ServerError, StreamState, SyncNotifyStream
from synckit_notify.client.stream import StreamSession
from synckit_notify.client.token_session import TokenSession

from ..support.scripted_server import SUBSCRIBE, Answer, AnswerWithPage, LoseRequest, Refuse, Script
from ..support.server import Server, gunicorn
from ..support.tokens import make_token
from ..support.wait import until

CHANGED, KEEPALIVE = "CHANGED", "KEEPALIVE"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SYNCKIT_KEEPALIVE_SECONDS": "0.4"}
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path_factory.mktemp("host"), env=env) as server:
        yield server


def good_token(refused: bool = False) -> str:
    return make_token()


def push(host: Server, **query: object) -> None:
    httpx2.post(f"{host.url}/push/notes/alice", params=query).raise_for_status()


class Recorder:
    """Iterates a stream in a thread."""

    def __init__(self, url: str, token: Callable[..., str] = good_token, **options: Any) -> None:
        self.states: list[tuple[StreamState, str]] = []
        self.names: list[str] = []
        self.error: Exception | None = None
        self.stream = SyncNotifyStream.open(
            url, "notes", token, on_state=lambda state, reason: self.states.append((state, reason)), **options
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def hears(self, name: str, times: int = 1) -> bool:
        return until(lambda: self.names.count(name) >= times or self.error is not None, 20.0) and self.error is None

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _listen(self) -> None:
        try:
            for notification in self.stream:
                self.names.append(notification.name)
        except Exception as error:
            self.error = error


def test_it_satisfies_what_a_stream_asks_for() -> None:
    session: StreamSession = TokenSession("https://sync.example.org", "notes", good_token)
    assert session


class TestOnAMountedNotifier:
    def test_it_hears_of_each_push_of_another_device(self, host: Server) -> None:
        with Recorder(host.url, device_id="laptop") as laptop, Recorder(host.url, device_id="phone") as phone:
            assert laptop.hears(CHANGED) and phone.hears(CHANGED), "after the connect"
            push(host, device="laptop")
            assert phone.hears(CHANGED, 2)
            assert laptop.hears(KEEPALIVE, laptop.names.count(KEEPALIVE) + 2)
            assert laptop.names.count(CHANGED) == 1

    def test_a_refused_token_is_replaced_at_once(self, host: Server) -> None:
        asked: list[bool] = []

        def token(refused: bool = False) -> str:
            asked.append(refused)
            return make_token() if refused else make_token(life=-60)

        with Recorder(host.url, token) as recorder:
            assert recorder.hears(CHANGED)
        assert asked == [False, True]

    def test_a_token_that_expires_is_replaced(self, host: Server) -> None:
        asked: list[bool] = []

        def token(refused: bool = False) -> str:
            asked.append(refused)
            return make_token() if refused else make_token(life=10)

        with Recorder(host.url, token) as recorder:
            assert recorder.hears(CHANGED, 2), recorder.states
            assert "bye token_expired" in [reason for _, reason in recorder.states]
        assert asked == [False, True]

    def test_after_a_restart_of_the_server_it_connects_again(self, tmp_path: Path) -> None:
        with gunicorn("tests.support.minimal_host:create_app()", tmp_path) as first:
            recorder = Recorder(first.url)
            recorder.__enter__()
            assert recorder.hears(CHANGED)
        with gunicorn("tests.support.minimal_host:create_app()", tmp_path, port=first.port):
            assert recorder.hears(CHANGED, 2), recorder.states
            recorder.__exit__()

    def test_another_prefix_is_told_by_the_whole_url(self, tmp_path: Path) -> None:
        with gunicorn("tests.support.full_host:create_app()", tmp_path) as server:
            with Recorder(f"{server.url}/v1/sync/subscribe") as recorder:
                assert recorder.hears(CHANGED)
            with pytest.raises(ServerError) as raised:
                next(SyncNotifyStream.open(server.url, "notes", good_token))
            assert raised.value.status == 404

    def test_another_app_is_refused_for_good(self, host: Server) -> None:
        with SyncNotifyStream.open(host.url, "tasks", good_token) as stream:
            with pytest.raises(ServerError) as raised:
                next(stream)
            assert (raised.value.status, stream.state) == (403, StreamState.CLOSED)
            assert list(stream) == []

    def test_no_thread_is_left_after_it_was_closed(self, host: Server) -> None:
        before = set(threading.enumerate())
        with Recorder(host.url) as recorder:
            assert recorder.hears(CHANGED)
        assert until(lambda: set(threading.enumerate()) <= before, 10.0)


URLS = {
    "https://sync.example.org": "/api/sync/subscribe",
    "https://sync.example.org/": "/api/sync/subscribe",
    "https://sync.example.org/api/sync": "/api/sync/subscribe",
    "https://sync.example.org/api/sync/subscribe": "/api/sync/subscribe",
    "https://sync.example.org/v1/sync/subscribe/": "/v1/sync/subscribe",
    "https://sync.example.org/tenant": "/tenant/api/sync/subscribe",
    "https://sync.example.org/subscribe": "/subscribe",
}


@pytest.mark.parametrize("url", URLS)
def test_the_url_is_that_of_the_server_or_of_the_subscription(url: str) -> None:
    server = Script({URLS[url]: [Refuse(403)]})
    with (
        SyncNotifyStream.open(url, "notes", good_token, "laptop", http=httpx2.Client(transport=server)) as stream,
        pytest.raises(ServerError),
    ):
        next(stream)
    assert server.bodies(URLS[url]) == [{"app_id": "notes", "device_id": "laptop"}]


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://server", "https://user@server", "https://server?x=1"])
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url must be an http or https URL"):
        SyncNotifyStream.open(url, "notes", good_token)


class TestTheTokenFunction:
    @staticmethod
    def open(token: Callable[..., str], *steps: object) -> SyncNotifyStream:
        server = Script({SUBSCRIBE: list(steps)})
        return SyncNotifyStream.open("http://server", "notes", token, http=httpx2.Client(transport=server))

    @pytest.mark.parametrize("wrong", ["", "two words", "línea", "line\r\nbreak", None, b"bytes", 7])
    def test_it_must_return_a_token_that_can_be_sent(self, wrong: Any) -> None:
        stream = self.open(lambda refused=False: wrong)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^token must return a string of visible ASCII characters$"):
                next(stream)

    def test_it_may_say_that_the_user_must_log_in_and_the_iteration_goes_on_after_that(self) -> None:
        answers: list[Any] = [NotAuthenticated("log in"), KeyError("a fault of the app"), "token"]

        def token(refused: bool = False) -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        stream = self.open(token, Refuse(403))
        with pytest.raises(NotAuthenticated, match="log in"):
            next(stream)
        assert stream.state is StreamState.NEEDS_AUTH
        with pytest.raises(KeyError):
            next(stream)
        with pytest.raises(ServerError):
            next(stream)

    def test_without_a_network_it_is_called_again_later(self) -> None:
        states: list[str] = []
        with Recorder("http://server", self.no_network) as recorder:
            assert until(lambda: StreamState.WAITING in [state for state, _ in recorder.states], 10.0)
            states = [reason for _, reason in recorder.states]
        assert any("the log-in server is down" in reason for reason in states)

    @staticmethod
    def no_network(refused: bool = False) -> str:
        raise NetworkError("the log-in server is down")

    def test_closing_does_not_wait_for_it(self) -> None:
        called, returned = threading.Event(), threading.Event()

        def token(refused: bool = False) -> str:
            called.set()
            returned.wait(30)
            return "token"

        try:
            with Recorder("http://server", token) as recorder:
                assert called.wait(10)
                began = time.monotonic()
                recorder.stream.close()
                assert until(lambda: recorder.stream.state is StreamState.CLOSED, 10.0)
                assert time.monotonic() - began < 10
        finally:
            returned.set()

    def test_a_new_token_is_kept_until_the_server_has_answered(self) -> None:
        """A network that fails in between does not bring the refused one back."""
        server = Script({SUBSCRIBE: [Refuse(401), LoseRequest(), Refuse(403), Refuse(403)]})
        session = TokenSession(
            "http://server",
            "notes",
            lambda refused=False: "new" if refused else "old",
            http=httpx2.Client(transport=server),
        )
        session.connect().close()
        session.refresh()
        with pytest.raises(NetworkError):
            session.connect()
        for _ in range(2):
            session.connect().close()
        assert [asked.token for asked in server.asked] == ["old", "new", "new", "old"]
        session.close()


def test_behind_a_proxy_that_buffers_each_poll_says_that_there_may_be_something_new() -> None:
    live = "/api/sync/live"
    script = {live: [Answer(), AnswerWithPage(404), Refuse(503, "busy", retry_after="7"), LoseRequest()]}
    server = Script(script)
    session = TokenSession("http://server", "notes", good_token, http=httpx2.Client(transport=server))
    assert session.position() != session.position()
    with pytest.raises(ServerError, match="busy") as raised:
        session.position()
    assert (raised.value.status, raised.value.retry_after) == (503, 7.0)
    with pytest.raises(NetworkError):
        session.position()
    session.close()
