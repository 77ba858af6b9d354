"""The runner as the agent sees it: start, stop, adopt, forget, read the log, hear events.

Owns    `ProcessRunner`, which keeps no truth of its own: every answer
        comes from the launcher's marks, the supervisors' locks and the attempt directories.
Why     the agent may be replaced at any moment; whatever it knew must be found again by `adopt`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar.errors import InvalidRequest, NotFound, ServerUnavailable, WrongState
from bursar_agent.runner import (
    client,
    containers,
    leftovers,
    logs,
    logtimes,
    pulse,
    removed,
    starts,
    stopping,
    told,
    tree,
    truth,
)
from bursar_agent.runner.layout import (
    AGENT_SOCKET,
    ATTEMPTS,
    DISK_REFUSES,
    EXIT,
    FRAME_BYTES_MAX,
    STARTING,
    STEP,
    boot_id,
    marker_of,
    member_name,
    parse_member,
    place_of,
    start_ticks,
    stat_fields,
    write_atomically,
    write_limit,
)
from bursar_agent.runner.lost import lost_report
from bursar_agent.runner.model import (
    DEFAULT_LOG_CAP_BYTES,
    AttemptTruth,
    Ended,
    ExitReport,
    RunnerEvent,
    Started,
    StartRequest,
    StartResult,
    StopRequest,
    signal_number,
)

log = logging.getLogger(__name__)

INHERITED_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""All that a job sees of the agent's own environment; the request may override each."""

_DATAGRAM_BYTES = 1 << 16
_RECEIVE_BUFFER_BYTES = 1 << 20
_LOST_POLL_S = 0.02
_RETRIES = 3
_DOUBT_S = 1.0
_DEPTH_MAX = 1000


class _Watch:
    """One member whose end is awaited. `pidfd` wakes us when the supervisor dies."""

    __slots__ = ("attempt_id", "pid", "pidfd", "rank", "started_us")

    def __init__(self, attempt_id: str, rank: int) -> None:
        self.attempt_id = attempt_id
        self.rank = rank
        self.pid = 0
        self.pidfd = -1
        self.started_us = 0


class ProcessRunner:
    """Real processes, through the launcher. All methods belong to one event loop.

    `on_event` is called in that loop: `Started` at most once per phase (it may be missing when the
    end came first or a datagram was lost), `Ended` exactly once per started or adopted member, and
    once more for each later start of it that was answered `already`.
    """

    def __init__(
        self,
        run_dir: Path | str,
        on_event: Callable[[RunnerEvent], None],
        *,
        cgroup_root: str | None = None,
        inherited_variables: Sequence[str] = INHERITED_VARIABLES,
        answer_s: float = client.ANSWER_S,
        look_s: float = pulse.LOOK_S,
        overdue_us: int = pulse.OVERDUE_US,
    ) -> None:
        self._run_dir = os.path.abspath(run_dir)
        self._on_event = on_event
        self._cgroup_root = cgroup_root
        self._base_env = {name: os.environ[name] for name in inherited_variables if name in os.environ}
        self._boot_id = boot_id()
        self._run_fd = -1
        self._socket: socket.socket | None = None
        self._connection: client.LauncherConnection | None = None
        self._connecting = asyncio.Lock()
        self._watches: dict[str, _Watch] = {}
        self._free_room = 0
        """So many directories can be given back before those that wait are counted again."""
        self._unanswered = starts.Unanswered(self._give_back)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answer_s = answer_s
        self._look_s = look_s
        self._overdue = pulse.Overdue(overdue_us)

    async def open(self) -> None:
        """Make the run directory and listen for supervisors. The first job starts the launcher."""
        self._begin()
        self._spawn(self._look())

    @property
    def run_fd(self) -> int:
        """The run directory that launcher and supervisors have gone into; -1: none."""
        return self._run_fd

    def _begin(self) -> None:
        os.makedirs(os.path.join(self._run_dir, ATTEMPTS), 0o700, exist_ok=True)
        for pid in removed.kill_strays(self._run_dir):
            log.warning("ran in a directory that was removed, killed", extra={"pid": pid})
        self._run_fd = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchmod(self._run_fd, 0o700)
        self._listen()

    def _listen(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        # Bound aside and renamed: the name always leads to a listening agent, the newest one.
        temporary = f".{AGENT_SOCKET}.{os.getpid()}.{id(self):x}"
        self._socket.bind(f"/proc/self/fd/{self._run_fd}/{temporary}")
        os.chmod(temporary, 0o600, dir_fd=self._run_fd)
        os.rename(temporary, AGENT_SOCKET, src_dir_fd=self._run_fd, dst_dir_fd=self._run_fd)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def _leave(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._run_fd >= 0:
            os.close(self._run_fd)
            self._run_fd = -1

    async def close(self) -> None:
        """Let go of everything; jobs, supervisors and launcher go on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in list(self._watches.values()):
            self._unwatch(watch)
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # lets the transport close its socket
        self._leave()

    async def shutdown_launcher(self) -> None:
        """End the launcher if one runs (`down`, tests), and wait until it is gone: one that does not go is
        killed. Jobs stay with their supervisors.
        """
        connection = self._connection if self._connection and not self._connection.lost else None
        connection = connection or await client.connect_running(self._run_fd, self._answer_s)
        if connection is not None:
            with contextlib.suppress(ConnectionError):  # gone already
                await connection.request(b'{"op":"shutdown"}')
            connection.close()
            await asyncio.sleep(0)
        await client.await_end(self._run_fd, self._answer_s)

    async def start(self, requests: Sequence[StartRequest]) -> list[StartResult]:
        """See `Runner.start`. A bad request raises `InvalidRequest` before anything is sent.

        When the launcher dies under a request, it is sent again to the next launcher; the mark on
        disk, which stays until there is an answer, makes that safe. `already` then means that the first
        one got through, or, where no supervisor took the attempt, that it was marked alone: that mark is
        taken back.
        """
        place = place_of(self._run_fd)
        bodies = [starts.encoded(each.to_wire(self._base_env, self._boot_id, place)) for each in requests]
        for request, body in zip(requests, bodies, strict=True):
            if len(body) > FRAME_BYTES_MAX - 1024:
                raise InvalidRequest(f"{request.attempt_id}: the start request is over 16 MiB")
        with self._unanswered.asking([(request.attempt_id, request.rank) for request in requests]):
            answers = await self._ask(requests, bodies)
            unbegun = [
                at
                for at, answer in enumerate(answers)
                if answer["state"] == "already" and self._take_back(requests[at])
            ]
            if unbegun:
                again = await self._ask([requests[at] for at in unbegun], [bodies[at] for at in unbegun])
                for at, answer in zip(unbegun, again, strict=True):
                    answers[at] = answer
            return [self._started(request, answer) for request, answer in zip(requests, answers, strict=True)]

    async def _ask(self, requests: Sequence[StartRequest], bodies: Sequence[bytes]) -> list[dict[str, Any]]:
        """The launcher's answers to start requests, in order."""
        for request in requests:
            # Watched before it is sent: a short job reports its end before the launcher's answer.
            self._watches.setdefault(
                member_name(request.attempt_id, request.rank),
                _Watch(request.attempt_id, request.rank),
            )
        batches = starts.batches(bodies)
        try:
            if len(batches) == 1:
                return await self._send(batches[0])
            return [one for many in await asyncio.gather(*map(self._send, batches)) for one in many]
        except Exception:
            # Whether any of them started is not known here; adopt() reads it from the marks.
            for request in requests:
                self._forget_watch(member_name(request.attempt_id, request.rank))
            raise

    def _take_back(self, request: StartRequest) -> bool:
        """Remove the mark of a member that was never begun; False: it was, or may yet be."""
        try:
            dir_fd = self._open_member(request.attempt_id, request.rank)
        except NotFound:
            return False
        try:
            return self._remove_unbegun(dir_fd, request.attempt_id, request.rank)
        finally:
            os.close(dir_fd)

    def _remove_unbegun(self, dir_fd: int, attempt_id: str, rank: int) -> bool:
        lock = truth.take_lock(dir_fd)
        if lock is None:
            return False
        try:
            if not truth.never_begun(dir_fd):
                return False
            truth.remove_member(self._run_fd, attempt_id, rank)
            return True
        finally:
            os.close(lock)

    async def stop(self, attempt_id: str, rank: int, request: StopRequest) -> None:
        """See `Runner.stop`. Goes straight to the supervisor: needs no launcher, no memory."""
        number = signal_number(request.signal)
        if request.grace_us < 0 or not request.cause:
            raise InvalidRequest(f"stop of {attempt_id}: needs a cause and a grace of 0 or more")
        dir_fd = self._open_member(attempt_id, rank)
        try:
            if truth.exit_report(dir_fd) is None:
                stopping.leave_stop(dir_fd, request, number, _boot_us())
                stopping.signal_supervisor(dir_fd)
        except OSError as problem:
            if problem.errno not in DISK_REFUSES:
                raise
            log.error("a stop cannot be written", extra={"attempt_id": attempt_id, "problem": str(problem)})
            self._spawn(self._stop_below(member_name(attempt_id, rank), request.grace_us, number))
        finally:
            os.close(dir_fd)

    async def _stop_below(self, name: str, grace_us: int, number: int | None) -> None:
        """Stop a member whose supervisor cannot be told: it tells how its job ended all the same."""
        watch = self._watches.get(name)
        if watch is None or watch.pidfd < 0:
            return
        stopping.ask_below(watch.pid, number, _boot_us())
        await asyncio.sleep(grace_us / 1_000_000)
        if self._watches.get(name) is watch and watch.pidfd >= 0:
            await asyncio.to_thread(pulse.kill_below, watch.pid)

    async def limit(self, attempt_id: str, rank: int, time_limit_us: int) -> None:
        """See `Runner.limit`. The supervisor may be of an older release than this agent."""
        if time_limit_us <= 0:
            raise InvalidRequest(f"limit of {attempt_id}: must be more than 0")
        dir_fd = self._open_member(attempt_id, rank)
        try:
            if truth.exit_report(dir_fd) is not None:
                return
            if not (truth.read_start(dir_fd) or {}).get("takes_limits"):
                raise WrongState("its supervisor is of an older release and keeps the limit it began with")
            write_limit(time_limit_us, dir_fd)
            stopping.signal_supervisor(dir_fd)
        finally:
            os.close(dir_fd)

    def has_processes(self, attempt_id: str, rank: int) -> bool:
        """Does an adopted member have any process left beside its supervisor?"""
        watch = self._watches.get(member_name(attempt_id, rank))
        return watch is not None and watch.pid > 0 and bool(tree.descendants(watch.pid))

    def member_of(self, pid: int) -> tuple[str, int] | None:
        """The member that a process belongs to: the one whose supervisor is above it. None: no job's."""
        supervisors = {}
        for watch in self._watches.values():
            supervisor = watch.pid if watch.pidfd >= 0 else self._recorded_pid(watch)
            if supervisor is not None:
                supervisors[supervisor] = watch
        for _ in range(_DEPTH_MAX):
            fields = stat_fields(pid)
            if fields is None:
                return None
            pid = int(fields[1])
            if pid in supervisors:
                return supervisors[pid].attempt_id, supervisors[pid].rank
            if pid <= 1:
                return None
        return None

    def _recorded_pid(self, watch: _Watch) -> int | None:
        """The supervisor of a member whose start the launcher has not answered yet, if its job runs."""
        try:
            dir_fd = truth.open_member(self._run_fd, watch.attempt_id, watch.rank)
        except OSError:
            return None
        try:
            return stopping.supervisor_pid(dir_fd)
        finally:
            os.close(dir_fd)

    def ask_for_steps(self, attempt_id: str, rank: int) -> None:
        """Have the supervisor start what takes steps of other nodes. Raises `NotFound`, `WrongState`."""
        dir_fd = self._open_member(attempt_id, rank)
        try:
            if truth.exit_report(dir_fd) is not None:
                raise WrongState(f"rank {rank} has ended")
            if containers.read_record(dir_fd) is not None:
                raise WrongState("it runs in a container, and nothing attaches to one yet")
            os.close(os.open(STEP, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=dir_fd))
            stopping.signal_supervisor(dir_fd)
        finally:
            os.close(dir_fd)

    async def adopt(self) -> list[AttemptTruth]:
        """See `Runner.adopt`. Cleans up after dead supervisors first; what it returns as ended has
        no further event, what it returns as running will have one.
        """
        found = []
        pinged = False
        for name in truth.open_up(self._run_fd):
            log.warning("had lost the rights of its owner", extra={"directory": name})
        for name in truth.members(self._run_fd):
            member = parse_member(name)
            if member is None:
                continue
            try:
                dir_fd = truth.open_member(self._run_fd, *member)
            except OSError:
                continue
            try:
                for moved in truth.mend_member(self._run_fd, dir_fd, name):
                    log.warning("damaged, set aside", extra={"file": name, "as": moved})
                state = truth.member_truth(dir_fd, *member)
                if state.state != "ended" and not truth.supervisor_lives(dir_fd) and not pinged:
                    # Perhaps the launcher is between mark and lock; a ping is answered after.
                    pinged = True
                    await self._ping()
                if name not in self._watches and self._remove_unbegun(dir_fd, *member):
                    continue  # its daemon finds it missing, and says it again
                buried = None
                if state.state != "ended" and not truth.supervisor_lives(dir_fd):
                    buried = await self._bury(name, dir_fd, *member)
                state = truth.member_truth(dir_fd, *member)
                if state.state == "ended":
                    self._forget_watch(name)
                else:
                    pid = stopping.supervisor_pid(dir_fd) if buried is None else None
                    self._watch(name, *member, pid)
                    self._watches[name].started_us = state.start_boot_us or 0
            finally:
                os.close(dir_fd)
            found.append(state)
        return found

    def forget(self, attempt_id: str, rank: int) -> None:
        """See `Runner.forget`."""
        dir_fd = self._open_member(attempt_id, rank)
        try:
            if truth.exit_report(dir_fd) is None:
                raise WrongState(f"attempt {attempt_id} rank {rank} has not ended; stop it first")
        finally:
            os.close(dir_fd)
        if (attempt_id, rank) in self._unanswered:
            raise WrongState(f"the start of attempt {attempt_id} rank {rank} is not answered yet")
        truth.remove_member(self._run_fd, attempt_id, rank)

    def release(self, attempt_id: str, rank: int) -> bool:
        """See `Runner.release`. Its mark goes once nobody can ask for it again."""
        dir_fd = self._open_member(attempt_id, rank)
        try:
            if not truth.left_nothing(dir_fd):
                return False
        finally:
            os.close(dir_fd)
        self._unanswered.over(attempt_id, rank)
        return True

    def _give_back(self, attempt_id: str, rank: int) -> None:
        """Let the directory of a member that left nothing be used again, or be no more."""
        if self._free_room <= 0:
            self._free_room = truth.free_room(self._run_fd)
        if self._free_room <= 0:
            truth.remove_member(self._run_fd, attempt_id, rank)
        else:
            self._free_room -= 1
            try:
                truth.release_member(self._run_fd, attempt_id, rank)
            except FileNotFoundError:  # somebody has removed what they wait in
                self._free_room = truth.free_room(self._run_fd)
                truth.release_member(self._run_fd, attempt_id, rank)

    def read_log(self, attempt_id: str, rank: int, offset: int, limit: int) -> tuple[bytes, int, int]:
        """See `Runner.read_log`."""
        dir_fd = self._open_member(attempt_id, rank)
        try:
            mark = truth.read_json(dir_fd, STARTING) or {}
            cap_bytes = int(mark.get("log_cap_bytes") or DEFAULT_LOG_CAP_BYTES)
            found = logs.read_log(dir_fd, cap_bytes, offset, limit)
            if (truth.read_json(dir_fd, STARTING) or {}) != mark:
                # Another member's by now: this one left nothing, or its directory had been kept.
                raise NotFound(f"attempt {attempt_id} rank {rank} left no log on this machine")
            return found
        finally:
            os.close(dir_fd)

    def read_log_times(self, attempt_id: str, rank: int) -> logtimes.Marks:
        """See `Runner.read_log_times`."""
        dir_fd = self._open_member(attempt_id, rank)
        try:
            return logtimes.read_marks(dir_fd)
        finally:
            os.close(dir_fd)

    def read_progress(self, attempt_id: str, rank: int) -> bytes | None:
        """See `Runner.read_progress`. Raises `OSError`, `NotFound`."""
        return told.progress(self._run_fd, attempt_id, rank)

    def read_last_progress(self, attempt_id: str, rank: int) -> bytes | None:
        """See `Runner.read_last_progress`. Raises as `read_progress` does."""
        return told.last_progress(self._run_fd, attempt_id, rank)

    def read_steps(self, attempt_id: str, rank: int, *, running: bool = False) -> bytes | None:
        """See `Runner.read_steps`. Raises as `read_progress` does."""
        return (told.running_steps if running else told.steps)(self._run_fd, attempt_id, rank)

    # --- starting -------------------------------------------------------------------------------

    async def _send(self, batch: list[bytes]) -> list[dict[str, Any]]:
        message = b'{"op":"start","requests":[' + b",".join(batch) + b"]}"
        place = place_of(self._run_fd)
        for remaining in range(_RETRIES, -1, -1):
            if place_of(self._run_fd) != place:  # whether it was marked there, nobody can tell any more
                raise ServerUnavailable(f"{self._run_dir} was removed while the start was asked for")
            try:
                connection = await self._launcher()
                answer = await connection.request(message)
                break
            except ConnectionError:
                if remaining == 0:
                    raise
        results: list[dict[str, Any]] = answer["results"]
        return results

    async def _launcher(self) -> client.LauncherConnection:
        if self._connection is not None and not self._connection.lost:
            return self._connection
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = await client.connect(
                    self._run_fd, self._run_dir, self._cgroup_root, self._answer_s
                )
            return self._connection

    def _started(self, request: StartRequest, answer: Mapping[str, Any]) -> StartResult:
        name = member_name(request.attempt_id, request.rank)
        match answer["state"]:
            case "starting":
                if name in self._watches:
                    self._watch(name, request.attempt_id, request.rank, answer["supervisor_pid"])
            case "already":
                self._follow(name, request.attempt_id, request.rank)
            case _:
                self._forget_watch(name)
        told, disk = answer.get("message", ""), answer.get("disk", False)
        return StartResult(request.attempt_id, request.rank, answer["state"], told, disk)

    def _follow(self, name: str, attempt_id: str, rank: int) -> None:
        """Watch a member that an earlier request started, if it still runs."""
        dir_fd = self._open_member(attempt_id, rank)
        try:
            if truth.exit_report(dir_fd) is None:
                self._watch(name, attempt_id, rank, stopping.supervisor_pid(dir_fd))
            elif name in self._watches:
                self._check(name)
        finally:
            os.close(dir_fd)

    async def _ping(self) -> None:
        connection = await client.connect_running(self._run_fd, self._answer_s)
        if connection is not None:
            with contextlib.suppress(ConnectionError):
                await connection.request(b'{"op":"ping"}')
            connection.close()
            await asyncio.sleep(0)

    # --- looking after ---------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            self.look()

    def look(self) -> None:
        """Find launcher and supervisors that answer no more, and take the next step (`pulse`). Before that,
        make anew what was removed of the directory.
        """
        self.mend()
        launcher = pulse.launcher_pid(self._run_fd)
        pids = {watch.pid for watch in self._watches.values() if watch.pidfd >= 0}
        if launcher is not None:
            # What it has given to a supervisor and nobody here has heard of yet is among its children.
            pids |= {launcher, *tree.children(launcher)}
        for pid in pulse.wake(pids):
            log.warning("stopped, let go on", extra={"pid": pid, "launcher": pid == launcher})
        self._overdue.forget(set(self._watches))
        for name, watch in list(self._watches.items()):
            if watch.pidfd >= 0:
                self._look_at(name, watch)

    def mend(self) -> None:
        """Make anew what somebody removed of the run directory, and end what ran in that (`removed`).

        Where that cannot be done, it is tried again at the next look.
        """
        if self._run_fd < 0:
            return
        self._receive()  # what has told its end is over, and its supervisor perhaps another's by now
        place, begun = place_of(self._run_fd), False
        try:
            begun = removed.is_removed(self._run_fd)
            if begun:
                self._begin_anew()
            for name in removed.remake(self._run_fd):
                log.warning("had been removed, made anew", extra={"directory": f"{self._run_dir}/{name}"})
            if not os.path.lexists(f"/proc/self/fd/{self._run_fd}/{AGENT_SOCKET}"):
                self._listen_anew()
        except OSError as problem:
            log.error("cannot be made anew", extra={"directory": self._run_dir, "problem": str(problem)})
        for name, watch in list(self._watches.items()):
            asked = (watch.attempt_id, watch.rank) in self._unanswered
            if (watch.pidfd >= 0 or (begun and not asked)) and removed.member_is_removed(self._run_fd, name):
                supervisor = (watch.pid, start_ticks(watch.pid)) if watch.pidfd >= 0 else None
                self._unwatch(watch)
                self._spawn(self._end_removed(name, watch, place, supervisor))

    def _begin_anew(self) -> None:
        log.error("was removed while it was in use", extra={"directory": self._run_dir})
        if not os.path.isdir(os.path.dirname(self._run_dir)):
            raise FileNotFoundError(f"{os.path.dirname(self._run_dir)} is gone too")
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._leave()
        self._begin()

    def _listen_anew(self) -> None:
        if self._socket is not None:
            self._receive()
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        self._listen()

    async def _end_removed(
        self, name: str, watch: _Watch, place: str, supervisor: tuple[int, int | None] | None = None
    ) -> None:
        """End a member whose directory is gone, and tell it: nobody could stop or find it any more."""
        wait_s = _LOST_POLL_S
        while await asyncio.to_thread(removed.kill_member, name, place, supervisor):
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 1.0)
        await asyncio.to_thread(removed.clear_outside, marker_of(name, place), None)
        self._receive()  # it may have told its own end
        if name in self._watches:
            log.warning("member's directory was removed", extra={"member": name})
            key, began = (watch.attempt_id, watch.rank), watch.started_us
            self._end(name, removed.report(*key, self._boot_id, began, _boot_us()))

    def _look_at(self, name: str, watch: _Watch) -> None:
        try:
            dir_fd = truth.open_member(self._run_fd, watch.attempt_id, watch.rank)
        except OSError:
            return
        try:
            if truth.exit_report(dir_fd) is None and truth.supervisor_lives(dir_fd):
                self._overdue.look(name, dir_fd, watch.pid, _boot_us())
        finally:
            os.close(dir_fd)

    # --- hearing --------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Drain the datagrams of supervisors."""
        while self._socket is not None:
            try:
                data = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            try:
                self._hear(msgspec.json.decode(data))
            except (msgspec.DecodeError, ValueError, KeyError, TypeError) as problem:
                log.warning("not a supervisor's message", extra={"problem": repr(problem)})

    def _hear(self, message: Mapping[str, Any]) -> None:
        name = member_name(message["attempt_id"], message["rank"])
        watch = self._watches.get(name)
        if watch is None:
            return  # told already, or not adopted yet: adopt() will find it
        if message["kind"] == "ended":
            self._end(name, ExitReport.from_json(message), message.get("unwritten") is True)
        elif message["kind"] == "started":
            watch.started_us = message["start_boot_us"]
            if watch.pidfd < 0:
                self._watch(name, watch.attempt_id, watch.rank, message["supervisor_pid"])
            self._on_event(
                Started(
                    watch.attempt_id,
                    watch.rank,
                    message["pid"],
                    message["start_boot_us"],
                    message["phase"],
                    message["memory_enforced"],
                    truth.reaped_before(message),
                )
            )

    def _end(self, name: str, report: ExitReport, unwritten: bool = False) -> None:
        self._forget_watch(name)
        self._on_event(Ended(report, unwritten))

    def _watch(self, name: str, attempt_id: str, rank: int, supervisor_pid: int | None) -> None:
        watch = self._watches.setdefault(name, _Watch(attempt_id, rank))
        if watch.pidfd >= 0:
            return
        loop = asyncio.get_running_loop()
        try:
            if supervisor_pid is None:
                raise ProcessLookupError
            watch.pidfd = os.pidfd_open(supervisor_pid)
            watch.pid = supervisor_pid
        except OSError:
            loop.call_later(_LOST_POLL_S, self._check, name)  # gone, or not yet far enough to tell
            return
        loop.add_reader(watch.pidfd, self._check, name)

    def _check(self, name: str) -> None:
        """The supervisor died, or may have: end the member, or find out what happened."""
        self._receive()
        watch = self._watches.get(name)
        if watch is None or self._run_fd < 0:
            return
        self._unwatch(watch)
        self._spawn(self._resolve(name, watch))

    async def _resolve(self, name: str, watch: _Watch) -> None:
        try:
            await self._find_out(name, watch)
        except OSError as problem:  # of a disk that can be neither read nor written: until it can
            log.error("an end cannot be found out", extra={"member": name, "problem": str(problem)})
            asyncio.get_running_loop().call_later(_DOUBT_S, self._check, name)

    async def _find_out(self, name: str, watch: _Watch) -> None:
        try:
            dir_fd = truth.open_member(self._run_fd, watch.attempt_id, watch.rank)
        except OSError:
            asked = (watch.attempt_id, watch.rank) in self._unanswered
            if asked or not removed.member_is_removed(self._run_fd, name):
                self._forget_watch(name)
            else:
                await self._end_removed(name, watch, place_of(self._run_fd))
            return
        try:
            if truth.exit_report(dir_fd) is None and truth.supervisor_lives(dir_fd):
                self._watch(name, watch.attempt_id, watch.rank, stopping.supervisor_pid(dir_fd))
                return
            report = truth.exit_report(dir_fd) or await self._bury(name, dir_fd, watch.attempt_id, watch.rank)
            unwritten = truth.exit_report(dir_fd) is None
        finally:
            os.close(dir_fd)
        if report is not None and name in self._watches:
            self._end(name, report, unwritten)

    async def _bury(self, name: str, dir_fd: int, attempt_id: str, rank: int) -> ExitReport | None:
        """Write the report of a member whose supervisor cannot, once all is gone, if the disk takes it."""
        lock = truth.take_lock(dir_fd)
        if lock is None:
            return None
        try:
            report = truth.exit_report(dir_fd)
            if report is not None:
                return report
            mark = truth.read_json(dir_fd, STARTING) or {}
            start = truth.read_start(dir_fd)
            same_boot = mark.get("boot_id", self._boot_id) == self._boot_id
            wait_s = _LOST_POLL_S
            place = str(mark.get("place") or "")
            copied = same_boot and leftovers.another_has(name, place, place_of(self._run_fd), start)
            ran = False
            while same_boot and not copied and leftovers.kill(name, place, start):
                ran = True
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, 1.0)
            if not copied:
                await asyncio.to_thread(
                    removed.clear_outside, marker_of(name, place), containers.read_record(dir_fd)
                )
            cause = pulse.cause_of(dir_fd)
            if cause == "failed" and truth.never_ran(dir_fd):
                cause = "node_lost"  # no fault of its job
            ended_at = _boot_us() if ran else truth.ended_by(start, _boot_us())
            report = lost_report(
                attempt_id, rank, mark, start, ended_at if same_boot else None, cause, copied
            )
            try:
                write_atomically(EXIT, json.dumps(report.to_json()).encode(), dir_fd)
            except OSError as problem:
                log.error("an end cannot be written", extra={"member": name, "problem": str(problem)})
            log.warning("supervisor lost", extra={"attempt_id": attempt_id, "rank": rank})
            return report
        finally:
            os.close(lock)

    def _unwatch(self, watch: _Watch) -> None:
        if watch.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(watch.pidfd)
            os.close(watch.pidfd)
            watch.pidfd = -1

    def _forget_watch(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is not None:
            self._unwatch(watch)

    def ended(self, members: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """When the last process of a member had ended of which no report could be written yet. Any thread."""
        found = {}
        for member in members:
            try:
                dir_fd = truth.open_member(self._run_fd, *member)
            except (OSError, ValueError):
                continue
            try:
                start = truth.read_start(dir_fd)
            finally:
                os.close(dir_fd)
            if start is not None and (at := truth.ended_at(start)) is not None:
                found[member] = at
        return found

    def _open_member(self, attempt_id: str, rank: int) -> int:
        try:
            return truth.open_member(self._run_fd, attempt_id, rank)
        except ValueError as problem:
            raise InvalidRequest(str(problem)) from None
        except FileNotFoundError:
            raise NotFound(f"attempt {attempt_id} rank {rank} was not started on this machine") from None

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception())


def _boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
