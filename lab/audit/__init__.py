"""``lab audit``: every order of a run accounted for, from what each service noted and what the brokers hold.

``take_stock`` and ``ask_brokers`` ask (docs/reliability.md says what, and why in that order), ``reconcile`` compares
what was said with what was heard, ``show`` prints. A message is *due* to every group that its style's topology names
for its channel, but for those that do not want its type and the one that said it. What was due and never heard is
*dead* (its group gave it up), *pending* (its broker holds it), or *lost*.
"""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from lab.audit.reconcile import reconcile, settled
from lab.audit.report import Finding, Flow, Problem, Report
from lab.audit.stock import Stock, ask_brokers, take_stock
from lab.audit.terminal import show
from lab.targets import LabError

__all__ = [
    "Finding",
    "Flow",
    "Problem",
    "Report",
    "Stock",
    "UsageError",
    "ask_brokers",
    "audit",
    "reconcile",
    "show",
    "since_ns",
    "take_stock",
]

LOOK_AGAIN_S = 1.0
_NS = 1_000_000_000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class UsageError(LabError):
    exit_code = 2


def since_ns(text: str) -> int:
    """The instant so long ago: 90s, 10m, 2h, 1d. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if not found:
        raise UsageError(f"--since takes a time like 90s, 10m, 2h or 1d, not {text!r}")
    return time.time_ns() - int(found[1]) * _UNITS[found[2]] * _NS


def audit(ports: Mapping[str, str], *, run_id: str = "", since: int = 0, scope: str = "") -> Report:
    """The report on a run, or on all orders since an instant (ns). What looks wrong is looked at twice: orders may be
    on their way. Raises LabError where a service does not answer or does not remember that far back."""

    def look() -> Stock:
        stock = take_stock(ports, run_id=run_id, since=since)
        if not settled(stock):
            ask_brokers(stock, ports)
        return stock

    report = reconcile(look(), scope)
    if report.violations:
        time.sleep(LOOK_AGAIN_S)
        report = reconcile(look(), scope, {order.id for order in report.orders if not order.explained})
    report.made_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return report
