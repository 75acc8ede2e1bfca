"""The table of what the local target can run. A new server is one line here and one file with its recipe.

An entry's recipe has two functions: `provide` finds the server or gets it, `processes` renders it for a plan.
Our own processes need neither finding nor getting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.targets.local import jaeger, kafka, ours, postgres, prometheus, rabbitmq
from lab.targets.local.plan import Plan
from lab.targets.local.process import Process
from lab.targets.local.provision.tools import Job


@dataclass(frozen=True)
class Entry:
    """`transports` are those that cannot run without it. `default`: started when nothing is named."""

    processes: Callable[[Plan, Any], list[Process]]
    provide: Callable[[Job], Any] | None = None
    transports: tuple[str, ...] = ()
    default: bool = True


def _service(name: str) -> Entry:
    return Entry(lambda plan, _: [ours.service(plan, name)])


ENTRIES: dict[str, Entry] = {
    "rabbitmq": Entry(rabbitmq.processes, rabbitmq.provide, ("rabbitmq",)),
    "kafka": Entry(kafka.processes, kafka.provide, ("kafka",)),
    "postgres": Entry(postgres.processes, postgres.provide, default=False),
    "jaeger": Entry(jaeger.processes, lambda _: jaeger.find()),
    "spans": Entry(lambda plan, _: [ours.span_store(plan)]),
    **{name: _service(name) for name in ours.SERVICES},
    "prometheus": Entry(prometheus.processes, prometheus.provide),  # last: it scrapes those before it
}

# Every transport that services speak today, and whether a server has to run for it.
TRANSPORTS: dict[str, str | None] = {"rest": None, "grpc": None, "rabbitmq": "rabbitmq", "kafka": "kafka"}
