"""`bursar node calibrate`: measure what a node delivers, by a job of the caller's, and keep it with the node.

Owns    the job that is submitted, and the reading of what it found.
Why     a job pays for what it holds, obeys limits and shows in the books like any other; nothing but a job
        may use devices. It runs `bursar.calibration`, as text: a node needs python3 and torch alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import bursar
from bursar.cli import texts
from bursar.cli.common import changing, fail, listing
from bursar.cli.output import Output, Row, emit_one, say
from bursar.cli.terminal import clean
from bursar.codec import view
from bursar.errors import InvalidRequest, WrongState
from bursar.model import JobSpec, JobState
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import types_pb2

if TYPE_CHECKING:
    from bursar.client import WireClient

TIME_LIMIT_US: Final = 900_000_000
_MARK, _NO_TORCH = "bursar-calibration ", 3
"""As `bursar.calibration` says them, which is a program of its own."""
_NOT_FOUND: Final = 127
"""Of whoever starts a script whose program is not there: the shell, `env` and ours."""
_PRECISIONS: Final = ("bf16", "fp16", "tf32", "fp32", "fp64")


@click.command()
@click.argument("name")
@click.option("--project", default="default", metavar="P", help="That pays for the job.  [default: default]")
@click.option("--python", default="python3", metavar="PROGRAM", help="On the node, with torch.")
@listing
@changing
def calibrate(client: WireClient, name: str, project: str, python: str, output: Output) -> None:
    """Measure what a node delivers on all its devices that are free, and keep it (operators).

    Matrix products by precision, memory, all-reduce, disk, with the node's torch, as a job that is paid for;
    on the CPUs where a node has no devices. `node show` has what was found, and what a PFLOP-day costs there.

    Example: bursar node calibrate gpu-07 --python /opt/torch/bin/python3
    """
    spec = job_of(view.node(client.node(name)), project, python)
    job = client.submit(spec).job
    say(f"job {job.number} measures {name}")
    ended = client.wait([job.id])[job.id]
    log = b"".join(chunk.data for chunk in client.logs(job.id)).decode("utf-8", "replace")
    if ended.state != JobState.SUCCEEDED:
        say(_why_failed(job.number, ended, python, name))
        raise fail(1)
    kept = view.node(client.calibrate(name, found_in(log, job.id)))
    emit_one(kept["calibration"], output, _text, identity="job")


def _why_failed(number: int, ended: Any, python: str, name: str) -> str:
    """What kept the job from measuring, and what to do."""
    if ended.exit_code == _NO_TORCH:
        remedy = f"run `{python} -m pip install torch` there, or name another --python"
        return f"{python} on {name} has no torch; {remedy}"
    if ended.exit_code == _NOT_FOUND:
        return f"there is no program {python} on {name}; name one that is there, and has torch, by --python"
    why = f": {clean(ended.end.message)}" if ended.end.message else ""
    return f"job {number} {ended.state}{why}; `bursar logs {number}` has what it printed"


def job_of(node: Row, project: str, python: str) -> JobSpec:
    """The job that measures a node. Raises `WrongState` where nothing can be measured now."""
    name = node["name"]
    if node["simulated"]:
        raise WrongState(f"{name} has simulated devices: they do no work that could be measured")
    if node["state"] != "up":
        raise WrongState(f"{name} is {node['state']} and takes no job; `bursar node show {name}` says why")
    free = [device for device in node["devices"] if device["free"] == 1]
    if node["devices"] and not free:
        raise WrongState(f"no device of {name} is free now; drain it and calibrate when its jobs have ended")
    cpus = min(node["cpus_free"], max(2 * len(free), 1)) if free else node["cpus_free"]
    if cpus < 1:
        raise WrongState(f"{name} has less than one CPU free now; calibrate when its jobs have ended")
    if not python.strip() or "\n" in python or len(python) > 200:
        raise InvalidRequest("--python: the name or path of a program on the node")
    source = (Path(bursar.__file__).parent / "calibration.py").read_text()
    line = python if python.startswith("/") else f"/usr/bin/env {python}"
    gpus = GpuRequest(len(free)) if free else None
    memory_bytes = min(node["memory_free_bytes"], 16 << 30)
    return JobSpec(
        name=f"calibrate-{name}"[:63],
        project=project,
        options=(ResourceRequest(gpus, int(cpus * 1000), memory_bytes),),
        constraints=(("node", name),),
        script=f"#!{line}\n{source}",
        time_limit_us=TIME_LIMIT_US,
    )


def found_in(log: str, job_id: str) -> types_pb2.Calibration:
    """What the program printed. Raises `WrongState` when there is no such line."""
    from bursar.codec.spec import CALIBRATED  # `nodes` and `cost` need nothing of it

    lines = [line for line in log.splitlines() if line.startswith(_MARK)]
    try:
        told: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
        rates = {
            f"{name}_flops_per_second": told["matmul_flops_per_second"].get(name) for name in _PRECISIONS
        }
        known = {name: value for name, value in (told | rates).items() if name in CALIBRATED and value}
        return types_pb2.Calibration(job=job_id, **known)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        raise WrongState(f"job {job_id} printed nothing that could be kept; `bursar logs {job_id}`") from None


def _text(row: Row) -> str:
    return "\n".join(f"{name}  {text}" for name, text in texts.calibration_pairs(row))
