"""What the boards and rules must be on a running lab, wherever that runs: asked of its Prometheus."""

import math
from typing import Any

import httpx

from dashboards.queries import Asked, expanded
from dashboards.rules import ALERTS, records
from tests.lab import ORDER, Lab

OUT_OF_STOCK = {**ORDER, "lines": [{"sku": "unicorn", "quantity": 1}]}


def load(lab: Lab[Any], flows: list[tuple[str, str]], rounds: int = 3) -> None:
    """A little of everything, through each flow."""
    for _ in range(rounds):
        placed = [lab.place(style, transport) for style, transport in flows]
    placed += [lab.place(style, transport, OUT_OF_STOCK) for style, transport in flows]
    for answer in placed:
        assert answer.status_code in {201, 202}, answer.text
        lab.ended(answer.json()["id"])


def missing_after_load(lab: Lab[Any], flows: list[tuple[str, str]]) -> list[Asked]:
    """The queries that have no data though the flows were used again and again: a rate needs a figure that grows from
    one scrape to the next, and a load may fit between two."""
    missing: list[Asked] = []
    for _ in range(10):
        load(lab, flows)
        missing = empty(lab.addresses["prometheus"])
        if not missing:
            break
    return missing


def empty(prometheus_url: str) -> list[Asked]:
    """The queries that have no data now, and say nowhere why. Raises where one cannot be run at all."""
    with httpx.Client(base_url=prometheus_url, trust_env=False, timeout=30) as client:
        return [asked for asked in expanded(prometheus_url) if not _has_data(client, asked) and not asked.zero]


def _has_data(client: httpx.Client, asked: Asked) -> bool:
    answer = client.post("/api/v1/query", data={"query": asked.expr})
    assert answer.status_code == 200, f"{asked.board}, {asked.panel}: {asked.expr}: {answer.text}"
    values = [float(series["value"][1]) for series in answer.json()["data"]["result"]]
    return any(not math.isnan(value) for value in values)


def broken_rules(prometheus_url: str) -> list[str]:
    """The rules that Prometheus has not loaded, has not evaluated yet, or cannot evaluate."""
    answer = httpx.get(f"{prometheus_url}/api/v1/rules", trust_env=False, timeout=30).json()
    loaded = {rule["name"]: rule for group in answer["data"]["groups"] for rule in group["rules"]}
    wanted = [*records(), *(alert.name for alert in ALERTS)]
    return [name for name in wanted if loaded.get(name, {}).get("health") != "ok" or loaded[name].get("lastError")]


def exemplars(prometheus_url: str, metric: str, seconds: float) -> set[str]:
    """The traces that points of ``metric`` lead to, of the last ``seconds``."""
    with httpx.Client(base_url=prometheus_url, trust_env=False, timeout=30) as client:
        now = float(client.get("/api/v1/query", params={"query": "time()"}).json()["data"]["result"][1])
        answer = client.get("/api/v1/query_exemplars", params={"query": metric, "start": now - seconds, "end": now})
    return {each["labels"]["trace_id"] for series in answer.json()["data"] for each in series["exemplars"]}
