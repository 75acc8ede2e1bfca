"""README says what is there, and all of it."""

import re
import subprocess

import pytest

from tests.docs.tree import ROOT, python_files, read

README = read("README.md")
FOR_TESTS = {"LAB_TIED"}


def table_after(heading: str) -> dict[str, str]:
    """The rows of the first table whose head begins with `heading`: first cell, second cell."""
    rows = README.partition(f"\n| {heading} |")[2].splitlines()[2:]
    table = {}
    for row in rows:
        if not row.startswith("|"):
            break
        first, second = (cell.strip() for cell in row.strip("|").split("|")[:2])
        table[first.strip("`")] = second
    assert table, heading
    return table


def test_make_help_and_the_table_of_targets_agree() -> None:
    """Every target that explains itself stands in README, in the same words, and no other."""
    printed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = dict(re.findall(r"^  (make \S+) +(.*)$", printed.stdout, re.MULTILINE))
    assert table_after("make") == targets


def test_every_target_explains_itself() -> None:
    """What is declared phony is in `make help`."""
    makefile = read("Makefile")
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    assert phony == set(re.findall(r"^([a-z0-9-]+):.* ## ", makefile, re.MULTILINE))


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/reading-a-trace.md", "docs/performance.md", "docs/formats.md"]
)
def test_make_targets_that_pages_name_exist(page: str) -> None:
    """A command that is printed can be run."""
    phony = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[0].split()
    commands = re.findall(r"(?:^|&& |time )make ((?:[a-z][a-z0-9-]+\b ?)+)", _code(read(page)), re.MULTILINE)
    named = {target for targets in commands for target in targets.split()}
    assert named <= set(phony)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/reading-a-trace.md", "docs/performance.md", "docs/formats.md"]
)
def test_lab_commands_that_pages_name_exist(page: str) -> None:
    """`lab trace` in a page is a command of the tool."""
    from typer.main import get_command

    from lab.cli import app

    named = set(re.findall(r"\blab ([a-z]+)\b", _code(read(page))))
    assert named <= set(get_command(app).commands)


def _code(page: str) -> str:
    """What a page sets as code: fenced blocks of commands, and spans."""
    fenced = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([re.sub(r"#.*", "", block) for block in fenced] + spans)


def test_every_variable_is_in_the_table() -> None:
    """What the tool asks the environment for, README lists; and nothing that nobody asks for."""
    asked = {
        name
        for path in python_files("lab")
        for name in re.findall(
            r"(?:environ\.get\(|SETTING = |setting=)\"(LAB_[A-Z_]+|XDG_CACHE_HOME)\"", path.read_text()
        )
    }
    assert set(table_after("variable")) == asked - FOR_TESTS


def test_the_ports_are_those_of_the_table() -> None:
    """README's ports are the local target's."""
    from lab.targets.local.ports import Ports

    names = {
        "front door": "front_door",
        "Jaeger": "jaeger",
        "Prometheus": "prometheus",
        "RabbitMQ's management page": "rabbitmq.management",
        "span store": "span_store",
        "RabbitMQ": "rabbitmq",
        "Kafka": "kafka",
        "Redis": "redis",
        "ElasticMQ": "sqs",
    }
    stated = {text.partition(":")[0]: int(port) for port, text in table_after("port").items()}
    assert stated == {text: Ports()[name] for text, name in names.items()}


@pytest.mark.parametrize("package", ["services", "lab", "load", "benchmarks"])
def test_the_map_names_every_folder(package: str) -> None:
    """A folder of the house is on the map, and what is on the map is there."""
    assert re.search(rf"^{package}/", README, re.MULTILINE)


def test_the_map_of_the_services_is_complete() -> None:
    """Every process and every folder in services/ is on the map."""
    house = README.partition("The map:")[2].partition("```\n\n")[0]
    for path in python_files("services"):
        part = path.relative_to(ROOT / "services").parts[0]
        if part != "__init__.py":
            assert (part if part.endswith(".py") else f"{part}/") in house, part
    for name in re.findall(r"\b(\w+\.py)\b", house):
        assert (ROOT / "services" / name).exists(), name


def test_modules_that_make_runs_exist() -> None:
    """`python -m` in the Makefile names a module, or a package with a `__main__`."""
    recipes = re.sub(r"-m (?:pip|venv)\b", "", read("Makefile"))
    for name in re.findall(r"python -m ([a-z_.]+)", recipes):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
