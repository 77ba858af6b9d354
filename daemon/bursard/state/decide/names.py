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
        SlurmNames(name, spec.partitions, spec.qos, spec.accounts)
        for name, spec in sorted(_specs(state).items())
    ]


def check_names(state: State, documents: Sequence[Document]) -> None:
    """Raise `InvalidRequest` where a name would have two meanings, or there would be too many documents."""
    fresh = {one.name: one for one in documents if isinstance(one.spec, SlurmNamesSpec)}
    if not fresh:
        return
    after = _specs(state)
    after |= {one.name: one.spec for one in documents if isinstance(one.spec, SlurmNamesSpec)}
    if len(after) > DOCUMENTS_MAX:
        raise InvalidRequest(
            f"{len(after)} documents of SlurmNames would be in force; a site has at most {DOCUMENTS_MAX}; put"
            " several into one"
        )
    said: dict[tuple[str, str], str] = {}
    # What is in force comes first, so that a fault is told of what is given.
    for document, spec in sorted(after.items(), key=lambda one: one[0] in fresh):
        for key in _keys(spec):
            other = said.setdefault(key, document)
            if other != document:
                one = fresh[document]
                raise InvalidRequest(
                    f"{one.source}:{one.line}: SlurmNames {document}: the {key[0]} {key[1]} has a meaning in"
                    f" SlurmNames {other} already; take it out of one of them"
                )


def _specs(state: State) -> dict[str, SlurmNamesSpec]:
    return {
        name: record.spec
        for (_, name), record in state.policies.items()
        if isinstance(record.spec, SlurmNamesSpec)
    }


def _keys(spec: SlurmNamesSpec) -> Iterator[tuple[str, str]]:
    for option, group in GROUPS.items():
        yield from ((option, name.name) for name in getattr(spec, group))
