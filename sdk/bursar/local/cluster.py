"""The cluster of one state directory: where its parts lie, what runs of it, how it starts.

Owns    the layout of `bursar up`: DIR/{daemon,agents/NAME,logs,run}, desired.json (what `up` wants),
        cluster.json (what the keeper runs), keeper.lock, up.lock.
Why     `up`, `down` and `status` must agree about what runs, also after any of it was killed, and
        after any of its files was damaged: files are asked first, the processes themselves decide.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.aside import Damaged, clear_for_file, found_aside, own_directory, set_aside
from bursar.client import address
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable, WrongState
from bursar.local import books, clouds, files, heartbeat, pages, processes
from bursar.local.child import child_env
from bursar.local.files import (
    AGENT_MODULE,
    DAEMON_MODULE,
    GATEWAY_MODULE,
    WEB_MODULE,
    ChildSpec,
    Desired,
    Kept,
)
from bursar.local.machine import asked_policies, machine, shipped_policies
from bursar.local.processes import Process

if TYPE_CHECKING:
    from bursar.client import WireClient

LOCK_WAIT_S: Final = 60.0
"""How long one `up` or `down` waits for another."""
DOWN_REASON: Final = "bursar down"
"""Why nodes are cordoned while `down` empties them; `up` resumes nodes with this reason."""
KEEPER_LOOK_S: Final = 5.0
DIRECTORY_BYTES_MAX: Final = 400
"""Of a state directory's path: SQLite opens no path of more than 512."""
_FOLDERS: Final = ("daemon", "logs", "run", "agents", "agents/*", "agents/*/spool", "agents/*/signals")
_FOLDERS_BESIDE: Final = ("web", "gateway")
_FOLDERS_OF_JOBS: Final = ("agents/*/run", "agents/*/run/attempts")
_AGENT = re.compile(r"local-([1-9][0-9]?)")


class LocalCluster:
    """What lies and runs below one state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))
        self.spawned: subprocess.Popen[bytes] | None = None
        """The keeper that this process started."""
        self.failures_before: dict[str, int] = {}
        """What a keeper that ran already had counted before it was asked for more."""

    # -------------------------------------------------------------- what is there

    def kept(self) -> Kept:
        """What the keeper noted last; nothing when that cannot be read."""
        try:
            return files.read_kept(self.directory)
        except Damaged:
            return Kept()

    @property
    def server(self) -> str:
        """The address of its daemon; empty before the first `up`."""
        noted = self.kept().desired
        if noted.server and self._named_here(noted):
            return noted.server
        if self.moved() and not Path(noted.run_dir).is_relative_to(noted.state_dir):
            return noted.server  # its socket lies elsewhere, and did not move with it
        if not self.directory.is_dir():
            return ""
        for one in processes.running_below(str(self.directory)):
            if "--socket-dir" in one.words[:-1]:
                return f"unix://{one.words[one.words.index('--socket-dir') + 1]}/bursar.sock"
        return f"unix://{self._run_path() / 'bursar.sock'}" if (self.directory / "daemon").is_dir() else ""

    def refuse_name(self) -> None:
        """What no daemon could keep its books under. Raises `InvalidRequest`."""
        name = os.fsencode(self.directory)
        try:
            name.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"--state-dir: {name.decode('utf-8', 'backslashreplace')} is not UTF-8 text, as its files and"
                " jobs must name it; give it another name"
            ) from None
        if len(name) > DIRECTORY_BYTES_MAX:
            raise InvalidRequest(
                f"--state-dir: the path has {len(name)} bytes, and at most {DIRECTORY_BYTES_MAX} leave SQLite"
                " room to open what lies below it; give a shorter one"
            )

    def forget_sockets(self) -> None:
        """Where the sockets lie elsewhere, for want of room in their names, nothing of them stays."""
        wanted = self._run_path()
        if wanted.parent == self.directory or wanted.is_symlink() or not wanted.is_dir():
            return
        if wanted.stat().st_uid == os.getuid():
            shutil.rmtree(wanted, ignore_errors=True)

    def _named_here(self, desired: Desired) -> bool:
        return processes.same(desired.state_dir, str(self.directory))

    def moved(self) -> str:
        """The name that this directory had when what runs of it was started, where it has another one now."""
        kept = self.kept()
        if not kept.desired.state_dir or self._named_here(kept.desired):
            return ""
        runs = any(processes.alive(one) for one in (kept.keeper, *kept.processes.values()))
        return kept.desired.state_dir if runs else ""

    def refuse_moved(self) -> None:
        """What runs goes on under the old name, which nothing that is started now would serve.

        Raises `WrongState`.
        """
        if old := self.moved():
            here, there = shlex.quote(str(self.directory)), shlex.quote(old)
            raise WrongState(
                f"{self.directory} was {old} when its cluster was started, which still runs: put the"
                f" directory back (mv {here} {there}), or end what runs: bursar down --state-dir {here}"
            )
        if moved := address.moved_words(str(self.directory)):
            raise WrongState(moved)

    def keeper(self) -> Process | None:
        """The keeper that runs, hung or not."""
        noted = self.kept().keeper
        if processes.alive(noted):
            return noted
        return next(iter(processes.keepers(str(self.directory))), None)

    def keeper_responds(self, keeper: Process) -> bool:
        """Does it live? A look of up to 8 s where that is not plain to see."""
        return heartbeat.responds(keeper, self.directory / files.KEEPER_LOCK)

    def processes(self) -> dict[str, Process]:
        """The daemon and the agents that run, by name, whoever started them."""
        found = {one.name: one.process for one in processes.running_below(str(self.directory))}
        return found | {name: p for name, p in self.kept().processes.items() if processes.alive(p)}

    def log(self, name: str) -> Path:
        """What the daemon, an agent or the keeper writes."""
        return self.directory / "logs" / f"{name}.log"

    def agent_names(self) -> list[str]:
        """The agents it should have; those that have a directory when nothing else is known."""
        wanted = self.kept().desired
        if wanted.children:
            return list(wanted.agent_names)
        return [f"local-{number}" for number in self.agents_on_disk()]

    def set_aside(self) -> set[Path]:
        """Files that were found damaged and lie aside."""
        return set(found_aside(self.directory, *_FOLDERS, *_FOLDERS_OF_JOBS, *_FOLDERS_BESIDE))

    def agents_on_disk(self) -> list[int]:
        """Numbers of the agents that have a directory."""
        matches = (_AGENT.fullmatch(path.name) for path in (self.directory / "agents").glob("local-*/"))
        return sorted(int(match[1]) for match in matches if match)

    # -------------------------------------------------------------- up

    def prepare(self) -> None:
        """Make the directories, and room for our files. Raises `StoreUnavailable`."""
        daemon = self.directory / "daemon"
        if os.path.lexists(daemon) and not daemon.is_dir():
            raise StoreUnavailable(
                f"{daemon}, where the books are kept, is not a directory; put it back from a backup, "
                f"or begin new books with: mv {daemon} {daemon}.damaged"
            )
        books.refuse_missing(self.directory)
        try:
            for folder in (daemon, self.directory / "agents", self.directory / "logs"):
                own_directory(folder)
            for path in (
                self.log("keeper"),
                self.directory / files.CLUSTER,
                self.directory / files.DESIRED,
            ):
                clear_for_file(path)
            for number in self.agents_on_disk():
                own_directory(self.directory / "agents" / f"local-{number}", 0o711)
            probe = self.directory / f".probe.{os.getpid()}"
            try:
                probe.write_bytes(b"x" * 4096)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> StoreUnavailable:
        at = os.fsdecode(error.filename or self.directory)
        if os.path.islink(at) and not os.path.exists(at):  # of a path's, those raise where one may not look
            return StoreUnavailable(
                f"{at} is a link that leads nowhere: put back what it led to, or remove it: rm {at}"
            )
        said = f"the state directory {self.directory} cannot be written: "
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            said += f"{at} is no directory; "
        elif error.errno in (errno.EACCES, errno.EPERM):
            said += f"{error.strerror}; open it to yourself: chmod -R u+rwX {self.directory}, or "
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            said += f"{error.strerror}; make room, or "
        else:
            said += f"{error.strerror}; "
        return StoreUnavailable(f"{said}give another one with --state-dir")

    def _run_path(self) -> Path:
        wanted = self.directory / "run"
        if len(os.fsencode(wanted / "bursar.sock")) <= address.SOCKET_PATH_MAX:
            return wanted
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
        if len(os.fsencode(base)) > 60 or not os.access(base, os.W_OK):
            base = Path("/tmp")
        return base / f"bursar-{os.getuid()}-{digest}"

    def run_directory(self) -> Path:
        """Where the sockets lie, 0700. A path too long for a socket is replaced by a short one."""
        wanted = self._run_path()
        try:
            if wanted.is_symlink() or (wanted.exists() and wanted.stat().st_uid != os.getuid()):
                raise StoreUnavailable(f"{wanted} is not a directory of this user; remove it")
            own_directory(wanted)
        except OSError as error:
            raise StoreUnavailable(
                f"the socket directory {wanted} cannot be made: {error.strerror}"
            ) from None
        return wanted

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Only one `up` or `down` of a directory at a time. Raises `StoreUnavailable`."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = files.lock(self.directory / files.UP_LOCK, wait_s=LOCK_WAIT_S)
        except OSError as error:
            raise self._unwritable(error) from None
        if fd is None:
            raise BursarError(f"another `bursar up` or `down` works on {self.directory}; try again")
        try:
            yield
        finally:
            os.close(fd)

    def desire(
        self,
        agents: int | None,
        policies: str | None,
        simulate_gpus: str | None,
        http: str | None = None,
        cloud: str | None = None,
        gateway: str | None = None,
        cpus: int | None = None,
    ) -> Desired:
        """What should run: what is given now, else what the last `up` on this directory wanted."""
        old = self._desired_before()
        run = self.run_directory()
        count = agents or old.agents or max(self.agents_on_disk(), default=1)
        policies = asked_policies(old.policies) if policies is None else policies
        used = policies or shipped_policies()
        gpus = simulate_gpus if simulate_gpus is not None else old.simulate_gpus
        http = http if http is not None else old.http
        cloud = cloud if cloud is not None else old.cloud
        gateway = gateway if gateway is not None else old.gateway
        server = f"unix://{run / 'bursar.sock'}"
        options = ["--socket-dir", str(run), *(["--policies", used] if used else [])]
        options += ["--local-cloud", str(clouds.file_of(cloud))] if cloud else []
        children = [_child("daemon", DAEMON_MODULE, self.directory / "daemon", options)]
        each = cpus if cpus is not None else old.cpus
        found, memory = machine()
        for number in range(1, count + 1):
            name = f"local-{number}"
            options = ["--server", server, "--name", name, "--pool", "local"]
            options += ["--cpus", str(each or max(1, found // count)), "--memory-bytes", str(memory // count)]
            options += ["--simulate-gpus", gpus] if gpus else []
            children.append(_child(name, AGENT_MODULE, self.directory / "agents" / name, options))
        if http:
            options = ["--server", server, "--listen", http]
            children.append(_child("web", WEB_MODULE, pages.folder_of(self.directory), options))
        if gateway:
            options = ["--server", server, "--listen", gateway]
            children.append(_child("gateway", GATEWAY_MODULE, self.directory / "gateway", options))
        return Desired(
            server,
            str(self.directory),
            str(run),
            count,
            policies,
            gpus,
            tuple(children),
            http,
            cloud,
            gateway,
            each,
        )

    def refuse_other_cloud(self, desired: Desired) -> None:
        """A daemon that runs keeps the cloud that it was started with. Raises `InvalidRequest`."""
        running = [one for one in processes.running_below(str(self.directory)) if one.name == "daemon"]
        for one in running:
            if clouds.flag_of(one.words) != clouds.flag_of(desired.children[0].command):
                raise InvalidRequest(
                    "--cloud: the daemon runs already, with another cloud or none; `bursar down` first"
                )

    def unlike(self, desired: Desired) -> list[str]:
        """Agents that run with another command line than they would be started with now."""
        running = {one.name: tuple(one.words) for one in processes.running_below(str(self.directory))}
        return [
            child.name
            for child in desired.children
            if child.module == AGENT_MODULE
            and child.name in running
            and running[child.name][1:] != child.command[1:]
        ]

    def _desired_before(self) -> Desired:
        """What the last `up` wanted. A damaged file is set aside; the keeper's notes hold a copy."""
        try:
            found = files.read_desired(self.directory)
        except Damaged:
            set_aside(self.directory / files.DESIRED)
            found = Desired()
        try:
            noted = files.read_kept(self.directory).desired
        except Damaged:
            set_aside(self.directory / files.CLUSTER)
            noted = Desired()
        return found if found.agents else noted

    def keep(self, desired: Desired) -> bool:
        """Have a keeper keep `desired`. False when one ran already and only learned of it."""
        files.write_json(self.directory / files.DESIRED, desired.to_json())
        running = self.keeper()
        if running is not None and not self.keeper_responds(running):
            processes.kill(running, signal.SIGKILL)
            processes.wait_gone([running], 2.0)
            running = None
        if running is not None:
            self.failures_before = dict(self.kept().failures)
            processes.kill(running, signal.SIGHUP)
            return False
        self.failures_before = {}
        with self.log("keeper").open("ab") as log:
            self.spawned = subprocess.Popen(
                [sys.executable, "-P", "-m", processes.KEEPER_MODULE, str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=child_env(),
                start_new_session=True,
            )
        return True

    # -------------------------------------------------------------- in the foreground

    def wait_keeper(self, desired: Desired) -> None:
        """Block until the keeper that this process started has been told to end. One that dies or
        hangs is replaced; the next one adopts what runs.
        """
        while True:
            code = self._wait_a_while()
            if code == 0:
                return
            if code is None:
                continue
            time.sleep(1.0)  # whatever ends it at once must not make us spin
            with self.starting():
                # `down` has taken note of its end in `cluster.json`; a killed keeper has not.
                if self.kept().keeper is None and not self.processes():
                    return
                if not self.keep(desired):
                    self.spawned = None  # what it kept has started another already

    def _wait_a_while(self) -> int | None:
        """Wait for the end of the keeper, whoever started it; its exit code, None while it runs."""
        if self.spawned is None:
            keeper = self.keeper()
            if keeper is not None and processes.wait_gone([keeper], KEEPER_LOOK_S):
                return None
            return 1
        try:
            return self.spawned.wait(KEEPER_LOOK_S)
        except subprocess.TimeoutExpired:
            running = processes.noted(self.spawned.pid)
            if running is not None and not self.keeper_responds(running):
                processes.kill(running, signal.SIGKILL)
            return None

    def ended(self) -> None:
        """The keeper that this process started, if any, has ended."""
        if self.spawned is not None:
            self.spawned.wait()

    def let_go(self) -> None:
        """Leave the keeper running after this process has gone."""
        if self.spawned is not None:
            self.spawned.returncode = self.spawned.poll() or 0  # no warning about an open child


def connected(server: str) -> WireClient:
    """A client of the daemon at the address of a cluster, to be closed by the caller."""
    from bursar.client import WireClient

    return WireClient(address.parse(server, address.OF_UP))


def _child(name: str, module: str, state_dir: Path, options: list[str]) -> ChildSpec:
    command = [sys.executable, "-P", "-m", module, "--state-dir", str(state_dir), *options]
    return ChildSpec(name, module, str(state_dir), tuple(command))
