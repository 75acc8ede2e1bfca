"""The audit and the dead letters of real processes over RabbitMQ and Kafka: a lab of its own, for a minute or two."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from lab.ask import ask, place_order, put_settings
from lab.audit import Report, audit
from lab.dlq import found
from lab.targets.local.ours import SERVICES
from lab.targets.local.ports import free_block
from lab.targets.local.target import LocalTarget
from tests.services.lab import ORDER

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

FLOWS = (("choreography", "rabbitmq"), ("choreography", "kafka"), ("orchestration", "kafka"), ("hybrid", None))


def eventually(look: Callable[[], Any], what: str, timeout_s: float = 40) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)
    return seen


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTarget]:
    running = LocalTarget(tmp_path_factory.mktemp("audit"), tied=True)
    with free_block() as ports:
        try:
            running.up(["rabbitmq", "kafka", *SERVICES], port_base=ports.base)
            yield running
        finally:
            running.down()


@pytest.fixture
def ports(target: LocalTarget) -> Iterator[dict[str, str]]:
    """The admin ports, and default settings before and after."""
    with target.admin_ports() as urls:
        assert set(urls) == set(SERVICES)
        yield dict(urls)
        put(target, dict(urls), payment__error_rate=None, messaging__max_attempts=None, payment__drop_rate=None)


def put(target: LocalTarget, ports: dict[str, str], **values: str | None) -> None:
    """Change settings, and wait until payment has them."""
    named = {name.replace("__", "."): value for name, value in values.items()}
    values = put_settings(target.addresses["orders_admin"], target.settings_token, named)["values"]
    wanted = {name: values[name] for name, value in named.items() if value is not None}

    def there() -> bool:
        applied = httpx.get(f"{ports['payment']}/settings/applied", trust_env=False).json()
        return wanted.items() <= applied.items()

    eventually(there, f"payment has {wanted}", 10)


def place(target: LocalTarget, style: str, transport: str | None, wait_s: float = 30) -> dict[str, Any]:
    door = target.addresses["front_door"]
    return place_order(door, style=style, transport=transport, body=ORDER, wait_s=wait_s)


def quiet(ports: dict[str, str], since_ns: int) -> Report:
    """The report, once nothing is on its way any more."""

    def look() -> Report | None:
        report = audit(ports, since=since_ns)
        return report if not any(flow.pending for flow in report.flows) else None

    report: Report = eventually(look, "nothing is pending")
    return report


def test_all_is_accounted_for_on_real_brokers(target: LocalTarget, ports: dict[str, str]) -> None:
    since_ns = time.time_ns()
    for style, transport in FLOWS:
        for _ in range(3):
            assert place(target, style, transport)["state"] == "completed"
    report = quiet(ports, since_ns)
    assert report.violations == []
    assert report.orders == []
    assert report.notes == []
    told = report.to_json()
    assert json.loads(json.dumps(told)) == told
    assert {(flow.style, flow.transport): (flow.orders, flow.completed, flow.lost) for flow in report.flows} == {
        (style, transport or "grpc,rabbitmq,kafka"): (3, 3, 0) for style, transport in FLOWS
    }
    for flow in report.flows:
        assert flow.delivered >= flow.produced > 0
        assert flow.effects_twice == 0


@pytest.mark.parametrize("transport", ["rabbitmq", "kafka"])
def test_from_dead_letter_to_the_orders_end(target: LocalTarget, ports: dict[str, str], transport: str) -> None:
    since_ns = time.time_ns()
    put(target, ports, payment__error_rate="1", messaging__max_attempts="2")
    order_id = place(target, "message_queue", transport, wait_s=0)["id"]

    def dead() -> Any:
        letters, away = found(ports)
        assert away == []
        return [letter for letter in letters if letter["order_id"] == order_id]

    (letter,) = eventually(dead, "payment gives up")
    assert (letter["service"], letter["broker"], letter["attempts"]) == ("payment", transport, 2)
    report = quiet(ports, since_ns)
    assert report.violations == []
    (finding,) = report.orders
    assert (finding.id, finding.problems[0].kind) == (order_id, "dead")

    put(target, ports, payment__error_rate="0")
    where = f"{ports['payment']}/dead-letters/{transport}/payment.commands/{letter['id']}/replay"
    done = ask("POST", where, headers={"authorization": f"Bearer {target.settings_token}"}, timeout=60)
    assert done["done"] == "replayed"
    door = target.addresses["front_door"]
    ended = ask("GET", f"{door}/orders/{order_id}", params={"wait_s": 30}, timeout=40)
    assert ended["state"] == "completed"
    assert not dead()
    report = quiet(ports, since_ns)
    assert report.violations == []
    assert report.orders == []


@pytest.mark.parametrize("transport", ["rabbitmq", "kafka"])
def test_what_the_broker_never_got_is_lost(target: LocalTarget, ports: dict[str, str], transport: str) -> None:
    since_ns = time.time_ns()
    put(target, ports, payment__drop_rate="1")
    order_id = place(target, "message_queue", transport, wait_s=0)["id"]

    def lost() -> Any:
        report = audit(ports, since=since_ns)
        return report if report.violations else None

    report = eventually(lost, "what payment said is lost")
    (finding,) = report.orders
    assert finding.id == order_id
    assert {(problem.kind, problem.group, problem.broker) for problem in finding.problems} == {
        ("lost", "orders", transport),
        ("lost", "shipping", transport),
    }
