"""Dead letters on the admin port: looked at, tried again as if for the first time, dropped; and what brokers hold."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from services.runtime import consumer as consumer_module
from services.runtime.process import Process
from services.transports.errors import Unavailable
from services.transports.messaging.memory import Memory
from tests.services.lab import ORDER, MemoryLab, memory_lab
from tests.services.parts import eventually, publish_raw

TOKEN = {"authorization": "Bearer the-token"}
POISON = b"\x00\xff no message of ours"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setenv("LAB_SETTINGS_TOKEN", "the-token")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[MemoryLab]:
    async with memory_lab(tmp_path) as running:
        yield running


def admin(process: Process) -> str:
    return f"http://127.0.0.1:{process.admin_port}"


async def poison(lab: MemoryLab, headers: dict[str, str]) -> None:
    network = lab.orders.process.network
    publish_raw(network, "payment.commands", headers, POISON)
    async with network.arrived:
        network.arrived.notify_all()
    await eventually(lambda: network.dead_letters, "nobody can read it")


async def listed(lab: MemoryLab, service: str = "payment") -> list[dict[str, object]]:
    answer = await lab.client.get(f"{admin(lab.participants[service])}/dead-letters")
    assert answer.status_code == 200
    letters: list[dict[str, object]] = answer.json()["dead_letters"]
    return letters


async def test_what_failed_too_often_is_tried_again_for_as_long(lab: MemoryLab) -> None:
    """The failures of before are forgotten: it fails as often as at first until it is a dead letter again, and once
    the cause is gone the order goes on to its end."""
    await lab.put(payment__error_rate="1", messaging__max_attempts="3")
    order_id = (await lab.place(ORDER, "message_queue")).json()["id"]
    network = lab.orders.process.network
    await eventually(lambda: network.dead_letters, "payment gives up")
    (letter,) = await listed(lab)
    assert (letter["service"], letter["broker"], letter["channel"]) == ("payment", "memory", "payment.commands")
    assert (letter["type"], letter["order_id"], letter["style"]) == ("charge.payment", order_id, "message_queue")
    assert letter["attempts"] == 3
    assert "RuntimeError" in str(letter["reason"])
    assert len(str(letter["trace_id"])) == 32

    payment = lab.participants["payment"]
    where = f"{admin(payment)}/dead-letters/memory/payment.commands/{letter['id']}"
    answer = await lab.client.post(f"{where}/replay", headers=TOKEN)
    assert (answer.status_code, answer.json()["done"]) == (200, "replayed")
    await eventually(lambda: network.dead_letters, "payment gives up again")
    assert (await listed(lab))[0]["attempts"] == 3

    await lab.put(payment__error_rate="0")
    assert (await lab.client.post(f"{where}/replay", headers=TOKEN)).status_code == 200
    ended = (await lab.client.get(f"/orders/{order_id}", params={"wait_s": 10})).json()
    assert ended["state"] == "completed"
    assert await listed(lab) == []
    assert (await lab.client.post(f"{where}/replay", headers=TOKEN)).status_code == 404


async def test_a_letter_is_shown_with_its_headers_its_trace_and_its_body(lab: MemoryLab) -> None:
    await lab.put(payment__error_rate="1", messaging__max_attempts="1")
    await lab.place(ORDER, "message_queue")
    await eventually(lambda: lab.orders.process.network.dead_letters, "payment gives up")
    (letter,) = await listed(lab)
    where = f"{admin(lab.participants['payment'])}/dead-letters/memory/payment.commands/{letter['id']}"
    assert (await lab.client.get(where)).status_code == 401  # a customer's card is in it
    shown = (await lab.client.get(where, headers=TOKEN)).json()
    assert shown["headers"]["ce-id"] == letter["id"]
    assert letter["trace_id"] in shown["headers"]["traceparent"]
    assert shown["payload"]["order"]["card"] == ORDER["card"]
    assert shown["undecodable"] is None


@pytest.mark.parametrize("stranger", ["../../readyz", "a b/c?d#e", "ü%2F\u202e", "replay", "x/replay"])
async def test_what_cannot_be_read_is_shown_and_dropped_whatever_its_id(lab: MemoryLab, stranger: str) -> None:
    await poison(lab, {"ce-id": stranger, "ce-type": "charge.payment"})
    (letter,) = await listed(lab)
    assert (letter["id"], letter["trace_id"]) == (stranger, None)
    payment = lab.participants["payment"]
    where = f"{admin(payment)}/dead-letters/memory/payment.commands/{quote(stranger, safe='')}"
    shown = (await lab.client.get(where, headers=TOKEN)).json()
    assert base64.b64decode(shown["body_base64"]) == POISON
    assert shown["payload"] is None
    assert shown["undecodable"]
    assert (await lab.client.delete(where)).status_code == 401
    assert len(await listed(lab)) == 1
    answer = await lab.client.delete(where, headers=TOKEN)
    assert (answer.status_code, answer.json()["done"]) == (200, "dropped")
    assert await listed(lab) == []
    assert (await lab.client.delete(where, headers=TOKEN)).status_code == 404


async def test_writes_want_the_labs_token(lab: MemoryLab) -> None:
    await poison(lab, {"ce-id": "m-1"})
    where = f"{admin(lab.participants['payment'])}/dead-letters/memory/payment.commands/m-1"
    for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "the-token"}):
        for ask in (lab.client.post(f"{where}/replay", headers=headers), lab.client.delete(where, headers=headers)):
            answer = await ask
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert len(await listed(lab)) == 1


@pytest.mark.parametrize("where", ["kafka/payment.commands/m-1", "memory/inventory.commands/m-1", "memory/nowhere/m-1"])
async def test_a_channel_that_the_service_does_not_hear_is_not_there(lab: MemoryLab, where: str) -> None:
    url = f"{admin(lab.participants['payment'])}/dead-letters/{where}"
    answer = await lab.client.get(url, headers=TOKEN)
    assert answer.status_code == 404
    assert "memory/payment.commands" in answer.json()["valid"]


async def test_what_brokers_hold_is_told_per_channel(lab: MemoryLab) -> None:
    await lab.put(payment__pause="on")
    for _ in range(3):
        await lab.place(ORDER, "message_queue")

    async def held() -> bool:
        answer = (await lab.client.get(f"{admin(lab.participants['payment'])}/held")).json()
        counts = {each["channel"]: each["held"] for each in answer["held"]}
        return counts["payment.commands"] == 3 and sum(counts.values()) == 3

    await eventually(held, "three commands wait for payment")
    await lab.put(payment__pause="off")


async def test_a_broker_that_is_away_is_named_and_asked_once(lab: MemoryLab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def away(*where: str, **_: object) -> None:
        asked.append(where)
        raise Unavailable("connection refused")

    monkeypatch.setattr(Memory, "held", away)
    monkeypatch.setattr(Memory, "dead_letters", away)
    for path in ("held", "dead-letters"):
        asked.clear()
        answer: httpx.Response = await lab.client.get(f"{admin(lab.participants['payment'])}/{path}")
        assert answer.status_code == 200
        assert answer.json()["unavailable"] == [{"broker": "memory", "reason": "connection refused"}]
        assert len(asked) == 1
    where = f"{admin(lab.participants['payment'])}/dead-letters/memory/payment.commands/m-1"
    assert (await lab.client.get(where, headers=TOKEN)).status_code == 503
