"""The delivery ledger: each thing that was said or heard is a row before it is acknowledged."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from services.domain import messages as m
from services.runtime import consumer as consumer_module
from services.runtime.ledger import Ledger
from services.runtime.process import Process
from services.storage import ledger as ledger_module
from services.storage.database import LEDGER, OUTBOX, Database
from services.storage.ledger import Entry, LedgerStore, Outcome
from services.transports.messaging.memory import MemoryDelivery, Network
from tests.services.lab import ORDER, MemoryLab, memory_lab
from tests.services.parts import eventually, order, publish_raw, wire


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "MAX_BACKOFF_S", 0.01)


async def ledger_of(process: Process, *, said: bool) -> list[tuple[str, str, str]]:
    """(type, channel, outcome) in the order in which they were written."""
    query = select(LEDGER).where(LEDGER.c.said == int(said)).order_by(LEDGER.c.id)
    rows = await process.database.read(lambda connection: connection.execute(query).all())
    return [(row.type, row.channel, row.outcome) for row in rows]


async def put(network: Network, channel: str, headers: Mapping[str, str], body: bytes) -> None:
    """Bytes of somebody else's client, and the broker's word that they are there."""
    publish_raw(network, channel, headers, body)
    async with network.arrived:
        network.arrived.notify_all()


def entry(number: int, at_ns: int | None = None, outcome: Outcome | None = Outcome.HANDLED) -> Entry:
    at_ns = time.time_ns() if at_ns is None else at_ns
    return Entry(f"m-{number}", "order.placed", "memory", "c", "o-1", "choreography", "memory", outcome, at_ns)


# --- rows -------------------------------------------------------------------------------------------------------------
async def test_what_is_heard_and_said_is_noted_with_everybody(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        order_id = (await lab.finished(ORDER, "message_queue"))["id"]
        await lab.spans()
        inventory, orders = lab.participants["inventory"], lab.orders.process
        assert await ledger_of(inventory, said=False) == [("reserve.stock", "inventory.commands", "handled")]
        assert await ledger_of(inventory, said=True) == [
            ("stock.reserved", "orders.replies", ""),
            ("charge.payment", "payment.commands", ""),
        ]
        assert len(await ledger_of(orders, said=False)) == 4
        # what orders says of its own is in its outbox
        assert await ledger_of(orders, said=True) == []
        (row,) = await inventory.database.read(
            lambda connection: connection.execute(select(LEDGER).where(LEDGER.c.said == 0)).all()
        )
        (parcel,) = await orders.database.read(lambda connection: connection.execute(select(OUTBOX)).all())
        assert row.message_id in parcel.headers
        assert (row.order_id, row.style, row.transport, row.broker) == (order_id, "message_queue", "memory", "memory")


async def test_a_request_is_noted_by_orders_itself(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        await lab.finished(ORDER, "async_request_response")
        said = await ledger_of(lab.orders.process, said=True)
        assert [(kind, channel) for kind, channel, _ in said] == [
            ("reserve.stock", "inventory.commands"),
            ("charge.payment", "payment.commands"),
            ("book.shipment", "shipping.commands"),
            ("notify.customer", "notifications.commands"),
        ]


async def test_the_row_is_there_before_the_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ack, before = MemoryDelivery.ack, []
    async with memory_lab(tmp_path) as lab:
        database = lab.participants["inventory"].database

        async def look(delivery: MemoryDelivery) -> None:
            if delivery.group == "inventory":
                rows = select(LEDGER.c.type).where(LEDGER.c.message_id == delivery.headers["ce-id"])
                before.extend(await database.read(lambda connection: connection.execute(rows).scalars().all()))
            await ack(delivery)

        monkeypatch.setattr(MemoryDelivery, "ack", look)
        await lab.finished(ORDER, "message_queue")
        await lab.spans()
    assert before == ["reserve.stock"]


async def test_what_is_passed_over_has_no_row(tmp_path: Path) -> None:
    """A journal brings everybody everything."""
    async with memory_lab(tmp_path) as lab:
        await lab.finished(ORDER, "event_sourcing")
        await lab.spans()
        heard = await ledger_of(lab.participants["payment"], said=False)
        assert heard == [("stock.reserved", "orders.journal", "handled")]


async def test_a_message_that_comes_twice_is_known_the_second_time(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        headers, body = wire(m.OrderPlaced(order()), style="choreography")
        network = lab.orders.process.network
        network.groups["orders.events"] &= {"inventory"}
        for _ in range(2):
            await put(network, "orders.events", headers, body)
        inventory = lab.participants["inventory"]

        async def outcomes() -> list[str]:
            """Of this message alone: payment, which goes on from here, is heard by inventory, too."""
            return [outcome for kind, _, outcome in await ledger_of(inventory, said=False) if kind == "order.placed"]

        async def both() -> bool:
            return len(await outcomes()) == 2

        await eventually(both, "inventory heard it twice")
        assert await outcomes() == ["handled", "known"]


async def test_orders_knows_an_answer_that_comes_twice(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        await lab.put(inventory__duplicate_rate="1")
        await lab.finished(ORDER, "orchestration")
        await lab.spans()
        heard = [each for each in await ledger_of(lab.orders.process, said=False) if each[0] == "stock.reserved"]
        assert [outcome for *_, outcome in heard] == ["handled", "known"]


async def test_a_dead_letter_has_a_row_with_what_was_said_meanwhile(tmp_path: Path) -> None:
    """Also one that cannot be read: by the id that it is asked for with."""
    async with memory_lab(tmp_path, {"messaging.max_attempts": "2", "payment.error_rate": "1"}) as lab:
        await lab.place(ORDER, "message_queue")
        network = lab.orders.process.network
        await eventually(lambda: network.dead_letters, "payment gives up")
        payment = lab.participants["payment"]
        assert await ledger_of(payment, said=False) == [("charge.payment", "payment.commands", "dead")]
        await put(network, "payment.commands", {"ce-subject": "o" * 500}, b"\xff\x00")
        await eventually(lambda: len(network.dead_letters) == 2, "nobody can read it")
        query = select(LEDGER).order_by(LEDGER.c.id.desc()).limit(1)
        (row,) = await payment.database.read(lambda connection: connection.execute(query).all())
        assert (row.outcome, row.message_id, len(row.order_id)) == ("dead", network.dead_letters[1].id, 200)


async def test_what_cannot_be_noted_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done, and is not acknowledged: the next time it is known, and noted."""
    async with memory_lab(tmp_path) as lab:
        payment = lab.participants["payment"]
        add, away = payment.ledger.store.add, [True]

        async def sometimes(entries: Any) -> None:
            if away:
                away.pop()
                raise OperationalError("insert", {}, Exception("disk I/O error"))
            await add(entries)

        monkeypatch.setattr(payment.ledger.store, "add", sometimes)
        ended = await lab.finished(ORDER, "choreography")
        await lab.spans()
        assert ended["state"] == "completed"
        heard = await ledger_of(payment, said=False)
        assert ("stock.reserved", "inventory.events", "known") in heard
        assert lab.orders.process.network.dead_letters == []


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    await opened.open()
    yield opened
    await opened.close()


async def test_those_that_come_at_once_share_a_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store, written = LedgerStore(database), []
    add = store.add

    async def counted(entries: Any) -> None:
        written.append(len(entries))
        await add(entries)

    monkeypatch.setattr(store, "add", counted)
    ledger = Ledger(store)
    await asyncio.gather(*(ledger.note([entry(number)]) for number in range(50)))
    assert sum(written) == 50
    assert len(written) <= 2
    assert len((await store.page(since_ns=0, after=0, limit=100)).rows) == 50


async def test_whoever_waits_hears_that_it_failed_and_the_next_is_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LedgerStore(database)
    ledger = Ledger(store)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "_INSERT", "INSERT INTO nowhere VALUES (?)")
        with pytest.raises(OperationalError):
            await ledger.note([entry(1)])
    cancelled = asyncio.create_task(ledger.note([entry(2)]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await ledger.note([entry(3)])
    rows = (await store.page(since_ns=0, after=0, limit=10)).rows
    assert [row["message_id"] for row in rows] == ["m-2", "m-3"]


async def test_pages_give_each_row_once(database: Database) -> None:
    store = LedgerStore(database)
    began_ns = time.time_ns()
    # two wrote at the same time, the later one first
    await store.add([entry(0, began_ns - 10), *(entry(n, began_ns + n) for n in (2, 1, 3, 4, 5))])
    seen, after = [], 0
    for _ in range(10):
        page = await store.page(since_ns=began_ns, after=after, limit=2)
        assert len(page.rows) <= 2
        seen += [row["message_id"] for row in page.rows]
        if page.after is None:
            break
        after = page.after
    assert seen == ["m-2", "m-1", "m-3", "m-4", "m-5"]
    assert (await store.page(since_ns=began_ns + 100, after=0, limit=2)).rows == []


async def test_rows_of_more_than_a_day_go_and_it_is_told(database: Database) -> None:
    store = LedgerStore(database)
    now_ns = time.time_ns()
    day_ns = int(ledger_module.KEPT_S * 1e9)
    await store.add([entry(1, now_ns - day_ns - 10**9), entry(2, now_ns - day_ns + 10**12), entry(3)])
    assert await store.forget() == 1
    assert await store.forget() == 0
    page = await store.page(since_ns=0, after=0, limit=10)
    assert [row["message_id"] for row in page.rows] == ["m-2", "m-3"]
    assert page.complete_since_ns == now_ns - day_ns + 10**12


async def test_no_more_rows_are_kept_than_there_is_room_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_ROWS", 3)
    store = LedgerStore(database)
    await store.add([entry(number, time.time_ns()) for number in range(5)])
    assert await store.forget() == 2
    page = await store.page(since_ns=0, after=0, limit=10)
    assert [row["message_id"] for row in page.rows] == ["m-2", "m-3", "m-4"]
    assert page.complete_since_ns == page.rows[0]["at_ns"]


# --- routes -----------------------------------------------------------------------------------------------------------
async def asked(lab: MemoryLab, service: str, path: str, **params: Any) -> Any:
    process = lab.orders.process if service == "orders" else lab.participants[service]
    answer = await lab.client.get(f"http://127.0.0.1:{process.admin_port}{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_books_are_open_on_the_admin_port(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        answer = await lab.place(ORDER, "choreography", baggage="lab.run_id=run%2D1,other=1")
        await lab.client.get(answer.headers["location"], params={"wait_s": 10})
        await lab.spans()
        page = await asked(lab, "payment", "/ledger", limit=1)
        rest = await asked(lab, "payment", "/ledger", after=page["after"])
        assert [row["said"] for row in (*page["rows"], *rest["rows"])][:2] == [True, False]
        assert rest["after"] is None
        (effect,) = (await asked(lab, "payment", "/audit/effects"))["rows"]
        assert effect["action"] == "charge.payment"
        (told,) = (await asked(lab, "orders", "/audit/orders", run_id="run-1"))["rows"]
        assert (told["style"], told["state"], told["run_id"]) == ("choreography", "completed", "run-1")
        assert [step["slot"] for step in told["steps"]] == ["done"] * 4
        assert (await asked(lab, "orders", "/audit/orders", run_id="run_1"))["rows"] == []
        assert (await asked(lab, "orders", "/audit/orders", since_ns=told["accepted_at_ns"] + 1))["rows"] == []
        (parcel,) = (await asked(lab, "orders", "/audit/outbox"))["rows"]
        assert (parcel["type"], parcel["channel"]) == ("order.placed", "orders.events")
        assert parcel["published_at_ns"] >= parcel["written_at_ns"]


async def test_orders_come_in_pages(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        ids = {(await lab.finished(ORDER, "request_response"))["id"] for _ in range(3)}
        first = await asked(lab, "orders", "/audit/orders", limit=2)
        second = await asked(lab, "orders", "/audit/orders", limit=2, after=first["after"])
        assert {row["id"] for page in (first, second) for row in page["rows"]} == ids
        assert second["after"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=5001", "since_ns=-1", "since_ns=9223372036854775808", "after=x"])
async def test_what_makes_no_sense_is_refused(tmp_path: Path, query: str) -> None:
    async with memory_lab(tmp_path) as lab:
        port = lab.participants["payment"].admin_port
        answer = await lab.client.get(f"http://127.0.0.1:{port}/ledger?{query}")
        assert answer.status_code == 422
        assert query.partition("=")[0] in answer.json()["detail"]
