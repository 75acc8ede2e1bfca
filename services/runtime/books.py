"""What a process has noted, for whoever reconciles it: ``lab audit``. Reading only.

Every process: ``/ledger`` (said and heard) and ``/audit/effects`` (done). Orders: ``/audit/orders`` (how each stands)
and ``/audit/outbox`` (what it said, or has yet to say). All come in pages, ``{"rows", "after"}``: ``after`` asks for
the next one and is null on the last.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import APIRouter, Query

from services.domain.messages import Command, type_name
from services.storage.ledger import LedgerStore, Page
from services.styles import STYLES
from services.telemetry import conventions as c

MOST = 5_000
Since = Annotated[int, Query(ge=0, lt=2**63)]
After = Annotated[int, Query(ge=0, lt=2**63)]
Limit = Annotated[int, Query(ge=1, le=MOST)]


def ledger_routes(store: LedgerStore) -> APIRouter:
    """For every process."""
    router = APIRouter()

    @router.get("/ledger")
    async def get_ledger(since_ns: Since = 0, after: After = 0, limit: Limit = MOST) -> dict[str, Any]:
        page = await store.page(since_ns=since_ns, after=after, limit=limit)
        rows = [{**row, "said": bool(row["said"])} for row in page.rows]
        return {"rows": rows, "after": page.after, "complete_since_ns": page.complete_since_ns}

    @router.get("/audit/effects")
    async def get_effects(since_ns: Since = 0, after: After = 0, limit: Limit = MOST) -> dict[str, Any]:
        return _told(await store.effects(since_ns=since_ns, after=after, limit=limit))

    return router


def order_routes(store: LedgerStore) -> APIRouter:
    """For orders."""
    router = APIRouter()

    @router.get("/audit/orders")
    async def get_orders(
        since_ns: Since = 0,
        run_id: Annotated[str, Query(max_length=100)] = "",
        after: Annotated[str, Query(max_length=200)] = "",
        limit: Limit = MOST,
    ) -> dict[str, Any]:
        found = await store.orders(since_ns=since_ns, run_id=run_id, after=after, limit=limit)
        rows = [_order(row) for row in found]
        return {
            "rows": [row for row in rows if not run_id or row["run_id"] == run_id],
            "after": found[-1]["id"] if len(found) == limit else None,
        }

    @router.get("/audit/outbox")
    async def get_outbox(since_ns: Since = 0, after: After = 0, limit: Limit = MOST) -> dict[str, Any]:
        page = await store.outbox(since_ns=since_ns, after=after, limit=limit)
        return _told(Page([_parcel(row) for row in page.rows], page.after))

    return router


def _told(page: Page) -> dict[str, Any]:
    return {"rows": page.rows, "after": page.after}


def _order(row: Mapping[str, Any]) -> dict[str, Any]:
    """An order as it stands, with what each of its steps is and who does it. ``held_until_ns``: somebody carries the
    conversation on, or did until then; ``alarm_at_ns``: it will be woken."""
    slots = json.loads(row["slots"])
    kept = ("id", "style", "transport", "state", "reason", "accepted_at_ns", "completed_at_ns", "alarm_at_ns")
    style = STYLES.get(row["style"])
    return {
        **{name: row[name] for name in kept},
        "held_until_ns": row["lease_until_ns"],
        "run_id": _run_id(json.loads(row["carrier"]).get("baggage", "")),
        "steps": [
            {
                "name": step.name,
                "service": step.service,
                "slot": slots.get(step.name, "pending"),
                "do": _name(step.do),
                "undo": _name(step.undo),
            }
            for stage in (style.plan if style is not None else ())
            for step in stage
        ],
    }


def _name(command: type[Command] | None) -> str | None:
    return None if command is None else type_name(command)


def _run_id(baggage: str) -> str:
    members = (member.partition(";")[0].partition("=") for member in baggage.split(","))
    return next((unquote_plus(value.strip()) for name, _, value in members if name.strip() == c.LAB_RUN_ID), "")


def _parcel(row: Mapping[str, Any]) -> dict[str, Any]:
    headers = json.loads(row["headers"])
    return {
        **{name: value for name, value in row.items() if name != "headers"},
        "message_id": headers.get("ce-id", ""),
        "type": headers.get("ce-type", ""),
        "style": headers.get("ce-labstyle", ""),
        "transport": headers.get("ce-labtransport", ""),
    }
