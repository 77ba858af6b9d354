"""Each extra runs alone: the client without agent and daemon, the agent without the daemon, and the reverse.

Every module of a package is imported in a fresh interpreter in which the packages of the other extras
cannot be found, as on a machine where they were never installed.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from bursar import extras

MODULES_OF = {
    "agent": {"psutil", "aiomqtt", "cryptography"},
    "nvml": {"pynvml"},
    "daemon": {"aiomqtt", "cryptography", "grpc_health", "joserfc", "numpy", "sqlite_utils", "pyarrow"},
    "torch": {"torch"},
    "gateway": {"aiohttp", "cryptography", "uvloop", "yarl", "multidict"},
    "web": {"authlib", "httpx2", "jinja2", "starlette", "uvicorn", "prometheus_client"},
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
    done = subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, timeout=120)
    return done.stderr if done.returncode else ""


def test_client_runs_without_any_extra() -> None:
    assert importable(("bursar",), set()) == ""


def test_gateway_runs_without_the_others() -> None:
    assert importable(("bursar_gateway",), {"gateway"}) == ""


def test_agent_runs_without_the_daemon() -> None:
    assert importable(("bursar_agent",), {"agent"}) == ""


def test_daemon_runs_without_the_agent() -> None:
    assert importable(("bursard",), {"daemon"}) == ""


@pytest.mark.parametrize("extra", ["agent", "daemon"])
def test_a_missing_extra_is_noticed(extra: str) -> None:
    """The probe itself can fail."""
    package = {"agent": "bursar_agent", "daemon": "bursard"}[extra]
    assert "not installed here" in importable((package,), set())


# ------------------------------------------------------------------ what a program says without its extra

RUN = """
import sys

absent = {absent!r}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, NotInstalled())
sys.argv = {argv!r}
from {module} import main
sys.exit(main())
"""

PROGRAMS = [
    ("daemon", "bursard.__main__", ["bursard", "--check-config"], "joserfc"),
    ("daemon", "bursar.cli.main", ["bursar", "up", "--detach"], "aiomqtt"),
    ("daemon", "bursar.cli.main", ["bursar", "sim", "--jobs", "a", "--nodes", "b"], "numpy"),
    ("daemon", "bursar.cli.main", ["bursar", "backup", "drill", "a"], ""),
    ("agent", "bursar_agent.__main__", ["bursar-agent", "--name", "n"], "aiomqtt"),
    ("agent", "bursar.cli.main", ["bursar", "up", "--detach"], "aiomqtt"),
]


def start(module: str, argv: list[str], absent: set[str], home: object) -> subprocess.CompletedProcess[str]:
    program = RUN.format(absent=absent, argv=argv, module=module)
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin", "BURSAR_AGENT_STATE_DIR": str(home)}
    return subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, env=environ
    )


@pytest.mark.parametrize(("extra", "module", "argv", "named"), PROGRAMS)
def test_a_program_without_its_extra_says_the_line_of_pip(extra, module, argv, named, tmp_path) -> None:
    done = start(module, argv, MODULES_OF[extra], tmp_path)
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr
    assert "a defect of bursar" not in done.stderr
    assert named in done.stderr
    if named:
        assert "pip install 'bursar[" in done.stderr
        assert extra in done.stderr


@pytest.mark.parametrize("lacking", sorted(MODULES_OF["daemon"] - {"sqlite_utils", "pyarrow"}))
def test_the_daemon_names_each_module_that_it_lacks(lacking, tmp_path) -> None:
    argv = ["bursard", "--state-dir", str(tmp_path / "state"), "--socket-dir", str(tmp_path / "run")]
    done = start("bursard.__main__", argv, {lacking}, tmp_path)
    said = f"bursard: bursard needs {lacking}; install it with `pip install 'bursar[daemon]'`\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_each_extra_names_what_its_program_imports() -> None:
    for extra, modules in extras.MODULES.items():
        assert set(modules) <= MODULES_OF[extra]
        assert extras.missing(extra) == ""


def test_a_defect_of_our_own_imports_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), extras.needing("x", "daemon"):
        raise ModuleNotFoundError("no", name="bursard.nowhere")
