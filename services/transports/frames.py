"""Frames over TCP, in our own event loop: four bytes of length, big-endian, and that many bytes.

On one connection each is answered before the next is read: whoever wants more at a time opens more connections.
"""

import asyncio
import contextlib
import contextvars
import errno
import logging
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable

FRAME_S = 10.0
"""A frame that has begun to arrive, or an answer that has begun to leave, must be through after that long."""
DRAIN_S = 8.0
BACKLOG = 2048

log = logging.getLogger(__name__)


class OversizeError(ValueError): ...


async def read_frame(reader: StreamReader, limit_bytes: int) -> bytes:
    """The next one, its length included. Raises ``IncompleteReadError`` where the connection ends (with nothing in
    ``partial`` if that is between two frames), ``TimeoutError``, and ``OversizeError`` before it reads any of a frame
    that is too large."""
    head = await reader.readexactly(4)
    size = int.from_bytes(head, "big")
    if size > limit_bytes:
        raise OversizeError(f"a frame of {size} bytes, where {limit_bytes} are allowed")
    try:
        async with asyncio.timeout(FRAME_S):
            return head + await reader.readexactly(size)
    except IncompleteReadError as error:
        raise IncompleteReadError(head + error.partial, 4 + size) from None


class FrameServer:
    """One listening port. ``answer`` is given a frame and gives one, or nothing to hang up; ``refused`` is told the
    reason (a short constant) and the details of what is none. ``start``, then ``drain`` (optional), then ``close``."""

    def __init__(
        self, answer: Callable[[bytes], Awaitable[bytes]], refused: Callable[[str, str], None], limit_bytes: int
    ) -> None:
        self._answer, self._refused, self._limit_bytes = answer, refused, limit_bytes
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._in_hand = 0
        self._done = asyncio.Event()
        self.draining = False

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ``OSError``, which names the port if that is taken."""
        starting = asyncio.start_server(self._connected, host, port, backlog=BACKLOG)
        try:
            # connections are served in copies of this task's context, which must be in no one's trace
            self._server = await asyncio.create_task(starting, context=contextvars.Context())
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(errno.EADDRINUSE, f"port {port} on {host} is taken") from None
            raise

    def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # so that drain means: all of it has left
        try:
            while await self._exchange(await read_frame(reader, self._limit_bytes), writer):
                pass
        except IncompleteReadError as error:
            if error.partial:
                self._refused("truncated", str(error))
        except OversizeError as error:
            self._refused("oversize", str(error))
        except TimeoutError:
            self._refused("slow", f"not through after {FRAME_S:g} s")
        except OSError as error:
            log.debug("a caller went away: %s", error)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            await hang_up(writer)

    async def _exchange(self, frame: bytes, writer: StreamWriter) -> bool:
        """Whether there may be another."""
        self._in_hand += 1
        try:
            answer = await self._answer(frame)
            async with asyncio.timeout(FRAME_S):
                writer.write(answer)
                await writer.drain()
            return bool(answer)
        finally:
            self._in_hand -= 1
            self._done.set()

    async def drain(self, grace_s: float = DRAIN_S) -> None:
        """Accept no connection; return when the frames in hand are answered, or after ``grace_s``. Connections stay
        open, and what still comes on them is ``answer``'s to refuse: to hang up would leave a caller in doubt whose
        next call is on its way."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        try:
            async with asyncio.timeout(grace_s):
                while self._in_hand:
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            log.warning("%d calls were not finished within %g s", self._in_hand, grace_s)

    async def close(self) -> None:
        """Let go of port and connections; what is in hand is broken off. Safe to call twice."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def hang_up(writer: StreamWriter) -> None:
    """Close; what was written has ``FRAME_S`` to leave."""
    writer.close()
    try:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(FRAME_S):
                await writer.wait_closed()
    finally:
        writer.transport.abort()
