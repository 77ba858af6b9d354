"""Programs of a script's environment that nodes tell whether they have: conda, apptainer, ssh and the like.

Output  the job where they are, notes and faults by line.
Why     a program that no node has is not found at its line, and the script goes on. A script that would run
        is never refused: one that brings the program, or sets up a PATH, knows more than nodes tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from bursar.jobfile import shell
from bursar.jobfile.site import SiteNode, may
from bursar.model import JobSpec
from bursar.steps.programs import LABELS, NAMES, has, label_for, pattern_of

Said = tuple[int, str]
"""(offset, sentence)"""
_BRINGS: Final = frozenset((
    ".", "source", "module", "ml", "eval", "spack", "apt", "apt-get", "yum", "dnf", "apk", "pip", "pip3",
    "uv", "curl", "wget", "tar", "make", "bash", "sh", "alias", "git", "ln", "cp", "install", "nix-shell",
    "nix", "guix", "brew", "pipx", "npm", "corepack", "rustup", "cargo", "go", "use", "setpkgs", "enable",
    "conda", "mamba", "micromamba", "unzip", "hash",
))  # fmt: skip
"""After one of these a program may be there that was not before."""
_OTHERWISE: Final = {
    "ssh": "; what is to run on the job's nodes is started by `srun -N1 -n1 -w NODE`",
    "pdsh": "; what is to run on all of the job's nodes is started by `srun --ntasks-per-node=1`",
    "parallel": "; `srun -N1 -n1 --exact … &` in a loop with `wait` behind it does the same",
}
UNKNOWN: Final = "runs only where the node has it"
HONOURED: Final = (
    "where nodes tell what they have, the job asks for one that has it, or is refused; not where the script "
    "may bring it, or asks for it first (`command -v`); else noted"
)
"""What becomes of a script that runs one of `NAMES`."""


def place_programs(
    found: shell.Found, spec: JobSpec, nodes: Sequence[SiteNode] | None, login: bool
) -> tuple[JobSpec, list[Said], list[Said]]:
    """The job on nodes that have what its script runs; notes, and faults.

    Args:
        nodes: None where they are not known. login: its shell reads profiles first, which may set a PATH.
    """
    here = [node for node in nodes or () if may(node, spec)]
    brings = login or _has_own_path(spec)
    wanted: list[str] = []
    notes: list[Said] = []
    faults: list[Said] = []
    for name, command, certain in _uses(found, brings):
        label = label_for(name)
        telling = [node for node in here if label in node.attributes]
        having = [node for node in telling if has(node.attributes[label], name)]
        if not here or len(telling) < len(here):
            notes.append((command.offset, f"{name} {UNKNOWN}"))
        elif not having:
            if certain:
                faults.append((command.offset, _refusal(name)))
            else:
                notes.append((command.offset, f"{name} is on no node that the job may run on"))
        elif len(having) < len(here):
            if certain:
                wanted.append(name)
                notes.append((command.offset, f"{name} asks for nodes that have it"))
            else:
                notes.append((command.offset, f"{name} {UNKNOWN}"))
    wanted = [name for name in wanted if label_for(name) not in dict(spec.constraints)]
    if wanted and not faults:
        if here and not any(has_all(node, wanted) for node in here):
            offset = min(offset for offset, _ in notes)
            faults.append((offset, f"no node that the job may run on has all of {', '.join(wanted)}"))
        asked = {label: [name for name in wanted if name in names] for label, names in LABELS.items()}
        pairs = [(label, pattern_of(names)) for label, names in asked.items() if names]
        spec = msgspec.structs.replace(spec, constraints=tuple(sorted((*spec.constraints, *pairs))))
    return spec, notes, faults


def has_all(node: SiteNode, names: Sequence[str]) -> bool:
    """Does a node have all of these programs?"""
    return all(has(node.attributes.get(label_for(name), ""), name) for name in names)


def _refusal(name: str) -> str:
    return (
        f"{name} cannot run: no node that the job may run on has it (agents tell what is on their PATH, in "
        f"the label `{label_for(name)}`); set PATH or source what sets it up above this line, or copy yours"
        " with --env PATH"
        f"{_OTHERWISE.get(name, '')}"
    )


def _has_own_path(spec: JobSpec) -> bool:
    return bool(spec.setup) or not {"PATH", "BASH_ENV"}.isdisjoint(dict(spec.env))


def _brings(words: Sequence[str]) -> bool:
    """May a program be there after it that was not before? `python3 -m pip install uv` is one."""
    return words[0] in _BRINGS or (words[0].startswith("python") and "-m" in words[1:3])


def _uses(found: shell.Found, brings: bool) -> Iterator[tuple[str, shell.Command, bool]]:
    """(program, where it runs first, whether it is certain to run and is looked for on the node's PATH)."""
    if brings:
        return
    path = found.known.get("PATH", 1 << 62)
    since = min((one.offset for one in found.commands if _brings(one.words)), default=1 << 62)
    for name in NAMES:
        until = min(path, found.has.get(name, 1 << 62))
        uses = [one for one in found.commands if one.words[0] == name and one.offset < until]
        # It is no matter that `conda` may bring programs where it is itself what is looked for.
        uses = [one for one in uses if one.offset <= since]
        if uses:
            certain = [one for one in uses if not one.may_not_run and one.then != "||"]
            yield name, (certain or uses)[0], bool(certain)
