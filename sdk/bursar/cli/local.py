"""The verbs of a cluster on this machine: up, down, status."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from bursar.cli import unheld
from bursar.cli.common import fail, listing, now, server_of
from bursar.cli.output import Column, Output, Row, emit_one, say, write_text
from bursar.cli.terminal import clean
from bursar.client import address
from bursar.client.address import Address
from bursar.clock import SECOND_US
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar.local import books, clouds, fewer, pages, processes, stopping, waiting, which
from bursar.local.cluster import LocalCluster, connected
from bursar.local.files import CPUS_MAX, Desired, Kept
from bursar.local.machine import check_installed, machine
from bursar.local.processes import Process
from bursar.words import plural

SHIPPED: Final = "shipped"
if TYPE_CHECKING:
    from bursar.v1 import types_pb2

NOTHING: Final = "none"
"""What takes back a flag of an earlier `up`."""


class Wish(NamedTuple):
    """Flags of `up`; None where one was not given: what the last `up` on the directory wanted."""

    agents: int | None
    policies: str | None
    gpus: str | None
    http: str | None = None
    cloud: str | None = None
    gateway: str | None = None
    cpus: int | None = None


_GPUS = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,39}):([1-9]\d?)")


@click.command()
@click.option("--agents", type=click.IntRange(1, 64), default=None, help="Nodes.  [default: as before, or 1]")
@click.option(
    "--cpus",
    type=click.IntRange(0, CPUS_MAX),
    default=None,
    help="CPUs that each node tells of; 0: its part of the machine's.  [as before]",
)
@click.option("--state-dir", metavar="DIR", default=None, help="Where everything is kept.")
@click.option(
    "--policies", metavar="DIR", default=None, help="As before, or the shipped catalogue (`shipped`)."
)
@click.option(
    "--http", metavar="ADDR", default=None, help="Serve web pages at 127.0.0.1:PORT, or `none`.  [as before]"
)
@click.option(
    "--gateway",
    metavar="ADDR",
    default=None,
    help="Serve services at 127.0.0.1:PORT, or `none`.  [as before]",
)
@click.option(
    "--simulate-gpus", metavar="TYPE:N", default=None, help="Each agent has H100:8, say, or `none`."
)
@click.option(
    "--cloud",
    metavar="NAME",
    default=None,
    help="Rent machines of `demo`, of a FILE, or `none`.  [as before]",
)
@click.option("--detach", is_flag=True, help="Return when every agent is ready.")
def up(
    agents: int | None,
    cpus: int | None,
    state_dir: str | None,
    policies: str | None,
    http: str | None,
    gateway: str | None,
    simulate_gpus: str | None,
    cloud: str | None,
    detach: bool,
) -> None:
    """Start a whole cluster on this machine: a daemon and agents, no configuration, no root.

    On a directory that was used before it goes on where it stopped, with the flags of then where
    none are given (--simulate-gpus none, --http none, --gateway none, --cloud none, --cpus 0 and
    --policies shipped take them back), and agents that run stay as they were started. With --cpus
    nodes may tell of more CPUs than there are: jobs then share what there is. --cloud demo is a
    cloud on this machine, whose machines are processes. Without --detach it stays in the
    foreground, and Ctrl-C stops everything.

    Example: bursar up --agents 2 --detach
    """
    if http not in (None, NOTHING):
        pages.loopback(http, "--http")
    if gateway not in (None, NOTHING):
        pages.loopback(gateway, "--gateway")
    if simulate_gpus is not None and simulate_gpus != NOTHING and _GPUS.fullmatch(simulate_gpus) is None:
        raise InvalidRequest(
            f"--simulate-gpus: {simulate_gpus!r} is not a type and a count of 1 to 99, such as H100:8,"
            f" nor {NOTHING}"
        )
    if policies not in (None, SHIPPED) and not Path(policies).is_dir():
        raise InvalidRequest(f"--policies: {policies} is not a directory")
    directory = address.state_home() if state_dir is None else which.directory_of(state_dir)
    cluster = LocalCluster(directory)
    cluster.refuse_name()
    before = cluster.kept().desired
    check_installed(
        pages=http != NOTHING and bool(http or before.http),
        gateway=gateway != NOTHING and bool(gateway or before.gateway),
    )
    with _ending_signals():
        try:
            wish = Wish(
                agents,
                "" if policies == SHIPPED else policies and str(Path(policies).resolve()),
                "" if simulate_gpus == NOTHING else simulate_gpus,
                "" if http == NOTHING else http,
                "" if cloud == NOTHING else cloud and clouds.checked(cloud),
                "" if gateway == NOTHING else gateway,
                cpus,
            )
            desired = _start(cluster, wish, detach)
            if detach or desired is None:
                cluster.let_go()
                return
            say("Ctrl-C stops it")
            cluster.wait_keeper(desired)
            say("stopped")
        except KeyboardInterrupt:
            say("\nstopping")
            _stop(cluster)


def _start(cluster: LocalCluster, wish: Wish, detach: bool) -> Desired | None:
    """Start or adopt; what is kept when the keeper is this process's child, None when another keeps it.

    Raises `ServerUnavailable`: it does not come up, or it is late and nobody stays to see it.
    """
    cluster.refuse_moved()  # first without the lock, which would make the directory that is to be put back
    with cluster.starting():
        cluster.refuse_moved()
        aside_before = cluster.set_aside()
        cluster.prepare()
        desired = cluster.desire(*wish)
        cluster.refuse_other_cloud(desired)
        dropped = fewer.dropped(cluster, desired)
        fewer.refuse_busy(desired, dropped)
        say_kept(wish, desired, cluster.unlike(desired))
        mine = cluster.keep(desired)
        try:
            missing = waiting.Start(cluster, desired, _progress).wait()
            if not missing:
                fewer.remove(cluster, desired, dropped, _progress)
        except BursarError:
            if mine:  # leave nothing half started behind; a job of before is nobody's to end
                stopping.stop(cluster, _progress, jobs=False)
            raise
        finally:
            for path in sorted(cluster.set_aside() - aside_before):
                say(f"damaged, so set aside: {path}")
        if desired.cloud == clouds.DEMO and not missing:
            with connected(desired.server) as client:
                clouds.allow(client)
        address.note_cluster(desired.server, str(cluster.directory))
    if why := books.sealed(cluster.directory):
        say(why)
    if missing:
        late = (
            f"the cluster is not ready yet: {missing}; it goes on starting: `bursar status` shows it,"
            f" `bursar down` ends it, {cluster.log('daemon').parent} has what it says"
        )
        if detach or not mine:
            raise ServerUnavailable(late)
        say(late)
        return desired
    names = ", ".join(desired.agent_names)
    write_text(f"bursar is ready at {desired.server}\nnodes: {names}; state: {cluster.directory}")
    if desired.http:
        link = pages.new_link(pages.folder_of(cluster.directory), desired.http, now() // SECOND_US)
        write_text(f"pages: {link.url}\n(good once, for ten minutes; `bursar web url` makes another)")
    if desired.gateway:
        write_text(f"gateway: http://{desired.gateway}/NAME for each service; `bursar key new` opens one")
    if told := _unheld(desired):
        say(told)
    if desired.cloud == clouds.DEMO:
        say("next: bursar run --gpus L4:1 -- sleep 5; meanwhile: bursar cloud ls")
    else:
        say("next: bursar run -- echo hello")
    return desired if mine else None


def _unheld(desired: Desired) -> str:
    """What its nodes cannot hold jobs to; nothing where that cannot be asked."""
    try:
        with connected(desired.server) as client:
            return unheld.said_of([(node.facts.name, node.facts.limits) for node in client.nodes()])
    except BursarError:
        return ""


def say_kept(wish: Wish, desired: Desired, unlike: list[str]) -> None:
    """What an earlier `up` decides: flags that were not given again, and agents that it has started."""
    kept = [
        f"--agents {desired.agents}" if wish.agents is None and desired.agents > 1 else "",
        f"--policies {desired.policies}" if wish.policies is None and desired.policies else "",
        f"--cpus {desired.cpus}" if wish.cpus is None and desired.cpus else "",
        f"--simulate-gpus {desired.simulate_gpus}" if wish.gpus is None and desired.simulate_gpus else "",
        f"--cloud {desired.cloud}" if wish.cloud is None and desired.cloud else "",
        f"--http {desired.http}" if wish.http is None and desired.http else "",
        f"--gateway {desired.gateway}" if wish.gateway is None and desired.gateway else "",
    ]
    if any(kept):
        say(
            f"as before: {clean(' '.join(filter(None, kept)))} (`bursar up --help` tells how to take it back)"
        )
    if desired.cpus * desired.agents > (here := machine()[0]):
        each = "the node tells" if desired.agents == 1 else f"each of {desired.agents} nodes tells"
        say(f"{each} of {plural(desired.cpus, 'CPU')}; this machine has {here}, which jobs share")
    if unlike:
        say(
            f"already running, and so with the CPUs, memory and GPUs of its start: {', '.join(unlike)};"
            " `bursar down` and another `up` give it the new ones"
        )


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
        ran = stopping.stop(cluster, _progress)
        cluster.forget_sockets()
        address.forget_cluster(str(cluster.directory))
    return ran


def _progress(text: str) -> None:
    say(f"… {clean(text)}")


@click.command()
@click.option("--state-dir", metavar="DIR", default=None, help="Which; else the one that runs.")
def down(state_dir: str | None) -> None:
    """Stop the cluster of `bursar up`, running jobs included. Pending jobs stay for the next `up`.

    When several run, say which: --state-dir, or --server and BURSAR_SERVER with its address.

    Example: bursar down
    """
    cluster = which.to_end(state_dir, server_of(None))
    if not cluster.directory.is_dir():
        moved = address.moved_words(str(cluster.directory))
        say(moved or f"nothing runs: there is no {cluster.directory}")
        return
    say(f"stopped {cluster.directory}" if _stop(cluster) else f"nothing runs in {cluster.directory}")


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
    """Show the cluster of `bursar up`, or the server that --server or BURSAR_SERVER names.

    Exit code 5 when nothing runs, or it is not ready.

    Example: bursar status -o json
    """
    meant = which.to_show(state_dir, server_of(None))
    if meant.note:
        say(meant.note)
    if meant.cluster is not None:
        if old := meant.cluster.moved():
            say(f"the directory was {old} when this was started: nothing of it that ends is started again")
        row = read_status(meant.cluster)
    else:
        assert meant.server is not None
        row = read_remote(meant.server)
    emit_one(row, output, _status_text, columns=STATUS_COLUMNS, identity="server")
    if not row["daemon"]["ready"]:
        raise fail(5)


def read_status(cluster: LocalCluster) -> Row:
    """The object of contract section 1."""
    running = cluster.processes()
    server = cluster.server
    daemon: Row = {"pid": None, "version": None, "ready": False, "state": "stopped", "trouble": None}
    nodes: dict[str, types_pb2.Node] = {}
    if "daemon" in running:
        daemon |= {"pid": running["daemon"].pid, "state": "not responding"}
        if not processes.stopped(running["daemon"]):
            nodes = _ask(server, daemon)
    untold = "unknown" if daemon["state"] == "not responding" else "starting"
    agents = [
        {
            "name": name,
            "pid": running[name].pid if name in running else None,
            "state": _agent_state(running.get(name), nodes[name].state if name in nodes else untold),
            "limits": list(nodes[name].facts.limits) if name in nodes else None,
        }
        for name in cluster.agent_names()
    ]
    keeper, kept = cluster.keeper(), cluster.kept()
    keeps = "stopped" if keeper is None else "ready" if cluster.keeper_responds(keeper) else "not responding"
    return {
        "server": server or None,
        "state_dir": str(cluster.directory),
        "daemon": daemon,
        "agents": agents,
        "web": _beside("web", kept.desired.http, kept, running),
        "gateway": _beside("gateway", kept.desired.gateway, kept, running),
        "keeper": {"pid": keeper.pid if keeper else None, "state": keeps},
    }


def _beside(name: str, listens: str, kept: Kept, running: dict[str, Process]) -> Row | None:
    """Its pages or its gateway, which listen there; None when none are wanted."""
    if not listens:
        return None
    process = running.get(name)
    return {
        "url": f"http://{listens}/",
        "pid": process.pid if process else None,
        "state": _agent_state(process, "ready" if name in kept.ready else "starting"),
    }


def _agent_state(process: Process | None, told: str) -> str:
    if process is None:
        return "stopped"
    return "not responding" if processes.stopped(process) else told


def read_remote(server: Address) -> Row:
    """The same object for a server that no `bursar up` here runs. Raises `ServerUnavailable`."""
    from bursar.client import WireClient

    with WireClient(server) as client:
        found = client.server(timeout_s=5.0)
        nodes = client.nodes()
    return {
        "server": server.url,
        "state_dir": None,
        "daemon": {
            "pid": found.pid,
            "version": found.version,
            "ready": found.ready,
            "state": "ready" if found.ready else "starting",
            "trouble": found.trouble or None,
        },
        "agents": [
            {
                "name": node.facts.name,
                "pid": None,
                "state": node.state,
                "limits": list(node.facts.limits),
            }
            for node in nodes
        ],
        "web": None,
        "gateway": None,
        "keeper": None,
    }


def _ask(server: str, daemon: dict[str, Any]) -> dict[str, types_pb2.Node]:
    """Fill in what the daemon says of itself; its nodes by name."""
    from bursar.client import WireClient

    if not server:
        return {}
    found_at = address.parse(server, address.OF_UP)
    if found_at.socket is None or not address.probe(found_at.socket):
        daemon["state"] = "starting"
        return {}
    try:
        with WireClient(found_at) as client:
            found = client.server(timeout_s=5.0)
            state = "ready" if found.ready else "starting"
            daemon |= {"version": found.version, "ready": found.ready, "state": state}
            daemon["trouble"] = found.trouble or None
            return {node.facts.name: node for node in client.nodes()}
    except BursarError:
        return {}


def _absent(state_dir: str, keeper: Row | None) -> str:
    """A daemon that does not run, beside agents that do."""
    kept = keeper is not None and keeper["state"] == "ready"
    return "daemon     not running; " + (
        "its keeper starts it again"
        if kept
        else f"{address.up_command(state_dir, '--detach')} starts it and keeps what runs"
    )


def _status_text(row: Row) -> str:
    daemon, keeper = row["daemon"], row["keeper"]
    if daemon["pid"] is None and not any(agent["pid"] for agent in row["agents"]):
        where, start = row["state_dir"], address.up_command(row["state_dir"])
        if moved := address.moved_words(where):
            return clean(moved)
        if not Path(where).is_dir():
            return clean(f"nothing runs: there is no {where}; start with {start}")
        return clean(f"nothing runs in {where}; start with {start}")
    ready = {"ready": "ready", "not responding": "not responding"}.get(daemon["state"], "not ready")
    version = f", version {daemon['version']}" if daemon["version"] else ""
    lines = [
        f"server     {row['server']}",
        f"state dir  {row['state_dir'] or 'not of a `bursar up` of this user'}",
        f"daemon     {ready}, pid {daemon['pid']}{version}"
        if daemon["pid"]
        else _absent(row["state_dir"], keeper),
    ]
    if daemon["trouble"]:
        lines.append(f"trouble    {daemon['trouble']}")
    lines += [f"agent      {a['name']} {a['state']}, pid {a['pid'] or '-'}" for a in row["agents"]]
    known = [(a["name"], a["limits"]) for a in row["agents"] if a["limits"] is not None]
    if told := unheld.said_of(known):
        lines.append(f"limits     {told}")
    if web := row["web"]:
        lines.append(f"pages      {web['url']} {web['state']}, pid {web['pid'] or '-'}")
    if gateway := row["gateway"]:
        lines.append(f"gateway    {gateway['url']} {gateway['state']}, pid {gateway['pid'] or '-'}")
    if keeper is not None and keeper["state"] == "ready":
        lines.append(f"keeper     ready, pid {keeper['pid']}")
    elif keeper is not None:
        again = address.up_command(row["state_dir"], "--detach")
        lines.append(f"keeper     {keeper['state']}; {again} replaces it and keeps what runs")
    return "\n".join(map(clean, lines))
