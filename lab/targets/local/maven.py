"""Servers that come as Maven artifacts: a folder of jars, which Maven itself copies into the cache."""

import os
from dataclasses import dataclass
from pathlib import Path

from lab.targets.local import java
from lab.targets.local.provision import Files, UnavailableError, cache
from lab.targets.local.provision.tools import Job

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>antiphon</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
</project>
"""
DEPENDENCY = """\
    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>
"""
GOAL = "dependency:copy-dependencies"
TIDY = "-XX:-UsePerfData"  # which would leave files outside our folders


@dataclass(frozen=True)
class Artifacts:
    """What is fetched: `dependencies` are group, artifact and version; `main` is the pattern of the jar that has to be
    there in the end, `jars` their number and `size_mb` their size, for people; `setting` names a folder to use
    instead."""

    name: str
    title: str
    dependencies: tuple[tuple[str, str, str], ...]
    main: str
    jars: int
    size_mb: int
    setting: str

    @property
    def pom(self) -> str:
        """The project that depends on them and on nothing else."""
        lines = "".join(DEPENDENCY.format(*each) for each in self.dependencies)
        return POM.format(name=self.name, dependencies=lines)


def provide(artifacts: Artifacts, job: Job) -> Files:
    """The folder with the jars; `extra` names the Java that runs them."""
    runtime = java.java(job)
    extra = {"java": str(runtime.path), **java.environment(runtime)}
    setting = os.environ.get(artifacts.setting)
    if setting:
        if not any(Path(setting).glob(artifacts.main)):
            raise UnavailableError(f"{artifacts.setting} names {setting}, where no {artifacts.main} is")
        return Files(Path(setting), artifacts.setting, extra=extra)
    folder = cache.entry(
        artifacts.name, artifacts.pom + GOAL, lambda folder: _fetch(artifacts, folder, runtime, job), job
    )
    return Files(folder / "libs", f"Maven artifacts, Java from {runtime.source}", extra=extra)


def _fetch(artifacts: Artifacts, folder: Path, runtime: Files, job: Job) -> None:
    """Let Maven copy the jars, with a local repository of our own that goes away again."""
    mvn = java.maven(job, runtime)
    pom, repository = folder / "pom.xml", folder / "repository"
    pom.write_text(artifacts.pom)
    title, got = artifacts.title, 0

    def count(line: str) -> None:
        nonlocal got
        if "Downloaded" in line and ".jar" in line:
            got += 1
            job.say(f"Maven has fetched {got} jars ({title} has {artifacts.jars}, Maven's plugins some more)")

    job.say(f"asking Maven for {title} (about {artifacts.size_mb} MB)")
    job.run(
        [
            *(str(mvn.path), "-B", "-f", str(pom), GOAL, "-DincludeScope=runtime"),
            *(f"-DoutputDirectory={folder / 'libs'}", f"-Dmaven.repo.local={repository}"),
        ],
        env={
            "JAVA_HOME": str(runtime.path.resolve().parents[1]),
            "MAVEN_OPTS": f"{TIDY} -Djava.io.tmpdir={folder} {os.environ.get('MAVEN_OPTS', '')}",
            **java.environment(runtime),
        },
        on_line=count,
    )
    if not any((folder / "libs").glob(artifacts.main)):
        raise UnavailableError(f"Maven ended without {title}'s jars")
    cache.remove(repository)
