"""Calls over TLS, on the wires that have it: who is not verified is not spoken to."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from services.domain.messages import ChargePayment, PaymentCharged
from services.runtime.config import Config
from services.telemetry.setup import set_up
from services.transports import TRANSPORTS, errors
from services.transports.ports import Rpc, Wiring
from services.transports.tls import Tls
from tests.transports.rpc.suite import ORDER, always, free_ports

OVER_HTTP = {"rest", "json_rpc", "avro_rpc"}
WIRES = ["rest", "grpc", "json_rpc", "avro_rpc"]
Make = Callable[[str, Tls | None], Rpc]


def certified(folder: Path, *names: str, by: trustme.CA | None = None) -> Tls:
    """A certificate for ``names``, and the authority that issued it."""
    folder.mkdir()
    authority = by or trustme.CA()
    issued = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    return Tls(str(folder / "certificate.pem"), str(folder / "key.pem"), str(folder / "authority.pem"))


@pytest.fixture
def ours(tmp_path: Path) -> Tls:
    return certified(tmp_path / "ours", "127.0.0.1")


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.fixture(params=WIRES)
async def make(request: pytest.FixtureRequest, port: int) -> AsyncIterator[Make]:
    """An adapter of the wire under test for a service, with or without TLS."""
    made: list[Rpc] = []

    def connect(service: str, tls: Tls | None) -> Rpc:
        name = request.param
        scheme = ("https://" if tls else "http://") if name in OVER_HTTP else ""
        wiring = Wiring(
            service,
            set_up(service),
            listen={name: port},
            peers={"payment": {name: f"{scheme}127.0.0.1:{port}"}},
            tls=tls,
        )
        made.append(TRANSPORTS[name].connect_rpc(wiring))
        return made[-1]

    yield connect
    for each in made:
        await each.close()


async def call(rpc: Rpc) -> Any:
    return await rpc.call("payment", ChargePayment(ORDER), timeout_s=5)


async def served(make: Make, tls: Tls | None) -> None:
    await make("payment", tls).serve("payment", always(PaymentCharged(ORDER)))


async def test_a_call_is_answered(make: Make, ours: Tls) -> None:
    await served(make, ours)
    assert await call(make("orders", ours)) == PaymentCharged(ORDER)


async def test_what_goes_over_the_wire_is_tls(make: Make, ours: Tls, port: int) -> None:
    """A TLS client of the authority shakes hands, one without the authority does not."""
    await served(make, ours)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours.client)
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    await writer.wait_closed()
    assert version in {"TLSv1.2", "TLSv1.3"}
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())


async def test_a_peer_of_another_authority_is_not_spoken_to(make: Make, ours: Tls, tmp_path: Path) -> None:
    await served(make, certified(tmp_path / "theirs", "127.0.0.1"))
    with pytest.raises(errors.Unavailable, match="payment"):
        await call(make("orders", ours))


async def test_a_peer_of_another_name_is_not_spoken_to(make: Make, tmp_path: Path) -> None:
    authority = trustme.CA()
    await served(make, certified(tmp_path / "there", "elsewhere.example", by=authority))
    with pytest.raises(errors.Unavailable, match="payment"):
        await call(make("orders", certified(tmp_path / "here", "127.0.0.1", by=authority)))


@pytest.mark.parametrize("side", ["caller", "server"])
async def test_one_side_alone_with_tls_does_not_connect_and_the_server_lives(make: Make, ours: Tls, side: str) -> None:
    await served(make, ours if side == "server" else None)
    with pytest.raises(errors.TransportError, match="payment"):
        await call(make("orders", ours if side == "caller" else None))
    assert await call(make("orders", ours if side == "server" else None)) == PaymentCharged(ORDER)


# --- the settings


def test_the_three_files_are_all_given_or_none(ours: Tls) -> None:
    assert Config(tls_certificate="", tls_key="", tls_ca="").tls is None
    given = Config(tls_certificate=ours.certificate, tls_key=ours.key, tls_ca=ours.authority)
    assert given.tls == ours
    with pytest.raises(ValueError, match="LAB_TLS_KEY, LAB_TLS_CA must be set too"):
        _ = Config(tls_certificate=ours.certificate).tls


def test_a_file_that_cannot_be_used_is_named(ours: Tls, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ValueError, match=r"LAB_TLS_\*: .*no\.pem"):
        Tls(str(tmp_path / "no.pem"), ours.key, ours.authority)
    with pytest.raises(ValueError, match=r"LAB_TLS_\*: .*nowhere"):
        Tls(ours.certificate, ours.key, str(tmp_path / "nowhere"))
