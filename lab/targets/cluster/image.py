"""The image of our services: built from the Dockerfile, tagged by its content, so that a new one rolls the pods.

`python -m lab.targets.cluster.image` builds it and prints its name and size (`make image`).
"""

import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lab.targets import LabError, Progress
from lab.targets.cluster import tools
from lab.targets.local.paths import project_root, state_dir

REPOSITORY = "antiphon"
BUILD_TIMEOUT_S = 1800.0
PUSH_TIMEOUT_S = 1800.0
# Docker hands on those that the environment has: packages come from where pip gets them here.
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")


@dataclass(frozen=True)
class Image:
    """What was built: its id in the engine, and the tag made of the project's version and that id."""

    id: str
    tag: str

    def named(self, name: str) -> None:
        """Give it a name in the engine."""
        tools.run("docker", "tag", self.id, name)

    @property
    def size_bytes(self) -> int:
        """All its layers, unpacked."""
        return int(tools.run("docker", "image", "inspect", "--format", "{{.Size}}", self.id))


def build(logs: Path, progress: Progress) -> Image:
    """Run `docker build`, with the words of DOCKER_BUILD_ARGS; the log is `build.log`."""
    root = project_root()
    if not (root / "Dockerfile").exists():
        raise LabError("there is no Dockerfile here: the image is built from a checkout")
    version = _version(root)
    logs.mkdir(parents=True, exist_ok=True)
    id_file = logs / "build.id"
    arguments = [f"--build-arg={name}" for name in PIP_SETTINGS]
    arguments += tools.words(os.environ.get("DOCKER_BUILD_ARGS", ""), "DOCKER_BUILD_ARGS")
    progress("image", "docker build")
    tools.watch(
        ["docker", "build", f"--build-arg=VERSION={version}", *arguments, "--iidfile", str(id_file), str(root)],
        log=logs / "build.log",
        timeout_s=BUILD_TIMEOUT_S,
        on_line=lambda line: progress("image", line) if line.startswith(("Step ", "#")) else None,
    )
    identity = id_file.read_text().strip()
    image = Image(identity, f"{version}-{identity.removeprefix('sha256:')[:12]}")
    image.named(f"{REPOSITORY}:{image.tag}")
    progress("image", f"{REPOSITORY}:{image.tag}, {image.size_bytes / 1e6:.0f} MB", "done")
    return image


def push(image: Image, name: str, logs: Path, progress: Progress) -> None:
    """Bring it to its registry, which `docker login` must have been told of."""
    image.named(name)
    progress("push", name)
    tools.watch(
        ["docker", "push", name],
        log=logs / "push.log",
        timeout_s=PUSH_TIMEOUT_S,
        on_line=lambda line: progress("push", line),
    )
    progress("push", name, "done")


def in_engine(name: str) -> bool:
    """Whether the engine has an image."""
    try:
        tools.run("docker", "image", "inspect", "--format", "{{.Id}}", name)
    except tools.ToolError:
        return False
    return True


def full_name(name: str) -> str:
    """An image's name as a node knows it, with the registry that Docker leaves out."""
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if first == "localhost" or "." in first or ":" in first else f"docker.io/{name}"


def _version(root: Path) -> str:
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def main() -> None:
    """Build it and say what came of it."""
    from lab.targets.local.progress import display

    try:
        tools.require("docker")
        with display() as progress:
            image = build(state_dir() / "image", progress)
    except LabError as error:
        sys.exit(f"lab: {error}")
    print(f"{REPOSITORY}:{image.tag}  {image.size_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
