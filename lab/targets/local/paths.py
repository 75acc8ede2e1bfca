"""The only two places that the local target writes to: the state folder and the cache."""

import os
from pathlib import Path

import lab


def project_root() -> Path:
    """The checkout that this code runs from, or the current folder when it is installed elsewhere."""
    root = Path(lab.__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def state_dir() -> Path:
    """Data, logs, configuration and the list of running processes: `.lab/`, or `LAB_STATE_DIR`."""
    setting = os.environ.get("LAB_STATE_DIR")
    return Path(setting).absolute() if setting else project_root() / ".lab"


def cache_root() -> Path:
    """Servers that were unpacked or built: `$XDG_CACHE_HOME/antiphon`, shared by all checkouts."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".cache") / "antiphon"
