"""A captive portal answers every request with its own page: the stream waits, and the app gets no error."""

from synckit_notify.client import StreamState, SyncNotifyStream
from synckit_notify.client.errors import NetworkError, ProtocolError


class CaptivePortal:
    """Answers instead of the server."""

    def connect(self):
        raise ProtocolError("the answer is not a JSON object")

    def refresh(self) -> None:
        raise ProtocolError("the answer is not a JSON object")

    def position(self) -> tuple[str, int]:
        raise NetworkError("not asked in this story")

    def watch(self, stream: SyncNotifyStream) -> None:
        pass


def test_the_stream_waits_with_backoff_and_raises_nothing() -> None:
    now, waits, states = [0.0], [], []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds
        if len(waits) == 20:
            stream.close()

    stream = SyncNotifyStream(
        CaptivePortal(),
        clock=lambda: now[0],
        wall_clock=lambda: now[0],
        wait=wait,
        on_state=lambda state, reason: states.append(state),
    )
    assert list(stream) == []
    assert StreamState.WAITING in states
    assert sum(waits) > 20.0, "a second, two, four, and so on"
