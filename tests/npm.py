"""Packages from npm's registry, kept in the lab's cache: what only its authors' own tools can judge."""

import shutil
from pathlib import Path

import pytest

from lab.targets.local.provision import UnavailableError, cache
from lab.targets.local.provision.tools import Job

OPTIONS = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]


def installed(name: str, *wanted: str) -> Path:
    """A folder whose ``node_modules`` holds ``wanted`` (``package@version``). Skips where npm cannot get them."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")

    def install(folder: Path) -> None:
        job.run(["npm", "install", *OPTIONS, "--prefix", str(folder), *wanted])

    job = Job(name, lambda *_: None)
    try:
        return cache.entry(name, " ".join(wanted), install, job)
    except UnavailableError as error:
        pytest.skip(f"npm did not get {' and '.join(wanted)}: {str(error)[-300:]}")
