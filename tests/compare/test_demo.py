"""The demo's measured part, from the load to its last line, over real HTTP."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lab import demo
from lab.compare import compare
from lab.load import LoadError
from load.plan import Flow
from tests.load.front_door import front_door


def test_what_cannot_run_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its brokers the demo shows the rest."""
    monkeypatch.setattr(demo, "DEMO_FLOWS", (Flow("prompt", "memory"), Flow("slow", "absent_one")))
    console = Console(file=io.StringIO(), width=100, record=True)
    with front_door() as door:
        found = demo.load_and_compare(
            addresses={"front_door": door.address}, runs_dir=tmp_path, console=console, profile="smoke"
        )
    text = console.export_text()
    assert "left out: slow over absent_one cannot run: absent_one: absent: no server" in text
    assert "10 orders, " in text
    assert f"{tmp_path}/{found.run_id}/report.html" in text
    assert f"prompt over memory  .venv/bin/lab trace {found.flows[0].example_order_id}" in text
    again = compare(found.run_id, span_store=None, prometheus=None, runs_dir=tmp_path)
    assert again.flows == found.flows


def test_a_demo_of_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """No front door, or none of the flows."""
    with pytest.raises(LoadError, match="no front door at"):
        demo.demo_flows("http://127.0.0.1:9")
    monkeypatch.setattr(demo, "DEMO_FLOWS", (Flow("slow", "absent_one"),))
    with front_door() as door, pytest.raises(LoadError, match="none of the demo's flows can run: slow over"):
        demo.demo_flows(door.address)
