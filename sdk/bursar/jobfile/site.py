"""What a script says of the site that only its nodes can tell: a partition, a whole node, all of its memory.

Owns    the places that these words name, and the sizes that they stand for. Pure: nodes come in as values.
Why     `--exclusive` and `--mem=0` mean as much as the node has, and `--partition` is a place. A job has
        sizes and constraints, with which it is priced and placed; so the words become these at submission.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bursar.errors import InvalidRequest
from bursar.jobfile.slurm_names import MENDS
from bursar.model import JobSpec
from bursar.model.check import CONSTRAINT_MAX, quote
from bursar.model.constraints import matches
from bursar.model.slurm_names import SlurmName, SlurmNames
from bursar.resources import MILLI, GpuRequest, ResourceRequest, format_size
from bursar.steps.modules import LABEL
from bursar.words import plural

_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


class SiteNode(NamedTuple):
    """One node, as whoever submits sees it.

    Attributes:
        attributes: what constraints ask of: its name as `node`, its pool, zone and so on, its labels.
        gpu_type: empty where it has none, or several.
        rate_nanos_per_hour: -1 where its price is not known.
        takes_work: False where it is silent, cordoned or drained.
    """

    attributes: Mapping[str, str]
    cpu_milli: int
    memory_bytes: int
    gpus: int = 0
    gpu_type: str = ""
    rate_nanos_per_hour: int = -1
    takes_work: bool = True

    @property
    def name(self) -> str:
        """Its name."""
        return self.attributes["node"]


class Asks(NamedTuple):
    """What of the site a script may speak of; what it does not, nobody need ask for."""

    nodes: bool
    names: bool


class Site(NamedTuple):
    """What whoever submits knows of the site. `nodes`: None where they were not asked for."""

    nodes: tuple[SiteNode, ...] | None = None
    names: tuple[SlurmNames, ...] = ()


_Kind = tuple[int, int, str, int]
"""CPUs, GPUs, their type, memory: 0 and empty for what is not asked for."""


def places(nodes: Sequence[SiteNode]) -> list[SlurmName]:
    """The partitions that nodes are in: values of their label `partition`, and pools behind these."""
    named = {name: ("partition", name) for name in _values(nodes, "partition")}
    pools = {name: ("pool", name) for name in _values(nodes, "pool")}
    return [SlurmName(name, constraints=(pair,)) for name, pair in sorted((pools | named).items())]


def _values(nodes: Sequence[SiteNode], key: str) -> set[str]:
    found = {node.attributes.get(key, "") for node in nodes}
    return {name for name in found if _PLACE.fullmatch(name)}


def in_partition(
    spec: JobSpec, text: str, nodes: Sequence[SiteNode], others: Sequence[str] = ()
) -> tuple[JobSpec, str]:
    """A job in the partition `text`, or in any of several by comma; and what is to be said of it.

    A partition is the label `partition` of nodes, or a pool. Where all nodes are in one pool and none has the
    label there is but one place, in which the job is anyway.

    Args:
        others: partitions that a policy knows.

    Raises:
        InvalidRequest: there are partitions, and not this one.
    """
    names = [one.strip() for one in text.split(",")]
    labels, pools = _values(nodes, "partition"), _values(nodes, "pool")
    for key, there in (("partition", labels), ("pool", pools)):
        if all(name in there for name in names):
            if key in dict(spec.constraints):
                raise InvalidRequest(f"another line asks for nodes by their {key} too; keep one")
            pairs = (*spec.constraints, (key, ",".join(names)))
            said = f"asks for nodes whose {key} is {' or '.join(names)}"
            return msgspec.structs.replace(spec, constraints=tuple(sorted(pairs))), said
    if not labels and len({node.attributes.get("pool", "") for node in nodes}) <= 1 and not others:
        where = f", the pool {next(iter(pools))}" if pools else ""
        return spec, f"is not honoured: all nodes are one place{where}; give nodes a label partition=NAME"
    known = ", ".join(sorted({*labels, *pools, *others}))
    raise InvalidRequest(
        f"there is no partition {quote(text)} here; these are: {known} "
        f"(a partition is the label `partition` of nodes, or a pool; {MENDS})"
    )


def with_modules(spec: JobSpec, nodes: Sequence[SiteNode]) -> tuple[JobSpec, str]:
    """A job on nodes that have environment modules; and what is to be said of it.

    Raises `InvalidRequest`: no node that it may run on has them.
    """
    if LABEL in dict(spec.constraints):
        return spec, f"runs on nodes whose {LABEL} is {dict(spec.constraints)[LABEL]}"
    if not any(node.attributes.get(LABEL) and may(node, spec) for node in nodes):
        raise InvalidRequest(
            "no node that the job may run on has environment modules (the label "
            f"`{LABEL}`, which agents give by themselves where modules or Lmod are installed); set PATH and "
            "the like in the script, or ask for `command -v module` first"
        )
    constraints = tuple(sorted((*spec.constraints, (LABEL, "*"))))
    return msgspec.structs.replace(spec, constraints=constraints), "asks for nodes that have it"


def with_features(spec: JobSpec, features: Sequence[str], nodes: Sequence[SiteNode]) -> tuple[JobSpec, str]:
    """A job on nodes that have one of several features, a label or a type of GPU; and what is to be said.

    Constraints are alternatives of one attribute alone, so the nodes that are there now are named.

    Raises `InvalidRequest`: no node that it may run on has one.
    """
    here = [node for node in nodes if may(node, spec)]
    serve = [node for node in here if any(_has_feature(node, feature) for feature in features)]
    either = " or ".join(features)
    if not serve:
        raise InvalidRequest(f"no node that the job may run on has the label or the type of GPU {either}")
    said = f"asks for nodes that have {either}"
    if len(serve) == len(here):
        return spec, f"{said}, as all have that it may run on"
    spec = _only(spec, serve)
    return spec, f"{said}, which now are {dict(spec.constraints)['node']}"


def _has_feature(node: SiteNode, feature: str) -> bool:
    return bool(node.attributes.get(feature)) or node.gpu_type == feature.upper()


def whole_nodes(
    spec: JobSpec, nodes: Sequence[SiteNode], *, everything: bool, memory: bool
) -> tuple[JobSpec, str]:
    """A job that asks for all of a node, CPUs and GPUs (`everything`) or memory; and what is to be said.

    Nodes of one size alone are taken, since a job asks the same of each: of several sizes that serve the
    cheapest, and then the smallest.

    Raises:
        InvalidRequest: no node, or too few of one size, have what the job asks for.
    """
    request = spec.options[0]
    kinds: dict[_Kind, list[SiteNode]] = {}
    for node in nodes:
        if serves(node, spec, request):
            size = (node.cpu_milli, node.gpus, node.gpu_type) if everything else (0, 0, "")
            kinds.setdefault((*size, node.memory_bytes if memory else 0), []).append(node)
    enough = {kind: found for kind, found in kinds.items() if len(found) >= spec.nodes}
    ready = {kind: found for kind, found in enough.items() if _ready(found) >= spec.nodes}
    if not enough:
        some = "no node that is here now has" if not kinds else f"no {spec.nodes} nodes of one size have"
        raise InvalidRequest(f"{some} what the job asks for, so how much a whole node is cannot be known")
    kind = min(ready or enough, key=lambda one: (_rate(enough[one]), one))
    options = (_whole(request, kind, everything=everything),)
    said = f"holds {_shown(kind)} of each node"
    if len(kinds) > 1:
        spec = _only(spec, enough[kind])
        said += f"; nodes differ, and these are taken: {dict(spec.constraints)['node']}"
    return msgspec.structs.replace(spec, options=options), said


def serves(node: SiteNode, spec: JobSpec, request: ResourceRequest) -> bool:
    """Would it hold a member of the job that asks for this, were it empty?"""
    if not may(node, spec):
        return False
    wanted = request.gpus
    if wanted is not None and (
        node.gpus < wanted.count or (wanted.types and node.gpu_type not in wanted.types)
    ):
        return False
    return node.cpu_milli >= request.cpu_milli and node.memory_bytes >= request.memory_bytes


def may(node: SiteNode, spec: JobSpec) -> bool:
    """Do the constraints of the job let it run there?"""
    return all(matches(pattern, node.attributes.get(key)) for key, pattern in spec.constraints)


def _ready(nodes: Sequence[SiteNode]) -> int:
    return sum(node.takes_work for node in nodes)


def _rate(nodes: Sequence[SiteNode]) -> tuple[bool, int]:
    """What the dearest of them costs; an unknown price comes last."""
    rates = [node.rate_nanos_per_hour for node in nodes]
    return min(rates) < 0, max(rates)


def _whole(request: ResourceRequest, kind: _Kind, *, everything: bool) -> ResourceRequest:
    cpu_milli, gpus, gpu_type, memory_bytes = kind
    memory_bytes = memory_bytes or request.memory_bytes
    if not everything:
        return msgspec.structs.replace(request, memory_bytes=memory_bytes)
    least = request.gpus.memory_bytes if request.gpus is not None else 0
    wanted = GpuRequest(gpus, (gpu_type,) if gpu_type else (), MILLI, least) if gpus else None
    return ResourceRequest(wanted, cpu_milli, memory_bytes)


def _shown(kind: _Kind) -> str:
    cpu_milli, gpus, gpu_type, memory_bytes = kind
    parts = [f"{cpu_milli / MILLI:g} CPUs"] if cpu_milli else []
    parts += [f"{plural(gpus, 'GPU')}{f' ({gpu_type})' if gpu_type else ''}"] if gpus else []
    parts += [format_size(memory_bytes)] if memory_bytes else []
    return ", ".join(parts)


def _only(spec: JobSpec, nodes: Sequence[SiteNode]) -> JobSpec:
    """The job on these nodes alone: on a larger one it would not hold all."""
    names = ",".join(sorted(node.name for node in nodes))
    if len(names) > CONSTRAINT_MAX:
        raise InvalidRequest(
            "nodes differ, and too many of one size would have to be named; say which by --partition, "
            "--constraint or --nodelist"
        )
    pairs = {**dict(spec.constraints), "node": names}
    return msgspec.structs.replace(spec, constraints=tuple(sorted(pairs.items())))
