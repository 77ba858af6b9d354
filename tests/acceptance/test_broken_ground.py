"""The ground under the programs breaks: no room, no right, no database, somebody else already there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BINARY = "daemon/bursard.db"


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., Any]) -> Any:
    return make_cluster(1)


def program(cluster: Any, name: str, *flags: str, limit_s: float = 20) -> subprocess.CompletedProcess[str]:
    """One of the long-running programs, expected to refuse at once."""
    return subprocess.run(
        [Path(sys.executable).parent / name, *flags],
        env=cluster.env,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


def test_a_second_daemon_on_one_directory_is_refused(cluster: Any, tmp_path: Path) -> None:
    state = str(cluster.state / "daemon")
    said = program(cluster, "bursard", "--state-dir", state, "--socket-dir", str(cluster.home / "r2"))
    assert said.returncode == 5, said
    assert state in said.stderr
    assert "Traceback" not in said.stderr
    cluster.run("doctor")


def test_a_node_name_that_is_taken_is_refused(cluster: Any) -> None:
    flags = ("--state-dir", str(cluster.home / "other"), "--server", cluster.server, "--name", "local-1")
    said = program(cluster, "bursar-agent", *flags)
    assert said.returncode == 2, said
    assert "local-1" in said.stderr
    assert "--name" in said.stderr or "name" in said.stderr
    assert "Traceback" not in said.stderr
    assert [node["state"] for node in cluster.ask("nodes")] == ["up"]


def test_wrong_flags_of_the_programs_are_refused(cluster: Any) -> None:
    for name in ("bursard", "bursar-agent"):
        said = program(cluster, name, "--statedir", "x")
        assert said.returncode == 2
        assert "--state-dir" in said.stderr
        assert program(cluster, name, "--help").returncode == 0


def test_a_damaged_database_is_refused_and_left_as_it_is(cluster: Any) -> None:
    job = cluster.ended(cluster.job("--", "true"))
    cluster.down()
    database = cluster.state / BINARY
    good = database.read_bytes()
    try:
        database.write_bytes(b"not a database at all" * 400)
        said = cluster.run("up", "--agents", "1", "--state-dir", str(cluster.state), "--detach", code=None)
        assert said.returncode in (1, 2, 5), said
        assert "bursard.db" in said.stderr, said.stderr
        assert "Traceback" not in said.stderr
        assert database.read_bytes()[:21] == b"not a database at all"
    finally:
        cluster.down()
        database.write_bytes(good)
    cluster.up()
    assert cluster.show(job["id"])["state"] == "SUCCEEDED"
    cluster.doctor_is_content()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(place)]
    if os.getuid() or subprocess.run(argv, capture_output=True, check=False).returncode:
        yield Path("")
        return
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_refuses_and_loses_nothing(make_cluster: Callable[..., Any], small_disk: Path) -> None:
    if not small_disk.name:
        # Not allowed to mount here: an unwritable directory is the same refusal.
        pytest.skip("needs the right to mount a small file system")
    cluster = make_cluster(1)
    cluster.down()
    cluster.state = small_disk / "s"
    cluster.server = f"unix://{cluster.state}/run/bursar.sock"
    cluster.up()
    kept = cluster.ended(cluster.job("--", "true"))
    ballast = small_disk / "ballast"
    # Unbuffered: what a buffer still held would fail once more when the file is closed.
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    deadline = time.monotonic() + 120
    while (said := cluster.run("run", "--", "true", code=None)).returncode == 0:
        assert time.monotonic() < deadline
    assert said.returncode in (1, 3, 5), said
    assert any(word in said.stderr for word in ("disk", "space", "write its log", "answers")), said.stderr
    ballast.unlink()
    cluster.ready()
    assert cluster.show(kept["id"])["state"] == "SUCCEEDED"
    assert cluster.ended(cluster.job("--", "true"))["state"] == "SUCCEEDED"
    broken = [each["check"] for each in cluster.ask("doctor", "--full", code=None) if not each["ok"]]
    assert broken in ([], ["disk"]), "a small disk is said to be small; the log holds up"
    cluster.down()


def test_a_state_directory_that_cannot_be_written_is_named(cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (file / "below", Path("/proc/nowhere")):
        said = cluster.run("up", "--agents", "1", "--state-dir", str(place), "--detach", code=None)
        assert said.returncode in (2, 5), said
        assert str(place) in said.stderr
        assert "Traceback" not in said.stderr
