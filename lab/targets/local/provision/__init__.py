"""Finds the servers, or gets them: setting, PATH, cache, package managers, in this order.

Everything that is fetched is unpacked or built inside the cache; nothing is installed in the system,
and root is not needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


class UnavailableError(Exception):
    """A server that cannot be had here; the message says why, and which command would get it.

    `packages` are the Debian packages which that command installs, if it is one of apt.
    """

    def __init__(self, message: str, packages: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.packages = tuple(packages)


@dataclass(frozen=True)
class Files:
    """Where a server was found: `path` is what its recipe says, `source` is told to people.

    `root` is the folder that Debian packages were unpacked to, or None when the system's own are used.
    """

    path: Path
    source: str
    root: Path | None = None
    extra: dict[str, str] = field(default_factory=dict)
