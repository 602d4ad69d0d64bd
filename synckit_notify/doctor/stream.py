"""An ear for the bytes of a stream, and the rules for what it has heard.

Moments are seconds since the request was sent. A server of ours sends `: connected` at once, then `: keepalive` after
each period without other bytes, and a stream that ends on purpose says `: bye <reason>` first.
"""

import zlib
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise

from .. import sse
from . import fixes
from .findings import Finding, Verdict, fail, lasting, ok, warn
from .fixes import Remedy
from .health_checks import Answer

LATE_SECONDS = 1.0
"""The first bytes may take so much longer than an answer that is no stream."""

NAGLE_SECONDS = 0.15
"""HAProxy holds small writes back for 0.2 s."""

HASTY_SHARE, LATE_SHARE, DEAD_SHARE = 0.1, 1.5, 2.5
"""Of the period: a keepalive sooner than the first was held back before; the SDK gives up a stream after the last."""

IDLE_SHARE = 0.2
"""Of the period: a cut after less silence has another reason than silence."""

GRACE_SECONDS = 0.5
"""Earlier or later by so much is no sign of anything: machines are busy now and then."""

ENOUGH_KEEPALIVES, MAX_PERIODS = 2, 3.0
"""Unless told how long, it listens for two keepalives, and for three periods at most."""

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
    """What one read completed, at least one message."""

    at: float
    messages: tuple[sse.Message, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """A stream that was watched until `until`; `usual` is what an answer that is no stream takes."""

    heard: tuple[Chunk, ...]
    until: float
    end: End
    period: float
    usual: float = 0.0

    @property
    def messages(self) -> list[tuple[float, sse.Message]]:
        """All that was said, with its moment."""
        return [(each.at, message) for each in self.heard for message in each.messages]

    @property
    def silence(self) -> float:
        """Return how long nothing had come at the end."""
        return self.until - (self.heard[-1].at if self.heard else 0.0)

    @property
    def beats(self) -> list[float]:
        """For each keepalive, the time since whatever came before it."""
        return [at - before for (before, _), (at, message) in pairwise(self.messages) if message == KEEPALIVE]

    @property
    def farewell(self) -> str:
        """The reason that the server gave for the end, empty if it gave none."""
        texts = [message.text for _, message in self.messages if isinstance(message, sse.Comment)]
        return next((text.removeprefix("bye ") for text in texts if text.startswith("bye ")), "")


class StreamRecorder:
    """Collects what one stream says, and knows when that is enough to judge it."""

    def __init__(self, period: float, seconds: float | None, *, gzip: bool) -> None:
        self.period = period
        self.limit = MAX_PERIODS * period + 2 * GRACE_SECONDS if seconds is None else seconds
        self.heard: list[Chunk] = []
        self.keepalives = 0
        self.end = End.OPEN
        self._to_the_limit = seconds is not None
        self._decoder = sse.Decoder()
        self._inflate = zlib.decompressobj(GZIP) if gzip else None

    def hear(self, at: float, data: bytes) -> None:
        """Take the bytes of one read, none for the end; raises zlib.error for what is no gzip."""
        if not data:
            self.end = End.CLEAN
            return
        clear = data if self._inflate is None else self._inflate.decompress(data, MAX_CHUNK_BYTES)
        messages = tuple(self._decoder.feed(clear))
        if messages:  # the first bytes of gzip say nothing, though a compressor that holds all others lets them pass
            self.heard.append(Chunk(at, messages))
            self.keepalives += messages.count(KEEPALIVE)

    def heard_until(self, now: float, usual: float) -> Watch:
        """Return what was heard, to be judged."""
        return Watch(tuple(self.heard), now, self.end, self.period, usual)

    def has_heard_enough(self, now: float, patience: float) -> bool:
        """Return whether to stop listening."""
        if self.end is not End.OPEN or now >= self.limit or len(self.heard) >= MAX_CHUNKS:
            return True
        if self._to_the_limit:
            return False
        silence = now - self.heard[-1].at if self.heard else now
        longest = DEAD_SHARE * self.period + 2 * GRACE_SECONDS if self.heard else patience
        return self.keepalives >= ENOUGH_KEEPALIVES or silence > longest


def judge(watch: Watch, answer: Answer, path: str) -> list[Finding]:
    """Judge what was heard, by the answer that began it."""
    return [*_first(watch, answer, path), *_keepalives(watch, answer, path), *_end(watch, answer, path)]


def _first(watch: Watch, answer: Answer, path: str) -> list[Finding]:
    if not watch.heard:
        if watch.end is not End.OPEN:
            return []
        why = "The headers are there, so something on the way collects the body. Let it hand on what it gets:"
        changes = answer.advice(_flowing(answer, path))
        return [fail("first-byte", "the body is held back", f"nothing for {watch.until:.1f} s", why, changes)]
    first, late = watch.heard[0], watch.heard[0].at - watch.usual
    if late > LATE_SECONDS:
        why = "The server says ': connected' at once, so something held it back. Let it hand on what it gets:"
        changes = answer.advice(_flowing(answer, path))
        return [fail("first-byte", "the first bytes come late", lasting(first.at), why, changes)]
    if first.messages[0] != CONNECTED:
        if watch.farewell:
            return []
        why = "A SyncKit server says it first. An older one, or another program, answers here."
        return [warn("first-byte", "the stream does not begin with ': connected'", lasting(first.at), why)]
    if late > NAGLE_SECONDS and "HAProxy" in fixes.standing_there(answer.headers, answer.version):
        why = "HAProxy waits for more before it sends a small write, so each notice comes 0.2 s late."
        changes = answer.advice(fixes.no_delay())
        return [warn("first-byte", "': connected' is kept waiting", lasting(first.at), why, changes)]
    return [ok("first-byte", "': connected' comes at once", lasting(first.at))]


def _flowing(answer: Answer, path: str) -> Remedy:
    """Bytes are handed on as they come; most compressors do not."""
    return fixes.uncompressed(path) if "content-encoding" in answer.headers else fixes.unbuffered(path)


def _keepalives(watch: Watch, answer: Answer, path: str) -> list[Finding]:
    if not watch.heard:
        return []
    beats, announced = watch.beats, f"{watch.period:g} s announced"
    moments = [each.at for each in watch.heard] + ([watch.until] if watch.end is End.OPEN else [])
    longest = max((later - earlier for earlier, later in pairwise(moments)), default=0.0)
    changes = answer.advice(_flowing(answer, path))
    hasty = min(HASTY_SHARE * watch.period, watch.period - GRACE_SECONDS)
    if any(beat < hasty for beat in beats):
        why = "They were sent one by one, so something on the way collects bytes. Let it hand on what it gets:"
        return [fail("keepalives", "keepalives come in bursts", _figures(beats, announced), why, changes)]
    if longest > DEAD_SHARE * watch.period + GRACE_SECONDS:
        why = "Devices give up a stream that is silent for so long. Something on the way holds its bytes back:"
        return [fail("keepalives", f"nothing for {longest:.1f} s", announced, why, changes)]
    if longest > LATE_SHARE * watch.period + GRACE_SECONDS:
        why = "The server, or something on the way, is too busy, or bytes are held back for a while."
        return [warn("keepalives", f"nothing for {longest:.1f} s", announced, why, changes)]
    if beats:
        return [ok("keepalives", "keepalives come on time", _figures(beats, announced))]
    if watch.end is not End.OPEN:
        return []
    if watch.until > LATE_SHARE * watch.period:
        return [ok("keepalives", "changes keep the stream busy", f"{len(watch.messages)} frames")]
    why = f"It was not watched for long enough to tell. Watch it longer: --seconds {2.5 * watch.period:.0f}"
    return [warn("keepalives", "no keepalive was due yet", f"watched for {watch.until:.1f} s, {announced}", why)]


def _figures(beats: list[float], announced: str) -> str:
    shown = ", ".join(f"{beat:.1f}" for beat in beats[:3]) + (", …" if len(beats) > 3 else "")
    return f"{shown} s; {announced}"


def _end(watch: Watch, answer: Answer, path: str) -> list[Finding]:
    if watch.farewell:
        return [_farewell(watch.farewell, watch.until)]
    if watch.end is End.OPEN:
        return [ok("end", "the stream stays open", f"watched for {watch.until:.1f} s")] if watch.heard else []
    if not watch.beats and watch.silence > IDLE_SHARE * watch.period:
        return [_impatient(watch, answer, path)]
    figure = f"after {watch.until:.1f} s and {len(watch.beats)} keepalives"
    if watch.end is End.CLEAN:
        why = (
            "The server says ': bye' first. So a process died behind a proxy that speaks HTTP/1.0 to it and takes a cut"
            " for an end, or a proxy ended it. Look into their logs for this moment, and:"
        )
        return [fail("end", "the stream ends without ': bye'", figure, why, answer.advice(fixes.chunked(path)))]
    why = (
        "Not for silence: a process died or was killed, a proxy was restarted, or a limit on the length of requests was"
        " reached. Look into the logs of proxy and server for this moment, and see that:"
    )
    return [fail("end", "cut while it was alive", figure, why, answer.advice(fixes.no_kill()))]


def _impatient(watch: Watch, answer: Answer, path: str) -> Finding:
    why = (
        "Something on the way ends a stream that is silent for so long, sooner than the server speaks. Devices connect"
        " again and again, and hear of changes late. Let it wait longer:"
    )
    remedy = fixes.longer_timeouts(path, watch.period, watch.silence)
    announced = f"a keepalive each {watch.period:g} s"
    return fail("end", f"cut after {watch.silence:.1f} s of silence", announced, why, answer.advice(remedy))


def _farewell(reason: str, seconds: float) -> Finding:
    figure = f"after {seconds:.1f} s"
    match reason:
        case "draining":
            why = "This worker is shutting down: somebody deploys or restarts. Look again when that is over."
            return warn("end", "the server says bye: draining", figure, why)
        case "token_expired":
            why = "All is well, but the token was at its end. Take one that lives longer than this examination."
            return warn("end", "the server says bye: token_expired", figure, why)
        case "max_age":
            return ok("end", "the server ends the stream by its age, as it is told to", figure)
    why = "The server no longer takes this token: its user or device was logged out. Get a new one."
    return Finding(Verdict.FAIL, "end", f"the server says bye: {reason}", figure, why)
