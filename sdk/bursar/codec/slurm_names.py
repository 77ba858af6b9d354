"""`SlurmNames` to and from the wire."""

from __future__ import annotations

from collections.abc import Iterable

from bursar.model.slurm_names import SlurmName, SlurmNames
from bursar.v1 import nodes_pb2 as pb


def names_to_wire(names: SlurmNames) -> pb.SlurmNames:
    """For the wire."""
    return pb.SlurmNames(
        document=names.document,
        partitions=map(_name_to_wire, names.partitions),
        qos=map(_name_to_wire, names.qos),
        accounts=map(_name_to_wire, names.accounts),
    )


def names_from_wire(wire: Iterable[pb.SlurmNames]) -> tuple[SlurmNames, ...]:
    """The way back, of every document."""
    return tuple(
        SlurmNames(
            each.document,
            tuple(map(_name_from_wire, each.partitions)),
            tuple(map(_name_from_wire, each.qos)),
            tuple(map(_name_from_wire, each.accounts)),
        )
        for each in wire
    )


def _name_to_wire(name: SlurmName) -> pb.SlurmName:
    return pb.SlurmName(
        name=name.name,
        project=name.project,
        constraints=dict(name.constraints),
        gpu_type=name.gpu_type,
        priority=name.priority,
        time_limit_us=name.time_limit_us,
        spot_policy=name.spot_policy,
    )


def _name_from_wire(wire: pb.SlurmName) -> SlurmName:
    return SlurmName(
        wire.name,
        wire.project,
        tuple(sorted(wire.constraints.items())),
        wire.gpu_type,
        wire.priority if wire.HasField("priority") else None,
        wire.time_limit_us,
        wire.spot_policy,
    )
