"""A whole state directory, walked file by file: each has a plan for its damage, and the cluster comes up."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOISE = bytes(range(256)) * 8
ATTEMPT = r"agents/local-1/run/attempts/[a-z0-9_.]+"
PLANS: dict[str, str] = {
    # Read by `up`, `down`, `status` and the keeper: test_local_damage, test_local_keeping.
    r"(cluster|desired)\.json|(keeper|up)\.lock|logs/[a-z0-9-]+\.log": "mended",
    # Sockets and their lock, by the daemon: test_socket_directory.
    r"run/(auth|bursar|notify)\.sock|run/socket\.lock": "mended",
    # The agent: test_agent_damage.
    r"agents/local-1/(agent|log-end)\.json|agents/local-1/(agent\.lock|forgotten|instance)": "mended",
    r"agents/local-1/(spool/usage-\d{20}\.spool|signals/[a-z0-9_.]+)": "mended",
    r"agents/local-1/run/(agent\.sock|launcher\.(lock|log|sock))": "mended",
    rf"{ATTEMPT}/(starting|start\.json|stop\.json|exit\.json)": "mended",
    r"agents/local-1/run/free/made\.\d+\.\d+/(starting|start\.json|exit\.json)": "mended",
    r"agents/local-1/steps/(sock|serve|bash-env|bin/[a-z-]+|slurm/[a-z]+)": "mended",
    # Pages and gateway: test_web_metrics, test_gateway_link.
    r"web/metrics-token|gateway/(gateway|usage)\.json|gateway/replicas\.pem": "mended",
    # A link is its name alone: whatever lies there is taken away.
    r"web/links/[0-9a-f]+\.\d+": "mended",
    # What the job itself wrote: nobody reads meaning into it.
    rf"{ATTEMPT}/log(\.\d+)?": "the job's",
    # The books: opened whole, or refused with what to do; the tests of the store and its head.
    r"daemon/bursard\.(db|db-shm|db-wal|head|lock)|daemon\.secrets-key": "the books",
}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "noise": lambda path: path.write_bytes(NOISE),
    "removed": lambda path: path.unlink(),
    "directory": lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()),
}


@pytest.fixture
def stopped(make_cluster: Callable[..., Any]) -> Any:
    """A cluster with pages and a gateway that ran one job to its end and is down."""
    made = make_cluster(1, "--http", f"127.0.0.1:{free_port()}", "--gateway", f"127.0.0.1:{free_port()}")
    assert made.ended(made.job("--", "sh", "-c", "echo one; exit 3"))["exit_code"] == 3
    made.down()
    return made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def files(state: Path) -> list[Path]:
    return sorted(path for path in state.rglob("*") if not path.is_dir() and ".damaged-" not in str(path))


def plan_of(state: Path, path: Path) -> str:
    name = str(path.relative_to(state))
    return next((plan for pattern, plan in PLANS.items() if re.fullmatch(pattern, name)), "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_file_has_a_plan_and_a_cluster_with_all_of_them_damaged_comes_up(stopped: Any) -> None:
    """A file that nobody planned for fails here: add its plan, and a test of its reader."""
    assert [path for path in files(stopped.state) if not plan_of(stopped.state, path)] == []
    for name, damage in DAMAGES.items():
        hit = [path for path in files(stopped.state) if plan_of(stopped.state, path) == "mended"]
        assert len(hit) > 8
        for path in hit:
            if path.is_socket():
                path.unlink()
                path.write_text("no socket")
            damage(path)
        stopped.up()
        job = stopped.job("--", "sh", "-c", "exit 4")
        assert stopped.ended(job)["exit_code"] == 4, name
        assert [agent["state"] for agent in stopped.status()["agents"]] == ["up"], name
        stopped.down()
    aside = {path.name.partition(".damaged-")[0] for path in stopped.state.rglob("*.damaged-*")}
    assert {"cluster.json", "desired.json", "agent.json", "instance", "forgotten"} <= aside
    assert {"metrics-token", "gateway.json", "usage.json"} <= aside


WITHOUT = "-dac_override,-dac_read_search"
"""Root passes by modes; root without these is an account like others, and all it starts is too."""
SHUT: dict[str, Callable[[Path], list[Path]]] = {
    "files": lambda state: [path for path in files(state) if path.is_file()],
    "directories": lambda state: sorted((path for path in state.rglob("*") if path.is_dir()), reverse=True),
    "the whole": lambda state: [state],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="no setpriv: root passes by modes"
)
def test_what_lost_all_rights_is_opened_again_or_refused_with_the_command_that_opens_it(stopped: Any) -> None:
    """Nothing is wrong with what is in it, so nothing is set aside, and what was known is known."""
    if os.geteuid() == 0:
        stopped.before = ("setpriv", f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}")
    for name, which in SHUT.items():
        hit = which(stopped.state)
        for path in hit:
            path.chmod(0)
        flags = ("--agents", "1", "--state-dir", str(stopped.state), "--detach")
        done = stopped.run("up", *flags, code=None)
        if done.returncode:
            assert done.returncode == 5, (name, done.stderr)
            remedy = re.search(r"chmod -R u\+rwX (\S+?)[,;)]?(?=\s|$)", done.stderr)
            assert remedy, (name, done.stderr)
            subprocess.run(["chmod", "-R", "u+rwX", remedy[1]], check=True)
            stopped.up()
        assert stopped.ended(stopped.job("--", "sh", "-c", "exit 4"))["exit_code"] == 4, name
        assert stopped.show("1")["exit_code"] == 3, name
        assert stopped.run("logs", "1").stdout == "one\n", name
        stopped.down()
        said = "".join(path.read_text() for path in (stopped.state / "logs").glob("*.log"))
        assert "Traceback" not in said, name
    assert list(stopped.state.rglob("*.damaged-*")) == []
