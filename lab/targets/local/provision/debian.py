"""Debian packages, unpacked into the cache instead of installed.

apt plans against what the machine has (so that missing libraries come along) and downloads with package
lists of our own in the cache, so neither root nor the system's lists are needed; `dpkg -x` unpacks.
No maintainer script runs: whatever such a script would have done, the recipe does (`relink`, `trust_store`).
"""

import fcntl
import hashlib
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lab.targets.local.paths import cache_root
from lab.targets.local.provision import UnavailableError, cache
from lab.targets.local.provision.tools import Job

LISTS_FRESH_S = 24 * 3600
RECIPE = "2"  # part of every key: raise it when unpacking changes
NEVER_UNPACKED = ("libc6_", "libc-bin_", "libgcc-s1_", "gcc-12-base_")  # these belong to the running loader

AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


def unpacked(name: str, packages: Sequence[str], job: Job, fix: Callable[[Path], object] = lambda _: None) -> Path:
    """A folder with the packages and all that they need beyond this machine's, laid out as below `/`.

    `fix` mends what expects to live in `/`. Raises UnavailableError, with the command that installs them,
    where there is no apt or it cannot get them.
    """

    def make(folder: Path) -> None:
        _fetch(folder, packages, job)
        fix(folder)

    try:
        return cache.entry(name, f"{RECIPE} {' '.join(packages)} {_release()}", make, job)
    except UnavailableError as error:
        raise UnavailableError(f"{error}; get it with: {' '.join(install_command(packages))}", packages) from error


def install_command(packages: Sequence[str]) -> list[str]:
    """What a person would type to install the packages in the system."""
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    return [*sudo, "apt-get", "install", "--no-install-recommends", *packages]


def library_path(root: Path) -> str:
    """LD_LIBRARY_PATH for programs of an unpacked tree, in front of the one that is set."""
    folders = sorted({str(found.parent) for found in (root / "usr/lib").glob("*-linux-*/*.so*")})
    return ":".join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def _fetch(folder: Path, packages: Sequence[str], job: Job) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise UnavailableError("this machine has no apt-get")
    options = _own_lists(job)
    job.say("planning")
    plan = job.run(["apt-get", *options, "-qq", "--print-uris", "--no-install-recommends", "install", *packages])
    uris = [line.split() for line in plan.splitlines() if line.startswith("'")]
    wanted = [uri[1] for uri in uris if not uri[1].startswith(NEVER_UNPACKED)]
    size_mb = sum(int(uri[2]) for uri in uris) / 1e6
    downloads = folder / "downloads"
    downloads.mkdir()
    fetched = 0

    def count(line: str) -> None:
        nonlocal fetched
        if line.startswith("Get:"):
            fetched += 1
            job.say(f"package {fetched} of {len(wanted)} ({size_mb:.0f} MB in all)")

    names = [_pinned(file) for file in wanted]
    if names:
        job.run(["apt-get", *options, "-q", "download", *names], cwd=downloads, on_line=count)
    for number, package in enumerate(sorted(downloads.glob("*.deb")), 1):
        job.say(f"unpacking {number} of {len(wanted)}")
        job.run(["dpkg", "-x", str(package), str(folder)])
    shutil.rmtree(downloads)
    for trash in ("doc", "man", "lintian", "locale"):
        shutil.rmtree(folder / "usr/share" / trash, ignore_errors=True)
    relink(folder)


def _pinned(file: str) -> str:
    """name:arch=version from the name of a package's file, which writes `:` as %3a."""
    name, version, arch = file.removesuffix(".deb").split("_")
    suffix = "" if arch == "all" else f":{arch}"
    return f"{name}{suffix}={version.replace('%3a', ':')}"


def _own_lists(job: Job) -> list[str]:
    """Options that point apt at lists of ours, refreshed once a day; the system's lists stay as they are."""
    root = cache_root() / "apt"
    (root / "lists/partial").mkdir(parents=True, exist_ok=True)
    (root / "archives/partial").mkdir(parents=True, exist_ok=True)
    options = [
        f"-oDir::State::Lists={root / 'lists'}",
        f"-oDir::Cache={root}",
        "-oAPT::Update::Post-Invoke-Success=",
        "-oAcquire::Languages=none",
        "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    ]
    if os.geteuid() == 0:
        options.append("-oAPT::Sandbox::User=root")  # the cache of root is closed to apt's own user
    stamp = root / "updated"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > LISTS_FRESH_S:
            job.say("reading package lists")
            job.run(["apt-get", *options, "-q", "update"])
            stamp.touch()
    return options


def relink(root: Path) -> None:
    """Make absolute symbolic links point inside the tree where their target was unpacked too."""
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            link = Path(folder, name)
            if not link.is_symlink():
                continue
            target = link.readlink()
            inside = root / str(target).lstrip("/")
            if target.is_absolute() and os.path.lexists(inside):
                link.unlink()
                link.symlink_to(os.path.relpath(inside, folder))


def trust_store(root: Path) -> Path:
    """A Java key store with this machine's certificate authorities, made as ca-certificates-java would.

    The format is JKS: trusted certificates, closed with a digest over a well-known password.
    """
    import ssl

    pems: list[str] = []
    for place in _authorities(root):
        text = Path(place).read_text(errors="replace")
        end = "-----END CERTIFICATE-----"
        pems += [part[part.index("-----BEGIN CERTIFICATE-----") :] + end for part in text.split(end)[:-1]]
    ders = list(dict.fromkeys(ssl.PEM_cert_to_DER_cert(pem) for pem in pems))
    body = struct.pack(">III", 0xFEEDFEED, 2, len(ders))
    for number, der in enumerate(ders):
        alias = f"authority-{number}".encode()
        body += struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">QH", 0, 5) + b"X.509"
        body += struct.pack(">I", len(der)) + der
    digest = hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body).digest()  # noqa: S324
    store = root / "etc/ssl/certs/java/cacerts"
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(body + digest)
    return store


def _authorities(root: Path) -> Iterable[str]:
    for place in (os.environ.get("SSL_CERT_FILE", ""), *AUTHORITIES):
        if place and Path(place).is_file():
            return [place]
    return [str(path) for path in sorted((root / "usr/share/ca-certificates").rglob("*.crt"))]


def _release() -> str:
    import platform

    try:
        return f"{platform.freedesktop_os_release().get('VERSION_CODENAME', '')} {platform.machine()}"
    except OSError:
        return platform.machine()
