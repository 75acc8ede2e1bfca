"""The versions of what is not ours, as the chart's file has them: both targets run the same.

Read without a YAML library, since `python -m lab.targets.local.jaeger --where` is asked before anything is installed.
The file is kept to one form: a line `name: {key: value, …}` for each.
"""

import re
from functools import cache

from lab.targets import LabError
from lab.targets.local.paths import project_root

FILE = "helm/antiphon/files/versions.yaml"


def version(name: str, what: str = "version") -> str:
    """The version of `name` (or `what` else the file says of it). Raises LabError where the file is not."""
    return table()[name][what]


@cache
def table() -> dict[str, dict[str, str]]:
    """All that the file says. Raises LabError where it is not."""
    path = project_root() / FILE
    try:
        text = path.read_text()
    except OSError as error:
        raise LabError(f"{path} is needed: run lab in a checkout") from error
    entries = re.findall(r"^([a-z-]+): \{(.*)\}$", text, re.MULTILINE)
    return {name: dict(re.findall(r'(\w+): "?([^",]+)"?', fields)) for name, fields in entries}
