"""The units as they are shipped, under a real systemd that runs as PID 1 of a namespace of its own.

Why     what a unit forbids shows only where it is obeyed: sandbox, accounts, readiness, watchdog, restarts.
        Skipped, with the reason, where the machine cannot do it (root, systemd, namespaces, overlays).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
LIMIT_S = 120
"""A slow machine starts Python several times."""
KEPT_OFF = ("systemd-sysctl", "systemd-binfmt", "systemd-modules-load", "systemd-remount-fs", "systemd-udevd")
"""They would change the machine outside."""
PROGRAM = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH={paths}
exec /opt/python/bin/python3 -s -c 'import sys; from {module} import main; sys.exit(main())' "$@"
"""
"""/root is closed to the unit: Python stands elsewhere, and finds its own library there."""
BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/up",workdir="$1/work" "$1/root"
root="$1/root"; shift
mkdir -p $root/opt/python $root/opt/bursar $root/opt/paths $root/etc/bursar $root/.old
mount --bind "$1" $root/opt/python; shift
mount --bind "$1" $root/opt/bursar; shift
cp "$1"/*.service $root/etc/systemd/system/
cp "$1"/bursar.sysusers.conf $root/usr/lib/sysusers.d/bursar.conf; shift
number=0
for path in "$@"; do
    mkdir $root/opt/paths/$number
    mount --bind "$path" $root/opt/paths/$number
    number=$((number + 1))
done
mount -t proc proc $root/proc
mount --bind -o ro /proc/sys $root/proc/sys
mount --rbind /sys $root/sys
umount -l $root/sys/fs/cgroup
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/tmp
mount --rbind /dev $root/dev
chroot $root systemd-sysusers
for name in {off}; do ln -sf /dev/null $root/etc/systemd/system/$name.service; done
printf '' > $root/etc/machine-id
printf '[Unit]\\nWants=bursard.service bursar-agent.service\\n' > $root/etc/systemd/system/trial.target
printf 'name = "n1"\\nserver = "unix:///run/bursar/bursar.sock"\\n' > $root/etc/bursar/agent.toml
printf 'log_level = "INFO"\\n' > $root/etc/bursar/bursard.toml
chmod 755 $root/etc/bursar; chmod 644 $root/etc/bursar/*
cd $root
pivot_root . .old
umount -l /.old
exec env -i container=bursar PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --system --unit=trial.target
"""


class Machine:
    """A machine in namespaces."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "boot.log"
        programs, root = folder / "bursar", folder / "root"
        (programs / "bin").mkdir(parents=True)
        root.mkdir()
        paths = [path for path in sys.path if path and Path(path).is_dir() and not _of_python(path)]
        inside = [f"/opt/paths/{number}" for number in range(len(paths))]
        for name, module in (
            ("bursard", "bursard.__main__"),
            ("bursar-agent", "bursar_agent.__main__"),
            ("bursar", "bursar.cli.main"),
        ):
            program = programs / "bin" / name
            program.write_text(PROGRAM.format(paths=":".join(inside), module=module))
            program.chmod(0o755)
        for found in (folder, programs, programs / "bin"):
            found.chmod(0o755)
        script = BOOT.replace("{off}", " ".join(KEPT_OFF)).replace("{systemd}", str(SYSTEMD))
        words = [str(root), sys.base_prefix, str(programs), str(UNITS), *paths]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--kill-child", "bash", "-c",
                 script, "boot", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def pid1(self) -> int:
        """Of systemd, as seen from here; 0 before it runs."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in path.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        return 0

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid1()), "-m", "-p", "-i", "-u", *words],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").stdout.strip()

    def until(self, probe: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + LIMIT_S
        while not (found := probe()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                said = self.run("journalctl", "--no-pager", "-n", "40").stdout if self.pid1() else ""
                raise AssertionError(f"never so: {what}\n{self.log.read_text()[-2000:]}\n{said}")
            time.sleep(0.2)
        return found


def _of_python(path: str) -> bool:
    return path.startswith(sys.base_prefix) or path.endswith(".zip")


@pytest.fixture
def machine() -> Iterator[Machine]:
    wanted = {"unshare", "nsenter", "pivot_root", "systemctl"}
    if os.geteuid() != 0 or not SYSTEMD.exists() or any(not shutil.which(name) for name in wanted):
        pytest.skip("needs root, systemd and util-linux: the units are NOT tried on this machine")
    can = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False
    )
    if can.returncode:
        pytest.skip("no namespaces may be made here: the units are NOT tried on this machine")
    folder = Path(tempfile.mkdtemp(prefix="systemd-"))
    made = Machine(folder)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_shipped_units_run_a_job_and_come_back_after_a_kill(machine: Machine) -> None:
    machine.until(machine.pid1, "systemd runs")
    for unit in ("bursard", "bursar-agent"):
        machine.until(lambda unit=unit: machine.shown(unit, "ActiveState") == "active", f"{unit} is active")
    assert machine.shown("bursard", "User") == "bursar"
    assert machine.run("stat", "-c", "%U %a", "/var/lib/bursar").stdout == "bursar 700\n"
    command = "/opt/bursar/bin/bursar"

    def nodes() -> bool:
        done = machine.run(command, "nodes", "-o", "json")
        return done.returncode == 0 and [n["state"] for n in json.loads(done.stdout)] == ["up"]

    machine.until(nodes, "the agent has connected")
    done = machine.run(command, "run", "--wait", "--", "sh", "-c", "id -u; exit 3")
    assert done.returncode == 1, done.stderr
    assert "exit code 3" in done.stderr
    before = machine.shown("bursard", "MainPID")
    machine.run("kill", "-9", before)
    machine.until(
        lambda: (
            machine.shown("bursard", "MainPID") not in ("0", before)
            and machine.shown("bursard", "ActiveState") == "active"
        ),
        "the daemon is back",
    )

    def shown() -> Any:
        done = machine.run(command, "show", "1", "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    again = machine.until(shown, "it answers again")
    assert (again["state"], again["exit_code"]) == ("FAILED", 3)
    assert machine.shown("bursard", "NRestarts") == "1"
