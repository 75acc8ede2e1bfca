"""Apache Kafka in KRaft mode, one node that is broker and controller, from Maven artifacts.

The heap and the number of threads are those of a laptop. Data outlives `kill -9`: what was acknowledged is in
the page cache, which belongs to the system and not to the process.
"""

import os
import shlex
from pathlib import Path

from lab.targets import versions
from lab.targets.local import java
from lab.targets.local.plan import Plan
from lab.targets.local.process import Probe, Process
from lab.targets.local.provision import Files, UnavailableError, cache
from lab.targets.local.provision.tools import Job

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>antiphon</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
"""
GOAL = "dependency:copy-dependencies"
JARS = 46
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
JVM = "-Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss512k -XX:MaxDirectMemorySize=64m"
TIDY = "-XX:-UsePerfData"  # which would leave files outside our folders
LOGGING = """\
Configuration:
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "%d{ISO8601} %-5p %c{1} %m%n"}}}
  Loggers:
    Root: {level: WARN, AppenderRef: [{ref: STDOUT}]}
    Logger: [{name: kafka.server.KafkaRaftServer, level: INFO}]
"""
START = """\
test -f "$KAFKA_DATA/meta.properties" || $KAFKA_JAVA kafka.tools.StorageTool format -t "$KAFKA_ID" -c "$KAFKA_CONFIG" || exit
exec $KAFKA_JAVA kafka.Kafka "$KAFKA_CONFIG"
"""  # noqa: E501


def provide(job: Job) -> Files:
    """The folder with Kafka's jars; `extra` names the Java that runs them."""
    runtime = java.java(job)
    extra = {"java": str(runtime.path), **java.environment(runtime)}
    setting = os.environ.get("LAB_KAFKA_LIBS")
    if setting:
        if not any(Path(setting).glob("kafka_*.jar")):
            raise UnavailableError(f"LAB_KAFKA_LIBS names {setting}, where no kafka_*.jar is")
        return Files(Path(setting), "LAB_KAFKA_LIBS", extra=extra)
    folder = cache.entry("kafka", _pom() + GOAL, lambda folder: _fetch(folder, runtime, job), job)
    return Files(folder / "libs", f"Maven artifacts, Java from {runtime.source}", extra=extra)


def processes(plan: Plan, files: Files) -> list[Process]:
    """One process: a shell that formats the data folder at the first start and then becomes the broker."""
    config = plan.root / "kafka"
    command = (
        files.extra["java"],
        *JVM.split(),
        TIDY,
        f"-Djava.io.tmpdir={plan.root / 'tmp'}",
        f"-Dlog4j2.configurationFile={config}/log4j2.yaml",
    )
    env = {
        "KAFKA_DATA": str(plan.data("kafka")),
        "KAFKA_CONFIG": str(config / "server.properties"),
        "KAFKA_ID": CLUSTER_ID,
        "CLASSPATH": f"{files.path}/*",
    }
    if "LD_LIBRARY_PATH" in files.extra:
        env["LD_LIBRARY_PATH"] = files.extra["LD_LIBRARY_PATH"]
    return [
        Process(
            name="kafka",
            argv=("sh", "-c", START.replace("$KAFKA_JAVA", shlex.join(command))),
            cwd=str(plan.root),
            env=env,
            files={"kafka/server.properties": _config(plan), "kafka/log4j2.yaml": LOGGING},
            ports=("kafka", "kafka.controller"),
            ready=Probe(plan.ports["kafka"], log_line="Kafka Server started"),
            grace_s=20,
            stop_rank=3,
        )
    ]


def _config(plan: Plan) -> str:
    broker, controller = plan.ports.address("kafka"), plan.ports.address("kafka.controller")
    lines = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": plan.data("kafka"),
        "num.network.threads": 2,
        "num.io.threads": 2,
        "background.threads": 2,
        "num.partitions": 3,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 2,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # after a kill, the controller lets the broker in again when its old session has timed out
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        "log.segment.bytes": 16 * 1024 * 1024,
        "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
        "log.retention.hours": 6,
        "auto.create.topics.enable": "false",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _pom() -> str:
    return POM.replace("{version}", versions.version("kafka"))


def _fetch(folder: Path, runtime: Files, job: Job) -> None:
    """Let Maven copy the jars, with a local repository of our own that goes away again."""
    mvn = java.maven(job, runtime)
    pom, repository = folder / "pom.xml", folder / "repository"
    pom.write_text(_pom())
    got = 0

    def count(line: str) -> None:
        nonlocal got
        if "Downloaded" in line and ".jar" in line:
            got += 1
            job.say(f"Maven has fetched {got} jars (Kafka has {JARS}, Maven's plugins some more)")

    job.say("asking Maven for Kafka (about 60 MB)")
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
    if not any((folder / "libs").glob("kafka_*.jar")):
        raise UnavailableError("Maven ended without Kafka's jars")
    cache.remove(repository)
