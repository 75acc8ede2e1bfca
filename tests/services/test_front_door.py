"""The front door: what bad input gets (the design's table), what good input gets, and what a repeated request gets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.openapi.models import OpenAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from services.runtime.front_door import OrderIn
from services.storage.database import EFFECTS, HISTORY, ORDERS, OUTBOX
from services.styles import STYLES
from services.telemetry import conventions as c
from tests.services.lab import DECLINED, NO_WORK, NOT_SERVED, ORDER, OUT_OF_STOCK, UNREACHABLE, MemoryLab, memory_lab
from tests.services.parts import effects_of, metric, rows

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROBLEM = "application/problem+json"
LIMIT = 64 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MemoryLab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_ABSENT", '{"kafka": "no Java on this machine"}')
        async with memory_lab(tmp_path_factory.mktemp("front_door")) as running:
            yield running


@asynccontextmanager
async def with_settings(lab: MemoryLab, **values: str) -> AsyncIterator[None]:
    await lab.put(**values)
    try:
        yield
    finally:
        await lab.put(
            **{**dict.fromkeys(values), **{name.replace(".", "__"): value for name, value in NO_WORK.items()}}
        )


async def stored(lab: MemoryLab) -> list[int]:
    """How many rows there are of each kind that accepting an order writes."""
    database = lab.orders.process.database
    return [await rows(database, table) for table in (ORDERS, HISTORY, OUTBOX)] + [
        await rows(process.database, EFFECTS) for process in lab.participants.values()
    ]


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of ``answer`` (RFC 9457): complete, and of that status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert all(isinstance(document[member], str) and document[member] for member in ("type", "title", "detail"))
    return document


def line(**changes: Any) -> dict[str, Any]:
    return {**ORDER, "lines": [{"sku": "tea", "quantity": 1, **changes}]}


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ORDER.items() if name != field}


JSON_REFUSALS = {
    # what: (body, status, the field that the answer must name)
    "null": (None, 422, "body"),
    "a list": ([], 422, "body"),
    "a string": ("order", 422, "body"),
    "a customer missing": (without("customer"), 422, "customer"),
    "lines missing": (without("lines"), 422, "lines"),
    "an unknown field": ({**ORDER, "colour": "green"}, 422, "colour"),
    "an unknown field in a line": (line(colour="green"), 422, "lines.0.colour"),
    "no lines": ({**ORDER, "lines": []}, 422, "lines"),
    "lines as an object": ({**ORDER, "lines": {"sku": "tea", "quantity": 1}}, 422, "lines"),
    "too many lines": ({**ORDER, "lines": [{"sku": "tea", "quantity": 1}] * 101}, 422, "lines"),
    "a line that is null": ({**ORDER, "lines": [None]}, 422, "lines.0"),
    "quantity 0": (line(quantity=0), 422, "lines.0.quantity"),
    "quantity -1": (line(quantity=-1), 422, "lines.0.quantity"),
    "quantity 1001": (line(quantity=1001), 422, "lines.0.quantity"),
    "quantity true": (line(quantity=True), 422, "lines.0.quantity"),
    "quantity as text": (line(quantity="1"), 422, "lines.0.quantity"),
    "quantity with a fraction": (line(quantity=1.5), 422, "lines.0.quantity"),
    "quantity 1.0": (line(quantity=1.0), 422, "lines.0.quantity"),
    "quantity 10^30": (line(quantity=10**30), 422, "lines.0.quantity"),
    "an unknown sku": (line(sku="submarine"), 422, "lines.0.sku"),
    "an empty sku": (line(sku=""), 422, "lines.0.sku"),
    "the second sku unknown": ({**ORDER, "lines": [ORDER["lines"][0], line(sku="x")["lines"][0]]}, 422, "lines.1.sku"),
    "customer as a number": ({**ORDER, "customer": 1}, 422, "customer"),
    "an empty customer": ({**ORDER, "customer": ""}, 422, "customer"),
    "a long customer": ({**ORDER, "customer": "c" * 201}, 422, "customer"),
    "a card with letters": ({**ORDER, "card": "4242-4242-4242"}, 422, "card"),
    "a card with a line end": ({**ORDER, "card": "424242424242\n"}, 422, "card"),
    "a card of other digits": ({**ORDER, "card": "٤" * 16}, 422, "card"),
    "a short card": ({**ORDER, "card": "4242"}, 422, "card"),
    "a card as a number": ({**ORDER, "card": 4242424242424242}, 422, "card"),
    "an empty address": ({**ORDER, "ship_to": ""}, 422, "ship_to"),
}


@pytest.mark.parametrize("case", JSON_REFUSALS)
async def test_wrong_json_is_refused_and_the_field_named(lab: MemoryLab, case: str) -> None:
    """422 that names the field; nothing is stored."""
    body, status, field = JSON_REFUSALS[case]
    before = await stored(lab)
    document = problem(await lab.client.post("/orders", json=body), status)
    assert field in document["detail"]
    assert await stored(lab) == before


RAW_REFUSALS = {
    "not JSON": (b"{", 400, ""),
    "JSON cut off": (json.dumps(ORDER).encode()[:-1], 400, ""),
    "not UTF-8": (b'{"customer": "\xff"}', 400, ""),
    "XML": (b"<order/>", 400, ""),
    "nested too deeply": (b"[" * 20_000, 400, ""),
    "a number of 5000 digits": (b'{"customer": ' + b"9" * 5000 + b"}", 400, ""),
    "half of a surrogate pair": (json.dumps({**ORDER, "customer": "\ud800"}).encode(), 422, "customer"),
    "a field named half of a surrogate pair": (b'{"\\ud800": 1}', 422, ""),
    "NaN": (b'{"customer": NaN}', 422, "customer"),
    "nothing": (b"", 422, "body"),
}


@pytest.mark.parametrize("case", RAW_REFUSALS)
async def test_what_is_no_json_is_refused(lab: MemoryLab, case: str) -> None:
    """400, and a document that says where; nothing is stored."""
    body, status, field = RAW_REFUSALS[case]
    before = await stored(lab)
    answer = await lab.client.post("/orders", content=body, headers={"content-type": "application/json"})
    assert field in problem(answer, status)["detail"]
    assert await stored(lab) == before


async def test_a_body_of_another_media_type_is_refused(lab: MemoryLab) -> None:
    answer = await lab.client.post("/orders", content=json.dumps(ORDER), headers={"content-type": "text/plain"})
    assert "application/json" in problem(answer, 415)["detail"]


def _padded(size: int) -> bytes:
    """A good order of exactly ``size`` bytes: JSON allows space around it."""
    return json.dumps(ORDER).encode().ljust(size)


def _chunks(body: bytes) -> Any:
    async def generate() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    return generate()


@pytest.mark.parametrize("size", [LIMIT + 1, 15 * LIMIT])
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_a_body_over_64_kib_is_refused(lab: MemoryLab, size: int, chunked: bool) -> None:
    """413, whether its length is announced or not; nothing is stored."""
    before = await stored(lab)
    body = _padded(size)
    answer = await lab.client.post(
        "/orders", content=_chunks(body) if chunked else body, headers={"content-type": "application/json"}
    )
    assert str(LIMIT) in problem(answer, 413)["detail"]
    assert await stored(lab) == before


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_a_body_of_64_kib_is_taken(lab: MemoryLab, chunked: bool) -> None:
    body = _padded(LIMIT)
    answer = await lab.client.post(
        "/orders", content=_chunks(body) if chunked else body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 201


FLOW_REFUSALS = {
    # query: (what the answer must say, the valid ones)
    "style=telepathy": ("'telepathy'", ["choreography", "request_response"]),
    "style=": ("style", ["choreography", "request_response"]),
    "style=choreography&transport=pigeon": ("'pigeon'", ["memory"]),
    "transport=pigeon": ("'pigeon'", ["memory"]),
    "transport=rest,kafka": ("'rest,kafka'", ["memory"]),
    "style=request_response&transport=kafka": ("request_response needs a rpc: kafka offers", ["memory"]),
    "style=choreography&transport=rest": ("choreography needs a broker with fan-out: rest offers rpc", ["memory"]),
    "style=choreography&transport=kafka": ("no Java on this machine", ["memory"]),
    "style=choreography&transport=rabbitmq": ("LAB_TRANSPORTS", ["memory"]),
}


@pytest.mark.parametrize("query", FLOW_REFUSALS)
async def test_a_flow_that_cannot_be_is_refused_with_the_reason_and_the_valid_ones(lab: MemoryLab, query: str) -> None:
    """Unknown style, unknown transport, impossible pair, absent transport: 422; nothing is stored."""
    reason, valid = FLOW_REFUSALS[query]
    before = await stored(lab)
    document = problem(await lab.client.post(f"/orders?{query}", json=ORDER), 422)
    assert reason in document["detail"]
    assert set(valid) <= set(document["valid"])
    assert await stored(lab) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/orders/nobody", 404),
        ("GET", "/orders/" + "x" * 5000, 404),
        ("POST", "/orders/", 307),
        ("GET", "/orders", 405),
        ("PUT", "/orders", 405),
        ("DELETE", "/orders/nobody", 405),
        ("POST", "/catalog", 405),
        ("BREW", "/orders", 400),
    ],
)
async def test_no_such_place_or_method_is_a_problem_document(
    lab: MemoryLab, method: str, path: str, status: int
) -> None:
    answer = await lab.client.request(method, path)
    if status == 307:
        assert answer.headers["location"].endswith("/orders")
        return
    document = problem(answer, status)
    assert len(document["detail"]) < 200
    if status == 405:
        assert answer.headers["allow"]


async def test_each_refusal_is_counted_by_its_reason(lab: MemoryLab) -> None:
    def count(reason: str) -> float:
        return metric("lab_refused_input_total", service="orders", transport="http", reason=reason)

    before = {reason: count(reason) for reason in ("invalid", "malformed", "oversize", "impossible", "not found")}
    await lab.client.post("/orders", json={})
    await lab.client.post("/orders", content=b"{", headers={"content-type": "application/json"})
    await lab.client.post("/orders", content=_padded(LIMIT + 1), headers={"content-type": "application/json"})
    await lab.client.post("/orders?style=telepathy", json=ORDER)
    await lab.client.get("/nowhere")
    assert {reason: count(reason) - n for reason, n in before.items()} == dict.fromkeys(before, 1)


# --- what a good order gets ---------------------------------------------------------------------------------------
STEPS = ["stock.reserved", "payment.charged", "shipment.booked", "customer.notified"]


@pytest.mark.parametrize(
    ("body", "state", "reason"),
    [
        (ORDER, "completed", None),
        (OUT_OF_STOCK, "rejected", "unicorn is out of stock"),
        (DECLINED, "rejected", "the card was declined"),
        (NOT_SERVED, "rejected", "no carrier goes to Atlantis"),
        (UNREACHABLE, "rejected", "customer c-unreachable cannot be reached"),
    ],
    ids=["completed", "out of stock", "declined", "not served", "unreachable"],
)
async def test_a_synchronous_order_is_answered_with_201_and_its_end(
    lab: MemoryLab, body: dict[str, Any], state: str, reason: str | None
) -> None:
    """201, Location, and the finished order: completed or rejected."""
    answer = await lab.place(body, "request_response")
    assert answer.status_code == 201, answer.text
    order = answer.json()
    assert answer.headers["location"] == f"/orders/{order['id']}"
    assert (order["state"], order["reason"]) == (state, reason)
    assert (order["style"], order["transport"]) == ("request_response", "memory")
    assert order["accepted_at"] <= order["completed_at"]
    events = [entry["event"] for entry in order["history"]]
    assert events[0] == "order.placed"
    assert (events[1:] == STEPS) == (state == "completed")
    assert [entry["at"] for entry in order["history"]] == sorted(entry["at"] for entry in order["history"])
    assert (await lab.client.get(answer.headers["location"])).json() == order


async def test_an_asynchronous_order_is_answered_with_202_and_where_to_look(lab: MemoryLab) -> None:
    """202, Location, and the order as it was accepted; it ends later."""
    async with with_settings(lab, payment__work_ms="50"):
        answer = await lab.place(ORDER, "choreography")
        assert answer.status_code == 202, answer.text
        order = answer.json()
        assert (order["state"], order["completed_at"]) == ("accepted", None)
        ended = (await lab.client.get(answer.headers["location"], params={"wait_s": 10})).json()
    assert (ended["id"], ended["state"], ended["amount_cents"]) == (order["id"], "completed", 900)
    assert [entry["event"] for entry in ended["history"]] == ["order.placed", *STEPS]


async def test_wait_s_is_how_long_an_answer_may_take(lab: MemoryLab) -> None:
    """0, and nothing, answer at once; less than the order needs answers with what there is, after that long."""
    async with with_settings(lab, payment__work_ms="400", work__jitter="0"):
        where = (await lab.place(ORDER, "choreography")).headers["location"]
        assert (await lab.client.get(where)).json()["state"] == "accepted"
        assert (await lab.client.get(where, params={"wait_s": 0})).json()["state"] == "accepted"
        began = time.monotonic()
        assert (await lab.client.get(where, params={"wait_s": 0.1})).json()["state"] == "accepted"
        assert time.monotonic() - began >= 0.1
        waits = await asyncio.gather(*(lab.client.get(where, params={"wait_s": 60}) for _ in range(5)))
        assert {answer.json()["state"] for answer in waits} == {"completed"}
        assert time.monotonic() - began < 10
    assert (await lab.client.get(where, params={"wait_s": 60})).json()["state"] == "completed"


@pytest.mark.parametrize("wait_s", ["-1", "61", "nan", "inf", "-inf", "soon", "", "0x1", "1e9"])
async def test_a_wait_that_makes_no_sense_is_refused(lab: MemoryLab, wait_s: str) -> None:
    assert "wait_s" in problem(await lab.client.get("/orders/nobody", params={"wait_s": wait_s}), 422)["detail"]


async def test_waiting_for_an_order_that_does_not_exist_is_answered_at_once(lab: MemoryLab) -> None:
    began = time.monotonic()
    problem(await lab.client.get("/orders/nobody", params={"wait_s": 60}), 404)
    assert time.monotonic() - began < 10


# --- Idempotency-Key ----------------------------------------------------------------------------------------------
async def done(lab: MemoryLab, order_id: str) -> list[str]:
    return [action for process in lab.participants.values() for action in await effects_of(process.database, order_id)]


ONCE = ["reserve.stock", "charge.payment", "book.shipment", "notify.customer"]
KEY = "Idempotency-Key"


@pytest.mark.parametrize("style", ["request_response", "message_queue", "choreography"])
async def test_the_same_key_and_body_give_the_same_order(lab: MemoryLab, style: str) -> None:
    """Whatever the spelling of the body; nothing is done again. The span names the order that there is."""
    key = {KEY: f"again-{style}"}
    first = await lab.place(ORDER, style, **key)
    order_id = first.json()["id"]
    await lab.client.get(first.headers["location"], params={"wait_s": 10})
    lab.exporter.clear()
    spelt = json.dumps(dict(reversed(ORDER.items())), indent=4)
    again = await lab.client.post(
        "/orders", params={"style": style}, content=spelt, headers={**key, "content-type": "application/json"}
    )
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (201, order_id, "completed")
    assert again.headers["location"] == first.headers["location"]
    assert await done(lab, order_id) == ONCE
    (span,) = [span for span in await lab.spans() if span.name == "POST /orders"]
    assert (span.attributes or {})[c.LAB_ORDER_ID] == order_id


@pytest.mark.parametrize("style", ["request_response", "message_queue", "choreography"])
async def test_ten_requests_with_one_key_at_once_make_one_order(lab: MemoryLab, style: str) -> None:
    async with with_settings(lab, inventory__work_ms="30"):
        answers = await asyncio.gather(*(lab.place(ORDER, style, **{KEY: f"ten-{style}"}) for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {201, 202}
    (order_id,) = {answer.json()["id"] for answer in answers}
    ended = await lab.client.get(f"/orders/{order_id}", params={"wait_s": 10})
    assert ended.json()["state"] == "completed"
    assert await done(lab, order_id) == ONCE


@pytest.mark.parametrize("other", ["body", "style"])
async def test_a_key_that_was_used_for_another_order_is_refused(lab: MemoryLab, other: str) -> None:
    """409; the order that has the key stays as it is, and no other is made."""
    key = {KEY: f"taken-{other}"}
    await lab.place(ORDER, "request_response", **key)
    before = await stored(lab)
    body, style = (DECLINED, "request_response") if other == "body" else (ORDER, "choreography")
    document = problem(await lab.place(body, style, **key), 409)
    assert f"'taken-{other}'" in document["detail"]
    assert document["title"] == "Conflict"
    assert await stored(lab) == before


@pytest.mark.parametrize("key", ["", "k" * 201])
async def test_a_key_must_have_1_to_200_characters(lab: MemoryLab, key: str) -> None:
    before = await stored(lab)
    assert "idempotency" in problem(await lab.place(ORDER, "request_response", **{KEY: key}), 422)["detail"]
    assert await stored(lab) == before


# --- what can be asked for ------------------------------------------------------------------------------------------
async def test_the_catalog_says_what_is_sold_and_what_is_always_refused(lab: MemoryLab) -> None:
    catalog = (await lab.client.get("/catalog")).json()
    assert {"sku": "tea", "price_cents": 450} in catalog["items"]
    assert "unicorn" in catalog["always_out_of_stock"]
    assert DECLINED["card"] in catalog["always_declined"]
    assert NOT_SERVED["ship_to"] in catalog["not_served"]
    assert UNREACHABLE["customer"] in catalog["unreachable"]


async def test_the_styles_say_what_they_need_and_what_can_carry_them_here(lab: MemoryLab) -> None:
    styles = {style["name"]: style for style in (await lab.client.get("/styles")).json()}
    assert styles["request_response"]["ports"] == ["rpc"]
    assert styles["request_response"]["transports"] == ["memory"]
    assert "rest" not in styles["request_response"]["not_possible"]
    assert "kafka offers" in styles["request_response"]["not_possible"]["kafka"]
    assert "rest offers rpc" in styles["choreography"]["not_possible"]["rest"]
    for style in styles.values():
        assert style["default"] in style["transports"]
        assert style["choices"] == [["memory"]] * len(style["ports"])
    assert styles["hybrid"]["ports"] == ["rpc", "broker with queues", "log"]
    assert styles["hybrid"]["transports"] == ["memory,memory,memory"]
    assert "rest" not in styles["hybrid"]["not_possible"], "it can be one of the three"


@pytest.mark.parametrize(
    ("transport", "says"),
    [
        ("memory", "'memory' names 1: hybrid needs 3, comma-separated (rpc, broker with queues, log)"),
        ("memory,rest,memory", "hybrid needs a broker with queues: rest offers rpc"),
        ("memory,memory,pigeon", "'pigeon' is no transport"),
        ("memory,memory,kafka", "kafka does not run here: no Java on this machine"),
    ],
)
async def test_each_port_of_a_style_wants_a_transport_that_can(lab: MemoryLab, transport: str, says: str) -> None:
    """422, which names the port that is wrong and what may stand there."""
    answer = await lab.client.post("/orders", params={"style": "hybrid", "transport": transport}, json=ORDER)
    document = problem(answer, 422)
    assert says in document["detail"]
    assert document["valid"] in (["memory"], ["memory,memory,memory"])


async def test_an_order_shows_what_orders_has_noted_of_its_conversation(lab: MemoryLab) -> None:
    """The quotes that came in, with what each carrier asks; nothing where a style notes nothing."""
    quoted = await lab.finished(ORDER, "publish_async_responses")
    answers = {answer["carrier"]: answer["type"] for answer in quoted["conversation"]["answers"]}
    assert answers == {"swift": "quote.offered", "steady": "quote.offered", "frugal": "quote.countered"}
    assert (await lab.finished(ORDER, "choreography"))["conversation"] == {}


async def test_the_transports_say_what_runs_and_why_not(lab: MemoryLab) -> None:
    transports = {transport["name"]: transport for transport in (await lab.client.get("/transports")).json()}
    assert transports["memory"]["status"] == "ready"
    assert transports["kafka"]["status"] == "absent: no Java on this machine"
    assert transports["rest"]["status"] == "absent: not enabled"
    assert transports["rest"]["styles"] == ["request_response", "notification", "hybrid"]
    assert transports["kafka"]["styles"] == [name for name in STYLES if name != "request_response"]
    assert transports["memory"]["styles"] == list(STYLES)


async def test_the_openapi_document_is_valid_and_says_what_is_answered(lab: MemoryLab) -> None:
    """OpenAPI 3.1; every reference leads somewhere; the operations and answers are those that the tests see."""
    document = (await lab.client.get("/openapi.json")).json()
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    references = set(_references(document))
    assert references
    for reference in references:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == {
        ("post", "/orders"),
        ("get", "/orders/{order_id}"),
        ("get", "/catalog"),
        ("get", "/styles"),
        ("get", "/transports"),
    }
    post = document["paths"]["/orders"]["post"]["responses"]
    assert {"201", "202", "400", "409", "413", "415", "422", "503", "504"} <= set(post)
    assert {"200", "404", "422"} <= set(document["paths"]["/orders/{order_id}"]["get"]["responses"])
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                assert set(response["content"]) == {PROBLEM if status >= "400" else "application/json"}, status


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError("nobody listens"), OperationalError("SELECT", {}, Exception())]
)
async def test_while_the_database_is_away_the_answer_is_503(
    lab: MemoryLab, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """With Retry-After, as for every dependency that is down; and it works again afterwards."""

    async def away(_work: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lab.orders.process.database, "write", away)
        patch.setattr(lab.orders.process.database, "read", away)
        for answer in (await lab.place(ORDER, "request_response"), await lab.client.get("/orders/o-1")):
            assert "database" in problem(answer, 503)["detail"]
            assert answer.headers["retry-after"] == "1"
    assert (await lab.place(ORDER, "request_response")).status_code == 201


# --- whatever comes ---------------------------------------------------------------------------------------------------
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
LINES = st.lists(
    st.fixed_dictionaries(
        {"sku": st.sampled_from(["tea", "unicorn", "x", ""]) | ANY, "quantity": st.integers(-1, 2) | ANY},
        optional={"colour": ANY},
    ),
    max_size=3,
)
ALMOST = st.fixed_dictionaries(
    {},
    optional={
        "customer": st.text(max_size=10) | ANY,
        "card": st.sampled_from(["4242424242424242", "4000000000000002", "1"]) | ANY,
        "ship_to": st.sampled_from(["Lisbon", "Atlantis"]) | st.text(max_size=10) | ANY,
        "lines": LINES | ANY,
        "colour": ANY,
    },
)
GOOD = st.builds(
    lambda customer, ship_to, sku, quantity: {
        **ORDER,
        "customer": customer,
        "ship_to": ship_to,
        "lines": [{"sku": sku, "quantity": quantity}],
    },
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.sampled_from(["tea", "coffee", "unicorn"]),
    st.integers(1, 1000),
)
BODIES = st.one_of(
    ALMOST.map(lambda value: json.dumps(value).encode()),
    ANY.map(lambda value: json.dumps(value).encode()),
    GOOD.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
)


@given(BODIES, st.sampled_from(["request_response", "message_queue", "choreography"]))
@settings(max_examples=200, derandomize=True, database=None, deadline=None)
async def test_whatever_comes_is_answered_by_an_order_or_a_problem(lab: MemoryLab, body: bytes, style: str) -> None:
    """201 or 202 for what is an order, else a 4xx problem document; never a crash."""
    answer = await lab.client.post(
        "/orders", params={"style": style}, content=body, headers={"content-type": "application/json"}
    )
    if answer.status_code in {201, 202}:
        OrderIn.model_validate_json(body)
        return
    assert 400 <= answer.status_code < 500, (answer.status_code, body)
    problem(answer, answer.status_code)


async def test_after_all_that_the_process_lives(lab: MemoryLab) -> None:
    assert await lab.orders.process.ready() == []
    assert (await lab.finished(ORDER, "choreography"))["state"] == "completed"
