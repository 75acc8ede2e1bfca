"""The formats on a real broker: orders whose services each write another one, and what then lies in the log."""

import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat

from services import all as one_process
from services.domain.messages import MESSAGES
from services.styles import STYLES
from services.transports import cloudevents
from services.transports.formats import FORMATS
from services.transports.messaging.kafka_wire import from_wire
from tests.contracts.test_formats import MIXED, SPEAKERS, speaking
from tests.servers import server
from tests.services.lab import NOT_SERVED, ORDER, memory_lab

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


@pytest.mark.parametrize("style", ["choreography", "message_queue", "publish_async_responses"])
async def test_services_of_every_format_understand_each_other(
    style: str, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that is completed and one that is refused and compensated; each record says its format, our decoder and
    the official library read it, and none is a dead letter."""
    bootstrap = server("kafka", pytestconfig).address
    monkeypatch.setattr(one_process, "_own", speaking(MIXED, transports="kafka", kafka_bootstrap=bootstrap))
    async with memory_lab(tmp_path) as lab:
        completed = await lab.finished(ORDER, style)
        rejected = await lab.finished(NOT_SERVED, style)
    assert (completed["state"], rejected["state"]) == ("completed", "rejected")

    topology = STYLES[style].channels
    dead = [f"{channel}.{group}.dead" for channel in topology for group in topology[channel]]
    consumer = AIOKafkaConsumer(*topology, *dead, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    written: dict[str, set[str]] = {}
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    headers = from_wire(record.headers)
                    if headers["ce-subject"] not in {completed["id"], rejected["id"]}:
                        continue  # of another test
                    assert record.topic in topology, headers
                    message = cloudevents.decode(headers, record.value)
                    written.setdefault(message.source, set()).add(headers["content-type"])
                    event = binding.from_kafka(
                        binding.KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat()
                    )
                    assert event.get_datacontenttype() == headers["content-type"]
                    assert MESSAGES[event.get_type()] is type(message.payload)
                    plain = headers["content-type"] == "application/json"
                    assert event.get_data() == (json.loads(record.value) if plain else record.value)
    finally:
        await consumer.stop()
    assert written == {service: {FORMATS[MIXED[service]].content_type} for service in SPEAKERS[style]}
