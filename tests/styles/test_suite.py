"""Every style over memory, through the front door, when things go wrong: one suite for all ten.

How each of them comes out of it is in the tables at the top; what holds for all of them is that nothing is done twice,
and that nothing stands of an order that was rejected.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.domain import messages as m
from services.domain.order import STEPS
from services.runtime.conditions import Conditions
from services.styles import STYLES
from services.styles.roles import Style
from services.telemetry import conventions as c
from services.transports import cloudevents
from services.transports.messaging import memory
from tests.domain.strategies import FATES
from tests.services.dying import Deaths
from tests.services.lab import DECLINED, NOT_SERVED, ORDER, OUT_OF_STOCK, UNREACHABLE
from tests.services.parts import eventually, metric, order
from tests.styles.rig import CARRIER_SERVICES, DO, SERVICES, TIMEOUTS, Rig, attributes, of, rig
from tests.styles.test_rehearsal import expected

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODIES = {
    "nothing": ORDER,
    "stock": OUT_OF_STOCK,
    "payment": DECLINED,
    "shipment": NOT_SERVED,
    "notification": UNREACHABLE,
}
UNDO = {"reserve.stock": "release.stock", "charge.payment": "refund.payment", "book.shipment": "cancel.shipment"}
STEP = {step.service: step.name for step in STEPS}
COMMAND = dict(zip(SERVICES, DO, strict=True))

IMPATIENT = {key.replace(".", "__"): value for key, value in TIMEOUTS.items()}
CALLED = {
    # by whom an order is carried on while the caller waits: who is called there
    "request_response": ("inventory", "payment", "shipping", "notifications"),
    "notification": ("inventory", "payment", "shipping"),
    "hybrid": ("payment",),
}
TIMED = "orchestration"
"""Whose orders does not wait for an answer for ever."""

every_style = pytest.mark.parametrize("name", STYLES)
every_service = pytest.mark.parametrize("service", SERVICES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("styles")) as running, running.orders():
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_rig: Rig) -> AsyncIterator[Rig]:
    """The lab, where all is as it was before any test."""
    _rig.exporter.clear()
    _rig.network.dead_letters.clear()
    _rig.worked.clear()
    yield _rig
    await _rig.reset()
    await _rig.quiet()


def breaks_off(name: str, service: str) -> bool:
    """Whether the caller waits for ``service`` in person, and is answered with an error without it."""
    return service in CALLED.get(name, ())


def taken_back(name: str, service: str) -> bool:
    """Whether an order is rejected because ``service`` did not answer: what cannot be taken back is asked for again."""
    return service != "notifications" and (breaks_off(name, service) or name == TIMED)


async def assert_effects(stage: Rig, name: str, ended: dict[str, Any]) -> None:
    """Nothing twice; all that was asked for of what is completed; nothing left of what is rejected."""
    effects = await stage.effects(ended["id"])
    assert len(effects) == len(set(effects)), effects
    if ended["state"] == "completed":
        unheard = name == "notification" and "c-unreachable" in ended.get("customer", "")
        assert effects == (DO[:3] if unheard else DO)
    else:
        assert ended["state"] == "rejected"
        for done, undone in UNDO.items():
            assert (done in effects) == (undone in effects), effects


# --- nothing goes wrong -----------------------------------------------------------------------------------------------
@every_style
@pytest.mark.parametrize("fate", BODIES)
async def test_an_order_ends_as_it_does_in_choreography(stage: Rig, name: str, fate: str) -> None:
    """By its fate: state, reason, slots and effects; ``EXCEPTIONS`` has what differs."""
    ended = await stage.end(await stage.placed(BODIES[fate], name))
    assert ended["state"] == expected(name, FATES[fate])
    assert (ended["reason"] is None) == (ended["state"] == "completed")
    await assert_effects(stage, name, {**ended, "customer": BODIES[fate]["customer"]})
    if ended["state"] == "completed":
        assert set(ended["slots"].values()) == {"done"}
    elif "quote" in ended["slots"] and fate == "shipment":
        assert ended["slots"]["quote"] == "refused", "no carrier goes there, and all of them said so"
        assert await stage.effects(ended["id"]) == []
    else:
        assert ended["slots"][fate] in {"refused", "compensated"}
    assert not stage.dead_letters(ended["id"])
    history = [entry["event"] for entry in ended["history"] if not entry["event"].startswith("quote.")]
    assert len(history) == len(set(history)), "nothing was heard twice"


# --- too slow ---------------------------------------------------------------------------------------------------------
@every_style
@every_service
async def test_a_participant_that_is_too_slow(stage: Rig, name: str, service: str) -> None:
    """Whoever calls gives up and takes back, and so does a saga; all others wait as long as it takes, or ask again. A
    notification cannot be taken back: it is asked for until it is there."""
    await stage.lab.put(**IMPATIENT)
    stage.close(service)
    repeated = metric("lab_requests_repeated_total", service="orders", **_queue(service))
    answer = await stage.lab.place(ORDER, name)
    broken = breaks_off(name, service)
    assert answer.status_code in ({504} if broken else {201, 202})
    order_id = str(answer.json().get("order_id") or answer.json()["id"])
    await eventually(lambda: service in stage.worked, f"{service} works")
    if name == TIMED:
        await eventually(lambda: _lost_patience(stage, order_id), "the saga asks for something else, or again")
    elif name == "async_request_response":
        await eventually(
            lambda: metric("lab_requests_repeated_total", service="orders", **_queue(service)) > repeated,
            "the request is repeated",
        )
    elif not broken and not (name == "notification" and service == "notifications"):
        assert (await stage.order(order_id))["state"] == "accepted"
    stage.open()
    ended = await stage.end(order_id)
    assert ended["state"] == ("rejected" if taken_back(name, service) else "completed")
    await assert_effects(stage, name, ended)
    assert stage.worked.count(service) == (2 if taken_back(name, service) else 1), "worked for nothing"


def _queue(service: str) -> dict[str, str]:
    return {"messaging_system": "memory", "messaging_destination_name": f"{service}.commands"}


def _lost_patience(stage: Rig, order_id: str) -> bool:
    sent = [attributes(span)[c.EVENT_TYPE] for span in of(stage.spans("send "), order_id)]
    return any(sent.count(command) > 1 for command in DO) or any(undo in sent for undo in UNDO.values())


@pytest.mark.parametrize("late", [CARRIER_SERVICES[:1], CARRIER_SERVICES[:2], CARRIER_SERVICES], ids=len)
async def test_carriers_that_are_too_slow(stage: Rig, late: tuple[str, ...]) -> None:
    """The deadline passes: the order goes with the best of what came, or is rejected where nothing did. What comes
    later is counted, marked on its span, and changes nothing."""
    await stage.lab.put(**{**IMPATIENT, "quotes__deadline_s": "0.2"})
    stage.close(*late)
    before = unexpected("publish_async_responses", "late")
    order_id = await stage.placed(ORDER, "publish_async_responses")
    ended = await stage.order(order_id, 10)
    stage.open()
    answers = len(CARRIER_SERVICES) - len(late)
    assert (ended["state"], len(ended["conversation"]["answers"])) == ("completed" if answers else "rejected", answers)
    await eventually(
        lambda: unexpected("publish_async_responses", "late") == before + len(late), "the late are counted"
    )
    assert (await stage.end(order_id))["conversation"] == ended["conversation"]
    marked = [span for span in of(stage.spans("process "), order_id) if attributes(span).get(c.LAB_REPLY) == "late"]
    assert len(marked) == len(late)
    await assert_effects(stage, "publish_async_responses", ended)


# --- failures ---------------------------------------------------------------------------------------------------------
@every_style
@every_service
async def test_a_participant_that_fails_a_few_times(stage: Rig, name: str, service: str) -> None:
    """A message is tried again until it is handled, and nobody else notices. A call is not: the caller is told, and
    what was done is taken back."""
    stage.failing[service] = 2
    answer = await stage.lab.place(ORDER, name)
    broken = breaks_off(name, service)
    assert answer.status_code in ({503} if broken else {201, 202})
    ended = await stage.end(str(answer.json().get("order_id") or answer.json()["id"]))
    rejected = broken and service != "notifications"
    assert ended["state"] == ("rejected" if rejected else "completed")
    await assert_effects(stage, name, ended)
    assert not stage.dead_letters(ended["id"])
    assert stage.worked.count(service) == (1 if rejected else 3)


@every_style
@every_service
async def test_a_participant_that_fails_for_good(stage: Rig, name: str, service: str) -> None:
    """A message becomes a dead letter, with the reason, and the order stays open until somebody replays it; a saga
    takes it back, and whoever waits for an answer asks again and again. A call is taken back, but for a notification,
    for which recovery asks until it succeeds."""
    await stage.lab.put(**IMPATIENT, messaging__max_attempts="2")
    stage.failing[service] = 10**6
    order_id = await stage.placed(ORDER, name)
    called = breaks_off(name, service)
    if not called:
        await eventually(lambda: stage.dead_letters(order_id), "it becomes a dead letter")
        letter = stage.dead_letters(order_id)[0]
        assert (letter.group, letter.attempts, letter.reason) == (service, 2, "RuntimeError: out of paper")
        assert letter.headers["traceparent"]
    done_alone = name == "notification" and service == "notifications"
    if taken_back(name, service) or done_alone:
        assert (await stage.end(order_id))["state"] == ("completed" if done_alone else "rejected")
    else:
        assert (await stage.order(order_id))["state"] == "accepted"
    assert COMMAND[service] not in await stage.effects(order_id)
    stage.failing.clear()
    if not called and name not in {"orchestration", "async_request_response"}:
        await stage.replay(order_id)
    ended = await stage.end(order_id)
    await stage.replay(order_id)  # where it was asked for again, or taken back: a letter that is found later
    await stage.quiet()
    assert ended["state"] == ("rejected" if taken_back(name, service) else "completed")
    await assert_effects(stage, name, ended)
    assert not stage.dead_letters(order_id)
    assert (await stage.order(order_id))["state"] == ended["state"]


@pytest.mark.parametrize("failing", [CARRIER_SERVICES[:1], CARRIER_SERVICES], ids=len)
async def test_carriers_that_fail_for_good_are_as_good_as_silent(stage: Rig, failing: tuple[str, ...]) -> None:
    """Their dead letters are replayed when all is over: late answers, which change nothing."""
    await stage.lab.put(quotes__deadline_s="0.5", messaging__max_attempts="2")
    stage.failing |= dict.fromkeys(failing, 10**6)
    order_id = await stage.placed(ORDER, "publish_async_responses")
    ended = await stage.end(order_id)
    assert ended["state"] == ("completed" if len(failing) < len(CARRIER_SERVICES) else "rejected")
    assert sorted(letter.group for letter in stage.dead_letters(order_id)) == sorted(failing)
    stage.failing.clear()
    before = unexpected("publish_async_responses", "late")
    await stage.replay(order_id)
    await eventually(
        lambda: unexpected("publish_async_responses", "late") == before + len(failing), "they answer too late"
    )
    await assert_effects(stage, "publish_async_responses", await stage.end(order_id))


# --- crashes ----------------------------------------------------------------------------------------------------------
KNOBS = {"before": "crash_before_effect_rate", "after": "crash_after_effect_rate"}


@pytest.fixture
def deaths(stage: Rig, monkeypatch: pytest.MonkeyPatch) -> Deaths:
    """Whoever is to crash does so once; orders while it handles a message, not while a client waits for it."""
    died: set[tuple[str, str]] = set()
    crash = Conditions._crash

    def once(self: Conditions, knob: str, style: str) -> None:
        door = self.service == "orders" and not stage.handling()
        if self.value(knob, style) and (self.service, knob) not in died and not door:
            died.add((self.service, knob))
            crash(self, knob, style)

    monkeypatch.setattr(Conditions, "_crash", once)
    return Deaths(monkeypatch, stage.lab.processes)


@pytest.mark.parametrize("when", KNOBS)
@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if not style.synchronous])
async def test_everybody_crashes_once(stage: Rig, deaths: Deaths, name: str, when: str) -> None:
    """In the middle of a message, before or after its effect: it comes again, and whoever takes it up does what is not
    done, and says what was not said."""
    everybody = ("orders", *SERVICES, *(CARRIER_SERVICES if name == "publish_async_responses" else ()))
    await stage.lab.put(**{f"{service}__{KNOBS[when]}": "1" for service in everybody})
    ended = await stage.end(await stage.placed(ORDER, name))
    assert deaths.count == len(everybody)
    assert ended["state"] == "completed"
    await assert_effects(stage, name, ended)
    again = [span for span in of(stage.spans("process "), ended["id"]) if attributes(span)[c.LAB_DELIVERY_ATTEMPT] > 1]
    assert {span.resource.attributes["service.name"] for span in again} == set(everybody)
    found_done = {span.resource.attributes["service.name"] for span in again if c.LAB_DUPLICATE in attributes(span)}
    assert found_done == (set(SERVICES) if when == "after" else set())


@pytest.mark.parametrize("when", KNOBS)
@pytest.mark.parametrize(
    ("name", "service"), [(name, service) for name, services in CALLED.items() for service in services]
)
async def test_a_participant_that_is_called_crashes(
    stage: Rig, deaths: Deaths, name: str, service: str, when: str
) -> None:
    """The caller is told, and cannot know whether it was done: it is taken back, a notification is asked for again."""
    await stage.lab.put(**{f"{service}__{KNOBS[when]}": "1"})
    answer = await stage.lab.place(ORDER, name)
    assert (answer.status_code, deaths.count) == (503, 1)
    ended = await stage.end(answer.json()["order_id"])
    assert ended["state"] == ("completed" if service == "notifications" else "rejected")
    await assert_effects(stage, name, ended)
    done = (await stage.effects(ended["id"])).count(COMMAND[service])
    assert done == (1 if when == "after" or service == "notifications" else 0)


@pytest.mark.parametrize("when", KNOBS)
@pytest.mark.parametrize("name", ["notification", "hybrid"])
async def test_those_who_hear_what_follows_a_call_crash_once(stage: Rig, deaths: Deaths, name: str, when: str) -> None:
    """What goes by messages is as in the other styles."""
    heard = [service for service in SERVICES if service not in CALLED[name]]
    await stage.lab.put(**{f"{service}__{KNOBS[when]}": "1" for service in heard})
    ended = await stage.end(await stage.placed(ORDER, name))
    assert (ended["state"], deaths.count) == ("completed", len(heard))
    await assert_effects(stage, name, ended)


# --- twice and out of order -------------------------------------------------------------------------------------------
@every_style
@pytest.mark.parametrize("fate", ["nothing", "notification"])
async def test_every_message_comes_twice_and_out_of_order(
    stage: Rig, monkeypatch: pytest.MonkeyPatch, name: str, fate: str
) -> None:
    """The second one before whatever else waits, and again when all is over: nothing is done twice, and orders counts
    the answers that it knows."""
    kept: dict[tuple[str, str], Any] = {}
    network = stage.network

    for process in stage.lab.processes:
        broker = process.brokers["memory"]

        async def publish(headers: Any, body: bytes, *, channel: str, key: str, own: Any = broker.publish) -> None:
            again = (headers["ce-id"], channel) not in kept
            await own(headers, body, channel=channel, key=key)
            if again:  # an answer to a duplicate is a duplicate itself
                kept[headers["ce-id"], channel] = (headers, body, channel, key, own)
                await own(headers, body, channel=channel, key=key)
                for group in network.groups[channel]:
                    network.queues[channel, group].rotate(1)

        monkeypatch.setattr(broker, "publish", publish)
    twice = unexpected(name, "twice")
    ended = await stage.end(await stage.placed(BODIES[fate], name))
    assert ended["state"] == expected(name, FATES[fate])
    for headers, body, channel, key, own in reversed(list(kept.values())):
        await own(headers, body, channel=channel, key=key)
    await stage.quiet()
    again = await stage.order(ended["id"])
    assert (again["state"], again["slots"], again["history"]) == (ended["state"], ended["slots"], ended["history"])
    await assert_effects(stage, name, {**ended, "customer": BODIES[fate]["customer"]})
    answered = any("orders" in groups for groups in STYLES[name].channels.values())
    assert (unexpected(name, "twice") > twice) == answered
    assert not stage.dead_letters(ended["id"])


# --- answers that nobody waits for ------------------------------------------------------------------------------------
def unexpected(name: str, reply: str) -> float:
    flow = ",".join(["memory"] * len(STYLES[name].ports))
    return metric("lab_unexpected_replies_total", service="orders", style=name, transport=flow, reply=reply)


def answers_of(style: Style) -> list[str]:
    """The channels on which orders hears others."""
    return [channel for channel, groups in style.channels.items() if "orders" in groups]


@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if answers_of(style)])
async def test_an_answer_for_an_order_that_nobody_knows(stage: Rig, name: str) -> None:
    """A dead letter at once, with the reason; counted, and marked on its span."""
    before = unexpected(name, "nobody")
    channel = answers_of(STYLES[name])[0]
    flow = ",".join(["memory"] * len(STYLES[name].ports))
    nobodys = order("o-nobody")
    headers, body = cloudevents.encode(
        cloudevents.compose(
            m.PaymentCharged(nobodys), source="payment", cause=f"nobody/{name}", style=name, transport=flow
        )
    )
    stage.network.queues[channel, "orders"].append(memory._Stored("o-nobody", dict(headers), body))
    async with stage.network.arrived:
        stage.network.arrived.notify_all()
    await eventually(lambda: stage.dead_letters("o-nobody"), "it becomes a dead letter")
    (letter,) = stage.dead_letters("o-nobody")
    assert (letter.group, letter.attempts, letter.reason) == ("orders", 1, "order o-nobody is not known here")
    assert unexpected(name, "nobody") == before + 1
    (span,) = of(stage.spans("process "), "o-nobody")
    assert attributes(span)[c.LAB_REPLY] == "nobody"
    assert attributes(span)[c.LAB_DEAD_LETTER_REASON] == letter.reason


async def test_a_sagas_reply_that_comes_when_it_has_gone_on(stage: Rig) -> None:
    """It has been told to take back what it is told now: counted as late, marked, folded, and nothing follows."""
    await stage.lab.put(**IMPATIENT)
    stage.close("payment")
    before = unexpected("orchestration", "late")
    order_id = await stage.placed(ORDER, "orchestration")
    await eventually(lambda: _lost_patience(stage, order_id), "the saga takes it back")
    stage.open()
    ended = await stage.end(order_id)
    assert unexpected("orchestration", "late") == before + 1
    (late,) = [span for span in of(stage.spans("process "), order_id) if attributes(span).get(c.LAB_REPLY) == "late"]
    assert attributes(late)[c.EVENT_TYPE] == "payment.charged"
    events = [entry["event"] for entry in ended["history"]]
    assert events[-3:] == ["payment.charged", "payment.refunded", "stock.released"]
    assert ended["conversation"] == {}
