"""What the wheel and the images carry: made from the programs, and naming what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from bursar_agent import settings as agent_settings
from bursard import settings as daemon_settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTAINERFILE = (ROOT / "packaging/Containerfile").read_text().replace("\\\n", " ")
STAGES = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", CONTAINERFILE))
COMPOSE = yaml.safe_load((ROOT / "packaging/compose.yaml").read_text())


def test_man_pages_and_completions_are_what_the_programs_say() -> None:
    command = [sys.executable, str(ROOT / "docs/generate_man.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_carries_them_where_man_and_the_shells_look() -> None:
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    made = {str(path.relative_to(ROOT)) for path in (ROOT / "packaging").glob("*/*")}
    assert set(carried) == made | {"docs/install.md", "proto/bursar"}
    assert carried["packaging/man/bursard.8"] == "share/man/man8/bursard.8"
    assert carried["packaging/completions/_bursar"] == "share/zsh/site-functions/_bursar"


@pytest.mark.parametrize("unit", ["bursard.service", "bursar-agent.service"])
def test_what_a_unit_names_as_its_documentation_is_carried_there(unit: str) -> None:
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    named = re.findall(r"(?m)^Documentation=file://(\S+)$", (ROOT / "systemd" / unit).read_text())
    assert named
    assert set(named) <= {f"/opt/bursar/{path}" for path in carried.values()}


def test_no_line_of_a_man_page_is_taken_for_a_command_of_roff() -> None:
    for path in (ROOT / "packaging/man").iterdir():
        lines = [line for line in path.read_text().splitlines() if line.startswith((".", "'"))]
        assert {line.split()[0] for line in lines} <= {".TH", ".SH", ".SS", ".nf", ".fi"}, path


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here: the pages are NOT rendered")
@pytest.mark.parametrize(
    "page", ["bursar.1", "bursard.8", "bursar-agent.8", "bursar-web.8", "bursar-gateway.8"]
)
def test_man_renders_each_page(page: str) -> None:
    command = ["man", "--warnings", "-l", str(ROOT / "packaging/man" / page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DESCRIPTION" in done.stdout


def test_the_project_says_who_it_is_for_and_names_no_invented_host() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    assert "Typing :: Typed" in classifiers
    assert "urls" not in PROJECT["project"]


def settings_of(stage: str) -> list[str]:
    found = re.search(r"^CMD (\[.*\])$", STAGES[stage], re.MULTILINE)
    assert found
    words: list[str] = json.loads(found[1])
    return words


def test_images_start_programs_of_the_project_with_settings_they_take() -> None:
    for stage, module in (("bursard", daemon_settings), ("bursar-agent", agent_settings)):
        assert f'ENTRYPOINT ["/opt/bursar/bin/{stage}"]' in STAGES[stage]
        assert stage in PROJECT["project"]["scripts"]
        assert module.load(settings_of(stage), {}).settings.state_dir
    extras = re.search(r"'/src\[([\w,]+)\]'", CONTAINERFILE)
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_images_are_pinned_and_the_daemon_is_nobody_of_importance() -> None:
    bases = re.findall(r"(?m)^FROM (\S+)", CONTAINERFILE)
    assert len(bases) == len(STAGES) == 3
    assert all(re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-\w+", base) for base in bases)
    body = STAGES["bursard"]
    assert body.index("USER bursar") < body.index("ENTRYPOINT")
    assert "curl" not in CONTAINERFILE
    for path in ("/var/lib/bursar", "/run/bursar"):
        assert path in settings_of("bursard")
        assert path in re.search(r"VOLUME (.*)", body)[1]  # type: ignore[index]


def test_the_compose_file_builds_stages_that_there_are_and_shares_the_socket() -> None:
    for service in COMPOSE["services"].values():
        build = service["build"]
        assert (ROOT / build["dockerfile"]).exists()
        assert build["target"] in STAGES
        for volume in service["volumes"]:
            assert volume.split(":")[0] in COMPOSE["volumes"]
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    assert all("sockets:/run/bursar" in service["volumes"] for service in COMPOSE["services"].values())


def test_what_an_image_does_not_need_does_not_go_to_the_builder() -> None:
    assert (ROOT / ".containerignore").read_text() == (ROOT / ".dockerignore").read_text()
    kept_out = (ROOT / ".containerignore").read_text().split()
    assert {".git", ".venv"} <= set(kept_out)
    assert not {"sdk", "daemon", "agents", "policies", "packaging", "constraints.txt"} & set(kept_out)


def builder() -> str:
    for name in ("podman", "docker"):
        if (
            shutil.which(name)
            and not subprocess.run([name, "info"], capture_output=True, timeout=120).returncode
        ):
            return name
    return ""


@pytest.mark.slow
def test_the_images_build_where_a_builder_is() -> None:
    name = builder()
    if not name:
        pytest.skip("no container builder runs here: the images are linted alone, NOT built")
    bases = set(re.findall(r"^FROM (\S+/\S+)", (ROOT / "packaging/Containerfile").read_text(), re.MULTILINE))
    assert bases
    for base in bases:
        if subprocess.run([name, "pull", base], capture_output=True, timeout=390).returncode:
            pytest.skip(f"{base} cannot be had here: the images are linted alone, NOT built")
    for target in ("bursard", "bursar-agent"):
        command = [name, "build", "-f", "packaging/Containerfile", "--target", target, "."]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=390)
        assert done.returncode == 0, done.stderr[-2000:]
