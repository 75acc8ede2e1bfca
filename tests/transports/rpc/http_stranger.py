"""An HTTP server of another make, for what a caller must bear."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def stranger(
    answer: Callable[[bytes], bytes], *deeds: str | bytes, fresh: str = "keep"
) -> AsyncIterator[tuple[int, list[tuple[int, int]]]]:
    """It gives each body its ``answer``, as JSON. ``deeds`` are what it does instead with the requests of its first
    connection (bytes: sends them); ``fresh``, with those of any other. Gives its port, and (connection, request) of
    each request that it gets."""
    seen: list[tuple[int, int]] = []
    connections = iter(range(100))
    busy: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        busy.add(task)
        connection = next(connections)
        requests = iter(range(100))
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")
                )
                body = answer(await reader.readexactly(length))
                good = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                request = next(requests)
                seen.append((connection, request))
                deed = deeds[request] if connection == 0 else fresh
                if deed == "hang up":
                    break
                if deed == "trickle":
                    for byte in good + body:
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0.05)
                writer.write(deed if isinstance(deed, bytes) else good + body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy)
        await server.wait_closed()
