"""Secrets that a job gets as files: who can read them, where they are, and that every end takes them away.

Why     a file outlives the process that wrote it, so each way to die is tried. Attempt ids are of this file
        alone: directories are found by them on the whole machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bursar.codec.launch import launch_to_bytes
from bursar.model import JobSpec, launch_of
from bursar_agent.runner import secretfiles
from bursar_agent.runner.model import StartRequest, StopRequest
from bursar_agent.runner.testing import Bench, alive, bench, marker, play, until

CANARY = "canary-in-a-file-61f0\nsecond line\n"
SPEC = JobSpec(secrets=("TOKEN", "KUBECONFIG"), secret_files=("KUBECONFIG",))
SECRETS = {"TOKEN": "plain", "KUBECONFIG": CANARY}

needs_memory = pytest.mark.skipif(not secretfiles.is_memory(), reason="no tmpfs at /dev/shm on this machine")


def asks(attempt: str, script: str, **more: Any) -> StartRequest:
    spec = JobSpec(script=script, secrets=SPEC.secrets, secret_files=SPEC.secret_files)
    return StartRequest(attempt, launch=launch_to_bytes(launch_of(spec, {}, 0, SECRETS)), **more)


def read(path: Path) -> str:
    return path.read_text()


def there(path: Path) -> bool:
    return path.exists()


async def running(made: Bench, attempt: str, **more: Any) -> Path:
    """A job that waits, with its files there; their directory."""
    await made.runner.start([asks(attempt, "echo $BURSAR_SECRETS_DIR; sleep 300", **more)])
    path = Path(await made.log_line(attempt))
    assert read(path / "KUBECONFIG") == CANARY
    return path


@needs_memory
@pytest.mark.parametrize("user", ["own", "another"])
def test_only_its_user_can_read_it_and_its_end_removes_it(tmp_path: Path, user: str) -> None:
    if user == "another" and os.geteuid() != 0:
        pytest.skip("only root may become another user")
    more = {"uid": 65534, "gid": 65534} if user == "another" else {}

    async def story(made: Bench) -> None:
        look = (
            "cd $BURSAR_SECRETS_DIR; stat -c '%a %u %n' . KUBECONFIG; ls; echo $TOKEN; pwd; echo $KUBECONFIG;"
            "touch left; mkdir more; touch more/left; cat KUBECONFIG"
        )
        await made.runner.start([asks("att_secret1", look, home="/", **more)])
        assert (await made.ended("att_secret1")).end_cause == "completed"
        said = made.runner.read_log("att_secret1", 0, 0, 1 << 16)[0].decode()
        uid = more.get("uid", os.geteuid())
        folder = said.splitlines()[4]
        assert folder.startswith(f"/dev/shm/bursar-{marker(tmp_path, 'att_secret1.0')}.")
        head = f"700 {uid} .\n600 {uid} KUBECONFIG\nKUBECONFIG\nplain\n{folder}\n{folder}/KUBECONFIG\n"
        assert said == head + CANARY
        assert not there(Path(folder))

    play(tmp_path, story)


def files_with(root: Path, word: bytes) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and word in path.read_bytes()]


@needs_memory
def test_no_file_of_the_agent_holds_it(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await running(made, "att_secret2")
        assert files_with(tmp_path, b"canary-in-a-file") == []

    play(tmp_path, story)


@needs_memory
@pytest.mark.parametrize("death", ["cancel", "time limit", "supervisor", "supervisor and launcher", "all"])
def test_whatever_ends_the_job_the_files_are_gone_when_its_end_is_told(tmp_path: Path, death: str) -> None:
    """`all`: the agent is gone too, and the next one finds a member whose supervisor is dead."""

    async def story(made: Bench) -> None:
        limit = {"time_limit_us": 500_000, "grace_us": 0} if death == "time limit" else {}
        path = await running(made, "att_secret3", **limit)
        supervisor = made.supervisor("att_secret3")
        if death == "cancel":
            await made.runner.stop("att_secret3", 0, StopRequest("cancelled", 0))
        elif death == "supervisor":
            os.kill(supervisor, signal.SIGKILL)
        elif death != "time limit":
            if death == "all":
                await made.runner.close()
            for pid in (await made.launcher_pid() if death != "all" else launcher(made), supervisor):
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not alive(supervisor))
        if death == "all":
            assert there(path)
            async with bench(tmp_path) as later:
                (truth,) = await later.runner.adopt()
                if truth.state != "ended":  # the lock may still be held for a moment: then the end follows
                    await later.ended("att_secret3")
                assert not there(path)
            await made.runner.open()
        else:
            await made.ended("att_secret3")
        assert not there(path)

    play(tmp_path, story)


def launcher(made: Bench) -> int:
    from bursar_agent.runner.pulse import launcher_pid

    run_fd = os.open(made.directory, os.O_RDONLY)
    try:
        pid = launcher_pid(run_fd)
    finally:
        os.close(run_fd)
    assert pid is not None
    return pid


@needs_memory
def test_who_takes_the_name_of_an_attempt_neither_gets_its_secrets_nor_stops_it(tmp_path: Path) -> None:
    folder = Path(secretfiles.path_of(marker(tmp_path, "att_secret4.0")))
    folder.mkdir()
    try:

        async def story(made: Bench) -> None:
            await made.runner.start([asks("att_secret4", "cat $KUBECONFIG")])
            assert (await made.ended("att_secret4")).end_cause == "completed"

        play(tmp_path, story)
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


@needs_memory
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_root_without_the_right_to_pass_by_modes_removes_it_too() -> None:
    """As the agent's unit runs: the directory belongs to the job's account, and is closed to all others."""
    story = (
        "import sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "import os\n"
        "from bursar_agent.runner import secretfiles as s\n"
        "path = s.path_of('att_secret5.0')\n"
        "s.make(path, {'A': 'x'}, 65534, 65534)\n"
        "assert os.stat(path).st_uid == 65534\n"
        "try:\n    os.listdir(path)\nexcept PermissionError:\n    print('closed')\n"
        "s.remove(path)\n"
        "print(os.path.exists(path))\n"
    )
    without = "-dac_override,-dac_read_search,-fowner"
    done = subprocess.run(
        ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", sys.executable, "-c", story,
         ":".join(sys.path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["closed", "False"], "")


@pytest.mark.parametrize(
    ("mounts", "memory"),
    [
        ("tmpfs /dev/shm tmpfs rw 0 0\n", True),
        ("/dev/sda1 / ext4 rw 0 0\n", False),
        ("tmpfs /dev/shm tmpfs rw 0 0\n/dev/sdb /dev/shm ext4 rw 0 0\n", False),
        ("short\n", False),
    ],
)
def test_a_disk_is_no_place_for_it(tmp_path: Path, mounts: str, memory: bool) -> None:
    (tmp_path / "mounts").write_text(mounts)
    assert secretfiles.is_memory(str(tmp_path / "mounts")) is memory
    assert secretfiles.is_memory(str(tmp_path / "none")) is False
