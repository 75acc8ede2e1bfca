"""Hands that break things, and mend them: on whichever target runs."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from lab.ask import get_settings, put_settings
from lab.chaos.sequence import Act
from lab.faults import is_fault
from lab.targets import LabError, Target

T = TypeVar("T")
DOWN_S = 1.0
AGAIN_S = 0.5
WITHIN_S = 120.0
"""In which a process comes back, or a setting is taken. On a cluster a broker takes half a minute."""


class Hands:
    """Does acts to ``target``, one at a time, and remembers what is to be undone."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._set: set[str] = set()
        self._touched: set[str] = set()

    def check(self) -> None:
        """Raise LabError where the lab is not well to begin with: then nothing could be said about what comes after."""
        status = self._target.status()
        ill = [f"{process.name} ({process.reason})" for process in status.processes if not process.ready]
        if ill and not status.ready:
            raise LabError(f"not everything is ready: {', '.join(ill)}: lab status")
        settings = get_settings(self._target.addresses["orders_admin"], self._target.settings_token)
        if on := [name for name in settings["values"] if is_fault(name, settings)]:
            raise LabError(f"{', '.join(on)} is on already: lab fault clear")

    def begin(self, act: Act) -> None:
        """Start it; a process that is killed is away for a moment, and is back when this returns."""
        self._touched |= {act.process} - {""}
        if act.knobs:
            self._set |= act.knobs.keys()
            self._put(act.knobs)
            return
        self._target.kill(act.process)
        time.sleep(DOWN_S)  # how long it is away is part of the act, not something to wait for
        self._bring_back([act.process])

    def end(self, act: Act) -> None:
        """Undo what ``begin`` left to be undone."""
        if act.knobs:
            self._put(dict.fromkeys(act.knobs))
            self._set -= act.knobs.keys()
        if act.knobs and act.process:
            self._bring_back([act.process])

    def heal(self) -> None:
        """Clear what was set, start what is dead; return when all is ready. Raises LabError."""
        self._bring_back(self._touched)
        if self._set:
            self._put(dict.fromkeys(self._set))
            self._set.clear()
            self._bring_back(self._touched)  # until then one may have died again
        _tried(self._well)
        self._touched.clear()

    def _well(self) -> None:
        status = self._target.status()
        if not status.ready:
            ill = [f"{each.name}: {each.reason}" for each in status.processes if not each.ready]
            raise LabError(f"not ready again: {', '.join(ill)}")

    def _put(self, values: Mapping[str, str | None]) -> None:
        """Change settings, once orders is there."""
        _tried(lambda: put_settings(self._target.addresses["orders_admin"], self._target.settings_token, values))

    def _bring_back(self, names: Iterable[str]) -> None:
        """Start those that are dead, where nobody else does, and wait until they are ready."""
        from lab.targets.local.target import LocalTarget

        wanted = set(names)

        def back() -> None:
            processes = [each for each in self._target.status().processes if each.name in wanted]
            dead = [each.name for each in processes if each.pid is None]
            if dead and isinstance(self._target, LocalTarget):
                # a JVM that was killed is a zombie before its last thread has let go of the port
                self._target.restart(*dead)
                return
            ill = [f"{each.name}: {each.reason}" for each in processes if not each.ready]
            if ill:
                raise LabError(f"not back: {', '.join(ill)}")

        _tried(back)


def _tried(work: Callable[[], T]) -> T:
    """What ``work`` gives as soon as it does. Raises its last LabError."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return work()
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_S)
