"""Each extra runs alone: the client without agent and daemon, the agent without the daemon, and the reverse.

Every module of a package is imported in a fresh interpreter in which the packages of the other extras
cannot be found, as on a machine where they were never installed.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES_OF = {
    "agent": {"psutil", "aiomqtt"},
    "nvml": {"pynvml"},
    "daemon": {"aiomqtt", "grpc_health", "numpy", "sqlite_utils", "pyarrow"},
    "torch": {"torch"},
    "dev": {"hypothesis", "sklearn", "pytest"},
}

PROBE = """
import importlib, pkgutil, sys

absent, packages = {absent!r}, {packages!r}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError("not installed here: " + name, name=name)

sys.meta_path.insert(0, NotInstalled())
for package in packages:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def importable(packages: tuple[str, ...], extras: set[str]) -> str:
    """What goes wrong when every module of these packages is imported with these extras only."""
    present = {module for extra in extras for module in MODULES_OF[extra]}
    absent = {module for modules in MODULES_OF.values() for module in modules} - present
    probe = PROBE.format(absent=absent, packages=packages)
    done = subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, timeout=60)
    return done.stderr if done.returncode else ""


def test_client_runs_without_any_extra() -> None:
    assert importable(("bursar",), set()) == ""


def test_agent_runs_without_the_daemon() -> None:
    assert importable(("bursar_agent",), {"agent"}) == ""


def test_daemon_runs_without_the_agent() -> None:
    assert importable(("bursard",), {"daemon"}) == ""


@pytest.mark.parametrize("extra", ["agent", "daemon"])
def test_a_missing_extra_is_noticed(extra: str) -> None:
    """The probe itself can fail."""
    package = {"agent": "bursar_agent", "daemon": "bursard"}[extra]
    assert "not installed here" in importable((package,), set())
