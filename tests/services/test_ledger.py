"""The ledger over memory: read models a little behind, the replay that proves them, a new one filled from the past."""

from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr

from services.domain.projections import PROJECTIONS
from services.storage.database import VIEWS
from services.styles.event_sourcing import JOURNAL
from services.telemetry import conventions as c
from tests.services.lab import DECLINED, NOT_SERVED, ORDER, memory_lab
from tests.services.parts import eventually

TOKEN = "t"
BEARER = {"authorization": f"Bearer {TOKEN}"}
STYLES = ("event_sourcing", "hybrid")


@asynccontextmanager
async def asked(folder):
    """A lab with orders of both styles that have ended, and a client of the ledger's admin port."""
    async with memory_lab(folder) as lab:
        process = lab.participants["ledger"]
        process.config.settings_token = SecretStr(TOKEN)
        states = {}
        for style in STYLES:
            for body in (ORDER, DECLINED, NOT_SERVED):
                order = await lab.finished(body, style)
                states[order["id"]] = order["state"]
        await lab.spans()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.admin_port}", trust_env=False) as client:
            yield lab, client, states


async def proofs(client):
    answer = await client.post("/replay", headers=BEARER)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_what_is_folded_again_from_nothing_is_what_was_kept(tmp_path):
    async with asked(tmp_path) as (_, client, states):
        await eventually(lambda: _behind(client), "the ledger has caught up")
        replayed = await proofs(client)
        # whose card was declined by a call is in no journal of hybrid
        assert replayed["orders"].items() <= states.items()
        assert len(replayed["orders"]) == 5
        assert {proof["name"] for proof in replayed["proofs"]} == {"orders", "sales"}
        assert all(proof["equal"] and proof["behind"] == 0 and proof["events"] > 0 for proof in replayed["proofs"])
        sales = (await client.get("/projections/sales")).json()["rows"]
        assert sales == {"tea": {"pieces": 4, "cents": 1800}}


async def _behind(client):
    return all(proof["behind"] == 0 for proof in (await proofs(client))["proofs"])


async def test_a_row_that_is_wrong_is_found(tmp_path):
    async with asked(tmp_path) as (lab, client, _):
        database = lab.participants["ledger"].database
        change = VIEWS.update().where(VIEWS.c.projection == "sales", VIEWS.c.key == "tea").values(row='{"pieces": 9}')
        await database.write(lambda connection: connection.execute(change))
        by_name = {proof["name"]: proof for proof in (await proofs(client))["proofs"]}
        assert by_name["orders"]["equal"]
        assert not by_name["sales"]["equal"]
        assert by_name["sales"]["differences"]["tea"]["kept"] == {"pieces": 9}


async def test_an_event_that_the_journal_lost_is_found(tmp_path):
    async with asked(tmp_path) as (lab, client, _):
        lab.orders.process.network.journals[JOURNAL].pop(0)
        assert not any(proof["equal"] for proof in (await proofs(client))["proofs"])


async def test_a_new_read_model_is_filled_from_the_past_and_goes_on(tmp_path):
    async with asked(tmp_path) as (lab, client, _):
        assert (await client.get("/projections/customers")).json()["rows"] == {}
        filled = (await client.post("/projections/customers", headers=BEARER)).json()
        assert filled["events"] > 0
        assert (await client.post("/projections/customers", headers=BEARER)).json()["events"] == 0, "each event once"
        before = (await client.get("/projections/customers")).json()["rows"]
        # hybrid's journal begins with the payment: it does not know when an order was placed
        assert before == {"c-1": {"orders": 3, "charged_cents": 1800}}
        await lab.finished(ORDER, "event_sourcing")

        async def four():
            rows = (await client.get("/projections/customers")).json()["rows"]
            return rows["c-1"] == {"orders": 4, "charged_cents": 2700}

        await eventually(four, "the new read model goes on")
        assert (await client.delete("/projections/customers", headers=BEARER)).status_code == 200
        assert (await client.get("/projections/customers")).json()["rows"] == {}


async def test_a_replay_is_marked_and_repeats_no_effect(tmp_path):
    async with asked(tmp_path) as (lab, client, _):
        done = {name: await _effects(process) for name, process in lab.participants.items()}
        lab.exporter.clear()
        await proofs(client)
        spans = [span for span in await lab.spans() if span.name == "replay"]
        assert len(spans) == 1
        assert spans[0].attributes[c.LAB_REPLAY] is True
        assert spans[0].attributes[c.BATCH_MESSAGE_COUNT] > 0
        assert [s.name for s in lab.exporter.get_finished_spans() if c.OPERATION_TYPE in s.attributes] == []
        assert {name: await _effects(process) for name, process in lab.participants.items()} == done


async def _effects(process):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.admin_port}", trust_env=False) as client:
        return (await client.get("/effects")).text


async def test_the_past_can_be_asked_for(tmp_path):
    async with asked(tmp_path) as (_, client, states):
        order_id = next(iter(states))
        events = (await client.get(f"/history/{order_id}")).json()["events"]
        assert [event["event"] for event in events] == [
            *("order.placed", "stock.reserved", "payment.charged", "shipment.booked", "customer.notified"),
        ]
        assert [event["by"] for event in events] == ["orders", "inventory", "payment", "shipping", "notifications"]
        then = (await client.post("/replay", params={"until": events[2]["at"]}, headers=BEARER)).json()
        assert then["orders"] == {order_id: "accepted"}
        assert then["events"] == 3
        assert then["proofs"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/replay", 401, "token"),
        ("POST", "/projections/sales", 401, "token"),
        ("GET", "/projections/weather", 422, "no read model"),
        ("GET", "/history/nobody", 404, "no journal knows"),
    ],
)
async def test_what_cannot_be_answered_says_why(tmp_path, method, path, status, says):
    async with asked(tmp_path) as (_, client, _):
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert says in answer.json()["detail"]


def test_every_read_model_has_a_sentence():
    assert all(projection.sentence[0].isupper() for projection in PROJECTIONS.values())
