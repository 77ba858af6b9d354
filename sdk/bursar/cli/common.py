"""What every verb shares: its options, its connection, and how words of the command line are read.

Why     one spelling of `--server`, `-o`, `--label k=v` and `--since 2d` for all verbs.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from bursar.cli.groups import NearChoice
from bursar.cli.output import FORMATS, Output
from bursar.clock import SystemClock, assumed_utc, format_instant, parse_moment
from bursar.errors import InvalidRequest

PATIENCE_S: Final = 3.0
"""How long a command waits for a server that restarts before it says that none is there."""


def server_of(server: str | None) -> str | None:
    """`--server` of the verb, else the one before the verb."""
    if server:
        return server
    context = click.get_current_context(silent=True)
    found = context.find_root().params.get("server") if context else None
    return found if isinstance(found, str) else None


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb that only reads a client of the wire as its first argument, and `--server`."""
    return _with_client(command, lambda given: True)


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `connected`, for a verb that changes something: it refuses when it is in doubt where."""
    return _with_client(command, lambda given: False)


def changing_unless(reads: Callable[[Mapping[str, Any]], bool]) -> Callable[..., Any]:
    """As `changing`, for a verb that only reads when `reads` says so of its arguments."""
    return functools.partial(_with_client, reads=reads)


def _with_client(
    command: Callable[..., Any], reads: Callable[[Mapping[str, Any]], bool]
) -> Callable[..., Any]:
    @click.option("--server", metavar="ADDR", help="unix:///path or grpcs://host:7443.")
    @functools.wraps(command)
    def with_client(*args: Any, server: str | None, **kwargs: Any) -> Any:
        from bursar.client import WireClient

        asked = server_of(server)
        say_which(asked, reads(kwargs))
        with WireClient(asked, patience_s=PATIENCE_S) as client:
            return command(client, *args, **kwargs)

    return with_client


def say_which(server: str | None, reads: bool = True) -> None:
    """With several clusters on this machine and none named, what is read is the newest one's, and said to be;
    nothing is changed: a job or a budget that went to another one would be noticed late.
    """
    if server or os.environ.get("BURSAR_SERVER"):
        return
    from bursar.client.address import known_clusters, running_clusters

    if len(known_clusters()) < 2:
        return
    running = running_clusters()
    if len(running) < 2:
        return
    if not reads:
        places = "".join(f"\n  --server {one['server']}   of {one['state_dir']}" for one in running)
        raise InvalidRequest(
            f"{len(running)} clusters run here; say which one, by --server or BURSAR_SERVER:{places}"
        )
    from bursar.cli.texts import within_terminal

    note = (
        f"note: {len(running)} clusters run here; this is the newest, {running[0]['state_dir']}"
        " (--server or BURSAR_SERVER names another)"
    )
    click.echo(within_terminal(note, sys.stderr), err=True)


def listing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the verb `output: Output` from `-o`, `--sort-by`, `--columns` and `-q`."""

    @click.option(
        "-o",
        "--output",
        "format",
        type=NearChoice(FORMATS),
        default="table",
        help="Form of the output.  [default: table]",
    )
    @click.option("--sort-by", default="", metavar="COLUMN", help="Sort; -COLUMN from the largest.")
    @click.option("--columns", default="", metavar="A,B", help="Only these columns or JSON fields.")
    @click.option("-q", "--quiet", is_flag=True, help="Print ids alone.")
    @functools.wraps(command)
    def with_output(*args: Any, format: str, sort_by: str, columns: str, quiet: bool, **kwargs: Any) -> Any:
        names = tuple(name.strip() for name in columns.split(",") if name.strip())
        return command(*args, output=Output(format, sort_by, names, quiet), **kwargs)

    return with_output


def fail(code: int) -> click.exceptions.Exit:
    """The exception that ends the program with `code`; to be raised."""
    return click.exceptions.Exit(code)


# ------------------------------------------------------------------ words


def now() -> int:
    """Wall time, for ages."""
    return SystemClock().now()


def read_labels(pairs: Sequence[str]) -> Mapping[str, str]:
    """`k=v` words."""
    labels = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise InvalidRequest(f"--label: {pair!r} is not a label; write it as key=value")
        labels[key] = value
    return labels


def read_since(text: str | None, flag: str = "--since") -> int:
    """A time, or a duration back from now; 0 for none."""
    if not text:
        return 0
    at = _instant(text, flag)
    if at < 0:
        raise InvalidRequest(f"{flag}: {text!r} lies before 1970, and so does nothing that is known here")
    return at


def read_until(text: str | None, flag: str = "--until") -> int:
    """A time, or a duration from now on; 0 for none."""
    return _instant(text, flag, ahead=True) if text else 0


def _instant(text: str, flag: str, *, ahead: bool = False) -> int:
    try:
        return parse_moment(text, now(), ahead=ahead)
    except InvalidRequest as error:
        raise InvalidRequest(f"{flag}: {error.message}") from None


def moment(text: str, flag: str = "--deadline") -> str:
    """What is to come, as a job says it: `2026-12-01T08:00:00Z` of `now+3h`. Raises `InvalidRequest`.

    Says, where no zone is named, which one was meant.
    """
    at = read_until(text, flag)
    if said := assumed_utc(text, at):
        click.echo(f"{flag}: {said}", err=True)
    return format_instant(at)
