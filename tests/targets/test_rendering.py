"""What the processes are told: configuration files and environments, rendered from one plan."""

import json
from pathlib import Path

import pytest
import yaml

from lab.targets import LabError
from lab.targets.local import elasticmq, jaeger, kafka, ours, postgres, prometheus, rabbitmq, redis
from lab.targets.local.plan import Plan
from lab.targets.local.ports import FAN_OUT, HOST, LOGS, OFFSETS, Ports
from lab.targets.local.process import Process, Scrape
from lab.targets.local.provision import Files
from lab.targets.local.servers import ENTRIES, TRANSPORTS
from lab.targets.local.target import HTTP_ADDRESSES, OTHER_ADDRESSES
from services.domain.quotes import CARRIERS
from services.transports import TRANSPORTS as OFFERED
from services.transports import Port

ERLANG = {"erlang": "/cache/erlang/bin"}


@pytest.fixture
def plan():
    credentials = {
        "settings_token": "token-1",
        "rabbitmq_password": "secret-1",
        "postgres_password": "secret-2",
        "redis_password": "secret-3",
    }
    return Plan(
        Path("/state"),
        Ports(23000),
        credentials,
        transports=["rest", "grpc", "rabbitmq"],
        absent={"kafka": "no Java"},
    )


def all_processes(plan):
    files = {
        "rabbitmq": Files(Path("/cache/rabbitmq-server"), "test", extra=ERLANG),
        "kafka": Files(Path("/cache/libs"), "test", extra={"java": "/usr/bin/java"}),
        "elasticmq": Files(Path("/cache/libs"), "test", extra={"java": "/usr/bin/java"}),
        "redis": Files(Path("/cache/redis-server"), "test"),
        "postgres": Files(Path("/cache/bin"), "test"),
        "jaeger": Files(Path("/cache/jaeger"), "test"),
        "prometheus": Files(Path("/cache/prometheus"), "test"),
    }
    made = []
    for name, entry in ENTRIES.items():
        processes = entry.processes(plan, files.get(name))
        plan.scrapes += [scrape for process in processes for scrape in process.scrapes]
        made += processes
    return made


def test_each_process_has_its_own_name_and_ports(plan):
    processes = all_processes(plan)
    names = [process.name for process in processes]
    ports = [port for process in processes for port in process.ports]
    assert len(set(names)) == len(names)
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(OFFSETS)
    assert all(need in names for process in processes for need in process.needs)


def test_services_end_first_then_the_span_store_then_servers(plan):
    rank = {process.name: process.stop_rank for process in all_processes(plan)}
    assert all(rank[service] == 0 for service in ours.SERVICES)
    assert 0 < rank["spans"] < rank["jaeger"] == rank["prometheus"] < rank["rabbitmq"] == rank["kafka"]
    assert rank["epmd"] > rank["rabbitmq"]


def test_services_have_more_time_to_end_than_they_need(plan):
    """They promise to exit within 10 s of SIGTERM."""
    assert all(process.grace_s > 10 for process in all_processes(plan) if process.name in ours.SERVICES)


def test_a_process_survives_the_state_file(plan):
    for process in all_processes(plan):
        assert Process.from_json(json.loads(json.dumps(process.to_json()))) == process


def test_nothing_listens_beyond_loopback(plan):
    for process in all_processes(plan):
        told = " ".join([*process.argv, *process.env.values(), *process.files.values()])
        assert "0.0.0.0" not in told


def test_secrets_are_never_arguments(plan):
    """Arguments of a process are readable for every user of the machine."""
    for process in all_processes(plan):
        for secret in plan.credentials.values():
            assert secret not in " ".join(process.argv)


def test_addresses_name_real_ports_and_processes(plan):
    names = {process.name for process in all_processes(plan)}
    for port, process in HTTP_ADDRESSES.values():
        assert port in OFFSETS
        assert process in names
    assert set(OTHER_ADDRESSES) <= names & set(OFFSETS)
    assert {server for server in TRANSPORTS.values() if server} <= set(ENTRIES)


def test_service_environment_is_the_agreed_contract(plan):
    env = ours.service(plan, "payment").env
    assert env["LAB_HOST"] == HOST
    assert env["LAB_ADMIN_PORT"] == "23120"
    assert json.loads(env["LAB_LISTEN"]) == {"rest": 23121, "grpc": 23122}
    assert json.loads(env["LAB_PEERS"])["shipping"] == {
        "rest": "http://127.0.0.1:23131",
        "grpc": "127.0.0.1:23132",
    }
    assert env["LAB_TRANSPORTS"] == "rest,grpc,rabbitmq"
    assert json.loads(env["LAB_ABSENT"]) == {"kafka": "no Java"}
    assert env["LAB_RABBITMQ_URL"] == "amqp://lab:secret-1@127.0.0.1:23010/"
    assert env["LAB_KAFKA_BOOTSTRAP"] == "127.0.0.1:23020"
    assert env["LAB_SQS_URL"] == "http://127.0.0.1:23042"
    assert env["LAB_REDIS_URL"] == "redis://:secret-3@127.0.0.1:23041/0"
    assert env["LAB_DATABASE_URL"] == "sqlite:////state/data/payment.sqlite"
    assert env["LAB_ORDERS_ADMIN_URL"] == "http://127.0.0.1:23100"
    assert env["LAB_SETTINGS_TOKEN"] == "token-1"
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:23004"


def test_who_is_reached_by_brokers_alone_listens_nowhere(plan):
    """And knows no broker that it has no use for."""
    plan.transports += ["kafka", "sqs", "redis_streams"]
    carrier, ledger = (ours.service(plan, name) for name in ("carrier-swift", "ledger"))
    assert carrier.argv[1:] == ("-m", "services.carrier", "swift")
    assert carrier.ports == ("carrier-swift.admin",)
    assert json.loads(carrier.env["LAB_LISTEN"]) == {}
    assert carrier.env["LAB_TRANSPORTS"] == "rabbitmq,kafka,redis_streams"
    assert carrier.env["LAB_DATABASE_URL"] == "sqlite:////state/data/carrier-swift.sqlite"
    assert "LAB_SQS_URL" not in carrier.env
    assert ledger.env["LAB_TRANSPORTS"] == "kafka,redis_streams"
    assert not {"LAB_SQS_URL", "LAB_RABBITMQ_URL"} & set(ledger.env)


def test_who_speaks_what_is_what_the_transports_offer():
    """By the services' own table, which the fetching before an installation cannot import."""
    can = {port: {t.name for t in OFFERED.values() if port in t.ports} for port in (Port.FAN_OUT, Port.LOG)}
    assert set(FAN_OUT) == can[Port.FAN_OUT]
    assert set(LOGS) == can[Port.LOG]
    assert tuple(f"carrier-{name}" for name in CARRIERS) == ours.CARRIERS


def test_orders_listens_at_the_front_door_only(plan):
    assert json.loads(ours.service(plan, "orders").env["LAB_LISTEN"]) == {"http": 23000}


def test_postgres_replaces_the_files(plan):
    plan.database = "postgres"
    service = ours.service(plan, "payment")
    assert service.needs == ("postgres",)
    assert service.env["LAB_DATABASE_URL"] == "postgresql+asyncpg://lab:secret-2@127.0.0.1:23040/payment"
    server = postgres.processes(plan, Files(Path("/bin"), "test"))[0]
    assert set(ours.SERVICES) <= set(server.argv)


def test_spans_go_to_jaeger_unless_it_is_off(plan):
    assert ours.span_store(plan).env["LAB_SPANS_FORWARD"] == "http://127.0.0.1:23030"
    plan.jaeger = "off"
    assert "LAB_SPANS_FORWARD" not in ours.span_store(plan).env


def test_prometheus_scrapes_every_process(plan):
    processes = all_processes(plan)
    config = json.loads(processes[-1].files[prometheus.CONFIG])
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert {*ours.SERVICES, "spans", "rabbitmq", "rabbitmq-queues", "jaeger", "spanmetrics", "prometheus"} == set(jobs)
    assert jobs["payment"]["static_configs"] == [{"targets": ["127.0.0.1:23120"]}]
    assert jobs["rabbitmq-queues"]["params"]["family"][0] == "queue_coarse_metrics"
    assert config["storage"]["exemplars"]["max_exemplars"] > 0
    assert config["rule_files"] == ["rules.yaml"]
    assert "alert: OrdersStuck" in processes[-1].files["prometheus/rules.yaml"]
    assert "--enable-feature=exemplar-storage,native-histograms" in processes[-1].argv


def test_replicas_of_a_service_share_a_job():
    config = json.loads(prometheus.config([Scrape("payment", 1), Scrape("payment", 2)]))
    assert [job["static_configs"] for job in config["scrape_configs"]] == [
        [{"targets": ["127.0.0.1:1", "127.0.0.1:2"]}]
    ]


def test_redis_keeps_what_it_accepts(plan, monkeypatch):
    """On disk before it answers, unless that is set otherwise; and it evicts nothing."""
    config = redis.processes(plan, Files(Path("/cache/redis-server"), "test"))[0].files[redis.CONFIG].splitlines()
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction", "bind 127.0.0.1"} <= set(config)
    assert "set-proc-title no" in config, "or the mark in its environment is overwritten"
    assert "requirepass secret-3" in config
    monkeypatch.setenv("LAB_REDIS_APPENDFSYNC", "everysec")
    assert "appendfsync everysec" in redis.processes(plan, Files(Path("/r"), "test"))[0].files[redis.CONFIG]
    monkeypatch.setenv("LAB_REDIS_APPENDFSYNC", "never")
    with pytest.raises(LabError, match="LAB_REDIS_APPENDFSYNC is 'never': choose always or everysec"):
        redis.processes(plan, Files(Path("/r"), "test"))


def test_rabbitmq_has_names_and_ports_of_its_own(plan):
    """The machine's own RabbitMQ and its epmd may run beside ours."""
    epmd, broker = rabbitmq.processes(plan, Files(Path("/cache/rabbitmq-server"), "test", extra=ERLANG))
    assert epmd.argv == ("/cache/erlang/bin/epmd",)
    assert broker.needs == ("epmd",)
    assert epmd.env["ERL_EPMD_PORT"] == broker.env["ERL_EPMD_PORT"] == "23013"
    assert broker.env["RABBITMQ_NODENAME"] != "rabbit@localhost"
    config = broker.files["rabbitmq/rabbitmq.conf"].splitlines()
    assert "listeners.tcp.default = 127.0.0.1:23010" in config
    assert "default_pass = secret-1" in config
    assert "vm_memory_high_watermark.absolute = 512MiB" in config


def test_kafka_makes_no_topics_unasked(plan):
    broker = kafka.processes(plan, Files(Path("/cache/libs"), "test", extra={"java": "/usr/bin/java"}))[0]
    config = broker.files["kafka/server.properties"].splitlines()
    assert "auto.create.topics.enable=false" in config
    assert "num.partitions=3" in config
    assert "log.dirs=/state/data/kafka" in config
    assert "-Xmx256m" in broker.argv[2]


def test_elasticmq_keeps_what_it_accepts(plan):
    """Written before it answers, in a file that does not grow with every message."""
    server = elasticmq.processes(plan, Files(Path("/cache/libs"), "test", extra={"java": "/usr/bin/java"}))[0]
    first, *lines = server.files[elasticmq.CONFIG].splitlines()
    assert first == 'include classpath("application.conf")'
    settings = {name: json.loads(value) for name, value in (line.split(" = ", 1) for line in lines)}
    assert settings["messages-storage"]["enabled"] is True
    uri = "jdbc:h2:file:/state/data/elasticmq/elasticmq;WRITE_DELAY=0;RETENTION_TIME=1000"
    assert settings["messages-storage"]["uri"] == uri
    assert settings["pekko.actor.default-dispatcher"]["thread-pool-executor"] == {"fixed-pool-size": 1}
    assert settings["rest-sqs"]["sqs-limits"] == "strict"
    assert settings["rest-sqs"]["bind-port"] == settings["node-address"]["port"] == 23042
    assert server.env["CLASSPATH"] == "/cache/libs/*"
    assert "-Xmx128m" in server.argv


def test_jaeger_config_is_yaml_with_our_ports(plan, monkeypatch):
    monkeypatch.delenv("LAB_JAEGER_UI", raising=False)
    process = jaeger.processes(plan, Files(Path("/cache/jaeger"), "test"))[0]
    config = yaml.safe_load(process.files[jaeger.CONFIG])
    query = config["extensions"]["jaeger_query"]
    assert query["http"]["endpoint"] == "127.0.0.1:23001"
    assert query["ui"] == {"config_file": "/state/jaeger/ui.json"}
    assert config["extensions"]["jaeger_storage"]["backends"]["main"]["memory"]["max_traces"] >= 100_000
    assert (process.optional, process.awaited) == (True, True)


def test_jaeger_serves_the_ui_that_a_setting_names(plan, monkeypatch):
    monkeypatch.setenv("LAB_JAEGER_UI", "/ui")
    process = jaeger.processes(plan, Files(Path("/cache/jaeger"), "test"))[0]
    ui = yaml.safe_load(process.files[jaeger.CONFIG])["extensions"]["jaeger_query"]["ui"]
    assert ui == {"config_file": "/state/jaeger/ui.json", "assets_path": "/ui"}


def test_jaegers_page_links_to_the_span_store(plan):
    """The same patterns as in the chart, with this target's address."""
    process = jaeger.processes(plan, Files(Path("/cache/jaeger"), "test"))[0]
    urls = [pattern["url"] for pattern in json.loads(process.files[jaeger.UI_CONFIG])["linkPatterns"]]
    assert "http://127.0.0.1:23004/orders/#{lab.order.id}" in urls
    assert "/trace/#{lab.producer.trace_id}" in urls


def test_nobody_waits_for_a_jaeger_that_must_be_built(plan):
    process = jaeger.processes(plan, None)[0]
    assert process.argv[1:3] == ("-m", "lab.targets.local.jaeger")
    assert (process.optional, process.awaited) == (True, False)
