"""Redis from Debian's package, with what it acknowledged on disk.

Not to be taken for the client library of the same name: imports are absolute. It needs 7.0 or later.
"""

import os
import shutil
from pathlib import Path

from lab.targets import LabError
from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST
from lab.targets.local.process import Probe, Process
from lab.targets.local.provision import Files, UnavailableError, debian
from lab.targets.local.provision.tools import Job

CONFIG = "redis/redis.conf"
START = 'mkdir -p "$REDIS_DATA" && exec "$REDIS_SERVER" "$REDIS_CONFIG"'
SETTING = "LAB_REDIS_APPENDFSYNC"
POLICIES = ("always", "everysec")


def provide(job: Job) -> Files:
    """The `redis-server` program."""
    setting = os.environ.get("LAB_REDIS")
    if setting:
        if not shutil.which(setting):
            raise UnavailableError(f"LAB_REDIS names {setting}, which is no program")
        return Files(Path(setting), "LAB_REDIS")
    on_path = shutil.which("redis-server")
    if on_path:
        return Files(Path(on_path), on_path)
    root = debian.unpacked("redis", ["redis-server"], job)
    return Files(root / "usr/bin/redis-server", "unpacked package", root)


def processes(plan: Plan, files: Files) -> list[Process]:
    """One process: a shell that makes the data folder and becomes the server. The password is in its configuration
    alone, which nobody else may read."""
    env = {
        "REDIS_SERVER": str(files.path),
        "REDIS_CONFIG": str(plan.root / CONFIG),
        "REDIS_DATA": str(plan.data("redis")),
    }
    if files.root:
        env["LD_LIBRARY_PATH"] = debian.library_path(files.root)
    return [
        Process(
            name="redis",
            argv=("sh", "-c", START),
            cwd=str(plan.root),
            env=env,
            files={CONFIG: _config(plan)},
            ports=("redis",),
            # its port is open before it has read its log, and it answers LOADING until then
            ready=Probe(plan.ports["redis"], log_line="Ready to accept connections"),
            stop_rank=3,
        )
    ]


def _config(plan: Plan) -> str:
    appendfsync = os.environ.get(SETTING) or POLICIES[0]
    if appendfsync not in POLICIES:
        raise LabError(f"{SETTING} is {appendfsync!r}: choose {' or '.join(POLICIES)}")
    lines = {
        "bind": HOST,
        "port": plan.ports["redis"],
        "requirepass": plan.credentials["redis_password"],
        "dir": f'"{plan.data("redis")}"',
        # an answer waits until what it says is on disk; with everysec the last second before a crash may be lost
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "save": '""',
        # a full Redis refuses, which publishers hear; evicting would take away what was accepted
        "maxmemory": "128mb",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": '""',
        # a title would be written over its environment, where our mark is
        "set-proc-title": "no",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())
