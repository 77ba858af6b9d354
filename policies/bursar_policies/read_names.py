"""Names of other sites from their YAML nodes: what partitions, QOS and accounts of scripts stand for here.

Owns    the form of `kind: SlurmNames`.
Why     what a name stands for is written in the words of a job file, and checked as there: a mapping that no
        job could have is refused when it is applied, not with the first script that meets it.
"""

from __future__ import annotations

import re
from typing import Final

from bursar.jobfile.document import report
from bursar.jobfile.gpus import read_constraints
from bursar.jobfile.sections import read_priority
from bursar.model import JobSpec
from bursar.model.check import SPOT_POLICIES, check, quote
from bursar.model.slurm_names import GROUPS, SlurmName
from bursar.yamlfile import Faults, Fields, Node, read_entries, read_project
from bursar_policies.specs import SlurmNamesSpec

NAMES_MAX: Final = 1000
"""Of one document."""
KEYS: Final = ("project", "constraints", "gpu_type", "priority", "time_limit", "spot_policy")
_NAME: Final = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9_.@*-]{0,127}", re.ASCII)
_GPU_TYPE: Final = r"[A-Za-z][A-Za-z0-9._-]{0,39}"


def read_slurm_names(node: Node, faults: Faults) -> SlurmNamesSpec | None:
    """The spec of SlurmNames, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, tuple(GROUPS.values()))
    groups = {key: fields.entries(key) for key in GROUPS.values()}
    count = sum(map(len, groups.values()))
    if count > NAMES_MAX:
        faults.add(node, f"gives {count} names a meaning; at most {NAMES_MAX} in one document")
        return None
    found = {
        key: tuple(_name(name, groups[key][name], faults) for name in sorted(groups[key])) for key in groups
    }
    if not count and len(faults.found) == before:
        faults.add(node, f"names nothing; give at least one of {', '.join(groups)}")
    return None if len(faults.found) > before else SlurmNamesSpec(**found)


def _name(name: str, node: Node, faults: Faults) -> SlurmName:
    """What one name stands for: nothing (`{}`) too, which makes it known."""
    if _NAME.fullmatch(name) is None:
        faults.add_key(node, f"{quote(name)} is not a name of letters, digits, '_', '.', '-', '@' and '*'")
    if not read_entries(node, faults):
        return SlurmName(name)
    fields = Fields(node, faults, KEYS)
    project, priority, constraints = (fields.get(key) for key in ("project", "priority", "constraints"))
    gpu_type = fields.string("gpu_type", pattern=_GPU_TYPE, expected="a type of GPU, such as H100")
    found = SlurmName(
        name,
        (read_project(project, faults) if project is not None else None) or "",
        read_constraints(constraints, faults) if constraints is not None else (),
        (gpu_type or "").upper(),
        read_priority(priority, faults) if priority is not None else None,
        fields.duration("time_limit") or 0,
        fields.enum("spot_policy", SPOT_POLICIES) or "",
    )
    _check(found, node, faults)
    if "time_limit" in fields and not found.time_limit_us:
        faults.add(node, "time_limit: is no time at all; leave it out for no limit")
    return found


def _check(found: SlurmName, node: Node, faults: Faults) -> None:
    """As of a job that asks for this."""
    spec = JobSpec(
        project=found.project or "default",
        constraints=found.constraints,
        priority=50 if found.priority is None else found.priority,
        time_limit_us=found.time_limit_us,
        command=("true",),
    )
    # Where a job file has `resources.constraints` this has `constraints`.
    problems = [one._replace(path=one.path[one.path[0] == "resources" :]) for one in check(spec)]
    report(problems, node, faults)
