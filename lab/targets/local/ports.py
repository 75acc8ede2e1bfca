"""Every port of the local target: one base, one table of names, all on loopback.

A base claims a block of 200 ports. Blocks stay below 32768, where Linux begins to hand out ports
to outgoing connections, so that no client takes a port of ours by chance.
"""

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.targets import LabError

HOST = "127.0.0.1"
DEFAULT_BASE = 21000
BLOCK = 200
LOWEST, HIGHEST = 1024, 32767
TRIED_BASES = range(22000, HIGHEST - BLOCK, BLOCK)

PARTICIPANTS = ("inventory", "payment", "shipping", "notifications")
CARRIERS = ("carrier-swift", "carrier-steady", "carrier-frugal")
SERVICES = ("orders", *PARTICIPANTS, *CARRIERS, "ledger")
MOST = 9  # processes of one participant: their number is the last digit of their admin port
RPC = ("rest", "grpc", "json_rpc", "thrift", "avro_rpc", "ice")
FAN_OUT = ("rabbitmq", "kafka", "redis_streams", "redis_pubsub")
LOGS = ("kafka", "redis_streams")

OFFSETS = {
    # what people open
    "front_door": 0,
    "jaeger": 1,
    "prometheus": 2,
    "rabbitmq.management": 3,
    "span_store": 4,
    "console": 5,
    "locust": 6,
    # servers
    "rabbitmq": 10,
    "rabbitmq.metrics": 11,
    "rabbitmq.distribution": 12,
    "epmd": 13,
    "kafka": 20,
    "kafka.controller": 21,
    "jaeger.otlp_http": 30,
    "jaeger.otlp_grpc": 31,
    "jaeger.query_grpc": 32,
    "jaeger.health": 33,
    "jaeger.metrics": 34,
    "jaeger.spanmetrics": 35,
    "postgres": 40,
    "redis": 41,
    "sqs": 42,
    # the admin ports of a participant's further processes
    **{
        f"{service}-{number}.admin": 50 + 10 * row + number
        for row, service in enumerate(PARTICIPANTS)
        for number in range(2, MOST + 1)
    },
    # ten ports for each service: its admin port, then one for each synchronous transport
    **{
        f"{service}.{what}": 100 + 10 * row + column
        for row, service in enumerate(SERVICES)
        for column, what in enumerate(("admin", *RPC))
    },
}


@dataclass(frozen=True)
class Ports:
    """The table at one base."""

    base: int = DEFAULT_BASE

    def __post_init__(self) -> None:
        if not LOWEST <= self.base <= HIGHEST - BLOCK + 1:
            raise LabError(f"port base {self.base} is out of range: choose one from {LOWEST} to {HIGHEST - BLOCK + 1}")

    def __getitem__(self, name: str) -> int:
        return self.base + OFFSETS[name]

    def address(self, name: str) -> str:
        """host:port."""
        return f"{HOST}:{self[name]}"

    def url(self, name: str) -> str:
        """http://host:port, without a slash at the end."""
        return f"http://{self.address(name)}"


def is_free(port: int) -> bool:
    """True when nothing listens on the port (connections that linger after a close do not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        return True


def holder(port: int) -> str:
    """Who listens on the port, as far as this user may know."""
    import psutil  # type: ignore[import-untyped]

    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                break
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                break
    return "a process of another user"


def check_free(ports: Ports, names: Iterable[str]) -> None:
    """Raise LabError that names the first taken port, its holder and a base that is free."""
    for name in names:
        if not is_free(ports[name]):
            other = next((base for base in TRIED_BASES if _block_is_free(base)), None)
            way_out = f", or choose other ports: lab up --port-base {other}" if other else ""
            raise LabError(f"port {ports[name]} ({name}) is taken by {holder(ports[name])}: stop it{way_out}")


@contextmanager
def free_block() -> Iterator[Ports]:
    """A block of ports that is free now, and that no other caller of this function has while it is held.

    The claim is a socket in Linux' abstract namespace: it leaves no file and ends with the process.
    """
    for base in TRIED_BASES:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0antiphon-ports-{base}")
        except OSError:
            claim.close()
            continue
        with claim:
            if _block_is_free(base):
                yield Ports(base)
                return
    raise LabError(f"no free block of {BLOCK} ports between {TRIED_BASES.start} and {HIGHEST}")


def _block_is_free(base: int) -> bool:
    return all(is_free(base + offset) for offset in OFFSETS.values())
