"""Other people's programs: what is missing, what they said when they failed, and that none is left behind."""

import subprocess
import sys
import time

import pytest

from lab.targets import LabError
from lab.targets.cluster import tools
from tests.targets.fakes import Machine


def test_everything_that_is_missing_is_named_at_once_with_its_remedy(tmp_path, monkeypatch):
    Machine(tmp_path, monkeypatch, "kubectl")
    with pytest.raises(LabError) as said:
        tools.require("docker", "kind", "helm", "kubectl")
    for name in ("docker", "kind", "helm"):
        assert f"{name} was not found ({tools.REMEDIES[name]})" in str(said.value)
    assert "kubectl" not in str(said.value)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "sudo systemctl start docker"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
    ],
)
def test_an_engine_that_does_not_answer_is_named_with_its_remedy(tmp_path, monkeypatch, words, remedy):
    machine = Machine(tmp_path, monkeypatch, "docker")
    machine.answer("docker version", err=words, code=1)
    with pytest.raises(LabError, match=remedy):
        tools.require("docker")


@pytest.mark.parametrize(
    ("said", "gist"),
    [
        ("", "it said nothing"),
        ("one\ntwo\n\n", "two"),
        (
            'coalesce.go: warning\nError: values don\'t meet the specifications of the schema:\nantiphon:\n- "x" bad\n',
            'Error: values don\'t meet the specifications of the schema: antiphon: - "x" bad',
        ),
        ("ERROR: one\nERROR: two\n", "ERROR: two"),
        (
            'Error from server (NotFound): pods "x" not found\n',
            'Error from server (NotFound): pods "x" not found',
        ),
        ("Step 3/9 : RUN false\nThe command '/bin/sh -c false' returned a non-zero code: 1\n", "returned a non-zero"),
    ],
)
def test_the_gist_is_the_last_error_in_one_line(said, gist):
    assert gist in tools.gist(said)
    assert "\n" not in tools.gist(said)


def test_an_error_names_the_command_without_its_options(tmp_path, monkeypatch):
    machine = Machine(tmp_path, monkeypatch, "helm")
    machine.answer("helm upgrade", err="Error: UPGRADE FAILED: timed out", code=1)
    with pytest.raises(LabError, match=r"^helm upgrade: Error: UPGRADE FAILED: timed out$"):
        tools.run("helm", "upgrade", "--install", "antiphon")


def test_a_tool_that_hangs_is_ended():
    began = time.monotonic()
    with pytest.raises(LabError, match="did not end within 0 s"):
        tools.run(sys.executable, "-c", "import time; time.sleep(60)", timeout_s=0.2)
    assert time.monotonic() - began < 10


def test_a_tool_whose_lines_are_no_longer_wanted_is_ended():
    endless = [sys.executable, "-uc", "import os, time\nprint(os.getpid())\nwhile True: time.sleep(1)"]
    printed = tools.lines(endless)
    pid = int(next(printed))
    printed.close()
    assert subprocess.run(["/bin/sh", "-c", f"kill -0 {pid}"], capture_output=True, check=False).returncode != 0


def test_long_work_is_logged_and_its_error_names_the_log(tmp_path):
    heard = []
    script = "print('Step 1/2 : FROM x'); print('ERROR: no such base'); raise SystemExit(1)"
    with pytest.raises(LabError, match=f"ERROR: no such base .all of it: {tmp_path}/build.log"):
        tools.watch([sys.executable, "-c", script], log=tmp_path / "build.log", timeout_s=30, on_line=heard.append)
    assert heard == ["Step 1/2 : FROM x", "ERROR: no such base"]


def test_words_of_a_variable_are_split_as_a_shell_does():
    assert tools.words("--set a.b='c d' -x", "HELM_ARGS") == ["--set", "a.b=c d", "-x"]
    with pytest.raises(LabError, match="HELM_ARGS cannot be read"):
        tools.words("--set 'a", "HELM_ARGS")
