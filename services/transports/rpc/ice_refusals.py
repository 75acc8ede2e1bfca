"""What Ice refuses of itself: objects, facets and operations that are not there, requests that it cannot read, callers
that speak something else. It answers, or hangs up, and counts: its statistics (IceMX) are the safe way to hear of it.

A logger of ours is none (3.7.8): Ice calls it with a connection's lock in hand, on which whoever has the interpreter's
may wait for ever, and with names as the caller wrote them: one that is no UTF-8 ends the process. The names in the
statistics are those of exceptions.
"""

import asyncio
import contextlib
import contextvars
from collections import Counter
from collections.abc import Callable
from typing import Any

import Ice

PERIOD_S = 0.5
_VIEW = "Refusals"
_KINDS = {
    "Dispatch": (Ice.ProtocolException, Ice.RequestFailedException, Ice.UnknownException),
    "Connection": (Ice.ProtocolException,),
}
"""Ice's maps of metrics, and which failures in them are refusals: the others are the network's."""
PROPERTIES = {
    "Ice.Admin.Enabled": 1,
    "Ice.Admin.Facets": "Metrics",
    **{f"IceMX.Metrics.{_VIEW}.Map.{kind}.GroupBy": "none" for kind in _KINDS},
}
"""What a communicator needs to have them. Its admin object is not to be reached from outside: it has no endpoint."""


class Refusals:
    """Asks a communicator twice a second, and says ``refused(name)`` for each refusal, by its exception's name."""

    def __init__(self, communicator: Any, refused: Callable[[str], None]) -> None:
        inside = communicator.createObjectAdapter("")
        inside.activate()
        admin = communicator.createAdmin(inside, Ice.stringToIdentity(_VIEW))
        self._metrics = Ice.openModule("IceMX").MetricsAdminPrx.uncheckedCast(admin, "Metrics")
        self._refused = refused
        self._told: Counter[type[Exception]] = Counter()
        self._task = asyncio.create_task(self._watch(), context=contextvars.Context())
        self.draining = False
        """Set when objects are gone on purpose: that there is none is no refusal then."""

    def failed(self) -> None:
        """A handler failed: an ``UnknownException`` that is our own. The others are texts that are no UTF-8."""
        self._told[Ice.UnknownException] += 1

    async def close(self) -> None:
        """Tell the last ones."""
        self._task.cancel()
        with contextlib.suppress(Ice.Exception, TimeoutError):
            async with asyncio.timeout(PERIOD_S):
                await self._tell()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            with contextlib.suppress(Ice.Exception):  # then the next time
                await self._tell()

    async def _tell(self) -> None:
        total: Counter[type[Exception]] = Counter()
        for kind, refusals in _KINDS.items():
            for failures in await Ice.wrap_future(self._metrics.getMapMetricsFailuresAsync(_VIEW, kind)):
                for name, count in failures.failures.items():
                    error = getattr(Ice, name.removeprefix("::Ice::"), Ice.Exception)
                    if issubclass(error, refusals):
                        total[error] += count
        for error, fresh in (total - self._told).items():
            self._told[error] += fresh
            if not (self.draining and error is Ice.ObjectNotExistException):
                for _ in range(fresh):
                    self._refused(error.__name__)
