"""Verbs about jobs that exist: ls, show, logs, explain, wait, cancel, hold, release, requeue, update."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from bursar.cli import texts, unheld
from bursar.cli.common import changing, connected, fail, listing, moment, now, read_labels, read_since
from bursar.cli.ends import (
    LIVE,
    AttemptEnds,
    NeverStartsError,
    Troubles,
    called,
    cause_rank,
    log_text,
    never_starts,
    tell_end,
)
from bursar.cli.follow import Ask, print_logs
from bursar.cli.groups import NearChoice, nearest
from bursar.cli.output import Column, Output, Row, emit, emit_one, say
from bursar.cli.terminal import clean, seconds_text
from bursar.clock import SECOND_US, parse_duration
from bursar.codec import view
from bursar.errors import InvalidRequest, NotFound
from bursar.model import JobState, ReasonCode
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

JOB_NAME_LEAST = 9
"""What is left at 40 columns beside number, state and the words of an end."""
JOB_NAME_EASY = 14
"""Above, what it needs and where it runs go first: a name in five lines is no name."""
WHY_CELLS = max(len(code) for code in ReasonCode)


def _waits(row: Row) -> bool:
    """In the queue, perhaps again: then it runs nowhere, and where an earlier attempt ran is over."""
    return bool(row["state"] == "PENDING")


def _nodes(row: Row) -> list[str]:
    if _waits(row):
        return []
    return [member["node"] for member in row["attempts"][-1]["nodes"]] if row["attempts"] else []


def _where(row: Row) -> str:
    first, *more = _nodes(row) or ["-"]
    return first + (f"+{len(more)}" if more else "")


def _needs(row: Row) -> str:
    many = f"{row['nodes']}..{row['max_nodes']}" if row["max_nodes"] else str(row["nodes"])
    nodes = "" if many == "1" else f"{many}x "
    return nodes + texts.resources_text(row["resources"]).replace(" cpus", "c").replace(" cpu", "c")


def _why(row: Row) -> str:
    code = row["reason"]["code"] if row["reason"] else ""
    if row["service"] and row["array"] and row["state"] in ("PENDING", *LIVE):
        return " ".join(filter(None, (texts.replicas_text(row), code if row["state"] == "PENDING" else "")))
    if row["array"]:
        counts = [f"{n} {name.lower()}" for name, n in row["array"]["counts"].items()]
        return " ".join([*counts, code] if code and row["state"] in LIVE else counts)
    if row["reason"] and row["state"] in ("PENDING", *LIVE):
        return str(code)
    cause = row["attempts"][-1]["end_cause"] if row["attempts"] else None
    return str(cause) if cause and cause != "completed" else ""


def _why_text(row: Row) -> str:
    """In a few words, as `docs/errors.md` has them: `start failed`, `command not found`."""
    return texts.end_words(row) or _why(row).replace("_", " ")


JOB_COLUMNS = (
    Column("number", show=texts.job_ref, right=True),
    Column("id", drop=9),
    Column("name", wrap=True, drop=1, least=JOB_NAME_LEAST, easy=JOB_NAME_EASY),
    Column("project", shrink=True, drop=5),
    Column("user", shrink=True, drop=8),
    Column("state"),
    Column("needs", "resources", _needs, drop=7),
    Column("where", "", _where, shrink=True, drop=6, value=_nodes),
    Column(
        "elapsed",
        "elapsed_s",
        lambda row: seconds_text(row["elapsed_s"]),
        right=True,
        drop=3,
        title="elapsed_s",
    ),
    Column(
        "cost",
        "cost.accrued",
        right=True,
        drop=2,
        mark=texts.is_estimate,
        value=texts.known_cost,
        missing="unknown",
        also=(("settled", "cost.settled"),),
    ),
    # Wide enough for the longest reason's word; a table never cuts it.
    Column("why", "", _why_text, wrap=True, least=WHY_CELLS, value=lambda row: _why(row) or None),
)
"""On a narrow terminal ids go first, the number says as much; number, state and reason stay."""


@click.command()
@click.option("--state", "states", metavar="S,S", help="pending,running,… or all.")
@click.option("--project", default="", help="This project and those below it.")
@click.option("--user", default="", help="Jobs of this user.")
@click.option("--experiment", default="", help="Jobs of this experiment.")
@click.option("--model", default="", help="Jobs of this model.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Jobs with this label.")
@click.option("--since", metavar="TIME", help="Submitted or ended since: 2d, yesterday, 2026-11-01.")
@click.option("--limit", type=click.IntRange(1, 2**32 - 1), default=None, help="At most so many.")
@click.option("--tasks", metavar="JOB", multiple=True, help="List the tasks of this array, or of several.")
@click.option("--name", default="", help="Jobs of this name.")
@listing
@connected
def ls(
    client: WireClient,
    states: str | None,
    labels: tuple[str, ...],
    since: str | None,
    limit: int | None,
    tasks: tuple[str, ...],
    output: Output,
    **filters: str,
) -> None:
    """List jobs: what is active, and what ended in the last day. `show` has what a job runs.

    Example: bursar ls --state pending,running --project nlp
    """
    asked: dict[str, Any] = {
        "limit": limit or 0,
        "states": read_states(states),
        "labels": read_labels(labels),
        "since": read_since(since),
        **filters,
    }
    found = itertools.chain.from_iterable(client.list(tasks_of=one, **asked) for one in tasks or ("",))
    emit(map(view.job, found), JOB_COLUMNS, output, empty="no jobs")


def read_states(text: str | None) -> list[str]:
    """`--state` words as the wire has them; all of them for `all`, none for the default."""
    if text is None:
        return []
    words = [word.strip().upper() for word in text.split(",") if word.strip()]
    if "ALL" in words:
        return [str(state) for state in JobState]
    for word in words:
        if word not in JobState.__members__:
            known = ["all", *(state.lower() for state in JobState)]
            raise InvalidRequest(f"--state: {word.lower()!r} is no state; {nearest(word, known)}")
    return words


@click.command()
@click.argument("job")
@click.option("--profile", is_flag=True, help="What its members and GPUs did over time, of the last day.")
@click.option(
    "--attempt",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    help="With --profile: which attempt; else the newest.",
)
@listing
@connected
def show(client: WireClient, job: str, profile: bool, attempt: int, output: Output) -> None:
    """Show one job, whole. JOB is an id, a number, a name, `last`, or JOB[7].

    Example: bursar show last -o json
    """
    if attempt and not profile:
        raise InvalidRequest("--attempt: is for --profile; `bursar show JOB -o json` has all attempts")
    if profile:
        from bursar.cli.profile import print_profile

        print_profile(client, job, attempt, output)
        return
    row = view.job(client.get(job))

    def text(shown: Row) -> str:
        return _with_log(client, texts.job_text(shown, unheld.of_job(client, shown)), shown)

    emit_one(row, output, text, columns=JOB_COLUMNS)


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the job has ended.")
@click.option(
    "--rank", metavar="R|all", help="Which member of a gang.  [default: the one that failed first, else 0]"
)
@click.option(
    "--attempt", type=click.IntRange(0, 2**32 - 1), default=0, help="Which attempt; else the newest."
)
@click.option(
    "-n", "--lines", "--tail", type=click.IntRange(1, 2**31), metavar="LINES", help="Only the last lines."
)
@click.option("--since", metavar="TIME", help="Only lines since then: 10m, 2026-11-01T08:00:00Z.")
@click.option("--timestamps", is_flag=True, help="With the time of each line.")
@click.option("--queue", is_flag=True, help="With -f: wait also for what can never start as things are.")
@connected
def logs(
    client: WireClient,
    job: str,
    follow: bool,
    rank: str | None,
    attempt: int,
    lines: int | None,
    since: str | None,
    timestamps: bool,
    queue: bool,
) -> None:
    """Print what a job wrote; of all tasks of an array with JOB[*], merged by time.

    Of a gang that failed, what the member wrote that failed first.

    Example: bursar logs -n 100 --rank all last
    """
    from bursar.cli.lines import ALL_TASKS, follow_all, print_all

    ask = Ask(attempt, lines or 0, read_since(since), timestamps)
    tasks = job.endswith(ALL_TASKS)
    if rank not in (None, "all") and not (rank.isascii() and rank.isdecimal() and len(rank) <= 9):
        raise InvalidRequest(f"--rank: {rank!r} is neither a number from 0 to 999999999 nor all")
    if tasks and (attempt or rank is not None):
        raise InvalidRequest(f"--rank and --attempt are of one task: {job.removesuffix(ALL_TASKS)}[0]")
    if rank is None and not tasks:
        rank = str(0 if attempt else _rank_to_read(client.get(job)))
    try:
        if not (rank is None or timestamps or rank == "all"):
            print_logs(client, job, rank=int(rank), follow=follow, ask=ask, queue=queue)
        elif follow and not attempt:
            follow_all(client, job, ask, rank, queued=queue)
        else:
            print_all(client, job, ask, rank)
    except NeverStartsError as found:
        say(str(found))
        raise fail(1) from None


def _rank_to_read(job: Any) -> int:
    """Of a gang the member that failed first, and that it is that one; else rank 0."""
    rank = cause_rank(job)
    if rank:
        say(f"rank {rank}, which failed first; --rank 0 or --rank all for others")
    return rank


@click.command()
@click.argument("job")
@listing
@connected
def explain(client: WireClient, job: str, output: Output) -> None:
    """Say why a job is where it is: the reason, who is ahead, the budgets, what would start it now.

    Example: bursar explain last
    """
    row = view.explain(client.explain(job))
    emit_one(
        row, output, lambda r: _with_log(client, texts.explain_text(r, now()), r["job"]), identity="job.id"
    )


def _with_log(client: WireClient, text: str, job: Row) -> str:
    return "\n".join(filter(None, (text, log_text(client, job))))


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--timeout", metavar="S", help="Give up after S seconds, or 90s, 15m; exit code 124.")
@click.option("--queue", is_flag=True, help="Wait also for what can never start as things are.")
@listing
@connected
def wait(client: WireClient, jobs: tuple[str, ...], timeout: str | None, queue: bool, output: Output) -> None:
    """Wait until jobs have ended. Exit code 1 when one failed or was cancelled, 124 on time-out.

    When nothing is left but what can never start, such as a job larger than every node, it ends with the
    reason and exit code 1.

    Example: bursar wait 12 13 --timeout 10m
    """
    seen: dict[str, Any] = {}
    ends, troubles = AttemptEnds(), Troubles()

    def tell(job: Any) -> None:
        known = seen.get(job.id)
        seen[job.id] = job
        if not output.quiet:
            ends.tell(job)
            troubles.tell(job)
        if (known is None or known.state != job.state) and not output.quiet:
            say(" ".join(filter(None, (f"job {called(job)}", clean(job.spec.name), job.state))))
            if job.HasField("end") and not output.structured:
                tell_end(client, job)
        left = [one for one in seen.values() if not JobState(one.state).terminal]
        if left and len(seen) >= len(set(jobs)) and not queue and all(map(never_starts, left)):
            raise NeverStartsError(left[0])

    try:
        ended = client.wait(jobs, timeout_s=read_timeout(timeout), seen=tell)
    except NeverStartsError as found:
        say(str(found))
        raise fail(1) from None
    except TimeoutError:
        say(f"timed out after {read_timeout(timeout):g} s; still waiting for {plural(_open(seen), 'job')}")
        raise fail(124) from None
    if output.structured or output.quiet:
        emit(map(view.job, ended.values()), JOB_COLUMNS, output)
    if any(job.state != JobState.SUCCEEDED for job in ended.values()):
        raise fail(1)


def _open(seen: dict[str, Any]) -> int:
    return sum(not JobState(job.state).terminal for job in seen.values()) or 1


def read_timeout(text: str | None) -> float | None:
    """Seconds from `90`, `1.5`, `90s` or `15m`; None for none."""
    if text is None:
        return None
    bare = text.replace(".", "", 1)
    try:
        us = parse_duration(f"{text}s" if bare.isascii() and bare.isdecimal() else text)
    except InvalidRequest as error:
        raise InvalidRequest(f"--timeout: {error}") from None
    return us / SECOND_US


# ------------------------------------------------------------------ changes


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@click.option("--name", default="", help="All of this name that have not ended.")
@click.option("--user", default="", help="All of this user that have not ended.")
@click.option("--project", default="", help="All of this project and those below it that have not ended.")
@click.option("--state", "states", metavar="S,S", help="All in these states: pending,running.")
@click.option("--grace", metavar="DURATION", help="Instead of the job's own: 0s, 30s, 5m.")
@click.option("--reason", default="", metavar="TEXT", help="Told at the end of the jobs, beside who did it.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, before many are ended.")
@listing
@changing
def cancel(
    client: WireClient,
    jobs: tuple[str, ...],
    states: str | None,
    grace: str | None,
    reason: str,
    yes: bool,
    output: Output,
    **filters: str,
) -> None:
    """Stop and end jobs; a pending job ends at once. Several filters hold together.

    How many a filter found is said before any is ended; on a terminal it is asked.

    Example: bursar cancel --user ann --state pending
    """
    grace_us = None if grace is None else parse_duration(grace)
    if not any(filters.values()) and states is None:
        if not jobs:
            raise InvalidRequest("name the jobs, or choose them by --name, --user, --project or --state")
        report(client.cancel(jobs, grace_us=grace_us, reason=reason), output)
        return
    if jobs:
        raise InvalidRequest(f"give either jobs ({jobs[0]}) or filters, not both")
    found = _found(client, states, filters)
    if filters["name"] and not found:
        raise NotFound(f"no job named {filters['name']!r} matches that has not ended; `bursar ls` lists them")
    say(f"{plural(len(found), 'job')} to cancel")
    if found and sys.stdin.isatty() and not yes:
        click.confirm("End them?", abort=True, err=True)
    if found:
        report(client.cancel(found, grace_us=grace_us, reason=reason), output)


def _found(client: WireClient, states: str | None, filters: dict[str, Any]) -> list[str]:
    """Ids of the jobs that filters choose, ended ones left out."""
    live = [str(state) for state in JobState if not state.terminal]
    wanted = read_states(states) or live
    ended = [state for state in wanted if state not in live]
    if ended and states is not None and "all" not in states.lower():
        raise InvalidRequest(f"--state: a job that is {ended[0].lower()} has ended already")
    chosen = [state for state in wanted if state in live]
    # A list of what waits has arrays and services of which a part does, and these run.
    return [job.id for job in client.list(states=chosen, **filters) if job.state in chosen]


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@listing
@changing
def hold(client: WireClient, jobs: tuple[str, ...], output: Output) -> None:
    """Keep pending jobs from starting until they are released.

    Example: bursar hold 12
    """
    report(client.hold(jobs), output)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@listing
@changing
def release(client: WireClient, jobs: tuple[str, ...], output: Output) -> None:
    """Let held jobs start.

    Example: bursar release 12
    """
    report(client.release(jobs), output)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@listing
@changing
def requeue(client: WireClient, jobs: tuple[str, ...], output: Output) -> None:
    """Stop a job's attempt and run the job again.

    Example: bursar requeue 12
    """
    report(client.requeue(jobs), output)


@click.command()
@click.argument("job")
@click.option("--name", help="A new name.")
@click.option("--project", help="Move it and what it will cost to this project.")
@click.option("--experiment", help="Move to this experiment.")
@click.option("--model", help="Move to this model.")
@click.option("--model-version", help="Of the model.")
@click.option("--label", multiple=True, metavar="K=V", help="Set a label.")
@click.option("--nodes", metavar="N", help="A gang of N nodes: all or nothing; 2..8: as many as can.")
@click.option("--gpus", metavar="GPUS", help="Per node: H100:8, 2, 0.5, A100:80GB:2, H100:2..8; 0 for none.")
@click.option("--cpus", metavar="N", help="Per node: 16.")
@click.option("--memory", metavar="SIZE", help="Per node: 128GB.")
@click.option("--throughput", multiple=True, metavar="TYPE=SPEED", help="How fast it is where, all anew.")
@click.option("--time-limit", metavar="DURATION", help="90s, 15m, 24h, 7d.")
@click.option("--priority", metavar="P", help="low, normal, high or 0..100.")
@click.option("--max-cost", metavar="MONEY", help="All attempts together: '500 USD'.")
@click.option("--max-price", metavar="PRICE", help="Of the whole job: '40 USD/h'.")
@click.option("--spot-policy", type=NearChoice(("auto", "spot", "on-demand")), help="Which machines.")
@click.option("--deadline", metavar="TIME", help="Ends by then, promised: 2026-12-01T08:00Z, now+3h.")
@click.option(
    "--deadline-policy",
    type=NearChoice(("promise", "best-effort")),
    help="best-effort: without a promise.",
)
@click.option("--comment", help="A note.")
@click.option("--idle-snooze", metavar="DURATION", help="Its idle policy waits so long; 0s: no longer.")
@listing
@changing
def update(client: WireClient, job: str, output: Output, **flags: Any) -> None:
    """Change a pending job, which keeps its place in the queue; of a running one --priority, --comment,
    --idle-snooze, and of one that is no array --time-limit (from its start; its owner may lower it) and
    --max-cost.

    Example: bursar update 12 --gpus 4 --time-limit 2h
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if not given:
        raise InvalidRequest("nothing to change; name at least one of --priority, --time-limit, --gpus, …")
    from bursar.client.asked import changes

    if "deadline" in given:
        given["deadline"] = moment(given["deadline"])
    report([client.update(job, **changes(given))], output)


@click.command()
@click.argument("job")
@click.argument("duration", metavar="DURATION")
@listing
@changing
def snooze(client: WireClient, job: str, duration: str, output: Output) -> None:
    """Put off the idle policies of a job for so long from now; 0s: no longer.

    The policy of the site may bound how long and how often: `bursar show` says what a job is under.

    Example: bursar snooze 12 2h
    """
    from bursar.cli.terminal import time_text
    from bursar.client.asked import snooze_us
    from bursar.codec.view.scalars import instant

    changed = client.update(job, idle_snooze_us=snooze_us(duration))
    report([changed], output)
    if output.structured or output.quiet:
        return
    until = changed.spec.idle_policy.snoozed_until
    if until:
        when = time_text(instant(until))
        say(f"its idle policies are put off until {when}; then their time begins anew")
    else:
        say("its idle policies are put off no longer; their time begins anew now")


def report(jobs: Sequence[Any], output: Output) -> None:
    """The jobs after a change: one line each, or documents."""
    rows = [view.job(job) for job in jobs]
    if output.structured or output.quiet or output.columns:
        emit(rows, JOB_COLUMNS, output)
        return
    line: Callable[[Row], str] = lambda r: f"job {texts.job_ref(r)} {r['id']} {texts.state(r['state'])}"  # noqa: E731
    for row in rows:
        held = row["reason"] and row["reason"]["code"] == "Held"
        sys.stdout.write(line(row) + (" held" if held else "") + "\n")
    sys.stdout.flush()
