"""Names of `#SBATCH` lines that a policy of the site gives a meaning: what a job becomes by them.

Owns    what of it counts, and the sentence that is said of each. Pure: documents come in as values.
Why     a queue of another site stands for nodes, a priority and a limit; a script that names it goes where
        its author meant, or is refused with the names that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bursar.clock import format_duration
from bursar.errors import InvalidRequest
from bursar.model import JobSpec
from bursar.model.check import quote
from bursar.model.slurm_names import SlurmName, SlurmNames, known

SHOWN_MAX: Final = 40
MENDS: Final = "an administrator gives names a meaning with a policy of the kind SlurmNames"


class Meaning(msgspec.Struct, frozen=True):
    """What a name stands for. `document`: where it is written."""

    name: SlurmName
    document: str


def listed(documents: Sequence[SlurmNames], option: str, more: Sequence[str] = ()) -> str:
    """The names that there are, for who wrote another."""
    names = sorted({*known(documents, option), *more})
    left = len(names) - SHOWN_MAX
    return ", ".join(names[:SHOWN_MAX]) + (f" and {left} more" if left > 0 else "")


def with_meaning(spec: JobSpec, meaning: Meaning, taken: set[str]) -> tuple[JobSpec, str]:
    """The job as a name wants it, and what is to be said.

    Args:
        taken: fields of the job that the script, flags or a name before it say; this one's are added.

    Raises:
        InvalidRequest: another word asks for nodes by the same property, or the job asks for more time.
    """
    name, said = meaning.name, list[str]()
    if name.project and spec.project == name.project:
        said.append(f"project {name.project}")
    for key, pattern in name.constraints:
        there = dict(spec.constraints).get(key)
        if there not in (None, pattern):
            raise InvalidRequest(
                f"asks for nodes whose {key} is {pattern}{_by(meaning)}, and another word for {key} {there};"
                " keep one"
            )
        said.append(f"nodes whose {key} is {pattern.replace(',', ' or ')}")
    gpus = spec.options[0].gpus
    if name.gpu_type and gpus is not None and gpus.types == (name.gpu_type,):
        said.append(f"{name.gpu_type} GPUs")
    changes: dict[str, Any] = {"constraints": tuple(sorted({*spec.constraints, *name.constraints}))}
    for field, value in (("priority", name.priority), ("spot_policy", name.spot_policy or None)):
        if value is not None and field not in taken:
            taken.add(field)
            changes[field] = value
            said.append(f"{field.replace('_', ' ')} {value}")
    spec = msgspec.structs.replace(spec, **changes)
    if name.time_limit_us:
        spec = _limited(spec, meaning, own="time_limit" in taken)
        said.append(f"at most {format_duration(name.time_limit_us)}")
    return spec, f"stands for {', '.join(said) or 'nothing more'}{_by(meaning)}"


def _by(meaning: Meaning) -> str:
    return f" (policy SlurmNames/{meaning.document})"


def _limited(spec: JobSpec, meaning: Meaning, *, own: bool) -> JobSpec:
    """As in Slurm: no job of the name asks for more, and one that asks for nothing gets the least of them."""
    limit_us = meaning.name.time_limit_us
    if own and spec.time_limit_us > limit_us:
        raise InvalidRequest(
            f"gives a job {format_duration(limit_us)} at most{_by(meaning)}, and this one asks for "
            f"{format_duration(spec.time_limit_us)}; ask for less, or name another"
        )
    return msgspec.structs.replace(spec, time_limit_us=min(spec.time_limit_us or limit_us, limit_us))


def in_partitions(
    text: str, names: Sequence[tuple[str, SlurmName | None]], places: Sequence[SlurmName]
) -> SlurmName:
    """What several partitions by comma stand for together: nodes of any of them.

    Args:
        names: each, and what a policy says of it. places: partitions that nodes are in.

    Raises:
        InvalidRequest: one of them is not known, or they do not stand for nodes of one property alone.
    """
    by_name = {place.name: place for place in places}
    found = [meaning or by_name.get(name) for name, meaning in names]
    one_each = [one.constraints[0] for one in found if one is not None and one.places_only]
    if len(one_each) < len(found) or len({key for key, _ in one_each}) > 1:
        raise InvalidRequest(
            f"{quote(text)} names partitions that do not stand for nodes of one property alone; keep one"
        )
    patterns = ",".join(dict.fromkeys(pattern for _, pattern in one_each))
    return SlurmName(text, constraints=((one_each[0][0], patterns),))
