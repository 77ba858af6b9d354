"""The verbs of the books as files: backup, restore, audit.

Why     they work on a state directory, beside a running daemon or without one: a backup must not need the
        server that it is for. So they run where the directory is, as the user who owns it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

import bursar
from bursar.cli.common import PATIENCE_S, fail, listing, say_which, server_of
from bursar.cli.groups import NearGroup
from bursar.cli.misc import part_of_daemon
from bursar.cli.output import Column, Output, Row, emit, emit_one, say
from bursar.client import address
from bursar.clock import SystemClock
from bursar.errors import InvalidRequest
from bursar.local import books, which
from bursar.words import plural

_SYSTEM_STATE_DIR = Path("/var/lib/bursar")
"""Of the packaged service."""
_BACKUP_COLUMNS = tuple(map(Column, ("file", "cluster_id", "seq", "created_at", "state_dir")))
_ARCHIVE_COLUMNS = tuple(map(Column, ("file", "cluster_id", "first_seq", "last_seq")))
_CHECK_COLUMNS = tuple(map(Column, ("place", "cluster_id", "seq", "jobs_live", "budgets", "problems")))
"""Of CSV: one object is no table."""


def _room() -> Any:
    return part_of_daemon("bursard.backup", "this verb")


def _directory(state_dir: str | None) -> Path:
    """The directory named, else of the one cluster of this user, else of the system's service."""
    if state_dir is not None:
        return which.directory_of(state_dir)
    meant = which.to_show(None, None)
    if meant.note:
        raise InvalidRequest(f"several clusters run here ({meant.note}): name one with --state-dir")
    if meant.cluster is not None and meant.cluster.directory.is_dir():
        return meant.cluster.directory
    if _SYSTEM_STATE_DIR.is_dir():
        return _SYSTEM_STATE_DIR
    raise InvalidRequest(
        f"there is no state directory in {address.state_home()} nor in {_SYSTEM_STATE_DIR}; run this"
        " where the daemon runs, and name its directory with --state-dir"
    )


@click.group(cls=NearGroup, invoke_without_command=True)
@click.option("--out", metavar="FILE", default=None, help="The file to write; replaced at once.")
@click.option("--state-dir", metavar="DIR", default=None, help="Whose books; else the one that runs here.")
@listing
def backup(out: str | None, state_dir: str | None, output: Output) -> None:
    """Back up the books of a daemon, beside it as it runs, and verify the copy.

    `bursar backup --out FILE` writes one; `backup drill FILE` tries one; `restore` puts one back. The file
    holds the database: log, ledger, jobs. It holds no key, no token and nothing of the agents.

    Example: bursar backup drill /backup/bursar-2026-11-27.tar
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if not out:
        raise InvalidRequest("--out FILE is missing: where shall the backup go?")
    directory = _directory(state_dir)
    replaced = Path(out).exists()
    manifest, report = _room().take(directory, Path(out), SystemClock(), bursar.__version__)
    row = _backup_row(out, manifest, directory)
    emit_one(
        row,
        output,
        lambda r: f"{r['file']}: everything up to event {r['seq']} of {r['cluster_id']}, verified",
        columns=_BACKUP_COLUMNS,
        identity="file",
    )
    if replaced:
        say(f"{out} was an older backup, and is replaced")
    for finding in report.findings:
        say(f"the books were copied as they are, but {finding}")


def _backup_row(file: str, manifest: Any, directory: Path) -> Row:
    return {
        "file": file,
        "state_dir": str(directory),
        "cluster_id": manifest.cluster_id,
        "seq": manifest.seq,
        "hash": manifest.hash,
        "created_at": manifest.created_at,
        "epoch": manifest.epoch,
        "tables_schema": manifest.tables_schema,
        "event_schema": manifest.event_schema,
        "database_bytes": manifest.database_bytes,
        "database_sha256": manifest.database_sha256,
    }


@backup.command("drill")
@click.argument("file", metavar="FILE")
@listing
def backup_drill(file: str, output: Output) -> None:
    """Restore a backup aside, open it, replay it and check it. Exit code 1 when anything is wrong.

    Example: bursar backup drill /backup/bursar-2026-11-27.tar
    """
    manifest, report = _room().drill(Path(file))
    _emit_report(file, report, output, created_at=manifest.created_at)


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--state-dir", metavar="DIR", required=True, help="As given to `bursar up`, or to bursard.")
@listing
def restore(file: str, state_dir: str, output: Output) -> None:
    """Put a backup into an empty state directory. The next start goes on from there.

    That start is told in the log. Agents of before are obeyed by and reconciled with it: what they run and
    the log does not know is ended, and numbers of jobs go on well above those that may have been lost.

    Example: bursar restore /backup/bursar-2026-11-27.tar --state-dir ~/.local/state/bursar
    """
    manifest, directory, _ = _room().restore(Path(file), which.directory_of(state_dir))
    row = _backup_row(file, manifest, directory)
    emit_one(
        row,
        output,
        lambda r: (
            f"restored everything up to event {r['seq']} of {r['cluster_id']}, as of {r['created_at']}, to"
            f" {r['state_dir']}\nwhat happened after that is lost; numbers of jobs go on well above those"
            f" that may have been given out since, so that none means two jobs\nnext: {_start(directory)}"
        ),
        columns=_BACKUP_COLUMNS,
        identity="file",
    )


def _start(directory: Path) -> str:
    """The command that starts the daemon of a directory."""
    if directory == _SYSTEM_STATE_DIR:
        return "systemctl start bursard"
    if directory.name == books.DAEMON:
        return f"bursar up --state-dir {shlex.quote(str(directory.parent))}"
    return f"bursard --state-dir {shlex.quote(str(directory))}"


@click.command()
@click.option("--before", metavar="MONTH", required=True, help="The first month that stays, such as 2026-10.")
@click.option("--out", metavar="FILE", required=True, help="The archive to write.")
@click.option("--state-dir", metavar="DIR", default=None, help="Whose books; else the one that runs here.")
@listing
def archive(before: str, out: str, state_dir: str | None, output: Output) -> None:
    """Move the events of closed months out of the log, to a file that `audit verify FILE` reads.

    The daemon must be stopped. Charges, ledger, jobs and keys stay: costs and reports of those months answer
    as before. Events of those months are then in the file alone, also for `events` and `policy show`.

    Example: bursar archive --before 2026-10 --out /backup/bursar-to-2026-09.archive
    """
    directory = _directory(state_dir)
    moved = _room().archive_months(directory, before, Path(out), SystemClock())
    row: Row = {
        "file": out,
        "state_dir": str(directory),
        "cluster_id": moved.cluster_id,
        "first_seq": moved.before.seq + 1,
        "last_seq": moved.last_seq,
        "previous_hash": moved.before.hash,
        "last_hash": moved.last_hash,
    }
    emit_one(
        row,
        output,
        lambda r: f"{r['file']}: events {r['first_seq']} to {r['last_seq']} of {r['cluster_id']}, verified",
        columns=_ARCHIVE_COLUMNS,
        identity="file",
    )


@click.group(cls=NearGroup)
def audit() -> None:
    """Verify the books, or take a log that lacks events for the true one.

    Example: bursar audit verify
    """


@audit.command("verify")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--state-dir", metavar="DIR", default=None, help="Without the server, or beside it.")
@click.option("--server", metavar="ADDR", help="unix:///path or grpcs://host:7443.")
@listing
def audit_verify(file: str | None, state_dir: str | None, server: str | None, output: Output) -> None:
    """Check all of the log and the ledger: hash chain, charges, balances, ends. Exit code 1 on a finding.

    Asks the server; with --state-dir it reads the directory itself, and with FILE a backup or an archive.

    Example: bursar audit verify --state-dir /var/lib/bursar
    """
    if file is not None and state_dir is not None:
        raise InvalidRequest("give a FILE or --state-dir, not both")
    place = file if file is not None else state_dir
    if place is not None:
        if not Path(place).exists():
            raise InvalidRequest(f"{place} is not there")
        _emit_report(place, _room().audit(Path(place)), output)
        return
    from bursar.client import WireClient
    from bursar.codec import view

    say_which(server_of(server))
    with WireClient(server_of(server), patience_s=PATIENCE_S) as client:
        rows = view.findings(client.doctor(full=True))
    columns = (Column("check"), Column("ok"), Column("message", shrink=True))
    emit(rows, columns, output, identity="check")
    now = ("nodes", "prices", "disk", "clock")
    if any(not row["ok"] and row["check"] not in now for row in rows):
        raise fail(1)


@audit.command("trust-clock")
@click.option("--state-dir", metavar="DIR", required=True, help="Of the daemon that doubts its clock.")
def audit_trust_clock(state_dir: str) -> None:
    """Tell a running daemon that the machine's clock is right, although it jumped.

    `bursar doctor` says when it is in doubt. Budgets, nodes and what is not over are then dated by it;
    what was booked keeps its date. It is recorded. A first start that is refused for its clock goes on.

    Example: bursar audit trust-clock --state-dir /var/lib/bursar
    """
    path = _room().trust_clock(which.directory_of(state_dir))
    say(f"left {path.name} for the daemon, which takes it within seconds, or with its next start")


@audit.command("accept-loss")
@click.option("--state-dir", metavar="DIR", required=True, help="Of the daemon that refuses to start.")
@click.option("--cluster-id", metavar="ID", default="", help="Whose life an empty log goes on with.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@listing
def audit_accept_loss(state_dir: str, cluster_id: str, yes: bool, output: Output) -> None:
    """Give up events that were acknowledged and are gone: the log as it is becomes the true one.

    For a daemon that refuses to start because its log is shorter than it was, when neither its missing file
    nor a backup is left. The next start records who decided it. Notes of the database whose digests are gone,
    which `bursar audit verify` tells of, are taken as they are, and sums of days that are other than their
    charges say, or images of the state that are other than the log says, are thrown away: they are made anew.

    An empty log goes on as the cluster of which the agents beside it know, or --cluster-id: so they obey it.

    Example: bursar audit accept-loss --state-dir /var/lib/bursar
    """
    if not yes:
        click.confirm(
            f"Give up what the log in {state_dir} lacks? This cannot be undone", abort=True, err=True
        )
    known, ends = _room().accept_loss(which.directory_of(state_dir), cluster_id)
    if not output.quiet:
        _say_who_holds_on(which.directory_of(state_dir), not ends.seq)
    row: Row = {"state_dir": state_dir, "known_seq": known.seq, "last_seq": ends.seq}
    emit_one(
        row,
        output,
        lambda r: f"the log in {r['state_dir']} ends at event {r['last_seq']}; {r['known_seq']} was known",
        identity="state_dir",
    )


def _say_who_holds_on(directory: Path, empty: bool) -> None:
    """What an agent holds of a cluster whose books these are not is let go of by its own command alone."""
    ours = _room().goes_on_as(directory)
    beside = directory.parent if directory.name == books.DAEMON else directory
    others = [one for one in books.told(beside) if one.cluster_id and one.cluster_id != ours]
    if ours and empty:
        say(
            f"the next start goes on as {ours}: its agents obey it, and what they still run is ended, since"
            " no book knows it"
        )
    elif empty:
        say("the next start begins another cluster: nothing here says which one it was")
    if others or (empty and not ours):
        say(
            "an agent that holds a job of another cluster, or an end of it, takes no work until it is told,"
            " while it is stopped, that the other is gone (`bursar nodes` names such nodes `unwell`):"
        )
    ways = [(shlex.quote(str(beside / "agents" / one.agent)), one.cluster_id) for one in others]
    for place, cluster_id in ways or ([("DIR", "CLUSTER")] if empty and not ours else []):
        say(f"  bursar-agent --state-dir {place} --forsake {cluster_id}")


def _emit_report(place: str, report: Any, output: Output, **more: object) -> None:
    row: Row = {
        "place": place,
        "cluster_id": report.cluster_id,
        "seq": report.seq,
        "hash": report.hash,
        "epoch": report.epoch,
        "jobs_live": report.jobs_live,
        "attempts_live": report.attempts_live,
        "budgets": report.budgets,
        "accounts": report.accounts,
        "problems": list(report.problems),
        **more,
    }
    emit_one(row, output, _report_text, columns=_CHECK_COLUMNS, identity="place")
    if report.problems:
        raise fail(1)


def _report_text(row: Row) -> str:
    if not row["cluster_id"]:
        return "\n".join([f"{row['place']}: unreadable", *_verdict(row)])
    lines = [
        f"{row['place']}: {row['cluster_id']}, up to event {row['seq']}",
        f"  {plural(row['jobs_live'], 'live job')}, {plural(row['attempts_live'], 'live attempt')},"
        f" {plural(row['budgets'], 'budget')}, {plural(row['accounts'], 'account')}",
    ]
    return "\n".join([*lines, *(_verdict(row) or ["  hash chain, ledger, ends: everything holds"])])


def _verdict(row: Row) -> list[str]:
    return [f"  WRONG: {problem}" for problem in row["problems"]]
