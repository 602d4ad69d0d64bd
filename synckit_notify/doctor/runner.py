"""The part of the doctor that does I/O: send requests, measure times, and yield what the rules find.

    DNS, TCP, TLS ──▶ GET /live, /ready ──▶ GET /subscribe ──▶ read the stream for a while

Each finding is yielded as soon as it is known. After a FAIL that makes the next step impossible, the doctor stops. The
token is sent to the given address only: no redirect is followed.
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
from . import response as responses
from .findings import Finding, fails
from .health_checks import Answer, Attempt
from .network import Address
from .stream import End, StreamRecorder

TIMEOUT_SECONDS = 10.0
"""For a response: as long as the SDK waits for the headers of a stream."""

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
    timeout: float = TIMEOUT_SECONDS,
    progress: Progress = lambda text: None,
) -> Iterator[Finding]:
    """Examine a subscription to this app and yield findings; `progress` gets a text for each wait.

    `seconds` is how long to read the stream, by default until two keepalives have arrived. `timeout` is in seconds and
    applies to each step.
    """
    with Examination(address, token, app, timeout, progress) as examination:
        for finding in examination.findings(seconds):
            yield finding.escaped()


class Examination:
    """The examination of one address with one token; a context manager that closes its connections."""

    def __init__(self, address: Address, token: str, app: str, timeout: float, progress: Progress) -> None:
        self._address, self._timeout, self._progress = address, timeout, progress
        self._url = address.subscribe.copy_merge_params({"app_id": app})
        self._token = token
        # Accept gzip as browsers do, so that a proxy which compresses is found.
        self._headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "gzip",
            "Authorization": f"Bearer {token}",
        }
        self._http = make_http_client(timeout)
        self._ip_addresses: tuple[str, ...] = ()
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
        """Run all steps and yield their findings."""
        connect: tuple[Step, ...] = (self._name, self._ports, self._tls)
        if self._address.proxy:
            connect = (lambda: [health_checks.environment_proxy(self._address.proxy)],)
        if not (yield from _until_fail(*connect, self._live_and_clocks)):
            return
        yield from self._ready()
        if (yield from _until_fail(self._subscribe)):
            yield from self._read_stream(seconds)
            yield from self._over_http2()

    def _name(self) -> list[Finding]:
        if self._address.ip is not None:
            self._ip_addresses = (self._address.host,)
            return []
        self._progress(f"looking up {self._address.host}")
        attempt = network.look_up(self._address)
        self._ip_addresses = attempt.addresses
        return [health_checks.name(self._address.host, attempt)]

    def _ports(self) -> list[Finding]:
        attempts: dict[str, Attempt] = {}
        for ip in self._ip_addresses:
            self._progress(f"connecting to {ip}")
            attempts[ip] = network.connect(ip, self._address.port, self._timeout)
        self._ip_addresses = tuple(ip for ip, attempt in attempts.items() if not attempt.problem)
        return [health_checks.port(self._address.port, attempts)]

    def _tls(self) -> list[Finding]:
        host = self._address.host
        if not self._address.secure:
            return [] if self._address.local else [health_checks.plain(host)]
        self._progress("negotiating TLS")
        attempt = network.negotiate_tls(self._address, self._ip_addresses[0], self._timeout)
        self._offers_http2 = attempt.http2
        return [health_checks.tls(host, self._address.port, attempt)]

    def _live_and_clocks(self) -> list[Finding]:
        url = self._address.sibling("live")
        self._live = self._request("GET", url)
        return [health_checks.live(url.path, self._live, self._address.prefix), *health_checks.clocks(self._live)]

    def _ready(self) -> list[Finding]:
        url = self._address.sibling("ready")
        return [health_checks.ready(url.path, self._request("GET", url))]

    def _subscribe(self) -> list[Finding]:
        self._progress("subscribing")
        limits: dict[str, float | None] = dict.fromkeys(("connect", "write", "pool", "read"), self._timeout)
        request = self._http.build_request("GET", self._url, headers=self._headers, extensions={"timeout": limits})
        self._began = time.monotonic()
        try:
            response = self._send(request)
            self._answer = self._read(response, self._began)
        except httpx2.HTTPError as error:
            self._progress("sending a HEAD request")
            head = self._request("HEAD", self._url, self._headers)
            if head.status in (0, 200):
                return [responses.no_answer(self._problem(error), head, self._url.path)]
            return responses.judge(head, self._url, self._address.prefix)
        findings = responses.judge(self._answer, self._url, self._address.prefix)
        if fails(findings):
            response.close()
        else:
            limits["read"] = None  # httpx2 reads this again when the body begins
            self._connection = HttpEventConnection(response)
        return findings

    def _over_http2(self) -> list[Finding]:
        if not self._address.secure or self._address.proxy:
            return []
        if not self._offers_http2 or importlib.util.find_spec("h2") is None:
            return [responses.without_http2(self._offers_http2)]
        self._progress("subscribing over HTTP/2")
        began = time.monotonic()
        try:
            with (
                httpx2.Client(http1=False, http2=True, timeout=self._timeout) as http,
                http.stream("GET", self._url, headers=self._headers) as response,
            ):
                answer = self._read(response, began)
                if responses.is_stream(answer.status, answer.headers):
                    next(response.iter_raw(), b"")
                answer = replace(answer, seconds=time.monotonic() - began)
        except httpx2.HTTPError as error:
            answer = Answer(seconds=time.monotonic() - began, problem=self._problem(error))
        return [responses.over_http2(answer, self._answer, self._url.path)]

    def _read_stream(self, seconds: float | None) -> list[Finding]:
        headers = self._answer.headers
        recorder = StreamRecorder(
            keepalive_period(headers), seconds, gzip="gzip" in headers.get("content-encoding", "")
        )
        while self._connection is not None and not recorder.is_complete(self._now(), self._timeout):
            elapsed, keepalives = f"{self._now():.0f} of at most {recorder.limit:.0f} s", recorder.keepalives
            self._progress(f"listening: {elapsed}, {keepalives} keepalives")
            try:
                data = self._connection.read(min(TICK_SECONDS, max(0.0, recorder.limit - self._now())))
                recorder.feed(self._now(), data)
            except TimeoutError:
                continue
            except (NetworkError, zlib.error):
                recorder.end = End.CUT
        return stream.judge(recorder.recording(self._now(), self._live.seconds), self._answer, self._url.path)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _request(self, method: str, url: httpx2.URL, headers: Mapping[str, str] | None = None) -> Answer:
        self._progress(f"requesting {url.path}")
        began = time.monotonic()
        try:
            response = self._send(self._http.build_request(method, url, headers=headers))
            with contextlib.closing(response):
                return self._read(response, began)
        except httpx2.HTTPError as error:
            return Answer(seconds=time.monotonic() - began, problem=self._problem(error))

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response before its body; give up on a server that sends its headers too slowly."""
        future = start(lambda: self._http.send(request, stream=True), discard=lambda response: response.close())
        try:
            return future.result(2 * self._timeout)
        except TimeoutError:
            future.cancel()
            raise httpx2.ReadTimeout("the headers are incomplete") from None

    def _read(self, response: httpx2.Response, began: float) -> Answer:
        """Convert the response. Unless it is a stream, read the first bytes of its body, enough for an error."""
        content = b""
        if not responses.is_stream(response.status_code, response.headers):
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_BODY_BYTES or time.monotonic() - began > 2 * self._timeout:
                    break
        return Answer(
            seconds=time.monotonic() - began,
            status=response.status_code,
            version=response.http_version,
            headers={name.lower(): redacted(value, (self._token,)) or "" for name, value in response.headers.items()},
            body=parse_json(content[:MAX_BODY_BYTES]),
            message=error_message(response.status_code, content[:MAX_BODY_BYTES], (self._token,)),
            at=time.time(),
        )

    def _problem(self, error: httpx2.HTTPError) -> str:
        if isinstance(error, httpx2.TimeoutException):
            return f"no response within {self._timeout:g} s"
        return health_checks.CONNECTION_CLOSED if isinstance(error, httpx2.RemoteProtocolError) else reason(error)


def _until_fail(*steps: Step) -> Generator[Finding, None, bool]:
    """Run the steps up to the first FAIL and yield their findings; return whether there was no FAIL."""
    for step in steps:
        findings = step()
        yield from findings
        if fails(findings):
            return False
    return True
