"""Jaeger v2, the place to explore traces: OTLP in, memory storage, span metrics for Prometheus.

An official release is found by LAB_JAEGER or on PATH and brings its web page. Without one it is built, which
takes minutes: then this module itself is the process (`python -m lab.targets.local.jaeger CONFIG`); it
builds, tells how far it is, and becomes Jaeger. Nobody waits for it, since the span store keeps all
spans for it. `--where` prints the place of a built Jaeger, for whoever fills the cache beforehand.
"""

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST, OFFSETS
from lab.targets.local.process import PROGRESS_VARIABLE, Probe, Process, Scrape
from lab.targets.local.prometheus import SCRAPE_INTERVAL_S
from lab.targets.local.provision import Files, UnavailableError, golang
from lab.targets.local.provision.tools import CancelledError, Job

# One bench is about 10,000 orders; with the trace shape `link` every hop is a trace of its own,
# a dozen or so per order. The oldest traces go first, so this holds all of one bench.
MAX_TRACES = 200_000
# The same bench is about half a million spans, of 2 KB each in Jaeger's memory.
MEMORY_LIMIT_MIB = 1536
BUCKETS = "2ms 5ms 10ms 25ms 50ms 100ms 250ms 500ms 1s 2s 5s"
CONFIG = "jaeger/jaeger.yaml"
UI_CONFIG = "jaeger/ui.json"
UI_TEMPLATE = "helm/antiphon/files/jaeger-ui.json"
"""What the page links to, for both targets; the span store's address is put in."""


def find() -> Files | None:
    """The `jaeger` program: setting, PATH, cache; None when it has to be built."""
    setting = os.environ.get("LAB_JAEGER")
    if setting:
        if not shutil.which(setting):
            raise UnavailableError(f"LAB_JAEGER names {setting}, which is no program")
        return Files(Path(setting), "LAB_JAEGER")
    on_path = shutil.which("jaeger")
    if on_path:
        return Files(Path(on_path), on_path)
    built = golang.built_jaeger()
    return Files(built, what_a_build_has()) if built.exists() else None


def what_a_build_has() -> str:
    """A built Jaeger lacks what a release brings along, unless LAB_JAEGER_UI names it."""
    ui = os.environ.get("LAB_JAEGER_UI")
    return f"built, with the page of {ui}" if ui else "built, with the API but no web page"


def processes(plan: Plan, files: Files | None) -> list[Process]:
    """One process; with no program yet, the one that builds it, which is not waited for."""
    config = str(plan.root / CONFIG)
    build = (plan.python, "-m", "lab.targets.local.jaeger", config)
    return [
        Process(
            name="jaeger",
            argv=(str(files.path), "--config", config) if files else build,
            cwd=str(plan.project),
            env={"GOMEMLIMIT": f"{MEMORY_LIMIT_MIB}MiB"},
            files={CONFIG: json.dumps(_config(plan), indent=1), UI_CONFIG: _ui(plan)},
            ports=("jaeger", *(name for name in OFFSETS if name.startswith("jaeger."))),
            ready=Probe(plan.ports["jaeger.health"], "/status"),
            scrapes=(
                Scrape("jaeger", plan.ports["jaeger.metrics"]),
                Scrape("spanmetrics", plan.ports["jaeger.spanmetrics"]),
            ),
            grace_s=30,  # a build that is stopped first removes gigabytes
            stop_rank=2,
            optional=True,
            awaited=files is not None,
        )
    ]


def _config(plan: Plan) -> dict[str, Any]:
    ports = plan.ports
    own_metrics = {"host": HOST, "port": ports["jaeger.metrics"]}
    ui = os.environ.get("LAB_JAEGER_UI")
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": ["memory_limiter", "batch"],
                    "exporters": ["jaeger_storage_exporter", "spanmetrics"],
                },
                "metrics/spanmetrics": {"receivers": ["spanmetrics"], "exporters": ["prometheus"]},
            },
            "telemetry": {
                "resource": {"service.name": "jaeger"},
                "metrics": {
                    "level": "normal",
                    "readers": [{"pull": {"exporter": {"prometheus": own_metrics}}}],
                },
                "logs": {"level": "warn"},
            },
        },
        "extensions": {
            "healthcheckv2": {"use_v2": True, "http": {"endpoint": ports.address("jaeger.health")}},
            "jaeger_query": {
                "storage": {"traces": "main", "metrics": "prometheus"},
                "http": {"endpoint": ports.address("jaeger")},
                "grpc": {"endpoint": ports.address("jaeger.query_grpc")},
                "enable_tracing": False,  # its own spans would go to whoever listens at localhost:4317
                "ui": {"config_file": str(plan.root / UI_CONFIG), **({"assets_path": ui} if ui else {})},
            },
            "jaeger_storage": {
                "backends": {"main": {"memory": {"max_traces": MAX_TRACES}}},
                "metric_backends": {
                    "prometheus": {
                        "prometheus": {
                            "endpoint": ports.url("prometheus"),
                            "normalize_calls": True,
                            "normalize_duration": True,
                        }
                    }
                },
            },
        },
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": ports.address("jaeger.otlp_grpc")},
                    "http": {"endpoint": ports.address("jaeger.otlp_http")},
                }
            }
        },
        "processors": {
            "memory_limiter": {"check_interval": "1s", "limit_mib": MEMORY_LIMIT_MIB},
            "batch": {"timeout": "200ms"},
        },
        "connectors": {
            "spanmetrics": {
                "exemplars": {"enabled": True},
                # not shorter than the scrape interval: a flush drops the exemplars of the one before
                "metrics_flush_interval": f"{SCRAPE_INTERVAL_S}s",
                "histogram": {"explicit": {"buckets": BUCKETS.split()}},
            }
        },
        "exporters": {
            "jaeger_storage_exporter": {"trace_storage": "main"},
            "prometheus": {
                "endpoint": ports.address("jaeger.spanmetrics"),
                "enable_open_metrics": True,
                "resource_to_telemetry_conversion": {"enabled": True},
            },
        },
    }


def _ui(plan: Plan) -> str:
    template = plan.project / UI_TEMPLATE
    text = template.read_text() if template.exists() else "{}"  # lab without its checkout: a page without links
    return text.replace("SPAN_STORE", plan.ports.url("span_store"))


def main() -> None:
    """Build Jaeger if need be, then become it."""
    if sys.argv[1:] == ["--where"]:
        print(golang.built_jaeger())
        return
    progress_file = Path(os.environ[PROGRESS_VARIABLE])
    cancel = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: cancel.set())

    def report(name: str, text: str, state: str = "busy") -> None:  # noqa: ARG001
        progress_file.write_text(text)

    try:
        found = find()
        program = found.path if found else golang.build_jaeger(Job("jaeger", report, cancel))
    except CancelledError:
        sys.exit("stopped")
    except (UnavailableError, OSError) as error:
        report("", f"could not be built: {error}; a release can be named with LAB_JAEGER")
        sys.exit(f"could not be built: {error}")
    progress_file.unlink(missing_ok=True)
    os.execv(program, [str(program), "--config", sys.argv[1]])  # noqa: S606


if __name__ == "__main__":
    main()
