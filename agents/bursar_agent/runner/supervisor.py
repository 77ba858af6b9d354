"""One attempt member, from its start to the end of its last process.

Owns    spawning the job, its log, its time limit, stops, and the exit report. Input: one start
        request (a dict, checked by the agent), `stop.json` and `limit`.
Why     everything that must go on when agent, launcher and daemon are dead is here: plain blocking
        code, no threads, nothing imported that the launcher has not already loaded.

The supervisor's process is a subreaper, so whatever the job forks, daemonises or detaches stays below it.
"Ended" means that the kernel says it has no child left (ECHILD): an empty tree, not only an exited
main process. All times are CLOCK_BOOTTIME microseconds, which no clock jump moves.

Known limit: `max_rss_bytes` is never below the supervisor's own few megabytes, because a vforked
child borrows its memory until exec and the kernel counts that.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
import time
from typing import Any

from bursar_agent.runner import outputs, places, progressfile, scratch, secretfiles, spawning, tree
from bursar_agent.runner.folder import CheckpointFolder
from bursar_agent.runner.layout import (
    AGENT_SOCKET,
    ALIVE_AT,
    BEAT_US,
    DISK_REFUSES,
    ENDED_AT,
    EXIT,
    SPAWNING,
    START,
    STEP,
    STOP,
    TAKEN_AT,
    keep_record,
    linked_stop,
    start_record,
    start_ticks,
    write_instant,
    write_record,
    written_limit,
)
from bursar_agent.runner.logcap import LogCap
from bursar_agent.runner.logtimes import LogTimes
from bursar_agent.runner.told_once import ToldOnce

STEP_SERVER = "serve"
"""In the directory of steps: `bursar.steps.names.SERVE`, which is not loaded here."""

SIGNAL_FD = 3
NOTIFY_FD = 4

SIGKILL, SIGUSR1, SIGTERM, SIGCHLD = 9, 10, 15, 17
_SIGNALFD_RECORD_BYTES = 128
_SIGNALS_BYTES = 16 * _SIGNALFD_RECORD_BYTES

TERM_TO_KILL_US = 2_000_000
"""After a checkpoint grace the job has had its time: TERM, and 2 s later KILL."""

AFTER_WARNING_US = 30_000_000
"""At the limit a job that was warned before it gets TERM, and at most so much later KILL."""

LEFTOVER_GRACE_US = 2_000_000
"""For processes that outlive the main one (a tensorboard in the background)."""

START_NOTICE_DELAY_US = 15_000
"""A job that has ended by then is told as ended alone: half the messages of a short job."""

END_NOTICE_TRIES = 10
NOTICE_PAUSE_S = 0.002
"""The kernel holds ten messages for an agent; one that is busy reads on in a moment."""

QUICK_MS = 5
"""A job that is over by then leaves no record of its start, which is for whoever would find or stop it."""

REMOVE_US = 10_000_000
"""So long has a runtime to remove a container whose processes were killed."""

KILL_POLL_MS = 20
"""A child that dies wakes us by SIGCHLD; this is only for trees that fork while being killed."""

WARN_AGAIN_US = 500_000
"""Between two looks whether more of a job heeds a signal: its programs may still start."""

COPY_GRACE_US = 10_000_000
"""After the last process of a job its copier has so long to bring the rest into the job's files."""

WAKE_MS_MAX = BEAT_US // 1000
"""poll() does not count suspend, CLOCK_BOOTTIME does: look at the clock at least this often."""


def boot_us() -> int:
    """Microseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Supervisor:
    """State of one attempt member; the current directory is the attempt's.

    Args:
        notify: the unbound datagram socket that reaches the agent.
        folders: where empty checkpoint directories wait to be used again.
        ticks: start time of this process, which many attempts may share.
    """

    def __init__(
        self,
        request: dict[str, Any],
        host: spawning.Host,
        notify: Any,
        folders: CheckpointFolder,
        ticks: int | None,
        mark_fd: int,
    ) -> None:
        self._request = request
        self._mark_fd = mark_fd
        self._host = host
        self._notify_socket = notify
        self._folders = folders
        self._ticks = ticks
        self._job: spawning.Job | None = None
        self._main_pid = 0
        self._step_server_pid = 0
        self._copier_pid = 0
        self._phase = "run"
        self._main_ended = False
        self._over = False
        self._contained = False
        """Its process is what runs a container: signals are for what is in there."""
        self._spare_until: int | None = None
        self._emptied = False
        self._memory_held = False
        self._leftover_kill_at: int | None = None
        self._start_at = boot_us()
        self._start_notice: tuple[int, bytes] | None = None
        self._alive_us = 0
        """When it was written last that we live; 0: there is no record of the start."""
        self._told = False
        self._limit_at: int | None = None
        if request.get("time_limit_us") is not None:
            self._limit_at = self._start_at + int(request["time_limit_us"])
        self._warn_at: int | None = None
        self._warned = False
        self._asked = ToldOnce()
        self._asking = 0
        self._look_at: int | None = None
        self._stop_cause: str | None = None
        self._term_at: int | None = None
        self._kill_at: int | None = None
        self._cgroup: spawning.JobCgroup | None = None
        self._texts: list[str] = []
        """Files of its script and its setup."""
        self._user_s = self._system_s = 0.0
        before = os.times()  # of the attempts that this process had earlier: not this job's
        self._reaped_before_us = round((before.children_user + before.children_system) * 1_000_000)
        self._max_rss_kib = 0
        self._report: dict[str, Any] = {
            "attempt_id": request["attempt_id"],
            "rank": request["rank"],
            "epoch": request.get("epoch", 0),
            "exit_code": None,
            "signal": None,
            "end_cause": "failed",
            "message": "",
            "phase": "run",
            "signal_sent_at": None,
            "term_sent_at": None,
            "kill_sent_at": None,
            "main_end_boot_us": None,
            "stopped": False,
        }
        log_read, self._log_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(log_read, False)
        self._log_read = log_read
        self._outputs = (self._log_write, self._log_write)
        self._log_open = True
        times = LogTimes(lambda: boot_us() - self._start_at)
        self._log = LogCap(log_read, int(request["log_cap_bytes"]), times)

    def run(self) -> bool:
        """Start the job, stay with it, tell its end.

        True when this process may take another: the agent has heard of the end (else only our death wakes
        it), and nothing is left that could reach the next attempt: it ended by itself, left nothing behind,
        and had neither a user nor a limit of its own.
        """
        self._attempt_dir_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._begin() and not self._over:
            self._supervise()
        self._finish()
        os.close(self._attempt_dir_fd)
        return (
            self._told
            and self._main_ended
            and self._stop_cause is None
            and self._leftover_kill_at is None
            and not self._copier_pid
            and self._cgroup is None
            and self._job is not None
            and self._job.uid is None
        )

    # --- starting -------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Open the launch and start its first process; False (with the report filled in) when it cannot."""
        try:
            job = self._job = spawning.Job(self._request)
        except spawning.CannotStart as problem:
            self._cannot_start(problem)
            return False
        try:
            self._folders.enter(job.checkpoint_dir, job.uid, job.gid)
            if not places.make(job, self._write_secrets):
                return False
        except OSError as problem:
            told = f"directory {problem.filename}: {problem.strerror}"
            self._cannot_start(spawning.CannotStart(told, disk=problem.errno in DISK_REFUSES))
            return False
        if (job.output_path or job.error_path) and not self._open_outputs(job):
            return False
        self._warn_before_limit()
        if job.image:
            return self._spawn_container(job)
        if job.setup:
            self._phase = "setup"
        return self._spawn(job)

    def _open_outputs(self, job: spawning.Job) -> bool:
        """Have its output copied to its own files; False (with the report filled in) where they cannot be."""
        self._cgroup = self._host.job_cgroup(self._request)
        try:
            copier = outputs.start(job, self._log_write, self._cgroup)
        except spawning.CannotStart as problem:
            self._cannot_start(problem)
            return False
        self._copier_pid, self._outputs = copier.pid, (copier.output_fd, copier.error_fd)
        return True

    def _write_secrets(self, job: spawning.Job) -> bool:
        """Give it its secrets that are files; False (with the report filled in) where they cannot be. Raises
        `FileExistsError`: somebody has taken the name.
        """
        if not job.secrets_dir:
            return True
        problem = f"this node has no tmpfs at {secretfiles.MEMORY}"
        if secretfiles.is_memory():
            try:
                secretfiles.make(job.secrets_dir, job.secret_files, job.uid, job.gid)
                return True
            except FileExistsError:
                raise
            except OSError as failed:
                problem = f"{job.secrets_dir}: {failed.strerror}"
        job.secrets_dir = ""  # somebody else's, or none: not ours to remove
        self._cannot_start(spawning.CannotStart(f"secrets as files: {problem}"))
        return False

    def _argv(self, job: spawning.Job) -> list[str]:
        """The command of this phase. A text becomes a file first: everybody on the machine sees arguments."""
        if self._phase == "setup":
            self._texts.append(spawning.write_setup(job))
            return [self._host.shell, self._texts[-1]]
        if job.argv and not job.engine_script:
            return job.argv
        self._texts.append(spawning.write_script(job))
        if job.argv:
            return job.words(self._texts[-1])
        program = spawning.interpreter(job.script) or [self._host.shell]
        return [*program, self._texts[-1], *job.arguments]

    def _spawn(self, job: spawning.Job) -> bool:
        """Start one process of the job; False (with the report filled in) when it cannot."""
        if self._cgroup is None:
            self._cgroup = self._host.job_cgroup(self._request)
        try:
            # Before there is a process: a mark that lacks it says that nothing of the attempt ever ran.
            os.pwrite(self._mark_fd, SPAWNING, TAKEN_AT)
            self._main_pid = spawning.spawn(
                job, self._argv(job), self._outputs, self._attempt_dir_fd, self._host, self._cgroup
            )
        except spawning.CannotStart as problem:
            plain = self._phase == "run" and not job.argv
            self._cannot_start(spawning.of_interpreter(problem, job.script) if plain else problem)
            return False
        if self._phase == "run":
            # From here on only the job holds the write ends, so their end of file means something.
            self._close_outputs()
            self._over = self._ends_at_once()
        if not self._over:
            self._record_start()
        return True

    def _spawn_container(self, job: spawning.Job) -> bool:
        """The same for a job with an image: what runs its container stands where its process would."""
        from bursar_agent.runner import containers  # jobs without an image pay nothing for it

        if job.runtime is None:
            self._cannot_start(spawning.CannotStart(containers.NO_RUNTIME))
            return False
        if self._cgroup is None:
            self._cgroup = self._host.job_cgroup(self._request)
        cgroup = self._cgroup if job.runtime.get("cgroup") else None
        os.pwrite(self._mark_fd, SPAWNING, TAKEN_AT)
        try:
            self._main_pid = containers.spawn(
                job, self._request, self._outputs, self._attempt_dir_fd, self._host, cgroup
            )
        except OSError as problem:
            self._cannot_start(spawning.CannotStart(f"cannot fork: {problem.strerror}"))
            return False
        self._contained = True
        if cgroup is None:
            self._drop_cgroup(job)
        self._close_outputs()
        self._record_start()
        return True

    def _drop_cgroup(self, job: spawning.Job) -> None:
        """Its runtime makes one of its own, with the same limits where it can."""
        if self._cgroup is not None and not self._copier_pid:
            self._cgroup.close()
            self._cgroup = None
        held = job.runtime is not None and "memory" in job.runtime.get("holds", ())
        self._memory_held = held and bool(self._request.get("memory_limit_bytes"))

    def _close_outputs(self) -> None:
        if self._log_write >= 0:
            for fd in {self._log_write, *self._outputs}:
                os.close(fd)
        self._log_write = -1

    def _ends_at_once(self) -> bool:
        """Wait the moment that a job of no length takes; True when nothing of it is left."""
        poll = select.poll()
        poll.register(SIGNAL_FD, select.POLLIN)
        if not poll.poll(QUICK_MS):
            return False
        self._drain_signals()  # a stop is looked for with the record of the start
        return self._reap()

    def _cannot_start(self, problem: spawning.CannotStart) -> None:
        self._report["end_cause"] = problem.end_cause
        self._report["exit_code"] = problem.exit_code
        self._report["message"] = problem.message
        self._report["phase"] = self._phase
        self._report["unbegun"] = problem.disk

    def _record_start(self) -> None:
        pid = self._main_pid
        start = {
            "attempt_id": self._request["attempt_id"],
            "rank": self._request["rank"],
            "phase": self._phase,
            "pid": pid,
            "pgid": pid,
            "pid_start_ticks": start_ticks(pid),
            "supervisor_pid": os.getpid(),
            "supervisor_start_ticks": self._ticks,
            "boot_id": self._request["boot_id"],
            "start_boot_us": self._start_at,
            "memory_enforced": self._memory_held
            or (self._cgroup is not None and self._cgroup.memory_limited),
            "takes_limits": True,
            "reaped_before_us": self._reaped_before_us,
        }
        if self._job is not None and self._job.progress_dir:
            start["progress_dir"] = [self._job.progress_dir, *self._job.progress_made]
        self._alive_us = boot_us()
        data = start_record(start, self._alive_us)
        write_record(START, data)
        self._start_notice = (boot_us() + START_NOTICE_DELAY_US, b'{"kind":"started",' + data[1:])
        # A stop or a step asked for before start.json existed could not signal us. We write first and look
        # second, the agent writes its file first and looks second: one of us sees the other.
        self._read_limit()
        self._read_stop()
        self._serve_steps()

    # --- the loop -------------------------------------------------------------------------------

    def _supervise(self) -> None:
        poll = select.poll()
        poll.register(SIGNAL_FD, select.POLLIN)
        poll.register(self._log_read, select.POLLIN)
        while True:
            poll.poll(self._timeout_ms())
            self._beat(boot_us())
            if self._drain_signals():
                self._read_limit()
                self._read_stop()
                self._serve_steps()
            if self._log_open and not self._log.pump():
                poll.unregister(self._log_read)
                self._log_open = False
            if self._reap() and not self._next_phase():
                return
            self._act_on_time(boot_us())

    def _beat(self, now: int) -> None:
        """We live: who finds that everything here was killed knows until when the job may have run."""
        if self._alive_us and now - self._alive_us >= BEAT_US:
            self._alive_us = now
            write_instant(ALIVE_AT, now)

    def _drain_signals(self) -> bool:
        """Empty the signalfd; True when a stop was announced."""
        stop = False
        while True:
            try:
                records = os.read(SIGNAL_FD, _SIGNALS_BYTES)
            except BlockingIOError:
                return stop
            stop = stop or any(
                records[at] == SIGUSR1 for at in range(0, len(records), _SIGNALFD_RECORD_BYTES)
            )
            if len(records) < _SIGNALS_BYTES:
                return stop

    def _timeout_ms(self) -> int:
        due = [
            at
            for at in (
                self._term_at if self._report["term_sent_at"] is None else None,
                self._kill_at,
                self._leftover_kill_at,
                self._limit_at if self._stop_cause is None else None,
                self._warn_at if self._stop_cause is None else None,
                self._look_at,
                self._start_notice[0] if self._start_notice is not None else None,
            )
            if at is not None
        ]
        if not due:
            return BEAT_US // 1000
        wait_us = min(due) - boot_us()
        if wait_us <= 0:
            return KILL_POLL_MS
        return min(wait_us // 1000 + 1, WAKE_MS_MAX)

    def _reap(self) -> bool:
        """Collect the dead; True when no child is left, which for a subreaper is an empty tree."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                break
            # Summed here: the kernel's own sum is over every attempt this process has had.
            self._user_s += used.ru_utime
            self._system_s += used.ru_stime
            self._max_rss_kib = max(self._max_rss_kib, used.ru_maxrss)
            if pid == self._step_server_pid:
                self._step_server_pid = 0
            if pid == self._copier_pid:
                self._copier_pid = 0
            if pid == self._main_pid and not self._main_ended:
                self._main_ended = True
                self._record_status(status)
        if self._main_ended and (self._copier_pid or self._leftover_kill_at is None):
            left = self._processes()
            if not left and self._copier_pid:
                return True  # it goes on copying for the next phase, or ends with the last
            if self._leftover_kill_at is None:
                self._tell_left(left)
                tree.send(left, SIGTERM)
                self._leftover_kill_at = boot_us() + LEFTOVER_GRACE_US
        return False

    def _tell_left(self, left: list[int]) -> None:
        """What a script began and did not wait for is lost with it, however well it ends."""
        job, report = self._job, self._report
        # A program, or an engine, sees to its own.
        good = report["end_cause"] == "completed" and self._phase == "run"
        if good and job is not None and not job.argv and not self._contained:
            report["message"] = tree.left_in_background(left, self._step_server_pid)

    def _processes(self) -> list[int]:
        """Those of the job, without what is ours among them."""
        found = [pid for pid in tree.descendants(os.getpid()) if pid != self._copier_pid]
        if self._contained:
            found += self._container().outside()
        return found

    def _inside(self) -> list[int]:
        """Of a container, what its job started; of any other job, all."""
        if not self._contained:
            return self._processes()
        found = self._processes()
        if self._job is not None and self._job.runtime is not None and self._job.runtime["kind"] == "enroot":
            return [pid for pid in found if pid != self._main_pid]  # it has no namespace of processes
        return tree.inside(found)

    def _container(self) -> Any:
        from bursar_agent.runner import containers

        return containers.Seen()

    def _record_status(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self._report["exit_code"] = code if code >= 0 else None
        self._report["signal"] = -code if code < 0 else None
        self._report["phase"] = self._phase
        self._report["main_end_boot_us"] = boot_us()
        self._report["stopped"] = self._stop_cause is not None
        if self._stop_cause is not None:
            self._report["end_cause"] = self._stop_cause
        elif self._contained and self._container().tell(self._report):
            pass
        elif code == 0:
            self._report["end_cause"] = "completed"
        else:
            self._report["end_cause"] = "failed"
            if self._phase == "setup":
                self._report["message"] = "setup failed; the run text was not started"

    def _next_phase(self) -> bool:
        """After a good setup comes the run; False when all is over."""
        good = self._report["end_cause"] == "completed"
        if self._phase != "setup" or not good or self._stop_cause is not None:
            return False
        self._phase = "run"
        self._main_ended = False
        self._leftover_kill_at = None
        self._report["exit_code"] = None
        self._report["end_cause"] = "failed"
        assert self._job is not None
        return self._spawn(self._job) and not self._over

    # --- steps ----------------------------------------------------------------------------------

    def _serve_steps(self) -> None:
        """A step from another node waits: start what takes it, as a process of the job, once."""
        try:
            os.unlink(STEP)
        except FileNotFoundError:
            return
        job = self._job
        if job is None or not job.steps_dir or self._main_ended or self._step_server_pid:
            return
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            argv = [sys.executable, "-IS", f"{job.steps_dir}/{STEP_SERVER}"]
            self._step_server_pid = spawning.spawn(
                job, argv, (nowhere, nowhere), self._attempt_dir_fd, self._host, self._cgroup
            )
        except spawning.CannotStart as problem:
            os.write(2, f"steps of {self._request['attempt_id']}: {problem.message}\n".encode())
        finally:
            os.close(nowhere)

    # --- another limit --------------------------------------------------------------------------

    def _read_limit(self) -> None:
        """Live by the time limit that was given last. An end that has begun goes on."""
        limit_us = written_limit()
        if limit_us is None or self._stop_cause is not None:
            return
        limit_at = self._start_at + limit_us
        if limit_at != self._limit_at:
            self._limit_at = limit_at
            self._warn_before_limit()

    def _warn_before_limit(self) -> None:
        """A job that was warned of an earlier limit is warned again before the later one."""
        self._warn_at, self._warned = None, False
        self._asked.clear()
        if self._job is not None and self._job.warn_us and self._limit_at is not None:
            self._warn_at = self._limit_at - self._job.warn_us

    # --- stopping -------------------------------------------------------------------------------

    def _read_stop(self) -> None:
        try:
            stop = linked_stop()
            if stop is None:
                with open(STOP, "rb") as file:
                    stop = json.loads(file.read())
            cause, grace_us = str(stop["cause"]), max(0, int(stop["grace_us"]))
            signal_number = stop.get("signal")
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as problem:
            os.write(2, f"stop.json of {self._request['attempt_id']}: {problem!r}\n".encode())
            return
        self._stop(cause, signal_number, grace_us)

    def _stop(self, cause: str, signal_number: int | None, grace_us: int) -> None:
        """Begin to end the job, or hasten an end that has begun: a deadline only ever moves nearer.

        The first cause stands: it is the reason for the end, whoever hastened it.
        """
        now = boot_us()
        if self._main_ended and self._stop_cause is None:
            return  # it ended by itself; only leftovers are being cleared
        asked = False
        if self._stop_cause is None:
            self._stop_cause = cause
            if signal_number and grace_us > 0:
                # Whoever was warned of the limit has been asked: a script that requeues itself when it is
                # warned would be told to do so again.
                asked = self._warned or self._ask_to_checkpoint(signal_number, now)
        elif self._report["signal_sent_at"] is not None:
            asked = grace_us > 0
        if asked:
            term_at, kill_at = now + grace_us, now + grace_us + TERM_TO_KILL_US
        else:
            term_at, kill_at = now, now + grace_us
        self._term_at = term_at if self._term_at is None else min(self._term_at, term_at)
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        self._act_on_time(now)

    def _ask_to_checkpoint(self, signal_number: int, now: int) -> bool:
        """Send the checkpoint signal to every process that handles it; False if none does. Those that come to
        handle it within the grace are told then.

        Not to the process group as a whole: the default action would kill the shell that runs a
        script of several lines, and with it the trainer that is writing its checkpoint.
        """
        self._asked.clear()
        if self._signal_handlers(signal_number, now):
            self._asking, self._look_at = signal_number, now + WARN_AGAIN_US
            return True
        if signal_number != SIGTERM:  # which comes next anyway
            told = f"no process handled checkpoint signal {signal_number}; sent TERM instead"
            self._report["message"] = told
        return False

    def _signal_handlers(self, signal_number: int, now: int) -> bool:
        alone = self._job is not None and self._job.script_only
        pids = self._inside()
        if alone:
            pids = tree.first(pids) if self._contained else [self._main_pid]
        sent = self._asked.tell(pids, signal_number, now)
        if sent:
            self._report["signal_sent_at"] = now
        return sent

    def _warn(self, now: int) -> None:
        """The limit is near: the job is told, and goes on. How it ends by itself is how it ended. Until then
        who comes to have a handler is told too, each process once.
        """
        self._warn_at = None
        number = self._request.get("checkpoint_signal")
        if number and not self._main_ended:
            self._warned = self._signal_handlers(number, now) or self._warned
            self._warn_at = now + WARN_AGAIN_US

    def _look_again(self, now: int) -> None:
        """While a job that is to end has time to save itself: who has a handler for that by now?"""
        if self._report["term_sent_at"] is None and not self._main_ended:
            self._signal_handlers(self._asking, now)
            self._look_at = now + WARN_AGAIN_US
        else:
            self._look_at = None

    def _act_on_time(self, now: int) -> None:
        if self._start_notice is not None and now >= self._start_notice[0]:
            self._notify(self._start_notice[1])
            self._start_notice = None
        if self._warn_at is not None and now >= self._warn_at and self._stop_cause is None:
            self._warn(now)
        if self._look_at is not None and now >= self._look_at:
            self._look_again(now)
        if self._limit_at is not None and now >= self._limit_at and self._stop_cause is None:
            grace_us = int(self._request["grace_us"])
            if self._warned:
                self._stop("time_limit", None, min(grace_us, AFTER_WARNING_US))
            else:
                self._stop("time_limit", self._request.get("checkpoint_signal"), grace_us)
            return
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_tree(now)
        elif self._term_at is not None and now >= self._term_at and not self._report["term_sent_at"]:
            self._report["term_sent_at"] = now
            inside = self._inside() if self._contained else []
            if inside:
                tree.send(tree.group_of(tree.first(inside), inside), SIGTERM)
            elif not self._main_ended:  # else its number may belong to another group by now
                try:  # noqa: SIM105  contextlib is not loaded here
                    os.killpg(self._main_pid, SIGTERM)
                except OSError:
                    pass  # whatever left the group is killed at the deadline
        if self._leftover_kill_at is not None and now >= self._leftover_kill_at:
            self._kill_tree(now)

    def _kill_tree(self, now: int) -> None:
        if self._report["kill_sent_at"] is None:
            self._report["kill_sent_at"] = now
            self._spare_until = now + REMOVE_US
        assert self._spare_until is not None
        pids = self._processes()
        if self._contained and now < self._spare_until:
            # What runs a container then ends by itself and removes it, unless its runtime hangs.
            inside = tree.in_namespace(pids)
            self._emptied = self._emptied or bool(inside)
            pids = inside if self._emptied else pids
        tree.send(pids, SIGKILL)

    # --- ending ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._alive_us:
            write_instant(ENDED_AT, boot_us())
        self._close_outputs()
        if self._copier_pid:
            self._await_copier()
        # Whoever still holds the pipe is outside the tree; what is in it now is the job's.
        if self._log_open:
            while self._log.pump() and select.select([self._log_read], [], [], 0)[0]:
                pass
        self._log.close()
        os.close(self._log_read)
        job = self._job
        for path in self._texts:
            scratch.remove_file(path)
        report = self._report
        out_of_memory = self._cgroup is not None and self._cgroup.close()
        # A shell tells of a command that was killed by its exit code.
        killed = report["signal"] == SIGKILL or report["exit_code"] == 128 + SIGKILL
        if self._contained:
            seen = self._container()
            out_of_memory = out_of_memory or seen.out_of_memory
            report["image_digest"], report["pull_us"] = seen.digest, seen.pull_us
            seen.remove()
        if out_of_memory and killed and report["kill_sent_at"] is None:
            limit = self._request.get("memory_limit_bytes")
            where = f"at its memory limit of {limit} bytes" if limit else "for want of memory on this machine"
            report["end_cause"] = "out_of_memory"
            report["message"] = f"killed by the kernel {where}"
        if job is not None:
            self._folders.leave(job.checkpoint_dir, job.uid)
        end_at = boot_us()
        if job is not None and job.scratch_dir:
            scratch.remove(job.scratch_dir)
        if job is not None and job.secrets_dir:
            secretfiles.remove(job.secrets_dir)
        if job is not None and job.progress_dir:
            progressfile.keep(job.progress_dir, job.progress_made)
            scratch.remove(job.progress_dir)
        report["supervisor_pid"] = os.getpid()
        report["boot_id"] = self._request["boot_id"]
        report["start_boot_us"] = self._start_at
        report["end_boot_us"] = end_at
        report["held_us"] = end_at - self._start_at
        report["cpu_user_us"] = round(self._user_s * 1_000_000)
        report["cpu_system_us"] = round(self._system_s * 1_000_000)
        report["max_rss_bytes"] = self._max_rss_kib * 1024
        report["log_bytes"] = self._log.total_bytes
        report["log_dropped_bytes"] = self._log.dropped_bytes
        data = json.dumps(report).encode()
        # Heard now, whatever becomes of the disk: else it would be charged until that is mended.
        keep_record(EXIT, data, lambda: self._notify(b'{"kind":"ended","unwritten":true,' + data[1:]))
        self._told = self._notify(b'{"kind":"ended",' + data[1:], END_NOTICE_TRIES)

    def _await_copier(self) -> None:
        """Until it has brought what was printed into the files, or has had its time."""
        kill_at = boot_us() + COPY_GRACE_US
        poll = select.poll()
        poll.register(self._log_read, select.POLLIN)
        while self._log_open and (left_us := kill_at - boot_us()) > 0:
            poll.poll(left_us // 1000 + 1)
            self._log_open = self._log.pump()
        if self._log_open:
            tree.send([self._copier_pid], SIGKILL)  # it stays ours, so this process takes no other attempt
        else:
            os.waitpid(self._copier_pid, 0)
            self._copier_pid = 0

    def _notify(self, data: bytes, tries: int = 1) -> bool:
        """Tell the agent; False when it does not listen, or has more to read than the kernel holds for it.

        Loss is fine as long as we die then: our death wakes it, the files tell.
        """
        for left in range(tries, 0, -1):
            try:
                self._notify_socket.sendto(data, "../../" + AGENT_SOCKET)
                return True
            except OSError as problem:
                if problem.errno in (errno.ENOENT, errno.ECONNREFUSED):
                    return False
                if problem.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    os.write(2, f"agent.sock: {problem!r}\n".encode())
                    return False
                if left > 1:
                    time.sleep(NOTICE_PAUSE_S)
        return False
