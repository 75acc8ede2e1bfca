"""Ice for Python, which is no server but a library of the services: they are shown where it lies.

Its wheels leave Linux out. There Debian 12's package fits every Python 3.11, also one that is not Debian's; it is
unpacked like the servers, and of it the services see Ice's own modules and nothing else. `python -m
lab.targets.local.ice` prints the folder that PYTHONPATH has to name.
"""

import os
import shutil
import site
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

from lab.targets.local.plan import Plan
from lab.targets.local.process import Process
from lab.targets.local.progress import quiet
from lab.targets.local.provision import Files, UnavailableError, cache, debian
from lab.targets.local.provision.tools import Job

PACKAGE = "python3-zeroc-ice"
API = "3.7."  # 3.8 has another one, and Debian 12 has not 3.8
PYTHON = (3, 11)  # which Debian 12 builds it for
WAY_OUT = 'get it with: pip install "zeroc-ice<3.8"'
MODULES = ("Ice", f"IcePy{EXTENSION_SUFFIXES[0]}")
INSTALLED = Path("/usr/lib/python3/dist-packages")
APART = "usr/lib/antiphon/python"


def provide(job: Job) -> Files:
    """The folder with Ice's modules, after a process of ours has imported them from there."""
    files = _find(job)
    folder = _python_path(files)
    try:
        said = job.run(
            [sys.executable, "-W", "ignore", "-c", "import Ice; print(Ice.stringVersion())"],
            env={"PYTHONPATH": search_path(folder)},
        )
    except UnavailableError as error:
        raise UnavailableError(f"Ice in {files.path} cannot be imported: {error}; {WAY_OUT}") from error
    if not said.startswith(API):
        raise UnavailableError(f"Ice {said.strip()} is here, whose API is not that of 3.7; {WAY_OUT}")
    return files


def processes(plan: Plan, files: Files) -> list[Process]:  # noqa: ARG001
    """None: it runs in the services."""
    return []


def environment() -> dict[str, str]:
    """What a process needs that imports Ice, once `provide` has been here."""
    folder = _python_path(_find(Job("ice", quiet)))
    return {"PYTHONPATH": search_path(folder)} if folder else {}


def search_path(folder: str) -> str:
    """PYTHONPATH with `folder` before what it names already."""
    return os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))


def _find(job: Job) -> Files:
    setting = os.environ.get("LAB_ICE")
    if setting:
        return Files(Path(setting), "LAB_ICE")
    # as a new process would look for it: this one may know of more places
    named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    known = PathFinder.find_spec("IcePy", [*named, *site.getsitepackages()])
    if known and known.origin:
        return Files(Path(known.origin).parent, "installed module")
    if (INSTALLED / MODULES[1]).exists():
        return Files(cache.entry("ice-installed", f"1 {INSTALLED} {MODULES}", _link, job), "installed package")
    if sys.version_info[:2] != PYTHON or not shutil.which("apt-get"):
        raise UnavailableError(f"Ice has no wheel for Linux, and Debian's fits Python 3.11 and needs apt; {WAY_OUT}")
    root = debian.unpacked("ice", [PACKAGE], job, fix=_settle)
    return Files(root / APART, "unpacked package", root)


def _python_path(files: Files) -> str:
    return "" if files.source == "installed module" else str(files.path)


def _link(folder: Path) -> None:
    for name in MODULES:
        (folder / name).symlink_to(INSTALLED / name)


def _settle(root: Path) -> None:
    """Put Ice's modules apart from what else came along, and its libraries where the extension looks for them.

    That is a folder two above it (its RUNPATH), a trace of the tree that it was built in. So nobody needs
    LD_LIBRARY_PATH, which a process cannot set for itself.
    """
    apart = root / APART
    apart.mkdir(parents=True)
    for name in MODULES:
        found = root / "usr/lib/python3/dist-packages" / name
        if found.exists():  # another Debian has it for another Python: then it will not import
            shutil.move(found, apart / name)
    libraries = root / "usr/lib/cpp/lib"
    libraries.mkdir(parents=True)
    for folder in (root / "usr/lib").glob("*-linux-*"):
        (libraries / folder.name).symlink_to(Path("../..", folder.name))


def main() -> None:
    """Get it and say where it is; an empty line where Python knows by itself."""
    try:
        print(_python_path(provide(Job("ice", quiet))))
    except UnavailableError as error:
        sys.exit(f"Ice: {error}")


if __name__ == "__main__":
    main()
