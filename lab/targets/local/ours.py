"""Our own processes: the services and the span store, and the environment that makes them one lab."""

import json

from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST, RPC
from lab.targets.local.process import Probe, Process, Scrape

PARTICIPANTS = ("inventory", "payment", "shipping", "notifications")
SERVICES = ("orders", *PARTICIPANTS)


def service(plan: Plan, name: str) -> Process:
    """One service. Brokers may come later than it: it retries by itself, and says so on /readyz."""
    ports = plan.ports
    spoken = [transport for transport in plan.transports if transport in RPC]
    listen = {"http": "front_door"} if name == "orders" else {rpc: f"{name}.{rpc}" for rpc in spoken}
    peers = {
        peer: {rpc: (ports.url if rpc == "rest" else ports.address)(f"{peer}.{rpc}") for rpc in spoken}
        for peer in PARTICIPANTS
    }
    admin = f"{name}.admin"
    return Process(
        name=name,
        argv=(plan.python, "-m", f"services.{name}"),
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
            "LAB_TRANSPORTS": ",".join(plan.transports),
            "LAB_ABSENT": json.dumps(plan.absent),
            "LAB_RABBITMQ_URL": plan.rabbitmq_url,
            "LAB_KAFKA_BOOTSTRAP": ports.address("kafka"),
            "LAB_DATABASE_URL": plan.database_url(name),
            "LAB_ORDERS_ADMIN_URL": ports.url("orders.admin"),
            "LAB_SETTINGS_TOKEN": plan.credentials["settings_token"],
            "OTEL_EXPORTER_OTLP_ENDPOINT": ports.url("span_store"),
        },
    )


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
