"""The data sheets of the transports: what each adapter says of its wire at the top of its module.

They are read from the source and never by importing it: an adapter whose library is absent has something to say all
the same. ``lab transports`` and docs/transports.md lay them out.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.targets import LabError
from services.styles import STYLES, why_not
from services.transports import TRANSPORTS, Transport

HEADINGS = (
    "Wire",
    "Contract",
    "Security",
    "Trace context",
    "Delivery",
    "Ordering",
    "Back-pressure",
    "Peer down",
    "Timeouts",
)
_LINE = re.compile(r"(?P<heading>[A-Z]\S*(?: \S+)*) {2,}(?P<text>\S.*)")


class SheetError(LabError):
    """An adapter without a data sheet, or with half of one."""


@dataclass(frozen=True)
class Sheet:
    """One transport. ``summary`` is its sheet's first sentence, ``lines`` the texts by heading, in their order."""

    transport: Transport
    summary: str
    lines: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.transport.name

    @property
    def kind(self) -> str:
        """Whether somebody waits for an answer."""
        return "call" if self.transport.rpc else "messages"

    @property
    def ordering(self) -> str:
        """The heading's first words, which every sheet begins with what counts."""
        return re.split(r"[,;:.(]", self.lines["Ordering"], maxsplit=1)[0].strip()

    @property
    def styles(self) -> list[str]:
        """The conversations that it can carry."""
        return [name for name, style in STYLES.items() if why_not(style, self.transport) is None]

    @property
    def not_possible(self) -> dict[str, str]:
        """Those that it cannot, and why."""
        return {name: why for name, style in STYLES.items() if (why := why_not(style, self.transport))}

    def to_json(self, status: str) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "summary": self.summary,
            "delivery": self.transport.delivery,
            "styles": self.styles,
            "not_possible": self.not_possible,
            "status": status,
            "sheet": dict(self.lines),
        }


def sheets(names: Iterable[str] = TRANSPORTS) -> list[Sheet]:
    """The sheets of the named transports. Raises SheetError, which names all that are missing or incomplete."""
    found, faults = [], []
    for name in names:
        try:
            found.append(read(TRANSPORTS[name]))
        except SheetError as error:
            faults.append(str(error))
    if faults:
        raise SheetError("; ".join(faults))
    return found


def read(transport: Transport) -> Sheet:
    """The data sheet of one transport. Raises SheetError."""
    adapter = transport.rpc or transport.broker or ""
    module = adapter.partition(":")[0]
    spec = find_spec(module)  # imports the packages above it, and not the module
    if spec is None or spec.origin is None:
        raise SheetError(f"{transport.name} has no data sheet: there is no module {module}")
    return parse(transport, ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or "")


def parse(transport: Transport, docstring: str) -> Sheet:
    """A docstring as a sheet: sentences, an empty line, then headings with their texts. Raises SheetError where a
    heading is missing, unknown or out of order."""
    summary, _, rest = docstring.partition("\n\n")
    lines: dict[str, str] = {}
    for line in rest.partition("\n\n")[0].splitlines():
        if match := _LINE.fullmatch(line):
            lines[match["heading"]] = match["text"]
        elif lines:
            lines[next(reversed(lines))] += f" {line.strip()}"
    if tuple(lines) != HEADINGS:
        missing = [heading for heading in HEADINGS if heading not in lines]
        unknown = [heading for heading in lines if heading not in HEADINGS]
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        faults += [f"has {', '.join(unknown)}, which no other has"] if unknown else []
        raise SheetError(
            f"the data sheet of {transport.name} {' and '.join(faults) or 'has its headings out of order'}"
        )
    return Sheet(transport, " ".join(summary.split()), lines)
