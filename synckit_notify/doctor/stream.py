"""Record what a stream sends while it is open, and the rules for what was recorded.

Times are seconds since the request was sent. A SyncKit server sends `: connected` at once, then `: keepalive` after
each period without other bytes, and `: bye <reason>` before it ends a stream on purpose.
"""

import zlib
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise

from .. import sse
from . import fixes
from .findings import Finding, fail, format_duration, ok, warn
from .fixes import Change
from .health_checks import Answer

LATE_SECONDS = 1.0
"""How much longer than the response of `/live` the first bytes may take."""

NAGLE_SECONDS = 0.15
"""HAProxy holds small writes back for 0.2 s."""

BURST_SHARE, LATE_SHARE, DEAD_SHARE = 0.1, 1.5, 2.5
"""Shares of the keepalive period: a keepalive that follows sooner than the first share was held back before; one later
than the second is late; the SDK closes a stream that is silent for the third."""

IDLE_SHARE = 0.2
"""Share of the keepalive period: a stream that was cut after less silence was not cut by an idle timeout."""

GRACE_SECONDS = 0.5
"""Tolerance of all times: a busy machine reads this much too late."""

ENOUGH_KEEPALIVES, MAX_PERIODS = 2, 3.0
"""Without --seconds the doctor listens for two keepalives, or for at most three periods."""

MAX_CHUNK_BYTES, MAX_CHUNKS = 2**20, 10_000
GZIP = 16 + zlib.MAX_WBITS

CONNECTED, KEEPALIVE = sse.Comment("connected"), sse.Comment("keepalive")


class End(Enum):
    """How the body ended."""

    OPEN = auto()
    CLEAN = auto()
    CUT = auto()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The messages that one read completed, at least one."""

    at: float
    messages: tuple[sse.Message, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """A stream that was read until `until`; `latency` is how long the response of `/live` took."""

    chunks: tuple[Chunk, ...]
    until: float
    end: End
    period: float
    latency: float = 0.0

    @property
    def messages(self) -> list[tuple[float, sse.Message]]:
        """All messages with their times."""
        return [(chunk.at, message) for chunk in self.chunks for message in chunk.messages]

    @property
    def silence(self) -> float:
        """How long nothing had arrived at the end."""
        return self.until - (self.chunks[-1].at if self.chunks else 0.0)

    @property
    def keepalive_gaps(self) -> list[float]:
        """The time between each keepalive and the message before it."""
        return [at - before for (before, _), (at, message) in pairwise(self.messages) if message == KEEPALIVE]

    @property
    def bye_reason(self) -> str:
        """The reason that the server gave for the end, or an empty string."""
        texts = [message.text for _, message in self.messages if isinstance(message, sse.Comment)]
        return next((text.removeprefix("bye ") for text in texts if text.startswith("bye ")), "")


class StreamRecorder:
    """Decode the bytes of one stream, and tell when there are enough of them to judge it."""

    def __init__(self, period: float, seconds: float | None, *, gzip: bool) -> None:
        self.period = period
        self.limit = MAX_PERIODS * period + 2 * GRACE_SECONDS if seconds is None else seconds
        self.chunks: list[Chunk] = []
        self.keepalives = 0
        self.end = End.OPEN
        self._has_fixed_length = seconds is not None
        self._decoder = sse.Decoder()
        self._decompressor = zlib.decompressobj(GZIP) if gzip else None

    def feed(self, at: float, data: bytes) -> None:
        """Add the bytes of one read, empty at the end of the body; raise zlib.error for bytes that are not gzip."""
        if not data:
            self.end = End.CLEAN
            return
        plain = data if self._decompressor is None else self._decompressor.decompress(data, MAX_CHUNK_BYTES)
        messages = tuple(self._decoder.feed(plain))
        if (
            messages
        ):  # bytes without a message do not count: a compressor that delays events still sends its gzip header
            self.chunks.append(Chunk(at, messages))
            self.keepalives += messages.count(KEEPALIVE)

    def recording(self, until: float, latency: float) -> Recording:
        """Return what was recorded."""
        return Recording(tuple(self.chunks), until, self.end, self.period, latency)

    def is_complete(self, now: float, timeout: float) -> bool:
        """Return whether to stop reading; a stream that sends nothing is read for `timeout` seconds."""
        if self.end is not End.OPEN or now >= self.limit or len(self.chunks) >= MAX_CHUNKS:
            return True
        if self._has_fixed_length:
            return False
        silence = now - self.chunks[-1].at if self.chunks else now
        max_silence = DEAD_SHARE * self.period + 2 * GRACE_SECONDS if self.chunks else timeout
        return self.keepalives >= ENOUGH_KEEPALIVES or silence > max_silence


def judge(recording: Recording, answer: Answer, path: str) -> list[Finding]:
    """Judge the recording of a stream that began with this response."""
    return [*_first(recording, answer, path), *_keepalives(recording, answer, path), *_end(recording, answer, path)]


def _first(recording: Recording, answer: Answer, path: str) -> list[Finding]:
    if not recording.chunks:
        if recording.end is not End.OPEN:
            return []
        why = "The headers arrive but the body does not, so a proxy collects it. Let it forward bytes at once:"
        figure = f"nothing for {recording.until:.1f} s"
        return [fail("first-byte", "the body is held back", figure, why, _no_delay_of_bytes(answer, path))]
    first, late = recording.chunks[0], recording.chunks[0].at - recording.latency
    figure = format_duration(first.at)
    if late > LATE_SECONDS:
        why = "The server sends ': connected' at once, so a proxy held it back. Let it forward bytes at once:"
        return [fail("first-byte", "the first bytes are late", figure, why, _no_delay_of_bytes(answer, path))]
    if first.messages[0] != CONNECTED:
        if recording.bye_reason:
            return []
        why = "A SyncKit server sends it first. An older version or another program answers here."
        return [warn("first-byte", "the stream does not begin with ': connected'", figure, why)]
    if late > NAGLE_SECONDS and "HAProxy" in answer.servers:
        why = "HAProxy waits for more data before it sends a small write, so each event is 0.2 s late:"
        return [warn("first-byte", "': connected' is delayed", figure, why, answer.advice(fixes.no_delay()))]
    return [ok("first-byte", "': connected' arrives at once", figure)]


def _no_delay_of_bytes(answer: Answer, path: str) -> tuple[Change, ...]:
    """Return the changes that let bytes pass at once; most compressors delay them."""
    is_compressed = "content-encoding" in answer.headers
    return answer.advice(fixes.no_compression(path) if is_compressed else fixes.no_buffering(path))


def _keepalives(recording: Recording, answer: Answer, path: str) -> list[Finding]:
    if not recording.chunks:
        return []
    gaps, announced = recording.keepalive_gaps, f"{recording.period:g} s announced"
    times = [chunk.at for chunk in recording.chunks] + ([recording.until] if recording.end is End.OPEN else [])
    longest = max((later - earlier for earlier, later in pairwise(times)), default=0.0)
    changes = _no_delay_of_bytes(answer, path)
    burst = min(BURST_SHARE * recording.period, recording.period - GRACE_SECONDS)
    if any(gap < burst for gap in gaps):
        why = "The server sent them one by one, so a proxy collects bytes. Let it forward bytes at once:"
        return [fail("keepalives", "keepalives arrive in bursts", _gaps(gaps, announced), why, changes)]
    if longest > DEAD_SHARE * recording.period + GRACE_SECONDS:
        why = "Clients close a stream that is silent for so long. Something on the way holds its bytes back:"
        return [fail("keepalives", f"nothing for {longest:.1f} s", announced, why, changes)]
    if longest > LATE_SHARE * recording.period + GRACE_SECONDS:
        why = "The server or a proxy is overloaded, or a proxy holds bytes back for some time."
        return [warn("keepalives", f"nothing for {longest:.1f} s", announced, why, changes)]
    if gaps:
        return [ok("keepalives", "keepalives arrive on time", _gaps(gaps, announced))]
    if recording.end is not End.OPEN:
        return []
    if recording.until > LATE_SHARE * recording.period:
        return [ok("keepalives", "the stream is busy with events", f"{len(recording.messages)} messages")]
    why = f"No keepalive was due in this time. Listen longer: --seconds {2.5 * recording.period:.0f}"
    figure = f"listened for {recording.until:.1f} s, {announced}"
    return [warn("keepalives", "no keepalive was due yet", figure, why)]


def _gaps(gaps: list[float], announced: str) -> str:
    shown = ", ".join(f"{gap:.1f}" for gap in gaps[:3]) + (", …" if len(gaps) > 3 else "")
    return f"{shown} s; {announced}"


def _end(recording: Recording, answer: Answer, path: str) -> list[Finding]:
    if recording.bye_reason:
        return [_bye(recording.bye_reason, recording.until)]
    if recording.end is End.OPEN:
        figure = f"listened for {recording.until:.1f} s"
        return [ok("end", "the stream stays open", figure)] if recording.chunks else []
    if not recording.keepalive_gaps and recording.silence > IDLE_SHARE * recording.period:
        return [_idle_timeout(recording, answer, path)]
    figure = f"after {recording.until:.1f} s and {len(recording.keepalive_gaps)} keepalives"
    if recording.end is End.CLEAN:
        why = (
            "A SyncKit server sends ': bye' before it ends a stream. So a proxy ended it, or a server process died and"
            " a proxy that uses HTTP/1.0 towards the server made an orderly end of it. See their logs for this time."
        )
        return [fail("end", "the stream ends without ': bye'", figure, why)]
    why = (
        "This was no idle timeout: a server process died or was killed, a proxy was restarted, or a limit on the"
        " duration of requests was reached. See the logs of the proxy and the server for this time."
    )
    return [fail("end", "the stream was cut while it was active", figure, why)]


def _idle_timeout(recording: Recording, answer: Answer, path: str) -> Finding:
    why = (
        "A proxy closes connections that are idle for this long, which is less than the keepalive period. Clients"
        " reconnect again and again, and learn of changes late. Make the timeout longer, or the period shorter:"
    )
    changes = answer.advice(fixes.longer_timeouts(path, recording.period, recording.silence))
    figure = f"a keepalive every {recording.period:g} s"
    return fail("end", f"closed after {recording.silence:.1f} s of silence", figure, why, changes)


def _bye(reason: str, seconds: float) -> Finding:
    figure = f"after {seconds:.1f} s"
    match reason:
        case "draining":
            why = "This worker is shutting down for a deployment or a restart. Run the doctor again afterwards."
            return warn("end", "the server says bye: draining", figure, why)
        case "token_expired":
            why = "The stream works, but the token expired meanwhile. Use a token that is valid for longer."
            return warn("end", "the server says bye: token_expired", figure, why)
        case "max_age":
            return ok("end", "the server ended the stream at its maximum age, as configured", figure)
    why = "The server no longer accepts this token: its user or device was logged out. Get a new one."
    return fail("end", f"the server says bye: {reason}", figure, why)
