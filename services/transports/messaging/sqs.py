"""SQS: a message is lent to whoever asks first, for a while, and comes again unless it is deleted in time.

Wire           HTTP/1.1 and JSON (aiobotocore), to ElasticMQ at its address, else to Amazon by region. Queue =
               channel: ``payment.commands`` is ``payment_commands``; one group may read it
Contract       JSON, or Protobuf or Avro as base64; CloudEvents 1.0 in structured mode: the body is one JSON object
               (asyncapi.json)
Security       Amazon: TLS, requests signed with the credentials of the usual places (``AWS_*``, a role). ElasticMQ has
               neither: off; requests are unsigned where no credentials are set
Trace context  message attributes traceparent and tracestate (and a replay's instant); a message has ten. Baggage and
               sent-at are attributes of the event
Delivery       at least once, to one consumer: there is no fan-out. A message is hidden for LAB_SQS_VISIBILITY_TIMEOUT_S
               (30) at a time while it is in hand (heartbeat), and deleted behind the handler. Another attempt:
               ``ChangeMessageVisibility`` to whole seconds, the fraction before that in hand. Dead letters in
               ``<queue>_dead``, also by SQS itself after 20 receives (redrive policy; it gives no reason). Whoever
               looks at them takes up to 1,000 for a moment, so another process may see fewer meanwhile; they are sorted
               by when they were sent, to the millisecond. A replay sends one again, then deletes it. SQS forgets a
               message after 4 days, a dead letter after 14. ElasticMQ, killed, has on disk what it acknowledged (H2,
               WRITE_DELAY=0)
Ordering       none. By order id with LAB_SQS_FIFO=1; not the default, as no style needs it, a message that fails then
               holds up its order's others, and what was seen within 5 minutes is dropped (not so a replayed dead
               letter, which is another message to SQS)
Back-pressure  none by SQS: the consumer asks when it has room (max_in_flight), for 10 at most; the queue waits
Peer down      publisher: Unavailable or DeadlineExceeded after 5 s; consumer: asks again for ever, the queue waits
Timeouts       connect 2 s, answer 5 s. A poll waits LAB_SQS_WAIT_S (1), and closing waits for it: one that is broken
               off still takes messages, which nobody has then until they are visible again
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from services.transports.errors import Unroutable
from services.transports.messaging.headers import with_key
from services.transports.messaging.sqs_client import HELD, WORDS, Link
from services.transports.messaging.sqs_consumer import Subscription
from services.transports.messaging.sqs_dead_letters import DeadLetters
from services.transports.messaging.sqs_message import IN_ATTRIBUTES, attribute
from services.transports.messaging.structured import pack
from services.transports.ports import DeadLetter, Delivery, Topology, Wiring


class Sqs:
    name = "sqs"
    words = WORDS

    def __init__(self, wiring: Wiring) -> None:
        self.link = Link(wiring)
        self.spans = wiring.telemetry.messaging
        self.visibility_timeout_s = wiring.sqs_visibility_timeout_s
        self.wait_s = wiring.sqs_wait_s
        self.released_at_ns: dict[str, int] = {}
        """By the id that SQS gave a message: when it was visible again. SQS does not say."""
        self._readers: dict[str, frozenset[str]] = {}
        self._subscriptions: list[Subscription] = []
        self._dead = DeadLetters(self.link, self.wait_s)

    async def open(self, topology: Topology) -> None:
        """Raises ValueError for a channel that several groups want to read."""
        for channel, groups in topology.items():
            readers = self._readers.get(channel, frozenset()) | groups
            if len(readers) > 1:
                raise ValueError(
                    f"SQS delivers each message to one consumer: {channel} cannot be read by "
                    f"{' and '.join(sorted(readers))}"
                )
            self._readers[channel] = readers
        await self.link.declare(set(topology))

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        sent = with_key(headers, key)
        if reply_to is not None:
            sent["reply-to"] = reply_to
        queue = self.link.queue(channel)
        with self.spans.send(sent, WORDS, queue, self.link.known(queue)) as span:
            attributes = {name: attribute(sent.pop(name)) for name in IN_ATTRIBUTES if name in sent}
            text = pack(sent, body).decode()
            span.set_attributes(await self.link.put(queue, text, attributes, group=key, once=sent.get("ce-id", "")))

    async def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        await self.open({channel: frozenset({group})})
        subscription = Subscription(self, channel, group, max_in_flight)
        self._subscriptions.append(subscription)
        try:
            while True:
                yield await subscription.arrived.get()
        finally:
            subscription.leave()

    def release(self, message_id: str, seconds: int) -> None:
        """Remember that a message is visible again from then on."""
        if len(self.released_at_ns) > 10_000:
            self.released_at_ns.clear()
        self.released_at_ns[message_id] = time.time_ns() + seconds * 1_000_000_000

    # --- what is left behind -------------------------------------------------------------------------------------
    async def held(self, channel: str, group: str) -> int:
        """As SQS counts, which on Amazon is behind by up to a minute."""
        try:
            return sum(await self.link.counts(self.link.queue(channel), *HELD))
        except Unroutable:
            return 0

    async def dead_letters(self, channel: str, group: str, *, limit: int = 100) -> list[DeadLetter]:
        return await self._dead.oldest(channel, group, limit)

    async def settle_dead_letter(self, channel: str, group: str, dead_letter_id: str, *, replay: bool) -> bool:
        """Raises ``Unavailable`` if it was not among the dead letters that SQS handed out, and there are more."""
        return await self._dead.settle(channel, group, dead_letter_id, replay=replay)

    async def ready(self) -> str | None:
        return await self.link.ready()

    async def close(self) -> None:
        self.link.closing.set()
        subscriptions, self._subscriptions = self._subscriptions, []
        await asyncio.gather(*(subscription.close() for subscription in subscriptions))
        await self.link.close()
