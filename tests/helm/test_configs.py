"""The files that the servers are given: the programs themselves accept them, where they are at hand."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from redis import Redis

from lab.targets import versions
from lab.targets.local import elasticmq, jaeger, kafka, prometheus, rabbitmq, redis
from lab.targets.local.paths import cache_root
from lab.targets.local.ports import free_block
from lab.targets.local.progress import quiet
from lab.targets.local.provision import debian, golang
from lab.targets.local.provision.tools import Job
from services.telemetry import conventions
from tests.helm.chart import CHART, EVERYBODY, common, environment, files, helm, of, pods, render

COLLECTOR = "/etc/otel-collector/config.yaml"
JAEGER = "/etc/jaeger/config.yaml"
JAEGER_UI = "/etc/jaeger/ui.json"
PROMETHEUS = "/etc/prometheus/prometheus.yml"
RULES = "/etc/prometheus/rules.yaml"
SAMPLING = "backends.otel-collector.settings.tailSampling.enabled=true"
WITHOUT_JAEGER = "backends.jaeger.enabled=false"
ELSEWHERE = ("backends.jaeger.external=https://jaeger.example", "backends.jaeger.externalOtlp=jaeger.example:4317")


def collector(*values: str) -> dict:
    return yaml.safe_load(files(render(*values), "otel-collector")[COLLECTOR])


def accepted(program: str | None, what: str, *arguments: str) -> None:
    """Skips with `what` to do where the program is not at hand."""
    if not program:
        pytest.skip(what)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", [(), (SAMPLING,), (WITHOUT_JAEGER,), (WITHOUT_JAEGER, SAMPLING), ELSEWHERE])
def test_the_collector_accepts_its_configuration(values: tuple[str, ...], tmp_path: Path) -> None:
    """By its own check."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(collector(*values)))
    program = os.environ.get("LAB_OTELCOL") or shutil.which("otelcol-contrib") or shutil.which("otelcol")
    accepted(program, "no collector: name an otelcol-contrib with LAB_OTELCOL", "validate", f"--config={path}")


def test_jaeger_accepts_its_configuration(tmp_path: Path) -> None:
    """By its own check."""
    path = tmp_path / "config.yaml"
    path.write_text(files(render(), "jaeger")[JAEGER])
    found = jaeger.find()
    program = str(found.path) if found else None
    accepted(program, "no Jaeger: name one with LAB_JAEGER", "validate", f"--config={path}")


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """By promtool, which may be older than the chart's Prometheus: both must do."""
    path, rules = tmp_path / "prometheus.yml", tmp_path / "rules.yaml"
    rules.write_text(files(render(), "prometheus")[RULES])
    path.write_text(files(render(), "prometheus")[PROMETHEUS].replace(RULES, str(rules)))
    unpacked = next(iter(cache_root().glob("prometheus-*/usr/bin/promtool")), None)
    program = shutil.which("promtool") or (str(unpacked) if unpacked else None)
    accepted(program, "no promtool on PATH or in the cache", "check", "config", str(path))


def test_spans_go_to_both_stores() -> None:
    """To the span store always; figures are made of all spans, whatever Jaeger gets."""
    for values in ((), (SAMPLING,), (WITHOUT_JAEGER,)):
        pipelines = collector(*values)["service"]["pipelines"]
        assert {"otlp_http/spans", "span_metrics"} <= set(pipelines["traces"]["exporters"])
        assert pipelines["traces"]["processors"] == ["memory_limiter", "batch"]
    assert "otlp_grpc/jaeger" in collector()["service"]["pipelines"]["traces"]["exporters"]
    assert collector(SAMPLING)["service"]["pipelines"]["traces/sampled"]["exporters"] == ["otlp_grpc/jaeger"]
    assert "otlp_grpc/jaeger" not in collector(WITHOUT_JAEGER)["exporters"]


def test_what_waits_for_a_store_is_tried_for_ever() -> None:
    """A store that is away loses nothing while the queue has room."""
    exporters = collector()["exporters"]
    for name in ("otlp_http/spans", "otlp_grpc/jaeger"):
        assert exporters[name]["retry_on_failure"]["max_elapsed_time"] == "0s"
        assert exporters[name]["sending_queue"] == {"sizer": "items", "queue_size": 100_000}


def test_span_metrics_are_those_of_the_local_target() -> None:
    """The same buckets, so that a dashboard fits both; and a flush that keeps the exemplars for one scrape."""
    connector = collector()["connectors"]["span_metrics"]
    assert connector["histogram"]["explicit"]["buckets"] == jaeger.BUCKETS.split()
    scrape = yaml.safe_load(files(render(), "prometheus")[PROMETHEUS])["global"]["scrape_interval"]
    assert connector["metrics_flush_interval"] == scrape


def test_jaeger_reads_the_span_metrics() -> None:
    """For its Monitor tab."""
    config = yaml.safe_load(files(render(), "jaeger")[JAEGER])
    assert config["extensions"]["jaeger_query"]["storage"] == {"traces": "main", "metrics": "prometheus"}
    backend = config["extensions"]["jaeger_storage"]["metric_backends"]["prometheus"]["prometheus"]
    assert backend["endpoint"] == "http://prometheus:9090"
    without = yaml.safe_load(files(render("backends.prometheus.enabled=false"), "jaeger")[JAEGER])
    assert without["extensions"]["jaeger_query"]["storage"] == {"traces": "main"}


def test_large_numbers_stay_numbers() -> None:
    """Helm would write a million as 1e+06."""
    text = files(render("backends.jaeger.settings.maxTraces=1000000"), "jaeger")[JAEGER]
    assert "max_traces: 1000000}" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7"])
def test_jaegers_page_leads_on(host: str) -> None:
    """From a consumer to its producer's trace, and from any span of an order to all of the order."""
    patterns = json.loads(files(render(f"access.host={host}"), "jaeger")[JAEGER_UI])["linkPatterns"]
    urls = {pattern.get("key"): pattern["url"] for pattern in patterns}
    assert urls[conventions.LAB_PRODUCER_TRACE_ID] == "/trace/#{lab.producer.trace_id}"
    assert urls[conventions.LAB_ORDER_ID] == f"http://{host}:30082/orders/#{{lab.order.id}}"


def test_jaegers_links_are_routes_of_the_span_store(tmp_path: Path) -> None:
    """What a person clicks on answers."""
    from lab.spans.app import build
    from lab.spans.settings import Settings

    routes = {route.path for route in build(Settings(database=tmp_path / "spans")).routes}
    template = json.loads((CHART / "files/jaeger-ui.json").read_text())
    paths = [p["url"].removeprefix("SPAN_STORE") for p in template["linkPatterns"] if "SPAN_STORE" in p["url"]]
    assert paths
    names = {"#{lab.order.id}": "{order_id}", "#{traceID}": "{trace_id}"}
    for path in paths:
        assert re.sub(r"#\{.*\}", lambda found: names[found[0]], path) in routes


def test_prometheus_has_the_jobs_of_the_local_target() -> None:
    """Dashboards and rules ask by job."""
    config = yaml.safe_load(files(render(), "prometheus")[PROMETHEUS])
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    local = {"spans", "rabbitmq", "rabbitmq-queues", "jaeger", "spanmetrics", "prometheus"}
    assert set(jobs) == {*EVERYBODY, *local, "otel-collector", "grafana"}
    assert jobs["payment"]["dns_sd_configs"][0]["names"] == ["payment-pods"]
    assert jobs["rabbitmq-queues"]["params"] == {"family": list(rabbitmq.DETAILS)}
    assert [name for name, job in jobs.items() if job.get("honor_labels")] == ["spanmetrics"]
    assert config["global"]["scrape_interval"] == f"{prometheus.SCRAPE_INTERVAL_S}s"
    assert config["storage"]["exemplars"]["max_exemplars"] == prometheus.MAX_EXEMPLARS


def test_the_scraped_ports_are_there() -> None:
    """Each address is a Service's, with that port."""
    objects = render()
    services = of(objects, "Service")
    for job in yaml.safe_load(files(objects, "prometheus")[PROMETHEUS])["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            spec = services[found["names"][0]]["spec"]
            assert spec["clusterIP"] == "None"
            assert spec["ports"][0]["port"] == found["port"]
        for group in job.get("static_configs", []):
            name, _, port = group["targets"][0].partition(":")
            assert int(port) in [each["port"] for each in services[name]["spec"]["ports"]]


def test_rules_are_mounted_as_they_are() -> None:
    """Their own templates are Prometheus', not Helm's."""
    path = CHART / "files/rules.yaml"
    expected = path.read_text() if path.exists() else "groups: []\n"
    assert files(render(), "prometheus")[RULES] == expected


def test_grafanas_datasources() -> None:
    """Under the names that the dashboards use, with the way from an exemplar to its trace."""
    provisioned = yaml.safe_load(files(render(), "grafana")["/etc/grafana/provisioning/datasources/antiphon.yaml"])
    sources = {each["uid"]: each for each in provisioned["datasources"]}
    assert provisioned["apiVersion"] == 1
    assert set(sources) == {"prometheus", "jaeger"}
    assert sources["prometheus"]["url"] == "http://prometheus:9090"
    assert sources["jaeger"]["url"] == "http://jaeger:16686"
    assert [each["uid"] for each in sources.values() if each.get("isDefault")] == ["prometheus"]
    way = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert way == [{"name": "trace_id", "datasourceUid": "jaeger"}]


def test_grafanas_dashboards() -> None:
    """Each file is a ConfigMap, all are mounted where the provider looks, and nobody edits them by hand."""
    objects = render()
    provider = yaml.safe_load(files(objects, "grafana")["/etc/grafana/provisioning/dashboards/antiphon.yaml"])
    (only,) = provider["providers"]
    spec = pods(objects)["grafana"]
    mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
    assert only["allowUiUpdates"] is False
    assert mounts[only["options"]["path"]] == "dashboards"
    sources = sorted(path.name for path in (CHART / "files/dashboards").glob("*.json"))
    held = {key: text for each in of(objects, "ConfigMap").values() for key, text in each["data"].items()}
    assert [key for key in sorted(held) if key in sources] == sources
    for name in sources:
        assert json.loads(held[name])["uid"] == name.removesuffix(".json")
    home = environment(objects, "grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == (f"{only['options']['path']}/calls-and-events.json" if "calls-and-events.json" in sources else "")


def test_the_chart_stands_without_dashboards_and_rules(tmp_path: Path) -> None:
    """They are built elsewhere; what is not there is empty."""
    copy = tmp_path / "antiphon"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("dashboards", "rules.yaml"))
    done = helm("template", "antiphon", str(copy), "-n", "antiphon", *common())
    assert done.returncode == 0, done.stderr
    objects = tuple(yaml.safe_load_all(done.stdout))
    assert files(objects, "prometheus")[RULES] == "groups: []\n"
    assert {"name": "dashboards", "emptyDir": {}} in pods(objects)["grafana"]["volumes"]


def test_the_dashboards_links_lead_where_people_are() -> None:
    """They are built with kind's addresses; the chart puts in those of the installation."""
    built = {path.name: path.read_text() for path in (CHART / "files/dashboards").glob("*.json")}
    here = {key: text for each in of(render(), "ConfigMap").values() for key, text in each["data"].items()}
    assert {name: here[name] for name in built} == built
    objects = render("access.host=10.0.0.7")
    there = {key: text for each in of(objects, "ConfigMap").values() for key, text in each["data"].items()}
    assert all("127.0.0.1" not in there[name] for name in built)


def test_grafana_lets_nobody_in_without_a_password() -> None:
    """Nor anybody sign up."""
    env = environment(render(), "grafana")
    assert env["GF_AUTH_ANONYMOUS_ENABLED"] == env["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_rabbitmqs_preparation(tmp_path: Path) -> None:
    """The script itself, run: twice, as a restarted pod would. The user is written down, whatever stands in the
    password, and the cookie for one reader."""
    assert (
        "load_definitions = /var/lib/rabbitmq/definitions.json"
        in files(render(), "rabbitmq")["/etc/rabbitmq/rabbitmq.conf"]
    )
    script = files(render(), "rabbitmq")["/etc/rabbitmq/prepare.sh"].replace("/var/lib/rabbitmq", str(tmp_path))
    password = 'with "quotes", \\ and $dollars'
    env = {**os.environ, "RABBITMQ_USERNAME": "lab", "RABBITMQ_PASSWORD": password, "ERLANG_COOKIE": "c" * 32}
    for _ in range(2):
        subprocess.run(["sh", "-c", script], env=env, check=True)
    cookie = tmp_path / ".erlang.cookie"
    assert cookie.read_text() == "c" * 32
    assert cookie.stat().st_mode & 0o777 == 0o400
    assert json.loads((tmp_path / "definitions.json").read_text())["users"][0]["password"] == password


@pytest.mark.servers
def test_redis_starts_with_its_password_and_its_probes_hold(tmp_path: Path) -> None:
    """The script and the configuration themselves, run on a port and in a folder of the test's. Whatever stands in
    the password, it opens, for the user of that name too; it is no argument; a probe that lacks it fails."""
    program = redis.provide(Job("redis", quiet))
    tools = program.path.parent
    mounted = files(render(), "redis")
    password = 'with "quotes", \\ and $dollars'
    library_path = debian.library_path(program.root) if program.root else os.environ.get("LD_LIBRARY_PATH", "")
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "LD_LIBRARY_PATH": library_path}
    secret = {"REDIS_USERNAME": "lab", "REDIS_PASSWORD": password}
    with free_block() as ports:
        port = str(ports["redis"])
        for path, text in mounted.items():
            moved = re.sub("/etc/redis|/data", str(tmp_path), text)
            (tmp_path / Path(path).name).write_text(moved.replace("port 6379", f"bind 127.0.0.1\nport {port}"))
        container = pods(render())["redis"]["containers"][0]
        server = subprocess.Popen([*container["args"][:1], str(tmp_path / "start.sh")], env={**env, **secret})
        try:
            probe = container["readinessProbe"]["exec"]["command"]
            assert probe == container["startupProbe"]["exec"]["command"]
            probe = [probe[0], "-p", port, *probe[1:]]
            deadline = time.monotonic() + 20
            while subprocess.run(probe, env={**env, "REDISCLI_AUTH": password}, check=False).returncode:
                assert time.monotonic() < deadline, "Redis is not ready"
                time.sleep(0.05)
            assert subprocess.run(probe, env=env, check=False).returncode
            assert subprocess.run(probe, env={**env, "REDISCLI_AUTH": "wrong"}, check=False).returncode
            assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
            with Redis(port=int(port), username="lab", password=password) as client:
                assert client.config_get("appendfsync") == {"appendfsync": "always"}
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
                assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
                assert client.acl_whoami() == "lab"
        finally:
            server.terminate()
            assert server.wait(10) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"quotes" in path.read_bytes()]


def test_kafka_says_what_matters() -> None:
    """Its own translation of KAFKA_LOG4J_* loses the appender: a file of ours is used instead."""
    logging = yaml.safe_load(files(render(), "kafka")["/etc/kafka/docker/log4j2.yaml"])["Configuration"]
    assert logging["Loggers"]["Root"] == {"level": "WARN", "AppenderRef": [{"ref": "STDOUT"}]}
    assert not [name for name in environment(render(), "kafka") if "LOG4J" in name]


def test_kafkas_heap_fits_its_memory() -> None:
    """The heap is not all that Java takes."""
    for profile in ("std", "full"):
        objects = render(profile=profile)
        heap = re.search(r"-Xmx(\d+)m", environment(objects, "kafka")["KAFKA_HEAP_OPTS"])
        limit = pods(objects)["kafka"]["containers"][0]["resources"]["limits"]["memory"]
        assert heap
        assert int(heap[1]) * 2 <= int(limit.removesuffix("Mi"))


def test_elasticmq_keeps_what_it_accepts() -> None:
    """On its volume, written before the answer: the local target's own settings of the database."""
    (config,) = files(render(), "elasticmq").values()
    assert f"jdbc:h2:file:/data/elasticmq;{elasticmq.DATABASE}" in config
    assert pods(render())["elasticmq"]["containers"][0]["volumeMounts"][-1] == {"name": "data", "mountPath": "/data"}


@pytest.mark.servers
def test_elasticmq_starts_with_its_configuration_and_its_probes_hold(tmp_path: Path) -> None:
    """The file itself, run on a port and in a folder of the test's, with the options of its environment; what it has
    answered for is there again after a kill."""
    program = elasticmq.provide(Job("elasticmq", quiet))
    container = pods(render())["elasticmq"]["containers"][0]
    (text,) = files(render(), "elasticmq").values()
    path = container["readinessProbe"]["httpGet"]["path"]
    assert path == container["startupProbe"]["httpGet"]["path"]
    options = environment(render(), "elasticmq")["JAVA_TOOL_OPTIONS"]
    java = {"JAVA_TOOL_OPTIONS": options, "LD_LIBRARY_PATH": program.extra.get("LD_LIBRARY_PATH", "")}
    with free_block() as ports:
        config = tmp_path / "elasticmq.conf"
        config.write_text(text.replace("/data", str(tmp_path)).replace("9324", str(ports["sqs"])))
        command = [program.extra["java"], f"-Dconfig.file={config}", "-cp", f"{program.path}/*"]

        def ask(what: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports['sqs']}{what}", timeout=5) as answer:
                return answer.read().decode()

        for attempt in range(2):
            server = subprocess.Popen([*command, "org.elasticmq.server.Main"], env={**os.environ, **java})
            try:
                deadline = time.monotonic() + 30
                while True:
                    with contextlib.suppress(OSError):
                        ask(path)
                        break
                    assert time.monotonic() < deadline, "ElasticMQ is not ready"
                    time.sleep(0.05)
                if attempt == 0:
                    ask("/?Action=CreateQueue&QueueName=kept")
                    ask("/000000000000/kept?Action=SendMessage&MessageBody=1")
                    server.kill()
                # its queues are read when its port is open already
                while attempt and "/kept<" not in ask("/?Action=ListQueues"):
                    assert time.monotonic() < deadline, "the queue is gone"
                    time.sleep(0.05)
            finally:
                server.terminate()
                assert server.wait(10) in {-9, 143}


def test_elasticmqs_heap_fits_its_memory() -> None:
    """The heap is not all that Java takes."""
    heap = re.search(r"-Xmx(\d+)m", environment(render(), "elasticmq")["JAVA_TOOL_OPTIONS"])
    limit = pods(render())["elasticmq"]["containers"][0]["resources"]["limits"]["memory"]
    assert heap
    assert int(heap[1]) * 2 <= int(limit.removesuffix("Mi"))


def test_amazons_queues_need_keys_and_a_region() -> None:
    """They come with clientEnv, out of a Secret; ElasticMQ is then not run."""
    objects = render(
        *("secret.existing=mine", "backends.elasticmq.external=https://sqs.eu-west-1.amazonaws.com"),
        "backends.elasticmq.clientEnv.AWS_REGION=eu-west-1",
        "backends.elasticmq.clientEnv.AWS_SECRET_ACCESS_KEY.secretKey=aws-secret-access-key",
    )
    assert "elasticmq" not in pods(objects)
    env = {each["name"]: each for each in pods(objects)["payment"]["containers"][0]["env"]}
    assert env["LAB_SQS_URL"]["value"] == "https://sqs.eu-west-1.amazonaws.com"
    assert env["AWS_REGION"]["value"] == "eu-west-1"
    reference = env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "mine", "key": "aws-secret-access-key"}


def test_the_databases_are_the_services() -> None:
    """Made, where they are missing, at every start."""
    script = files(render(), "postgres")["/etc/antiphon/databases.sh"]
    assert f"'{','.join(sorted(EVERYBODY))}'" in script


def test_one_versions_file_for_both_targets() -> None:
    """Read without a YAML library on one side, and by Helm on the other."""
    table = yaml.safe_load((CHART / "files/versions.yaml").read_text())
    assert versions.table() == table
    assert set(table) == set(yaml.safe_load((CHART / "values.yaml").read_text())["backends"])
    for name, spec in pods(render()).items():
        if name in table:
            assert spec["containers"][0]["image"] == f"{table[name]['image']}:{table[name]['version']}"
    for recipe in (elasticmq, kafka):
        made = recipe.artifacts()
        assert f"<version>{table[made.name]['version']}</version>" in made.pom
    assert golang.version() == f"v{table['jaeger']['version']}"
