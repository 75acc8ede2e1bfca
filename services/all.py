"""Every service in one process over memory transports: for a laptop, the tests, a debugger.

``python -m services.all`` serves the front door on the port ``LAB_LISTEN={"http": …}`` (default 21000) and orders'
admin port; all other ports are taken where they are free. Nothing is kept: each service's database is a file in a
temporary folder that goes with the process. Spans go to ``OTEL_EXPORTER_OTLP_ENDPOINT``, if that is set.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from services import carrier, inventory, ledger, notifications, payment, shipping
from services.domain.quotes import CARRIERS
from services.orders import Orders, orders
from services.runtime.config import Config
from services.runtime.process import Process, participant, run, stopped
from services.transports import MEMORY
from services.transports.messaging.memory import Network

PARTICIPANTS = {
    "inventory": inventory.handlers,
    "payment": payment.handlers,
    "shipping": shipping.handlers,
    "notifications": notifications.handlers,
}


@asynccontextmanager
async def everything(config: Config, folder: Path) -> AsyncIterator[tuple[Orders, dict[str, Process]]]:
    """Orders, the four participants, the carriers and the ledger, sharing one memory network and orders' settings."""
    network = Network()
    async with AsyncExitStack() as stack:
        participants = {
            name: await stack.enter_async_context(
                participant(Process(name, _own(config, folder, name), network), handlers)
            )
            for name, handlers in PARTICIPANTS.items()
        }
        for name in CARRIERS:
            service = carrier.service_of(name)
            participants[service] = await stack.enter_async_context(
                participant(
                    Process(service, _own(config, folder, service), network),
                    lambda _: {},
                    lambda live, name=name: carrier.quoting(name, live),  # type: ignore[misc]
                )
            )
        books = Process("ledger", _own(config, folder, "ledger"), network)
        await stack.enter_async_context(ledger.ledger(books))
        participants[books.service] = books
        process = Process("orders", _own(config, folder, "orders"), network)
        process.live.also(*(each.live for each in participants.values()))
        yield await stack.enter_async_context(orders(process)), participants


def _own(config: Config, folder: Path, service: str) -> Config:
    return config.model_copy(
        update={
            "transports": MEMORY.name,
            "database_url": f"sqlite:///{folder / service}.sqlite",
            "admin_port": config.admin_port if service == "orders" else 0,
            "orders_admin_url": "",
        }
    )


if __name__ == "__main__":

    async def main() -> None:
        config = Config()
        config.listen.setdefault("http", 21000)
        with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:
            async with everything(config, Path(folder)):
                await stopped()

    run("all", main)
