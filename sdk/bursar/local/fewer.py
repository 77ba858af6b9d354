"""Another number of agents than before: none that has jobs is dropped, and what is dropped leaves the site.

Why     a job whose agent is no longer kept can neither be seen nor stopped, and a node that nobody means to
        have would be missed by `doctor` for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from bursar.client import address
from bursar.errors import BursarError, NotFound, WrongState
from bursar.local.cluster import LocalCluster, connected
from bursar.local.files import Desired
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

LEAVE_S: Final = 10.0
"""How long the agent of a dropped node may take to be gone."""


def dropped(cluster: LocalCluster, desired: Desired) -> list[str]:
    """Agents that were there before and are not wanted any more."""
    wanted = {child.name for child in desired.children}
    return [f"local-{number}" for number in cluster.agents_on_disk() if f"local-{number}" not in wanted]


def refuse_busy(desired: Desired, names: Sequence[str]) -> None:
    """Raises `WrongState` when one of them has jobs, as far as a daemon runs that knows."""
    if not names or not address.probe(desired.socket):
        return
    with connected(desired.server) as client:
        busy = [node for node in client.nodes() if node.facts.name in names and node.jobs]
    if busy:
        found = ", ".join(f"{node.facts.name} has {plural(node.jobs, 'job')}" for node in busy)
        drain = "; ".join(f"bursar node drain {node.facts.name}" for node in busy)
        raise WrongState(
            f"--agents {desired.agents} would leave jobs without their agent: {found};"
            f" let them end first (`{drain}`), or cancel them"
        )


def remove(
    cluster: LocalCluster, desired: Desired, names: Sequence[str], progress: Callable[[str], None]
) -> None:
    """Take the nodes of dropped agents out of the site, as soon as those have ended."""
    if not names:
        return
    stop_at = time.monotonic() + LEAVE_S
    while not cluster.processes().keys().isdisjoint(names) and time.monotonic() < stop_at:
        time.sleep(0.1)
    with connected(desired.server) as client:
        for name in names:
            while why := _why_not_removed(client, name):
                if time.monotonic() > stop_at:
                    progress(f"{name} stays known: {why}")
                    break
                time.sleep(0.1)


def _why_not_removed(client: WireClient, name: str) -> str:
    try:
        client.remove_node(name)
    except NotFound:
        return ""
    except BursarError as error:
        return error.message
    return ""
