"""Our own processes: the services and the span store, and the environment that makes them one lab."""

import json

from lab.targets.local import ice
from lab.targets.local.plan import Plan
from lab.targets.local.ports import CARRIERS, FAN_OUT, HOST, LOGS, PARTICIPANTS, RPC
from lab.targets.local.process import Probe, Process, Scrape

CALLING = ("orders", *PARTICIPANTS)
"""Those that call and are called."""
SERVICES = (*CALLING, *CARRIERS, "ledger")
SPEAKS = {**dict.fromkeys(CARRIERS, FAN_OUT), "ledger": LOGS}
"""The transports of those that have a use for some only: a carrier is asked by fan-out, the ledger reads journals."""
WHY_ONE = {
    "orders": "the front door has one address",
    **dict.fromkeys(CARRIERS, "of each carrier orders expects one answer"),
    "ledger": "its read models have one writer",
}
SERVERS = {
    "LAB_RABBITMQ_URL": ("rabbitmq",),
    "LAB_KAFKA_BOOTSTRAP": ("kafka",),
    "LAB_SQS_URL": ("sqs",),
    "LAB_REDIS_URL": ("redis_streams", "redis_pubsub"),
}
"""Each broker's address, and the transports that need it."""
OVER_HTTP = ("rest", "json_rpc", "avro_rpc")
"""Wires whose addresses are URLs."""


def services(plan: Plan, name: str) -> list[Process]:
    """A service: one process, or as many as the plan wants of it."""
    return [service(plan, name, number) for number in range(1, plan.replicas.get(name, 1) + 1)]


def service(plan: Plan, name: str, number: int = 1) -> Process:
    """One service. Brokers may come later than it: it retries by itself, and says so on /readyz.

    From the second process on it has the first one's database and its groups at the brokers, and serves no calls: a
    caller knows one address of each peer.
    """
    ports = plan.ports
    process = name if number == 1 else f"{name}-{number}"
    own = SPEAKS.get(name)
    transports = [wire for wire in plan.transports if (number == 1 or wire not in RPC) and (own is None or wire in own)]
    spoken = [transport for transport in transports if transport in RPC]
    listen = {"http": "front_door"} if name == "orders" else {rpc: f"{name}.{rpc}" for rpc in spoken}
    scheme = "https" if plan.tls else "http"
    peers = {
        peer: {rpc: (f"{scheme}://" if rpc in OVER_HTTP else "") + ports.address(f"{peer}.{rpc}") for rpc in spoken}
        for peer in PARTICIPANTS
    }
    servers = (plan.rabbitmq_url, ports.address("kafka"), ports.url("sqs"), plan.redis_url)
    admin = f"{process}.admin"
    module, _, which = name.partition("-")
    return Process(
        name=process,
        argv=(plan.python, "-m", f"services.{module}", *filter(None, (which,))),
        cwd=str(plan.project),
        ports=(admin, *listen.values()),
        needs=("postgres",) if plan.database == "postgres" else (),
        ready=Probe(ports[admin], "/readyz"),
        scrapes=(Scrape(name, ports[admin]),),
        env={
            "LAB_HOST": HOST,
            "LAB_ADMIN_PORT": str(ports[admin]),
            "LAB_LISTEN": json.dumps({key: ports[port] for key, port in listen.items()}),
            "LAB_PEERS": json.dumps(peers),
            "LAB_TRANSPORTS": ",".join(transports),
            "LAB_ABSENT": json.dumps(plan.absent),
            **{
                variable: address
                for (variable, carries), address in zip(SERVERS.items(), servers, strict=True)
                if own is None or set(carries) & set(own)
            },
            "LAB_DATABASE_URL": plan.database_url(name),
            "LAB_ORDERS_ADMIN_URL": ports.url("orders.admin"),
            "LAB_SETTINGS_TOKEN": plan.credentials["settings_token"],
            "OTEL_EXPORTER_OTLP_ENDPOINT": ports.url("span_store"),
            **_tls(plan),
            **(ice.environment() if "ice" in spoken else {}),
        },
    )


def _tls(plan: Plan) -> dict[str, str]:
    if plan.tls is None:
        return {}
    files = plan.tls
    named = {"CERTIFICATE": files.certificate, "KEY": files.key, "CA": files.authority}
    return {f"LAB_TLS_{name}": str(path) for name, path in named.items()}


def span_store(plan: Plan) -> Process:
    """The span store, which receives all spans and passes them on to Jaeger whenever that is there."""
    ports = plan.ports
    forward = {} if plan.jaeger == "off" else {"LAB_SPANS_FORWARD": ports.url("jaeger.otlp_http")}
    return Process(
        name="spans",
        argv=(plan.python, "-m", "lab.spans"),
        cwd=str(plan.project),
        ports=("span_store",),
        ready=Probe(ports["span_store"], "/readyz"),
        scrapes=(Scrape("spans", ports["span_store"]),),
        stop_rank=1,  # after the services, whose last spans it receives
        env={
            "LAB_SPANS_HOST": HOST,
            "LAB_SPANS_PORT": str(ports["span_store"]),
            "LAB_SPANS_DATABASE": str(plan.data("spans")) + ".sqlite",
            **forward,
        },
    )
