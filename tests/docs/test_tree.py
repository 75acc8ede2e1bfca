"""What must not stand anywhere in the repository, and rules of the house that no other tool checks."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.tree import ROOT, files, python_files, read

REGISTRIES = re.compile(
    r"pypi\.(?:python\.)?org|pythonhosted\.org|npmjs\.(?:org|com)|(?:repo1?|central)\.maven(?:\.apache)?\.org"
    r"|(?:proxy|sum)\.golang\.org|(?:deb|security|ftp)\.debian\.org|crates\.io"
)
OF_A_MACHINE = re.compile(r"(?<![\w.*$})~])/(?:root|work|home/\w+|Users/\w+|mnt/\w+)/")
LOCKS = ["requirements/bootstrap.txt", "requirements/run.txt", "requirements/test.txt"]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def test_no_registry_is_named() -> None:
    """Where packages come from is the affair of whoever installs them."""
    found = [(path.name, match[0]) for path in files() for match in REGISTRIES.finditer(_text(path))]
    assert found == []


def test_no_path_of_one_machine() -> None:
    """A path that is right on one machine only is wrong."""
    found = [(path.name, match[0]) for path in files() for match in OF_A_MACHINE.finditer(_text(path))]
    assert found == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_pins_and_hashes(name: str) -> None:
    """No address, no option, and each package with at least one hash."""
    for entry in re.sub(r" \\\n\s+", " ", read(name)).splitlines():
        assert re.fullmatch(r"[\w.\[\],-]+==\S+( ;[^#]*?)?( --hash=sha256:[0-9a-f]{64})+", entry), entry[:80]


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", read(name), re.MULTILINE))


def test_the_tests_run_with_the_versions_that_are_run() -> None:
    """The lock for testing holds that for running."""
    run, test = _pins("requirements/run.txt"), _pins("requirements/test.txt")
    assert run.items() <= test.items()


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """A dependency that is declared and not locked is missing on the next machine: run `make lock`."""
    project = tomllib.loads(read("pyproject.toml"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}

    assert names(project["dependencies"]) <= set(_pins("requirements/run.txt"))
    assert names(project["optional-dependencies"]["test"]) <= set(_pins("requirements/test.txt"))


def test_one_module_imports_the_sdk() -> None:
    """In services, OpenTelemetry's SDK is known to `telemetry/setup.py` alone; the rest uses the API."""
    importers = {
        str(path.relative_to(ROOT))
        for path in python_files("services")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
        if name.startswith("opentelemetry.sdk")
    }
    assert importers <= {"services/telemetry/setup.py"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
