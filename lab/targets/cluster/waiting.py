"""Waiting for workloads, telling meanwhile what each is waiting for, and giving up with a reason."""

import time
from collections.abc import Collection

from lab.targets import LabError, Progress
from lab.targets.cluster.access import Api
from lab.targets.cluster.workloads import Workload, read

WAIT_S = 600.0
PATIENCE_S = 90.0
"""How long an image may be refused, or a Secret be missing, before that counts as final."""
POLL_S = 1.0


def wait(api: Api, progress: Progress, *, names: Collection[str] = (), timeout_s: float = WAIT_S) -> None:
    """Return when the named workloads, or all, are ready. Raises LabError that says which are not, and why."""
    deadline = time.monotonic() + timeout_s
    told: dict[str, str] = {}
    hopeless_since: dict[str, float] = {}
    while True:
        now = time.monotonic()
        waiting: list[Workload] = []
        for workload in read(api):
            if names and workload.name not in names:
                continue
            settled = workload.ready or not workload.replicas
            if not settled:
                waiting.append(workload)
            text = workload.reason or "ready"
            if told.get(workload.name) != text:
                told[workload.name] = text
                progress(workload.name, text, "done" if settled else "busy")
        if not waiting:
            return
        hopeless_since = {each.name: hopeless_since.get(each.name, now) for each in waiting if each.hopeless}
        if now > deadline or any(now - since > PATIENCE_S for since in hopeless_since.values()):
            for each in waiting:
                progress(each.name, each.reason, "failed")
            raise LabError("not ready: " + "; ".join(f"{each.name} ({each.reason})" for each in waiting))
        time.sleep(POLL_S)
