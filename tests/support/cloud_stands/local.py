"""Where the provider `local` stands: its cloud is a file, and its processes are numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from msgspec.structs import replace

from bursar.clock import SECOND_US, VirtualClock
from bursar_policies.specs import LaunchSetting
from bursard.machines.errors import TABLES
from bursard.machines.local import TAKE_BACK, Handle, LocalProvider
from bursard.machines.localfile import LocalFault, LocalType, parse_cloud
from bursard.machines.provider import Join, Kind, Place

CLOUD = """
regions: {home: [home-a, home-b]}
boot: 20s
ending: 10s
quotas: {spot: 1}
types:
  gpu.small: {cpus: 4, memory: 8GiB, gpus: "L4:1", prices: {on-demand: 1.20 USD/h, spot: 0.40 USD/h}}
  cpu.large: {cpus: 16, memory: 64GiB, prices: {on-demand: 0.60 USD/h}}
"""


class FakeRuns:
    """Processes that are numbers."""

    def __init__(self) -> None:
        self.alive_ids: dict[str, int] = {}
        self.started: list[str] = []
        self.joins: dict[str, Join] = {}
        self.told: dict[str, tuple[str, int]] = {}

    def start(self, provider_id: str, join: Join, place: Place, kind: LocalType) -> Handle:
        self.started.append(provider_id)
        self.joins[provider_id] = join
        self.alive_ids.setdefault(provider_id, len(self.started))
        return Handle(self.alive_ids[provider_id], 0)

    def notify(self, provider_id: str, said: str, left_us: int) -> None:
        self.told[provider_id] = said, left_us

    def end(self, provider_id: str, handle: Handle | None) -> None:
        self.alive_ids.pop(provider_id, None)

    def alive(self, handle: Handle) -> bool:
        return handle.pid in self.alive_ids.values()


_CODES = {
    Kind.CAPACITY: "NoCapacity",
    Kind.QUOTA: "QuotaExceeded",
    Kind.AUTH: "NotAllowed",
    Kind.THROTTLED: "Throttled",
}


class LocalStand:
    """The provider `local`, with processes that are none."""

    here = Place("home", "home-a", "gpu", "gpu.small", "on-demand")
    spot_here = Place("home", "home-a", "gpu", "gpu.small", "spot")
    launch: tuple[LaunchSetting, ...] = ()
    never = "local-999999"
    codes = tuple(TABLES["local"])

    def __init__(self, folder: Path) -> None:
        self.clock, self.runs, self.file = VirtualClock(), FakeRuns(), folder / "cloud.json"
        self.cloud = parse_cloud(CLOUD, "cloud.yaml")
        self.provider: LocalProvider = self.again()

    def again(self) -> LocalProvider:
        return LocalProvider(self.cloud, self.file, self.runs, self.clock.now)

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        self._break(call, _CODES[kind])
        return nullcontext()

    def say(self, code: str) -> None:
        self._break("create", code)

    def _break(self, call: str, code: str) -> None:
        fault = LocalFault(call=call, code=code, place=Place(), times=1, after_us=0)
        self.provider.cloud = replace(self.cloud, faults=(fault,))

    def pass_time(self) -> None:
        self.clock.advance(30 * SECOND_US)

    def take_back(self, provider_id: str) -> None:
        folder = self.file.parent / provider_id
        folder.mkdir(exist_ok=True)
        (folder / TAKE_BACK).touch()
        self.provider.query([provider_id])

    def told(self) -> str:
        """Its file is its own memory, so it has heard nothing."""
        return ""

    def handed(self, provider_id: str) -> str:
        return self.runs.joins[provider_id].token

    def close(self) -> None:
        """Nothing was started."""
