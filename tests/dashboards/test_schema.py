"""The boards in the eyes of the Grafana that the chart runs: its own types, read by TypeScript's compiler."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from dashboards.__main__ import BUILT
from lab.targets.local.provision import UnavailableError, cache
from lab.targets.local.provision.tools import Job
from tests.docs.tree import ROOT

TYPESCRIPT = "5.9.3"
OPTIONS = {
    "strict": True,
    "noEmit": True,
    "skipLibCheck": True,
    "module": "esnext",
    "moduleResolution": "bundler",
    "target": "es2022",
    "types": [],
}
MISTAKES = (
    ('"displayMode": "table"', '"displayMode": "tabel"'),
    ('"schemaVersion": 42', '"schemaversion": 42'),
    ('"refId": "A"', '"refid": "A"'),
    ('"showPoints": "never"', '"showPoints": true'),
    ('"type": "timeseries"', '"type": "graph"'),
    ('"refresh": 2', '"refresh": 7'),
)


@pytest.fixture(scope="session")
def compiler() -> Path:
    """A folder with the types of the pinned Grafana and the compiler, from npm's registry; kept in the lab's cache."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    grafana = yaml.safe_load((BUILT / "versions.yaml").read_text())["grafana"]["version"]
    wanted = [f"@grafana/schema@{grafana}", f"typescript@{TYPESCRIPT}"]
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]

    def install(folder: Path) -> None:
        job.run(["npm", "install", *options, "--prefix", str(folder), *wanted])

    job = Job("grafana-schema", lambda *_: None)
    try:
        return cache.entry("grafana-schema", " ".join(wanted), install, job)
    except UnavailableError as error:
        pytest.skip(f"npm did not get {' and '.join(wanted)}: {str(error)[-300:]}")


def check(compiler: Path, boards: dict[str, str]) -> dict[str, list[str]]:
    """What the compiler says of each board; nothing of those that are right."""
    with tempfile.TemporaryDirectory(prefix="antiphon-schema-") as name:
        folder = Path(name)
        (folder / "node_modules").symlink_to(compiler / "node_modules")
        (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "include": ["*.ts"]}))
        (folder / "schema.ts").write_text((ROOT / "tests/dashboards/schema.ts").read_text())
        for board, text in boards.items():
            declared = f'import type {{ Board }} from "./schema";\nexport const board: Board = {text};\n'
            (folder / f"{board}.ts").write_text(declared)
        command = ["node", compiler / "node_modules/typescript/bin/tsc", "--project", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    errors: dict[str, list[str]] = {}
    for line in (done.stdout + done.stderr).splitlines():
        if not line.startswith(" "):
            errors.setdefault(line.partition(".ts(")[0], []).append(line)
    return errors


def test_grafana_knows_every_member_of_every_board(compiler: Path) -> None:
    """No member that its types do not have, none of another type, none that is missing."""
    boards = {path.stem: path.read_text() for path in (BUILT / "dashboards").glob("*.json")}
    assert len(boards) == 5
    assert check(compiler, boards) == {}


def test_a_mistake_would_be_found(compiler: Path) -> None:
    """The compiler really reads them."""
    right = (BUILT / "dashboards/rpc.json").read_text()
    assert all(before in right for before, _ in MISTAKES)
    boards = {f"mistake{n}": right.replace(before, after, 1) for n, (before, after) in enumerate(MISTAKES)}
    assert check(compiler, boards).keys() == boards.keys()
