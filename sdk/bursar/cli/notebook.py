"""`notebook`: Jupyter in a job of its own, in the browser of whoever sits here.

Owns    the job that runs it, waiting until it listens, and the port here that leads to it.
Why     a notebook holds GPUs for as long as somebody forgets it. It is an interactive job with an idle policy
        on: what nobody uses, and what does not use its GPUs, is told and then stopped. Its token is made in
        the job and comes here by the stream of its owner alone (`notebookjob`).
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from bursar.cli import notebookjob, texts
from bursar.cli.attached import Attached
from bursar.cli.common import changing, now
from bursar.cli.output import say
from bursar.cli.portforward import Forward, Ports, listen
from bursar.cli.session import EndedFirst, until_it_runs
from bursar.cli.submit import job_flags
from bursar.codec import view
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable, WrongState
from bursar.model import IdleSpec, JobSpec, JobState
from bursar.steps.names import SESSION_DIR

if TYPE_CHECKING:
    from bursar.client import WireClient

PORT: Final = 8888
IDLE_US: Final = 3_600_000_000
"""So long nobody uses it, or its GPUs do nothing, until it is stopped; half of it until that is told."""
LISTENS_S: Final = 300.0
_LABEL: Final = ("bursar-notebook", "1")
_SCRIPT: Final = (
    "command -v python3 >/dev/null 2>&1 || {{\n"
    "  echo 'notebook: no python3 is on the PATH of this node' >&2; exit 127; }}\n"
    "exec python3 - <<'BURSAR_NOTEBOOK'\n{}\nBURSAR_NOTEBOOK\n"
)
_READ: Final = f'cat "${SESSION_DIR}/notebook.json" 2>/dev/null'


class Found(NamedTuple):
    """Where it listens on its node. `token`: never to be logged."""

    port: int
    token: str
    page: str

    def url(self, port: int) -> str:
        """As it is opened here."""
        return f"http://127.0.0.1:{port}/{self.page}?token={self.token}"


@click.command()
@job_flags
@click.option("--detach", is_flag=True, help="Only start it; `bursar notebook JOB` opens it.")
@click.option("--stop", is_flag=True, help="End the notebook JOB.")
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="Here; 0: any.  [8888, or any]")
@click.option("--idle", metavar="DURATION", default=None, help="Stopped when unused for so long.  [1h]")
@click.argument("job", required=False)
@changing
def notebook(
    client: WireClient,
    flags: dict[str, Any],
    detach: bool,
    stop: bool,
    port: int | None,
    idle: str | None,
    job: str | None,
) -> None:
    """Start Jupyter in a job and lead a port here to it; with JOB, open one that runs.

    It prints the address once it listens. ctrl-C leaves it running; --stop ends it, as Shut Down does.
    What nobody uses for an hour, and whose GPUs do nothing for one, is stopped. The node needs Jupyter: `pip
    install jupyterlab`, or --env JUPYTER=PATH.

    Example: bursar notebook --gpus 1 --time-limit 8h --max-cost '40 USD'
    """
    given = any(value not in (None, (), False) for value in flags.values())
    if job is None:
        if stop:
            raise InvalidRequest("--stop: name the notebook's job, as in `bursar notebook --stop 12`")
        job = _begin(client, notebook_job(flags, idle))
    elif given or idle:
        raise InvalidRequest("flags are of a new notebook; one that runs is opened by its JOB alone")
    elif stop:
        _stop(client, job)
        return
    found = _wait(client, job)
    if detach:
        say(f"it listens; `bursar notebook {job}` opens it, `bursar notebook --stop {job}` ends it")
        return
    _open(client, job, found, port)


def notebook_job(flags: dict[str, Any], idle: str | None = None) -> JobSpec:
    """The job of a notebook, of the flags that mirror the job file. Raises `InvalidRequest`."""
    from bursar import jobfile
    from bursar.cli.submit import given_flags
    from bursar.clock import parse_duration

    idle_us = IDLE_US if idle is None else parse_duration(idle)
    wanted = given_flags(flags, ("jupyter",)) or jobfile.RunFlags(command=("jupyter",))
    spec = jobfile.spec_from_flags(wanted, str(Path.cwd()))
    if spec.nodes != 1 or spec.array is not None:
        raise InvalidRequest("a notebook is one job on one node: leave out --nodes and --array")
    gpus = all(option.gpus for option in spec.options)
    policy = IdleSpec(
        window_us=idle_us if gpus else 0, warn_after_us=idle_us // 2 if gpus else 0, detached_us=idle_us
    )
    source = inspect.getsource(notebookjob)
    return msgspec.structs.replace(
        spec,
        name=spec.name if flags.get("name") else "notebook",
        labels=tuple(sorted({*spec.labels, _LABEL})),
        command=(),
        script=_SCRIPT.format(source),
        interactive=True,
        idle_policy=policy,
    )


def _begin(client: WireClient, spec: JobSpec) -> str:
    """Say what it costs, submit it, and wait until it runs."""
    planned = client.plan(spec)
    say(texts.plan_text(view.plan(planned), now()))
    job = client.submit(spec).job
    say(f"job {job.number} {job.state}; ctrl-C leaves it")
    try:
        until_it_runs(client, job.id)
    except EndedFirst as ended:
        if ended.job is None:
            raise
        raise WrongState(f"notebook {job.number} has ended: {_end_of(client, ended.job)}") from None
    except KeyboardInterrupt:
        say(f"left; `bursar notebook {job.number}` opens it, `bursar notebook --stop {job.number}` ends it")
        raise
    return str(job.number)


def _wait(client: WireClient, job: str) -> Found:
    """Until it listens. Raises `BursarError` where it ended before."""
    until = time.monotonic() + LISTENS_S
    while True:
        shown = client.get(job)
        if dict(shown.spec.labels).get(_LABEL[0]) is None:
            raise InvalidRequest(f"job {job} is no notebook; `bursar notebook` starts one")
        if JobState(shown.state).terminal:
            raise WrongState(f"notebook {job} has ended: {_end_of(client, shown)}")
        found = _listens(client, job) if shown.state == JobState.RUNNING else None
        if found is not None:
            return found
        if time.monotonic() > until:
            raise BursarError(
                f"notebook {job} does not listen after {LISTENS_S:.0f} s: see `bursar logs {job}`"
            )
        time.sleep(0.5)


def _listens(client: WireClient, job: str) -> Found | None:
    try:
        done = client.execute(job, ("sh", "-c", _READ), timeout_s=30.0, output_bytes_max=1 << 16)
        told = json.loads(done.stdout) if done.exit_code == 0 else None
    except (ValueError, TimeoutError, WrongState, ServerUnavailable):
        return None  # it ended meanwhile, as the next look tells
    if not isinstance(told, dict):
        return None
    try:
        return Found(int(told["port"]), str(told["token"]), str(told["page"]))
    except (KeyError, ValueError):
        return None


def _end_of(client: WireClient, shown: Any) -> str:
    """Its own last words, where the log has some."""
    try:
        said = b"".join(one.data for one in client.logs(shown.id, follow=False, tail_lines=20))
    except BursarError:  # it never had one
        said = b""
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.startswith("notebook:")]
    return lines[-1] if lines else shown.end.message or shown.reason.message or shown.state


def _open(client: WireClient, job: str, found: Found, port: int | None) -> None:
    """Lead a port here to it, until ctrl-C."""
    pairs = [Ports(PORT if port is None else port, found.port)]
    try:
        listening = listen(pairs)
    except BursarError:
        if port is not None:
            raise
        listening = listen([Ports(0, found.port)])
    here = next(iter(listening)).getsockname()[1]
    try:
        with Attached(client, job, 0, "ports") as stream:
            sys.stdout.write(f"{found.url(here)}\n")
            sys.stdout.flush()
            say(f"open it in a browser; ctrl-C leaves it running, `bursar notebook --stop {job}` ends it")
            Forward(stream, listening).run()
    except KeyboardInterrupt:
        say(f"left; `bursar notebook {job}` opens it again")
    finally:
        for sock in listening:
            sock.close()


def _stop(client: WireClient, job: str) -> None:
    shown = client.get(job)
    if dict(shown.spec.labels).get(_LABEL[0]) is None:
        raise InvalidRequest(f"job {job} is no notebook; `bursar cancel {job}` ends it")
    if JobState(shown.state).terminal:
        say(f"notebook {shown.number} has ended already: {shown.end.message or shown.state.lower()}")
        return
    client.cancel([job], reason="its notebook was stopped")
    say(f"job {shown.number} is asked to end")
