"""``python -m lab.spans``: serve one span store until SIGTERM or SIGINT, then stop cleanly with exit code 0."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Iterator

import structlog
import uvicorn
from pydantic import ValidationError

from lab.spans.app import build
from lab.spans.schema import StoreError
from lab.spans.settings import Settings

log = structlog.get_logger("lab.spans")


class _Server(uvicorn.Server):
    """A server that leaves the signals to its caller: uvicorn raises them again after its shutdown, so that the
    process would die of SIGTERM instead of ending with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _tune() -> None:
    """Suit the interpreter to a thread that computes (decoding) beside an event loop that must answer."""
    # after each system call the loop waits this long for the GIL; at the default 5 ms a large request takes 50
    sys.setswitchinterval(0.001)
    # what the imports made lives for ever: let the collector not walk it again; and collect less often, since a
    # payload's thousands of objects form no cycles
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _serve(settings: Settings, listener: socket.socket) -> bool:
    server = _Server(
        uvicorn.Config(
            build(settings),
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=3,
            timeout_keep_alive=60,
        )
    )

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    host, port = listener.getsockname()[:2]
    log.info(
        "span store",
        address=f"http://{host}:{port}",
        database=str(settings.database),
        forward=settings.forward,
    )
    await server.serve(sockets=[listener])
    return server.started


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # the protocol by name: else asyncio does not see that it may switch Nagle off, and answers wait 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    return listener


def main() -> int:
    """Exit code 0 after a clean stop, 1 with one line that says why when it cannot start."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    try:
        settings = Settings()
        _tune()
        with _bind(settings) as listener:
            started = asyncio.run(_serve(settings, listener))
    except ValidationError as error:
        faults = "; ".join(f"LAB_SPANS_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors())
        print(f"span store: {faults}", file=sys.stderr)
        return 1
    except (StoreError, OSError) as error:
        print(f"span store: {error}", file=sys.stderr)
        return 1
    return 0 if started else 1


if __name__ == "__main__":
    sys.exit(main())
