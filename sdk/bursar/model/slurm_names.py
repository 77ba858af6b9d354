"""What names in people's scripts stand for at a site: `--partition=gpu`, `--qos=long`, `--account=p@v100`.

Why     such a name says where, when and on whose account something runs, and means it at another site. What
        it means here is the site's to say, once, in a policy document, and never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

import msgspec

GROUPS: Final = {"partition": "partitions", "qos": "qos", "account": "accounts"}
"""Options of scripts whose names can be given a meaning, each with its key in the document."""


class SlurmName(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one name, or all that fit a pattern, stand for; what it does not say is left as it is.

    Attributes:
        name: as scripts write it; with `*` for any characters.
        project: pays, in place of an account's own word; lower case.
        constraints: (property of nodes, pattern) pairs, sorted.
        gpu_type: of the GPUs that a script asks for without their type; upper case.
        priority: 0 to 100, None where it says nothing.
        time_limit_us: the longest that a job may ask for, and what one gets that names no time; 0: none.
        spot_policy: `auto`, `spot` or `on-demand`; empty where it says nothing.
    """

    name: str
    project: str = ""
    constraints: tuple[tuple[str, str], ...] = ()
    gpu_type: str = ""
    priority: int | None = None
    time_limit_us: int = 0
    spot_policy: str = ""

    @property
    def places_only(self) -> bool:
        """Does it say one property of nodes, and nothing else?"""
        return self == SlurmName(self.name, constraints=self.constraints) and len(self.constraints) == 1


class SlurmNames(msgspec.Struct, frozen=True):
    """The names that one document gives a meaning. `document`: its name."""

    document: str
    partitions: tuple[SlurmName, ...] = ()
    qos: tuple[SlurmName, ...] = ()
    accounts: tuple[SlurmName, ...] = ()

    def of(self, option: str) -> tuple[SlurmName, ...]:
        """The names of one option of `GROUPS`."""
        found: tuple[SlurmName, ...] = getattr(self, GROUPS[option])
        return found


def find(documents: Iterable[SlurmNames], option: str, text: str) -> tuple[SlurmName, str] | None:
    """What a name stands for, and the document that says so; None where none does.

    The name itself comes before any pattern, and of patterns the one with the most characters of its own.
    """
    fitting = [
        (name, names.document)
        for names in documents
        for name in names.of(option)
        if name.name == text or ("*" in name.name and fnmatchcase(text, name.name))
    ]
    if not fitting:
        return None
    return max(fitting, key=lambda one: (one[0].name == text, len(one[0].name.replace("*", "")), one[0].name))


def known(documents: Iterable[SlurmNames], option: str) -> Iterator[str]:
    """Every name of an option that has a meaning."""
    return (name.name for names in documents for name in names.of(option))
