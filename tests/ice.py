"""Ice for Python in this process, by the local target's own recipe. Import it before what imports Ice:

    from tests.ice import ENVIRONMENT  # isort: skip

Where it cannot be had, the module that does so is skipped, with the reason.
"""

import os
import sys
import warnings

import pytest

from lab.targets.local import ice
from lab.targets.local.progress import quiet
from lab.targets.local.provision import UnavailableError
from lab.targets.local.provision.tools import Job


def _environment() -> dict[str, str]:
    try:
        ice.provide(Job("ice", quiet))
    except UnavailableError as error:
        pytest.skip(f"Ice: {error}", allow_module_level=True)
    environment = ice.environment()
    sys.path += [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its docstrings have backslashes that escape nothing
        import Ice  # noqa: F401
    return environment


ENVIRONMENT = _environment()
"""For processes that a test starts."""
