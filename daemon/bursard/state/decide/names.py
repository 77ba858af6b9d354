"""Names of other sites over all documents in force: each stands for one thing.

Why     two documents that say different things of one partition would leave it to chance where a script runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bursar.errors import InvalidRequest
from bursar.model.slurm_names import GROUPS, SlurmNames
from bursar_policies.specs import Document, SlurmNamesSpec
from bursard.state.core import State

DOCUMENTS_MAX: Final = 8
"""In force: whoever submits a script is told all of them in one message."""


def in_force(state: State) -> list[SlurmNames]:
    """Of every document, by its name."""
    return [
        SlurmNames(record.name, record.spec.partitions, record.spec.qos, record.spec.accounts)
        for _, record in sorted(state.policies.items())
        if isinstance(record.spec, SlurmNamesSpec)
    ]


def check_names(state: State, documents: Sequence[Document]) -> None:
    """Raise `InvalidRequest` where a name would have two meanings, or there would be too many documents."""
    fresh = {one.name: one for one in documents if isinstance(one.spec, SlurmNamesSpec)}
    if not fresh:
        return
    given = {names.document: SlurmNamesSpec(names.partitions, names.qos, names.accounts)
             for names in in_force(state)}  # fmt: skip
    after = given | {name: one.spec for name, one in fresh.items() if isinstance(one.spec, SlurmNamesSpec)}
    if len(after) > max(DOCUMENTS_MAX, len(given)):
        raise InvalidRequest(
            f"{len(after)} documents of SlurmNames would be in force; a site has at most {DOCUMENTS_MAX}; put"
            " several into one"
        )
    said: dict[tuple[str, str], str] = {}
    for document, spec in sorted(after.items(), key=lambda one: one[0] in fresh):
        for key in _keys(spec):
            other = said.setdefault(key, document)
            if other != document:
                one = fresh.get(document) or fresh[other]
                raise InvalidRequest(
                    f"{one.source}:{one.line}: SlurmNames {document}: the {key[0]} {key[1]} has a meaning in"
                    f" SlurmNames {other} already; take it out of one of them"
                )


def _keys(spec: SlurmNamesSpec) -> Iterator[tuple[str, str]]:
    for option, group in GROUPS.items():
        yield from ((option, name.name) for name in getattr(spec, group))
