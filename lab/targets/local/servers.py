"""The table of what the local target can run. A new server is one line here and one file with its recipe.

An entry's recipe has two functions: `provide` finds the server or gets it, `processes` renders it for a plan.
Our own processes need neither finding nor getting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.targets.local import elasticmq, ice, jaeger, kafka, ours, postgres, prometheus, rabbitmq, redis
from lab.targets.local.plan import Plan
from lab.targets.local.ports import MOST, PARTICIPANTS
from lab.targets.local.process import Process
from lab.targets.local.provision.tools import Job


@dataclass(frozen=True)
class Entry:
    """`transports` are those that cannot run without it. `default`: started when nothing is named. `most`: how many
    there may be of it; `processes` then renders as many as the plan's `replicas` say, the first always the same.
    `why_one` is why there cannot be more."""

    processes: Callable[[Plan, Any], list[Process]]
    provide: Callable[[Job], Any] | None = None
    transports: tuple[str, ...] = ()
    default: bool = True
    most: int = 1
    why_one: str = ""


def _service(name: str) -> Entry:
    return Entry(
        lambda plan, _: ours.services(plan, name),
        most=MOST if name in PARTICIPANTS else 1,
        why_one=ours.WHY_ONE.get(name, ""),
    )


ENTRIES: dict[str, Entry] = {
    "rabbitmq": Entry(rabbitmq.processes, rabbitmq.provide, ("rabbitmq",)),
    "kafka": Entry(kafka.processes, kafka.provide, ("kafka",)),
    "elasticmq": Entry(elasticmq.processes, elasticmq.provide, ("sqs",)),
    "redis": Entry(redis.processes, redis.provide, ("redis_streams", "redis_pubsub")),
    "ice": Entry(ice.processes, ice.provide, ("ice",)),
    "postgres": Entry(postgres.processes, postgres.provide, default=False),
    "jaeger": Entry(jaeger.processes, lambda _: jaeger.find()),
    "spans": Entry(lambda plan, _: [ours.span_store(plan)]),
    **{name: _service(name) for name in ours.SERVICES},
    "prometheus": Entry(prometheus.processes, prometheus.provide),  # last: it scrapes those before it
}

# Every transport that services speak today, and whether a server has to run for it.
TRANSPORTS: dict[str, str | None] = {
    "rest": None,
    "grpc": None,
    "json_rpc": None,
    "thrift": None,
    "avro_rpc": None,
    "ice": "ice",
    "rabbitmq": "rabbitmq",
    "kafka": "kafka",
    "sqs": "elasticmq",
    "redis_streams": "redis",
    "redis_pubsub": "redis",
}
