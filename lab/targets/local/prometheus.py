"""Prometheus, with exemplar storage on, scraping every process of the target and judging the lab's alerts.

Debian's 2.42 asks for OpenMetrics by itself, which is the only format that carries exemplars.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.targets.local.plan import Plan
from lab.targets.local.ports import HOST
from lab.targets.local.process import Probe, Process, Scrape
from lab.targets.local.provision import Files, UnavailableError, debian
from lab.targets.local.provision.tools import Job

CONFIG = "prometheus/prometheus.yml"
RULES = "prometheus/rules.yaml"
BUILT_RULES = "helm/antiphon/files/rules.yaml"
"""Built from dashboards/; the chart loads the same file."""
SCRAPE_INTERVAL_S = 5
MAX_EXEMPLARS = 100_000


def provide(job: Job) -> Files:
    """The `prometheus` program."""
    setting = os.environ.get("LAB_PROMETHEUS")
    if setting:
        if not shutil.which(setting):
            raise UnavailableError(f"LAB_PROMETHEUS names {setting}, which is no program")
        return Files(Path(setting), "LAB_PROMETHEUS")
    on_path = shutil.which("prometheus")
    if on_path:
        return Files(Path(on_path), on_path)
    root = debian.unpacked("prometheus", ["prometheus"], job)
    return Files(root / "usr/bin/prometheus", "unpacked package", root)


def processes(plan: Plan, files: Files) -> list[Process]:
    """One process. It stands last in the table, since it scrapes all that stand before it."""
    argv = [
        str(files.path),
        f"--config.file={plan.root / CONFIG}",
        f"--storage.tsdb.path={plan.data('prometheus')}",
        "--storage.tsdb.retention.time=24h",
        f"--web.listen-address={plan.ports.address('prometheus')}",
        "--web.enable-remote-write-receiver",
        "--enable-feature=exemplar-storage,native-histograms",
    ]
    if files.root:
        share = files.root / "usr/share/prometheus/web"
        argv += [
            f"--web.local-assets={share}/",
            f"--web.console.templates={files.root / 'etc/prometheus/consoles'}",
            f"--web.console.libraries={files.root / 'etc/prometheus/console_libraries'}",
        ]
    own = Scrape("prometheus", plan.ports["prometheus"])
    rules = (plan.project / BUILT_RULES).read_text()
    return [
        Process(
            name="prometheus",
            argv=tuple(argv),
            cwd=str(plan.root),
            files={CONFIG: config([*plan.scrapes, own]), RULES: rules},
            ports=("prometheus",),
            ready=Probe(plan.ports["prometheus"], "/-/ready"),
            scrapes=(own,),
            stop_rank=2,
            optional=True,
        )
    ]


def config(scrapes: Sequence[Scrape]) -> str:
    """prometheus.yml: one job per name, with a target for each process that bears it. JSON is YAML, too."""
    jobs: dict[str, dict[str, Any]] = {}
    for scrape in scrapes:
        job = jobs.setdefault(
            scrape.job,
            {
                "job_name": scrape.job,
                "metrics_path": scrape.path,
                "params": {key: list(value) for key, value in scrape.params.items()},
                # figures about other processes keep the labels that they came with
                "honor_labels": scrape.job == "spanmetrics",
                "static_configs": [{"targets": []}],
            },
        )
        job["static_configs"][0]["targets"].append(f"{HOST}:{scrape.port}")
    interval = f"{SCRAPE_INTERVAL_S}s"
    document = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        # beside this file
        "rule_files": [Path(RULES).name],
        "storage": {"exemplars": {"max_exemplars": MAX_EXEMPLARS}},
        "scrape_configs": list(jobs.values()),
    }
    return json.dumps(document, indent=1) + "\n"
