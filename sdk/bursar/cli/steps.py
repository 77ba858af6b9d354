"""Verbs inside jobs: `step`; and `slurm-shims`, which writes Slurm's commands for a login machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bursar.errors import BursarError
from bursar.steps.names import STEP_TASKS_MAX

WAIT_S_MAX = 10**9
_COMMAND = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.command(context_settings=_COMMAND)
@click.option("--nodes", type=click.IntRange(1, STEP_TASKS_MAX), help="Nodes.  [default: all of the job]")
@click.option(
    "--ntasks", type=click.IntRange(1, STEP_TASKS_MAX), help="Tasks in all.  [default: one per node]"
)
@click.option("--ntasks-per-node", type=click.IntRange(1, STEP_TASKS_MAX), help="Tasks of each node.")
@click.option("--node", metavar="NAME,...", default="", help="These nodes of the job, n[1-3],m.")
@click.option("--output", metavar="FILE", default="", help="%t is the task, %N the node; none.")
@click.option("--error", metavar="FILE", default="", help="Else as --output.")
@click.option("--label", is_flag=True, help="Write the task's rank before each line.")
@click.option("--kill-on-bad-exit", is_flag=True, help="End all when one fails.")
@click.option(
    "--wait",
    metavar="S",
    type=click.IntRange(0, WAIT_S_MAX),
    default=0,
    help="End all S seconds after one has.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def step(
    nodes: int | None,
    ntasks: int | None,
    ntasks_per_node: int | None,
    node: str,
    output: str,
    error: str,
    label: bool,
    kill_on_bad_exit: bool,
    wait: int,
    command: tuple[str, ...],
) -> int:
    """Start processes on the nodes of the running job. Inside a job alone.

    Input goes to the first task, signals to all; the exit code is the highest of theirs.

    Example: bursar step --ntasks-per-node 4 -- python train.py
    """
    from bursar.steps.client import run
    from bursar.steps.hosts import expand_hosts
    from bursar.steps.request import Request

    try:
        named = expand_hosts(node) if node else []
    except ValueError as problem:
        raise click.BadParameter(f"{node}: {problem}", param_hint="--node") from None
    request = Request(
        list(command),
        nodes=nodes or 0,
        tasks=ntasks or 0,
        tasks_per_node=ntasks_per_node or 0,
        node=named,
        output=output,
        error=error,
        label=label,
        kill_on_bad_exit=kill_on_bad_exit,
        wait_s=wait,
        slurm="SLURM_JOB_ID" in os.environ,
        recorded=True,
    )
    return run(request, os.environ)


@click.command("slurm-shims")
@click.argument("directory", metavar="DIR")
def slurm_shims(directory: str) -> None:
    """Write Slurm's commands, as far as they are known here, into DIR for the PATH.

    Example: bursar slurm-shims ~/slurm
    """
    from bursar.steps.install import SLURM, write_shims

    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        write_shims(Path(directory))
    except OSError as problem:
        raise BursarError(f"{directory}: {problem.strerror}") from None
    click.echo(f"{', '.join(SLURM)} are in {directory}", err=True)
