"""PostgreSQL from Debian's package, for the storage tests and `lab up --database postgres`.

It refuses to run as root. Root therefore runs it as another user, who keeps the right to pass through folders
that are closed to others (such as /root) where that is needed. This module is the process (`python -m
lab.targets.local.postgres DATA PORT NAMES`): it makes the data folder and the databases at the first start, then
becomes the server.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.targets import LabError
from lab.targets.local.ours import SERVICES
from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST
from lab.targets.local.process import Probe, Process
from lab.targets.local.provision import Files, UnavailableError, debian
from lab.targets.local.provision.tools import Job

VERSION = "15"
PACKAGE = f"postgresql-{VERSION}"
PROGRAMS = f"usr/lib/postgresql/{VERSION}/bin"
# One capability of root's, and that access(2) honours it: PostgreSQL asks so for its own programs.
PASS_THROUGH = (
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--securebits=+no_setuid_fixup",
)
# A lab is not a bank: what the page cache holds outlives a killed process, which is all that is asked here.
# four participants nine times and orders, each with a pool of 15 connections
SETTINGS = ("-cfsync=off", "-cmax_connections=600", "-cshared_buffers=64MB", "-cunix_socket_directories=")


def provide(job: Job) -> Files:
    """The folder with `postgres` and `initdb`."""
    setting = os.environ.get("LAB_POSTGRES")
    if setting:
        if not Path(setting, "initdb").exists():
            raise UnavailableError(f"LAB_POSTGRES names {setting}, where no initdb is")
        return Files(Path(setting), "LAB_POSTGRES")
    installed = Path("/", PROGRAMS)
    if (installed / "postgres").exists():
        return Files(installed, "installed package")
    root = debian.unpacked("postgres", [PACKAGE], job)
    return Files(root / PROGRAMS, "unpacked package", root)


def processes(plan: Plan, files: Files) -> list[Process]:
    """One process, with a database per service."""
    return [
        process(
            files,
            data=plan.data("postgres"),
            port=plan.ports["postgres"],
            password=plan.credentials["postgres_password"],
            databases=SERVICES,
            cwd=plan.project,
        )
    ]


def process(files: Files, *, data: Path, port: int, password: str, databases: Sequence[str], cwd: Path) -> Process:
    """The server as an entry of the table."""
    env = {"LAB_POSTGRES_PROGRAMS": str(files.path), "LAB_POSTGRES_PASSWORD": password}
    if files.root:
        env["LD_LIBRARY_PATH"] = debian.library_path(files.root)
    return Process(
        name="postgres",
        argv=(sys.executable, "-m", "lab.targets.local.postgres", str(data), str(port), *databases),
        cwd=str(cwd),
        env=env,
        ports=("postgres",),
        ready=Probe(port, log_line="ready to accept connections"),
        stop_rank=3,
    )


@contextmanager
def postgres(state_dir: Path, port: int, databases: Sequence[str] = ("lab",)) -> Iterator[str]:
    """A server of one's own while the block runs; gives its URL up to the database's name.

    `async with engine(url + "lab")`: for tests. Raises UnavailableError where PostgreSQL cannot be had.
    """
    from lab.targets.local.progress import quiet
    from lab.targets.local.state import State, StateDir
    from lab.targets.local.supervisor import Supervisor

    files = provide(Job("postgres", quiet))
    home = StateDir(state_dir)
    home.make()
    password = home.credentials()["postgres_password"]
    entry = process(
        files, data=home.data / "postgres", port=port, password=password, databases=databases, cwd=Path.cwd()
    )
    supervisor = Supervisor(home, tied=True)
    state = State()
    try:
        supervisor.start([entry], state, quiet)
        yield f"postgresql+asyncpg://lab:{password}@{HOST}:{port}/"
    finally:
        supervisor.stop(list(state.running), state, quiet)


def main() -> None:
    """Make the data folder and the databases that are not there yet, then become the server."""
    data, port, *databases = sys.argv[1:]
    folder = Path(data)
    programs = Path(os.environ["LAB_POSTGRES_PROGRAMS"])
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    os.chdir("/")  # the other user may not be allowed where we stand
    try:
        prefix = _unprivileged(folder, programs)
    except LabError as error:
        sys.exit(str(error))
    _create(folder, programs, prefix, databases)
    server = [
        *(*prefix, str(programs / "postgres"), "-D", data),
        *(f"-clisten_addresses={HOST}", f"-cport={port}", *SETTINGS),
    ]
    os.execvp(server[0], server)  # noqa: S606


def _create(folder: Path, programs: Path, prefix: Sequence[str], databases: Sequence[str]) -> None:
    """initdb, and the databases, which the server's single-user mode makes without being reachable. A folder of before
    gets those that came since."""
    ready = folder / "ready"
    made = ready.read_text().split() if ready.exists() else []
    if not ready.exists():
        _initialise(folder, programs, prefix)
    if missing := [name for name in databases if name not in made]:
        subprocess.run(  # noqa: S603
            [*prefix, str(programs / "postgres"), "--single", "-D", str(folder), *SETTINGS, "template1"],
            input="".join(f'CREATE DATABASE "{name}";\n' for name in missing),
            text=True,
            check=True,
        )
        ready.write_text(" ".join([*made, *missing]))


def _initialise(folder: Path, programs: Path, prefix: Sequence[str]) -> None:
    for left_behind in folder.iterdir():
        shutil.rmtree(left_behind) if left_behind.is_dir() else left_behind.unlink()
    password = folder.with_suffix(".password")
    password.touch(0o600)
    password.write_text(os.environ["LAB_POSTGRES_PASSWORD"])
    os.chown(password, folder.stat().st_uid, folder.stat().st_gid)
    try:
        subprocess.run(  # noqa: S603  (a list of arguments, no shell)
            [
                *(*prefix, str(programs / "initdb"), "-D", str(folder), "-U", "lab", "--no-sync"),
                *("-E", "UTF8", "--locale=C", "-A", "scram-sha-256", f"--pwfile={password}"),
            ],
            check=True,
        )
    finally:
        password.unlink()


def _unprivileged(folder: Path, programs: Path) -> list[str]:
    """What to put in front of a command so that it does not run as root; gives the folder to that user."""
    if os.geteuid() != 0:
        return []
    names = [entry.pw_name for entry in pwd.getpwall()]
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    can = (("-w", folder), ("-x", programs / "initdb"))
    for prefix in ([*as_user, "--"], [*as_user, *PASS_THROUGH, "--"]):
        if all(_works([*prefix, "test", how, str(what)]) for how, what in can):
            return prefix
    raise LabError(
        f"PostgreSQL does not run as root, and user {user.pw_name} cannot reach {folder} or {programs}: "
        "set LAB_STATE_DIR and XDG_CACHE_HOME to folders that others may enter, or run lab as another user"
    )


def _works(argv: Sequence[str]) -> bool:
    try:
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0  # noqa: S603
    except OSError:
        return False


if __name__ == "__main__":
    main()
