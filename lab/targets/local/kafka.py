"""Apache Kafka in KRaft mode, one node that is broker and controller, from Maven artifacts.

The heap and the number of threads are those of a laptop. Data outlives `kill -9`: what was acknowledged is in
the page cache, which belongs to the system and not to the process.
"""

import shlex

from lab.targets import versions
from lab.targets.local import maven
from lab.targets.local.plan import Plan
from lab.targets.local.process import Probe, Process
from lab.targets.local.provision import Files
from lab.targets.local.provision.tools import Job

CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
JVM = "-Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss512k -XX:MaxDirectMemorySize=64m"
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


def artifacts() -> maven.Artifacts:
    """Kafka, and what it logs with: without that it logs nothing."""
    return maven.Artifacts(
        name="kafka",
        title="Kafka",
        dependencies=(
            ("org.apache.kafka", "kafka_2.13", versions.version("kafka")),
            ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4"),
        ),
        main="kafka_*.jar",
        jars=46,
        size_mb=60,
        setting="LAB_KAFKA_LIBS",
    )


def provide(job: Job) -> Files:
    """The folder with Kafka's jars; `extra` names the Java that runs them."""
    return maven.provide(artifacts(), job)


def processes(plan: Plan, files: Files) -> list[Process]:
    """One process: a shell that formats the data folder at the first start and then becomes the broker."""
    config = plan.root / "kafka"
    command = (
        files.extra["java"],
        *JVM.split(),
        maven.TIDY,
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
