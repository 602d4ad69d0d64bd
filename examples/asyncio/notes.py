"""Notes in the terminal, with asyncio: each line you type is pushed, each note of another device is printed.

    python notes.py laptop

SYNCKIT_URL, SYNCKIT_API_KEY, SYNCKIT_EMAIL, SYNCKIT_PASSWORD and SYNCKIT_PASSPHRASE are read from the environment.
"""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

from synckit_notify.client import ChangeEntry, NetworkError, PulledChange
from synckit_notify.client.aio import AsyncSyncKitClient


async def typed_lines() -> AsyncIterator[str]:
    """Yield the lines of the standard input, without blocking the event loop."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode().strip()


async def show(changes: list[PulledChange]) -> None:
    """Print notes of other devices; an async function runs on the loop, so it may await a database, for example."""
    for change in changes:
        if change.table == "notes" and change.op == "INSERT":  # the account may have tables of other programs
            print(change.data["text"], flush=True)


async def push(client: AsyncSyncKitClient, text: str) -> None:
    """Push a note; what cannot be sent within 5 s is kept in the state file, and `follow` sends it later."""
    entry = ChangeEntry("notes", "INSERT", str(uuid.uuid4()), datetime.now(UTC), {"text": text})
    with suppress(NetworkError, TimeoutError):
        async with asyncio.timeout(5):
            await client.push([entry])


async def main(device: str) -> None:
    async with AsyncSyncKitClient(
        os.environ["SYNCKIT_URL"], api_key=os.environ["SYNCKIT_API_KEY"], state=f"{device}.state"
    ) as client:
        if client.device is None:
            await client.authenticate(os.environ["SYNCKIT_EMAIL"], os.environ["SYNCKIT_PASSWORD"])
            await client.register_device(device, "linux")
        await client.setup_encryption(os.environ["SYNCKIT_PASSPHRASE"])
        async with asyncio.TaskGroup() as group:
            following = group.create_task(client.follow(show))
            async for text in typed_lines():
                await push(client, text)
            following.cancel()  # at the end of the input; cancelling ends it at once


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
