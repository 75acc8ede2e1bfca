"""The cache: one folder per thing and per recipe, made whole or not at all, by one maker at a time."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lab.targets.local.paths import cache_root
from lab.targets.local.provision.tools import Job


def entry_path(name: str, recipe: str) -> Path:
    """Where the entry lies or would lie; another recipe means another folder."""
    return cache_root() / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def entry(name: str, recipe: str, make: Callable[[Path], None], job: Job) -> Path:
    """The folder of an entry; if it is not there, `make(folder)` fills a temporary one, which is renamed.

    What `make` leaves must not hold its own absolute path. A second maker waits for the first.
    """
    final = entry_path(name, recipe)
    if final.exists():
        return final
    root = cache_root()
    (root / "locks").mkdir(parents=True, exist_ok=True)
    with (root / "locks" / final.name).open("w") as lock:
        while not _locked(lock.fileno()):
            job.say("waiting: another lab command gets it")
            job.check()
            time.sleep(0.2)
        if final.exists():
            return final
        for left_behind in root.glob(f".{final.name}.*"):
            remove(left_behind)
        part = root / f".{final.name}.{os.getpid()}"
        part.mkdir()
        try:
            make(part)
            part.rename(final)
        finally:
            remove(part)
    return final


def remove(folder: Path) -> None:
    """Delete a tree, also one with read-only folders, as Go's module cache is."""
    if not folder.exists():
        return
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
