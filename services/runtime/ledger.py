"""Writing the delivery ledger: what is said while a message is handled is noted with it, in one transaction, before the
message is acknowledged. Several that end at the same time share a transaction.
"""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from services.storage.ledger import Entry, LedgerStore, entry

log = structlog.get_logger()

LOOK_EVERY_S = 600.0


@dataclass(slots=True)
class Handling:
    """What happens while one message is handled. ``known``: it had been handled before."""

    said: list[Entry] = field(default_factory=list)
    known: bool = False


_HANDLING: contextvars.ContextVar[Handling | None] = contextvars.ContextVar("handling", default=None)


def begin() -> Handling:
    """From now on, in this task, what is said belongs to one message."""
    handling = Handling()
    _HANDLING.set(handling)
    return handling


def note_said(headers: Mapping[str, str], *, broker: str, channel: str) -> None:
    """Note what a broker has taken over. Nothing happens where no message is being handled."""
    if (handling := _HANDLING.get()) is not None:
        handling.said.append(entry(headers, broker=broker, channel=channel))


def note_known() -> None:
    """Note that the message being handled was handled before, and that nothing was done again."""
    if (handling := _HANDLING.get()) is not None:
        handling.known = True


class Ledger:
    """One process's. Entries that come while a transaction is being written go into the next one together."""

    def __init__(self, store: LedgerStore) -> None:
        self.store = store
        self._waiting: list[tuple[Sequence[Entry], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def note(self, entries: Sequence[Entry]) -> None:
        """Return once ``entries`` are kept for good; raises what the database raises."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, written))
        if self._writer is None:
            # an empty context: it would inherit the span, and the handling, of whoever came first
            self._writer = asyncio.create_task(self._write(), context=contextvars.Context())
        await written

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failed: Exception | None = None
            try:
                await self.store.add([each for entries, _ in batch for each in entries])
            except Exception as error:
                failed = error
            for _, written in batch:
                if written.done():  # cancelled: nobody waits for it
                    continue
                if failed is None:
                    written.set_result(None)
                else:
                    written.set_exception(failed)
        self._writer = None

    async def forget(self) -> None:
        """Let go, for ever, of what is older than is kept."""
        while True:
            while gone := await self.store.forget():
                log.info("ledger_forgets", rows=gone)
            await asyncio.sleep(LOOK_EVERY_S)
