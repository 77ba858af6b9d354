"""What a shell's text would do in silence, in a script and in the `run` and `setup` of a job file alike.

Input   the text as `shell.scan` read it, and its job. Output: faults by place, notes by line.
Why     the same words are as dangerous in a job file as in a script that came from Slurm.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bursar.errors import InvalidRequest
from bursar.jobfile import shell
from bursar.jobfile.endings import lost_ends, started_on_all
from bursar.jobfile.grammar import blocks
from bursar.jobfile.removals import given_to, removals
from bursar.model import JobSpec
from bursar.yamlfile import Faults, raise_if_any

SHOWN_MAX: Final = 20
_OTHERS: Final = {
    "SKYPILOT_": "SkyPilot's", "DSTACK_": "dstack's", "NOMAD_": "Nomad's", "PBS_": "PBS's", "LSB_": "LSF's",
    "COBALT_": "Cobalt's", "PJM_": "the Fujitsu job manager's", "OAR_": "OAR's", "FLUX_": "Flux's",
    "JOB_COMPLETION_": "Kubernetes'", "SLURM_": "Slurm's", "SGE_": "Grid Engine's",
}  # fmt: skip
"""By how their variables begin. Slurm's are set, or refused, in scripts; in a job file they are not there."""
_ENDS: Final = (
    (("NODE_RANK", "PROCID", "NODEID"), "BURSAR_NODE_RANK"),
    (("NODE_IPS", "NODES_IPS"), "BURSAR_NODE_ADDRESSES"),
    (("NODEFILE", "NODELIST", "HOSTS"), "BURSAR_NODE_NAMES"),
    (("NUM_NODES", "NODES_NUM", "NNODES"), "BURSAR_NODES"),
    (("GPUS_PER_NODE", "GPUS_ON_NODE"), "BURSAR_GPUS"),
    (
        ("ARRAY_INDEX", "ARRAY_TASK_ID", "JOBINDEX", "ALLOC_INDEX", "COMPLETION_INDEX", "ARRAYID"),
        "BURSAR_ARRAY_INDEX",
    ),
    (("CPUS_PER_TASK", "CPUS_ON_NODE"), "BURSAR_CPUS"),
    (("JOB_ID", "JOBID", "TASK_ID"), "BURSAR_JOB_NUMBER"),
    (("WORKDIR", "SUBMIT_DIR"), "PWD"),
)
"""By how they end: what says the same here."""
_TORCHRUN: Final = frozenset(("torch.distributed.run", "torch.distributed.launch"))
_WORLDS: Final = re.compile(r"--?nnodes(?:=|$)")


class Body(NamedTuple):
    """A text that a shell runs.

    Attributes:
        environ: of the shell it is submitted from. tmpdir: the job has a private TMPDIR.
        script: it is a script, whose names of Slurm are held against their table elsewhere.
    """

    text: str
    found: shell.Found
    spec: JobSpec
    environ: Mapping[str, str]
    tmpdir: bool = False
    script: bool = False


def speaks_shell(first: str) -> bool:
    """Is a text with this first line read by a shell?"""
    return not first.startswith("#!") or any(re.search(rf"\b{name}\b", first) for name in shell.SHELLS)


def place_of(content: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1."""
    return content.count("\n", 0, offset) + 1, offset - content.rfind("\n", 0, offset)


def check_text(body: Body, faults: Faults) -> list[tuple[int, str]]:
    """Refuse what is dangerous, by place; returns notes by line."""
    others = itertools.islice(_of_others(body), SHOWN_MAX)
    return [*_removals(body, faults), *_losses(body), *others, *_alone(body)]


def notes_of_texts(text: str, source: str, spec: JobSpec) -> list[str]:
    """The same of a job file. Raises `InvalidRequest`."""
    faults, notes = Faults(source), []
    for block in blocks(text, {"run": spec.script, "setup": spec.setup}):
        if not speaks_shell(block.text.partition("\n")[0]):
            continue
        own = Faults(source)
        said = check_text(Body(block.text, shell.scan(block.text), spec, {}), own)
        for fault in own.found:
            line, of = block.place(fault.line)
            faults.add_at(line, fault.column if block.above is not None else 1, of + fault.message)
        for number, sentence in said:
            line, of = block.place(number)
            notes.append(f"{source}:{line}: {of}{sentence}")
    raise_if_any(faults, error=InvalidRequest)
    return notes


def _removals(body: Body, faults: Faults) -> Iterator[tuple[int, str]]:
    given = given_to(body.spec) | ({"TMPDIR"} if body.tmpdir else frozenset())
    found = removals(body.text, body.found, given, image=bool(body.spec.image))
    for one in found[:SHOWN_MAX]:
        place = place_of(body.text, one.offset)
        if not one.certain:
            yield place[0], one.sentence
        elif len(faults.found) < SHOWN_MAX:
            yours = (
                f"; that of your shell is not copied: --env {one.name}" if one.name in body.environ else ""
            )
            faults.add_at(*place, one.sentence + yours)


def _of_others(body: Body) -> Iterator[tuple[int, str]]:
    """Variables of other systems that the text reads and nothing sets."""
    seen = {name for name, _ in body.spec.env} | set(body.spec.secrets)
    for read in body.found.trusting():
        whose = next((who for head, who in _OTHERS.items() if read.name.startswith(head)), "")
        if not whose or read.name in seen or (body.script and read.name.startswith("SLURM")):
            continue
        seen.add(read.name)
        like = next((ours for ends, ours in _ENDS if read.name.endswith(ends)), "")
        instead = f"${like} says the like" if like else "docs/environment.md lists what a job finds"
        yield (
            place_of(body.text, read.offset)[0],
            f"${read.name} is {whose}, and nothing sets it here; {instead}",
        )


def _alone(body: Body) -> Iterator[tuple[int, str]]:
    """A torchrun of several nodes in a text that runs on one of them waits for the others until the limit."""
    spec = body.spec
    if spec.launch != "once" or spec.nodes < 2 or started_on_all(body.found):
        return
    for one in body.found.commands:
        words = one.words_of("torchrun")
        if (
            words is None
            and "-m" in one.words
            and {"torch.distributed.run", "torch.distributed.launch"} & {*one.words}
        ):
            words = one.words
        if words is not None and any(_WORLDS.match(word) for word in words):
            there = "#BURSAR --launch per-node" if body.script else "launch: per-node"
            yield (
                place_of(body.text, one.offset)[0],
                f"the text runs once, on the first of {spec.nodes} nodes: torchrun would wait for the others;"
                " start it on each, `srun --ntasks-per-node=1 torchrun ...`, or let the whole text run there:"
                f" {there}",
            )
            return


def _losses(body: Body) -> Iterator[tuple[int, str]]:
    for offset, sentence in lost_ends(body.text, body.found):
        yield place_of(body.text, offset)[0], sentence
