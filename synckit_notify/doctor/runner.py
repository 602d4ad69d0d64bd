"""The edge of the doctor: asks, takes times, and yields what the rules find in them.

    name, port, TLS ──▶ GET /live, /ready ──▶ GET /subscribe ──▶ listen for a while

Findings come as soon as they are known, and end with the first that makes going on senseless. The token goes to the
address given and nowhere else: no redirection is followed.
"""

import contextlib
import importlib.util
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace

import httpx2

from ..client.cancellable import start
from ..client.connection import HttpEventConnection, reason
from ..client.environment import make_http_client
from ..client.errors import NetworkError
from ..client.foreign_text import redacted
from ..client.responses import error_message, parse_json
from ..client.schedule import keepalive_period
from . import health_checks, network, stream
from . import response as answers
from .findings import Finding, fails
from .health_checks import Answer, Attempt
from .network import Address
from .stream import End, StreamRecorder

PATIENCE_SECONDS = 10.0
"""For an answer: as long as the SDK waits for the headers of a stream."""

TICK_SECONDS = 0.5
MAX_BODY_BYTES = 8192

Progress = Callable[[str], object]
Step = Callable[[], list[Finding]]


def examine(
    address: Address,
    *,
    token: str,
    app: str,
    seconds: float | None = None,
    patience: float = PATIENCE_SECONDS,
    progress: Progress = lambda text: None,
) -> Iterator[Finding]:
    """Yield what is found on the way to a stream of this app; `progress` is told what is waited for."""
    with Examination(address, token, app, patience, progress) as examination:
        for finding in examination.findings(seconds):
            yield finding.escaped()


class Examination:
    """One address and one token; a context manager that closes its connections."""

    def __init__(self, address: Address, token: str, app: str, patience: float, progress: Progress) -> None:
        self._address, self._patience, self._progress = address, patience, progress
        self._url = address.subscribe.copy_merge_params({"app_id": app})
        self._token = token
        # Compression is offered as browsers do, or a proxy that compresses would go unseen.
        self._headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "gzip",
            "Authorization": f"Bearer {token}",
        }
        self._http = make_http_client(patience)
        self._numbers: tuple[str, ...] = ()
        self._offers_http2 = False
        self._live = self._answer = Answer(seconds=0.0)
        self._connection: HttpEventConnection | None = None
        self._began = 0.0

    def __enter__(self) -> "Examination":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection.join(1.0)
        self._http.close()

    def findings(self, seconds: float | None) -> Iterator[Finding]:
        """Yield them step by step."""
        reach: tuple[Step, ...] = (self._name, self._ports, self._tls)
        if self._address.proxy:
            reach = (lambda: [health_checks.detour(self._address.proxy)],)
        if not (yield from _each(*reach, self._is_live)):
            return
        yield from self._is_ready()
        if (yield from _each(self._subscribe)):
            yield from self._listen(seconds)
            yield from self._over_http2()

    def _name(self) -> list[Finding]:
        if self._address.number is not None:
            self._numbers = (self._address.host,)
            return []
        self._progress(f"looking up {self._address.host}")
        tried = network.look_up(self._address)
        self._numbers = tried.addresses
        return [health_checks.name(self._address.host, tried)]

    def _ports(self) -> list[Finding]:
        tries: dict[str, Attempt] = {}
        for number in self._numbers:
            self._progress(f"connecting to {number}")
            tries[number] = network.connect(number, self._address.port, self._patience)
        self._numbers = tuple(number for number, tried in tries.items() if not tried.problem)
        return [health_checks.port(self._address.port, tries)]

    def _tls(self) -> list[Finding]:
        host = self._address.host
        if not self._address.secure:
            return [] if self._address.local else [health_checks.plain(host)]
        self._progress("shaking hands")
        tried = network.shake_hands(self._address, self._numbers[0], self._patience)
        self._offers_http2 = tried.http2
        return [health_checks.tls(host, self._address.port, tried)]

    def _is_live(self) -> list[Finding]:
        url = self._address.beside("live")
        self._live = self._ask("GET", url)
        return [health_checks.live(url.path, self._live, self._address.prefix), *health_checks.clocks(self._live)]

    def _is_ready(self) -> list[Finding]:
        url = self._address.beside("ready")
        return [health_checks.ready(url.path, self._ask("GET", url))]

    def _subscribe(self) -> list[Finding]:
        self._progress("subscribing")
        limits: dict[str, float | None] = dict.fromkeys(("connect", "write", "pool", "read"), self._patience)
        request = self._http.build_request("GET", self._url, headers=self._headers, extensions={"timeout": limits})
        self._began = time.monotonic()
        try:
            response = self._send(request)
            self._answer = self._read(response, self._began)
        except httpx2.HTTPError as error:
            self._progress("asking for the headers alone")
            alone = self._ask("HEAD", self._url, self._headers)
            if alone.status in (0, 200):
                return [answers.held(self._problem(error), alone, self._url.path)]
            return answers.judge(alone, self._url, self._address.prefix)
        found = answers.judge(self._answer, self._url, self._address.prefix)
        if fails(found):
            response.close()
        else:
            limits["read"] = None  # httpx2 looks again when the body begins
            self._connection = HttpEventConnection(response)
        return found

    def _over_http2(self) -> list[Finding]:
        if not self._address.secure or self._address.proxy:
            return []
        if not self._offers_http2 or importlib.util.find_spec("h2") is None:
            return [answers.without_http2(self._offers_http2)]
        self._progress("subscribing over HTTP/2")
        began = time.monotonic()
        try:
            with (
                httpx2.Client(http1=False, http2=True, timeout=self._patience) as http,
                http.stream("GET", self._url, headers=self._headers) as response,
            ):
                answer = self._read(response, began)
                if answers.is_stream(answer.status, answer.headers):
                    next(response.iter_raw(), b"")
                answer = replace(answer, seconds=time.monotonic() - began)
        except httpx2.HTTPError as error:
            answer = Answer(seconds=time.monotonic() - began, problem=self._problem(error))
        return [answers.over_http2(answer, self._answer, self._url.path)]

    def _listen(self, seconds: float | None) -> list[Finding]:
        answer = self._answer
        ear = StreamRecorder(
            keepalive_period(answer.headers), seconds, gzip="gzip" in answer.headers.get("content-encoding", "")
        )
        while self._connection is not None and not ear.has_heard_enough(self._now(), self._patience):
            self._progress(f"listening: {self._now():.0f} of at most {ear.limit:.0f} s, {ear.keepalives} keepalives")
            try:
                data = self._connection.read(min(TICK_SECONDS, max(0.0, ear.limit - self._now())))
                ear.hear(self._now(), data)
            except TimeoutError:
                continue
            except (NetworkError, zlib.error):
                ear.end = End.CUT
        return stream.judge(ear.heard_until(self._now(), self._live.seconds), answer, self._url.path)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _ask(self, method: str, url: httpx2.URL, headers: Mapping[str, str] | None = None) -> Answer:
        self._progress(f"asking {url.path}")
        began = time.monotonic()
        try:
            response = self._send(self._http.build_request(method, url, headers=headers))
            with contextlib.closing(response):
                return self._read(response, began)
        except httpx2.HTTPError as error:
            return Answer(seconds=time.monotonic() - began, problem=self._problem(error))

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Return the answer with its body still to come, even of a server that sends its headers drop by drop."""
        future = start(lambda: self._http.send(request, stream=True), discard=lambda response: response.close())
        try:
            return future.result(2 * self._patience)
        except TimeoutError:
            future.cancel()
            raise httpx2.ReadTimeout("the headers do not end") from None

    def _read(self, response: httpx2.Response, began: float) -> Answer:
        """Return the answer; the body of one that is no stream is read, as much as an error needs."""
        content = b""
        if not answers.is_stream(response.status_code, response.headers):
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_BODY_BYTES or time.monotonic() - began > 2 * self._patience:
                    break
        return Answer(
            seconds=time.monotonic() - began,
            status=response.status_code,
            version=response.http_version,
            headers={name.lower(): redacted(value, (self._token,)) or "" for name, value in response.headers.items()},
            body=parse_json(content[:MAX_BODY_BYTES]),
            words=error_message(response.status_code, content[:MAX_BODY_BYTES], (self._token,)),
            at=time.time(),
        )

    def _problem(self, error: httpx2.HTTPError) -> str:
        if isinstance(error, httpx2.TimeoutException):
            return f"nothing within {self._patience:g} s"
        return health_checks.CLOSED if isinstance(error, httpx2.RemoteProtocolError) else reason(error)


def _each(*steps: Step) -> Generator[Finding, None, bool]:
    """Yield what the steps find, up to the first FAIL; return whether there was none."""
    for step in steps:
        found = step()
        yield from found
        if fails(found):
            return False
    return True
