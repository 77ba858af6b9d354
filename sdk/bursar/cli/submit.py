"""Verbs that bring a job in: submit, run, plan. What it costs is shown before anything starts."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from bursar.cli import texts
from bursar.cli.common import changing_unless, connected, fail, listing, moment, now
from bursar.cli.ends import NEVER_STARTS, AttemptEnds, NeverStartsError, Troubles, never_starts, tell_end
from bursar.cli.follow import exit_code, follow_job
from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.output import Column, Output, Row, emit_one, say, write_text
from bursar.cli.progress import Progress
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.model import JobSpec, JobState
from bursar.smallfile import read_small_file
from bursar.steps.names import SBATCH_WORDS, SUBMITTED_AS

if TYPE_CHECKING:
    from bursar.client import WireClient
    from bursar.jobfile import RunFlags
    from bursar.jobfile.site import Site

PLAN_COLUMNS = (
    Column("starts_now"),
    Column("rate_per_hour"),
    Column("expected_cost"),
    Column("worst_case_cost"),
    Column("expected_start_at"),
)


class Manner(NamedTuple):
    """How to submit: the flags `submit` and `run` share."""

    wait: bool
    follow: bool
    dry_run: bool
    key: str
    parsable: bool
    queue: bool


def submitting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the verb `manner: Manner`."""

    @click.option("--wait", is_flag=True, help="Wait for the end; exit code 1 if it failed.")
    @click.option("--follow", is_flag=True, help="Print its log, then exit as the job did.")
    @click.option("--queue", is_flag=True, help="With these two: also what can never start as things are.")
    @click.option("--dry-run", is_flag=True, help="Show the plan and the price; submit nothing.")
    @click.option("--idempotency-key", default=None, metavar="K", help="Submit once per key.")
    @click.option("--parsable", is_flag=True, help="Print the job's number alone, for scripts.")
    @click.option("--yes", is_flag=True, help="Never ask; this version asks nothing anyway.")
    @functools.wraps(command)
    def with_manner(
        *args: Any,
        wait: bool,
        follow: bool,
        dry_run: bool,
        idempotency_key: str | None,
        parsable: bool,
        queue: bool,
        yes: bool,
        **kwargs: Any,
    ) -> Any:
        if idempotency_key == "":
            raise InvalidRequest(
                "--idempotency-key: is empty, so nothing would keep a job from being doubled"
            )
        manner = Manner(wait, follow, dry_run, idempotency_key or "", parsable, queue)
        return command(*args, manner=manner, **kwargs)

    return with_manner


def job_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the verb `flags`: those that mirror the job file."""
    before = {option.name for option in getattr(command, "__click_params__", ())}

    @click.option("--name", help="Of the job, to find it by and to estimate from its past runs.")
    @click.option("--project", help="Owns quota and budget: nlp/finetune.")
    @click.option("--experiment", help="Groups jobs and their cost.")
    @click.option("--model", help="Groups jobs and their cost.")
    @click.option("--label", "label", multiple=True, metavar="K=V", help="A label.")
    @click.option("--model-version", help="Of the model.")
    @click.option("--nodes", metavar="N", help="A gang of N nodes: all or nothing; 2..8: as many as can.")
    @click.option("--gpus", metavar="GPUS", help="Per node: H100:8, 2, 0.5, A100:80GB:2, H100:2..8.")
    @click.option("--cpus", metavar="N", help="Per node: 16.")
    @click.option("--memory", metavar="SIZE", help="Per node: 128GB.")
    @click.option(
        "--throughput",
        multiple=True,
        metavar="TYPE=SPEED",
        help="How fast it is where: H100=2.6; A100x4=3.1: on four in all.",
    )
    @click.option("--time-limit", metavar="DURATION", help="90s, 15m, 24h, 7d.")
    @click.option("--begin-after", metavar="TIME", help="Earliest start: 2026-12-01T08:00Z, now+3h.")
    @click.option("--deadline", metavar="TIME", help="Ends by then, promised: 2026-12-01T08:00Z, now+3h.")
    @click.option(
        "--deadline-policy", metavar="promise|best-effort", help="best-effort: without a promise.  [promise]"
    )
    @click.option("--priority", metavar="P", help="low, normal, high or 0..100.")
    @click.option("--preemptible", metavar="true|false", help="May it be stopped for others.  [true]")
    @click.option("--hold", is_flag=True, help="Submit on hold, until `bursar release`.")
    @click.option("--max-cost", metavar="MONEY", help="All attempts together: '500 USD'.")
    @click.option(
        "--max-cost-per", metavar="job|task", help="Of an array: all tasks together, or each.  [job]"
    )
    @click.option("--max-price", metavar="PRICE", help="Of the whole job: '40 USD/h'.")
    @click.option("--on-exceed", metavar="stop|checkpoint-stop", help="What happens at --max-cost.  [stop]")
    @click.option("--checkpoint-signal", metavar="SIGNAL", help="It is asked to save itself by it: USR1.")
    @click.option("--checkpoint-grace", metavar="DURATION", help="Time it then has.  [60s]")
    @click.option(
        "--checkpoint-before", metavar="DURATION", help="Asked so long before the time limit, and goes on."
    )
    @click.option(
        "--retry-on",
        multiple=True,
        metavar="CAUSE,CAUSE",
        help="Run again after: node-failure, preemption, out-of-memory, failure, time-limit, …",
    )
    @click.option("--retry-max", metavar="N", help="So many times; a lost node and a preemption count none.")
    @click.option("--idle-window", metavar="DURATION", help="So long may its GPUs do nothing.")
    @click.option(
        "--idle-action", metavar="stop|notify|hold|requeue|cancel", help="What is done then.  [stop]"
    )
    @click.option(
        "--env", "env", multiple=True, metavar="K[=V]", help="A variable; K alone: as in your shell."
    )
    @click.option(
        "--secret",
        "secret",
        multiple=True,
        metavar="NAME[:file]",
        help="A secret, as a variable, or as a file whose path the variable has.",
    )
    @click.option("--workdir", metavar="DIR", help="Where it runs; else the current directory.")
    @click.option("--array", metavar="RANGE", help="0-99, or 0-99%10 for 10 at once.")
    @click.option(
        "--after", multiple=True, metavar="JOB", help="Start after this job succeeded; 12:finished: ended."
    )
    @click.option("--constraint", multiple=True, metavar="K=V", help="Which nodes: zone=eu-*, node=!bad-01.")
    @click.option("--spot", is_flag=True, help="Interruptible machines.")
    @click.option("--spot-policy", metavar="auto|spot|on-demand", help="Which machines.  [auto]")
    @click.option("--setup", metavar="TEXT", help="Shell text run to success first, on every node.")
    @click.option("--comment", help="A note.")
    @click.option(
        "--launch",
        metavar="HOW",
        help="per-node (the command runs on every node), once, or torchrun, mpi, ray, dask, spark.",
    )
    @click.option(
        "--tasks-per-node", metavar="N", help="Processes that torchrun, mpi or dask start on a node."
    )
    @click.option(
        "--output-file", metavar="PATH", help="Its output goes there too: out/%j.log, %x-%A_%a.out, %N.log."
    )
    @click.option("--error-file", metavar="PATH", help="Its standard error; else with the output.")
    @click.option(
        "--open-mode",
        metavar="append|truncate",
        help="What becomes of a file that is there.  [truncate; append at a later attempt]",
    )
    @click.option("--image", metavar="NAME", help="Run in a container of this image: ghcr.io/acme/train:1.")
    @click.option("--image-auth", metavar="SECRET", help="The secret that its registry is shown.")
    @click.option(
        "--mount",
        "mount",
        multiple=True,
        metavar="SOURCE:TARGET[:ro]",
        help="A directory of the node that the container has too, beside --workdir.",
    )
    @functools.wraps(command)
    def with_flags(*args: Any, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in list(kwargs) if name in ours}
        return command(*args, flags=flags, **kwargs)

    ours = {option.name for option in with_flags.__click_params__} - before  # type: ignore[attr-defined]
    return with_flags


class FileThenWords(click.Command):
    """`[flags] FILE [words]`: words behind a script are its own, as everywhere.

    Behind a job file, which takes none, they are flags; and what stands between FILE and a `--` is ours too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and once more when flags stood behind the file."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        file, words = ctx.params.get("file"), list(ctx.params.get("arguments") or ())
        if not words:
            return rest
        if "--" in words:
            ours, theirs = words[: words.index("--")], words[words.index("--") + 1 :]
        elif _is_script(ctx, str(file)):
            return rest
        else:
            ours, theirs = words, []
        head = given[: len(given) - len(words) - 1]
        ctx.params.clear()
        rest = super().parse_args(ctx, [*head, *ours, str(file), *theirs])
        if ctx.params.get("file") != file:
            raise InvalidRequest(
                f"{file} is a job file, which takes no words of its own; put {ours[0]!r} into its `run`, "
                "or submit a script"
            )
        return rest


@click.command(cls=FileThenWords, context_settings={"allow_interspersed_args": False})
@job_flags
@submitting
@listing
@click.argument("file", metavar="FILE|-")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG...]")
@changing_unless(lambda given: given["manner"].dry_run)
def submit(
    client: WireClient,
    file: str,
    arguments: tuple[str, ...],
    flags: dict[str, Any],
    manner: Manner,
    output: Output,
) -> None:
    """Submit a job file (YAML) or a script with #BURSAR or #SBATCH lines.

    Flags stand above what the file says. Words after a script go to it as $1, $2, …

    Example: bursar submit --array 0-3 --env LR=1e-4 train.sh data.bin
    """
    bring_in(client, read_job(client, file, arguments, flags), manner, output)


@click.command(cls=FileThenWords, context_settings={"allow_interspersed_args": False})
@job_flags
@listing
@click.argument("file", metavar="FILE|-")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG...]")
@connected
def plan(
    client: WireClient, file: str, arguments: tuple[str, ...], flags: dict[str, Any], output: Output
) -> None:
    """Show where a job would go and what it would cost. Changes nothing.

    Example: bursar plan train.yaml
    """
    show_plan(client, read_job(client, file, arguments, flags), output)


@click.command(context_settings={"allow_interspersed_args": False})
@job_flags
@submitting
@listing
@click.option("--pty", is_flag=True, help="At this terminal: as soon as it runs, until it ends.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@changing_unless(lambda given: given["manner"].dry_run)
def run(
    client: WireClient,
    command: tuple[str, ...],
    flags: dict[str, Any],
    manner: Manner,
    output: Output,
    pty: bool,
) -> None:
    """Submit a command. Flags mirror the job file; the command comes after --.

    Example: bursar run --gpus 1 --time-limit 1h --follow -- python train.py
    """
    from bursar import jobfile

    wanted = given_flags(flags, command) or jobfile.RunFlags()
    spec = jobfile.spec_from_flags(wanted, str(Path.cwd()))
    if not pty:
        bring_in(client, spec, manner, output)
        return
    from bursar.cli.session import run_at_terminal

    if SBATCH_WORDS in os.environ:  # `srun --pty` of a login machine
        spec = spec_of_sbatch_words(client, given_flags(flags))
    run_at_terminal(client, spec, command, manner, output)


def spec_of_sbatch_words(client: WireClient, given: RunFlags | None) -> JobSpec:
    """What the words of Slurm ask for, without a program."""
    from bursar import jobfile
    from bursar.jobfile.exported import exported
    from bursar.jobfile.request import job_of_script

    here = datetime.fromtimestamp(now() / SECOND_US, UTC).astimezone()
    text = "#!/bin/sh\n:\n"
    caller = jobfile.Caller(
        os.environ, here, socket.gethostname(), _site_of(client, text), exported(os.environ)
    )
    spec, sentences = job_of_script(text, "srun", str(Path.cwd()), (), given, caller)
    for sentence in sentences:
        say(sentence)
    return msgspec.structs.replace(spec, script="", arguments=(), output_file="", error_file="")


# ------------------------------------------------------------------ from words to a spec


def _text_of(ctx: click.Context, file: str) -> str:
    """The file, read once: standard input cannot be read again. Raises `InvalidRequest`."""
    texts_read: dict[str, str] = ctx.meta.setdefault("bursar.files", {})
    if file not in texts_read:
        texts_read[file] = read_small_file(file)
    return texts_read[file]


def _is_script(ctx: click.Context, file: str) -> bool:
    from bursar import jobfile

    try:
        return jobfile.looks_like_script(_text_of(ctx, file))
    except InvalidRequest:
        return True  # it cannot be read, which is said by whoever needs the text


def read_job(client: WireClient, file: str, arguments: tuple[str, ...], flags: dict[str, Any]) -> JobSpec:
    """The job of a file, or of standard input for `-`. Relative paths are the caller's."""
    from bursar import jobfile
    from bursar.jobfile.exported import exported
    from bursar.jobfile.request import job_of_file, job_of_script

    text = _text_of(click.get_current_context(), file)
    source = "<stdin>" if file == "-" else os.path.basename(file) if SUBMITTED_AS in os.environ else file
    given, base = given_flags(flags), str(Path.cwd())
    if SBATCH_WORDS not in os.environ and not jobfile.looks_like_script(text):
        spec, sentences = job_of_file(text, source, base, given)
    else:
        here = datetime.fromtimestamp(now() / SECOND_US, UTC).astimezone()
        site = _site_of(client, text)
        caller = jobfile.Caller(os.environ, here, socket.gethostname(), site, exported(os.environ))
        spec, sentences = job_of_script(text, source, base, arguments, given, caller)
    for sentence in sentences:
        say(sentence)
    _say_what_may_surprise(source, arguments)
    return spec


def _site_of(client: WireClient, text: str) -> Site:
    """What the script may speak of: the nodes, and what names stand for."""
    from bursar.jobfile.site import Site
    from bursar.jobfile.slurm import asks_of_site

    typed = os.environ.get(SBATCH_WORDS, "")
    asks = asks_of_site(f"{text}\n#SBATCH {typed}\n" if typed else text)
    if not (asks.nodes or asks.names):
        return Site()
    from bursar.client.asked import site_nodes
    from bursar.codec.slurm_names import names_from_wire

    nodes = site_nodes(client.nodes()) if asks.nodes else None
    return Site(nodes, names_from_wire(client.slurm_names()) if asks.names else ())


def _say_what_may_surprise(source: str, arguments: tuple[str, ...]) -> None:
    """What people expect otherwise: flags behind the file."""
    known = {option for one in submit.params for option in one.opts if option.startswith("--")}
    for word in arguments:
        if word.partition("=")[0] in known:
            say(f"{source}: {word} stands behind the script, so it goes to the script; flags stand before it")


def given_flags(flags: dict[str, Any], command: tuple[str, ...] = ()) -> RunFlags | None:
    """The flags that were typed, None for nothing; `--env NAME` with the value of this shell.

    Raises `InvalidRequest`.
    """
    from bursar import jobfile

    given = {name: value for name, value in flags.items() if value not in (None, (), False)}
    if not given and not command:
        return None
    if "env" in given:
        given["env"] = tuple(_with_value(word) for word in given["env"])
    for name in ("begin_after", "deadline"):
        if name in given:
            given[name] = moment(given[name], f"--{name.replace('_', '-')}")
    return jobfile.RunFlags(command=command, **given)


def _with_value(word: str) -> str:
    if "=" in word:
        return word
    if word not in os.environ:
        raise InvalidRequest(f"--env {word}: your shell has no variable of that name; write {word}=VALUE")
    return f"{word}={os.environ[word]}"


# ------------------------------------------------------------------ from a spec to a job


def bring_in(client: WireClient, spec: JobSpec, manner: Manner, output: Output) -> None:
    """Show the price, submit, and wait or follow as asked."""
    if manner.follow and output.structured:
        raise InvalidRequest("--follow prints the job's log; it does not go with -o " + output.format)
    if manner.dry_run:
        show_plan(client, spec, output)
        return
    awaited, silent = manner.wait or manner.follow, output.quiet or manner.parsable
    if awaited or not silent:
        planned = client.plan(spec)
        if not silent:
            say(texts.plan_text(view.plan(planned), now()))
        if awaited and not manner.queue and planned.reason.code in NEVER_STARTS:
            say("not submitted, since it can never start as things are; --queue submits it and waits")
            raise fail(1)
    job = None
    try:
        answer = client.submit(spec, idempotency_key=manner.key)
        job = answer.job
        _tell_made(client, spec, answer, manner, output)
        if not awaited:
            return
        code, job = _await(client, job, manner, quiet=output.quiet)
    except NeverStartsError as found:
        say(str(found))
        raise fail(1) from None
    except KeyboardInterrupt:
        say("\n" + _goes_on(job))
        raise
    if output.structured:
        emit_one(view.job(job), output, str, columns=JOB_COLUMNS)
    elif not output.quiet:
        say(f"job {job.number} {job.state}: {_end_text(job)}")
        tell_end(client, job, shown_rank=0 if manner.follow and not job.array.size else None)
    if code:
        raise fail(code)


def _tell_made(client: WireClient, spec: JobSpec, answer: Any, manner: Manner, output: Output) -> None:
    """The job, and what the plan says to who was not shown it."""
    job, silent = answer.job, output.quiet or manner.parsable
    if answer.existed and not output.quiet:
        say("this idempotency key was used before; this is the job it made")
    if not (output.structured and manner.wait):
        _tell(view.job(job), output, manner)
    if silent and spec.service is not None and spec.service.fallback and not answer.existed:
        _say_without_fallback(client, job.id)
    if silent and never_starts(job):
        say(f"job {job.number} cannot start as things are: {job.reason.message}; {job.reason.remedy}")


def _goes_on(job: Any) -> str:
    """What whoever interrupts is left with. `job`: None where the server has not answered yet."""
    if job is None:
        return "interrupted before the server answered; `bursar ls` tells whether the job is there"
    return f"job {job.number} goes on; `bursar cancel {job.number}` stops it"


def _tell(row: Row, output: Output, manner: Manner) -> None:
    """The job that was made. With --follow standard output belongs to its log alone."""
    line = f"job {row['number']} {row['id']} {row['state']}"
    if manner.parsable:
        write_text(str(row["number"]))
    elif manner.follow:
        if not output.quiet:
            say(line)
    elif output.structured or output.quiet:
        emit_one(row, output, str, columns=JOB_COLUMNS)
    else:
        write_text(line)
        if not manner.wait:
            verb = "explain" if row["array"] or row["reason"] else "logs -f"
            next_one = f"service show {row['name']}" if row["service"] else f"{verb} {row['number']}"
            say(f"next: bursar {next_one}")


def _say_without_fallback(client: WireClient, job_id: str) -> None:
    """What the plan says, to who was not shown it."""
    row = view.service(client.services(job_id)[0])
    if row["fallback_state"] == "missing":
        whose = f"of {row['user']} in project {row['project']}"
        say(f"fallback: no service {row['fallback']} {whose} is there now")


def _await(client: WireClient, job: Any, manner: Manner, *, quiet: bool) -> tuple[int, Any]:
    """Until the job has ended: the exit code, and the job. `quiet`: its way there is not told."""
    if manner.follow:
        ended = follow_job(client, job.id, queue=manner.queue)
        return exit_code(ended), ended
    seen, progress, ends, troubles = {"state": job.state}, Progress(client), AttemptEnds(), Troubles()

    def tell(change: Any) -> None:
        if not quiet:
            ends.tell(change)
            if change.state != seen["state"] and not JobState(change.state).terminal:
                say(f"job {change.number} {change.state}")
            seen["state"] = change.state
            troubles.tell(change)
            if change.array.size:
                progress.show(change, now())
        if never_starts(change) and not manner.queue:
            raise NeverStartsError(change)

    try:
        ended = client.wait([job.id], seen=tell)[job.id]
    finally:
        progress.close()
    return int(ended.state != JobState.SUCCEEDED), ended


def _end_text(job: Any) -> str:
    row = view.job(job)
    code = "" if row["exit_code"] is None else f", exit code {row['exit_code']}"
    return f"cost {texts.cost_text(row)}{code}"


def show_plan(client: WireClient, spec: JobSpec, output: Output) -> None:
    """The plan as the document of this command."""
    row = view.plan(client.plan(spec))
    emit_one(row, output, lambda r: texts.plan_text(r, now()), columns=PLAN_COLUMNS)
