"""`lab up --tls`: the certificates of the lab's own, and what the services are told of them."""

import json
import stat
from pathlib import Path

import httpx
import pytest

from lab.targets.local import certificates, ours
from lab.targets.local.plan import Plan
from lab.targets.local.ports import Ports, free_block
from lab.targets.local.state import StateDir
from lab.targets.local.target import LocalTarget
from services.transports.tls import Tls
from tests.lab import eventually
from tests.live.lab import RealLab


def test_they_are_made_once_and_private(tmp_path: Path) -> None:
    state_dir = StateDir(tmp_path)
    files = certificates.made(state_dir)
    Tls(str(files.certificate), str(files.key), str(files.authority))  # they can be used
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    before = files.certificate.read_bytes()
    assert certificates.made(state_dir).certificate.read_bytes() == before


def test_services_are_told_of_them_and_call_by_https(tmp_path: Path) -> None:
    files = certificates.made(StateDir(tmp_path))
    plan = Plan(tmp_path, Ports(), {"settings_token": "t", "rabbitmq_password": "p", "redis_password": "p"}, tls=files)
    plan.transports = ["rest", "grpc", "json_rpc"]
    env = ours.service(plan, "orders").env
    assert env["LAB_TLS_KEY"] == str(files.key)
    peers = json.loads(env["LAB_PEERS"])["payment"]
    assert peers["rest"].startswith("https://")
    assert peers["json_rpc"].startswith("https://")
    assert "//" not in peers["grpc"]


@pytest.mark.live
def test_an_order_is_called_through_over_tls(tmp_path: Path) -> None:
    """Each wire that has TLS carries a whole order; in the clear, nobody answers."""
    target = LocalTarget(tmp_path, tied=True)
    try:
        with free_block() as ports:
            target.up(["spans", *ours.SERVICES], port_base=ports.base, tls=True)
            lab = RealLab(target)
            with lab.http:
                for transport in ("rest", "grpc", "json_rpc", "avro_rpc"):
                    order = lab.finished("request_response", transport)
                    assert order["state"] == "completed"
                    joined = eventually(lambda order=order: lab.store(f"/orders/{order['id']}"), "its spans")  # type: ignore[misc]
                    assert len(joined["traces"]) == 1
                with pytest.raises(httpx.TransportError):
                    lab.http.get(f"{ports.url('payment.rest')}/openapi.json")
    finally:
        target.down()
