"""Frames as a caller has them.

Connections are kept and used again, one request at a time on each; a request that dies on a kept connection is sent
once more, and what goes wrong is said in the words of ``errors``.
"""

import asyncio
import select
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from services.transports.errors import ConnectionBroken, DeadlineExceeded, Unavailable
from services.transports.frames import hang_up, read_frame

KEPT = 64
"""So many idle connections to one address are kept."""

Answer = TypeVar("Answer")


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def stale(self) -> bool:
        """The peer has closed it, or spoken out of turn. The kernel is asked, which knows before the event loop."""
        if self.writer.is_closing() or self.reader.at_eof():
            return True
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))


class FrameClient:
    """Requests to ``host:port``. An answer may have ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._idle: dict[str, list[_Connection]] = {}
        self._closed = False

    async def request(
        self, peer: str, address: str, frame: bytes, read: Callable[[bytes], tuple[Answer, bool]], *, timeout_s: float
    ) -> Answer:
        """What ``read`` makes of the answer; with it, it says whether the connection is for further use. The request
        must be one that may be repeated.

        Raises a ``TransportError`` where no answer came within ``timeout_s``, ``OversizeError``, and what ``read``
        raises; ``Unavailable`` is for it to raise where the answer is that nothing was done.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s

        async def exchange(connection: _Connection) -> Answer:
            """Whatever breaks it off, the connection is of no more use then: its answer may still come."""
            try:
                async with asyncio.timeout_at(deadline):
                    answer, further = read(await self._exchange(peer, connection, frame))
            except BaseException as error:
                connection.writer.transport.abort()
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from None
                raise
            if further:
                self._keep(address, connection)
            else:
                connection.writer.transport.abort()
            return answer

        first: Exception | None = None
        if kept := self._take(address):
            try:
                return await exchange(kept)
            except (ConnectionBroken, Unavailable) as error:
                first = error
        try:
            return await exchange(await self._open(peer, address, deadline))
        except Unavailable as error:
            if isinstance(first, ConnectionBroken):  # now; but what of the first time?
                raise ConnectionBroken(f"{first}; then {error}") from error
            raise

    async def _open(self, peer: str, address: str, deadline: float) -> _Connection:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout_at(deadline):
                return _Connection(*await asyncio.open_connection(host.strip("[]"), int(port)))
        except OSError as error:  # TimeoutError is one
            raise Unavailable(f"{peer} cannot be reached: {str(error) or 'no connection in time'}") from error

    async def _exchange(self, peer: str, connection: _Connection, frame: bytes) -> bytes:
        try:
            connection.writer.write(frame)
            await connection.writer.drain()
            return await read_frame(connection.reader, self._limit_bytes)
        except (EOFError, OSError) as error:
            raise ConnectionBroken(f"{peer}: {error}") from error

    def _take(self, address: str) -> _Connection | None:
        idle = self._idle.get(address, [])
        while idle:
            if not (connection := idle.pop()).stale:
                return connection
            connection.writer.transport.abort()
        return None

    def _keep(self, address: str, connection: _Connection) -> None:
        idle = self._idle.setdefault(address, [])
        if self._closed or len(idle) >= KEPT:
            connection.writer.transport.abort()
        else:
            idle.append(connection)

    async def close(self) -> None:
        """Safe to call twice."""
        self._closed = True
        idle, self._idle = self._idle, {}
        await asyncio.gather(*(hang_up(each.writer) for connections in idle.values() for each in connections))
