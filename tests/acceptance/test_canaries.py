"""A secret and a job's environment, looked for everywhere a real cluster leaves something."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path
from typing import Any

SECRET = "canary-secret-5d1c80"
IN_FILE = "canary-file-90be14"
PRIVATE = "canary-env-77aa02"
JOB = """
name: watched
project: nlp
secrets: [HF_TOKEN, {{name: KUBECONFIG, file: true}}]
env: {{WATCHED: {private}}}
resources: {{cpus: "0.1"}}
run: |
  printf %s "$HF_TOKEN" | sha256sum
  printf %s "$WATCHED" | sha256sum
  sha256sum < "$KUBECONFIG"; echo "$KUBECONFIG"
  {wait}
"""


def files_with(root: Path, *words: bytes) -> set[str]:
    """Names of files below `root` that hold one of these."""
    found = set()
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and any(word in path.read_bytes() for word in words):
            found.add(path.name)
    return found


def commands_with(word: str) -> list[str]:
    """Command lines of living processes that hold it."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = line.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if word in text:
            found.append(text.replace("\0", " "))
    return found


def forms(secret: str) -> tuple[bytes, ...]:
    """The value as it is, and as base64 would show it."""
    return secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")[:-1]


def test_a_secret_is_in_the_job_and_nowhere_else(own_cluster: Any) -> None:
    cluster = own_cluster
    cluster.run("secret", "set", "HF_TOKEN", "--project", "nlp", stdin=SECRET + "\n")
    cluster.run("secret", "set", "KUBECONFIG", "--project", "nlp", stdin=IN_FILE)
    gate = cluster.gate()
    job = cluster.submit(JOB.format(private=PRIVATE, wait=gate.wait))
    cluster.until_state(job, "RUNNING")
    assert commands_with(SECRET) == []
    assert commands_with(IN_FILE) == []
    assert commands_with(PRIVATE) == []
    said = ""
    for words in (
        ("show", job), ("explain", job), ("ls", "--state", "all"), ("events", "--tail", "500"),
        ("secret", "ls"), ("nodes",), ("doctor",), ("cost",), ("grant", "ls"),
    ):  # fmt: skip
        done = cluster.run(*words, "-o", "json", code=None)
        said += done.stdout + done.stderr
    assert SECRET not in said
    assert IN_FILE not in said
    assert '"HF_TOKEN"' in said
    assert PRIVATE not in cluster.run("events", "--tail", "500", "-o", "json").stdout
    assert files_with(cluster.state, *forms(SECRET), *forms(IN_FILE)) == set()
    # The log of events is where a job's environment is kept; the directory is the daemon's alone.
    assert files_with(cluster.state, PRIVATE.encode()) <= {"bursard.db", "bursard.db-wal"}
    gate.open()
    assert cluster.ended(job)["state"] == "SUCCEEDED"
    *seen, path = [line.split()[0] for line in cluster.log(job).splitlines()]
    assert seen == [hashlib.sha256(value.encode()).hexdigest() for value in (SECRET, PRIVATE, IN_FILE)]
    assert path.startswith("/dev/shm/")
    assert not Path(path).parent.exists()
    backup = cluster.work / "copy.bursar"
    cluster.run("backup", "--out", str(backup))
    month, focus = time.strftime("%Y-%m", time.gmtime()), cluster.work / "focus.csv"
    cluster.run("report", "focus", "--period", month, "--out", str(focus))
    cluster.down()
    assert files_with(cluster.home, *forms(SECRET), *forms(IN_FILE)) == set()
    key = cluster.state / "daemon.secrets-key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert files_with(cluster.work, key.read_bytes().strip()) == set()
