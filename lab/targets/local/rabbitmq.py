"""RabbitMQ from Debian's package, with an epmd of its own.

The wrapper that Debian puts on PATH changes user and loses the environment, so the package's inner script
is called. It would start epmd as a daemon that outlives it: here epmd is a process like any other.
"""

import os
import shutil
from pathlib import Path

from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST
from lab.targets.local.process import Probe, Process, Scrape
from lab.targets.local.provision import Files, UnavailableError, debian
from lab.targets.local.provision.tools import Job

SCRIPT = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
# two schedulers and no busy waiting: idle on a laptop, the VM would burn a core otherwise
ERL_ARGS = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
DETAILS = ("queue_coarse_metrics", "queue_metrics", "queue_consumer_count")


def provide(job: Job) -> Files:
    """The broker's inner start script; `erl` and `epmd` are in the folder `extra["erlang"]`."""
    setting = os.environ.get("LAB_RABBITMQ_SERVER")
    if setting:
        if not Path(setting).is_file():
            raise UnavailableError(f"LAB_RABBITMQ_SERVER names {setting}, which is not there")
        return Files(Path(setting), "LAB_RABBITMQ_SERVER", extra={"erlang": _system_erlang()})
    installed = next(Path("/").glob(SCRIPT), None)
    if installed and shutil.which("erl"):
        return Files(installed, "installed package", extra={"erlang": _system_erlang()})
    root = debian.unpacked("rabbitmq", ["rabbitmq-server"], job, fix=_relocate)
    if " " in str(root):
        raise UnavailableError(f"RabbitMQ's scripts cannot live in {root}, whose name has a space: set XDG_CACHE_HOME")
    erlang = root / "usr/lib/erlang/bin"
    folder = str(erlang) if erlang.exists() else _system_erlang()
    return Files(next(root.glob(SCRIPT)), "unpacked package", root, extra={"erlang": folder})


def processes(plan: Plan, files: Files) -> list[Process]:
    """epmd, then the broker."""
    ports = plan.ports
    home = plan.root / "rabbitmq"
    data = str(plan.data("rabbitmq"))
    env = {
        "HOME": str(home),  # the Erlang cookie
        "PATH": f"{files.extra['erlang']}:{os.environ.get('PATH', '')}",
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": HOST,
    }
    if files.root:
        env["LD_LIBRARY_PATH"] = debian.library_path(files.root)
    epmd = Process(
        name="epmd",
        argv=(str(Path(files.extra["erlang"], "epmd")),),
        cwd=str(plan.root),
        env=env,
        ports=("epmd",),
        ready=Probe(ports["epmd"]),
        grace_s=2,
        stop_rank=4,
    )
    broker = Process(
        name="rabbitmq",
        argv=(str(files.path),),
        cwd=str(plan.root),
        ports=("rabbitmq", "rabbitmq.management", "rabbitmq.metrics", "rabbitmq.distribution"),
        needs=("epmd",),
        ready=Probe(ports["rabbitmq"]),
        scrapes=(
            Scrape("rabbitmq", ports["rabbitmq.metrics"]),
            Scrape("rabbitmq-queues", ports["rabbitmq.metrics"], "/metrics/detailed", params={"family": DETAILS}),
        ),
        grace_s=20,
        stop_rank=3,
        files={
            "rabbitmq/rabbitmq.conf": _config(plan),
            "rabbitmq/enabled_plugins": "[rabbitmq_management,rabbitmq_prometheus].\n",
        },
        env={
            **env,
            "RABBITMQ_NODENAME": "lab@localhost",
            "RABBITMQ_BASE": data,
            "RABBITMQ_MNESIA_BASE": data,
            "RABBITMQ_LOG_BASE": data,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(plan.root / "rabbitmq/rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plan.root / "rabbitmq/enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(ports["rabbitmq.distribution"]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERL_ARGS,
            # the script then becomes the VM instead of staying its parent: our pid is the broker
            "RUNNING_UNDER_SYSTEMD": "true",
        },
    )
    return [epmd, broker]


def _config(plan: Plan) -> str:
    lines = {
        "listeners.tcp.default": plan.ports.address("rabbitmq"),
        "default_user": "lab",
        "default_pass": plan.credentials["rabbitmq_password"],
        "management.tcp.ip": HOST,
        "management.tcp.port": plan.ports["rabbitmq.management"],
        "prometheus.tcp.ip": HOST,
        "prometheus.tcp.port": plan.ports["rabbitmq.metrics"],
        "log.console": "true",
        "log.file": "false",
        "vm_memory_high_watermark.absolute": "512MiB",
        "disk_free_limit.absolute": "50MB",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _system_erlang() -> str:
    erl = shutil.which("erl")
    if not erl:
        raise UnavailableError("RabbitMQ is here but Erlang is not: put erl on PATH", ["erlang-base"])
    return str(Path(erl).resolve().parent)


def _relocate(root: Path) -> None:
    """Debian's erl knows no place but /usr/lib/erlang: let it look where it lies."""
    erl = root / "usr/lib/erlang/bin/erl"
    if erl.exists():
        here = 'ROOTDIR="$(dirname "$(dirname "$(readlink -f "$0")")")"'
        erl.write_text(erl.read_text().replace("ROOTDIR=/usr/lib/erlang", here))
