"""What brokers still hold for this service, and what it gave up on.

``GET /held``, ``GET /dead-letters``; with the lab's token ``GET`` and ``DELETE /dead-letters/{broker}/{channel}/{id}``
and ``POST …/replay``. A broker that cannot be asked is named, with its reason, in ``unavailable``.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Header, Query
from opentelemetry.trace import get_current_span

from services.runtime import admin
from services.runtime.config import Config
from services.runtime.front_door import Impossible
from services.storage.participant import Failures
from services.telemetry.messaging import creation_context
from services.transports import cloudevents
from services.transports.errors import TransportError, Undecodable
from services.transports.formats import JSON
from services.transports.ports import Broker, DeadLetter

log = structlog.get_logger()
T = TypeVar("T")

MOST = 1_000
ANSWER_S = 15.0
"""A broker that says nothing for so long cannot be asked."""


def dead_letter_routes(
    config: Config,
    group: str,
    brokers: Mapping[str, Broker],
    channels: Callable[[str], list[str]],
    failures: Failures,
) -> APIRouter:
    """``channels`` are those of a broker that ``group`` hears."""
    router = APIRouter()
    one_at_a_time = asyncio.Lock()  # looking at a queue hides what is in it, for a moment, from others who look

    def subscriptions() -> Iterator[tuple[str, Broker, str]]:
        for name, broker in brokers.items():
            for channel in channels(name):
                yield name, broker, channel

    async def each(
        question: Callable[[Broker, str], Awaitable[T]],
    ) -> tuple[list[tuple[str, str, T]], list[dict[str, str]]]:
        """The answers by broker and channel, and who gave none: a broker that is away is asked once."""
        answers: list[tuple[str, str, T]] = []
        away: dict[str, str] = {}
        for name, broker, channel in subscriptions():
            if name in away:
                continue
            try:
                answers.append((name, channel, await _asked(question(broker, channel))))
            except Impossible as error:
                away[name] = str(error)
        return answers, [{"broker": name, "reason": reason} for name, reason in away.items()]

    def named(name: str, channel: str) -> Broker:
        if name not in brokers or channel not in channels(name):
            known = sorted(f"{name}/{channel}" for name, _, channel in subscriptions())
            raise Impossible(404, f"{group} hears no {channel[:60]!r} on {name[:60]!r}", valid=known)
        return brokers[name]

    async def find(name: str, channel: str, letter_id: str) -> DeadLetter:
        letters = await _asked(named(name, channel).dead_letters(channel, group, limit=MOST))
        for letter in letters:
            if letter.id == letter_id:
                return letter
        raise _unknown(letter_id)

    async def settle(name: str, channel: str, letter_id: str, *, replay: bool) -> dict[str, Any]:
        broker = named(name, channel)
        if replay:  # else its first failure would be its last again
            await failures.forget(f"{group}/{letter_id}")
        if not await _asked(broker.settle_dead_letter(channel, group, letter_id, replay=replay)):
            raise _unknown(letter_id)
        done = "replayed" if replay else "dropped"
        log.info("dead_letter_settled", channel=channel, broker=name, message_id=letter_id, done=done)
        return {"id": letter_id, "service": group, "broker": name, "channel": channel, "done": done}

    @router.get("/held")
    async def get_held() -> dict[str, Any]:
        held, unavailable = await each(lambda broker, channel: broker.held(channel, group))
        told = [{"broker": name, "channel": channel, "held": count} for name, channel, count in held]
        return {"service": group, "held": told, "unavailable": unavailable}

    @router.get("/dead-letters")
    async def list_dead_letters(limit: Annotated[int, Query(ge=1, le=MOST)] = 100) -> dict[str, Any]:
        async with one_at_a_time:
            found, unavailable = await each(lambda broker, channel: broker.dead_letters(channel, group, limit=limit))
        told = [_told(name, letter) for name, _, letters in found for letter in letters]
        return {"service": group, "dead_letters": told, "unavailable": unavailable}

    @router.get("/dead-letters/{name}/{channel}/{letter_id:path}")
    async def show(
        name: str, channel: str, letter_id: str, authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any]:
        admin.authorize(config, authorization)  # the body has a customer's card
        async with one_at_a_time:
            letter = await find(name, channel, letter_id)
        return {
            **_told(name, letter),
            "headers": dict(letter.headers),
            "body_base64": base64.b64encode(letter.body).decode(),
            **_decoded(letter),
        }

    @router.post("/dead-letters/{name}/{channel}/{letter_id:path}/replay")
    async def replay(
        name: str, channel: str, letter_id: str, authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any]:
        admin.authorize(config, authorization)
        async with one_at_a_time:
            return await settle(name, channel, letter_id, replay=True)

    @router.delete("/dead-letters/{name}/{channel}/{letter_id:path}")
    async def drop(
        name: str, channel: str, letter_id: str, authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any]:
        admin.authorize(config, authorization)
        async with one_at_a_time:
            return await settle(name, channel, letter_id, replay=False)

    return router


def _unknown(letter_id: str) -> Impossible:
    return Impossible(404, f"there is no dead letter {letter_id[:60]!r}")


async def _asked(question: Awaitable[T]) -> T:
    """The broker's answer. Raises ``Impossible`` (503) where it gives none."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await question
    except TransportError as error:
        raise Impossible(503, str(error)) from error
    except TimeoutError:
        raise Impossible(503, f"no answer within {ANSWER_S:g} s") from None


def _told(name: str, letter: DeadLetter) -> dict[str, Any]:
    """A letter in a line: where it is, what it was, and in which trace it was made."""
    created = get_current_span(creation_context(letter.headers)).get_span_context()
    return {
        "id": letter.id,
        "service": letter.group,
        "broker": name,
        "channel": letter.channel,
        "type": letter.headers.get("ce-type", ""),
        "order_id": letter.headers.get("ce-subject", ""),
        "style": letter.headers.get("ce-labstyle", ""),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "died_at_ns": letter.died_at_ns,
        "trace_id": f"{created.trace_id:032x}" if created.is_valid else None,
    }


def _decoded(letter: DeadLetter) -> dict[str, Any]:
    try:
        message = cloudevents.decode(letter.headers, letter.body)
    except Undecodable as error:
        return {"payload": None, "undecodable": str(error)}
    return {"payload": json.loads(JSON.dumps(message.payload)), "undecodable": None}
