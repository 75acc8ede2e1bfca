"""A process that dies, as it is seen from outside, where all of the lab is one process: the handling ends right there,
nothing is settled, and the broker gives the message to somebody again."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from services.runtime import conditions
from services.runtime.process import Process


class Deaths:
    """Plays the deaths of ``processes`` and counts them. ``at_death`` is called at each, before anything else."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, processes: Iterable[Process], at_death: Callable[[], None] = lambda: None
    ) -> None:
        self.count = 0
        self._processes = list(processes)
        self._at_death = at_death
        self._given_back: set[asyncio.Task[None]] = set()
        monkeypatch.setattr(conditions, "die", self._die)

    def _die(self) -> None:
        self.count += 1
        self._at_death()
        task = asyncio.current_task()
        for process in self._processes:
            for consumer in process.consumers:
                delivery = consumer._in_hand.get(task)  # type: ignore[arg-type]
                if delivery is None or id(delivery) not in delivery.broker._unsettled:  # type: ignore[attr-defined]
                    continue
                delivery.broker.settled(delivery)  # type: ignore[attr-defined]
                back = asyncio.create_task(
                    delivery.broker.release(delivery, delivery.attempt + 1)  # type: ignore[attr-defined]
                )
                self._given_back.add(back)
                back.add_done_callback(self._given_back.discard)
        raise asyncio.CancelledError
