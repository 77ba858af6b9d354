"""A machine in namespaces: a real systemd as PID 1, over an overlay of this machine's files.

Why     what a unit forbids, and what an installation lacks, shows only where systemd runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
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
PROGRAMS = (
    ("bursard", "bursard.__main__"),
    ("bursar-agent", "bursar_agent.__main__"),
    ("bursar", "bursar.cli.main"),
)
INSTALLED = """
cp "$UNITS"/*.service $root/etc/systemd/system/
cp "$UNITS"/bursar.sysusers.conf $root/usr/lib/sysusers.d/bursar.conf
chroot $root systemd-sysusers
mkdir -p $root/etc/bursar
printf '[Unit]\\nWants=bursard.service bursar-agent.service\\n' > $root/etc/systemd/system/trial.target
printf 'name = "n1"\\nserver = "unix:///run/bursar/bursar.sock"\\n' > $root/etc/bursar/agent.toml
printf 'log_level = "INFO"\\n' > $root/etc/bursar/bursard.toml
chmod 755 $root/etc/bursar; chmod 644 $root/etc/bursar/*
"""
"""What has our units, an account and settings as soon as it boots."""
EMPTY = """
printf '[Unit]\\n' > $root/etc/systemd/system/trial.target
printf '127.0.0.1 localhost %s\\n' "$HOSTS" > $root/etc/hosts
mkdir -p $root/srv/checkout $root/opt/bursar/lib/python3/site-packages/bursar_policies
cp -r "$UNITS" "$UNITS/../policies" "$UNITS/../constraints.txt" $root/srv/checkout
cp -r "$UNITS/../policies/catalog" $root/opt/bursar/lib/python3/site-packages/bursar_policies
"""
"""Where nothing of ours is but the programs, for somebody who installs it."""
BOOT = """
set -eu
[ -z "$LOOPBACK" ] || ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/up",workdir="$1/work" "$1/root"
root="$1/root"; shift
mkdir -p $root/opt/python $root/opt/bursar $root/opt/paths $root/.old
mount --bind "$1" $root/opt/python; shift
cp -r "$1"/. $root/opt/bursar; shift
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
for name in {off}; do ln -sf /dev/null $root/etc/systemd/system/$name.service; done
printf '' > $root/etc/machine-id
{prepare}
cd $root
pivot_root . .old
umount -l /.old
exec env -i container=bursar PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --system --unit=trial.target
"""


def skip_where_none_can_be(said: str, *more: str) -> None:
    """Skip the test, loudly, on a machine that cannot do it. `more`: programs that it needs too."""
    wanted = {"unshare", "nsenter", "pivot_root", "systemctl", *more}
    lacking = sorted(name for name in wanted if not shutil.which(name))
    if os.geteuid() != 0 or not SYSTEMD.exists() or lacking:
        lack = f" ({', '.join(lacking)} missing)" if lacking else ""
        pytest.skip(f"needs root, systemd and util-linux{lack}: {said} on this machine")
    can = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False
    )
    if can.returncode:
        pytest.skip(f"no namespaces may be made here: {said} on this machine")


class Machine:
    """A machine in namespaces. `hosts`: nothing of ours is installed, these names are its own, and it has a
    network with nobody in it, or that of the machine `beside` it.
    """

    def __init__(self, folder: Path, *, hosts: str = "", beside: Machine | None = None) -> None:
        self.log = folder / "boot.log"
        programs, root = folder / "bursar", folder / "root"
        (programs / "bin").mkdir(parents=True)
        root.mkdir()
        paths = [path for path in sys.path if path and Path(path).is_dir() and not _of_python(path)]
        inside = [f"/opt/paths/{number}" for number in range(len(paths))]
        for name, module in PROGRAMS:
            program = programs / "bin" / name
            program.write_text(PROGRAM.format(paths=":".join(inside), module=module))
            program.chmod(0o755)
        for found in (folder, programs, programs / "bin"):
            found.chmod(0o755)
        script = BOOT.replace("{off}", " ".join(KEPT_OFF)).replace("{systemd}", str(SYSTEMD))
        script = script.replace("{prepare}", EMPTY if hosts else INSTALLED)
        own_network = ["--net"] if hosts and beside is None else []
        there = ["nsenter", "-t", str(beside.pid1()), "-n"] if beside else []
        words = [str(root), sys.base_prefix, str(programs), *paths]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*there, "unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--kill-child",
                 *own_network, "bash", "-c", script, "boot", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "UNITS": str(ROOT / "systemd"), "HOSTS": hosts,
                     "LOOPBACK": "".join(own_network)},
            )  # fmt: skip

    def close(self) -> None:
        """End it, and all that runs in it."""
        self.process.kill()
        self.process.wait()

    def pid1(self) -> int:
        """Of systemd, as seen from here; 0 before it runs."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in path.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        return 0

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command inside."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid1()), "-m", "-p", "-i", "-u", "-n", *words],
            capture_output=True, text=True, timeout=LIMIT_S, check=False, input=stdin,
        )  # fmt: skip

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").stdout.strip()

    def until(self, probe: Callable[[], Any], what: str) -> Any:
        """What the probe answers at last."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := probe()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                said = self.run("journalctl", "--no-pager", "-n", "40").stdout if self.pid1() else ""
                raise AssertionError(f"never so: {what}\n{self.log.read_text()[-2000:]}\n{said}")
            time.sleep(0.2)
        return found


def _of_python(path: str) -> bool:
    return path.startswith(sys.base_prefix) or path.endswith(".zip")
