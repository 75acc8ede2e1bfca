"""docs/chart-values.md: what each value of the Helm chart is for, from its schema and its defaults."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm/antiphon"
ENTRIES = ("transports", "services", "backends")

Schema = dict[str, Any]


def page() -> str:
    """The whole page."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    definitions = schema["definitions"]
    top = [row for name, part in schema["properties"].items() for row in _rows(name, part, values.get(name))]
    parts = schema["properties"]["backends"]["properties"]
    backends = "\n\n".join(_backend(name, part, values["backends"][name]) for name, part in parts.items())
    return f"""# Values of the chart

<!-- Written by `make docs` from helm/antiphon/values.schema.json and values.yaml. Do not edit. -->

How to use them stands in [kubernetes.md](kubernetes.md). A value that is not listed here is refused.

{_table(top)}

## transports.NAME

The defaults are {_names(values["transports"])}.

{_table(_fields(definitions["transport"]))}

## services.NAME

The defaults are {_names(values["services"])}.

{_table(_fields(definitions["service"]))}

## backends.NAME

{_table(_fields(definitions["backend"]))}

{backends}
"""


def _backend(name: str, part: Schema, values: dict[str, Any]) -> str:
    """One backend: what it is, whether it is on, what can be turned."""
    own = part["allOf"][1]["properties"]
    rows = [(f"backends.{name}.enabled", values["enabled"], "")]
    rows += [(f"backends.{name}.external", "", own["external"]["description"])] if "external" in own else []
    rows += list(_rows(f"backends.{name}.settings", own["settings"], values.get("settings")))
    return f"### {name}\n\n{part['description']}\n\n{_table(rows)}"


def _rows(path: str, part: Schema, value: Any) -> Iterator[tuple[str, Any, str]]:
    """A value, or those below it; maps whose names are free are one row."""
    if "properties" in part and path not in ENTRIES:
        for name, below in part["properties"].items():
            yield from _rows(f"{path}.{name}", below, (value or {}).get(name))
    elif "maxProperties" not in part:
        yield path, "below" if path in ENTRIES else value, part.get("description", "")


def _fields(part: Schema) -> list[tuple[str, Any, str]]:
    required = part["required"]
    return [
        (name, "needed" if name in required else "", below.get("description", ""))
        for name, below in part["properties"].items()
    ]


def _table(rows: list[tuple[str, Any, str]]) -> str:
    lines = [f"| `{name}` | {_cell(value)} | {sentence} |" for name, value, sentence in rows]
    return "\n".join(["| value | default | |", "| --- | --- | --- |", *lines])


def _cell(value: Any) -> str:
    if value in ("", None, "needed", "below"):
        return value or ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _names(entries: dict[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in entries)
