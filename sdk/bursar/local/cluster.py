"""The cluster of one state directory: where its parts lie, how it starts, how it ends.

Owns    the layout of `bursar up`: DIR/{daemon,agents/NAME,logs,run}, desired.json (what `up` wants),
        cluster.json (what the keeper runs), keeper.lock, up.lock.
Why     `up`, `down` and `status` must agree about what runs, also after any of it was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bursar.client import address
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable, StoreUnavailable
from bursar.local import files, keeper, processes

if TYPE_CHECKING:
    from bursar.client import Client

READY_S: Final = 30.0
"""How long `up` waits until everything is connected."""
STOP_JOBS_S: Final = 10.0
STOP_GRACE_US: Final = 5_000_000
"""Grace that `down` leaves a running job, so that it is gone within `STOP_JOBS_S`."""
KEEPER_STOP_S: Final = 20.0
TERMINATE_S: Final = 40.0
"""How long `down` lets the agents' own clean-up end what jobs are left."""
DOWN_REASON: Final = "bursar down"
"""Why nodes are cordoned while `down` empties them; `up` resumes nodes with this reason."""
FAILURES_MAX: Final = 3
LIVE: Final = ("STARTING", "RUNNING", "STOPPING")


class LocalCluster:
    """What lies and runs below one state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))
        self._spawned: subprocess.Popen[bytes] | None = None

    # -------------------------------------------------------------- what is there

    def facts(self) -> dict[str, Any]:
        """What the keeper wrote last: server, configuration, pids."""
        return files.read_json(self.directory / "cluster.json")

    @property
    def server(self) -> str:
        """The address of its daemon; empty before the first `up`."""
        return str(self.facts().get("server") or "")

    def keeper_pid(self) -> int | None:
        """The keeper that runs."""
        noted = self.facts().get("keeper")
        return int(noted["pid"]) if noted and processes.alive(noted) else None

    def processes(self) -> dict[str, dict[str, Any]]:
        """The daemon and the agents that run, by name, whoever started them."""
        facts = self.facts()
        found = {
            name: process
            for name, process in (facts.get("processes") or {}).items()
            if processes.alive(process)
        }
        for child in facts.get("children") or []:
            if child["name"] in found:
                continue
            for pid in processes.find(child["module"], child["state_dir"]):
                process = processes.noted(pid)
                if process is not None:
                    found[child["name"]] = process
        return found

    def agent_names(self) -> list[str]:
        """The agents it should have."""
        children = self.facts().get("children") or []
        return [child["name"] for child in children if child["name"] != "daemon"]

    # -------------------------------------------------------------- up

    def prepare(self) -> None:
        """Make the directories. Raises `StoreUnavailable` when that cannot be done."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("daemon", "agents", "logs"):
                (self.directory / name).mkdir(mode=0o700, exist_ok=True)
            probe = self.directory / f".probe.{os.getpid()}"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        except OSError as error:
            raise StoreUnavailable(
                f"the state directory {self.directory} cannot be written: {error.strerror}; "
                "make room or give another one with --state-dir"
            ) from None

    def run_directory(self) -> Path:
        """Where the sockets lie, 0700. A path too long for a socket is replaced by a short one."""
        wanted = self.directory / "run"
        if len(os.fsencode(wanted / "bursar.sock")) > address.SOCKET_PATH_MAX:
            digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
            base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
            if len(os.fsencode(base)) > 60 or not os.access(base, os.W_OK):
                base = Path("/tmp")
            wanted = base / f"bursar-{os.getuid()}-{digest}"
        try:
            wanted.mkdir(mode=0o700, exist_ok=True)
            found = wanted.lstat()
        except OSError as error:
            raise StoreUnavailable(
                f"the socket directory {wanted} cannot be made: {error.strerror}"
            ) from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise StoreUnavailable(f"{wanted} is not a directory of this user; remove it")
        wanted.chmod(0o700)
        return wanted

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Only one `up` or `down` of a directory at a time."""
        fd = files.lock(self.directory / "up.lock", wait_s=READY_S)
        if fd is None:
            raise BursarError(f"another `bursar up` or `down` works on {self.directory}; try again")
        try:
            yield
        finally:
            os.close(fd)

    def desire(self, agents: int | None, policies: str | None, simulate_gpus: str | None) -> dict[str, Any]:
        """What should run: what is given now, else what the last `up` on this directory wanted."""
        old = files.read_json(self.directory / "desired.json")
        run = self.run_directory()
        count = agents or int(old.get("agents") or 1)
        policies = policies or old.get("policies") or shipped_policies()
        gpus = simulate_gpus if simulate_gpus is not None else str(old.get("simulate_gpus") or "")
        server = f"unix://{run / 'bursar.sock'}"
        daemon = self._child("daemon", "bursard", self.directory / "daemon")
        daemon["command"] += ["--socket-dir", str(run)]
        daemon["command"] += ["--policies", policies] if policies else []
        children = [daemon]
        cpus, memory = machine()
        for number in range(1, count + 1):
            name = f"local-{number}"
            agent = self._child(name, "bursar_agent", self.directory / "agents" / name)
            agent["command"] += ["--server", server, "--name", name, "--pool", "local"]
            agent["command"] += ["--cpus", str(max(1, cpus // count))]
            agent["command"] += ["--memory-bytes", str(memory // count)]
            agent["command"] += ["--simulate-gpus", gpus] if gpus else []
            children.append(agent)
        return {
            "server": server,
            "state_dir": str(self.directory),
            "run_dir": str(run),
            "agents": count,
            "policies": policies,
            "simulate_gpus": gpus,
            "children": children,
        }

    def _child(self, name: str, module: str, state_dir: Path) -> dict[str, Any]:
        command = [sys.executable, "-P", "-m", module, "--state-dir", str(state_dir)]
        return {"name": name, "module": module, "state_dir": str(state_dir), "command": command}

    def keep(self, desired: dict[str, Any]) -> bool:
        """Have a keeper keep `desired`. False when one ran already and only learned of it."""
        before = files.read_json(self.directory / "desired.json")
        files.write_json(self.directory / "desired.json", desired)
        running = self.keeper_pid()
        if running is not None:
            if before != desired:
                os.kill(running, signal.SIGHUP)
            return False
        with (self.directory / "logs" / "keeper.log").open("ab") as log:
            self._spawned = subprocess.Popen(
                [sys.executable, "-P", "-m", "bursar.local.keeper", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=keeper.child_env(),
                start_new_session=True,
            )
        return True

    def wait_ready(self, desired: dict[str, Any], progress: Callable[[str], None]) -> None:
        """Until the daemon is ready and every agent connected.

        Raises:
            ServerUnavailable: not within `READY_S`, or something keeps failing; with the log's end.
        """
        from bursar.client import Client

        stop_at = time.monotonic() + READY_S
        socket = Path(desired["run_dir"]) / "bursar.sock"
        names = {child["name"] for child in desired["children"]} - {"daemon"}
        said = ""
        while not address.probe(socket):
            self._check_starting(stop_at, "the daemon does not listen")
            said = _say_once(progress, said, "starting the daemon")
            time.sleep(0.02)
        with Client(desired["server"]) as client:
            while True:
                what = _missing(client, names)
                if not what:
                    return
                said = _say_once(progress, said, what)
                self._check_starting(stop_at, what)
                time.sleep(0.05)

    def _check_starting(self, stop_at: float, what: str) -> None:
        facts = self.facts()
        kept = self.keeper_pid() is not None
        failures = facts.get("failures") or {} if kept else {}
        broken = [name for name, count in failures.items() if count >= FAILURES_MAX]
        # One that found another keeper ends at once; that other one is as good.
        ended = not kept and self._spawned is not None and self._spawned.poll() is not None
        if broken or ended or time.monotonic() > stop_at:
            name = broken[0] if broken else "keeper" if ended else "daemon"
            why = f"the {name} keeps failing" if broken else "the keeper ended" if ended else what
            raise ServerUnavailable(self._failure(name, why))

    def _failure(self, name: str, why: str) -> str:
        """Why it did not come up: the end of the log, and what to do."""
        log = self.directory / "logs" / f"{name}.log"
        try:
            lines = log.read_text("utf-8", "replace").splitlines()[-12:]
        except OSError:
            lines = []
        text = "\n".join(lines)
        remedy = f"see {log}"
        if "No module named" in text:
            extra = "agent" if name.startswith("local-") else "daemon"
            remedy = f"a module is missing: pip install 'bursar[{extra}]'"
        shown = "".join(f"\n  {line}" for line in lines)
        return f"the cluster did not start: {why}; {remedy}{shown}"

    def wait_keeper(self) -> None:
        """Block while the keeper this process started runs."""
        if self._spawned is not None:
            self._spawned.wait()

    def let_go(self) -> None:
        """Leave the keeper running after this process has gone."""
        if self._spawned is not None:
            self._spawned.returncode = self._spawned.poll() or 0  # no warning about an open child

    # -------------------------------------------------------------- down

    def stop(self, progress: Callable[[str], None]) -> bool:
        """Stop jobs, agents, daemon and keeper; True when something ran."""
        running, pid = self.processes(), self.keeper_pid()
        if not running and pid is None:
            self._terminate_jobs()
            return False
        if "daemon" in running:
            self._stop_jobs(progress)
        if pid is not None:
            progress("stopping the agents and the daemon")
            noted = processes.noted(pid)
            processes.kill(noted, signal.SIGTERM)
            for late in processes.wait_gone([noted], KEEPER_STOP_S):
                processes.kill(late, signal.SIGKILL)
                processes.wait_gone([late], 2.0)
            if self._spawned is not None:
                self._spawned.wait()
        self._end(self.processes())
        facts = self.facts()
        if facts:
            facts |= {"keeper": None, "processes": {}, "failures": {}}
            with contextlib.suppress(OSError):  # a full disk must not keep anything running
                files.write_json(self.directory / "cluster.json", facts)
        self._terminate_jobs()
        return True

    def _end(self, running: dict[str, dict[str, Any]]) -> None:
        """End what no keeper ended: agents, then the daemon."""
        agents = [p for name, p in running.items() if name != "daemon"]
        daemons = [p for name, p in running.items() if name == "daemon"]
        for group in (agents, daemons):
            for process in group:
                processes.kill(process, signal.SIGTERM)
            for late in processes.wait_gone(group, keeper.STOP_S):
                processes.kill(late, signal.SIGKILL)
            processes.wait_gone(group, 2.0)

    def _stop_jobs(self, progress: Callable[[str], None]) -> None:
        """Cancel what runs. Nodes are cordoned first, so that nothing pending takes its place."""
        from bursar.client import Client

        try:
            with Client(self.server) as client:
                client.server(timeout_s=5.0)  # one that does not answer is not asked for more
                for node in client.nodes():
                    if node.state == "up":
                        client.cordon(node.facts.name, reason=DOWN_REASON)
                stop_at = time.monotonic() + STOP_JOBS_S
                asked: set[str] = set()
                while live := _live_jobs(client):
                    fresh = [job for job in live if job not in asked]
                    if fresh:
                        progress(f"stopping {len(fresh)} running job{'s' * (len(fresh) != 1)}")
                        for i in range(0, len(fresh), 500):
                            client.cancel(fresh[i : i + 500], grace_us=STOP_GRACE_US)
                        asked.update(fresh)
                    if time.monotonic() > stop_at:
                        progress(f"{len(live)} jobs did not stop in {STOP_JOBS_S:g} s; ending them")
                        return
                    time.sleep(0.1)
        except BursarError as error:
            progress(f"the daemon cannot stop the jobs ({error.message}); ending them")

    def _terminate_jobs(self) -> None:
        """Whatever job, supervisor or launcher is left below an agent's directory ends now.

        Raises `BursarError` when something does not end.
        """
        stop_at = time.monotonic() + TERMINATE_S
        running = []
        for directory in sorted((self.directory / "agents").glob("*/")):
            command = [sys.executable, "-P", "-m", "bursar_agent"]
            command += ["--state-dir", str(directory), "--terminate-all"]
            running.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=keeper.child_env(),
                    text=True,
                    errors="replace",
                )
            )
        complaints = [said for process in running if (said := _outcome(process, stop_at))]
        if complaints:
            raise BursarError("\n".join(complaints))


def _outcome(process: subprocess.Popen[str], stop_at: float) -> str:
    """What a `--terminate-all` complained about; empty when it went well."""
    try:
        _, said = process.communicate(timeout=max(0.1, stop_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"jobs were not ended within {TERMINATE_S:g} s; look for their processes with ps"
    return said.strip() or f"exit code {process.returncode}" if process.returncode else ""


def _missing(client: Client, names: set[str]) -> str:
    """What is still to come; empty when all is ready. Nodes that `down` emptied are resumed."""
    try:
        if not client.server(timeout_s=2.0).ready:
            return "the daemon is not ready"
        nodes = {node.facts.name: node for node in client.nodes()}
        for name in names & nodes.keys():
            if nodes[name].reason == DOWN_REASON and nodes[name].state != "up":
                client.resume(name)
        up = {name for name in names & nodes.keys() if nodes[name].state not in ("silent",)}
        emptied = {name for name in up if nodes[name].reason == DOWN_REASON}
        ready = len(up - emptied)
        return "" if ready == len(names) else f"{ready} of {len(names)} agents connected"
    except BursarError as error:
        return f"the daemon is not ready: {error.message}"


def _live_jobs(client: Client) -> list[str]:
    """Ids of jobs with processes; of an array, of its tasks that have some."""
    found = []
    for job in client.list(states=LIVE):
        if job.HasField("array"):
            found += [task.id for task in client.list(states=LIVE, tasks_of=job.id)]
        else:
            found.append(job.id)
    return found


def _say_once(progress: Callable[[str], None], said: str, text: str) -> str:
    if text != said:
        progress(text)
    return text


# ------------------------------------------------------------------ this machine


def check_installed() -> None:
    """The daemon and the agent can be imported. Raises `BursarError` with what to install."""
    for module, extra in (("bursard", "daemon"), ("bursar_agent", "agent")):
        if importlib.util.find_spec(module) is None:
            raise BursarError(
                f"{module} is not installed; `bursar up` needs pip install 'bursar[daemon,agent]' "
                f"(here: the extra {extra!r})"
            )


def shipped_policies() -> str:
    """The shipped catalogue, in the wheel or in the source tree; empty when there is none."""
    spec = importlib.util.find_spec("bursar_policies")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for candidate in (Path(place) / "catalog", Path(place).parent / "catalog"):
            if candidate.is_dir():
                return str(candidate.resolve())
    return ""


def machine() -> tuple[int, int]:
    """CPUs and bytes of memory that this process may use."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return cpus, memory


def choose_directory(given: str | None) -> Path:
    """`--state-dir`, else the newest running cluster's, else the default."""
    if given is not None:
        if not given:
            raise InvalidRequest("--state-dir: the path is empty")
        return Path(given).expanduser()
    for cluster in address.running_clusters():
        return Path(cluster["state_dir"])
    return address.state_home()
