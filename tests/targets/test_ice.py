"""Where the services find Ice for Python, and what is said where nobody finds it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.targets.local import ice, ours
from lab.targets.local.plan import Plan
from lab.targets.local.ports import Ports
from lab.targets.local.progress import quiet
from lab.targets.local.provision import UnavailableError
from lab.targets.local.provision.tools import Job
from lab.targets.local.servers import Entry
from tests.targets.conftest import standin

IMPORT = "import Ice, IcePy; print(Ice.stringVersion())"


@pytest.fixture
def job():
    return Job("ice", quiet)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without Ice, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LAB_ICE", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(ice, "INSTALLED", tmp_path / "dist-packages")
    monkeypatch.setattr("site.getsitepackages", list)
    return tmp_path


def module(folder: Path, version: str = "3.7.10") -> Path:
    """Something that can be imported as Ice, of that version."""
    (folder / "Ice").mkdir(parents=True)
    (folder / "Ice/__init__.py").write_text(f"import IcePy\ndef stringVersion(): return {version!r}\n")
    (folder / "IcePy.py").touch()
    return folder


def path(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(folder)}


# --- where it comes from


def test_a_setting_names_its_folder(bare, job, monkeypatch):
    monkeypatch.setenv("LAB_ICE", str(module(bare / "mine")))
    assert ice.provide(job).source == "LAB_ICE"
    assert ice.environment() == path(bare / "mine")


def test_it_comes_before_what_pythonpath_names_already(bare, job, monkeypatch):
    monkeypatch.setenv("LAB_ICE", str(module(bare / "mine")))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert ice.environment() == {"PYTHONPATH": f"{bare / 'mine'}{os.pathsep}/elsewhere"}


@pytest.mark.parametrize("place", ["PYTHONPATH", "site-packages"])
def test_what_every_process_knows_already_is_left_to_it(bare, job, monkeypatch, place):
    folder = module(bare / "known")
    if place == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(folder))
    else:
        monkeypatch.setattr("site.getsitepackages", lambda: [str(folder)])
    files = ice._find(job)
    assert (files.source, files.path) == ("installed module", folder)
    assert ice.environment() == {}


def test_of_an_installed_package_the_services_see_ice_alone(bare, job, monkeypatch):
    """Debian's folder has hundreds of modules, which belong to another Python."""
    module(ice.INSTALLED)
    (ice.INSTALLED / "IcePy.py").rename(ice.INSTALLED / ice.MODULES[1])
    (ice.INSTALLED / "apt_pkg.py").touch()
    files = ice._find(job)
    assert files.source == "installed package"
    assert {name.name for name in files.path.iterdir()} == set(ice.MODULES)
    assert (files.path / "Ice/__init__.py").exists()


def test_an_unpacked_package_is_sorted(tmp_path):
    """Ice apart from what came along, and its libraries where its extension's RUNPATH leads."""
    packages = module(tmp_path / "usr/lib/python3/dist-packages")
    (packages / ice.MODULES[1]).touch()
    (packages / "apt_pkg.py").touch()
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir()
    (libraries / "libIce.so.37").touch()
    ice._settle(tmp_path)
    apart = tmp_path / ice.APART
    assert {found.name for found in apart.iterdir()} == set(ice.MODULES)
    assert (apart / "../../cpp/lib/x86_64-linux-gnu/libIce.so.37").exists()


def test_the_real_one_needs_no_other_setting(job):
    """It is imported by the Python of the services, with the folder named and no LD_LIBRARY_PATH."""
    try:
        files = ice.provide(job)
    except UnavailableError as error:
        pytest.skip(f"Ice: {error}")
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"} | ice.environment()
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("3.7.")
    if files.root:
        assert {found.name for found in files.path.iterdir()} == set(ice.MODULES)


def test_its_folder_can_be_asked(bare, monkeypatch):
    folder = module(bare / "mine")
    asked = [sys.executable, "-m", "lab.targets.local.ice"]
    said = subprocess.run(asked, env={**os.environ, "LAB_ICE": str(folder)}, capture_output=True, text=True, check=True)
    assert said.stdout == f"{folder}\n"
    refused = subprocess.run(
        asked, env={**os.environ, "LAB_ICE": "/nowhere"}, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("Ice: Ice in /nowhere cannot be imported: ")


# --- where it does not


def test_without_a_package_for_this_python_pip_is_named(bare, job, monkeypatch):
    monkeypatch.setattr(ice, "PYTHON", (3, 10))
    with pytest.raises(UnavailableError, match=r'fits Python 3.11.*; get it with: pip install "zeroc-ice<3\.8"$'):
        ice.provide(job)


def test_without_apt_pip_is_named(bare, job, monkeypatch):
    monkeypatch.setenv("PATH", str(bare))
    with pytest.raises(UnavailableError, match=r'needs apt; get it with: pip install "zeroc-ice<3\.8"$'):
        ice.provide(job)


def test_where_apt_cannot_get_it_the_line_to_type_is_named(bare, job, monkeypatch):
    monkeypatch.setattr(ice, "PYTHON", sys.version_info[:2])
    programs = bare / "bin"
    programs.mkdir()
    for name in ("apt-get", "dpkg"):
        (programs / name).write_text("#!/bin/sh\necho E: no network\nexit 100\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    line = r"E: no network; get it with: (sudo )?apt-get install --no-install-recommends python3-zeroc-ice$"
    with pytest.raises(UnavailableError, match=line) as refused:
        ice.provide(job)
    assert refused.value.packages == (ice.PACKAGE,)
    assert not list(bare.glob("cache/antiphon/ice-*"))


def test_another_api_is_refused(bare, job, monkeypatch):
    monkeypatch.setenv("LAB_ICE", str(module(bare / "new", "3.8.3")))
    with pytest.raises(UnavailableError, match=r"Ice 3\.8\.3 is here.*pip install"):
        ice.provide(job)


def test_a_folder_without_ice_is_refused(bare, job, monkeypatch):
    monkeypatch.setenv("LAB_ICE", str(bare))
    with pytest.raises(UnavailableError, match=r"cannot be imported: python.* failed: ModuleNotFoundError"):
        ice.provide(job)


# --- what the target makes of it


def test_services_that_speak_it_are_told_where_it_is(bare, monkeypatch):
    monkeypatch.setenv("LAB_ICE", str(module(bare / "mine")))
    credentials = {"settings_token": "t", "rabbitmq_password": "p", "redis_password": "r"}
    told = {
        transports: ours.service(Plan(bare, Ports(), credentials, transports=transports.split(",")), "payment").env
        for transports in ("rest,ice", "rest")
    }
    assert told["rest,ice"]["PYTHONPATH"] == str(bare / "mine")
    assert json.loads(told["rest,ice"]["LAB_PEERS"])["payment"]["ice"] == "127.0.0.1:21126"
    assert "PYTHONPATH" not in told["rest"]


def service(name: str) -> Entry:
    return Entry(lambda plan, _: [standin(plan, f"{name}.admin", name=name)])


def test_it_is_ready_while_the_services_run(bare, make_target, monkeypatch):
    monkeypatch.setenv("LAB_ICE", str(module(bare / "mine")))
    services = {name: service(name) for name in ours.SERVICES}
    target = make_target(ice=Entry(ice.processes, ice.provide), **services)
    status = target.up()
    assert status.transports["ice"] == status.transports["rest"] == "ready"
    assert status.notes["ice"] == f"LAB_ICE ({bare / 'mine'})"
    target.kill("payment")
    assert target.status().transports["ice"] == "absent: payment not running"


def test_without_it_all_the_rest_serves(bare, make_target, monkeypatch):
    monkeypatch.setattr(ice, "PYTHON", (3, 10))
    services = {name: service(name) for name in ours.SERVICES}
    status = make_target(ice=Entry(ice.processes, ice.provide), **services).up()
    assert status.ready
    assert status.transports["ice"].startswith("absent: Ice has no wheel for Linux")
    assert status.transports["ice"].endswith('get it with: pip install "zeroc-ice<3.8"')
    assert status.transports["rest"] == "ready"


def test_one_that_was_not_asked_for_is_absent(bare, make_target):
    services = {name: service(name) for name in ours.SERVICES}
    status = make_target(ice=Entry(ice.processes, ice.provide), **services).up(ours.SERVICES)
    assert status.transports["ice"] == "absent: not started"
