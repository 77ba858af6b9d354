"""The cloud of a `bursar up`: a file of one's own, or the shipped one that anybody can try.

Owns    where it stands, what may be rented of it without a word more, and how its machines end when no daemon
        is left to end them.
Why     what clouds do (a spot machine that is taken back, a zone that has none left) is best seen once before
        it costs anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.errors import InvalidRequest
from bursar.local import processes
from bursar.local.child import STOP_S
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

DEMO: Final = "demo"
GIVE_BACK_S: Final = 20.0
"""So long `down` waits until machines are listed as gone; their processes end in any case."""
SHOWN: Final = 10
_FLAG: Final = "--local-cloud"


def checked(cloud: str) -> str:
    """`demo`, or a file as an absolute path. Raises `InvalidRequest`."""
    if cloud == DEMO:
        return cloud
    path = Path(cloud).resolve()
    if not path.is_file():
        raise InvalidRequest(f"--cloud: {cloud} is neither {DEMO} nor the file of a cloud")
    return str(path)


def file_of(cloud: str) -> Path:
    """The file of a cloud."""
    return Path(__file__).with_name("demo-cloud.yaml") if cloud == DEMO else Path(cloud)


def flag_of(command: Sequence[str]) -> str:
    """The cloud that a daemon's command line names; empty for none."""
    words = list(command)
    return words[words.index(_FLAG) + 1] if _FLAG in words[:-1] else ""


def allow(client: WireClient) -> None:
    """What the demo may rent, unless somebody has said already what may be rented."""
    if not client.policies(kind="CloudPool"):
        pool = Path(__file__).with_name("demo-pool.yaml")
        client.apply_policies([(pool.name, pool.read_text(encoding="utf-8"))])


def give_back(client: WireClient, reason: str, progress: Callable[[str], None]) -> None:
    """End every machine that is rented, and wait until they are gone; those that are not then are named.

    What waits rents no other meanwhile: nobody would be there to give that one back.
    """
    client.end_machine("", reason=reason, close=True)
    machines = [one for one in client.machines().machines if one.name]
    if not machines:
        return
    progress(f"giving {plural(len(machines), 'rented machine')} back")
    for one in machines:
        if one.state != "ending":
            client.end_machine(one.name, reason=reason)
    names = {one.name for one in machines}
    stop_at = time.monotonic() + GIVE_BACK_S
    while left := [one for one in client.machines().machines if one.name in names]:
        if time.monotonic() > stop_at:
            told = ", ".join(f"{one.name} ({one.provider} {one.provider_id})" for one in left[:SHOWN])
            progress(
                f"{plural(len(left), 'machine')} may be there still, and cost: {told};"
                " `bursar up` goes on ending what is left, or end it at its provider"
            )
            return
        time.sleep(0.2)


def folders(directory: Path) -> list[Path]:
    """The state directories of agents on rented machines."""
    return sorted((directory / "daemon" / "machines").glob("*/"))


def end_agents(directory: Path) -> None:
    """The agents of machines that nobody has given back; what they run is ended as that of others."""
    if running := [processes.running_with(folder) for folder in folders(directory)]:
        processes.end_all(running, STOP_S)
