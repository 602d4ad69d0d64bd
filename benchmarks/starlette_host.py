"""The same application on sse-starlette, as its users would write it.

Each subscriber has a queue of 16; when it is full, the oldest item is dropped. The token is checked with PyJWT, as in
this project. The ping carries this project's comment, so that the generator counts it.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator

import jwt
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Channel = tuple[str, str]
Queue = asyncio.Queue[None]


class Service:
    """The subscribers of one process."""

    def __init__(self, key: str, keepalive: int) -> None:
        self.channels: defaultdict[Channel, set[Queue]] = defaultdict(set)
        self.key = key
        self.keepalive = keepalive

    async def subscribe(self, request: Request) -> Response:
        """Check the token, register, answer with the stream."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = jwt.decode(token, self.key, algorithms=["HS256"], options={"require": ["sub", "app", "exp"]})
        except jwt.InvalidTokenError:
            return Response(status_code=401)
        if scheme != "Bearer" or claims["app"] != request.query_params.get("app_id"):
            return Response(status_code=403)
        queue: Queue = asyncio.Queue(16)
        channel = (claims["app"], claims["sub"])
        self.channels[channel].add(queue)
        return EventSourceResponse(
            self.frames(channel, queue), sep="\n", ping=self.keepalive, ping_message_factory=keepalive_frame
        )

    async def frames(self, channel: Channel, queue: Queue) -> AsyncIterator[ServerSentEvent]:
        """Yield a frame for every push until the client goes."""
        try:
            while True:
                await queue.get()
                yield ServerSentEvent(event="changed", data="")
        finally:
            self.channels[channel].discard(queue)

    async def push(self, request: Request) -> Response:
        """Publish without a device."""
        for queue in self.channels[request.path_params["app_id"], request.path_params["user_id"]]:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
        return Response(status_code=204)


def keepalive_frame() -> ServerSentEvent:
    """Return the frame of a ping."""
    return ServerSentEvent(comment="keepalive")


def application() -> Starlette:
    """Return the application for uvicorn."""
    service = Service(os.environ["BENCH_JWT_KEY"], int(os.environ["BENCH_KEEPALIVE"]))
    return Starlette(
        routes=[
            Route("/api/sync/subscribe", service.subscribe),
            Route("/push/{app_id}/{user_id}", service.push, methods=["POST"]),
        ]
    )
