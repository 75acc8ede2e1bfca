"""Redis Streams: the behaviours of every broker, and what only a log with consumer groups can show."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.telemetry import conventions as c
from services.telemetry.setup import Telemetry, set_up
from services.transports import cloudevents
from services.transports.errors import Unavailable, Undecodable, Unroutable
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.redis_client import CUT, ENTRY_ID, PAGE, from_fields, to_fields
from services.transports.messaging.redis_consumer import MANY_FIELDS
from services.transports.messaging.redis_streams import RedisStreams
from services.transports.ports import Broker, DeadLetter, Delivery, Message, Wiring
from tests.servers import Server, server
from tests.transports.fuzz import hammer
from tests.transports.messaging.holder import holding
from tests.transports.messaging.outage import OutageBehaviour
from tests.transports.messaging.strangers import borne, drawn
from tests.transports.messaging.suite import (
    PATIENCE_S,
    Connect,
    Dead,
    LogBehaviour,
    Reader,
    ack,
    event,
    give_up,
    processing,
)

pytestmark = pytest.mark.timeout(90)

WHERE = {c.SERVER_ADDRESS, c.SERVER_PORT}
ENTRY = {*WHERE, c.CONSUMER_GROUP, c.REDIS_ENTRY_ID}
QUICK_S = 0.6
"""A claim's idle time that a test can wait for."""


@pytest.fixture
def redis(pytestconfig: pytest.Config) -> Server:
    return server("redis", pytestconfig)


async def eventually(ask: Callable[[], Awaitable[Any]], what: str) -> Any:
    """The first answer that is not false."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.02)
    return answer


def fields_of(data: bytes) -> dict[bytes, bytes]:
    """Any bytes as an entry's fields: names and values between zeros."""
    parts = data.split(b"\0")
    return dict(zip(parts[::2], [*parts[1::2], b""], strict=False))


def message_of(data: bytes) -> Message:
    return cloudevents.decode(*from_fields(fields_of(data)))


def a_good_entry() -> bytes:
    fields = to_fields(*event()).items()
    return b"\0".join(each.encode() if isinstance(each, str) else each for pair in fields for each in pair)


def test_any_entry_is_a_message_or_undecodable() -> None:
    """10,000 entries: nothing but Undecodable comes out of what is none of ours."""
    assert message_of(a_good_entry()).id == event()[0]["ce-id"]
    hammer(message_of, Undecodable, a_good_entry())


async def test_questions_that_are_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that hangs is none that can be asked; nor is one that was closed."""
    monkeypatch.setattr("services.transports.messaging.redis_client.COMMAND_S", 0.2)
    hanging = socket.create_server(("127.0.0.1", 0))
    url = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
    broker = RedisStreams(Wiring("payment", set_up("payment"), servers={"redis": url}))

    async def questions(reason: str) -> None:
        for question in (
            broker.held("payment.commands", "payment"),
            broker.dead_letters("payment.commands", "payment"),
            broker.settle_dead_letter("payment.commands", "payment", "any", replay=False),
            anext(broker.read("orders.journal")),
        ):
            with pytest.raises(Unavailable, match=reason):
                await question

    await questions("Redis: TimeoutError")
    await broker.close()
    await questions("Redis: closed")
    hanging.close()


@pytest.mark.servers
class TestRedisStreams(LogBehaviour):
    receives = True
    settle_word = "XACK"
    attributes: ClassVar[dict[str, set[str]]] = {
        "send": {*WHERE, c.REDIS_ENTRY_ID},
        "receive": ENTRY,
        "process": ENTRY,
        "settle": ENTRY,
    }

    @pytest.fixture(autouse=True)
    def _server(self, redis: Server) -> None:
        self.url = redis.address
        self.options: dict[str, Any] = {}

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return RedisStreams(Wiring(service, telemetry, servers={"redis": self.url}, **self.options))

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        found = []
        for _, fields in await self.ask("xrange", f"{channel}.{group}.dead"):
            headers, body = from_fields(fields)
            found.append(Dead(headers, body, headers[REASON], int(headers[ATTEMPTS])))
        return found

    def garbage(self) -> dict[str, Any]:
        return {"ce_id": b"\xff\xfe", "traceparent": b"\xff", "sent-at": "", "\N{SNOWMAN}": b"", b"\xff": 1}

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        await self.ask("xadd", channel, {**headers, "data": body})

    def official(self, delivery: Delivery) -> Any:
        fields = {name.decode(): value for name, value in delivery.native.items()}
        return binding.from_kafka(binding.KafkaMessage(fields, None, fields.pop("data")), JSONFormat())

    # --- helpers -------------------------------------------------------------------------------------------------
    async def ask(self, command: str, *args: Any, **options: Any) -> Any:
        """A command, behind the adapter's back."""
        async with Redis.from_url(self.url) as client:
            return await getattr(client, command)(*args, **options)

    async def pending(self, channel: str, group: str) -> list[dict[str, Any]]:
        return await self.ask("xpending_range", channel, group, "-", "+", 1000)

    def vanished(self, channel: str) -> float:
        labels = {c.LABEL_SERVICE: "payment", c.LABEL_SYSTEM: "redis", c.LABEL_DESTINATION: channel}
        return REGISTRY.get_sample_value(f"{c.METRIC_UNDELIVERED}_total", labels) or 0.0

    async def killed_holder(self, channel: str, count: int) -> list[str]:
        """Have another process take ``count`` messages, kill it, and give their ids."""
        servers = {"redis": self.url}
        async with holding(
            "redis_streams", channel, "payment", count, servers=servers, redis_claim_idle_s=QUICK_S
        ) as held:
            return held

    # --- groups --------------------------------------------------------------------------------------------------
    async def test_a_group_that_is_made_later_gets_what_was_there(self, connect: Connect, channel: str) -> None:
        """From the first entry, not from now on."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        for number in range(3):
            await broker.publish(*event(number), channel=channel, key="o-1")
        reader = Reader(broker, channel, "audit", ack)
        await reader.until(3)
        assert reader.ids == [event(number)[0]["ce-id"] for number in range(3)]
        await reader.stop()

    async def test_a_stream_that_was_deleted_is_made_again(self, connect: Connect, channel: str) -> None:
        """By whoever notices first, with all groups that read it: nothing is published that one of them misses."""
        orders, payment = connect("orders"), connect("payment")
        for broker in (orders, payment):
            await broker.open({channel: frozenset({"payment", "shipping"})})
        reader = Reader(payment, channel, "payment", ack)
        await orders.publish(*event(1), channel=channel, key="o-1")
        await reader.until(1)
        await self.ask("delete", channel)
        await orders.publish(*event(2), channel=channel, key="o-1")
        await reader.until(2)
        assert {group["name"] for group in await self.ask("xinfo_groups", channel)} == {b"payment", b"shipping"}
        await reader.stop()

    # --- consumers that die, and that live ---------------------------------------------------------------------------
    async def test_what_a_killed_consumer_had_is_taken_over(self, connect: Connect, channel: str) -> None:
        """After the idle time, counted as another attempt; and the dead consumer is removed from the group."""
        self.options = {"redis_claim_idle_s": QUICK_S}
        broker = connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        for number in range(3):
            await broker.publish(*event(number), channel=channel, key="o-1")
        assert len(set(await self.killed_holder(channel, 3))) == 3
        [dead] = {each["consumer"] for each in await self.pending(channel, "payment")}
        reader = Reader(broker, channel, "payment", ack)
        await reader.until(3)
        assert [(delivery.attempt, delivery.released_at_ns) for delivery in reader.deliveries] == [(2, None)] * 3

        async def removed() -> bool:
            return dead not in {each["name"] for each in await self.ask("xinfo_consumers", channel, "payment")}

        await eventually(removed, "the dead consumer is removed")
        assert await self.pending(channel, "payment") == []
        await broker.publish(*event(3), channel=channel, key="o-1")
        await reader.until(4)
        assert reader.deliveries[3].attempt == 1
        await reader.stop()

    async def test_a_living_consumer_is_not_robbed(self, connect: Connect, channel: str) -> None:
        """However long it takes for one entry: it gives a sign of life meanwhile."""
        claim_idle_s = 1.5
        self.options = {"redis_claim_idle_s": claim_idle_s}
        slow, other = connect("payment"), connect("payment")
        await slow.open({channel: frozenset({"payment"})})
        holding = Reader(slow, channel, "payment", max_in_flight=1)
        await slow.publish(*event(), channel=channel, key="o-1")
        [held] = await holding.until(1)
        lurking = Reader(other, channel, "payment", ack)
        began = time.monotonic()
        idle_ms: list[int] = []

        async def long_enough() -> bool:
            idle_ms.append((await self.pending(channel, "payment"))[0]["time_since_delivered"])
            return time.monotonic() - began > 3 * claim_idle_s

        await eventually(long_enough, "three times the idle time has passed")
        assert max(idle_ms) < claim_idle_s * 1000
        assert sum(later < earlier for earlier, later in pairwise(idle_ms)) >= 3
        await other.publish(*event(2), channel=channel, key="o-1")
        await lurking.until(1)
        assert lurking.ids == [event(2)[0]["ce-id"]]
        await held.ack()
        assert await self.pending(channel, "payment") == []
        await holding.stop()
        await lurking.stop()

    async def test_a_consumer_that_is_removed_while_it_waits_comes_back(self, connect: Connect, channel: str) -> None:
        """An idle one may be taken for a dead one: it loses nothing by it."""
        broker = connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        reader = Reader(broker, channel, "payment", ack)
        await broker.publish(*event(1), channel=channel, key="o-1")
        await reader.until(1)
        for number in range(2, 12):
            for consumer in await self.ask("xinfo_consumers", channel, "payment"):
                await self.ask("xgroup_delconsumer", channel, "payment", consumer["name"])
            await broker.publish(*event(number), channel=channel, key="o-1")
            await reader.until(number)
        assert [delivery.attempt for delivery in reader.deliveries] == [1] * 11
        await reader.stop()

    async def test_what_no_handler_had_does_not_count_as_an_attempt(self, connect: Connect, channel: str) -> None:
        """A consumer that leaves gives back at once what it had read ahead, and what it had in hand."""
        leaver, successor = connect("payment"), connect("payment")
        await leaver.open({channel: frozenset({"payment"})})
        for number in range(5):
            await leaver.publish(*event(number), channel=channel, key="o-1")
        deliveries = leaver.subscribe(channel, "payment", max_in_flight=5)
        first = await anext(deliveries)
        assert len(await self.pending(channel, "payment")) == 5
        await deliveries.aclose()
        await leaver.close()
        reader = Reader(successor, channel, "payment", ack)
        await reader.until(5)
        attempts = dict(zip(reader.ids, (delivery.attempt for delivery in reader.deliveries), strict=True))
        assert attempts == {event(n)[0]["ce-id"]: 1 for n in range(1, 5)} | {first.headers["ce-id"]: 2}
        await reader.stop()

    async def test_a_second_consumer_sees_the_attempts(self, connect: Connect, channel: str) -> None:
        """The count is Redis', not ours: it survives the consumer."""
        first, second = connect("payment"), connect("payment")
        await first.open({channel: frozenset({"payment"})})
        await first.publish(*event(), channel=channel, key="o-1")
        reader = Reader(first, channel, "payment")
        await (await reader.until(1))[0].reject("not yet", retry_after_s=0)
        second_attempt = (await reader.until(2))[1]
        await reader.stop()
        await second_attempt.reject("not by me", retry_after_s=0)
        reader = Reader(second, channel, "payment", ack)
        assert (await reader.until(1))[0].attempt == 3
        await reader.stop()

    async def test_the_pull_that_takes_over_has_a_span(self, connect: Connect, channel: str) -> None:
        """Named by its command: the trace shows that the message changed hands."""
        exporter = InMemorySpanExporter()
        telemetry = set_up("payment", exporter=exporter)
        first, second = connect("payment"), connect("payment", telemetry)
        await first.open({channel: frozenset({"payment"})})
        await first.publish(*event(), channel=channel, key="o-1")
        reader = Reader(first, channel, "payment")
        await reader.until(1)
        await reader.stop()
        await first.close()
        reader = Reader(second, channel, "payment", processing(second, telemetry))
        await reader.until(1)
        await reader.stop()
        spans = {span.name.split()[0]: span for span in exporter.get_finished_spans()}
        assert set(spans) == {"XAUTOCLAIM", "queue", "process", "XACK"}
        assert spans["process"].attributes[c.LAB_DELIVERY_ATTEMPT] == 2
        assert spans["process"].attributes[c.REDIS_ENTRY_ID] == reader.deliveries[0].attributes[c.REDIS_ENTRY_ID]

    async def test_a_batch_has_links_and_no_parent(self, connect: Connect, channel: str) -> None:
        """A read of several entries links to their producers; each is acknowledged by itself."""
        exporter = InMemorySpanExporter()
        telemetry = set_up("payment", exporter=exporter)
        orders, broker = connect("orders"), connect("payment", telemetry)
        await orders.open({channel: frozenset({"payment"})})
        for number in range(6):
            await orders.publish(*event(number), channel=channel, key="o-1")
        reader = Reader(broker, channel, "payment", processing(broker, telemetry))
        await reader.until(6)
        assert all(delivery.received_with is None for delivery in reader.deliveries)
        await reader.stop()
        spans = exporter.get_finished_spans()
        reads = [span for span in spans if span.name == f"XREADGROUP {channel}"]
        assert [(len(each.links), each.parent, each.attributes[c.BATCH_MESSAGE_COUNT]) for each in reads] == [
            (6, None, 6)
        ]
        assert len([span for span in spans if span.name == f"XACK {channel}" and span.parent]) == 6

    # --- what is kept, and what is not -------------------------------------------------------------------------------
    async def test_only_what_every_group_has_settled_is_trimmed(self, connect: Connect, channel: str) -> None:
        """The stream is longer than its setting for as long as a group is behind, and shrinks when it is not."""
        self.options = {"redis_claim_idle_s": QUICK_S, "redis_stream_maxlen": 100}
        broker = connect()
        await broker.open({channel: frozenset({"payment", "shipping"})})
        await asyncio.gather(*(broker.publish(*event(n), channel=channel, key=f"o-{n}") for n in range(500)))
        quick = Reader(broker, channel, "payment", ack)
        await quick.until(500)
        slow = Reader(broker, channel, "shipping", max_in_flight=16)
        await slow.until(16)

        async def consumers_seen() -> bool:
            groups = await self.ask("xinfo_groups", channel)
            return all(group["consumers"] for group in groups)

        await eventually(consumers_seen, "both groups have a consumer")
        before = time.monotonic()

        async def tidied() -> bool:
            return time.monotonic() - before > QUICK_S and bool(await self.pending(channel, "shipping"))

        await eventually(tidied, "two rounds of tidying have passed")
        assert await self.ask("xlen", channel) == 500
        settled = 0
        while settled < 500:
            for delivery in (await slow.until(settled + 1))[settled:]:
                await delivery.ack()
                settled += 1

        async def shrunk() -> bool:
            # whole nodes of up to 100 entries go at once
            return 100 <= await self.ask("xlen", channel) <= 200

        await eventually(shrunk, "the stream is trimmed")
        assert len(set(slow.ids)) == 500
        assert self.vanished(channel) == 0
        await quick.stop()
        await slow.stop()

    async def test_what_a_stranger_deletes_in_hand_is_counted(self, connect: Connect, channel: str) -> None:
        """Entries that are pending and no longer there come to light when they are taken over."""
        self.options = {"redis_claim_idle_s": QUICK_S}
        broker = connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        for number in range(3):
            await broker.publish(*event(number), channel=channel, key="o-1")
        await self.killed_holder(channel, 3)
        await self.ask("xtrim", channel, maxlen=1, approximate=False)
        reader = Reader(broker, channel, "payment", ack)
        await reader.until(1)
        assert reader.ids == [event(2)[0]["ce-id"]]
        await reader.wait_for(lambda: self.vanished(channel) == 2, "two entries that vanished")
        await reader.stop()

    async def test_a_full_redis_refuses_and_loses_nothing(self, connect: Connect, channel: str) -> None:
        """At its memory limit publishers hear it; consumers go on; with room again all is as before."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        accepted = []
        used = (await self.ask("info", "memory"))["used_memory"]
        await self.ask("config_set", "maxmemory", used + 2_000_000)
        try:
            refused = ""
            while not refused:
                headers, _ = event(len(accepted))
                try:
                    await broker.publish(headers, b"x" * 16_384, channel=channel, key="o-1")
                    accepted.append(headers["ce-id"])
                except Unavailable as error:
                    refused = str(error)
                assert len(accepted) < 1_000
            assert "OutOfMemoryError" in refused
            reader = Reader(broker, channel, "payment", ack)
            await reader.until(len(accepted))
            assert reader.ids == accepted
        finally:
            await self.ask("config_set", "maxmemory", 128 << 20)
        await broker.publish(*event(-1), channel=channel, key="o-1")
        await reader.until(len(accepted) + 1)
        await reader.stop()

    # --- dead letters ------------------------------------------------------------------------------------------------
    async def test_a_dead_letter_has_the_entry_as_it_was(self, connect: Connect, channel: str) -> None:
        """Every field of it, whatever they were, its id, and no more than Redis can bear."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        strange = {**self.garbage(), "data": b"\0\xff"}
        entry_id = await self.ask("xadd", channel, strange)
        await self.ask("xadd", channel, {f"f{number}": number for number in range(MANY_FIELDS + 500)})

        async def give_up(delivery: Delivery) -> None:
            await delivery.reject("what is this?")

        reader = Reader(broker, channel, "payment", give_up)
        await reader.until(2)
        await reader.stop()
        [(_, letter), (_, huge)] = await self.ask("xrange", f"{channel}.payment.dead")
        names = {name if isinstance(name, bytes) else name.encode() for name in strange}
        assert set(letter) - names == {REASON.encode(), ATTEMPTS.encode(), ENTRY_ID.encode()}
        assert (letter[b"data"], letter[b"ce_id"], letter[ENTRY_ID.encode()]) == (b"\0\xff", b"\xff\xfe", entry_id)
        assert (len(huge), huge[CUT.encode()]) == (MANY_FIELDS + 4, b"500")
        assert await self.pending(channel, "payment") == []

    async def test_a_dead_letter_that_cannot_be_written_is_no_loss(self, connect: Connect, channel: str) -> None:
        """Written and acknowledged together or not at all: the message stays, and comes again."""
        self.options = {"redis_claim_idle_s": QUICK_S}
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        await self.ask("set", f"{channel}.payment.dead", "no stream")

        async def give_up(delivery: Delivery) -> None:
            await delivery.reject("no such card")

        reader = Reader(broker, channel, "payment", give_up)
        await broker.publish(*event(), channel=channel, key="o-1")
        await reader.until(2)
        assert [each["times_delivered"] for each in await self.pending(channel, "payment")] != []
        await self.ask("delete", f"{channel}.payment.dead")
        [letter] = await self.dead(channel, "payment")
        assert letter.reason == "no such card"
        assert letter.attempts >= 2
        assert letter.headers["traceparent"] == reader.deliveries[0].headers["traceparent"]
        await reader.stop()

    async def test_a_replayed_dead_letter_is_the_entry_that_it_was(self, connect: Connect, channel: str) -> None:
        """Field by field, bytes that are no text, too; the notes on its death are gone."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        [letter] = await self.buried_as_it_is(broker, channel, {**self.garbage(), "data": b"\0\xff"})
        [(_, before)] = await self.ask("xrange", channel)
        assert await broker.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        [_, (_, after)] = await self.ask("xrange", channel)
        assert (after.pop(b"ce_labonlygroup"), after.pop(b"ce_labreplayed").isdigit()) == (b"payment", True)
        assert after == before

    async def buried_as_it_is(self, broker: Broker, channel: str, entry: dict[Any, Any]) -> list[DeadLetter]:
        await self.ask("xadd", channel, entry)
        reader = Reader(broker, channel, "payment", give_up)
        await reader.until(1)
        await reader.stop()
        return await broker.dead_letters(channel, "payment")

    async def test_a_dead_letter_is_found_behind_many(self, connect: Connect, channel: str) -> None:
        """However many there are of it, its id is looked for in all; and whoever asks for the oldest gets those."""
        broker, ids = connect(), [f"id-{number}" for number in range(2 * PAGE + 20)]
        await broker.open({channel: frozenset({"payment"})})
        async with Redis.from_url(self.url) as client, client.pipeline(transaction=False) as pipeline:
            for each in ids:
                pipeline.xadd(f"{channel}.payment.dead", {"ce_id": each, ATTEMPTS: "many", "data": b""})
            await pipeline.execute()
        letters = await broker.dead_letters(channel, "payment", limit=1_000)
        assert [letter.id for letter in letters] == ids
        assert {(letter.reason, letter.attempts) for letter in letters} == {("", 0)}
        for each in (ids[-1], ids[PAGE]):
            assert await broker.settle_dead_letter(channel, "payment", each, replay=False) is True
            assert await broker.settle_dead_letter(channel, "payment", each, replay=False) is False
            ids.remove(each)
        assert [letter.id for letter in await broker.dead_letters(channel, "payment", limit=1_000)] == ids

    async def test_one_of_many_replays_it(self, connect: Connect, channel: str) -> None:
        """Whoever comes first, in any process: it comes again once."""
        brokers = [connect("orders"), connect("payment")]
        for broker in brokers:
            await broker.open({channel: frozenset({"payment"})})
        [letter] = await self.buried(brokers[0], channel, [event()])
        settled = await asyncio.gather(
            *(brokers[n % 2].settle_dead_letter(channel, "payment", letter.id, replay=True) for n in range(10))
        )
        assert sorted(settled) == [False] * 9 + [True]
        assert await self.ask("xlen", channel) == 2
        assert await self.ask("xlen", f"{channel}.payment.dead") == 0

    async def test_a_replay_finds_its_stream_gone(self, connect: Connect, channel: str) -> None:
        """It is made again by whoever knows its groups; anybody else hears that there is none, and the dead letter
        stays."""
        broker, stranger = connect("payment"), connect("orders")
        await broker.open({channel: frozenset({"payment", "shipping"})})
        letters = await self.buried(broker, channel, [event(1), event(2)])
        await self.ask("delete", channel)
        with pytest.raises(Unroutable, match=f"there is no stream {channel}"):
            await stranger.settle_dead_letter(channel, "payment", letters[0].id, replay=True)
        assert await broker.dead_letters(channel, "payment") == letters
        assert await broker.settle_dead_letter(channel, "payment", letters[0].id, replay=True) is True
        assert {group["name"] for group in await self.ask("xinfo_groups", channel)} == {b"payment", b"shipping"}
        reader = Reader(broker, channel, "payment", ack)
        await reader.until(1)
        assert reader.ids == [letters[0].id]
        await reader.stop()

    # --- what is held, and what is remembered ------------------------------------------------------------------------
    async def test_what_is_held_is_known_where_redis_does_not_know(self, connect: Connect, channel: str) -> None:
        """Redis gives no lag where entries were deleted before a group had read them: then what waits is counted."""
        broker = connect()
        await broker.open({channel: frozenset({"payment", "shipping"})})
        reader = Reader(broker, channel, "payment", max_in_flight=2)
        ids = [await self.ask("xadd", channel, {"data": b""}) for _ in range(2)]
        await reader.until(2)
        ids += [await self.ask("xadd", channel, {"data": b""}) for _ in range(250)]
        await self.ask("xdel", channel, ids[0], *ids[100:110])
        assert {group["lag"] for group in await self.ask("xinfo_groups", channel)} == {None}
        assert await broker.held(channel, "payment") == 2 + 250 - 10
        assert await broker.held(channel, "shipping") == 252 - 11
        assert await broker.held(channel, "nobody") == 0
        assert await broker.held(f"not-{channel}", "payment") == 0
        await reader.stop()

    async def test_a_journal_is_never_trimmed(self, connect: Connect, channel: str, journal: str) -> None:
        """However short streams are kept: while another one shrinks, all of it can be read."""
        self.options = {"redis_claim_idle_s": QUICK_S, "redis_stream_maxlen": 100}
        log = connect()
        await log.open({each: frozenset({"ledger"}) for each in (channel, journal)})
        readers = [Reader(log, each, "ledger", ack) for each in (journal, channel)]
        count = 2 * PAGE + 100
        for each in (journal, channel):
            await asyncio.gather(*(log.publish(*event(n), channel=each, key=f"o-{n}") for n in range(count)))
        for reader in readers:
            await reader.until(count)

        async def shrunk() -> bool:
            return await self.ask("xlen", channel) <= 200

        await eventually(shrunk, "the other stream is trimmed")
        # the journal's consumer tidies up as often as the other one's, and began earlier
        settled = [group["pending"] for group in await self.ask("xinfo_groups", journal)]
        assert (settled, await self.ask("xlen", journal)) == ([0], count)
        assert set(await self.recalled(log, journal)) == {event(n)[0]["ce-id"] for n in range(count)}
        for reader in readers:
            await reader.stop()

    async def test_a_journal_needs_no_reader(self, connect: Connect, journal: str) -> None:
        """It remembers without any group; one that is made later begins at its beginning."""
        log = connect()
        await log.open({journal: frozenset()})
        assert await self.recalled(log, journal) == []
        for number in range(3):
            await log.publish(*event(number), channel=journal, key="o-1")
        wanted = [event(number)[0]["ce-id"] for number in range(3)]
        assert await self.recalled(log, journal) == wanted
        reader = Reader(log, journal, "ledger", ack)
        await reader.until(3)
        assert reader.ids == wanted
        await reader.stop()

    # --- strangers -----------------------------------------------------------------------------------------------
    async def test_what_strangers_add(self, connect: Connect, channel: str) -> None:
        """200 entries that are hardly or not at all ours: each is refused, counted and a dead letter; no connection
        is left."""

        async def connections() -> int:
            return len(await self.ask("client_list"))

        before = await connections()
        inputs = [data for data in drawn(a_good_entry()) if data]
        await borne(
            connect,
            channel,
            inputs,
            lambda data: self.ask("xadd", channel, fields_of(data)),
            message_of,
            self.listening,
        )
        assert await self.ask("xlen", f"{channel}.payment.dead") > 100

        async def gone() -> bool:
            return await connections() <= before

        await eventually(gone, "the connections are closed")


@pytest.mark.servers
class TestRedisStreamsAway(OutageBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, redis: Server) -> None:
        self.server = redis

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return RedisStreams(Wiring(service, telemetry, servers={"redis": self.server.address}))

    async def while_it_is_away(self, producer: Broker, channel: str) -> None:
        with pytest.raises(Unavailable):
            await producer.publish(*event(-1), channel=channel, key="o")


@pytest.mark.servers
class TestRedisStreamsEverySecond(TestRedisStreamsAway):
    """``appendfsync everysec``: what is written but not synced belongs to the system, which a killed process leaves
    alone; what Redis held back while the disk was busy is gone with it. Only a machine that dies loses more."""

    WITHIN_S = 2.5

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("LAB_REDIS_APPENDFSYNC", "everysec")
        with ExitStack() as cleanup:
            self.server = Server("redis", cleanup)
            yield

    async def before_the_kill(self) -> None:
        async with Redis.from_url(self.server.address) as client:
            assert (await client.config_get("appendfsync"))["appendfsync"] == "everysec"
        self.killed_at = time.monotonic()

    async def what_arrives(self, reader: Reader, channel: str, confirmed: dict[str, float]) -> None:
        """Nothing that was not sent; and whatever is lost was acknowledged in the last moments before the kill."""
        early = {
            each for each, at in confirmed.items() if at < self.killed_at - self.WITHIN_S or at > self.killed_at + 1
        }
        await reader.wait_for(lambda: early <= set(reader.ids), "all that was acknowledged before or after")
        lost = set(confirmed) - set(reader.ids)
        print(f"everysec: {len(lost)} of {len(confirmed)} acknowledged entries lost by kill -9")
        assert all(self.killed_at - self.WITHIN_S <= confirmed[each] <= self.killed_at + 1 for each in lost)
