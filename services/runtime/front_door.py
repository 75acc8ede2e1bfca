"""What the front door takes in and gives out: its documents, and its answers to what cannot be.

Errors are problem documents (RFC 9457). 422 is for what will never work (an unknown name, a pair that cannot be,
a transport that this installation lacks), 503 with Retry-After for what should work again soon.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.contracts.openapi import JSON, PROBLEM, Problem
from services.domain import catalog
from services.domain.messages import Line, Order
from services.storage.database import AWAY, why
from services.storage.orders import StoredOrder
from services.styles import STYLES, why_not
from services.styles.roles import Style
from services.transports import TRANSPORTS, Transport
from services.transports.errors import DeadlineExceeded, TransportError
from services.transports.http import Refused, problem

log = structlog.get_logger()

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class LineIn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    sku: Text
    quantity: Annotated[int, Field(ge=1, le=1000)]


class OrderIn(BaseModel):
    """What a customer asks for. ``card`` and ``ship_to`` are plain text; some values are always refused (/catalog)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "customer": "c-1",
                    "card": "4242424242424242",
                    "ship_to": "Lisbon",
                    "lines": [{"sku": "tea", "quantity": 2}],
                }
            ]
        },
    )

    customer: Text
    card: Annotated[str, StringConstraints(pattern=r"^[0-9]{12,19}$")]
    ship_to: Text
    lines: Annotated[list[LineIn], Field(min_length=1, max_length=100)]

    def order(self, order_id: str) -> Order:
        """The order under its id. Raises ``Impossible`` for an article that is not sold."""
        lines = tuple(Line(line.sku, line.quantity) for line in self.lines)
        for number, line in enumerate(lines):
            if line.sku not in catalog.PRICES_CENTS:
                raise Impossible(
                    422, f"lines.{number}.sku: {line.sku!r} is not sold", valid=sorted(catalog.PRICES_CENTS)
                )
        return Order(order_id, self.customer, self.card, self.ship_to, lines, catalog.amount_cents(lines))

    def fingerprint(self, style: str, transport: str) -> str:
        """Equal for equal requests: what an Idempotency-Key is held against."""
        return hashlib.sha256(f"{style}\n{transport}\n{self.model_dump_json()}".encode()).hexdigest()


class HistoryEntry(BaseModel):
    at: datetime
    event: str


class OrderOut(BaseModel):
    """An order as it stands. ``state`` is ``accepted``, or one of the ends ``completed`` and ``rejected``."""

    id: str
    style: str
    transport: str
    state: str
    accepted_at: datetime
    completed_at: datetime | None
    reason: str | None
    amount_cents: int
    slots: dict[str, str]
    history: list[HistoryEntry]
    conversation: dict[str, Any]
    """What orders' side of the style has noted: a saga's last command, the quotes that came in."""


def order_out(stored: StoredOrder, history: list[tuple[int, str]], memory: Mapping[str, Any]) -> OrderOut:
    return OrderOut(
        id=stored.state.order.order_id,
        style=stored.style,
        transport=stored.transport,
        state=stored.verdict.value,
        accepted_at=_instant(stored.accepted_at_ns),
        completed_at=None if stored.completed_at_ns is None else _instant(stored.completed_at_ns),
        reason=stored.reason,
        amount_cents=stored.state.order.amount_cents,
        slots={name: slot.value for name, slot in stored.state.slots.items()},
        history=[HistoryEntry(at=_instant(at_ns), event=event) for at_ns, event in history],
        conversation=dict(memory),
    )


def _instant(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)


class Impossible(Exception):
    """A request that gets a problem document instead of an order; ``extra`` are the document's further members."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        self.extra = extra


def explain(app: FastAPI, refused: Refused) -> None:
    """Have ``app`` answer ``Impossible`` with its problem document, and 503 while the database is away."""
    counted = {401: "unauthorized", 422: "impossible"}

    async def impossible(_: Request, error: Exception) -> Response:
        assert isinstance(error, Impossible)
        if error.status in counted:
            refused(counted[error.status])
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        title = "Unprocessable Content" if error.status == 422 else HTTPStatus(error.status).phrase
        return problem(error.status, title, str(error), headers=headers, **error.extra)

    async def away(_: Request, error: Exception) -> Response:
        log.warning("database_away", error=why(error))
        return problem(503, "Service Unavailable", "the database does not answer", headers={"retry-after": "1"})

    app.add_exception_handler(Impossible, impossible)
    for kind in AWAY:
        app.add_exception_handler(kind, away)


PROBLEMS = {
    400: "not JSON",
    404: "there is no such order",
    409: "the Idempotency-Key was used for another order",
    413: "a body over 64 KiB",
    415: "not application/json",
    422: "JSON of the wrong form, or a flow that cannot be",
    503: "a service, or the database, is away; what was done is taken back",
    504: "a service did not answer in time; what was done is taken back",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in the OpenAPI document."""
    return {status: {"model": Problem, "description": PROBLEMS[status]} for status in statuses}


def describe_problems(app: FastAPI) -> None:
    """FastAPI's document calls every answer plain JSON; have ``app``'s say that errors are problem documents."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        for operations in document["paths"].values():
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    if status >= "400" and JSON in response["content"]:
                        response["content"] = {PROBLEM: response["content"][JSON]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


class Flows:
    """Which pairs of style and transport can be asked for here."""

    def __init__(self, running: Mapping[str, Transport], absent: Mapping[str, str]) -> None:
        self._running = running
        self._absent = absent

    def choose(self, style_name: str, transport_names: str | None) -> tuple[Style, str]:
        """The style and the transports that were meant, one per port. Raises ``Impossible``."""
        style = STYLES.get(style_name)
        if style is None:
            raise Impossible(422, f"style: {style_name[:60]!r} is no style", valid=sorted(STYLES))
        chosen = transport_names or self._default(style)
        names = [name.strip() for name in chosen.split(",")]
        if len(names) != len(style.ports):
            ports = ", ".join(style.ports)
            wanted = f"{style.name} needs {len(style.ports)}, comma-separated ({ports})"
            raise Impossible(
                422, f"transport: {chosen[:60]!r} names {len(names)}: {wanted}", valid=self.carriers(style)
            )
        for position, name in enumerate(names):
            self._check(style, position, name)
        return style, ",".join(names)

    def _check(self, style: Style, position: int, name: str) -> None:
        transport = {**TRANSPORTS, **self._running}.get(name)
        valid = self._able(style, position) if len(style.ports) > 1 else self.carriers(style)
        if transport is None:
            raise Impossible(422, f"transport: {name[:60]!r} is no transport", valid=valid)
        if reason := why_not(style, transport, position):
            raise Impossible(422, f"transport: {reason}", valid=valid)
        if name not in self._running:
            why = self._absent.get(name, "it is not enabled (LAB_TRANSPORTS)")
            raise Impossible(422, f"transport: {name} does not run here: {why}", valid=valid)

    def _able(self, style: Style, position: int) -> list[str]:
        """The transports that run here and can be that port of ``style``."""
        return [name for name, transport in self._running.items() if why_not(style, transport, position) is None]

    def carriers(self, style: Style) -> list[str]:
        """What may stand in ``transport=``: the transports that run here and can carry ``style``; of a style with
        several ports its default alone, or nothing where a port has no transport."""
        if len(style.ports) == 1:
            return self._able(style, 0)
        able = [self._able(style, position) for position in range(len(style.ports))]
        return [self._default(style)] if all(able) else []

    def pairs(self) -> list[tuple[str, str]]:
        """Every pair of style and transports that is usually asked for."""
        return [(style.name, names) for style in STYLES.values() for names in self.carriers(style)]

    def _default(self, style: Style) -> str:
        """The default transports, each replaced by the first that can where it does not run here."""
        wanted = style.default.split(",")
        able = [self._able(style, position) for position in range(len(wanted))]
        return ",".join(w if w in able[n] else next(iter(able[n]), w) for n, w in enumerate(wanted))

    def styles(self) -> list[dict[str, Any]]:
        return [
            {
                "name": style.name,
                "cell": style.cell,
                "summary": style.summary,
                "ports": [port.value for port in style.ports],
                "default": self._default(style),
                "transports": self.carriers(style),
                "choices": [self._able(style, position) for position in range(len(style.ports))],
                "not_possible": self._not_possible(style),
            }
            for style in STYLES.values()
        ]

    def _not_possible(self, style: Style) -> dict[str, str]:
        """Why a transport can be none of the ports of ``style``."""
        reasons: dict[str, str] = {}
        for name, transport in TRANSPORTS.items():
            whys = [why_not(style, transport, position) for position in range(len(style.ports))]
            if all(whys):
                reasons[name] = str(whys[-1])
        return reasons

    def transports(self, not_ready: Mapping[str, str]) -> list[dict[str, Any]]:
        """The capability table; ``status`` is ``ready``, ``not ready: …`` or ``absent: …``."""
        table = {**TRANSPORTS, **self._running}
        return [
            {
                "name": name,
                "ports": sorted(port.value for port in transport.ports),
                "delivery": transport.delivery,
                "status": self._status(name, not_ready),
                "styles": [
                    style.name
                    for style in STYLES.values()
                    if any(why_not(style, transport, position) is None for position in range(len(style.ports)))
                ],
            }
            for name, transport in table.items()
        ]

    def _status(self, name: str, not_ready: Mapping[str, str]) -> str:
        if name not in self._running:
            return f"absent: {self._absent.get(name, 'not enabled')}"
        return f"not ready: {not_ready[name]}" if name in not_ready else "ready"


def broken_off(order_id: str, error: TransportError) -> Impossible:
    """The answer when a synchronous conversation did not come to its end: recovery will bring it there."""
    status = 504 if isinstance(error, DeadlineExceeded) else 503
    return Impossible(
        status,
        f"{error}; what was done for order {order_id} is being taken back",
        retry_after_s=1,
        order_id=order_id,
        order=f"/orders/{order_id}",
    )
