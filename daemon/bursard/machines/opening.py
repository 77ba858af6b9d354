"""Which providers this daemon rents from, and what must be so before it starts.

Owns    the line of each provider, and the words about one that cannot be asked.
Why     a machine that is rented and that nobody looks after costs money for ever: a daemon that knows of one
        and cannot ask its provider does not start. A cloud's SDK is large: it is looked for without being
        imported, and imported by the provider itself, in its own thread, at its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from bursar.errors import InvalidRequest
from bursar.words import plural
from bursar_policies.specs import CloudPoolSpec, Document
from bursard.machines.local import LocalProvider
from bursard.machines.localfile import read_cloud
from bursard.machines.processes import AgentProcesses
from bursard.machines.provider import Needs, Provider
from bursard.state import State

NO_FILE = Path()


class Cloud(NamedTuple):
    """A provider whose machines are somewhere else.

    Attributes:
        module: has `open_provider(needs)`. sdk: what it imports, found or not. The extra has its name.
    """

    module: str
    sdk: tuple[str, ...]


CLOUDS: Final[Mapping[str, Cloud]] = {
    "aws": Cloud("bursard.machines.aws", ("boto3",)),
    "azure": Cloud("bursard.machines.azure", ("azure.mgmt.compute", "azure.identity")),
    "gcp": Cloud("bursard.machines.gcp", ("google.cloud.compute_v1",)),
}
"""By name."""


def open_local(state: State, file: Path, folder: Path, now: Callable[[], int]) -> LocalProvider | None:
    """The cloud on this machine, None without a `file` of it. `folder`: where its machines are kept.

    Raises `InvalidRequest` for a file that is wrong, and without one while machines of it may be there.
    """
    left = [one for one in state.machines.values() if one.provider == LocalProvider.name and file == NO_FILE]
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


def open_cloud(name: str, needs: Needs) -> Provider:
    """A provider of machines that are somewhere else. Its SDK is not imported yet.

    Raises `InvalidRequest` with what mends it.
    """
    cloud = CLOUDS.get(name)
    if cloud is None:
        raise InvalidRequest(
            f"this daemon rents no machines of provider {name}; start bursard with --local-cloud FILE"
        )
    if why := _unfounded(name, cloud):
        raise InvalidRequest(why)
    opened: Provider = import_module(cloud.module).open_provider(needs)
    return opened


def needed(state: State) -> list[str]:
    """Providers, `local` aside, of which machines may be there, or a pool is in force."""
    pools = (one.spec.provider for one in state.policies.values() if isinstance(one.spec, CloudPoolSpec))
    records = (one.provider for one in state.machines.values())
    return sorted({*pools, *records} - {LocalProvider.name})


def open_needed(state: State, needs: Callable[[str], Needs]) -> list[Provider]:
    """Those. Raises `InvalidRequest` for one that cannot be asked while machines of it may be there."""
    found = []
    for name in needed(state):
        try:
            found.append(open_cloud(name, needs(name)))
        except InvalidRequest as error:
            left = [one for one in state.machines.values() if one.provider == name]
            if left:
                raise InvalidRequest(
                    f"{plural(len(left), 'machine')} of provider {name} ({left[0].name or left[0].id}) may"
                    f" still be there and be paid for: {error.message}"
                ) from None
    return found


def refuse_pools(documents: Iterable[Document]) -> None:
    """Raise `InvalidRequest` for a pool of a provider that this daemon cannot reach: nobody would rent."""
    for one in documents:
        if not isinstance(one.spec, CloudPoolSpec):
            continue
        provider = one.spec.provider
        cloud = CLOUDS.get(provider)
        why = (
            f"this daemon rents no machines of provider {provider}; start bursard with --local-cloud FILE"
            if cloud is None
            else _unfounded(provider, cloud)
        )
        if why:
            raise InvalidRequest(f"{one.source}:{one.line}: CloudPool {one.name}: {why}")


def _unfounded(name: str, cloud: Cloud) -> str:
    """What its SDK lacks, and what mends that; "" when it is there."""
    missing = [module for module in cloud.sdk if not _found(module)]
    if not missing:
        return ""
    return (
        f"provider {name} needs {' and '.join(missing)}, which bursard's Python has not; install it with"
        f" `pip install 'bursar[daemon,{name}]'` and start bursard again"
    )


def _found(module: str) -> bool:
    """Can a module be imported? `a.b` needs `a`, which is imported to look; namespaces cost nothing."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
