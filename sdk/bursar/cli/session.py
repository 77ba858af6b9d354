"""`run --pty`: a job for one program at this terminal, from its start to its end.

Why     the program is attached, not the job's own: a terminal is of whoever sits at it. Its end is told to
        the job, which waits for that word (`model.job`) and ends as the program did.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bursar.cli import texts
from bursar.cli.attach import Program
from bursar.cli.attached import Attached
from bursar.cli.common import fail, now
from bursar.cli.ends import NEVER_STARTS
from bursar.cli.follow import exit_code, watched
from bursar.cli.output import say
from bursar.codec import view
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar.jobfile.document import watched_when_detached
from bursar.model import JobSpec, JobState
from bursar.steps.names import SESSION_DIR

if TYPE_CHECKING:
    from bursar.cli.output import Output
    from bursar.cli.submit import Manner
    from bursar.client import WireClient

_TELLS: Final = (
    f'end="${SESSION_DIR}/end"; trap : INT QUIT; trap \'echo 129 >"$end"\' HUP; "$@"; code=$?;'
    ' echo "$code" >"$end"; exit "$code"'
)
"""Runs a program and writes its exit code where the job waits for it; also when the terminal hangs up."""


def run_at_terminal(
    client: WireClient, spec: JobSpec, command: tuple[str, ...], manner: Manner, output: Output
) -> None:
    """Submit, wait until it runs, have the program, and end as it did."""
    if manner.wait or manner.follow or manner.parsable or output.structured:
        raise InvalidRequest("--pty stands alone: no --wait, --follow, --parsable or -o")
    if not (os.isatty(0) and os.isatty(1)) and not manner.dry_run:
        raise InvalidRequest("--pty: standard input and output are no terminal; use --follow")
    asked = session_of(spec)
    if manner.dry_run:
        from bursar.cli.submit import show_plan

        show_plan(client, asked, output)
        return
    planned = client.plan(asked)
    if not output.quiet:
        say(texts.plan_text(view.plan(planned), now()))
    if not manner.queue and planned.reason.code in NEVER_STARTS:
        say("not submitted, since it can never start as things are; --queue submits it and waits")
        raise fail(1)
    job = client.submit(asked, idempotency_key=manner.key).job
    say(f"job {job.number} {job.state}")
    try:
        until_it_runs(client, job.id)
        with Attached(client, job.id, 0, "program") as stream:
            program = Program(stream, ("sh", "-c", _TELLS, "sh", *command), terminal=True)
            code = program.run()
            if program.left:
                client.cancel([job.id], reason="whoever sat at its terminal left")
    except ServerUnavailable as lost:
        try:
            ended = client.get(job.id)
        except ServerUnavailable:
            raise ServerUnavailable(
                f"the daemon does not answer: job {job.number} runs on. Within about a minute after it is"
                f" back the program of this terminal is ended, and the job with it; `bursar cancel"
                f" {job.number}` ends it sooner"
            ) from None
        if not JobState(ended.state).terminal:
            say(f"job {job.number} goes on, and is stopped when nobody attaches to it")
            raise
        say(str(lost))
        code = exit_code(ended)
    except (KeyboardInterrupt, BursarError):
        client.cancel([job.id], reason="its terminal was given up")
        raise
    if code:
        raise fail(code)


def session_of(spec: JobSpec) -> JobSpec:
    """The job that waits for its program: what a spec asks for, without one."""
    return msgspec.structs.replace(
        spec,
        command=(),
        interactive=True,
        launch="once" if spec.launch == "per-node" else spec.launch,
        idle_policy=watched_when_detached(spec.idle_policy),
    )


def until_it_runs(client: WireClient, job_id: str) -> None:
    """Raises `BursarError` for one that ended before."""
    said, job = "", None
    for job in watched(client, job_id):
        if job.state == JobState.RUNNING:
            return
        if job.reason.message and job.reason.message != said and job.state == JobState.PENDING:
            said = job.reason.message
            say(f"waiting: {said}")
    raise EndedFirst(job)


class EndedFirst(BursarError):
    """A job that ended before anybody could use it. `job`: as it ended, where that is known."""

    def __init__(self, job: Any) -> None:
        self.job = job
        super().__init__("the job ended before it could be used: " + _why(job))


def _why(job: Any) -> str:
    if job is None:
        return "how is not known"
    said = job.end.message or job.reason.message or str(job.state).lower()
    return f"{said}; {job.end.remedy}" if job.end.remedy else said
