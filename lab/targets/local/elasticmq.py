"""ElasticMQ, which speaks SQS, from Maven artifacts, with its messages on disk.

They are in a database (H2) that by itself would write only every half second: here each answer waits until what it
says is written, so that a `kill -9` takes nothing with it. Queues are in it, too, and need no storage of their own.
"""

import json

from lab.targets import versions
from lab.targets.local import maven
from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST
from lab.targets.local.process import Probe, Process
from lab.targets.local.provision import Files
from lab.targets.local.provision.tools import Job

CONFIG = "elasticmq/elasticmq.conf"
JVM = "-Xms32m -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss512k"
# what is overwritten may be used again after a second: by default H2 keeps it for 45, and the file grows by 50 kB with
# every message
DATABASE = "WRITE_DELAY=0;RETENTION_TIME=1000"
# A queue notes a receipt in a message while another thread writes that message down. Now and then the writer so meets a
# receipt that is not there yet, dies, and comes back without knowing any queue: nothing is written from then on, and
# nothing says so (1.7.1). On one thread they take turns.
ONE_THREAD = {"executor": "thread-pool-executor", "thread-pool-executor": {"fixed-pool-size": 1}}


def artifacts() -> maven.Artifacts:
    """Its server, with all that it needs."""
    return maven.Artifacts(
        name="elasticmq",
        title="ElasticMQ",
        dependencies=(("org.elasticmq", "elasticmq-server_2.13", versions.version("elasticmq")),),
        main="elasticmq-server_*.jar",
        jars=39,
        size_mb=50,
        setting="LAB_ELASTICMQ_LIBS",
    )


def provide(job: Job) -> Files:
    """The folder with ElasticMQ's jars; `extra` names the Java that runs them."""
    return maven.provide(artifacts(), job)


def processes(plan: Plan, files: Files) -> list[Process]:
    """One process. It ends with 143 on SIGTERM, as every Java program does that nobody told otherwise."""
    env = {"CLASSPATH": f"{files.path}/*"}
    if "LD_LIBRARY_PATH" in files.extra:
        env["LD_LIBRARY_PATH"] = files.extra["LD_LIBRARY_PATH"]
    return [
        Process(
            name="elasticmq",
            argv=(
                files.extra["java"],
                *JVM.split(),
                maven.TIDY,
                f"-Djava.io.tmpdir={plan.root / 'tmp'}",
                f"-Dconfig.file={plan.root / CONFIG}",
                "org.elasticmq.server.Main",
            ),
            cwd=str(plan.root),
            env=env,
            files={CONFIG: _config(plan)},
            ports=("sqs",),
            ready=Probe(plan.ports["sqs"], "/health"),
            stop_rank=3,
        )
    ]


def _config(plan: Plan) -> str:
    """HOCON, of which JSON is a part."""
    settings = {
        "pekko.loglevel": "INFO",
        "pekko.actor.default-dispatcher": ONE_THREAD,
        "node-address": {"protocol": "http", "host": HOST, "port": plan.ports["sqs"], "context-path": ""},
        "rest-sqs": {
            "enabled": True,
            "bind-hostname": HOST,
            "bind-port": plan.ports["sqs"],
            "sqs-limits": "strict",
        },
        "messages-storage": {
            "enabled": True,
            "uri": f"jdbc:h2:file:{plan.data('elasticmq')}/elasticmq;{DATABASE}",
        },
    }
    lines = ['include classpath("application.conf")']
    lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"
