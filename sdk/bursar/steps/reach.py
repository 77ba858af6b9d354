"""Addresses for names of nodes that nothing resolves, where a step takes them for addresses.

Owns    where in a step a name is meant as an address, and what the tasks get for it.
Why     scripts set `MASTER_ADDR` to the first line of `scontrol show hostnames`. Where the site's DNS has the
        names they stay; those of `bursar up` are in none, and a rendezvous on such a name is tried for as
        long as the job may run. The lists themselves keep names: `mpirun` compares host files with them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from bursar.steps.request import Member, Request

Resolves = Callable[[str], bool]
_MASTER = "MASTER_ADDR"
_END = "\0"
_MEANT = r"(?P<option>--?[\w-]*(?:addr|address|ip)(?:=|[\s\0])[\"']?){name}(?![\w.:-])"
_WITH_PORT = r"(?<![\w.@-])(?<![^/]/){name}(?=:\d{{4,5}}(?![\d.]))"
"""`--master_addr NAME` and its kin; NAME:PORT, which is no count of slots."""


def resolves(name: str) -> bool:
    """Has this machine an address for a name? An address is its own."""
    import socket

    try:
        return bool(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return False


def with_addresses(
    request: Request, env: Mapping[str, str], everybody: Sequence[Member], known: Resolves = resolves
) -> Mapping[str, str]:
    """The variables of a step that its tasks can use; its commands are changed in place.

    `MASTER_ADDR`, a word behind an option such as `--master_addr`, and `NAME:PORT`: a node's name there
    becomes its address where it does not resolve and the address does. A command that is changed is said on
    standard error, unless the step is quiet.
    """

    @cache
    def lost(name: str, address: str) -> bool:
        return name != address and not known(name) and known(address)

    for one in everybody:
        words = _with_address(request.argv, one, lost)
        if words != request.argv and not request.quiet:
            sys.stderr.write(
                f"{request.program}: {one.name} does not resolve here; tasks get its address {one.address}\n"
            )
        request.argv = words
        request.programs = {at: _with_address(argv, one, lost) for at, argv in request.programs.items()}
    found = next((one for one in everybody if one.name == env.get(_MASTER)), None)
    return env if found is None or not lost(found.name, found.address) else {**env, _MASTER: found.address}


def _with_address(argv: list[str], one: Member, lost: Callable[[str, str], bool]) -> list[str]:
    """The words with the member's address where its name is meant as one; looked up only where it is."""
    if not any(one.name in word for word in argv):
        return argv
    name, text = re.escape(one.name), _END.join(argv)
    changed = re.sub(_MEANT.format(name=name), lambda match: f"{match['option']}{one.address}", text)
    changed = re.sub(_WITH_PORT.format(name=name), lambda _: one.address, changed)
    return changed.split(_END) if changed != text and lost(one.name, one.address) else argv
