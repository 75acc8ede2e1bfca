"""Fill the cache with all servers before anything is started: `python -m lab.targets.local.fetch`.

It needs nothing but Python, so it can run while the virtual environment is still being made: the package
managers wait for the network most of the time. Whatever it cannot get, `lab up` will tell.
"""

import sys

from lab.targets.local.assembly import choose, provide
from lab.targets.local.progress import Lines
from lab.targets.local.servers import ENTRIES


def main() -> None:
    """Get the servers that `lab up` starts by default; Jaeger, which may have to be built, is left to it."""
    names = choose((), ENTRIES, jaeger="off", database="sqlite")
    try:
        with Lines() as progress:
            _, missing = provide(names, ENTRIES, progress)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
