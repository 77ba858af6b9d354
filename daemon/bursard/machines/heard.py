"""What a provider says, as it is taken: the door of its answers.

Why     providers are clouds behind libraries, and may be somebody's own. Their words go into events that are
        kept for good, and their lists decide over money. What is not of the shape that `Provider` promises is
        said by raising, within the call, so that it counts as an answer that never came (`houses.asked`);
        texts are made such that every file and terminal takes them.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec.structs import replace

from bursard.machines.provider import Instance, InstanceState, Place, plain

ID_MAX: Final = 512
"""Characters of a name that a provider gives a machine; Azure's are the longest, about 300."""
LISTED_MAX: Final = 100_000
"""Machines of one answer."""
_ID: Final = re.compile(rf"[!-~]{{1,{ID_MAX}}}")


def provider_id(said: object) -> str:
    """The name of a machine. Raises `ValueError` when it cannot be one."""
    if not isinstance(said, str) or _ID.fullmatch(said) is None:
        raise ValueError(f"{type(said).__name__} {plain(repr(said)[:80])} is no name of a machine")
    return said


def instances(said: object) -> list[Instance]:
    """The machines of a list. Raises `ValueError`, `TypeError` when it is none."""
    if not isinstance(said, list | tuple):
        raise TypeError(f"{type(said).__name__} is no list of machines")
    if len(said) > LISTED_MAX:
        raise ValueError(f"{len(said)} machines are more than any site has: at most {LISTED_MAX}")
    return [_instance(one) for one in said]


def _instance(one: object) -> Instance:
    if not isinstance(one, Instance) or not isinstance(one.place, Place):
        raise TypeError(f"{type(one).__name__} is no machine")
    if not isinstance(one.state, InstanceState):
        raise TypeError(f"{plain(repr(one.state)[:80])} is no state of a machine")
    provider_id(one.provider_id)
    texts = (one.cluster, one.machine_id, *msgspec.structs.astuple(one.place))
    if not all(isinstance(text, str) and len(text) <= ID_MAX for text in texts):
        raise TypeError(f"a tag or the place of {one.provider_id} is no text, or too long a one")
    for at in (one.created_at, one.billed_from, one.billed_until):
        if type(at) is not int:  # what cannot be so is not believed later (`instants.believed`)
            raise TypeError(f"{plain(repr(at)[:80])} of {one.provider_id} is no instant")
    message = plain(one.message)
    return one if message == one.message else replace(one, message=message)
