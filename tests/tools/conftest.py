"""A lab in one process over memory, as a target: real services, real admin ports, and nobody who could be killed."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from lab.targets import Status
from services.all import everything
from services.orders import Orders
from services.runtime.config import Config
from services.runtime.process import Process
from tests.services.lab import NO_WORK

TOKEN = "the-lab's-token"


class MemoryTarget:
    """What the tools need of a target."""

    settings_token = TOKEN

    def __init__(self, orders: Orders, participants: Mapping[str, Process], folder: Path) -> None:
        self.orders = orders
        self.processes = {"orders": orders.process, **participants}
        self.state_dir = folder
        self.addresses = {
            "front_door": f"http://127.0.0.1:{orders.door.port}",
            "orders_admin": f"http://127.0.0.1:{orders.process.admin_port}",
        }

    @contextmanager
    def admin_ports(self) -> Iterator[Mapping[str, str]]:
        yield {name: f"http://127.0.0.1:{process.admin_port}" for name, process in self.processes.items()}

    def status(self) -> Status:
        return Status("memory", ready=True, addresses=self.addresses, processes=[], transports={})


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[MemoryTarget]:
    config = Config(listen={"http": 0}, settings_token=SecretStr(TOKEN))
    async with everything(config, tmp_path) as (orders, participants):
        known = MemoryTarget(orders, participants, tmp_path)
        async with asyncio.timeout(10):
            for process in known.processes.values():
                while await process.ready():
                    await asyncio.sleep(0.01)
        await orders.store.put_settings(NO_WORK)
        orders.process.live.update(await orders.store.settings())
        yield known
