"""Small readers that every part of a job file shares.

Why     a job file can hold thousands of wrong keys (a data file given by mistake), and looking for
        the nearest name of each would take seconds; and some wrong names are not typing slips but
        the right word of another scheduler, which deserve a better hint than the nearest spelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bursar.model.check import quote
from bursar.yamlfile import Faults, Fields, Node

KEYS_MAX: Final = 60
"""Keys of one mapping with fixed names; the job file itself knows fewer."""


def read_mapping(
    node: Node,
    faults: Faults,
    known: Sequence[str],
    *,
    renamed: Mapping[str, str] | None = None,
    hints: Mapping[str, str] | None = None,
    unbuilt: Sequence[str] = (),
) -> dict[str, Node] | None:
    """The entries of a mapping with fixed keys; None when it is no mapping or hopeless (reported).

    Args:
        node: the mapping.
        faults: takes what is wrong.
        known: the right keys.
        unbuilt: right keys too, which nobody can use yet: not told as known.
        renamed: accepted second names, each with the key it stands for.
        hints: wrong keys whose remedy is known, each with the sentence.

    Returns:
        Known keys only, second names replaced.
    """
    if node.kind == "mapping" and len(node.entries) > KEYS_MAX:
        faults.add(node, f"has {len(node.entries)} keys; at most {KEYS_MAX} can be right here")
        return None
    known, listed = (*known, *unbuilt), known
    for key in [key for key in node.entries if key not in known]:
        if renamed and key in renamed:
            _rename(node, faults, key, renamed[key])
        elif hints and key in hints:
            faults.add_key(node.entries.pop(key), f"unknown key {quote(key)}; {hints[key]}")
    fields = Fields(node, faults, known, listed=listed)
    if node.kind != "mapping":
        return None
    return {key: child for key in known if (child := fields.get(key)) is not None}


def _rename(node: Node, faults: Faults, alias: str, key: str) -> None:
    value = node.entries.pop(alias)
    if key in node.entries:
        faults.add_key(value, f"{alias!r} is another name of {key!r}, which is given too; keep one")
    else:
        node.entries[key] = value
