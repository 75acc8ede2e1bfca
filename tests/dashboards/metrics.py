"""Which metrics there are, and which a query asks for."""

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from dashboards import foreign
from dashboards.rules import records
from lab.spans.metrics import Metrics
from services.telemetry import metrics, setup

WORDS = {"and", "or", "unless", "bool", "offset"}


def ours() -> set[str]:
    """The series of each instrument of the services, by its kind."""
    instruments = [each for module in (metrics, setup) for each in vars(module).values()]
    return {name for each in instruments if isinstance(each, MetricWrapperBase) for name in series(each)}


def series(instrument: MetricWrapperBase) -> set[str]:
    name, kind = instrument._name, instrument._type
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
    return {name + ending for ending in endings[kind]}


def span_store() -> set[str]:
    """The series that it shows."""
    families = Metrics(Path("/nowhere"), dict).registry.collect()
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def foreigners() -> set[str]:
    """Those of others that we name, with any ending: what each really is called, the live test finds out."""
    names = {value for name, value in vars(foreign).items() if name.isupper()}
    names -= {name for name in names if name.startswith("lab_")}
    return {name + ending for name in names for ending in ("", "_total", "_bucket", "_count", "_sum")}


def known() -> set[str]:
    return ours() | span_store() | foreigners() | set(records())


def asked(expr: str) -> set[str]:
    """The metrics that ``expr`` names."""
    found = set()
    for pattern in re.findall(r'__name__=~"([^"]*)"', expr):
        found |= {name for name in known() if re.fullmatch(pattern, name)} or {pattern}
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|ignoring|group_left)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    return found | {name for name in re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", bare) if name not in WORDS}
