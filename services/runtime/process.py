"""One process: what every service has in common, from its first line to exit code 0.

Start: admin port, database, transports; each is tried again for as long as it takes, and what is missing stands in
``/readyz``. Stop, on SIGTERM or SIGINT: take nothing new, finish what is in hand, settle, flush the telemetry, exit 0
within ten seconds. The signals are ours alone (uvicorn would raise them again and lose the spans).
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
import uvloop
from fastapi import APIRouter

from services.runtime import admin, logs
from services.runtime.books import ledger_routes
from services.runtime.config import Config
from services.runtime.consumer import Consumer
from services.runtime.dead_letters import dead_letter_routes
from services.runtime.guard import Guarded
from services.runtime.leaving import faulty
from services.runtime.ledger import Ledger
from services.runtime.live import Live, follow
from services.runtime.participant import Handlers, Quote, Speaking, Worker
from services.storage.database import Database, why
from services.storage.ledger import LedgerStore
from services.storage.participant import Failures, ParticipantStore
from services.styles import STYLES, why_not
from services.styles.roles import Style
from services.telemetry.setup import Telemetry, set_up
from services.transports import MEMORY, TRANSPORTS, Broker, Rpc, Transport, Wiring
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS, Format
from services.transports.http import HttpServer
from services.transports.ports import Message, Topology

log = structlog.get_logger()

DRAIN_S = 6.0
"""For what is in hand; leaves time for settling and flushing within the ten seconds."""


@dataclass(slots=True)
class Process:
    """The parts of one service. ``network`` is what services of one process share instead of wires."""

    service: str
    config: Config
    network: Any = None
    telemetry: Telemetry = field(init=False)
    live: Live = field(init=False)
    database: Database = field(init=False)
    ledger: Ledger = field(init=False)
    rpcs: dict[str, Rpc] = field(init=False, default_factory=dict)
    brokers: dict[str, Broker] = field(init=False, default_factory=dict)
    consumers: list[Consumer] = field(init=False, default_factory=list)
    opening: dict[str, str] = field(init=False, default_factory=lambda: {"process": "starting"})
    """Why it is not ready, by part; ``process`` goes last, with ``started``, and comes back with ``stop``."""
    admin_port: int = field(init=False, default=0)
    """Where its admin port listens."""
    _tasks: set[asyncio.Task[Any]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.telemetry = set_up(self.service, otlp_endpoint=self.config.otlp_endpoint or None)
        self.live = Live(self._settings_changed)
        self.database = Database(self.config.database_url)
        self.ledger = Ledger(LedgerStore(self.database))
        wiring = Wiring(
            service=self.service,
            telemetry=self.telemetry,
            host=self.config.host,
            listen=self.config.listen,
            peers=self.config.peers,
            servers=self.config.servers,
            network=self.network,
            max_in_flight=self.config.max_in_flight,
            sqs_fifo=self.config.sqs_fifo,
            sqs_visibility_timeout_s=self.config.sqs_visibility_timeout_s,
            sqs_wait_s=self.config.sqs_wait_s,
            redis_claim_idle_s=self.config.redis_claim_idle_s,
            redis_stream_maxlen=self.config.redis_stream_maxlen,
            tls=self.config.tls,
        )
        for transport in self.transports.values():
            if transport.rpc:
                rpc = transport.connect_rpc(wiring)
                self.rpcs[transport.name] = Guarded(rpc, self.service, self.telemetry.tracer, self.live)
            if transport.broker:
                self.brokers[transport.name] = faulty(transport.connect_broker(wiring), self.service, self.live)

    @property
    def transports(self) -> dict[str, Transport]:
        """The transports that run in this process. Raises ValueError for a name that is none."""
        known = {**TRANSPORTS, MEMORY.name: MEMORY}
        unknown = [name for name in self.config.transport_names if name not in known]
        if unknown:
            raise ValueError(f"LAB_TRANSPORTS: {', '.join(unknown)} is none of {', '.join(known)}")
        return {name: known[name] for name in self.config.transport_names}

    @property
    def written(self) -> Format:
        """How this process writes its messages."""
        return FORMATS[self.config.message_format]

    def _settings_changed(self, live: Live) -> None:
        self.telemetry.shape = live["trace.shape"]

    # --- background work -------------------------------------------------------------------------------------------
    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` until it ends or the process stops. A crash of it is logged and stops the process."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("task_failed", task=task.get_coro().__qualname__, exc_info=error)  # type: ignore[union-attr]
            signal.raise_signal(signal.SIGTERM)

    def forever(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run an endless loop, and again when the database or a broker went away under it."""

        async def loop() -> None:
            while True:
                try:
                    await work()
                except asyncio.CancelledError:
                    raise
                except Exception as error:
                    log.warning("loop_restarts", loop=work.__qualname__, error=repr(error))
                    await asyncio.sleep(1)

        return self.spawn(loop())

    async def open_database(self) -> None:
        """Open the database, waiting for it as long as it takes."""
        while True:
            try:
                await self.database.open()
            except Exception as error:
                self.opening["database"] = f"database: {why(error)}"
                await asyncio.sleep(0.5)
            else:
                self.opening.pop("database", None)
                return

    def consume(self, styles: Mapping[str, Style], react: Callable[[Broker, Message], Awaitable[None]]) -> None:
        """Open every broker and subscribe, in the background, to what this service hears in ``styles``."""
        self.forever(self.ledger.forget)
        for broker in self.brokers.values():
            self.opening[broker.name] = f"{broker.name}: not connected yet"
            self.spawn(self._consume(broker, topology(styles, self.transports[broker.name]), react))

    async def _consume(
        self, broker: Broker, everything: Topology, react: Callable[[Broker, Message], Awaitable[None]]
    ) -> None:
        await broker.open(everything)
        consumer = Consumer(
            broker,
            self.service,
            lambda message: react(broker, message),
            spans=self.telemetry.messaging,
            failures=Failures(self.database),
            live=self.live,
            max_in_flight=self.config.max_in_flight,
            ledger=self.ledger,
        )
        self.consumers.append(consumer)
        for channel, groups in everything.items():
            if self.service in groups:
                self.forever(lambda channel=channel: consumer.run(channel))  # type: ignore[misc]
        self.opening.pop(broker.name, None)

    def books(self) -> APIRouter:
        """What every process tells of its messages, on its admin port."""

        def channels(broker: str) -> list[str]:
            heard = topology(STYLES, self.transports[broker])
            return [channel for channel, groups in heard.items() if self.service in groups]

        router = ledger_routes(self.ledger.store)
        router.include_router(
            dead_letter_routes(self.config, self.service, self.brokers, channels, Failures(self.database))
        )
        return router

    def started(self) -> None:
        """Everything that others may ask for now listens."""
        self.opening.pop("process", None)

    async def ready(self) -> list[str]:
        """Why this process is not ready; nothing when it is."""
        reasons = list(self.opening.values())
        if "process" in self.opening:
            return reasons
        if "database" not in self.opening:
            reasons += [reason] if (reason := await self.database.ready()) else []
        for broker in self.brokers.values():
            if broker.name not in self.opening and (reason := await broker.ready()):
                reasons.append(f"{broker.name}: {reason}")
        return reasons

    # --- stopping ----------------------------------------------------------------------------------------------------
    async def stop(self, drained: Callable[[], Awaitable[None]] | None = None) -> None:
        """Stop taking anything new, finish what is in hand, let go of everything; the telemetry comes last."""
        self.opening["process"] = "stopping"
        intake = [asyncio.create_task(rpc.drain()) for rpc in self.rpcs.values()]
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*intake, *(consumer.drained() for consumer in self.consumers))
                if drained is not None:
                    await drained()
        adapters: list[Broker | Rpc] = [*self.brokers.values(), *self.rpcs.values()]
        for adapter in adapters:
            with suppress(Exception):
                async with asyncio.timeout(2):
                    await adapter.close()
        await self.database.close()
        log.info("stopped", spans=await asyncio.to_thread(self.telemetry.flush))


def topology(styles: Mapping[str, Style], transport: Transport) -> dict[str, frozenset[str]]:
    """Every channel that ``styles`` have on ``transport``, and the groups that hear it."""
    channels: dict[str, frozenset[str]] = {}
    for style in styles.values():
        for position, port in enumerate(style.ports):
            if why_not(style, transport, position) is None:
                for channel, groups in style.topology.get(port, {}).items():
                    channels[channel] = channels.get(channel, frozenset()) | groups
    return channels


def style_of(message: Message) -> Style:
    """Whose conversation ``message`` belongs to. Raises ``Undecodable``: trying again would not make it known."""
    if message.style not in STYLES:
        raise Undecodable(f"unknown style {message.style[:60]!r}")
    style = STYLES[message.style]
    if message.reply_to and message.reply_to not in style.channels:
        raise Undecodable(f"reply-to: {message.reply_to[:60]!r} is no channel of {style.name}")
    return style


@asynccontextmanager
async def working(process: Process, router: APIRouter) -> AsyncIterator[None]:
    """The admin port (with what ``router`` adds), the settings that orders owns, and the database within the block;
    drained and stopped behind it."""
    router.include_router(process.books())
    async with AsyncExitStack() as stack:
        served = admin.serving(process.config, process.ready, process.service, process.live, router)
        process.admin_port = (await stack.enter_async_context(served)).port
        stack.push_async_callback(process.stop)
        if process.config.orders_admin_url:
            token = process.config.settings_token.get_secret_value()
            process.spawn(follow(process.live, process.config.orders_admin_url, token))
        await process.open_database()
        yield


@asynccontextmanager
async def participant(
    process: Process, handlers: Callable[[Live], Handlers], quotes: Callable[[Live], Quote] | None = None
) -> AsyncIterator[Process]:
    """A participant (or, with ``quotes``, a carrier) at work within the block; drained and stopped behind it."""
    store = ParticipantStore(process.database)
    worker = Worker(process.service, handlers(process.live), store, process.config.max_in_flight, process.live)
    quote = quotes(process.live) if quotes is not None else None

    async def react(broker: Broker, message: Message) -> None:
        style = style_of(message)
        if style.participate is not None:
            await style.participate(Speaking(worker, broker, process.written, quote), message)

    router = APIRouter()
    router.add_api_route("/effects", store.effects)
    async with working(process, router):
        for rpc in process.rpcs.values():
            await rpc.serve(process.service, worker.calls())
        process.consume(STYLES, react)
        process.started()
        yield process


def run_participant(
    service: str, handlers: Callable[[Live], Handlers], quotes: Callable[[Live], Quote] | None = None
) -> None:
    """The whole life of a participant's process."""

    async def main() -> None:
        async with participant(Process(service, Config()), handlers, quotes):
            await stopped()

    run(service, main)


def run(service: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` on uvloop and exit 0 when it ends, 1 with one line when it cannot start.

    A signal that comes while it starts, which lasts as long as its database is away, cancels it. Without a handler the
    first process of a container would not even hear SIGTERM.
    """
    logs.set_up(service)

    async def start() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await main()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, suppress(asyncio.CancelledError):
            runner.run(start())
    except (OSError, ValueError, ImportError) as error:  # ImportError: a wire's library is not there
        sys.exit(f"{service}: {error}")


async def stopped() -> None:
    """Return when the process is asked to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


__all__ = ["HttpServer", "Process", "participant", "run", "run_participant", "stopped", "style_of", "topology"]
