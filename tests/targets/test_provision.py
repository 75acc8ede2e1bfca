"""Finding servers and getting them, without a network: the cache, the tools, the fix-ups."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab.targets.local import elasticmq, jaeger, java, kafka, paths, postgres, prometheus, rabbitmq, redis
from lab.targets.local.progress import quiet
from lab.targets.local.provision import UnavailableError, cache, debian, golang
from lab.targets.local.provision.tools import CancelledError, Job


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/antiphon"


@pytest.fixture
def job():
    return Job("test", quiet)


def test_the_cache_is_where_xdg_says(cache_dir, monkeypatch):
    assert paths.cache_root() == cache_dir
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert paths.cache_root() == Path.home() / ".cache/antiphon"


def test_the_state_folder_is_in_the_checkout_or_where_the_setting_says(monkeypatch, tmp_path):
    monkeypatch.delenv("LAB_STATE_DIR", raising=False)
    assert paths.state_dir() == paths.project_root() / ".lab"
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    assert paths.state_dir() == tmp_path


def test_an_entry_is_made_once_per_recipe(cache_dir, job):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text("x")

    first = cache.entry("thing", "recipe 1", make, job)
    assert cache.entry("thing", "recipe 1", make, job) == first
    assert cache.entry("thing", "recipe 2", make, job) != first
    assert len(made) == 2
    assert (first / "file").read_text() == "x"
    assert {path.name for path in cache_dir.iterdir()} == {"locks", first.name, made and _second(first, cache_dir)}


def _second(first, folder):
    return next(path.name for path in folder.glob("thing-*") if path != first)


def test_a_failed_entry_leaves_nothing(cache_dir, job):
    def make(folder):
        (folder / "half").write_text("x")
        raise UnavailableError("no network")

    with pytest.raises(UnavailableError):
        cache.entry("thing", "recipe", make, job)
    assert [path.name for path in cache_dir.iterdir()] == ["locks"]


def test_what_a_killed_maker_left_is_removed(cache_dir, job):
    path = cache.entry_path("thing", "recipe")
    left = cache_dir / f".{path.name}.12345"
    (left / "modules").mkdir(parents=True)
    (left / "modules").chmod(0o500)  # as Go leaves them
    cache.entry("thing", "recipe", lambda _: None, job)
    assert not left.exists()


def test_two_makers_make_one_entry(cache_dir):
    made = []

    def make(folder):
        made.append(folder)
        time.sleep(0.1)

    threads = [
        threading.Thread(target=cache.entry, args=("thing", "recipe", make, Job("test", quiet))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_failing_tool_gives_its_reason(job):
    with pytest.raises(UnavailableError, match="sh failed: E: Unable to locate package"):
        job.run(["sh", "-c", "echo reading; echo 'E: Unable to locate package'; echo done; exit 1"])
    with pytest.raises(UnavailableError, match="no-such-tool is not there"):
        job.run(["no-such-tool"])


def test_a_cancelled_job_takes_its_tool_along(job):
    cancel = threading.Event()
    pids = []

    def heard(line):
        pids.append(int(line))
        cancel.set()

    with pytest.raises(CancelledError):
        Job("test", quiet, cancel).run(["sh", "-c", "echo $$; exec sleep 600"], on_line=heard)
    assert not Path(f"/proc/{pids[0]}").exists()
    with pytest.raises(CancelledError):
        Job("test", quiet, cancel).run(["true"])


def test_names_of_package_files_become_versions():
    assert debian._pinned("erlang-base_1%3a25.2.3+dfsg-1+deb12u4_amd64.deb") == (
        "erlang-base:amd64=1:25.2.3+dfsg-1+deb12u4"
    )
    assert debian._pinned("rabbitmq-server_3.10.8-1.1_all.deb") == "rabbitmq-server=3.10.8-1.1"


def test_absolute_links_are_turned_into_the_tree_if_they_lead_there(tmp_path):
    (tmp_path / "etc/java").mkdir(parents=True)
    (tmp_path / "etc/java/jvm.cfg").write_text("-server")
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/jvm.cfg").symlink_to("/etc/java/jvm.cfg")
    (tmp_path / "usr/lib/outside").symlink_to("/bin/sh")
    debian.relink(tmp_path)
    assert str((tmp_path / "usr/lib/jvm.cfg").readlink()) == "../../etc/java/jvm.cfg"
    assert (tmp_path / "usr/lib/jvm.cfg").read_text() == "-server"
    assert str((tmp_path / "usr/lib/outside").readlink()) == "/bin/sh"


@pytest.mark.skipif(not shutil.which("keytool"), reason="no Java here to read the store")
def test_java_reads_the_trust_store(tmp_path):
    store = debian.trust_store(tmp_path)
    listed = subprocess.run(
        ["keytool", "-list", "-keystore", str(store), "-storepass", "changeit"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "trustedCertEntry" in listed


def test_without_apt_the_install_line_is_told(cache_dir, job, monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match=r"no apt-get; get it with: .*apt-get install .*prometheus"):
        debian.unpacked("prometheus", ["prometheus"], job)


def test_erl_looks_where_it_lies(tmp_path):
    erl = tmp_path / "usr/lib/erlang/bin/erl"
    erl.parent.mkdir(parents=True)
    erl.write_text("#!/bin/sh\nROOTDIR=/usr/lib/erlang\necho $ROOTDIR\n")
    erl.chmod(0o755)
    rabbitmq._relocate(tmp_path)
    (tmp_path / "link").symlink_to(erl)
    said = subprocess.run([tmp_path / "link"], capture_output=True, text=True, check=True).stdout.strip()
    assert said == str(tmp_path / "usr/lib/erlang")


@pytest.mark.parametrize(
    ("variable", "find"),
    [
        ("LAB_RABBITMQ_SERVER", rabbitmq.provide),
        ("LAB_KAFKA_LIBS", kafka.provide),
        ("LAB_ELASTICMQ_LIBS", elasticmq.provide),
        ("LAB_PROMETHEUS", prometheus.provide),
        ("LAB_REDIS", redis.provide),
        ("LAB_POSTGRES", postgres.provide),
        ("LAB_JAVA", java.java),
        ("LAB_JAEGER", lambda _: jaeger.find()),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(variable, find, job, monkeypatch, tmp_path):
    monkeypatch.setattr(java, "java", _a_java) if variable.endswith("_LIBS") else None
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    with pytest.raises(UnavailableError, match=f"{variable} names .*nowhere"):
        find(job)


def _a_java(_):
    return java.Files(Path("/usr/bin/java"), "test")


def test_an_old_java_is_passed_over(tmp_path, job):
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    (home / "bin/java").touch()
    (home / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="11.0.2"\n')
    assert java._version(home / "bin/java", job) == 11


def test_go_versions_compare_as_numbers(tmp_path, job):
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go version go1.9.7 linux/amd64\n")
    go.chmod(0o755)
    assert golang._version(str(go), job) == (1, 9, 7)
    assert golang._version(str(go), job) < golang.LEAST_GO


def test_jaeger_is_found_by_setting_then_path_then_cache(cache_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("LAB_JAEGER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert jaeger.find() is None
    built = golang.built_jaeger()
    for program in (built, tmp_path / "bin/jaeger", tmp_path / "release/jaeger"):
        program.parent.mkdir(parents=True)
        program.touch(0o755)
        if program == tmp_path / "release/jaeger":
            monkeypatch.setenv("LAB_JAEGER", str(program))
        found = jaeger.find()
        assert found is not None
        assert found.path == program
    assert "no web page" not in found.source


def test_where_a_built_jaeger_goes_can_be_asked_with_any_python(cache_dir):
    """Whoever fills the cache beforehand has no virtual environment yet."""
    said = subprocess.run(
        [sys.executable, "-S", "-m", "lab.targets.local.jaeger", "--where"],
        capture_output=True,
        text=True,
        check=True,
        cwd=paths.project_root(),
    ).stdout.strip()
    assert said == str(golang.built_jaeger())
    assert said.startswith(str(cache_dir))


def test_a_build_that_cannot_succeed_says_so_and_leaves_no_space_taken(cache_dir, job, monkeypatch):
    monkeypatch.setattr(golang, "NEEDS_MB", 10**12)
    with pytest.raises(UnavailableError, match="MB free"):
        golang.build_jaeger(job)
    assert [path.name for path in cache_dir.iterdir()] == ["locks"]
