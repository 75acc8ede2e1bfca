"""A span store and a Prometheus for tests: real HTTP on loopback, the answers of the real ones."""

import itertools
from typing import Any

from fastapi import FastAPI, HTTPException

from load.orders import OrderKind
from load.plan import Flow
from load.profiles import Profile
from load.records import FlowResult, LoadResult, OrderRecord, Outcome
from load.shapes import steady

FLOW = Flow("choreography", "kafka")


def stored_flow(**more: Any) -> dict[str, Any]:
    """One flow of the span store's summary."""
    return {
        "style": FLOW.style,
        "transport": FLOW.transport,
        "orders": 10,
        "completed": 8,
        "rejected": 2,
        "unfinished": 0,
        "accept_p50_ms": 5.0,
        "accept_p95_ms": 9.0,
        "complete_p50_ms": 50.0,
        "complete_p95_ms": 90.0,
        "orders_per_s": 9.9,
        "traces_per_order": 1.0,
        "spans_per_order": 40.0,
        "links_per_order": 12.0,
        "spans": 400,
        "waiting_share": 0.4,
        "work_share": 0.4,
        "wire_share": 0.2,
        "unexplained_share": 0.0,
        "orphan_spans": 0,
        "redeliveries": 0,
        "duplicates": 0,
        "errors": 0,
        "example_order_id": "o-3",
        "something_new": 1,
        **more,
    }


def store(*answers: list[dict[str, Any]]) -> FastAPI:
    """Answers a summary of run ``r`` with each of ``answers`` in turn, then the last one for good."""
    app = FastAPI()
    turn = itertools.chain(answers, itertools.repeat(answers[-1]))

    @app.get("/runs/{run_id}/summary")
    def summary(run_id: str) -> dict[str, Any]:
        flows = next(turn)
        if run_id != "r" or not flows:
            raise HTTPException(404)
        return {"run_id": run_id, "flows": flows}

    return app


def prometheus(values: dict[str, tuple[float, float]], split: float) -> FastAPI:
    """Counters by a part of their name: their value before and after ``split`` (unix seconds)."""
    app = FastAPI()

    @app.get("/api/v1/query")
    def query(query: str, time: float) -> dict[str, Any]:
        found = [pair for name, pair in values.items() if name in query]
        vector = [{"metric": {}, "value": [time, str(found[0][time > split])]}] if found else []
        return {"status": "success", "data": {"resultType": "vector", "result": vector}}

    return app


def load_result(outcomes: str = "cccccccrr.", ended_at: str = "2026-01-05T10:00:20.000000Z") -> LoadResult:
    """A run of one flow: c completed, r rejected (as they should), l lost, f failed, x rejected against its
    kind."""
    names: dict[str, tuple[OrderKind, Outcome]] = {
        "c": ("ordinary", "completed"),
        ".": ("ordinary", "completed"),
        "r": ("declined", "rejected"),
        "l": ("ordinary", "lost"),
        "f": ("ordinary", "failed"),
        "x": ("ordinary", "rejected"),
    }
    orders = []
    for index, letter in enumerate(outcomes):
        kind, outcome = names[letter]
        record = OrderRecord(index, kind, outcome, due_s=index / 10, late_ms=1.0)
        if outcome != "failed":
            record.order_id, record.accept_ms = f"o-{index}", 5.0 + index
        else:
            record.error = "HTTP 503 Service Unavailable"
        if outcome in ("completed", "rejected"):
            record.complete_ms = 50.0 + index
        orders.append(record)
    flow = FlowResult(FLOW, "2026-01-05T10:00:00.000000Z", ended_at, orders)
    profile = Profile("tiny", steady(10, 1))
    return LoadResult(
        run_id="r",
        front_door="http://127.0.0.1:1",
        profile=profile,
        workload=profile.sentence(),
        seed=1,
        refused_share=0.2,
        started_at="2026-01-05T10:00:00.000000Z",
        ended_at=ended_at,
        flows=[flow],
    )
