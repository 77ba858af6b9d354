"""`advise`: what a job paid for and did not use, what to ask for instead, and what that would have saved.

Why     a request is a guess that is copied from job to job. What is said here is read from the job's own
        record and the ledger, with what it rests on; what nobody measured is named as not known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from bursar.cli.common import connected, listing
from bursar.cli.gpuadvice import Finding, Held, gpu_findings, held_of, held_while_it_runs
from bursar.cli.output import Column, Output, Row, emit
from bursar.cli.terminal import clean, money_text, seconds_text
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.money import format_nanos, parse_amount
from bursar.resources import MILLI
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

MEMORY_HEADROOM: Final = 1.2
CPU_HEADROOM: Final = 1.25
"""What is asked for beyond what was used: of memory a peak was seen, of CPUs an average alone."""
OVER: Final = 0.75
"""A request is too large where the one that would do is at most so much of it."""
PPM: Final = 1_000_000
WAITED_PPM: Final = 100_000
"""Of a loop's time, in millionths, from where on waiting for data or writing checkpoints is told."""
LIMIT_OVER: Final = 0.5
_MB: Final = 10**6
_ENDED: Final = ("SUCCEEDED", "FAILED", "CANCELLED")
_LOST: Final = ("preempted", "node_lost")


class Paid(NamedTuple):
    """Of a job, in nanos and seconds: all, by part, what was held; and by attempt. None: no known price."""

    nanos: int | None
    cpu_nanos: int
    memory_nanos: int
    cpu_held_s: float
    attempts: dict[str, int]
    gpu_nanos: int = 0


def findings(job: Row, paid: Paid, profile: Row | None = None) -> list[Finding]:
    """What is told of a job, the dearest first. `profile`: its curves, while it runs."""
    found = [*_of_its_loop(job, paid), *_lost(job, paid)]
    found += gpu_findings(job, held_now(job, paid, profile))
    if job["state"] in _ENDED:
        found += [*_memory(job, paid), *_cpus(job, paid), *_time_limit(job)]
    return sorted(found, key=lambda one: (-(one.saves_nanos or one.cost_nanos or 0), one.code))


def held_now(job: Row, paid: Paid, profile: Row | None = None) -> Held:
    """What is known of what its GPUs did."""
    gpu_nanos = _known(paid, paid.gpu_nanos)
    if profile is not None:
        return held_while_it_runs(profile, gpu_nanos)
    busy = (job["cpu_s"] or 0) / paid.cpu_held_s if paid.cpu_held_s and job["state"] in _ENDED else None
    return held_of(job, gpu_nanos, busy)


def _memory(job: Row, paid: Paid) -> Iterator[Finding]:
    asked, peak = job["resources"]["memory_bytes"], job["max_rss_bytes"] or 0
    unit = _MB * (1000 if peak >= 10**10 else 100)
    enough = max(ceil(peak * MEMORY_HEADROOM / unit), 1) * unit
    if not asked or not peak or enough > asked * OVER:
        return
    yield Finding(
        "over-requested-memory",
        f"{_size(peak)} of {_size(asked)} were used at the most",
        _known(paid, paid.memory_nanos),
        _known(paid, paid.memory_nanos * (asked - enough) // asked),
        f"--memory {_size(enough)}",
        "medium: the peak of its processes; files that the system kept in memory for it are not in it",
    )


def _cpus(job: Row, paid: Paid) -> Iterator[Finding]:
    asked, used_s = float(job["resources"]["cpus"]), job["cpu_s"] or 0
    if not paid.cpu_held_s or not used_s or asked <= 1:
        return
    asked_milli = round(asked * MILLI)
    mean = used_s / paid.cpu_held_s * asked
    enough = max(ceil(mean * CPU_HEADROOM), 1)
    if enough > asked * OVER:
        return
    yield Finding(
        "over-requested-cpus",
        f"{mean:.2g} of {asked:g} CPUs were busy in the mean",
        _known(paid, paid.cpu_nanos),
        _known(paid, paid.cpu_nanos * (asked_milli - enough * MILLI) // asked_milli),
        f"--cpus {enough}",
        "low: a mean; it may have needed more for a while",
    )


def _time_limit(job: Row) -> Iterator[Finding]:
    limit_s = job["time_limit_s"]
    longest_s = max((one["elapsed_s"] or 0 for one in job["attempts"]), default=0)
    if job["state"] != "SUCCEEDED" or not limit_s or not longest_s or limit_s <= 600:
        return
    enough_s = max(ceil(longest_s * 1.5 / 60) * 60, 600)
    if enough_s > limit_s * LIMIT_OVER:
        return
    yield Finding(
        "over-requested-time",
        f"it ran {seconds_text(longest_s)} of {seconds_text(limit_s)}; money was held for all of them",
        None,
        None,
        f"--time-limit {enough_s // 60}m",
        "medium: of this one run",
    )


def _of_its_loop(job: Row, paid: Paid) -> Iterator[Finding]:
    """Of what the program itself told of its time."""
    told = job["progress"]
    if told is None or not told["elapsed_s"]:
        return
    for name, code, what, ask in (
        ("data_wait_s", "waits-for-data", "waited for data", _more_loading(job, paid)),
        (
            "checkpoint_s",
            "slow-checkpoints",
            "wrote checkpoints",
            "write them less often, or to a faster disk",
        ),
    ):
        part = min(round((told[name] or 0) / told["elapsed_s"] * PPM), PPM)
        if part >= WAITED_PPM:
            cost = None if paid.nanos is None else paid.nanos * part // PPM
            evidence = f"its loop {what} for {part / 10_000:.3g} % of its time"
            yield Finding(code, evidence, cost, None, ask, "high: the program told it itself")


def _more_loading(job: Row, paid: Paid) -> str:
    busy = (job["cpu_s"] or 0) / paid.cpu_held_s if paid.cpu_held_s else 0
    asked = float(job["resources"]["cpus"])
    more = f"--cpus {ceil(2 * asked)} and more workers" if busy > OVER else "more workers"
    return f"load data with {more}, or from nearer"


def _lost(job: Row, paid: Paid) -> Iterator[Finding]:
    """Attempts that were ended from outside: what they cost is the most that was lost."""
    for code, causes, what, ask in (
        ("interrupted", _LOST, "interrupted", "write checkpoints more often (BURSAR_CHECKPOINT_DIR)"),
        ("failed-attempts", ("failed", "out_of_memory", "start_failed"), "failed", "see `bursar logs`"),
    ):
        ended = [one for one in job["attempts"][:-1] if one["end_cause"] in causes]
        if ended:
            cost = sum(paid.attempts.get(one["id"], 0) for one in ended)
            evidence = f"{plural(len(ended), 'attempt')} of {len(job['attempts'])} {what}"
            known = None if paid.nanos is None else cost
            yield Finding(code, evidence, known, None, ask, "medium: work that was kept is in it")


def _known(paid: Paid, nanos: int) -> int | None:
    return None if paid.nanos is None else nanos


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 10**9:.3g}GB" if size_bytes >= 10**9 else f"{ceil(size_bytes / _MB)}MB"


# ------------------------------------------------------------------ the verb

COLUMNS = (
    Column("finding", "finding"),
    Column("cost", "cost", lambda row: _money(row["cost"]), right=True),
    Column("saves", "saves", lambda row: _money(row["saves"]), right=True),
    Column("ask", "ask", wrap=True),
    Column("evidence", "evidence", shrink=True),
    Column("confidence", "confidence", shrink=True, drop=1),
)


@click.command()
@click.argument("job")
@listing
@connected
def advise(client: WireClient, job: str, output: Output) -> None:
    """Say what a job paid for and did not use, what to ask for instead, and what that saves.

    It reads what the job used and told, and what the ledger charged. JOB is an id, a number, a name, `last`
    or JOB[7].

    Example: bursar advise last
    """
    shown = view.job(client.get(job))
    if shown["array"] is not None:
        what, part = ("a service", "replicas") if shown["service"] else ("an array", "tasks")
        raise InvalidRequest(f"{clean(job)} is {what}; name one of its {part}, such as {clean(job)}[0]")
    paid, profile = _paid(client, shown["id"]), None
    if shown["state"] not in _ENDED and shown["attempts"]:
        profile = view.profile(client.profile(shown["id"]))
    found = findings(shown, paid, profile)
    not_known = _not_known(shown, held_now(shown, paid, profile))
    cash = shown["cost"]["currency"]
    rows = [row_of(one, cash) for one in found]
    document = {"job": shown["id"], "state": shown["state"], "findings": rows, "not_known": not_known}
    emit(rows, COLUMNS, output, identity="finding", document=document, empty=_nothing(shown))
    if output.format == "table" and not output.quiet:
        sys.stdout.write("".join(f"{line}\n" for line in not_known))


def _not_known(job: Row, held: Held) -> list[str]:
    """What nobody heard of its GPUs."""
    if not any(member["devices"] for attempt in job["attempts"] for member in attempt["nodes"]):
        return []
    heard_s = sum(use["heard_s"] for use in held.uses)
    if not heard_s:
        return ["what its GPUs did is not known: nobody heard it"]
    if heard_s < held.held_s * 0.9:
        of = f"{seconds_text(heard_s)} of {seconds_text(held.held_s)}"
        return [f"what its GPUs did is known of {of} of them alone; no rest of it is called idle"]
    return []


def _nothing(job: Row) -> str:
    if job["state"] in _ENDED:
        return "nothing of it was much more than it used"
    return "nothing yet; what it used is known when it has ended"


def _paid(client: WireClient, job: str) -> Paid:
    found = view.cost(client.cost(by=["attempt"], job=job), ["attempt"])
    total = found["total"]
    nanos = parse_amount(total["cost"]["amount"])
    return Paid(
        nanos=None if total["unknown_price_s"] and not nanos else nanos,
        cpu_nanos=parse_amount(total["cpu_cost"]["amount"]),
        memory_nanos=parse_amount(total["memory_cost"]["amount"]),
        cpu_held_s=total["cpu_s"],
        gpu_nanos=parse_amount(total["gpu_cost"]["amount"]),
        attempts={row["attempt"]: parse_amount(row["cost"]["amount"]) for row in found["rows"]},
    )


def row_of(one: Finding, currency: str) -> Row:
    """As a program reads it."""

    def amount(nanos: int | None) -> Row | None:
        return None if nanos is None else {"amount": format_nanos(nanos), "currency": currency}

    return {
        "finding": one.code,
        "evidence": one.evidence,
        "cost": amount(one.cost_nanos),
        "saves": amount(one.saves_nanos),
        "ask": one.ask,
        "confidence": one.confidence,
    }


def _money(amount: Row | None) -> str:
    return "-" if amount is None else money_text(amount)
