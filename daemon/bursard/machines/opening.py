"""Which provider this daemon rents from, and what must be so before it starts.

Why     a machine that is rented and that nobody looks after costs money for ever: a daemon that knows of one
        and was not told how to reach its provider does not start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bursar.errors import InvalidRequest
from bursar.words import plural
from bursar_policies.specs import CloudPoolSpec, Document
from bursard.machines.local import LocalProvider
from bursard.machines.localfile import read_cloud
from bursard.machines.processes import AgentProcesses
from bursard.state import State

NO_FILE = Path()


def open_local(state: State, file: Path, folder: Path, now: Callable[[], int]) -> LocalProvider | None:
    """The cloud on this machine, None without a `file` of it. `folder`: where its machines are kept.

    Raises `InvalidRequest` for a file that is wrong, and without one while machines of it may be there.
    """
    left = [one for one in state.machines.values() if one.provider != LocalProvider.name or file == NO_FILE]
    if left:
        raise InvalidRequest(
            f"local_cloud: {plural(len(left), 'machine')} of provider {left[0].provider}"
            f" ({left[0].name or left[0].id}) may still be there and be paid for; start with --local-cloud"
            " FILE again, so that somebody looks after them"
        )
    if file == NO_FILE:
        return None
    cloud = read_cloud(file)
    if cloud.currency != state.currency:
        raise InvalidRequest(
            f"local_cloud: {file} has prices in {cloud.currency}, and these books are in {state.currency}"
        )
    return LocalProvider(cloud, folder / "machines.json", AgentProcesses(folder), now)


def refuse_pools(documents: Iterable[Document]) -> None:
    """Raise `InvalidRequest` for a pool of a provider that this daemon cannot reach: nobody would rent."""
    for one in documents:
        if isinstance(one.spec, CloudPoolSpec):
            raise InvalidRequest(
                f"{one.source}:{one.line}: CloudPool {one.name}: this daemon rents no machines of provider"
                f" {one.spec.provider}; start bursard with --local-cloud FILE"
            )
