"""A TCP proxy between some devices and the servers, with faults that can be switched on and off.

    device ──▶ link ──▶ one of the servers, whichever accepts

As with TCP, no link loses bytes and then continues: delayed bytes arrive later, and a link that has lost bytes carries
nothing any more. One thread with an event loop carries all links; the methods may be called from any thread.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Sequence

REQUESTS, ANSWERS = "requests", "answers"
BOTH = frozenset({REQUESTS, ANSWERS})
NEITHER: frozenset[str] = frozenset()

_RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection of a device and its connection to a server."""

    def __init__(self, device: asyncio.StreamWriter) -> None:
        self.ends = [device]
        self.streams = False
        """Whether it carries an event stream."""
        self.loses = NEITHER
        """The directions in which bytes and the end of the connection are lost for ever."""

    def reset(self) -> None:
        """End both connections with a reset."""
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()


class Network:
    """Listens on a free port of the loopback until `close`."""

    def __init__(self, servers: Sequence[int]) -> None:
        self._servers = servers
        self._links: set[Link] = set()
        self._refusing = False
        self._losing = NEITHER
        self._lives: tuple[float, float] | None = None
        self.expired = 0
        """How many connections were cut at their age limit."""
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._carry, "127.0.0.1", 0), self._loop)
        self._listener = started.result()
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset every connection, like a mobile network."""
        self._soon(lambda: self._reset(lambda link: True))

    def refuse(self) -> None:
        """Reset new connections, until `accept`."""
        self._refusing = True

    def accept(self) -> None:
        """Accept new connections again."""
        self._refusing = False

    def hold(self) -> None:
        """Delay what event streams carry, like a buffering proxy; `release` delivers it."""
        self._soon(self._flowing.clear)

    def release(self) -> None:
        """Deliver what was held."""
        self._soon(self._flowing.set)

    def fall_silent(self) -> None:
        """Carry nothing on any connection, and accept new ones silently; until `recover`."""
        self._lose(BOTH)

    def lose_answers(self) -> None:
        """Carry requests but no responses; until `recover`."""
        self._lose(frozenset({ANSWERS}))

    def recover(self) -> None:
        """Work again, and reset the connections that lost bytes, like a restarted middlebox."""
        self._losing = NEITHER
        self._soon(lambda: self._reset(lambda link: bool(link.loses)))

    def forget_streams(self) -> None:
        """Carry nothing more on the present event streams, like a middlebox that forgets idle connections."""
        self._soon(lambda: self._spoil(BOTH, lambda link: link.streams))

    def limit_age(self, least: float, most: float) -> None:
        """Reset every connection at a random age in seconds; until `forget_age`."""
        self._lives = least, most
        self._soon(self._limit_all)

    def forget_age(self) -> None:
        """Remove the age limit."""
        self._lives = None

    def close(self) -> None:
        """End everything."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._soon(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _soon(self, action: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(action)

    def _lose(self, what: frozenset[str]) -> None:
        self._losing = what
        self._soon(lambda: self._spoil(what, lambda link: True))

    def _spoil(self, what: frozenset[str], chosen: Callable[[Link], bool]) -> None:
        for link in filter(chosen, self._links):
            link.loses |= what

    def _reset(self, chosen: Callable[[Link], bool]) -> None:
        for link in filter(chosen, list(self._links)):
            link.reset()

    def _limit_all(self) -> None:
        for link in self._links:
            self._limit(link)

    def _limit(self, link: Link) -> None:
        if self._lives is not None:
            self._loop.call_later(random.uniform(*self._lives), self._expire, link)

    def _expire(self, link: Link) -> None:
        if link in self._links and self._lives is not None:
            self.expired += 1
            link.reset()

    async def _end(self) -> None:
        self._listener.close()
        self._reset(lambda link: True)
        carrying = asyncio.all_tasks() - {asyncio.current_task()}
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(writer)
        link.loses = self._losing
        server = None if self._refusing else await self._reach()
        if server is None:
            link.reset()
            return
        link.ends.append(server[1])
        self._links.add(link)
        self._limit(link)
        try:
            await asyncio.gather(
                self._pump(link, REQUESTS, reader, server[1]), self._pump(link, ANSWERS, server[0], writer)
            )
        finally:
            self._links.discard(link)
            writer.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in random.sample(self._servers, len(self._servers)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _pump(self, link: Link, what: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                link.streams = link.streams or (what == ANSWERS and b"text/event-stream" in data)
                if what == ANSWERS and link.streams:
                    await self._flowing.wait()
                if what not in link.loses:
                    sink.write(data)
                    await sink.drain()
        if what == REQUESTS or what not in link.loses:  # the end of a device's connection always reaches the server
            sink.close()
