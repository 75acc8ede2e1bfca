"""Orders by itself, asked on its admin port with the lab's token."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from pydantic import SecretStr

from services.orders import orders
from services.runtime.config import Config
from services.runtime.process import Process
from services.transports.messaging.memory import Network

TOKEN = "the-lab's-token"


@contextlib.asynccontextmanager
async def admin(folder: Path, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Orders at work, and a client of its admin port."""
    config = Config(
        transports="memory",
        admin_port=port,
        database_url=f"sqlite:///{folder / 'orders'}.sqlite",
        settings_token=SecretStr(TOKEN),
    )
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        orders(Process("orders", config, Network())),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, headers=headers) as client,
    ):
        yield client
