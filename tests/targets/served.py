"""The whole lab over memory in a thread of its own, reached by real HTTP as operators reach it: for the commands."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import structlog

from tests.services.lab import NO_WORK, MemoryLab, memory_lab
from tests.services.parts import eventually

T = TypeVar("T")
TOKEN = "the-labs-token"
START_S = 30


class ServedLab:
    """``run`` has the lab's own thread do something and gives what came of it. ``run_id`` is that of the orders."""

    run_id = ""

    def __init__(self, lab: MemoryLab, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.lab = lab
        self._loop = loop
        self.ports = {process.service: f"http://127.0.0.1:{process.admin_port}" for process in lab.processes}
        self.target = SimpleNamespace(
            name="memory",
            state_dir=folder,
            settings_token=TOKEN,
            addresses={"front_door": str(lab.client.base_url).rstrip("/"), "orders_admin": self.ports["orders"]},
            admin_ports=self._admin_ports,
        )

    @contextmanager
    def _admin_ports(self) -> Iterator[dict[str, str]]:
        yield self.ports

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def place(self, body: dict[str, Any], style: str, run_id: str | None = None) -> str:
        """Place an order, of this run or another, or of none; gives its id."""
        run_id = self.run_id if run_id is None else run_id
        headers = {"baggage": f"lab.run_id={run_id}"} if run_id else {}
        answer = self.run(self.lab.place(body, style, **headers))
        assert answer.status_code in {201, 202}, answer.text
        return str(answer.json()["id"])

    def finished(self, body: dict[str, Any], style: str, run_id: str | None = None) -> str:
        """Place an order and have it end; gives its id."""
        order_id = self.place(body, style, run_id)
        assert self.state(order_id, wait_s=20) in {"completed", "rejected"}
        self.quiet()
        return order_id

    def state(self, order_id: str, wait_s: float = 0) -> str:
        answer = self.run(self.lab.client.get(f"/orders/{order_id}", params={"wait_s": wait_s}))
        return str(answer.json()["state"])

    def put(self, **values: str | None) -> None:
        """Settings, in force at once (``payment__error_rate="1"``)."""
        self.run(self.lab.put(**values))

    def quiet(self) -> None:
        """Return when no message is in any queue or in hand."""
        self.run(self.lab.spans())

    def until(self, ask: Callable[[], Any], what: str) -> Any:
        """The first true answer of ``ask``, which the lab's thread is asked."""
        return self.run(eventually(ask, what, 20))

    def clean(self, run_id: str) -> None:
        """Default settings, empty queues and a new run: as if the lab had just been started."""

        async def reset() -> None:
            settings = await self.lab.orders.store.settings()
            await self.lab.put(**{name: NO_WORK.get(name) for name in settings})
            for queue in self.network.queues.values():
                queue.clear()
            self.network.dead_letters.clear()

        self.run(reset())
        self.quiet()
        self.run_id = run_id

    @property
    def network(self) -> Any:
        return self.lab.orders.process.network


@contextmanager
def served_lab(folder: Path) -> Iterator[ServedLab]:
    """A lab with a token, served within the block."""
    ready, done = threading.Event(), threading.Event()
    found: list[ServedLab] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        async with memory_lab(folder) as lab:
            found.append(ServedLab(lab, asyncio.get_running_loop(), folder))
            ready.set()
            await asyncio.to_thread(done.wait)

    def main() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main)
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_SETTINGS_TOKEN", TOKEN)
        thread.start()
        try:
            assert ready.wait(START_S)
            assert not failed, failed
            yield found[0]
        finally:
            done.set()
            thread.join(START_S)
            structlog.configure(**logs)
    assert not failed, failed
