"""Faults: each knob does what its sentence says and nothing else, and nothing that is measured tells of it."""

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import REGISTRY

from services import payment
from services.domain import messages as m
from services.runtime import conditions, leaving
from services.runtime import live as live_module
from services.runtime.conditions import Conditions
from services.runtime.faults import FAULTS, PARTICIPANTS, SERVICES, held, key_of, names
from services.runtime.leaving import faulty
from services.runtime.live import SETTINGS, Live, UnknownSettingError, find
from services.styles import STYLES
from services.telemetry import conventions as c
from services.telemetry.setup import set_up
from services.transports import TRANSPORTS, cloudevents
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS
from services.transports.messaging.memory import Network
from services.transports.ports import Wiring
from tests.services.dying import Deaths
from tests.services.lab import DECLINED, ORDER, MemoryLab, memory_lab, tree
from tests.services.orders_alone import admin
from tests.services.parts import (
    effects_of,
    eventually,
    free_port,
    metric,
    order,
    part,
    plain_logs,
    publish_raw,
    wire,
)

ALL = ["reserve.stock", "charge.payment", "book.shipment", "notify.customer"]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[MemoryLab]:
    async with memory_lab(tmp_path) as running:
        yield running


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the knobs wait for, in seconds, without waiting."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def wait_for(work: Any, seconds: float) -> None:
        work.close()
        waits.append(seconds)

    for module in (conditions, leaving):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep, wait_for=wait_for))
    return waits


async def put(lab: MemoryLab, **values: str | None) -> None:
    """Set faults (``payment__delay_ms="5"``; None: off), by names that PUT would take."""
    for name in values:
        assert key_of(name.replace("__", ".")) or name.replace("__", ".") in SETTINGS
    await lab.put(**values)


async def clear(lab: MemoryLab) -> None:
    await lab.orders.store.put_settings(dict.fromkeys(lab.orders.process.live.faults_as_text()))
    lab.orders.process.live.update(await lab.orders.store.settings())


async def effects(lab: MemoryLab, order_id: str) -> list[str]:
    """What all participants did for an order."""
    return [each for p in lab.participants.values() for each in await effects_of(p.database, order_id)]


def with_name(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def service_of(span: ReadableSpan) -> str:
    return str(span.resource.attributes["service.name"])


def live(**values: str) -> Live:
    known = Live()
    known.update({name.replace("__", "."): value for name, value in values.items()})
    return known


# --- the table -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("knob", FAULTS.values(), ids=FAULTS)
def test_a_knob_has_a_unit_a_default_that_is_off_and_one_sentence(knob: Any) -> None:
    """So that its name says what a value means, and nobody meets it who has not asked for it."""
    assert knob.name.endswith(("_ms", "_rate")) or knob.parse("on") is True
    assert not knob.default
    assert re.fullmatch(r"[A-Z][^.]+\.", knob.sentence)
    assert set(knob.services) <= set(SERVICES)
    assert knob.parse(off_as_text(knob.default)) == knob.default


def off_as_text(value: Any) -> str:
    return "off" if value is False else str(value)


def test_every_name_is_found_and_parsed() -> None:
    """Per service, and per service and style."""
    every = names()
    assert len(every) == len(set(every)) == sum(len(k.services) * (1 + len(STYLES)) for k in FAULTS.values())
    for name in every:
        assert find(name) is FAULTS[name.rpartition(".")[2]]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("payment.delay", "'payment.delay_ms'"),
        ("paymnt.delay_ms", "'payment.delay_ms'"),
        ("payment.choreografy.error_rate", "'payment.choreography.error_rate'"),
        ("payment.hold_outbox", "'orders.hold_outbox'"),
        ("orders.refuse_rate", "'payment.refuse_rate'"),
        ("payment..delay_ms", "'payment.delay_ms'"),
        ("trace.shap", "'trace.shape'"),
        ("carrier-fast.delay_ms", "carrier"),
    ],
)
def test_a_wrong_name_gets_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(UnknownSettingError, match="did you mean") as refused:
        find(name)
    assert meant in str(refused.value)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["", ".", "moon", "delay_ms", ".delay_ms", "x" * 10_000])
def test_what_is_like_nothing_is_only_refused(name: str) -> None:
    with pytest.raises(UnknownSettingError, match="is no setting") as refused:
        find(name)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("payment.delay_ms", value) for value in ("", "-1", "60001", "nan", "soon", "1e400")),
        *(("payment.error_rate", value) for value in ("1.1", "-0.1", "50%")),
        *(("payment.pause", value) for value in ("", "1", "yes", "ON")),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not "):
        find(name).parse(value)


def test_the_narrower_name_counts() -> None:
    """A style's before the service's, also to switch it off; a carrier's own before that of all carriers."""
    known = live(payment__delay_ms="800", payment__choreography__delay_ms="0", carrier__delay_ms="5")
    assert known.fault("payment", "delay_ms") == 800
    assert known.fault("payment", "delay_ms", "message_queue") == 800
    assert known.fault("payment", "delay_ms", "choreography") == 0
    assert known.fault("shipping", "delay_ms", "choreography") == 0
    assert known.fault("payment", "error_rate", "choreography") == 0
    assert known.fault("carrier-swift", "delay_ms") == 5
    known.update({"carrier.delay_ms": "5", "carrier-swift.delay_ms": "9"})
    assert known.fault("carrier-swift", "delay_ms", "publish_async_responses") == 9
    assert known.fault("carrier-frugal", "delay_ms", "publish_async_responses") == 5
    assert known.fault("payment", "delay_ms") == 0


def test_what_is_set_is_shown_and_followed_and_gone_when_it_is_reset() -> None:
    """As text that can be put again; changes are told; a name from another version is left alone."""
    told: list[Live] = []
    known, follower = Live(told.append), Live()
    known.also(follower)
    before = known.as_text()
    stored = {"payment.pause": "on", "payment.delay_ms": "8", "payment.newer_knob": "1"}
    known.update(stored)
    assert follower.as_text() == known.as_text() == {**before, "payment.delay_ms": "8.0", "payment.pause": "on"}
    known.update(stored)
    assert len(told) == 1
    known.update({})
    assert known.as_text() == before
    assert (known.faults, len(told)) == ({}, 2)


class Counting(dict[Any, Any]):
    """A table that counts how often it is looked at."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        Counting.looks += 1
        return super().__getitem__(key)

    def __contains__(self, key: Any) -> bool:
        Counting.looks += 1
        return super().__contains__(key)


def test_while_none_is_set_asking_is_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into one table, as it is asked for every message."""
    known = Live()
    known.faults = Counting()
    monkeypatch.setattr(live_module, "FAULTS", Counting(FAULTS))
    monkeypatch.setattr(Counting, "looks", 0)
    assert known.fault("payment", "delay_ms", "choreography") == 0
    assert Counting.looks == 1


async def test_while_none_is_set_nobody_asks(lab: MemoryLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers and brokers see at once that there is nothing to ask for."""
    asked: list[str] = []
    fault = Live.fault

    def counted(self: Live, service: str, knob: str, style: str = "") -> Any:
        asked.append(knob)
        return fault(self, service, knob, style)

    monkeypatch.setattr(Live, "fault", counted)
    for style in ("request_response", "choreography", "message_queue"):
        assert (await lab.finished(ORDER, style))["state"] == "completed"
    assert set(asked) <= {"hold_outbox"}
    await put(lab, shipping__delay_ms="0")
    await lab.finished(ORDER, "choreography")
    assert {"delay_ms", "drop_rate", "pause"} <= set(asked)


# --- chance ----------------------------------------------------------------------------------------------------------
def drawn(known: Live, knob: str, service: str = "payment") -> list[bool]:
    own = Conditions(service, known)
    return [own.hits(knob, "choreography", f"m-{n}") for n in range(400)]


def test_the_same_seed_decides_the_same_for_the_same_ids() -> None:
    """And another seed, service or knob otherwise. A higher rate meets those of a lower one, and more."""
    half = drawn(live(payment__error_rate="0.5"), "error_rate")
    assert half == drawn(live(payment__error_rate="0.5"), "error_rate")
    assert 150 < sum(half) < 250
    assert half != drawn(live(payment__error_rate="0.5", faults__seed="2"), "error_rate")
    assert half != drawn(live(payment__drop_rate="0.5"), "drop_rate")
    assert half != drawn(live(shipping__error_rate="0.5"), "error_rate", "shipping")
    most = drawn(live(payment__error_rate="0.9"), "error_rate")
    assert [a for a, b in zip(most, half, strict=True) if b] == [True] * sum(half)
    assert all(drawn(live(payment__error_rate="1"), "error_rate"))
    assert not any(drawn(Live(), "error_rate"))


def test_what_is_tried_again_has_another_chance() -> None:
    """Or an error rate would make dead letters of its share, whatever the number of attempts."""
    own = Conditions("payment", live(payment__error_rate="0.5"))
    tries = [[own.hits("error_rate", "", f"m-{n}") for _ in range(20)] for n in range(20)]
    assert all(len(set(each)) == 2 for each in tries)


def test_who_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "REMEMBERED", 10)
    own = Conditions("payment", live(payment__error_rate="0.5"))
    for n in range(1000):
        own.hits("error_rate", "", f"m-{n}")
    assert len(own._times) == 10


# --- handlers --------------------------------------------------------------------------------------------------------
async def test_delay_ms_makes_each_handling_longer(lab: MemoryLab, slept: list[float]) -> None:
    """Of messages and calls, in the style that is named or in all."""
    await put(lab, payment__choreography__delay_ms="800")
    for style in ("request_response", "message_queue"):
        assert (await lab.finished(ORDER, style))["state"] == "completed"
    assert slept == []
    await lab.finished(ORDER, "choreography")
    heard = [span for span in await lab.spans() if span.name.startswith("process ") and service_of(span) == "payment"]
    assert slept == [0.8] * sum((span.attributes or {})[c.LAB_STYLE] == "choreography" for span in heard)
    assert slept
    slept.clear()
    await put(lab, payment__choreography__delay_ms=None, payment__delay_ms="300", orders__message_queue__delay_ms="7")
    await lab.finished(ORDER, "request_response")
    assert slept == [0.3]
    slept.clear()
    await lab.finished(ORDER, "message_queue")
    await lab.spans()
    assert sorted(slept) == [0.007] * 5 + [0.3], "orders answers, and hears four events"


async def test_a_delay_is_over_when_it_is_cleared(lab: MemoryLab) -> None:
    """Also for those that are in the middle of it."""
    await put(lab, payment__delay_ms="60000")
    placed = await lab.place(ORDER, "choreography")
    consumer = lab.participants["payment"].consumers[0]
    await eventually(lambda: consumer._in_hand, "payment has the order in hand")
    await clear(lab)
    ended = (await lab.client.get(placed.headers["location"], params={"wait_s": 10})).json()
    assert ended["state"] == "completed"


async def test_error_rate_fails_a_message_before_anything_is_done(lab: MemoryLab) -> None:
    """It is tried again as often as any, and then a dead letter; nothing was done and nothing said."""
    await put(lab, payment__choreography__error_rate="1", messaging__max_attempts="2")
    assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed"
    answer = await lab.place(ORDER, "choreography")
    network = lab.orders.process.network
    await eventually(lambda: network.dead_letters, "the message is given up")
    (letter,) = network.dead_letters
    assert (letter.group, letter.attempts) == ("payment", 2)
    assert letter.reason == "RuntimeError: no connection in the pool was free in time"
    placed = (await lab.client.get(answer.headers["location"])).json()
    assert (placed["state"], placed["slots"]["payment"]) == ("accepted", "pending")
    assert await effects(lab, placed["id"]) == ["reserve.stock"]


async def test_error_rate_answers_a_call_with_an_internal_error(lab: MemoryLab) -> None:
    """The conversation breaks off; once it is off, what was done is taken back."""
    await put(lab, shipping__request_response__error_rate="1")
    answer = await lab.place(ORDER, "request_response")
    assert answer.status_code == 503
    assert "shipping failed: RuntimeError" in answer.json()["detail"]
    await clear(lab)
    location = answer.headers.get("location") or f"/orders/{answer.json()['order_id']}"
    ended = (await lab.client.get(location, params={"wait_s": 10})).json()
    assert ended["state"] == "rejected"
    assert not [each for each in await effects(lab, ended["id"]) if each == "book.shipment"]


async def test_refuse_rate_refuses_instead_of_doing(lab: MemoryLab) -> None:
    """In words of its own service; what was done before is taken back, which nobody refuses."""
    await put(lab, payment__refuse_rate="1", inventory__refuse_rate="0", payment__message_queue__refuse_rate="0")
    for style in ("choreography", "request_response"):
        ended = await lab.finished(ORDER, style)
        assert (ended["state"], ended["reason"]) == ("rejected", "the bank did not agree")
        assert await effects(lab, ended["id"]) == ["reserve.stock", "release.stock"]
    assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed"


@pytest.mark.parametrize("service", PARTICIPANTS)
async def test_every_participant_can_refuse(lab: MemoryLab, service: str) -> None:
    await put(lab, **{f"{service}__refuse_rate": "1"})
    ended = await lab.finished(ORDER, "choreography")
    assert ended["state"] == "rejected"
    assert ended["reason"]


async def test_who_was_refused_is_refused_again(tmp_path: Path) -> None:
    """By the order's id: also by another process, which remembers nothing."""
    asked = {f"o-{n}": m.ChargePayment(order(f"o-{n}")) for n in range(40)}
    answers = []
    for replica in ("one", "two"):
        (tmp_path / replica).mkdir()
        async with part("payment", tmp_path / replica) as own:
            own.live.update({"payment.refuse_rate": "0.5", "payment.work_ms": "0"})
            worker = own.worker(payment.handlers)
            first = {order_id: type(await worker.do(command)) for order_id, command in asked.items()}
            assert first == {order_id: type(await worker.do(command)) for order_id, command in asked.items()}
            answers.append(first)
    assert answers[0] == answers[1]
    assert set(answers[0].values()) == {m.PaymentCharged, m.PaymentDeclined}


def test_a_carrier_declines_those_that_it_refuses() -> None:
    own = Conditions("carrier-swift", live(carrier__refuse_rate="1"))
    declined = own.declined(m.QuoteRequested(order()))
    assert declined == m.QuoteDeclined(order(), "swift has no van left", "swift")
    assert Conditions("carrier-swift", Live()).declined(m.QuoteRequested(order())) is None


# --- crashes ---------------------------------------------------------------------------------------------------------
async def test_a_crash_before_the_effect_leaves_nothing_done(lab: MemoryLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message comes again to whoever is there then; in the end all is done once."""
    done_at_death: list[float] = []

    def at_death() -> None:
        done_at_death.append(metric("lab_effects_total", service="payment", action="charge.payment") - before)
        if len(done_at_death) == 3:
            for process in lab.processes:
                process.live.update({})

    before = metric("lab_effects_total", service="payment", action="charge.payment")
    deaths = Deaths(monkeypatch, lab.processes, at_death)
    await put(lab, payment__choreography__crash_before_effect_rate="1")
    ended = await lab.finished(ORDER, "choreography")
    assert (ended["state"], deaths.count, done_at_death) == ("completed", 3, [0, 0, 0])
    assert await effects(lab, ended["id"]) == ALL


@pytest.mark.parametrize("style", ["choreography", "message_queue"])
async def test_a_crash_after_the_effect_leaves_it_done_and_unsaid(
    lab: MemoryLab, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    """Who comes after it finds it done, and says so: once more is nothing done."""
    deaths = Deaths(monkeypatch, lab.processes)
    await put(lab, **{f"{service}__{style}__crash_after_effect_rate": "1" for service in PARTICIPANTS})
    ended = await lab.finished(ORDER, style)
    spans = await lab.spans()
    assert (ended["state"], deaths.count) == ("completed", len(PARTICIPANTS))
    assert await effects(lab, ended["id"]) == ALL
    assert sum(c.LAB_DUPLICATE in (span.attributes or {}) for span in spans) == len(PARTICIPANTS)
    sent = [span for span in spans if span.name.startswith("send ") and service_of(span) != "orders"]
    assert len({(span.attributes or {})[c.MESSAGE_ID] for span in sent}) == len(sent)


async def test_orders_crashes_after_its_effect_and_hears_it_again(
    lab: MemoryLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it folded stays folded; the event comes again and changes nothing."""

    def at_death() -> None:
        for process in lab.processes:
            process.live.update({})

    deaths = Deaths(monkeypatch, lab.processes, at_death)
    await put(lab, orders__crash_after_effect_rate="1")
    ended = await lab.finished(ORDER, "choreography")
    spans = await lab.spans()
    assert (ended["state"], deaths.count) == ("completed", 1)
    attempts = [(span.attributes or {}).get(c.LAB_DELIVERY_ATTEMPT) for span in spans]
    assert attempts.count(2) == 1
    history = (await lab.client.get(f"/orders/{ended['id']}")).json()["history"]
    assert len({entry["event"] for entry in history}) == len(history)


async def test_a_crash_after_the_acknowledgement_loses_nothing(lab: MemoryLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker has let go of the message: it comes to nobody again."""
    deaths = Deaths(monkeypatch, lab.processes)
    await put(lab, payment__crash_after_ack_rate="1")
    ended = await lab.finished(ORDER, "choreography")
    spans = await lab.spans()
    assert ended["state"] == "completed"
    settled = [span for span in spans if span.name.startswith("ack ")]
    assert deaths.count == sum(service_of(span) == "payment" for span in settled) > 0
    assert {(s.attributes or {}).get(c.LAB_DELIVERY_ATTEMPT) for s in spans} <= {None, 1}
    assert await effects(lab, ended["id"]) == ALL


@pytest.mark.parametrize(("knob", "done"), [("crash_before_effect_rate", 0), ("crash_after_effect_rate", 1)])
async def test_a_crash_in_a_call_breaks_it_off(
    lab: MemoryLab, monkeypatch: pytest.MonkeyPatch, knob: str, done: int
) -> None:
    """The caller cannot know whether it was done. Once the service lives, it is taken back if it was."""
    deaths = Deaths(monkeypatch, lab.processes)
    await put(lab, **{f"payment__request_response__{knob}": "1"})
    answer = await lab.place(ORDER, "request_response")
    assert (answer.status_code, deaths.count) == (503, 1)
    await clear(lab)
    ended = (await lab.client.get(f"/orders/{answer.json()['order_id']}", params={"wait_s": 10})).json()
    assert ended["state"] == "rejected"
    did = await effects(lab, ended["id"])
    assert (did.count("charge.payment"), did.count("refund.payment")) == (done, done)


def test_a_process_dies_by_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing of it can run any more: no drain, no flush."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(conditions.os, "kill", lambda pid, number: sent.append((pid, number)))
    conditions.die()
    assert sent == [(conditions.os.getpid(), 9)]


# --- messages --------------------------------------------------------------------------------------------------------
async def test_duplicate_rate_publishes_twice(lab: MemoryLab) -> None:
    """The same message, of the service and style that is named; its effects happen once."""
    await put(lab, inventory__choreography__duplicate_rate="1")
    for style in ("choreography", "message_queue"):
        ended = await lab.finished(ORDER, style)
        assert ended["state"] == "completed"
        assert await effects(lab, ended["id"]) == ALL
    spans = await lab.spans()
    ids = [(s.attributes or {})[c.MESSAGE_ID] for s in with_name(spans, "send inventory.events")]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    answered = {(s.attributes or {})[c.MESSAGE_ID] for s in with_name(spans, "send payment.events")}
    assert len(answered) == 1, "who hears it twice says the same again"
    assert len(with_name(spans, "send orders.replies")) == len(PARTICIPANTS)


async def test_drop_rate_reports_what_never_happens(lab: MemoryLab) -> None:
    """It has been sent as far as anybody can see, and comes nowhere."""
    await put(lab, inventory__choreography__drop_rate="1")
    answer = await lab.place(ORDER, "choreography")
    order_id = answer.json()["id"]
    await eventually(lambda: with_name(list(lab.exporter.get_finished_spans()), "ack orders.events"), "it is handled")
    spans = await lab.spans()
    (sent,) = with_name(spans, "send inventory.events")
    assert c.ERROR_TYPE not in (sent.attributes or {})
    assert not with_name(spans, "process inventory.events")
    assert await effects(lab, order_id) == ["reserve.stock"]
    assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed"


@pytest.mark.parametrize("name", [name for name, transport in TRANSPORTS.items() if transport.broker])
async def test_messages_leave_every_broker_by_the_same_door(name: str) -> None:
    """An adapter without a server: who believes that all was sent has not asked for one."""
    servers = {"kafka": "127.0.0.1:1", "rabbitmq": "amqp://127.0.0.1:1", "sqs": "http://127.0.0.1:1"}
    wiring = Wiring("payment", set_up("payment"), servers={**servers, "redis": "redis://127.0.0.1:1"})
    broker = faulty(TRANSPORTS[name].connect_broker(wiring), "payment", live(payment__drop_rate="1"))
    before = sent_messages()
    headers, body = wire(m.PaymentCharged(order()), source="payment")
    await broker.publish(headers, body, channel="payment.events", key="o-1")
    assert sent_messages() == before + 1
    await broker.close()


def sent_messages() -> float:
    found = [s for f in REGISTRY.collect() for s in f.samples if s.name == "messaging_client_sent_messages_total"]
    return sum(sample.value for sample in found if sample.labels.get("error_type") == "")


async def published(network: Network) -> list[str]:
    return [stored.headers["ce-subject"] for stored in network.queues["payment.events", "orders"]]


async def test_reorder_ms_lets_messages_overtake_one_another(tmp_path: Path) -> None:
    """Each waits by itself, none longer than that, and all come."""
    async with part("payment", tmp_path) as own:
        own.live.update({"payment.reorder_ms": "50"})
        broker = faulty(own.broker(), "payment", own.live)
        await broker.open({"payment.events": frozenset({"orders"})})
        sent = [f"o-{n}" for n in range(30)]
        messages = [wire(m.PaymentCharged(order(each)), cause=each, source="payment") for each in sent]
        await asyncio.gather(*(broker.publish(*each, channel="payment.events", key="k") for each in messages))
        came = await published(own.network)
        assert sorted(came) == sorted(sent)
        assert came != sent


async def test_reorder_ms_waits_up_to_that(tmp_path: Path, slept: list[float]) -> None:
    async with part("payment", tmp_path) as own:
        own.live.update({"payment.choreography.reorder_ms": "50"})
        broker = faulty(own.broker(), "payment", own.live)
        await broker.open({"payment.events": frozenset({"orders"})})
        for n in range(100):
            headers, body = wire(m.PaymentCharged(order()), cause=f"c-{n}", source="payment")
            await broker.publish(headers, body, channel="payment.events", key="k")
        assert len(set(slept)) == 100
        assert 0 < min(slept) < 0.01
        assert 0.04 < max(slept) <= 0.05
        headers, body = wire(m.PaymentCharged(order()), style="message_queue", source="payment")
        await broker.publish(headers, body, channel="payment.events", key="k")
        assert len(slept) == 100


@pytest.mark.parametrize("written", FORMATS)
async def test_poison_rate_makes_bodies_that_nobody_can_decode(tmp_path: Path, written: str) -> None:
    """In every format, whatever the message."""
    async with part("payment", tmp_path) as own:
        own.live.update({"payment.poison_rate": "1"})
        broker = faulty(own.broker(), "payment", own.live)
        await broker.open({"payment.events": frozenset({"orders"})})
        said = cloudevents.compose(
            m.PaymentCharged(order()), source="payment", cause="c", style="choreography", transport="memory"
        )
        headers, body = cloudevents.encode(said, FORMATS[written])
        await broker.publish(headers, body, channel="payment.events", key="k")
        (stored,) = own.network.queues["payment.events", "orders"]
        assert {name: stored.headers[name] for name in headers} == headers
        with pytest.raises(Undecodable):
            cloudevents.decode(stored.headers, stored.body)


async def test_a_poisoned_message_is_a_dead_letter_at_once(lab: MemoryLab) -> None:
    await put(lab, inventory__choreography__poison_rate="1")
    await lab.place(ORDER, "choreography")
    network = lab.orders.process.network
    await eventually(lambda: len(network.dead_letters) == 2, "both who hear inventory give it up")
    assert {(letter.group, letter.attempts) for letter in network.dead_letters} == {("orders", 1), ("payment", 1)}
    assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed"


async def test_a_stranger_is_a_dead_letter_and_hurts_nobody(lab: MemoryLab) -> None:
    """Its id is its own, so that nobody takes one for the other."""
    await put(lab, inventory__choreography__stranger_rate="1")
    assert (await lab.finished(ORDER, "choreography"))["state"] == "completed"
    network = lab.orders.process.network
    await eventually(lambda: len(network.dead_letters) == 2, "both who hear inventory give it up")
    assert {(letter.group, letter.attempts) for letter in network.dead_letters} == {("orders", 1), ("payment", 1)}
    ids = {letter.headers["ce-id"] for letter in network.dead_letters}
    rows = [row for p in lab.processes for row in (await p.ledger.store.page(since_ns=0, after=0, limit=99)).rows]
    assert len(ids) == 1
    assert not ids & {row["message_id"] for row in rows if row["said"]}


async def test_lost_context_rate_takes_the_context_off_the_wire(lab: MemoryLab) -> None:
    """The order goes on, in a trace of its own; where it was lost, nobody can say."""
    await put(lab, inventory__choreography__lost_context_rate="1")
    ended = await lab.finished(ORDER, "choreography")
    spans = await lab.spans()
    assert ended["state"] == "completed"
    (sent,) = with_name(spans, "send inventory.events")
    after = with_name(spans, "process inventory.events")
    assert len(after) == 2
    for span in after:
        assert (span.parent, list(span.links)) == (None, [])
        assert span.context.trace_id != sent.context.trace_id
        assert c.LAB_STYLE not in (span.attributes or {})
    (paid,) = with_name(spans, "send payment.events")
    assert paid.parent is not None
    spans_of_others = with_name(spans, "process orders.events")
    assert all(span.parent for span in spans_of_others)


async def test_slow_consumer_ms_waits_before_each_delivery(lab: MemoryLab, slept: list[float]) -> None:
    await put(lab, payment__message_queue__slow_consumer_ms="250")
    await lab.finished(ORDER, "choreography")
    assert slept == []
    for _ in range(3):
        assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed"
    assert slept == [0.25] * 3


async def test_a_paused_service_takes_nothing_in_hand(lab: MemoryLab) -> None:
    """What it has in hand goes on, others go on, and so does everything once it is off."""
    release = asyncio.Event()
    work = lab.participants["payment"].live

    async def held_up(service: str, order_id: str) -> None:
        await release.wait()

    work.work = held_up  # type: ignore[method-assign]
    first = await lab.place(ORDER, "choreography")
    consumer = lab.participants["payment"].consumers[0]
    await eventually(lambda: consumer._in_hand, "payment has the first order in hand")
    await put(lab, payment__choreography__pause="on")
    second = await lab.place(ORDER, "choreography")
    stock = f"/orders/{second.json()['id']}"

    async def reserved() -> bool:
        slots: dict[str, str] = (await lab.client.get(stock)).json()["slots"]
        return slots["stock"] == "done"

    await eventually(reserved, "the second order has its stock")
    release.set()
    ended = (await lab.client.get(first.headers["location"], params={"wait_s": 10})).json()
    assert ended["state"] == "completed", "what was in hand went on"
    assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed", "the other style goes on"
    assert (await lab.client.get(stock)).json()["slots"]["payment"] == "pending"
    assert not consumer._in_hand
    await clear(lab)
    ended = (await lab.client.get(second.headers["location"], params={"wait_s": 10})).json()
    assert ended["state"] == "completed"


def test_the_outbox_is_held_per_style() -> None:
    assert not held(Live())
    assert held(live(orders__hold_outbox="on"))
    assert held(live(orders__hold_outbox="on"), "choreography")
    by_style = live(orders__choreography__hold_outbox="on")
    assert held(by_style, "choreography")
    assert not held(by_style, "message_queue")
    assert not held(by_style)


async def test_what_was_accepted_waits_while_the_outbox_is_held(tmp_path: Path) -> None:
    """Others' messages go out meanwhile; behind it, what waited does."""
    async with memory_lab(tmp_path) as lab:
        await lab.put(orders__choreography__hold_outbox="on")
        waiting = (await lab.place(ORDER, "choreography")).json()
        assert (await lab.finished(ORDER, "message_queue"))["state"] == "completed"
        store = lab.orders.store
        assert (await store.get(waiting["id"])).verdict == "accepted"
        assert await store.pending() == 1
        await lab.put(orders__choreography__hold_outbox=None)
        ended = (await lab.client.get(f"/orders/{waiting['id']}", params={"wait_s": 10})).json()
        assert ended["state"] == "completed"


async def test_orders_own_answer_can_fail(tmp_path: Path) -> None:
    """Before anything is accepted."""
    async with memory_lab(tmp_path) as lab:
        await lab.put(orders__error_rate="1")
        assert (await lab.place(ORDER, "choreography")).status_code == 500
        await lab.put(orders__error_rate=None)
        assert (await lab.finished(ORDER, "choreography"))["state"] == "completed"


async def test_a_wrapped_broker_is_the_broker_otherwise(tmp_path: Path) -> None:
    """All of its port and all that is its own, and attributes can be put on it."""
    async with part("payment", tmp_path) as own:
        inner = own.broker()
        broker: Any = faulty(inner, "payment", own.live)
        assert (broker.name, broker.words, broker.network) == ("memory", inner.words, own.network)
        assert broker.subscribe == inner.subscribe
        with pytest.raises(AttributeError, match="no_such_thing"):
            broker.no_such_thing  # noqa: B018
        publish_raw(own.network, "c", {}, b"")
        await broker.open({"c": frozenset({"g"})})
        publish_raw(own.network, "c", {"a": "b"}, b"x")
        delivery = await anext(aiter(broker.subscribe("c", "g", max_in_flight=1)))
        assert (delivery.headers, delivery.body) == ({"a": "b"}, b"x")
        await delivery.ack()
        await broker.close()
        assert await broker.ready() == "closed"


# --- afterwards ------------------------------------------------------------------------------------------------------
async def test_after_a_clear_everything_is_as_before(tmp_path: Path) -> None:
    """Whatever was on: the same traces as in a lab that never had any."""
    trees = []
    for number, had_faults in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()
        async with memory_lab(tmp_path / str(number)) as lab:
            if had_faults:
                mild = {"_ms": "1", "_rate": "0"}
                await lab.put(**{f"{s}__{k}": mild.get(k[k.rfind("_") :], "off") for s in PARTICIPANTS for k in COMMON})
                await put(lab, payment__duplicate_rate="1", payment__lost_context_rate="1", shipping__refuse_rate="1")
                await lab.finished(ORDER, "choreography")
                await lab.spans()
                await clear(lab)
                assert not any(process.live.faults for process in lab.processes)
                lab.exporter.clear()
            for style in ("choreography", "message_queue", "request_response"):
                for body in (ORDER, DECLINED):
                    await lab.finished(body, style)
            trees.append(tree(await lab.spans()))
    assert trees[0] == trees[1]


COMMON = [name for name, knob in FAULTS.items() if set(PARTICIPANTS) <= set(knob.services)]


# --- settings --------------------------------------------------------------------------------------------------------
async def test_they_survive_a_restart_and_are_told_apart_from_settings(tmp_path: Path) -> None:
    """They are rows; GET gives the table, and a sentence on each that is set."""
    port = free_port()
    async with admin(tmp_path, port) as client:
        before = (await client.get("/settings")).json()["values"]
        put_in = {"payment.delay_ms": "800", "orders.choreography.pause": "on", "trace.shape": "link"}
        answer = await client.put("/settings", json={"values": put_in})
        assert answer.status_code == 200, answer.text
        wanted = {**before, **put_in, "payment.delay_ms": "800.0"}
        assert answer.json()["values"] == wanted
    async with admin(tmp_path, port) as client:
        document = (await client.get("/settings")).json()
        assert document["values"] == wanted == (await client.get("/settings/applied")).json()
        assert document["about"]["payment.delay_ms"] == FAULTS["delay_ms"].sentence
        assert [knob["name"] for knob in document["faults"]["knobs"]] == list(FAULTS)
        assert document["faults"]["styles"] == list(STYLES)
        await client.put("/settings", json={"values": dict.fromkeys(put_in)})
        assert (await client.get("/settings")).json()["values"] == before


async def test_a_put_with_a_wrong_name_or_value_changes_nothing(tmp_path: Path) -> None:
    async with admin(tmp_path, free_port()) as client:
        for values, said in (
            ({"payment.delay_ms": "800", "paymnt.delay_ms": "1"}, "did you mean 'payment.delay_ms'"),
            (
                {"payment.delay_ms": "800", "payment.error_rate": "2"},
                "payment.error_rate: a number from 0 to 1, not '2'",
            ),
            ({"payment.delay_ms": "800", "payment.pause": "yes"}, "payment.pause: on or off, not 'yes'"),
        ):
            answer = await client.put("/settings", json={"values": values})
            assert answer.status_code == 422
            assert said in answer.json()["detail"]
        assert "payment.delay_ms" not in (await client.get("/settings")).json()["values"]
        answer = await client.put("/settings", json={"values": {"moon": "1"}})
        assert answer.json()["valid"] == sorted(SETTINGS)


async def test_probes_metrics_and_settings_are_exempt(tmp_path: Path) -> None:
    """Whatever handlers meet: an order is not placed, and yet everybody sees that the process lives."""
    async with admin(tmp_path, free_port()) as client:
        knobs = [name for name, knob in FAULTS.items() if "orders" in knob.services]
        high = {"_ms": "60000", "_rate": "1"}
        values = {f"orders.{name}": high.get(name[name.rfind("_") :], "on") for name in knobs}
        assert (await client.put("/settings", json={"values": values})).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics", "/settings", "/settings/applied"):
            assert (await client.get(path, timeout=5)).status_code == 200, path
        assert (await client.put("/settings", json={"values": dict.fromkeys(values)}, timeout=5)).status_code == 200


# --- what is measured tells nothing ----------------------------------------------------------------------------------
TELLING = re.compile(r"(?<!de)fault|inject|chaos|simulat", re.IGNORECASE)


def telling(text: str, knob: str) -> list[str]:
    return [found.group() for found in re.finditer(f"{TELLING.pattern}|{knob}", text, re.IGNORECASE)]


def test_the_search_finds_what_it_looks_for() -> None:
    assert telling('File "services/runtime/faults.py", "injected", payment.delay_ms', "delay_ms") == [
        "fault",
        "inject",
        "delay_ms",
    ]
    assert telling("the default port", "delay_ms") == []


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Every log line as the services write it, with its traceback."""
    lines = io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(lines),
    )
    handler = logging.StreamHandler(lines)
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)
    structlog.reset_defaults()
    plain_logs()


VALUES = {
    "delay_ms": "1",
    "reorder_ms": "1",
    "slow_consumer_ms": "1",
    "pause": "on",
    "hold_outbox": "on",
    "error_rate": "0.6",
    "crash_before_effect_rate": "0.5",
    "crash_after_effect_rate": "0.5",
}


@pytest.mark.parametrize("knob", FAULTS)
async def test_nothing_that_is_measured_names_it(
    lab: MemoryLab, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO, knob: str
) -> None:
    """No span, metric or log line: whoever looks for the cause has to find it."""
    acted: list[str] = []
    fault = Live.fault

    def watched(self: Live, service: str, name: str, style: str = "") -> Any:
        value = fault(self, service, name, style)
        acted.extend([name] if value else [])
        return value

    monkeypatch.setattr(Live, "fault", watched)
    Deaths(monkeypatch, lab.processes)
    affected = {s: VALUES.get(knob, "1") for s in FAULTS[knob].services if s == "orders" or s in PARTICIPANTS}
    if knob == "drop_rate":
        affected.pop("orders")  # else nobody hears anything
    await put(lab, messaging__max_attempts="2", **{f"{service}__{knob}": value for service, value in affected.items()})
    for style in ("choreography", "message_queue", "request_response"):
        for body in (ORDER, DECLINED):
            answer = await lab.place(body, style)
            assert not telling(answer.text, knob)
    if knob == "hold_outbox":
        assert held(lab.orders.process.live)
    await eventually(lambda: set(acted) == {knob}, "it acts")
    if knob == "error_rate":
        await eventually(lambda: "Traceback" in logged.getvalue(), "the line that could tell most is logged")
    await clear(lab)
    spans = await lab.spans()
    assert spans
    for span in spans:
        assert not telling(span.to_json(), knob), span.to_json()
    for family in REGISTRY.collect():
        for sample in family.samples:
            assert not telling(json.dumps([sample.name, sample.labels]), knob)
    for line in logged.getvalue().splitlines():
        assert not telling(line, knob), line
