"""The verbs of a cluster on this machine: up, down, status."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bursar.cli.common import fail, listing
from bursar.cli.misc import not_built
from bursar.cli.output import Column, Output, Row, emit_one, say, write_text
from bursar.cli.terminal import clean
from bursar.client import address
from bursar.errors import BursarError, InvalidRequest
from bursar.local.cluster import LocalCluster, check_installed, choose_directory

_GPUS = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,39}):([1-9]\d?)")


@click.command()
@click.option("--agents", type=click.IntRange(1, 64), default=None, help="Nodes.  [default: 1]")
@click.option("--state-dir", metavar="DIR", default=None, help="Where everything is kept.")
@click.option("--policies", metavar="DIR", default=None, help="Else the shipped catalogue.")
@click.option("--http", metavar="ADDR", default=None, help="Web page and metrics (not built yet).")
@click.option("--simulate-gpus", metavar="TYPE:N", default=None, help="Each agent has H100:8, say.")
@click.option("--detach", is_flag=True, help="Return when every agent is ready.")
def up(
    agents: int | None,
    state_dir: str | None,
    policies: str | None,
    http: str | None,
    simulate_gpus: str | None,
    detach: bool,
) -> None:
    """Start a whole cluster on this machine: a daemon and agents, no configuration, no root.

    On a directory that was used before it goes on where it stopped. Without --detach it stays in
    the foreground, and Ctrl-C stops everything.

    Example: bursar up --agents 2 --detach
    """
    if http is not None:
        not_built("up --http")
    if simulate_gpus and _GPUS.fullmatch(simulate_gpus) is None:
        raise InvalidRequest(
            f"--simulate-gpus: {simulate_gpus!r} is not a type and a count of 1 to 99, such as H100:8"
        )
    if policies is not None and not Path(policies).is_dir():
        raise InvalidRequest(f"--policies: {policies} is not a directory")
    directory = address.state_home() if state_dir is None else choose_directory(state_dir)
    check_installed()
    cluster = LocalCluster(directory)
    cluster.prepare()
    with _ending_signals():
        try:
            mine = _start(cluster, agents, policies and str(Path(policies).resolve()), simulate_gpus)
            if detach or not mine:
                cluster.let_go()
                return
            say("Ctrl-C stops it")
            cluster.wait_keeper()
            say("stopped")
        except KeyboardInterrupt:
            say("\nstopping")
            _stop(cluster)


def _start(cluster: LocalCluster, agents: int | None, policies: str | None, gpus: str | None) -> bool:
    """Start or adopt; True when the keeper is this process's child."""
    with cluster.starting():
        desired = cluster.desire(agents, policies, gpus)
        mine = cluster.keep(desired)
        try:
            cluster.wait_ready(desired, _progress)
        except BursarError:
            if mine:  # leave nothing half started behind
                cluster.stop(_progress)
            raise
        address.note_cluster(desired["server"], str(cluster.directory))
    names = ", ".join(child["name"] for child in desired["children"][1:])
    write_text(f"bursar is ready at {desired['server']}\nnodes: {names}; state: {cluster.directory}")
    say("next: bursar run -- echo hello")
    return mine


@contextlib.contextmanager
def _ending_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end `up` as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stop(cluster: LocalCluster) -> bool:
    with cluster.starting():
        ran = cluster.stop(_progress)
        address.forget_cluster(str(cluster.directory))
    return ran


def _progress(text: str) -> None:
    say(f"… {clean(text)}")


@click.command()
@click.option("--state-dir", metavar="DIR", default=None, help="Which; else the one that runs.")
def down(state_dir: str | None) -> None:
    """Stop the cluster of `bursar up`, running jobs included. Pending jobs stay for the next `up`.

    Example: bursar down
    """
    cluster = LocalCluster(choose_directory(state_dir))
    if not cluster.directory.is_dir():
        say(f"nothing runs: there is no {cluster.directory}")
        return
    say("stopped" if _stop(cluster) else f"nothing runs in {cluster.directory}")


# ------------------------------------------------------------------ status

STATUS_COLUMNS = (
    Column("server"),
    Column("state_dir"),
    Column("pid", "daemon.pid"),
    Column("version", "daemon.version"),
    Column("ready", "daemon.ready"),
)


@click.command()
@click.option("--state-dir", metavar="DIR", default=None, help="Which; else the one that runs.")
@listing
def status(state_dir: str | None, output: Output) -> None:
    """Show the cluster of `bursar up`. Exit code 5 when nothing runs, or it is not ready.

    Example: bursar status -o json
    """
    cluster = LocalCluster(choose_directory(state_dir))
    row = read_status(cluster)
    emit_one(row, output, _status_text, columns=STATUS_COLUMNS, identity="server")
    if not row["daemon"]["ready"]:
        raise fail(5)


def read_status(cluster: LocalCluster) -> Row:
    """The object of contract section 1."""
    processes = cluster.processes()
    daemon: Row = {"pid": None, "version": None, "ready": False}
    states: dict[str, str] = {}
    if "daemon" in processes:
        daemon["pid"] = processes["daemon"]["pid"]
        states = _ask(cluster.server, daemon)
    agents = []
    for name in cluster.agent_names():
        pid = processes[name]["pid"] if name in processes else None
        state = states.get(name, "starting" if pid else "stopped")
        agents.append({"name": name, "pid": pid, "state": state if pid else "stopped"})
    return {
        "server": cluster.server or None,
        "state_dir": str(cluster.directory),
        "daemon": daemon,
        "agents": agents,
    }


def _ask(server: str, daemon: dict[str, Any]) -> dict[str, str]:
    """Fill in what the daemon says of itself; the states of its nodes."""
    from bursar.client import Client

    try:
        with Client(server) as client:
            found = client.server(timeout_s=5.0)
            daemon |= {"version": found.version, "ready": found.ready}
            return {node.facts.name: node.state for node in client.nodes()}
    except BursarError:
        return {}


def _status_text(row: Row) -> str:
    daemon = row["daemon"]
    if daemon["pid"] is None and not any(agent["pid"] for agent in row["agents"]):
        return f"nothing runs in {row['state_dir']}; start with `bursar up`"
    ready = "ready" if daemon["ready"] else "not ready"
    lines = [
        f"server     {row['server']}",
        f"state dir  {row['state_dir']}",
        f"daemon     {ready}, pid {daemon['pid']}, version {daemon['version']}",
    ]
    lines += [f"agent      {a['name']} {a['state']}, pid {a['pid'] or '-'}" for a in row["agents"]]
    return "\n".join(lines)
