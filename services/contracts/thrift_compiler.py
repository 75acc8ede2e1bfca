"""Make Python of antiphon.thrift (``make contracts``): into ``generated/antiphon_thrift``, which is committed.

The compiler is Debian 12's. Its code is years older than the library that it runs with, which asks for no more; another
version's would differ in every file.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.targets.local.progress import quiet
from lab.targets.local.provision import Files, UnavailableError, debian
from lab.targets.local.provision.tools import Job

VERSION = "0.17.0"
IDL = Path(__file__).with_name("antiphon.thrift")
PACKAGE = Path("generated/antiphon_thrift")
"""The IDL's namespace, as a folder of ``services/contracts``."""


class CompilerMissingError(Exception):
    """``str()`` of it says why, and how to get it where that is known."""


def compiler() -> Files:
    """The program: PATH's if it is of the right version, else Debian's, unpacked into the cache. Raises
    ``CompilerMissingError``."""
    on_path = shutil.which("thrift")
    if on_path and _version(Files(Path(on_path), on_path)) == VERSION:
        return Files(Path(on_path), on_path)
    try:
        root = debian.unpacked("thrift", ["thrift-compiler"], Job("thrift", quiet))
    except UnavailableError as error:
        raise CompilerMissingError(f"no Thrift compiler {VERSION}: {error}") from error
    unpacked = Files(root / "usr/bin/thrift", "unpacked package", root)
    if (found := _version(unpacked)) != VERSION:
        raise CompilerMissingError(f"no Thrift compiler {VERSION}: this machine's packages have {found}")
    return unpacked


def generate(folder: Path) -> list[Path]:
    """Write the package below ``folder``, in place of one that is there; gives the files. Raises
    ``CompilerMissingError``."""
    program = compiler()
    into = folder / PACKAGE
    with tempfile.TemporaryDirectory() as scratch:
        said = _run(program, "-strict", "-gen", "py", "-out", scratch, str(IDL))
        if said.returncode != 0:
            raise RuntimeError(f"thrift failed: {said.stderr}")
        made = Path(scratch, "services/contracts", PACKAGE)
        for script in made.glob("*-remote"):  # a command line for each service: not ours
            script.unlink()
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(made, into)
    return sorted(into.glob("*.py"))


def _version(program: Files) -> str:
    found = re.search(r"\d+\.\d+\.\d+", _run(program, "-version").stdout)
    return found[0] if found else "one that does not run"


def _run(program: Files, *arguments: str) -> subprocess.CompletedProcess[str]:
    libraries = {"LD_LIBRARY_PATH": debian.library_path(program.root)} if program.root else {}
    argv, env = [str(program.path), *arguments], {**os.environ, **libraries}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)  # noqa: S603
