"""A Java runtime and Maven: those of the machine, or Debian's unpacked into the cache."""

import os
import re
import shutil
from pathlib import Path

from lab.targets.local.provision import Files, UnavailableError, debian
from lab.targets.local.provision.tools import Job

LEAST_VERSION = 17
PACKAGES = ("openjdk-17-jre-headless", "maven", "ca-certificates")


def java(job: Job) -> Files:
    """The `java` program: LAB_JAVA, JAVA_HOME, PATH if new enough, else unpacked."""
    setting = os.environ.get("LAB_JAVA")
    if setting:
        if not shutil.which(setting):
            raise UnavailableError(f"LAB_JAVA names {setting}, which is no program")
        return Files(Path(setting), "LAB_JAVA")
    home = os.environ.get("JAVA_HOME")
    for place in (f"{home}/bin/java" if home else None, shutil.which("java")):
        if place and Path(place).exists() and _version(Path(place), job) >= LEAST_VERSION:
            return Files(Path(place), place)
    root = debian.unpacked("java", PACKAGES, job, fix=_settle)
    found = next(root.glob("usr/lib/jvm/*/bin/java"), None)
    if not found:
        raise UnavailableError(f"no Java {LEAST_VERSION}: name one with LAB_JAVA", PACKAGES[:1])
    return Files(found, "unpacked package", root)


def maven(job: Job, runtime: Files) -> Files:
    """The `mvn` program; with a Java of ours it comes from the same unpacked tree."""
    setting = os.environ.get("LAB_MAVEN") or shutil.which("mvn")
    if setting:
        return Files(Path(setting), setting)
    root = runtime.root or debian.unpacked("maven", ["maven"], job)
    return Files(root / "usr/share/maven/bin/mvn", "unpacked package", root)


def environment(runtime: Files) -> dict[str, str]:
    """What a Java program needs in its environment when the runtime is an unpacked one."""
    return {"LD_LIBRARY_PATH": debian.library_path(runtime.root)} if runtime.root else {}


def _version(program: Path, job: Job) -> int:
    """The major version, from the `release` file beside it, which is quicker than asking; 0 if unknown."""
    release = program.resolve().parents[1] / "release"
    try:
        text = release.read_text()
    except OSError:
        try:
            text = job.run([str(program), "-version"])
        except UnavailableError:
            return 0
    found = re.search(r'(?:JAVA_VERSION=|version )"(\d+)', text)
    return int(found[1]) if found else 0


def _settle(root: Path) -> None:
    """What the packages' own scripts would have done: a trust store, for Maven's downloads."""
    debian.trust_store(root)
    debian.relink(root)
