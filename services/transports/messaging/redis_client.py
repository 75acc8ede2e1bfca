"""What both Redis transports share: commands with bounded waiting, and messages as the fields of an entry."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.telemetry import conventions as c
from services.transports.errors import DeadlineExceeded, Unavailable
from services.transports.ports import Wiring

log = structlog.get_logger()

T = TypeVar("T")
CONNECT_S = 2.0
COMMAND_S = 5.0
CLOSE_S = 0.4
CONNECTIONS = 4
PAUSE_S = 0.2
MAX_PAUSE_S = 2.0
LOST = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
AWAY = (RedisError, OSError, TimeoutError)
BODY = "data"
ENTRY_ID = "lab-redis-stream-entry-id"
CUT = "lab-dead-letter-fields-cut"
PAGE = 200
"""Entries of one answer, where a stream is looked through."""
_OPTIONS: dict[str, Any] = {
    "protocol": 2,
    # whoever asks decides whether to ask again
    "retry": Retry(NoBackoff(), 0),
    "socket_connect_timeout": CONNECT_S,
    "socket_timeout": COMMAND_S,
    # the client's own name and version, which 7.0 does not want to know
    "driver_info": None,
}


class Link:
    """One process's way to Redis. ``commands`` is a client with a few connections, for what is asked for now and then;
    ``ask`` is for what every message needs."""

    def __init__(self, wiring: Wiring, transport: str) -> None:
        self._url = wiring.servers["redis"]
        self._transport = transport
        where = urlsplit(self._url)
        self.address = f"{where.hostname}:{where.port or 6379}"
        self.server = {c.SERVER_ADDRESS: where.hostname or "", c.SERVER_PORT: where.port or 6379}
        self._named = {**_OPTIONS, "client_name": f"{wiring.service}.{transport}"}
        # Any: the library types an answer as all that any protocol and encoding could make of it
        self.commands: Any = Redis.from_pool(
            BlockingConnectionPool.from_url(self._url, max_connections=CONNECTIONS, timeout=None, **self._named)
        )
        self.closing = asyncio.Event()
        self._doubtful = True
        self._said = ""
        self._asked: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, *command: Any) -> Any:
        """The answer to a command. What is asked for while an answer is under way goes out together behind it: Redis
        then writes it all to disk at once."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append((command, future))
        if self._asking is None or self._asking.done():
            self._asking = spawn(self._ask())
        return await future

    async def _ask(self) -> None:
        while self._asked:
            # without those whose asker has given up
            asked = [each for each in self._asked if not each[1].done()]
            self._asked = []
            answers: list[Any] = [RedisConnectionError("closed")] * len(asked)
            try:
                answers = await self._answers([command for command, _ in asked])
            except Exception as error:
                answers = [error] * len(asked)
            finally:
                for (_, future), answer in zip(asked, answers, strict=True):
                    if not future.done():
                        (future.set_exception if isinstance(answer, Exception) else future.set_result)(answer)

    async def _answers(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if len(commands) == 1:
            return [await self.commands.execute_command(*commands[0])]
        async with self.commands.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    def dedicated(self) -> Any:
        """A client with one connection, for commands that wait; its user closes it."""
        return Redis.from_url(self._url, single_connection_client=True, **self._named)

    async def reach(self) -> None:
        """Return when Redis answers. It is asked only if it did not the last time."""
        while self._doubtful:
            try:
                await asyncio.wait_for(self.commands.ping(), CONNECT_S)
            except AWAY as error:
                self.lose(error)
                await asyncio.sleep(PAUSE_S)
            else:
                self._doubtful, self._said = False, ""
                log.info("connected", transport=self._transport, address=self.address)

    def lose(self, error: BaseException) -> None:
        """Remember that Redis did not answer, and say so once."""
        self._doubtful = True
        if not self._said:
            self._said = why(error)
            log.warning("not_connected", transport=self._transport, reason=self._said)

    async def confirmed(self, command: Callable[[], Awaitable[T]]) -> T:
        """The answer to ``command``, waiting for Redis to be there. Raises ``Unavailable`` if it was not or refused,
        ``DeadlineExceeded`` if it was and gave no answer."""
        if self.closing.is_set():
            raise Unavailable("Redis: closed")
        reached = False
        try:
            async with asyncio.timeout(COMMAND_S):
                await self.reach()
                reached = True
                return await command()
        except (TimeoutError, RedisTimeoutError) as error:
            self.lose(error)
            if not reached:
                raise Unavailable(f"Redis: {self._said}") from None
            raise DeadlineExceeded(f"Redis did not answer within {COMMAND_S:g} s") from None
        except AWAY as error:
            if isinstance(error, LOST):
                self.lose(error)
            raise Unavailable(f"Redis: {why(error)}") from error

    async def answered(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to what changes nothing, now or not at all. Raises ``Unavailable``."""
        if self.closing.is_set():
            raise Unavailable("Redis: closed")
        try:
            async with asyncio.timeout(COMMAND_S):
                return await question()
        except AWAY as error:
            if isinstance(error, LOST):
                self.lose(error)
            raise Unavailable(f"Redis: {why(error)}") from error

    async def entries(self, stream: str, upto: bytes = b"+") -> AsyncIterator[tuple[bytes, dict[bytes, bytes]]]:
        """The entries of ``stream`` with their ids, oldest first. Raises ``Unavailable``."""
        after = b"-"
        while page := await self.answered(partial(self.commands.xrange, stream, after, upto, PAGE)):
            for entry in page:
                yield entry
            after = b"(" + page[-1][0]

    async def closing_within(self, seconds: float) -> bool:
        """Wait that long, or until closing."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
        return self.closing.is_set()

    async def ready(self) -> str | None:
        """None while Redis answers, else the reason."""
        if self.closing.is_set():
            return "closed"
        try:
            await asyncio.wait_for(self.commands.ping(), CONNECT_S)
        except AWAY as error:
            self.lose(error)
            return why(error)
        return None

    async def close(self) -> None:
        """Let go of the connections."""
        self.closing.set()
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=CLOSE_S)
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        with suppress(*AWAY):
            await self.commands.aclose()


def why(error: BaseException) -> str:
    """The reason in one line; the library's own ``repr`` leaves out what it was."""
    return f"{type(error).__name__}: {error!s:.200}"


def to_fields(headers: Mapping[str, str], body: bytes) -> dict[str, str | bytes]:
    """A message as the fields of a stream's entry."""
    fields: dict[str, str | bytes] = {field(name): value for name, value in headers.items()}
    fields[BODY] = body
    return fields


def from_fields(fields: Mapping[bytes, bytes]) -> tuple[dict[str, str], bytes]:
    """The headers and the body in ``fields``, whatever they are."""
    headers = {_canonical(name): value.decode(errors="replace") for name, value in fields.items()}
    headers.pop(BODY, None)
    return headers, fields.get(BODY.encode(), b"")


@lru_cache(1000)
def field(name: str) -> str:
    """The field that has the header ``name``."""
    return "ce_" + name[3:] if name.startswith("ce-") else name


@lru_cache(1000)
def _canonical(wire: bytes) -> str:
    name = wire.decode(errors="replace")
    return "ce-" + name[3:] if name.startswith("ce_") else name


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that inherits no span."""
    return asyncio.create_task(work, context=contextvars.Context())
