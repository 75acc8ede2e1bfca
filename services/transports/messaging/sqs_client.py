"""The way to SQS: requests with bounded waiting and errors in our words, and the queues."""

import asyncio
import contextvars
import hashlib
import json
import re
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import UNSIGNED
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from services.telemetry import conventions as c
from services.telemetry.messaging import Words
from services.transports.errors import DeadlineExceeded, TransportError, Unavailable, Unroutable
from services.transports.ports import Wiring

log = structlog.get_logger()

WORDS = Words(c.SQS_SYSTEM, send="send", receive="receive")
CONNECT_S = 2.0
REQUEST_S = 5.0
ASK_S = 2.0
LONGEST_S = 30.0
"""Above the longest poll, which is 20 s."""
ATTEMPTS = 2
"""The client's own: a kept-alive connection may have died since the last request. A message may so be sent twice."""
CONNECTIONS = 64
RECEIVES = 20
KEPT_S = 14 * 24 * 3600
"""The longest that SQS keeps a message: a dead letter's age counts from when it was sent first."""
PAUSE_S = 0.2
MAX_PAUSE_S = 2.0
HELD = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
"""What waits in a queue, what is in hand, and what is not to be seen yet."""
NO_REGION = "elasticmq"
_ANSWERS = {
    # there is no such queue
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    # it takes no such message
    "InvalidMessageContents",
    "InvalidParameterValue",
    "InvalidAttributeName",
    "InvalidAttributeValue",
    # the message is somebody else's by now, or done
    "ReceiptHandleIsInvalid",
    "MessageNotInflight",
}
"""Errors that are no failure of SQS, and would be the same the next time."""


class Link:
    """One process's way to SQS: Amazon's, or the server at the address that is set."""

    def __init__(self, wiring: Wiring) -> None:
        self.url = wiring.servers["sqs"]
        self.suffix = ".fifo" if wiring.sqs_fifo else ""
        self.server: dict[str, Any] = {}
        self.closing = asyncio.Event()
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._urls: dict[str, str] = {}
        self._declared: set[str] = set()
        self._why_not = "not connected yet"
        self._answered_at = float("-inf")
        if self.url:
            self._locate(self.url)

    # --- requests ------------------------------------------------------------------------------------------------
    async def ask(self, operation: str, *, within_s: float = REQUEST_S, **parameters: Any) -> dict[str, Any]:
        """One request, by its method's name in the client. Raises ``Unavailable``, ``DeadlineExceeded`` or
        ``Unroutable``."""
        try:
            async with asyncio.timeout(within_s):
                client = self._client or await self._connected()
                answer: dict[str, Any] = await getattr(client, operation)(**parameters)
        except (TimeoutError, ReadTimeoutError):
            raise self._failed(DeadlineExceeded(f"SQS did not answer within {within_s:g} s")) from None
        except ClientError as error:
            raise self._refused(error) from error
        except (BotoCoreError, OSError, RuntimeError) as error:
            # RuntimeError: the HTTP client's, when it was closed meanwhile
            raise self._failed(Unavailable(f"SQS: {error!s:.200}")) from error
        self._why_not, self._answered_at = "", time.monotonic()
        return answer

    def _refused(self, error: ClientError) -> TransportError:
        """What an error means that SQS answered with; mostly that it does not let us."""
        said = error.response.get("Error", {})
        code, words = said.get("Code", ""), f"SQS: {said.get('Code')}: {said.get('Message')!s:.200}"
        return Unroutable(words) if code in _ANSWERS else self._failed(Unavailable(words))

    def _failed(self, error: TransportError) -> TransportError:
        self._why_not, self._answered_at = str(error), float("-inf")
        return error

    async def _connected(self) -> Any:
        """The client. Nothing is sent yet, but credentials and a region must be found."""
        async with self._connecting:
            if self.closing.is_set():
                raise RuntimeError("closed")
            if self._client is None:
                session = get_session()
                options: dict[str, Any] = {}
                told: dict[str, Any] = {}
                if self.url:
                    # a server beside us: neither through a proxy nor with the rights of this machine
                    told["endpoint_url"] = self.url
                    told["region_name"] = session.get_config_variable("region") or NO_REGION
                    options["proxies"] = {}
                    session.get_component("credential_provider").remove("iam-role")
                    if await session.get_credentials() is None:
                        options["signature_version"] = UNSIGNED
                config = AioConfig(
                    connect_timeout=CONNECT_S,
                    read_timeout=LONGEST_S,
                    max_pool_connections=CONNECTIONS,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    **options,
                )
                client = await self._stack.enter_async_context(session.create_client("sqs", config=config, **told))
                self._locate(client.meta.endpoint_url)
                self._client = client
            return self._client

    def _locate(self, url: str) -> None:
        where = urlsplit(url)
        port = where.port or (443 if where.scheme == "https" else 80)
        self.server = {c.SERVER_ADDRESS: where.hostname or "", c.SERVER_PORT: port}

    async def put(
        self, queue: str, text: str, attributes: Mapping[str, Any], *, group: str, once: str
    ) -> dict[str, Any]:
        """Send a message, and give what its span should say. ``group`` and ``once`` are for a FIFO queue: what keeps
        its order, and what is taken for the same message."""
        fifo: dict[str, Any] = (
            {"MessageGroupId": _id(group), "MessageDeduplicationId": _id(once)} if self.suffix else {}
        )
        url = await self.address(queue)
        answer = await self.ask("send_message", QueueUrl=url, MessageBody=text, MessageAttributes=attributes, **fifo)
        return {**self.known(queue), c.SQS_MESSAGE_ID: answer["MessageId"]}

    async def counts(self, queue: str, *names: str) -> list[int]:
        """Some of ``queue``'s attributes that are numbers. Raises ``Unavailable``, or ``Unroutable`` where there is no
        such queue."""
        try:
            url = await self.address(queue)
            answer = await self.ask("get_queue_attributes", QueueUrl=url, AttributeNames=list(names))
        except DeadlineExceeded as error:
            # nothing was to be done: what has no answer was not to be had
            raise Unavailable(str(error)) from None
        return [int(answer["Attributes"][name]) for name in names]

    # --- queues --------------------------------------------------------------------------------------------------
    def queue(self, channel: str) -> str:
        """The queue of ``channel``; by its name, as whoever publishes does not know who reads."""
        return _name(channel, self.suffix)

    def dead(self, channel: str) -> str:
        """Where its dead letters go."""
        return _name(f"{channel}_dead", self.suffix)

    def known(self, queue: str) -> Mapping[str, Any]:
        """What spans say of the server and of ``queue``."""
        return {**self.server, c.SQS_QUEUE_URL: self._urls[queue]} if queue in self._urls else self.server

    async def address(self, queue: str) -> str:
        """Its URL. Raises ``Unroutable`` where there is no such queue."""
        if queue not in self._urls:
            self._urls[queue] = (await self.ask("get_queue_url", QueueName=queue))["QueueUrl"]
        return self._urls[queue]

    async def declare(self, channels: set[str]) -> None:
        """Make the queues of ``channels`` that are missing, however long SQS is away."""
        pause_s, said = PAUSE_S, False
        while not channels <= self._declared:
            try:
                for channel in sorted(channels - self._declared):
                    await self._declare(channel)
                    self._declared.add(channel)
            except TransportError as error:
                if not said:
                    log.warning("not_connected", transport="sqs", reason=str(error))
                said = True
                if await self.closing_within(pause_s):
                    return
                pause_s = min(pause_s * 2, MAX_PAUSE_S)

    def forget(self, channel: str) -> None:
        """Its queue is gone: it is to be made again."""
        self._declared.discard(channel)
        for queue in (self.queue(channel), self.dead(channel)):
            self._urls.pop(queue, None)

    async def _declare(self, channel: str) -> None:
        dead = await self._make(self.dead(channel), {"MessageRetentionPeriod": str(KEPT_S)})
        answer = await self.ask("get_queue_attributes", QueueUrl=dead, AttributeNames=["QueueArn"])
        redrive = {"deadLetterTargetArn": answer["Attributes"]["QueueArn"], "maxReceiveCount": RECEIVES}
        await self._make(self.queue(channel), {"RedrivePolicy": json.dumps(redrive)})

    async def _make(self, queue: str, attributes: dict[str, str]) -> str:
        """The queue's URL; one that is there gets the attributes that it should have."""
        try:
            url = await self.address(queue)
        except Unroutable:
            fifo = {"FifoQueue": "true"} if self.suffix else {}
            answer = await self.ask("create_queue", QueueName=queue, Attributes={**attributes, **fifo})
            self._urls[queue] = url = answer["QueueUrl"]
        else:
            await self.ask("set_queue_attributes", QueueUrl=url, Attributes=attributes)
        return url

    # --- being there ---------------------------------------------------------------------------------------------
    async def ready(self) -> str | None:
        """Asks only when nobody has had an answer for a while."""
        if self.closing.is_set():
            return "closed"
        if time.monotonic() - self._answered_at > ASK_S and self._urls:
            with suppress(TransportError):
                await self.ask("get_queue_url", within_s=ASK_S, QueueName=next(iter(self._urls)))
        return self._why_not or None

    async def closing_within(self, seconds: float) -> bool:
        """Wait that long, or until closing."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
        return self.closing.is_set()

    async def close(self) -> None:
        self.closing.set()
        async with self._connecting:
            self._client = None
            await self._stack.aclose()


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that inherits no span."""
    return asyncio.create_task(work, context=contextvars.Context())


def _id(text: str) -> str:
    """``text``, or what stands for it where SQS would not take it as an id."""
    return text if re.fullmatch("[!-~]{1,128}", text) else hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _name(channel: str, suffix: str) -> str:
    """``channel`` in the letters that a queue's name may have; 80 of them at most, which SQS checks itself."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", channel) + suffix
