"""From YAML to policy documents: the front door of `bursar policy apply` and `check`.

Owns    the envelope (kind, name, version, effective_at, spec) and reading many files as one.
Input   the text of YAML files and their names. Output: `Document`s, or all faults at once.
Why     a budget that is misread costs money, so nothing is guessed: unknown keys, wrong units and
        what is not built yet are refused with their line, and no document is half accepted.
        Each document keeps its own YAML text, to be shown again word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from bursar.errors import PolicyInvalid
from bursar.yamlfile import Faults, Fields, Node, load_yaml, nearest, raise_if_any
from bursar_policies.read_alerts import read_alert_channel
from bursar_policies.read_attribution import read_attribution
from bursar_policies.read_budget import read_budget
from bursar_policies.read_cloud import read_cloud_pool
from bursar_policies.read_commitment import read_commitment
from bursar_policies.read_idle import read_idle_policy
from bursar_policies.read_names import read_slurm_names
from bursar_policies.read_placement import read_placement
from bursar_policies.read_prices import read_cost_model, read_price_book
from bursar_policies.read_priority import read_priority
from bursar_policies.read_quota import read_quota
from bursar_policies.read_reservation import read_reservation
from bursar_policies.specs import BUILT_KINDS, NAME, PLANNED_KINDS, Document, Spec

_NAME_EXPECTED = "a name of letters, digits, '.', '_' and '-' (at most 63)"
_READERS: Final[dict[str, Callable[[Node, Faults], Spec | None]]] = {
    "AlertChannel": read_alert_channel,
    "Attribution": read_attribution,
    "Budget": read_budget,
    "CloudPool": read_cloud_pool,
    "Commitment": read_commitment,
    "CostModel": read_cost_model,
    "IdlePolicy": read_idle_policy,
    "PlacementPolicy": read_placement,
    "PriceBook": read_price_book,
    "PriorityPolicy": read_priority,
    "Quota": read_quota,
    "Reservation": read_reservation,
    "SlurmNames": read_slurm_names,
}


def catalog_dir() -> Path:
    """The folder of the shipped documents, in a checkout as in an installed wheel."""
    here = Path(__file__).resolve().parent
    inside, beside = here / "catalog", here.parent / "catalog"
    return inside if inside.is_dir() else beside


def parse_documents(text: str | bytes, source: str) -> tuple[Document, ...]:
    """The documents of one file. Raises `PolicyInvalid` (or `NotBuilt`) with all faults."""
    return parse_files([(source, text)])


def parse_files(files: Iterable[tuple[str, str | bytes]]) -> tuple[Document, ...]:
    """The documents of several files, given as (name, text): all of them, or an error.

    Raises:
        PolicyInvalid: with every fault of every file in `faults`.
        NotBuilt: when all that is wrong is that parts are not built yet.
    """
    documents: list[Document] = []
    collected: list[Faults] = []
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for source, text in files:
        faults = Faults(source)
        collected.append(faults)
        roots = load_yaml(text, faults)
        if not roots and not faults:
            faults.add_at(1, 1, "holds no document; a policy has kind, name and spec")
        decoded = text if isinstance(text, str) else text.decode(errors="replace")
        lines = decoded.removeprefix("\ufeff").splitlines()
        for index, root in enumerate(roots):
            end = roots[index + 1].line - 1 if index + 1 < len(roots) else len(lines)
            document = _document(root, faults, _own_text(lines, root.line - 1, end))
            if document is None:
                continue
            key = (document.kind, document.name)
            if key in seen:
                first, line = seen[key]
                where = f"line {line}" if first == source else f"{first}:{line}"
                faults.add(root, f"{document.kind} {document.name} is given twice: {where}")
            seen[key] = source, root.line
            documents.append(document)
    raise_if_any(*collected, error=PolicyInvalid)
    return tuple(documents)


def _own_text(lines: list[str], start: int, end: int) -> str:
    """The lines of one document without its markers."""
    own = [("   " + lines[start][3:]) if lines[start].startswith("---") else lines[start]]
    for line in lines[start + 1 : end]:
        if line.startswith(("---", "...")):
            break
        own.append(line)
    return "\n".join(own).rstrip() + "\n"


def _document(root: Node, faults: Faults, text: str) -> Document | None:
    if root.kind == "mapping" and "run" in root.entries and "spec" not in root.entries:
        faults.add(root, f"this is a job file, not a policy; `bursar submit {faults.source}` takes it")
        return None
    fields = Fields(root, faults, ("kind", "name", "version", "effective_at", "spec"))
    name = fields.string("name", required=True, pattern=NAME, expected=_NAME_EXPECTED)
    version = fields.integer("version", minimum=0)
    effective_at = fields.instant("effective_at")
    kind_node = fields.get("kind", required=True)
    kind = fields.string("kind")
    if kind_node is None or kind is None:
        return None
    if kind in PLANNED_KINDS:
        faults.not_built(kind_node, f"the kind {kind}", instead="remove the document")
        return None
    if kind not in BUILT_KINDS:
        listed = ", ".join(BUILT_KINDS)
        near = nearest(kind, BUILT_KINDS)
        message = f"{kind[:60]!r} is not a kind of policy; known: {listed}"
        faults.add(kind_node, message, nearest=near)
        return None
    spec_node = fields.get("spec", required=True)
    spec = None if spec_node is None else _READERS[kind](spec_node, faults)
    if spec is None or name is None:
        return None
    return Document(kind, name, spec, version, effective_at, text, faults.source, root.line)
