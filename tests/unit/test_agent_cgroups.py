"""Which cgroup an agent uses, and which limits it claims: only what was delegated, only what holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bursar_agent import cgroups
from bursar_agent.cgroups import Limited, limited


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc and a /sys/fs/cgroup made of plain files; marks of systemd are files named `delegated`."""

    def getxattr(path: Path, name: str) -> bytes:
        if name == "user.delegate" and (path / "delegated").exists():
            return b"1"
        raise OSError(61, "no data")

    def enable(control: Path, name: str) -> None:
        """As the kernel: what the parent has can be given on, anything else is refused."""
        if name not in (control.parent / "cgroup.controllers").read_text().split():
            raise OSError(2, "not available")
        control.write_text(" ".join(sorted({*control.read_text().split(), name})))

    monkeypatch.setattr(os, "getxattr", getxattr)
    monkeypatch.setattr(cgroups, "enable", enable)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def found(machine: Path, setting: str = "") -> Limited:
    return limited(setting, machine / "proc", machine / "cgroup")


def unified(machine: Path, path: str, controllers: str = "cpuset cpu io memory pids") -> Path:
    """A group of version 2 in which this process is."""
    (machine / "proc/self/cgroup").write_text(f"0::/{path}\n")
    folder = machine / "cgroup" / path
    for one in (folder, folder.parent):
        one.mkdir(parents=True, exist_ok=True)
        (one / "cgroup.controllers").write_text(controllers)
        (one / "cgroup.subtree_control").write_text("")
    return folder


def test_delegated_group_above_the_agents_own_is_used(machine: Path) -> None:
    own = unified(machine, "system.slice/bursar-agent.service/agent")
    (own.parent / "delegated").touch()
    assert found(machine) == Limited((str(own.parent),), ("memory", "cpu", "pids"))
    assert (own.parent / "cgroup.subtree_control").read_text() == "cpu memory pids"
    assert (own / "cgroup.subtree_control").read_text() == ""


def test_only_what_the_kernel_gives_is_claimed(machine: Path) -> None:
    own = unified(machine, "bursar-agent.service/agent", "memory hugetlb")
    (own.parent / "delegated").touch()
    assert found(machine).limits == ("memory",)
    own = unified(machine, "bursar-agent.service/agent", "hugetlb")
    assert found(machine) == Limited()


def test_group_that_was_not_delegated_is_left_alone(machine: Path) -> None:
    own = unified(machine, "user.slice/session-1.scope/agent")
    assert found(machine) == Limited()
    assert (own.parent / "cgroup.subtree_control").read_text() == ""


def test_delegated_group_that_holds_the_agent_itself_cannot_be_used(
    machine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = unified(machine, "system.slice/bursar-agent.service")
    (own / "delegated").touch()
    assert found(machine) == Limited()
    assert "DelegateSubgroup=agent" in caplog.text


def test_every_hierarchy_of_version_1_is_used(machine: Path) -> None:
    unit = "system.slice/bursar-agent.service"
    (machine / "proc/self/cgroup").write_text(
        f"5:memory:/{unit}\n4:pids:/{unit}\n3:cpu,cpuacct:/{unit}\n2:freezer:/\n1:name=systemd:/{unit}\n"
    )
    files = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu,cpuacct": "cpu.cfs_quota_us"}
    for controllers, file in files.items():
        (machine / "cgroup" / controllers / unit).mkdir(parents=True)
        (machine / "cgroup" / controllers / unit / file).touch()
    (machine / "cgroup/systemd" / unit).mkdir(parents=True)
    assert found(machine) == Limited()
    (machine / "cgroup/systemd" / unit / "delegated").touch()
    assert found(machine) == Limited(
        tuple(str(machine / "cgroup" / controllers / unit) for controllers in files),
        ("memory", "cpu", "pids"),
    )


def test_folders_of_the_setting_are_used_as_they_are(machine: Path) -> None:
    for name in ("a", "b"):
        (machine / name).mkdir()
    (machine / "a/memory.limit_in_bytes").touch()
    (machine / "b/pids.max").touch()
    assert found(machine, f"{machine}/a:{machine}/b") == Limited(
        (f"{machine}/a", f"{machine}/b"), ("memory", "pids")
    )


def test_folder_that_holds_nothing_or_is_not_there_is_not_claimed(
    machine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (machine / "empty").mkdir()
    assert found(machine, str(machine / "empty")) == Limited()
    assert found(machine, str(machine / "nowhere")) == Limited()
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("text", ["", "garbage", "0:x"])
def test_machine_without_cgroups_limits_nothing(machine: Path, text: str) -> None:
    (machine / "proc/self/cgroup").write_text(text)
    assert found(machine) == Limited()
    (machine / "proc/self/cgroup").unlink()
    assert found(machine) == Limited()
