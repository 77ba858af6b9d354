"""Files of other systems: which one it is, and the job file that comes nearest to it.

Owns    recognition, and the way from text to text. Input: a file of SkyPilot, dstack, Nomad, Kubernetes, Ray.
Why     people try what they have. A file that is recognised gets one sentence in place of thirty wrong keys,
        and one command makes a job file of it, with a note for every line that has no equal.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bursar.errors import InvalidRequest
from bursar.jobfile.convert import nomad, yamls
from bursar.jobfile.convert.draft import Draft
from bursar.yamlfile import Faults, Node, load_yaml, raise_if_any

__all__ = ["Converted", "convert", "recognise"]

_ALONE = "convert it in a file of its own, and join the two by depends_on"
_INSTEAD = "docs/environment.md lists what a job finds"
_HCL_JOB = re.compile(r'^\s*job\s+"?[\w.-]+"?\s*\{', re.MULTILINE)


class Converted(NamedTuple):
    """A job file made of another file.

    Attributes:
        kind: whose file it was, `a SkyPilot task`. notes: (line of that file, sentence), in order.
    """

    kind: str
    text: str
    notes: tuple[tuple[int, str], ...]


class _System(NamedTuple):
    kind: str
    convert: Callable[[Node, Draft], None]
    hints: Mapping[str, str]
    prefix: str
    """Of the variables that it gives its jobs."""


_SKY = _System("a SkyPilot task", yamls.sky, yamls.SKY_HINTS, "SKYPILOT")
_DSTACK = _System("a dstack configuration", yamls.dstack, yamls.DSTACK_HINTS, "DSTACK")
_KUBERNETES = _System("a Kubernetes manifest", yamls.kubernetes, yamls.KUBERNETES_HINTS, "KUBERNETES")
_RAY = _System("a Ray file", yamls.ray, yamls.RAY_HINTS, "RAY")
_NOMAD = _System("a Nomad job", nomad.nomad, nomad.HINTS, "NOMAD")

_SKY_KEYS = frozenset(("num_nodes", "envs", "file_mounts", "service"))
_SKY_RESOURCES = frozenset(
    ("accelerators", "cloud", "infra", "use_spot", "disk_size", "image_id", "autostop", "instance_type")
)
_DSTACK_TYPES = frozenset(("task", "dev-environment", "service", "fleet", "gateway", "volume"))
_RAY_KEYS = frozenset((
    "cluster_name", "runtime_env", "head_node_type", "available_node_types", "entrypoint", "applications",
    "import_path", "max_workers",
))  # fmt: skip


def recognise(text: str) -> str | None:
    """Whose file this is, such as `a Kubernetes manifest`; None for ours, or nobody's that is known."""
    found = _read(text)
    return found[0].kind if found is not None else None


def convert(text: str, source: str) -> Converted:
    """The job file that comes nearest to another system's.

    Raises:
        InvalidRequest: it is nobody's that is known, or a value cannot be read; all that cannot are named.
    """
    found = _read(text)
    if found is None:
        faults = Faults(source)
        roots = load_yaml(text, faults)
        raise_if_any(faults, error=InvalidRequest)
        if roots and "run" in roots[0].entries:
            command = f"bursar submit {shlex.quote(source)}"
            raise InvalidRequest(f"{source} is a job file of Bursar already: {command}")
        raise InvalidRequest(
            f"{source} is not a file of SkyPilot, dstack, Nomad, Kubernetes or Ray that is recognised; "
            "a job file has at least `run: COMMAND`"
        )
    system, root = found
    draft = Draft(source)
    if system is not _NOMAD:
        roots = load_yaml(text, draft.faults)  # an alias, or a key said twice, would be lost as well
        raise_if_any(draft.faults, error=InvalidRequest)
        root = _chosen(roots, system)
        for other in roots:
            if other is not root and not {"name"} >= other.entries.keys():
                draft.note(other, f"this document is not converted: a job file has one; {_ALONE}")
    system.convert(root, draft)
    _unset(system, draft)
    raise_if_any(draft.faults, error=InvalidRequest)
    draft.leave(root, system.hints)
    body = draft.render(system.kind, source)
    return Converted(system.kind, body, tuple(sorted(set(draft.notes))))


def _chosen(roots: list[Node], system: _System) -> Node:
    """The document that runs something: of a pipeline the first task, of manifests the first with pods."""
    ours = [one for one in roots if _system(one) is system]
    if system is _SKY:
        ours = [one for one in roots if {"run", "resources"} & one.entries.keys()] or ours
    if system is _KUBERNETES:
        return next((one for one in ours if yamls.has_pods(one)), ours[0])
    return ours[0]


def _unset(system: _System, draft: Draft) -> None:
    """Variables of the other system that the job reads, and nothing sets."""
    texts = [draft.fields.get("setup", ""), draft.fields.get("run", ""), *draft.fields.get("command", ())]
    text = "\n".join(texts)
    given = set(draft.fields.get("env", ()))
    given |= {found[1] for found in re.finditer(r"\b([A-Z_0-9]+)=", text)}
    read = {found[1] for found in re.finditer(rf"\$\{{?({system.prefix}_[A-Z0-9_]+)", text)}
    draft.notes += [(1, f"${name} is not set here; {_INSTEAD}") for name in sorted(read - given)[:20]]


def _read(text: str) -> tuple[_System, Node] | None:
    if _HCL_JOB.search(text):
        return _NOMAD, nomad.parse(text)
    roots = load_yaml(text, Faults(""))
    for root in roots:
        system = _system(root)
        if system is not None:
            return system, root
    return None


def _system(root: Node) -> _System | None:
    keys = set(root.entries)
    if {"apiVersion", "kind"} <= keys:
        return _KUBERNETES
    kind = root.entries.get("type")
    commands = root.entries.get("commands")
    wanted = root.entries.get("resources")
    resources = set(wanted.entries) if wanted is not None else set()
    if (
        kind is not None
        and kind.text in _DSTACK_TYPES
        and (kind.text != "service" or commands is not None or "gpu" in resources)
    ):
        return _DSTACK
    entrypoint = root.entries.get("entrypoint")
    switch = entrypoint is not None and entrypoint.text.lower() in ("true", "false", "yes", "no", "null", "~")
    if len(keys & _RAY_KEYS) >= 2 or (entrypoint is not None and not switch):
        return _RAY
    if keys & _SKY_KEYS or resources & _SKY_RESOURCES:
        return _SKY
    return None
