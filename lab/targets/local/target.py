"""The local target as a whole: decide, get what is missing, start it, and find it again later."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.targets import Ask, LabError, ProcessStatus, Progress, Status, TargetDownError, forget, remember
from lab.targets.local import paths, prometheus
from lab.targets.local.assembly import assemble, choose, planned
from lab.targets.local.ours import CALLING, SERVICES
from lab.targets.local.plan import Plan
from lab.targets.local.ports import DEFAULT_BASE, OFFSETS, Ports, check_free
from lab.targets.local.process import Process
from lab.targets.local.progress import quiet
from lab.targets.local.servers import ENTRIES, TRANSPORTS, Entry
from lab.targets.local.state import Running, State, StateDir, marked, pss_bytes, rss_bytes
from lab.targets.local.supervisor import Supervisor

# what a person or a script may want to reach: the port's name, and the process that has to run for it
HTTP_ADDRESSES = {
    "front_door": ("front_door", "orders"),
    "orders_admin": ("orders.admin", "orders"),
    "jaeger": ("jaeger", "jaeger"),
    "jaeger_otlp_http": ("jaeger.otlp_http", "jaeger"),
    "prometheus": ("prometheus", "prometheus"),
    "span_store": ("span_store", "spans"),
    "rabbitmq_management": ("rabbitmq.management", "rabbitmq"),
    "sqs": ("sqs", "elasticmq"),
}
OTHER_ADDRESSES = ("rabbitmq", "kafka", "postgres", "redis")


class LocalTarget:
    """Processes on this machine, known by their state folder.

    `tied` (or LAB_TIED=1) is for tests: every process dies with the one that started it, however that ends.
    `entries` replaces the table of what can run.
    """

    name = "local"

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        tied: bool | None = None,
        entries: Mapping[str, Entry] | None = None,
    ) -> None:
        self._dir = StateDir(state_dir or paths.state_dir())
        self._supervisor = Supervisor(self._dir, tied=bool(os.environ.get("LAB_TIED")) if tied is None else tied)
        self._entries = ENTRIES if entries is None else entries

    @property
    def addresses(self) -> dict[str, str]:
        """URLs, and host:port where no HTTP is spoken, of what runs."""
        return _addresses(self._running())

    @property
    def settings_token(self) -> str:
        """The bearer token of orders' settings."""
        self._running()
        return self._dir.credentials()["settings_token"]

    @property
    def rabbitmq_url(self) -> str:
        """AMQP address with user and password."""
        plan = Plan(self._dir.root, Ports(self._running().port_base), self._dir.credentials())
        return plan.rabbitmq_url

    @property
    def redis_url(self) -> str:
        """Address with the password."""
        plan = Plan(self._dir.root, Ports(self._running().port_base), self._dir.credentials())
        return plan.redis_url

    @property
    def installable(self) -> list[str]:
        """Debian packages that would bring what could not be had, where unpacking them did not work."""
        return self._dir.load().installable

    @property
    def state_dir(self) -> Path:
        """Where data, logs and the list of processes are."""
        return self._dir.root

    def log_path(self, name: str) -> Path:
        """The file that holds what the named process printed."""
        path = self._dir.log(name)
        if not path.exists():
            known = sorted(log.stem for log in self._dir.logs.glob("*.log"))
            if not known:
                raise TargetDownError("no logs yet: lab up starts what writes them")
            raise LabError(unknown("log", name, known))
        return path

    def logs(self, name: str, *, lines: int = 50, follow: bool = False) -> Iterator[str]:
        """The last lines of a log, and with `follow` what comes after them, until a new run begins a new log."""
        path = self.log_path(name)
        with path.open(errors="replace") as log:
            printed = log.read().splitlines()
            yield from printed[-lines:] if lines else []
            rest = ""
            while follow:
                rest += log.read()
                *whole, rest = rest.split("\n")
                yield from whole
                if whole:
                    continue
                if not path.exists() or path.stat().st_ino != os.fstat(log.fileno()).st_ino:
                    return
                time.sleep(0.2)

    def up(
        self,
        names: Sequence[str] = (),
        *,
        port_base: int | None = None,
        jaeger: str = "auto",
        database: str = "sqlite",
        tls: bool = False,
        progress: Progress = quiet,
    ) -> Status:
        """Start the named entries of the table (all default ones if none), and wait until they are ready.

        What runs already stays as it is, unless it has to be told something new (a service, of a broker that
        came later): then it is restarted. What cannot be had is left out, with its reason in the status. If
        something does not become ready, or on Ctrl-C, all that this call started is ended again.
        """
        if sys.platform != "linux":
            raise LabError("the local target needs Linux; elsewhere use a cluster: make kind-up")
        wanted = choose(names, self._entries, jaeger=jaeger, database=database)
        ports = Ports(port_base or DEFAULT_BASE)  # a base that cannot be is refused before anything is fetched
        with self._dir.lock():
            state = self._tidied(progress)
            if state.running and port_base not in (None, state.port_base):
                raise LabError(
                    f"the lab already runs at port base {state.port_base}: run lab down first, or leave out --port-base"
                )
            if not state.running:
                state = State(port_base=ports.base, database=database)
                self._dir.rotate_logs()
            state.jaeger = jaeger
            state.tls = state.tls or tls
            state.entries = [name for name in self._entries if name in wanted or name in state.entries]
            processes = assemble(state, self._dir, self._entries, progress)
            changed = [process.name for process in processes if _told_otherwise(process, state)]
            self._supervisor.stop(changed, state, progress)
            missing = [process for process in processes if process.name not in state.running]
            check_free(Ports(state.port_base), [port for process in missing for port in process.ports])
            with self._undone_on_failure(state, [process.name for process in missing], progress):
                self._supervisor.start(missing, state, progress)
            if not any(process.name == "prometheus" for process in missing):
                self._rescrape(state)
            self._dir.save(state)
        remember(self.state_dir, self.name)
        return self.status()

    def start_jaeger(self, progress: Progress = quiet) -> Status:
        """Start Jaeger beside what runs; where it has to be built, its build begins in the background."""
        self._running()
        return self.up(["jaeger"], jaeger="build", progress=progress)

    def down(self, *, purge: bool = False, progress: Progress = quiet) -> None:
        """End all processes, if any; `purge` also removes data, logs and credentials."""
        if not self._dir.root.exists():
            return
        with self._dir.lock():
            try:
                state = self._dir.load()
            except LabError:  # unreadable: the marks still tell which processes are ours
                state = State()
            with _uninterrupted():
                self._supervisor.stop(list(state.running), state, progress)
                self._supervisor.sweep()
            self._dir.forget()
        forget(self.state_dir, self.name)
        if purge:
            shutil.rmtree(self._dir.root)

    def restart(self, *names: str, progress: Progress = quiet) -> Status:
        """Stop the named processes, and start them as they were started, dead ones too; wait until ready."""
        with self._dir.lock():
            state = self._running()
            before = {name: self._known(state, name) for name in names}
            processes = [running.process for running in before.values()]
            try:
                self._supervisor.stop(names, state, progress)
                check_free(Ports(state.port_base), [port for process in processes for port in process.ports])
                self._supervisor.start(processes, state, progress)
            finally:
                # one that could not be started stays listed, as not running
                state.running = {**before, **state.running}
                self._dir.save(state)
        return self.status()

    def scale(self, name: str, replicas: int, *, progress: Progress = quiet) -> Status:
        """Run so many processes of a participant, dead ones too, and wait until they are ready.

        They share its messages and its database; calls go to the first alone, and Redis pub/sub gives each a copy, of
        which the inbox lets one have an effect. If one does not become ready, those that this call started are ended
        again. The number holds until `lab down`.
        """
        self._check_scale(name, replicas)
        with self._dir.lock():
            state = self._running()
            if name not in state.running:
                raise LabError(f"{name} does not run: lab up {name}")
            before, count = dict(state.running), state.replicas.get(name, 1)
            state.replicas[name] = self._entries[name].most
            possible = self._entries[name].processes(planned(state, self._dir), None)
            state.replicas[name] = replicas
            wanted, surplus = possible[:replicas], possible[replicas:]
            alive = {each for each, running in before.items() if self._supervisor.is_alive(running)}
            missing = [process for process in wanted if process.name not in alive]
            self._supervisor.stop([process.name for process in (*surplus, *missing)], state, progress)
            try:
                check_free(Ports(state.port_base), [port for process in missing for port in process.ports])
                with self._undone_on_failure(state, [process.name for process in missing], progress):
                    self._supervisor.start(missing, state, progress)
            except BaseException:
                state.replicas[name] = count
                dead = {p.name: before[p.name] for p in missing if p.name in before}
                state.running = {**dead, **state.running}  # they stay listed, as not running
                raise
            finally:
                self._rescrape(state)
                self._dir.save(state)
        return self.status()

    @contextmanager
    def admin_ports(self) -> Iterator[Mapping[str, str]]:
        """The admin ports of the services that were started, be they dead by now."""
        state = self._running()
        ports = Ports(state.port_base)
        yield {name: ports.url(f"{name}.admin") for name in SERVICES if name in state.running}

    @contextmanager
    def admins(self) -> Iterator[Ask]:
        """The services' admin ports; one that is dead does not answer."""
        import httpx

        state = self._running()
        ports = Ports(state.port_base)
        addresses = {name: ports.url(f"{name}.admin") for name in state.running if f"{name}.admin" in OFFSETS}
        with httpx.Client(trust_env=False, timeout=5) as client:

            def ask_one(url: str) -> dict[str, Any] | None:
                try:
                    answer = client.get(url)
                except httpx.HTTPError:
                    return None
                return answer.json() if answer.is_success else None

            yield lambda path: {name: ask_one(address + path) for name, address in addresses.items()}

    def forward(self, say: Callable[[str], None]) -> None:
        """Refused: there is nothing to bring nearer."""
        raise LabError("the local target's addresses are on this machine already (lab status)")

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to one process; with SIGKILL, return when it is gone."""
        self._supervisor.kill(self._known(self._running(), name), signum)

    def status(self) -> Status:
        """Ask every process, now. Raises TargetDownError when none was started."""
        state = self._running()
        pids = marked(self._dir.mark)
        reasons = {name: self._supervisor.why_not_ready(running) for name, running in state.running.items()}
        processes = [
            ProcessStatus(
                name=name,
                pid=running.pid if self._supervisor.is_alive(running) else None,
                ready=not reasons[name],
                rss_bytes=rss_bytes(pids.get(name, [])),
                reason=reasons[name],
                pss_bytes=pss_bytes(pids.get(name, [])),
            )
            for name, running in state.running.items()
        ]
        return Status(
            target=self.name,
            ready=not any(reason and not state.running[name].process.optional for name, reason in reasons.items()),
            addresses=_addresses(state),
            processes=processes,
            transports={
                transport: _calls(processes) if server is None else _transport(server, state, reasons, processes)
                for transport, server in TRANSPORTS.items()
            },
            notes={**state.notes, **state.absent, **_scaled(state)},
        )

    def _running(self) -> State:
        state = self._dir.load()
        if not state.running:
            raise TargetDownError("the lab is not running: lab up starts it")
        return state

    def _check_scale(self, name: str, replicas: int) -> None:
        """Raise LabError for what cannot be several, or not so many."""
        several = [each for each, entry in self._entries.items() if entry.most > 1]
        if name not in self._entries:
            raise LabError(unknown("process", name, several))
        if name not in several:
            why = f", as {self._entries[name].why_one}" if self._entries[name].why_one else ""
            raise LabError(
                f"{name} stays one process on the local target{why}: there can be more of {', '.join(several)}"
            )
        most = self._entries[name].most
        if not 1 <= replicas <= most:
            raise LabError(f"there are ports for 1 to {most} processes of {name}, not for {replicas}")

    def _known(self, state: State, name: str) -> Running:
        if name not in state.running:
            raise LabError(unknown("process", name, state.running))
        return state.running[name]

    def _tidied(self, progress: Progress) -> State:
        """The state without what is dead; ends what is left of a run that nobody ended."""
        state = self._dir.load()
        dead = [name for name, running in state.running.items() if not self._supervisor.is_alive(running)]
        for name in dead:
            progress(name, "had ended by itself", "absent")
            del state.running[name]
            self._supervisor.sweep(name)
        if not state.running:
            self._supervisor.sweep()
        return state

    @contextmanager
    def _undone_on_failure(self, state: State, names: Sequence[str], progress: Progress) -> Iterator[None]:
        """If the block, which starts the named processes, fails or is interrupted: end them again."""
        try:
            yield
        except BaseException:
            with _uninterrupted():
                self._supervisor.stop(names, state, progress)
                for name in names:  # Ctrl-C may have come before a new pid was noted
                    self._supervisor.sweep(name)
            if not state.running:
                self._dir.forget()
            raise

    def _rescrape(self, state: State) -> None:
        """Tell a Prometheus that ran before about the processes that came and went since."""
        if "prometheus" not in state.running:
            return
        running = state.running["prometheus"]
        text = prometheus.config([scrape for each in state.running.values() for scrape in each.process.scrapes])
        running.process = replace(running.process, files={**running.process.files, prometheus.CONFIG: text})
        self._dir.write_private(self._dir.root / prometheus.CONFIG, text)
        self._supervisor.kill(running, signal.SIGHUP)


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """The line for a word that is none of the known ones."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 1)
    return f"no {what} is called {word!r}: " + (
        f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(known)
    )


def _told_otherwise(process: Process, state: State) -> bool:
    """True when it runs with other settings of ours than it would be started with now."""
    running = state.running.get(process.name)
    return running is not None and _settings(running.process) != _settings(process)


def _settings(process: Process) -> dict[str, str]:
    return {name: value for name, value in process.env.items() if name.startswith(("LAB_", "OTEL_"))}


def _scaled(state: State) -> dict[str, str]:
    return {
        name: f"{count} processes share its messages; Redis pub/sub gives each a copy, calls go to the first alone"
        for name, count in state.replicas.items()
        if count > 1
    }


def _addresses(state: State) -> dict[str, str]:
    ports = Ports(state.port_base)
    running = state.running
    return {
        **{name: ports.url(port) for name, (port, process) in HTTP_ADDRESSES.items() if process in running},
        **{name: ports.address(name) for name in OTHER_ADDRESSES if name in running},
    }


def _calls(processes: Sequence[ProcessStatus]) -> str:
    """A wire without a server is there while the services that it joins run."""
    running = {process.name for process in processes if process.pid is not None}
    away = [name for name in CALLING if name not in running]
    return f"absent: {', '.join(away)} not running" if away else "ready"


def _transport(server: str, state: State, reasons: Mapping[str, str], processes: Sequence[ProcessStatus]) -> str:
    if server in state.running:
        return reasons[server] or "ready"
    if server in state.entries and server not in state.absent:  # no process of its own: a library
        return _calls(processes)
    return f"absent: {state.absent.get(server, 'not started')}"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """While the block runs, Ctrl-C waits: it is about to leave nothing behind."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, so no Ctrl-C comes here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
