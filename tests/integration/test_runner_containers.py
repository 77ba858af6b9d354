"""Jobs with an image: what they have, how they end, and that no end leaves a container.

Why     the same stories are told of a program that behaves as podman does and, where podman runs some, of
        podman itself: what the first lets pass is proven by the second. Attempt ids are of this file alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import runtime_stand
from tests.support.runtime_stand import IMAGE, Stand

from bursar_agent.runner import images, places, secretfiles
from bursar_agent.runner.model import StopRequest
from bursar_agent.runner.testing import Bench, alive, marker, play, until

pytestmark = pytest.mark.skipif(not secretfiles.is_memory(), reason="no tmpfs at /dev/shm on this machine")
PULLED = "registry.test/acme/train:1"
DIGEST = "sha256:" + "5" * 64


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trial") / "found.json"


@pytest.fixture(params=["the program in its place", "podman"])
def stand(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Iterator[Stand]:
    if request.param != "podman":
        yield runtime_stand.fake(tmp_path / "bin")
        return
    found = runtime_stand.podman(cache)
    if isinstance(found, str):
        pytest.skip(found)
    yield found


@pytest.fixture
def fake(tmp_path: Path) -> Stand:
    return runtime_stand.fake(tmp_path / "bin")


def told(made: Bench, attempt: str) -> str:
    return made.runner.read_log(attempt, 0, 0, 1 << 20)[0].decode()


def of(stand: Stand, tmp_path: Path, **more: Any) -> dict[str, Any]:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return {"image": IMAGE, "runtime": stand.runtime, "cwd": str(work), **more}


def namespaces() -> bool:
    """May this account put a process into a namespace of its own?"""
    tried = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False)
    return tried.returncode == 0


# --- what is the same for the program in its place and for podman


def test_it_has_its_directory_its_variables_and_its_secrets_and_its_code_is_the_jobs(
    stand: Stand, tmp_path: Path
) -> None:
    env = {
        "GREETING": "good day", "TOKEN": "it's\nsecret", "BURSAR_SECRET_NAMES": "TOKEN,KEY:file",
        "BURSAR_CHECKPOINT_DIR": "@checkpoint",
    }  # fmt: skip
    script = (
        'pwd; echo "$GREETING"; echo "$TOKEN"; cat "$KEY"; echo; touch here;'
        ' touch "$BURSAR_CHECKPOINT_DIR/step"; touch "$TMPDIR/mine"; exit 7'
    )

    async def story(made: Bench) -> None:
        asked = of(stand, tmp_path, env=env, files={"KEY": "in a file"})
        report = await made.run("att_cc1", script, checkpoint_dir=str(tmp_path / "kept"), **asked)
        assert (report.end_cause, report.exit_code, report.signal) == ("failed", 7, None)
        work = tmp_path / "work"
        assert told(made, "att_cc1").split("\n") == [
            str(work), "good day", "it's", "secret", "in a file", "",
        ]  # fmt: skip
        assert (work / "here").exists()
        assert (tmp_path / "kept" / "step").exists()
        scratches.append(marker(made.directory, "att_cc1.0"))
        assert report.image_digest.startswith("sha256:")

    scratches: list[str] = []
    play(tmp_path / "run", story)
    assert stand.containers() == []
    assert places.of(scratches[0]) == []


def test_setup_and_run_share_a_container_and_a_setup_that_fails_says_so(stand: Stand, tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        asked = of(stand, tmp_path)
        report = await made.run("att_cc2", argv=["cat", "made"], setup="echo from setup > made", **asked)
        assert (report.end_cause, told(made, "att_cc2")) == ("completed", "from setup\n")
        report = await made.run("att_cc3", argv=["true"], setup="exit 3", **asked)
        assert (report.end_cause, report.exit_code, report.phase) == ("failed", 3, "setup")
        assert report.message.startswith("setup failed")

    play(tmp_path / "run", story)


def test_a_command_that_is_not_in_the_image_is_the_jobs_own_failure(stand: Stand, tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_cc4", argv=["/no/such"], **of(stand, tmp_path))
        assert (report.end_cause, report.exit_code) == ("failed", 127)
        assert report.message.startswith("no such command: /no/such")

    play(tmp_path / "run", story)
    assert stand.containers() == []


def test_a_job_that_itself_ends_with_125_is_no_fault_of_the_runtime(stand: Stand, tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_cc5", "exit 125", **of(stand, tmp_path))
        assert (report.end_cause, report.exit_code, report.message) == ("failed", 125, "")

    play(tmp_path / "run", story)


def test_the_checkpoint_signal_reaches_the_job_and_its_own_end_is_told(stand: Stand, tmp_path: Path) -> None:
    if not stand.real:
        if not namespaces():
            pytest.skip("this account may make no namespace of processes")
        stand.wants("namespaces", True)
    script = "trap 'echo saved; exit 5' USR1; echo ready; while :; do sleep 0.05; done"

    async def story(made: Bench) -> None:
        await made.start("att_cc6", script, **of(stand, tmp_path))
        await made.log_has("att_cc6", b"ready")
        await made.runner.stop("att_cc6", 0, StopRequest("preempted", 60_000_000, "USR1"))
        report = await made.ended("att_cc6")
        assert (report.end_cause, report.exit_code) == ("preempted", 5)
        assert report.signal_sent_at is not None
        assert report.term_sent_at is None
        assert "saved" in told(made, "att_cc6")

    play(tmp_path / "run", story)


def test_what_ignores_term_is_killed_and_its_container_removed(stand: Stand, tmp_path: Path) -> None:
    if not stand.real:
        if not namespaces():
            pytest.skip("this account may make no namespace of processes")
        stand.wants("namespaces", True)

    async def story(made: Bench) -> None:
        script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
        await made.start("att_cc7", script, **of(stand, tmp_path))
        await made.log_has("att_cc7", b"ready")
        assert len(stand.containers()) == 1
        await made.runner.stop("att_cc7", 0, StopRequest("cancelled", 200_000))
        report = await made.ended("att_cc7")
        assert report.end_cause == "cancelled"
        assert report.exit_code == 137 or not stand.real
        assert report.kill_sent_at is not None

    play(tmp_path / "run", story)
    assert stand.containers() == []


def test_a_killed_supervisor_leaves_neither_process_nor_container(stand: Stand, tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_cc8", "echo ready; exec sleep 4711", **of(stand, tmp_path))
        await made.log_has("att_cc8", b"ready")
        os.kill(made.supervisor("att_cc8"), signal.SIGKILL)
        report = await made.ended("att_cc8")
        assert report.message.startswith("supervisor lost")

    play(tmp_path / "run", story)
    assert stand.containers() == []
    left = subprocess.run(["pgrep", "-f", "^sleep 4711"], capture_output=True, text=True, check=False).stdout
    assert left == ""


def test_a_container_of_another_account_is_that_accounts_and_mounts_what_it_may_see(
    stand: Stand, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    if not stand.real:
        pytest.skip("the program in podman's place becomes nobody")
    work, closed = tmp_path / "work", tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "inner").mkdir()
    work.mkdir()
    os.chown(work, 65534, 65534)
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        os.chmod(folder, 0o755)

    async def story(made: Bench) -> None:
        asked = of(stand, tmp_path, uid=65534, gid=65534)
        report = await made.run("att_cc9", "id -u; touch mine", **asked)
        assert (report.exit_code, told(made, "att_cc9")) == (0, "65534\n")
        assert (work / "mine").stat().st_uid == 65534
        report = await made.run("att_cc10", "true", mounts=(f"{closed}/inner:/inner",), **asked)
        assert report.end_cause == "failed"
        assert "Permission denied" in report.message

    play(tmp_path / "run", story)


def test_memory_beyond_the_limit_ends_it_as_out_of_memory(stand: Stand, tmp_path: Path) -> None:
    if not stand.real or "memory" not in stand.runtime["holds"]:
        pytest.skip("nothing limits the memory of a container here")

    async def story(made: Bench) -> None:
        asked = of(stand, tmp_path, memory_limit_bytes=48 << 20)
        report = await made.run("att_cc11", "a=x; while :; do a=$a$a; done", **asked)
        assert report.end_cause == "out_of_memory"

    play(tmp_path / "run", story)


# --- pulls, and what a runtime is asked


def test_an_image_is_fetched_once_for_all_who_want_it_at_the_same_time(fake: Stand, tmp_path: Path) -> None:
    fake.wants("gate", True)

    async def story(made: Bench) -> None:
        asked = of(fake, tmp_path, image=PULLED)
        for number in range(3):
            await made.start(f"att_cd{number}", "true", **asked)
        await until(lambda: (fake.kept / "calls").exists() and len(fake.calls("pull")) == 1)
        (fake.kept / "gate").unlink()
        for number in range(3):
            report = await made.ended(f"att_cd{number}")
            assert (report.exit_code, report.image_digest) == (0, DIGEST)
        assert len(fake.calls("pull")) == 1
        report = await made.run("att_cd3", "true", **asked)
        assert report.exit_code == 0
        assert len(fake.calls("pull")) == 1

    play(tmp_path / "run", story)


def test_a_pull_is_given_up_when_the_job_is(fake: Stand, tmp_path: Path) -> None:
    fake.wants("gate", True)

    def pulling() -> list[int]:
        line = f"{fake.runtime['program']} pull"
        found = subprocess.run(["pgrep", "-f", line], capture_output=True, text=True, check=False).stdout
        return [int(pid) for pid in found.split() if alive(int(pid))]

    async def story(made: Bench) -> None:
        await made.start("att_cd4", "true", **of(fake, tmp_path, image=PULLED))
        await until(lambda: (fake.kept / "calls").exists() and len(fake.calls("pull")) == 1)
        await made.runner.stop("att_cd4", 0, StopRequest("cancelled", 5_000_000))
        report = await made.ended("att_cd4")
        assert report.end_cause == "cancelled"
        assert not pulling()

    play(tmp_path / "run", story)


def test_a_pull_that_fails_is_an_end_of_its_own(fake: Stand, tmp_path: Path) -> None:
    fake.wants("pull", [[125, "manifest unknown: manifest unknown"]])

    async def story(made: Bench) -> None:
        report = await made.run("att_cd5", "true", **of(fake, tmp_path, image=PULLED))
        assert (report.end_cause, report.exit_code) == ("image_failed", None)
        assert report.message == f"{images.NOT_FOUND}: {PULLED}: manifest unknown: manifest unknown"
        assert len(fake.calls("pull")) == 1

    play(tmp_path / "run", story)


def test_credentials_and_variables_stand_in_no_command_line_and_no_environment(
    fake: Stand, tmp_path: Path
) -> None:
    env = {
        "LD_PRELOAD": "/evil.so", "PLAIN": "canary-plain", "TOKEN": "canary-secret",
        "BURSAR_SECRET_NAMES": "TOKEN",
    }  # fmt: skip

    async def story(made: Bench) -> None:
        asked = of(fake, tmp_path, image=PULLED, env=env, image_auth="me:canary-password")
        report = await made.run("att_cd7", "unset LD_PRELOAD; echo $PLAIN $TOKEN", **asked)
        assert report.exit_code == 0
        assert told(made, "att_cd7").endswith("canary-plain canary-secret\n")

    play(tmp_path / "run", story)
    lines = (fake.kept / "calls").read_text()
    assert "canary" not in lines
    assert all("LD_PRELOAD" not in one["env"] for one in fake.calls("create") + fake.calls("start"))
    asked = fake.calls("pull")[0]["argv"]
    assert asked[asked.index("--authfile") + 1].startswith("/dev/shm/")
    assert not [path for path in Path("/dev/shm").iterdir() if "att_cd7" in path.name]


def test_a_container_gets_no_more_than_its_job_has(fake: Stand, tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        asked = of(fake, tmp_path, gpus=("GPU-1", "GPU-2"), memory_limit_bytes=1 << 30, cpu_limit_milli=1500)
        asked["runtime"] = fake.runtime | {"holds": ["memory", "cpu", "pids"], "gpus": "cdi", "cgroup": False}
        await made.run("att_cd8", "echo $CUDA_VISIBLE_DEVICES", env={"CUDA_VISIBLE_DEVICES": "2,3"}, **asked)
        assert told(made, "att_cd8") == "0,1\n"

    play(tmp_path / "run", story)
    words = fake.calls("create")[0]["argv"]
    text = " ".join(words)
    assert "--device nvidia.com/gpu=GPU-1 --device nvidia.com/gpu=GPU-2" in text
    assert f"--memory {1 << 30} --cpus 1.500 --pids-limit" in text
    assert "--privileged" not in words
    assert "docker.sock" not in text
    if os.geteuid() != 0:
        assert "--cap-drop ALL --security-opt no-new-privileges" in text


def test_a_runtime_that_fails_is_the_nodes_fault_and_one_that_is_missing_says_what_to_install(
    fake: Stand, tmp_path: Path
) -> None:
    fake.wants("fails", {"create": "crun: cgroups in hybrid mode not supported"})

    async def story(made: Bench) -> None:
        asked = of(fake, tmp_path)
        report = await made.run("att_cd9", "true", **asked)
        assert report.end_cause == "start_failed"
        assert report.message == "container: crun: cgroups in hybrid mode not supported"
        report = await made.run("att_cd10", "true", **(asked | {"runtime": None}))
        assert report.end_cause == "start_failed"
        assert "apt-get install podman" in report.message

    play(tmp_path / "run", story)


def test_output_without_end_stays_within_the_logs_bound(fake: Stand, tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        script = (
            "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done"
        )
        report = await made.run("att_cd11", script, log_cap_bytes=40_000, **of(fake, tmp_path))
        assert report.exit_code == 0
        assert report.log_bytes == 3000 * 41
        assert report.log_dropped_bytes > 0
        assert "none" in fake.calls("create")[0]["argv"], "the runtime keeps no log of its own"

    play(tmp_path / "run", story)


def test_an_agent_that_is_killed_and_comes_back_finds_the_container_and_its_end(
    fake: Stand, tmp_path: Path
) -> None:
    async def story(made: Bench) -> None:
        gate = tmp_path / "work" / "go"
        script = f"echo ready; while [ ! -e {gate} ]; do sleep 0.02; done; exit 9"
        await made.start("att_cd12", script, **of(fake, tmp_path))
        await made.log_has("att_cd12", b"ready")
        await made.runner.close()
        again = Bench(made.directory)
        await again.runner.open()
        (truth,) = await again.runner.adopt()
        assert truth.state == "running"
        gate.touch()
        report = await again.ended("att_cd12")
        assert report.exit_code == 9
        await again.runner.shutdown_launcher()
        await again.runner.close()
        await made.runner.open()

    play(tmp_path / "run", story)
    assert fake.containers() == []
