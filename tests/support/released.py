"""State directories of released formats, as tests open them."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from bursard.state import State
from bursard.store import JobFilter, SqliteStore

FIXTURES = Path(__file__).parents[1] / "fixtures"


def unpacked(kept: int | str, name: str, folder: Path) -> Path:
    """The daemon's directory of a fixture, as a copy of its own. `kept`: a schema of events, or a folder."""
    source = f"schema-{kept}" if isinstance(kept, int) else kept
    with tarfile.open(FIXTURES / source / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "daemon").chmod(0o700)
    return folder / "daemon"


def without_images(directory: Path) -> None:
    connection = sqlite3.connect(directory / "bursard.db")
    connection.execute("delete from snapshots")
    connection.commit()
    connection.close()


def live_jobs(state: State) -> dict[int, tuple[str, str, bool]]:
    return {
        job.number: (job.spec.name, job.state.value, job.held)
        for job in state.jobs.values()
        if not job.parent_id
    }


def ended_jobs(store: SqliteStore) -> dict[int, tuple[str, str, int]]:
    rows = store.jobs(JobFilter()).rows
    return {row.number: (row.name, row.state, row.settled_nanos) for row in rows}


def start_and_stop(directory: Path, folder: Path) -> None:
    """A daemon of today starts on a state directory, and stops in order."""
    sockets, path = folder / "run", folder / "log"
    argv = ["--state-dir", str(directory), "--socket-dir", str(sockets)]
    with path.open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "bursard", *argv], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not (sockets / "auth.sock").exists():
                assert daemon.poll() is None, path.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
        finally:
            daemon.kill()
    assert "Traceback" not in path.read_text()
