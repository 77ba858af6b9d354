"""The install guide names files, settings and programs that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bursar_agent import settings as agent_settings
from bursard import settings as daemon_settings

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/install.md"
TOML = re.findall(r"(?ms)^```toml\n# (/etc/bursar/\S+)\n(.*?)^```", GUIDE.read_text())


def blocks(name: str) -> list[str]:
    found = [text for path, text in TOML if path == f"/etc/bursar/{name}"]
    assert found, name
    return found


def test_agent_settings_in_the_guide_are_accepted(tmp_path: Path) -> None:
    for text in blocks("agent.toml"):
        path = tmp_path / "agent.toml"
        path.write_text(text)
        wanted = tomllib.loads(text)
        loaded = agent_settings.load(["--config", str(path)], {})
        assert loaded.settings.name == wanted["name"]


def test_daemon_settings_in_the_guide_are_accepted(tmp_path: Path) -> None:
    for text in blocks("bursard.toml"):
        path = tmp_path / "bursard.toml"
        path.write_text(text)
        loaded = daemon_settings.load(["--config", str(path)], {})
        assert loaded.settings.run_as_submitter


def test_commands_name_files_of_the_checkout() -> None:
    text = GUIDE.read_text()
    named = set(re.findall(r"(?<![\w/])(?:systemd|policies)/[\w./-]+\w", text))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("unit", ["bursard.service", "bursar-agent.service"])
def test_units_start_what_the_guide_installs(unit: str) -> None:
    (start,) = re.findall(r"(?m)^ExecStart=(\S+) --config (\S+)$", (ROOT / "systemd" / unit).read_text())
    guide = GUIDE.read_text()
    assert start[0].startswith("/opt/bursar/bin/")
    assert "python3 -m venv /opt/bursar" in guide
    assert start[1] in {path for path, _ in TOML}


def test_verbs_in_the_guide_exist() -> None:
    from bursar.cli.main import VERBS

    used = set(re.findall(r"(?m)^[$#] bursar (\w+)", GUIDE.read_text()))
    assert used
    assert used <= set(VERBS)
