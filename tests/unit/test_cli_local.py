"""`up`, `down` and `status` over real processes, with a stand-in daemon, agents and pages.

The stand-ins are modules named bursard, bursar_agent and bursar_web in a folder of their own, first on the
import path: a daemon that is `FakeServer`, and agents that only live. What is tested is who starts,
keeps, adopts and ends whom.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bursar.cli import local
from bursar.clock import SECOND_US, parse_instant
from bursar.errors import ServerUnavailable
from bursar.local import pages, processes, waiting
from bursar.local.cluster import LocalCluster

DAEMON = """
import argparse, json, os, pathlib, signal, sys, threading
from bursar.client.fake import FakeServer
from bursar.v1 import events_pb2, jobs_pb2, nodes_pb2, types_pb2
p = argparse.ArgumentParser()
for name in ("state-dir", "socket-dir", "policies"):
    p.add_argument("--" + name)
a = p.parse_args()
state = pathlib.Path(a.state_dir)
if (state / "broken").exists():
    print("bursard: the database is damaged; restore a backup", file=sys.stderr)
    sys.exit(2)
if (state / "gate").exists():
    (state / "gate").open().close()
for name in ("bursar.sock", "auth.sock"):
    (pathlib.Path(a.socket_dir) / name).unlink(missing_ok=True)
fake = FakeServer(pathlib.Path(a.socket_dir))
live = {"cancelled": False}
cordoned = state / "cordoned"

def nodes(_):
    reason = cordoned.read_text() if cordoned.exists() else ""
    return nodes_pb2.ListNodesResponse(nodes=[
        types_pb2.Node(facts=types_pb2.NodeFacts(name=path.parent.name),
                       state="cordoned" if reason else "up", reason=reason,
                       jobs=1 if (path.parent / "busy").exists() else 0)
        for path in state.parent.glob("agents/*/alive")])

def cordon(request):
    cordoned.write_text(request.reason)

def resume(request):
    cordoned.unlink(missing_ok=True)

def remove(request):
    with (state / "removed").open("a") as told:
        told.write(request.node + " ")
    return nodes_pb2.RemoveNodeResponse(name=request.node)

def jobs(_):
    running = (state / "job").exists()
    return jobs_pb2.ListJobsResponse(jobs=[types_pb2.Job(id="job_1", state="RUNNING")] * running)

def cancel(request):
    (state / "job").unlink()
    (state / "cancelled").write_text(" ".join(request.jobs))

fake.answers.update({
    "Events/Server": events_pb2.ServerResponse(ready=True, version="9.9", pid=os.getpid()),
    "Nodes/List": nodes, "Nodes/Cordon": cordon, "Nodes/Remove": remove, "Nodes/Resume": resume,
    "Jobs/List": jobs, "Jobs/Cancel": cancel})
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
with fake:
    done.wait()
"""
AGENT = """
import argparse, pathlib, signal, threading
p = argparse.ArgumentParser()
for name in ("state-dir", "server", "name", "pool", "cpus", "memory-bytes", "simulate-gpus"):
    p.add_argument("--" + name)
p.add_argument("--terminate-all", action="store_true")
p.add_argument("--terminate-idle", action="store_true")
a = p.parse_args()
state = pathlib.Path(a.state_dir)
if a.terminate_all:
    (state / "terminated").write_text("")
elif a.terminate_idle:
    (state / "idle").write_text("")
else:
    state.mkdir(parents=True, exist_ok=True)
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    (state / "alive").write_text(a.simulate_gpus or "")
    done.wait()
    (state / "alive").unlink()
"""
WEB = """
import argparse, os, pathlib, signal, threading
from bursar.systemd import Notifier
p = argparse.ArgumentParser()
for name in ("state-dir", "server", "listen"):
    p.add_argument("--" + name)
a = p.parse_args()
state = pathlib.Path(a.state_dir)
state.mkdir(parents=True, exist_ok=True)
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
(state / "listens").write_text(a.listen)
Notifier(os.environ).send("READY=1")
done.wait()
"""


@pytest.fixture
def cluster(tmp_path):
    """A directory for `up`, an environment for its processes, and the end of all of them."""
    fakes = tmp_path / "fakes"
    for name, text in (("bursard", DAEMON), ("bursar_agent", AGENT), ("bursar_web", WEB)):
        (fakes / name).mkdir(parents=True)
        (fakes / name / "__init__.py").write_text("")
        (fakes / name / "__main__.py").write_text(text)
    sdk = str(Path(processes.__file__).parents[2])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(fakes), sdk]),
        "HOME": str(tmp_path / "home"),
    }
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "BURSAR_SERVER"):
        env.pop(name, None)
    found = Commands(tmp_path / "state", env)
    yield found
    for process in LocalCluster(found.directory).processes().values():
        processes.kill(process, signal.SIGKILL)
    found.bursar("down", check=False)


class Commands:
    def __init__(self, directory, env):
        self.directory = directory
        self.env = env

    def bursar(self, *words, check=True):
        done = subprocess.run(
            [sys.executable, "-m", "bursar.cli.main", *words, "--state-dir", str(self.directory)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def status(self):
        return json.loads(self.bursar("status", "-o", "json", check=False).stdout)

    def pids(self):
        return {name: p.pid for name, p in LocalCluster(self.directory).processes().items()}


def until(condition, limit_s=20.0):
    stop_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < stop_at, "it did not happen in time"
        time.sleep(0.05)


def test_up_runs_a_cluster_that_status_shows_and_down_ends(cluster):
    done = cluster.bursar("up", "--agents", "2", "--detach", "--simulate-gpus", "H100:8")
    assert f"unix://{cluster.directory}/run/bursar.sock" in done.stdout
    assert "next: " in done.stderr
    status = cluster.status()
    assert status["daemon"]["ready"] is True
    assert status["daemon"]["version"] == "9.9"
    assert [(a["name"], a["state"]) for a in status["agents"]] == [
        ("local-1", "up"), ("local-2", "up"),
    ]  # fmt: skip
    assert (cluster.directory / "agents/local-1/alive").read_text() == "H100:8"
    assert (cluster.directory / "run").stat().st_mode & 0o777 == 0o700
    pids = cluster.pids()
    cluster.bursar("down")
    assert all(processes.noted(pid) is None for pid in pids.values())
    assert (cluster.directory / "agents/local-2/terminated").exists()
    gone = cluster.bursar("status", check=False)
    assert gone.returncode == 5
    assert "nothing runs" in gone.stdout
    assert cluster.bursar("down").returncode == 0


def test_killed_processes_are_started_again(cluster):
    cluster.bursar("up", "--detach")
    before = cluster.pids()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: (
            not set(cluster.pids().values()) & set(before.values())
            and len(cluster.pids()) == 2
            and cluster.status()["daemon"]["ready"]
        )
    )


def test_up_after_four_quick_kills_is_no_failure(cluster):
    cluster.bursar("up", "--detach")
    for _ in range(4):
        before = cluster.pids()["daemon"]
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: cluster.pids().get("daemon", before) != before)
    cluster.bursar("up", "--detach")
    assert cluster.status()["daemon"]["ready"]


def test_daemon_and_agent_that_are_stopped_are_replaced(cluster):
    cluster.bursar("up", "--agents", "2", "--detach")
    before = cluster.pids()
    for name in ("daemon", "local-1"):
        os.kill(before[name], signal.SIGSTOP)
    shown = cluster.status()
    assert shown["daemon"] == {
        "pid": before["daemon"],
        "version": None,
        "ready": False,
        "state": "not responding",
        "trouble": None,
    }
    assert [agent["state"] for agent in shown["agents"]] == ["not responding", "unknown"]
    until(lambda: not {before["daemon"], before["local-1"]} & set(cluster.pids().values()))
    until(lambda: cluster.status()["daemon"]["ready"])
    assert cluster.pids()["local-2"] == before["local-2"]
    assert "daemon: stopped for 5 s: killed" in (cluster.directory / "logs/keeper.log").read_text()


def test_keeper_that_is_stopped_is_shown_and_replaced_by_up(cluster):
    cluster.bursar("up", "--detach")
    before, keeper = cluster.pids(), LocalCluster(cluster.directory).keeper()
    os.kill(keeper.pid, signal.SIGSTOP)
    assert cluster.status()["keeper"] == {"pid": keeper.pid, "state": "not responding"}
    assert "keeper     not responding" in cluster.bursar("status").stdout
    cluster.bursar("up", "--detach")
    assert cluster.pids() == before
    assert cluster.status()["keeper"]["state"] == "ready"
    assert not processes.alive(keeper)


def test_down_ends_a_cluster_that_stands_still(cluster):
    cluster.bursar("up", "--detach")
    pids = cluster.pids()
    stopped = [LocalCluster(cluster.directory).keeper().pid, *pids.values()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    cluster.bursar("down")
    assert all(processes.noted(pid) is None for pid in stopped)


def test_damaged_files_keep_neither_status_nor_down_nor_up(cluster):
    cluster.bursar("up", "--agents", "2", "--detach")
    pids = cluster.pids()
    for name in ("cluster.json", "desired.json"):
        path = cluster.directory / name
        os.truncate(path, path.stat().st_size // 2)
    assert cluster.status()["daemon"]["ready"]
    cluster.bursar("down")
    assert all(processes.noted(pid) is None for pid in pids.values())
    done = cluster.bursar("up", "--detach")
    assert f"damaged, so set aside: {cluster.directory}/desired.json.damaged-" in done.stderr
    assert cluster.pids().keys() == {"daemon", "local-1", "local-2"}


def test_second_up_adopts_what_a_killed_keeper_left(cluster):
    """1. The keeper is killed; daemon and agent live on. 2. `up` again keeps the same processes.
    3. What dies afterwards is started again by the new keeper."""
    cluster.bursar("up", "--agents", "2", "--detach")
    before = cluster.pids()
    os.kill(LocalCluster(cluster.directory).keeper().pid, signal.SIGKILL)
    (cluster.directory / "cluster.json").unlink()  # found by their command lines
    cluster.bursar("up", "--detach")
    assert cluster.pids() == before
    os.kill(before["local-2"], signal.SIGKILL)
    until(lambda: cluster.pids().get("local-2", before["local-2"]) != before["local-2"])


def test_up_on_a_running_cluster_returns_and_can_add_agents(cluster):
    cluster.bursar("up", "--detach")
    before = cluster.pids()
    cluster.bursar("up", "--agents", "2")  # not detached, yet it returns: another keeper keeps it
    after = cluster.pids()
    assert after.keys() == {"daemon", "local-1", "local-2"}
    assert before.items() <= after.items()


def test_fewer_agents_leave_no_job_without_one_and_no_node_behind(cluster):
    cluster.bursar("up", "--agents", "2", "--detach")
    before = cluster.pids()
    busy = cluster.directory / "agents/local-2/busy"
    busy.write_text("")
    done = cluster.bursar("up", "--agents", "1", "--detach", check=False)
    assert done.returncode == 1
    assert "local-2 has 1 job; let them end first (`bursar node drain local-2`)" in done.stderr
    assert cluster.pids() == before
    busy.unlink()
    done = cluster.bursar("up", "--agents", "1", "--detach")
    assert cluster.pids() == {name: before[name] for name in ("daemon", "local-1")}
    assert (cluster.directory / "daemon/removed").read_text() == "local-2 "


def test_three_ups_at_once_make_one_cluster(cluster):
    words = [sys.executable, "-m", "bursar.cli.main", "up", "--detach", "--state-dir"]
    ups = [
        subprocess.Popen(
            [*words, str(cluster.directory)],
            env=cluster.env,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for process in ups:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert cluster.pids().keys() == {"daemon", "local-1"}
    assert [one.name for one in processes.running_below(str(cluster.directory))].count("daemon") == 1


def test_down_cancels_running_jobs_and_up_takes_the_nodes_back(cluster):
    cluster.bursar("up", "--detach")
    (cluster.directory / "daemon/job").write_text("")
    cluster.bursar("down")
    assert (cluster.directory / "daemon/cancelled").read_text() == "job_1"
    assert (cluster.directory / "daemon/cordoned").read_text() == "bursar down"
    cluster.bursar("up", "--detach")
    assert not (cluster.directory / "daemon/cordoned").exists()


def test_down_ends_everything_when_the_keeper_is_gone(cluster):
    cluster.bursar("up", "--detach")
    pids = cluster.pids()
    os.kill(LocalCluster(cluster.directory).keeper().pid, signal.SIGKILL)
    cluster.bursar("down")
    assert all(processes.noted(pid) is None for pid in pids.values())


def test_up_that_fails_shows_the_log_and_leaves_nothing_running(cluster):
    (cluster.directory / "daemon").mkdir(parents=True)
    (cluster.directory / "daemon/broken").write_text("")
    done = cluster.bursar("up", "--detach", check=False)
    assert done.returncode == 5
    assert "the database is damaged" in done.stderr
    assert "daemon.log" in done.stderr
    assert cluster.pids() == {}
    assert LocalCluster(cluster.directory).keeper() is None


def test_up_that_is_late_leaves_the_cluster_to_go_on(cluster, monkeypatch, capsys):
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(waiting, "READY_S", 0.5)
    (cluster.directory / "daemon").mkdir(parents=True)
    gate = cluster.directory / "daemon/gate"
    os.mkfifo(gate)
    late = LocalCluster(cluster.directory)
    assert local._start(late, local.Wish(1, None, None), False).agents == 1  # and Ctrl-C would stop it
    late.let_go()
    said = "not ready yet: the daemon does not listen; it goes on"
    assert said in capsys.readouterr().err
    with pytest.raises(ServerUnavailable, match=said):
        local._start(LocalCluster(cluster.directory), local.Wish(1, None, None), True)
    assert cluster.pids().keys() >= {"daemon", "local-1"}
    gate.rename(gate.with_name("open"))
    with gate.with_name("open").open("w"):
        until(lambda: cluster.status()["daemon"]["ready"])


def test_foreground_up_ends_with_everything_at_an_interrupt(cluster):
    # What was started in a shell's background ignores interrupts, and so would all below it.
    process = subprocess.Popen(
        [
            "env",
            "--default-signal=INT",
            sys.executable,
            "-m",
            "bursar.cli.main",
            "up",
            "--state-dir",
            str(cluster.directory),
        ],
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert "ready" in process.stdout.readline()
        pids = cluster.pids()
        assert len(pids) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    assert all(processes.noted(pid) is None for pid in pids.values())


def test_foreground_up_replaces_a_keeper_that_was_killed(cluster):
    process = subprocess.Popen(
        [sys.executable, "-m", "bursar.cli.main", "up", "--state-dir", str(cluster.directory)],
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert "ready" in process.stdout.readline()
        pids, keeper = cluster.pids(), LocalCluster(cluster.directory).keeper()
        os.kill(keeper.pid, signal.SIGKILL)
        until(lambda: LocalCluster(cluster.directory).keeper() not in (None, keeper))
        assert cluster.pids() == pids
        cluster.bursar("down")
        assert process.wait(120) == 0


def test_long_state_directory_gets_a_short_socket_directory(cluster, tmp_path):
    cluster.directory = tmp_path / ("d" * 80) / ("e" * 40)
    cluster.bursar("up", "--detach")
    run = Path(LocalCluster(cluster.directory).kept().desired.run_dir)
    assert len(str(run / "bursar.sock")) <= 100
    assert run.stat().st_mode & 0o777 == 0o700
    assert cluster.status()["daemon"]["ready"]
    cluster.bursar("down")
    assert not run.exists()


def test_state_directory_that_cannot_be_written_is_refused(cluster, tmp_path):
    (tmp_path / "file").write_text("")
    cluster.directory = tmp_path / "file" / "state"
    done = cluster.bursar("up", "--detach", check=False)
    assert done.returncode == 5
    assert "cannot be written" in done.stderr
    assert "--state-dir" in done.stderr


def test_pages_are_kept_told_of_logged_in_to_moved_and_ended(cluster):
    home = cluster.directory
    told = cluster.bursar("up", "--http", "127.0.0.1:7480", "--detach").stdout
    first = re.search(r"pages: http://127\.0\.0\.1:7480/login\?link=(\S+)\n", told)
    web = cluster.status()["web"]
    assert web == {"url": "http://127.0.0.1:7480/", "pid": cluster.pids()["web"], "state": "ready"}
    assert (home / "web" / "listens").read_text() == "127.0.0.1:7480"
    assert f"pages      http://127.0.0.1:7480/ ready, pid {web['pid']}\n" in cluster.bursar("status").stdout
    again = json.loads(cluster.bursar("web", "url", "-o", "json").stdout)
    assert again["url"].startswith("http://127.0.0.1:7480/login?link=")
    now_s = parse_instant(again["expires_at"]) // SECOND_US - pages.LINK_LIFE_S
    for word in (first[1], again["url"].rpartition("=")[2]):
        assert pages.take_link(home / "web", word, now_s)
        assert not pages.take_link(home / "web", word, now_s)
    daemon = cluster.pids()["daemon"]
    cluster.bursar("up", "--http", "127.0.0.1:7481", "--detach")
    assert (home / "web" / "listens").read_text() == "127.0.0.1:7481"
    assert cluster.pids()["daemon"] == daemon
    cluster.bursar("down")
    assert cluster.pids() == {}
    refused = cluster.bursar("web", "url", check=False)
    assert refused.returncode == 5
    again = f"`bursar up --state-dir {home} --detach`"
    assert refused.stderr == f"error: nothing runs in {home}; start with {again}\n"


def test_pages_for_other_machines_are_refused(cluster):
    done = cluster.bursar("up", "--http", "0.0.0.0:8080", check=False)
    assert done.returncode == 2
    assert "--http: '0.0.0.0:8080' is not 127.0.0.1:PORT" in done.stderr


def test_wrong_simulated_gpus_are_refused(cluster):
    done = cluster.bursar("up", "--simulate-gpus", "8", check=False)
    assert done.returncode == 2
    assert "H100:8" in done.stderr


def test_recycled_pid_is_not_taken_for_ours():
    process = processes.noted(os.getpid())
    assert processes.alive(process)
    assert not processes.alive(process._replace(start=process.start - 1))
    assert not processes.alive(None)
