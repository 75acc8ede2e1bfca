"""The page about Kubernetes names what there is."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.docs.tree import read
from tests.helm.chart import CHART, PROFILES, common, helm

PAGE = read("docs/kubernetes.md")
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_every_component_is_named() -> None:
    """Each service, each backend, each profile."""
    for name in (*VALUES["services"], *VALUES["backends"], *PROFILES):
        assert f"`{name}`" in PAGE, name


def test_every_value_is_named() -> None:
    """In the generated page; what people are led through is in the written one."""
    values = read("docs/chart-values.md")
    assert all(f"`{name}" in values for name in VALUES)


def test_every_key_of_the_secret_is_named() -> None:
    """Who brings a Secret must know what to put into it."""
    names = (CHART / "templates/_names.tpl").read_text().partition('define "antiphon.secretKeys" -}}\n')[2]
    keys = names.splitlines()[0].split(",")
    assert len(keys) == 9
    assert all(f"`{key}`" in PAGE for key in keys)


@pytest.fixture(scope="module")
def chart_that_prints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart with one object more, which holds the notes: `helm template` does not show them."""
    copy = tmp_path_factory.mktemp("chart") / "antiphon"
    shutil.copytree(CHART, copy)
    (copy / "templates/printed.yaml").write_text('notes: {{ include "antiphon/templates/NOTES.txt" . | quote }}\n')
    return copy


def notes(chart: Path, *values: str) -> str:
    """What is printed after an installation."""
    arguments = ("--show-only", "templates/printed.yaml", *common(*values))
    done = helm("template", "antiphon", str(chart), "-n", "antiphon", *arguments)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["notes"]


def test_the_notes_name_every_address(chart_that_prints: Path) -> None:
    """Each node port that is open, what is elsewhere at its own address, and where passwords are."""
    text = notes(chart_that_prints)
    for number in VALUES["access"]["nodePorts"].values():
        assert f"http://127.0.0.1:{number}\n" in text
    assert "get secret antiphon -o jsonpath='{.data.grafana-password}'" in text
    text = notes(
        chart_that_prints, "access.host=10.0.0.7", "backends.prometheus.external=http://prometheus.monitoring:9090"
    )
    assert "http://10.0.0.7:30080\n" in text
    assert "http://prometheus.monitoring:9090\n" in text
    assert "30090" not in text


def test_the_notes_lead_in_where_nothing_is_open(chart_that_prints: Path) -> None:
    """A command for each, to the port numbers that links lead to."""
    text = notes(chart_that_prints, "access.type=ClusterIP")
    assert "kubectl -n antiphon port-forward svc/orders 30080:http\n" in text
    assert text.count("port-forward") == len(VALUES["access"]["nodePorts"])
