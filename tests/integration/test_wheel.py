"""The wheel as people get it: all that it should carry, beside what it asks for and nothing else.

Why     the tests run from the tree, where a file that the wheel forgets is there all the same, and with all
        extras.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = {"sdk/bursar": "bursar", "policies/bursar_policies": "bursar_policies", "daemon/bursard": "bursard",
           "agents/bursar_agent": "bursar_agent", "web/bursar_web": "bursar_web",
           "gateway/bursar_gateway": "bursar_gateway",
           "policies/catalog": "bursar_policies/catalog"}  # fmt: skip
SHARED = (
    "man/man1/bursar.1", "man/man8/bursard.8", "man/man8/bursar-agent.8", "man/man8/bursar-web.8",
    "man/man8/bursar-gateway.8",
    "bash-completion/completions/bursar", "zsh/site-functions/_bursar",
    "fish/vendor_completions.d/bursar.fish", "doc/bursar/install.md",
    *(f"bursar/proto/bursar/v1/{path.name}" for path in (ROOT / "proto/bursar/v1").iterdir()),
    *(f"bursar/monitoring/{path.name}" for path in (ROOT / "packaging/monitoring").iterdir()),
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [made] = folder.glob("*.whl")
    return made


def required(names: list[str]) -> Iterator[str]:
    """These distributions, and all that they ask for here without any extra."""
    seen: set[str] = set()
    while names:
        name = names.pop().lower()
        if name in seen:
            continue
        seen.add(name)
        yield name
        wanted = map(Requirement, importlib.metadata.requires(name) or ())
        names += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, and the packages that it cannot do without."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=300)
    here, there = (
        next((base / "lib").glob("python3.*")) / "site-packages" for base in (Path(sys.prefix), home)
    )
    for name in required([Requirement(each).name for each in PROJECT["dependencies"]]):
        tops = {file.parts[0] for file in importlib.metadata.files(name) or () if file.parts[0] != ".."}
        for top in tops:
            if not (there / top).exists():
                os.symlink(here / top, there / top)
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "--no-deps",
               "--no-index", "--no-compile", "-q", "--disable-pip-version-check", str(wheel)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return home


def test_every_file_of_the_packages_is_in_it_and_what_man_and_the_shells_look_for(wheel: Path) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{name}/{path.relative_to(ROOT / source)}"
        for source, name in SOURCES.items()
        for path in (ROOT / source).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"bursar/py.typed", "bursar_web/templates/base.html", "bursar_web/static/app.css",
            "bursar_policies/catalog/onprem-local.yaml", "bursar/v1/types_pb2.pyi"} <= wanted  # fmt: skip
    assert wanted <= carried
    data = f"bursar-{PROJECT['version']}.data/data/share/"
    assert {data + name for name in SHARED} == {name for name in carried if name.startswith(data)}
    assert not [name for name in carried if name.endswith(".pyc") or name.startswith(("tests", "bench"))]


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin", "BURSAR_STATE_DIR": str(home / "state")}
    command = [str(home / "bin" / words[0]), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ, cwd=home)


def test_it_runs_with_what_it_asks_for_and_says_what_to_install_for_the_rest(environment: Path) -> None:
    assert run(environment, "bursar", "--version").stdout.split()[-1] == PROJECT["version"]
    schema = run(environment, "bursar", "schema", "job")
    assert (schema.returncode, schema.stdout[:1]) == (0, "{")
    said = run(
        environment, "python", "-c", "import bursar; bursar.AsyncClient; import bursar.torch as t; t.Loop()"
    )
    assert said.stderr.splitlines()[-1] == (
        "bursar.errors.BursarError: bursar.torch needs torch; install it with `pip install 'bursar[torch]'`"
    )
    (environment / "jobs.csv").write_text("job_id,submit_s,duration_s\n1,0,1\n")
    for words, extra in (
        (["bursard"], "daemon"),
        (["bursar-agent", "--name", "n"], "agent"),
        (["bursar-web"], "web"),
        (["bursar-gateway"], "gateway"),
        (["bursar", "up", "--detach"], "daemon,agent"),
        (["bursar", "sim", "--jobs", "jobs.csv", "--nodes", "jobs.csv"], "daemon"),
    ):
        said = run(environment, *words)
        assert said.returncode in (1, 2), (words, said)
        assert len(said.stderr.splitlines()) == 1, (words, said)
        assert f"pip install 'bursar[{extra}]'" in said.stderr, (words, said)
