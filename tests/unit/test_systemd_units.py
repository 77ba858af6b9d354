"""The shipped units stay hardened, readable to systemd, and true to what the programs need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bursar_agent.cgroups import SUBGROUP

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
DAEMON, AGENT = UNITS / "bursard.service", UNITS / "bursar-agent.service"
SINCE_254 = ("RestartSteps", "RestartMaxDelaySec", "DelegateSubgroup")
"""Settings that an older systemd ignores with a warning; the comments beside them say what then."""
EXPOSURE_MAX = {DAEMON: 1.5, AGENT: 4.0}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: apt-get install systemd"
    return subprocess.run([program, "--no-pager", *arguments], text=True, capture_output=True, timeout=120)


def systemd_version() -> int:
    return int(analyze("--version").stdout.split()[1])


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", [DAEMON, AGENT], ids=lambda unit: unit.stem)
def test_unit_exposes_no_more_than_it_may(unit: Path) -> None:
    ceiling = str(round(EXPOSURE_MAX[unit] * 10))
    judged = analyze("security", "--offline=true", f"--threshold={ceiling}", str(unit))
    assert judged.returncode == 0, judged.stdout[-200:] + judged.stderr
    # The threshold alone could be ignored by another version of systemd: read the figure too.
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert exposure, judged.stdout
    assert float(exposure[1]) <= EXPOSURE_MAX[unit]


def test_exposure_check_can_fail(tmp_path: Path) -> None:
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert analyze("security", "--offline=true", "--threshold=40", str(bare)).returncode != 0


@pytest.mark.parametrize("unit", [DAEMON, AGENT], ids=lambda unit: unit.stem)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    """With a program that exists: the real one is there only after an installation."""
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    judged = analyze("verify", "--man=no", str(copy))
    assert judged.returncode == 0, judged.stderr
    ours = [line for line in judged.stderr.splitlines() if unit.name in line]
    if systemd_version() < 254:
        ours = [line for line in ours if not re.search(rf"Unknown key.*'({'|'.join(SINCE_254)})'", line)]
    assert not ours


def test_units_never_give_up_and_slow_down() -> None:
    for unit in (DAEMON, AGENT):
        set_to = settings(unit)
        assert set_to["StartLimitIntervalSec"] == ["0"]
        assert "StartLimitBurst" not in set_to
        assert "RestartPreventExitStatus" not in set_to
        assert set_to["Restart"] == ["always"]
        assert int(set_to["RestartSec"][0]) < int(set_to["RestartMaxDelaySec"][0]) == 60
        assert int(set_to["RestartSteps"][0]) > 1


def test_daemon_is_bounded_and_speaks_to_nobody_until_told() -> None:
    set_to = settings(DAEMON)
    assert set_to["MemoryMax"] == ["50%"]
    assert set_to["TasksMax"] == ["256"]
    assert set_to["OOMScoreAdjust"] == ["-500"]
    assert set_to["OOMPolicy"] == ["continue"], "a plug-in that is killed for its memory is not the daemon"
    assert set_to["LimitCORE"] == ["0"]
    assert set_to["IPAddressDeny"] == ["any"]
    # What opens it again is a drop-in that systemd reads, and the guide names it.
    drop_in = settings(UNITS / "bursard-network.conf")
    assert drop_in["IPAddressAllow"][0] == "localhost"
    assert "bursard-network.conf" in (ROOT / "docs/install.md").read_text()


def test_agent_has_a_delegated_group_for_its_jobs() -> None:
    """What `bursar_agent.cgroups` looks for."""
    set_to = settings(AGENT)
    assert set_to["Delegate"] == ["yes"]
    assert set_to["DelegateSubgroup"] == [SUBGROUP]
    assert set_to["ProtectControlGroups"] == ["no"]
    assert set_to["LimitCORE"] == ["0:infinity"]


@pytest.mark.parametrize("unit", [DAEMON, AGENT], ids=lambda unit: unit.stem)
def test_units_notify_and_are_watched(unit: Path) -> None:
    set_to = settings(unit)
    assert set_to["Type"] == ["notify"]
    assert int(set_to["WatchdogSec"][0]) > 0
    assert "GRPC_ENABLE_FORK_SUPPORT=0" in set_to["Environment"]


def test_jobs_outlive_a_restart_of_the_agent() -> None:
    set_to = settings(AGENT)
    assert set_to["KillMode"] == ["process"]
    # A private /tmp or runtime folder would be removed under the jobs that go on.
    assert set_to["PrivateTmp"] == ["no"]
    assert "RuntimeDirectory" not in set_to


def test_daemon_sees_the_uid_of_its_callers() -> None:
    """In a user namespace SO_PEERCRED would show everybody as nobody."""
    assert settings(DAEMON)["PrivateUsers"] == ["no"]


@pytest.mark.parametrize("unit", [DAEMON, AGENT], ids=lambda unit: unit.stem)
def test_every_line_has_its_reason_above_it(unit: Path) -> None:
    """One comment serves at most two settings; repeated `DeviceAllow=` are one list."""
    keys: set[str] = set()
    for line in unit.read_text().split("[Service]")[1].split("[Install]")[0].splitlines():
        if line.startswith("#"):
            keys = set()
        elif line:
            keys.add(line.partition("=")[0])
        assert len(keys) <= 2, f"no reason near {line!r}"


@pytest.mark.parametrize("name", ["bursar.sysusers.conf", "bursar.tmpfiles.conf"])
def test_account_and_folder_files_have_well_formed_lines(name: str) -> None:
    lines = [line for line in (UNITS / name).read_text().splitlines() if line and line[0] != "#"]
    assert lines
    for line in lines:
        assert re.match(r"[a-z]\s+\S+\s+\S+", line), line
