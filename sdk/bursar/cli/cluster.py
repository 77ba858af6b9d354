"""Verbs about machines and the server: nodes, node, offers, events, doctor, top."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from bursar.cli import texts
from bursar.cli.calibrate import calibrate
from bursar.cli.common import changing, changing_unless, connected, fail, listing, now, read_since
from bursar.cli.ends import LIVE
from bursar.cli.files import write_whole
from bursar.cli.groups import NearChoice, NearGroup
from bursar.cli.happenings import HIDDEN, sentence
from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.output import (
    NAME_LEAST,
    Column,
    Output,
    Row,
    dumps,
    emit,
    emit_one,
    say,
    table_text,
    write_lines,
    write_text,
)
from bursar.cli.terminal import (
    age_text,
    clean,
    is_terminal,
    paint,
    size_text,
    time_text,
    width,
)
from bursar.clock import parse_duration
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient


RATE = Column("price", "rate_per_hour", right=True, title="rate_per_hour", suffix="/h", missing="unknown")


def _gpus(row: Row) -> str:
    if not row["gpus"]:
        return "-"
    names = "|".join(row["gpu_types"])
    mark = " (simulated)" if row["simulated"] else ""
    return f"{row['gpus_free']:g}/{row['gpus']} {names}{mark}"


NODE_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("id", drop=9),
    Column("state"),
    Column("pool", whole=True, drop=6),
    Column(
        "gpus",
        "gpus_free",
        _gpus,
        drop=1,
        title="gpus_free",
        also=(("gpus_total", "gpus"), ("gpu_types", "gpu_types"), ("simulated", "simulated")),
    ),
    Column(
        "cpus",
        "cpus_free",
        lambda row: f"{row['cpus_free']:g}/{row['cpus']:g}",
        right=True,
        drop=3,
        title="cpus_free",
        also=(("cpus_total", "cpus"),),
    ),
    Column(
        "memory",
        "memory_free_bytes",
        lambda row: f"{size_text(row['memory_free_bytes'])}/{size_text(row['memory_bytes'])}",
        right=True,
        drop=7,
        title="memory_free_bytes",
        also=(("memory_total_bytes", "memory_bytes"),),
    ),
    RATE._replace(drop=4),
    Column("jobs", right=True, drop=2),
    Column(
        "seen",
        "last_seen_at",
        lambda row: age_text(row["last_seen_at"], now()),
        drop=8,
        title="last_seen_at",
    ),
    Column("why", "reason", wrap=True, least=20),
)
"""Quantities read `free/all`."""


@click.command()
@click.option("--pool", default="", help="Nodes of this pool.")
@listing
@connected
def nodes(client: WireClient, pool: str, output: Output) -> None:
    """List nodes with what is free on each (free/all), its price and its state.

    Example: bursar nodes --sort-by rate_per_hour
    """
    rows = [view.node(each) for each in client.nodes(pool=pool)]
    emit(
        rows,
        NODE_COLUMNS,
        output,
        identity="name",
        empty="no nodes: each bursar-agent that joins is one; `bursar up` brings its own",
    )


@click.group(cls=NearGroup)
def node() -> None:
    """Show, drain, cordon, resume, calibrate, enrol or remove one node.

    Example: bursar node drain gpu-07 --reason "bad fan"
    """


@node.command("show")
@click.argument("name")
@listing
@connected
def node_show(client: WireClient, name: str, output: Output) -> None:
    """Show one node with its devices.

    Example: bursar node show local-1
    """
    _emit_node(client.node(name), output, texts.node_text)


@node.command("drain")
@click.argument("name")
@click.option("--reason", default="", help="Shown in `nodes`.")
@click.option("--stop", is_flag=True, help="Stop running jobs, with their grace.")
@click.option("--confirm-dead", is_flag=True, help="Vouch: it is off, or what is overdue is gone.")
@listing
@changing
def node_drain(
    client: WireClient, name: str, reason: str, stop: bool, confirm_dead: bool, output: Output
) -> None:
    """Give a node no new work and let it run empty.

    Example: bursar node drain gpu-07 --reason "bad fan" --stop
    """
    found = client.drain(name, reason=reason, stop=stop, confirm_dead=confirm_dead)
    _emit_node(found, output, _mode_text)


@node.command("cordon")
@click.argument("name")
@click.option("--reason", default="", help="Shown in `nodes`.")
@listing
@changing
def node_cordon(client: WireClient, name: str, reason: str, output: Output) -> None:
    """Give a node no new work.

    Example: bursar node cordon gpu-07
    """
    _emit_node(client.cordon(name, reason=reason), output, _mode_text)


@node.command("resume")
@click.argument("name")
@click.option("--reason", default="", help="Kept in `events`.")
@listing
@changing
def node_resume(client: WireClient, name: str, reason: str, output: Output) -> None:
    """Let a node take work again.

    Example: bursar node resume gpu-07 --reason "fan replaced"
    """
    _emit_node(client.resume(name, reason=reason), output, _mode_text)


node.add_command(calibrate)


@node.command("rm")
@click.argument("name")
@listing
@changing
def node_rm(client: WireClient, name: str, output: Output) -> None:
    """Forget a node that is gone for good; what it did stays in the books.

    Example: bursar node rm gpu-07
    """
    gone = client.remove_node(name)
    emit_one({"id": gone.id, "name": gone.name}, output, lambda r: f"node {clean(r['name'])} removed")


_LISTED = ("ls", "list")
"""Words for `--list` that people type in the place of a node's name."""


@node.command("token")
@click.argument("name", default="")
@click.option("--ttl", default="1h", metavar="DURATION", help="First use within.  [default: 1h]")
@click.option("--expires", default="", metavar="DURATION", help="Its end, also in use.  [default: none]")
@click.option("--list", "listed", is_flag=True, help="Show what is good now.")
@click.option("--revoke", is_flag=True, help="Void all of NAME, or one with --id.")
@click.option("--id", default="", metavar="ID", help="Of `--list`: revoke this one.")
@listing
@changing_unless(lambda given: given["listed"] or given["name"] in _LISTED)
def node_token(
    client: WireClient, name: str, ttl: str, expires: str, listed: bool, revoke: bool, id: str, output: Output
) -> None:
    """Print a one-time secret with which a new node enrols; list or revoke such secrets.

    Example: bursar node token gpu-08 --ttl 10m --expires 90d
    """
    if name in _LISTED:
        name, listed = "", True
    elif name in ("rm", "revoke", "show"):
        raise InvalidRequest(f"{name!r} names a verb, not a node; to void secrets: node token NAME --revoke")
    if listed and revoke:
        raise InvalidRequest("--list and --revoke are two things; give one")
    if not name and not listed:
        raise InvalidRequest("which node? give its NAME (only --list can do without)")
    if id and not revoke:
        raise InvalidRequest("--id says which secret --revoke is to void")
    if listed or revoke:
        found = client.revoke_node_tokens(name, id).revoked if revoke else client.node_tokens(name).tokens
        emit(
            [view.known_token(token) for token in found], TOKEN_COLUMNS, output, empty="no secret is good now"
        )
        return
    valid_us = parse_duration(expires) if expires else 0
    row = view.node_token(client.node_token(name, ttl_us=parse_duration(ttl), valid_us=valid_us), name)
    emit_one(row, output, lambda r: str(r["token"]), identity="token")
    if not output.structured and not output.quiet:
        say(f"good once, until {time_text(row['expires_at'])}")


FINDING_COLUMNS = (
    Column("check", wrap=True, least=14),
    Column("ok", "ok", lambda row: "ok" if row["ok"] else paint("BROKEN", "red")),
    Column("message", wrap=True, least=20),
)
TOKEN_COLUMNS = (
    Column("id"),
    Column("node", wrap=True, least=NAME_LEAST),
    Column("state"),
    Column("issued", "issued_at", drop=2, title="issued_at"),
    Column("expires", "expires_at", drop=1, title="expires_at"),
)


def _emit_node(found: Any, output: Output, text: Any) -> None:
    emit_one(view.node(found), output, text, columns=NODE_COLUMNS, identity="name")


def _mode_text(row: Row) -> str:
    return f"node {clean(row['name'])} {texts.state(row['state'])}"


# ------------------------------------------------------------------ offers


def _machine(row: Row) -> str:
    """One's own machines have no type: their pool tells them apart."""
    return row["instance_type"] or (f"pool {row['pool']}" if row["pool"] else "-")


PRICE_COLUMNS = (
    Column("provider", drop=1),
    Column("region", whole=True, drop=3),
    Column("pool", whole=True, drop=5),
    Column("instance_type", show=_machine, whole=True, least=10),
    Column("market"),
    Column(
        "gpus",
        "gpus",
        lambda r: f"{r['gpu_type']}:{r['gpus']}" if r["gpus"] else "-",
        drop=2,
        also=(("gpu_type", "gpu_type"),),
    ),
    Column("cpus", right=True, drop=7),
    Column(
        "memory",
        "memory_bytes",
        lambda row: size_text(row["memory_bytes"]),
        right=True,
        drop=8,
        title="memory_bytes",
    ),
    RATE,
    Column("per_gpu", "rate_per_gpu_hour", right=True, drop=4, title="rate_per_gpu_hour"),
    Column("pflop_day", "cost_per_peak_pflop_day", right=True, drop=10, title="cost_per_peak_pflop_day"),
    Column("valid_from", "valid_from", lambda row: (row["valid_from"] or "-")[:10], drop=6),
    Column("source", shrink=True, drop=9, least=24),
)
"""What is priced and the terms stay on any terminal: without them a price reads as another's."""


JOB_OFFER_COLUMNS = (
    Column("pool", whole=True, drop=2),
    Column("zone", whole=True, drop=1),
    Column("instance_type", show=_machine, whole=True, least=10),
    Column("market"),
    RATE,
    Column("says", wrap=True, least=18),
)
"""What matters of an offer for a job is why it is not the one."""


@click.command()
@click.option("--gpus", default="", metavar="GPUS", help="Machines that have these: H100:8.")
@click.option("--job", default="", metavar="JOB", help="Machines that may be rented for it, and why not.")
@click.option("--provider", default="", help="aws, gcp, azure, onprem.")
@click.option("--region", default="", help="Of the provider.")
@click.option("--market", default="", help="on-demand, spot, committed-1y …")
@click.option("--sort", type=NearChoice(["price", "gpu-price", "pflop-day"]), help="[default: price]")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, help="[default: 30]")
@listing
@connected
def offers(client: WireClient, output: Output, **filters: Any) -> None:
    """Compare what machines cost, from the price books in force.

    A PFLOP-day is 10^15 operations a second for a day, at the peak of dense 16-bit matrix products that the
    maker of the GPU names; what nodes deliver is measured (`bursar node calibrate`).

    Example: bursar offers --gpus H100:8 --sort gpu-price
    """
    filters["sort"] = filters["sort"] or ("" if filters["job"] else "price")
    rows = [view.price(each) for each in client.prices(**filters)]
    columns = JOB_OFFER_COLUMNS if filters["job"] else PRICE_COLUMNS
    emit(rows, columns, output, identity="price_id", empty="no price matches")


# ------------------------------------------------------------------ events

EVENT_COLUMNS = (
    Column("seq", right=True),
    Column("at", "at", lambda row: time_text(row["at"]), drop=2),
    Column("kind"),
    Column("subject"),
    Column("actor", shrink=True, drop=1),
    Column("data", "data", lambda row: dumps(row["data"]), shrink=True),
)


SENTENCE_COLUMNS = (
    Column("seq", right=True, drop=1),
    Column("at", "at", lambda row: time_text(row["at"])),
    Column("what", "", sentence, least=18, wrap=True),
)
"""For people; `--columns` and the other forms have the events themselves."""
HIDDEN_SHARE = 20
"""How many more events are asked for than are shown, since metering is left out of them."""
TAIL_DEFAULT = 50
TAIL_MAX = 2**32 - 1


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen.")
@click.option("--job", default="", help="Of this job.")
@click.option("--node", "node_name", default="", help="Of this node.")
@click.option("--kind", "kinds", multiple=True, help="Of this kind; may be given again.")
@click.option("--tail", type=click.IntRange(1, TAIL_MAX), default=None, help="The last so many.")
@click.option("--after", type=click.IntRange(0, 2**63 - 1), default=0, metavar="SEQ", help="After this one.")
@click.option("--since", metavar="TIME", help="Since then: 2h, yesterday, 2026-11-01.")
@listing
@connected
def events(
    client: WireClient,
    follow: bool,
    job: str,
    node_name: str,
    kinds: tuple[str, ...],
    tail: int | None,
    after: int,
    since: str | None,
    output: Output,
) -> None:
    """List or follow what happened: the audit trail. Without --tail or --after, the last 50.

    For people these are sentences, without the metering of each minute (--kind node-metered shows it);
    the other forms of -o have every event whole.

    Example: bursar events -f --job last
    """
    if follow and output.format not in ("table", "jsonl"):
        raise InvalidRequest(f"-f never ends, so it cannot be one {output.format} document; use jsonl")
    if tail is None:
        tail = 0 if after or since else TAIL_DEFAULT
    prose = output.format == "table" and not output.columns and not output.quiet
    hidden = prose and not kinds
    asked = min(tail * HIDDEN_SHARE, TAIL_MAX) if hidden and not follow else tail
    found = client.events(after_seq=after, follow=follow, job=job, node=node_name, kinds=kinds, tail=asked)
    at = read_since(since)
    rows = (view.event(each) for each in found if each.at >= at and not (hidden and each.kind in HIDDEN))
    if follow:
        _stream_events(rows, output)
    elif hidden and tail:
        emit(deque(rows, maxlen=tail), SENTENCE_COLUMNS, output, identity="seq", empty="no events")
    else:
        emit(rows, SENTENCE_COLUMNS if prose else EVENT_COLUMNS, output, identity="seq", empty="no events")


def _stream_events(rows: Iterable[Row], output: Output) -> None:
    for row in rows:
        write_lines([dumps(row) if output.structured else _event_text(row)])


def _event_text(row: Row) -> str:
    return clean(f"{row['seq']} {time_text(row['at'])} {sentence(row)}".rstrip())


# ------------------------------------------------------------------ doctor


@click.command()
@click.option("--full", is_flag=True, help="Verify the whole log as well; takes longer.")
@click.option(
    "--save-snapshot",
    "snapshot",
    metavar="FILE",
    help="Only save what the newest plan was made of, for `bursar sim --replay`; operators.",
)
@listing
@connected
def doctor(client: WireClient, full: bool, snapshot: str | None, output: Output) -> None:
    """Check the server's invariants now. Exit code 1 when one is broken.

    Example: bursar doctor --full
    """
    if snapshot is not None:
        write_whole(snapshot, (chunk.data for chunk in client.save_snapshot()))
        return
    rows = view.findings(client.doctor(full=full))
    emit(rows, FINDING_COLUMNS, output, identity="check")
    broken = [row for row in rows if not row["ok"]]
    for row in broken:
        say(f"{row['check']}: {row['message']}" + (f"\nremedy: {row['remedy']}" * bool(row["remedy"])))
    if broken:
        raise fail(1)


# ------------------------------------------------------------------ top


@click.command()
@listing
@connected
def top(client: WireClient, output: Output) -> None:
    """Show nodes and what runs on them, live on a terminal, once into a pipe. Ctrl-C ends it.

    POWER is measured at the processors of a node, by the kernel; no GPU counts, a simulated one neither.

    Example: bursar top
    """
    live = is_terminal(sys.stdout) and not output.structured
    clear = "\x1b[2J"
    for picture in client.top(follow=live):
        row = view.top(picture)
        if not live:
            emit_one(row, output, lambda r: _top_text(r, None))
            return
        # Home, each new line cleared to its end, then everything below: no flicker.
        text = _top_text(row, width()).replace("\n", "\x1b[K\n")
        write_text(f"{clear}\x1b[H{text}\x1b[K\x1b[J")
        clear = ""


def _use(row: Row) -> str:
    return f"{100 * row['sample']['cpu_utilization_ratio']:.0f}%" if row["sample"] else "-"


def _gpu_use(row: Row) -> str:
    return _of_gpus(row, "utilization_ratio")


def _gpu_activity(row: Row) -> str:
    return _of_gpus(row, "sm_ratio")


def _of_gpus(row: Row, name: str) -> str:
    gpus = row["sample"]["gpus"] if row["sample"] else []
    if all(gpu[name] is None for gpu in gpus):
        return "-"
    return " ".join("?" if gpu[name] is None else f"{100 * gpu[name]:.0f}%" for gpu in gpus)


def _power(row: Row) -> str:
    power = row["sample"]["power_watts"] if row["sample"] else None
    return f"{power:.0f} W" if power else "-"


def _memory_use(row: Row) -> str:
    used = size_text(row["sample"]["memory_used_bytes"]) if row["sample"] else "-"
    return f"{used}/{size_text(row['memory_bytes'])}"


TOP_COLUMNS = (
    Column("node", "name", wrap=True, least=NAME_LEAST),
    Column("state"),
    Column("cpu", "", _use, right=True, drop=1),
    Column("memory", "", _memory_use, right=True, drop=4),
    Column("gpu", "", _gpu_use, shrink=True),
    Column("sm", "", _gpu_activity, shrink=True),
    Column("power", "", _power, right=True, drop=5),
    Column("free_gpus", "", _gpus, drop=3),
    Column("jobs", right=True, drop=2),
)


def _top_text(row: Row, columns_max: int | None) -> str:
    jobs = [job for job in row["jobs"] if job["state"] in LIVE]
    more = f" of {row['jobs_total']}" if row["jobs_total"] > len(row["jobs"]) else ""
    hidden = f" of {row['nodes_total']}" if row["nodes_total"] > len(row["nodes"]) else ""
    parts = [
        f"{plural(len(row['nodes']), 'node')}{hidden}, {plural(len(jobs), 'live job')}{more}",
        "",
        table_text(row["nodes"], TOP_COLUMNS, columns_max),
    ]
    if jobs:
        parts += ["", table_text(jobs, JOB_COLUMNS, columns_max)]
    return "\n".join(parts)
