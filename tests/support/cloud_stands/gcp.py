"""Where the provider `gcp` stands: Google's own client, asking a Compute Engine that is none over HTTP."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

from fake_gcp.cloud import Cloud
from fake_gcp.server import Server
from fake_gcp.token import StubCredentials

from bursar.clock import SECOND_US, VirtualClock
from bursar_policies.specs import LaunchSetting
from bursard.machines.errors import TABLES
from bursard.machines.gcp import GcpProvider
from bursard.machines.gcp_calls import Calls
from bursard.machines.gcp_words import parts_of
from bursard.machines.provider import Kind, Needs, Place, Rate

PRICES = {
    ("us-central1", "g2-standard-8", "on-demand"): 850_000_000,
    ("us-central1", "g2-standard-8", "spot"): 340_000_000,
    ("europe-west4", "a2-highgpu-1g", "spot"): 1_100_000_000,
}
"""Nano dollars an hour."""
IMAGE = "projects/research-1/global/images/family/bursar-node"
LATE = "error of an operation"
STATUS = {
    "quotaExceeded": 403,
    "rateLimitExceeded": 403,
    "userRateLimitExceeded": 403,
    "backendError": 503,
    "internalError": 500,
    "alreadyExists": 409,
    "forbidden": 403,
    "authError": 401,
    "accessNotConfigured": 403,
    "notFound": 404,
    "invalid": 400,
    "badRequest": 400,
    "resourceNotReady": 400,
    "insufficientCapacity": 503,
}
"""Of an answer with such a reason. Other codes are those of operations."""
OWN = ("Unreachable", "Nonsense", "EndlessList", "NoCredentials", "GPUS_ALL_REGIONS", "alreadyExists")
"""Codes that Google never sends as such, or that an order meets only when its machine is there."""
CODES = {
    Kind.CAPACITY: "ZONE_RESOURCE_POOL_EXHAUSTED",
    Kind.QUOTA: "quotaExceeded",
    Kind.AUTH: "forbidden",
    Kind.THROTTLED: "backendError",
}
METHODS = {
    "create": "instances.insert",
    "terminate": "instances.delete",
    "list": "instances.aggregatedList",
}


@cache
def server() -> Server:
    """One for all tests of a process: each puts its own cloud into it."""
    return Server()


class GcpStand:
    """See `Stand`."""

    here = Place("us-central1", "us-central1-a", "g2", "g2-standard-8", "on-demand")
    spot_here = Place("us-central1", "us-central1-a", "g2", "g2-standard-8", "spot")
    launch = (LaunchSetting("image", IMAGE), LaunchSetting("subnet", "default"))
    never = "us-central1-a/bursar-00000000-mach-never"
    codes = tuple(sorted(code for code in TABLES["gcp"] if "/" not in code and code not in OWN))

    def __init__(self, folder: Path) -> None:
        self.clock, self.server = VirtualClock(), server()
        self.cloud = Cloud(self.clock.now, base=self.server.url)
        self.server.cloud, self.server.raw = self.cloud, None
        self.providers: list[GcpProvider] = []
        self.provider = self.again()

    def again(self) -> GcpProvider:
        calls = Calls(self.cloud.project, self.server.url, StubCredentials())
        needs = Needs(now=self.clock.now, currency="USD", rate=self.rate)
        self.providers.append(GcpProvider(calls, needs))
        return self.providers[-1]

    def rate(self, place: Place) -> Rate | None:
        nanos = PRICES.get((place.region, place.instance_type, place.market))
        return Rate(nanos_per_hour=nanos, currency="USD", as_of=1, source="a book") if nanos else None

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        method = METHODS[call.removesuffix("-lost")]
        self._break(method, CODES[kind], "after" if call == "create-lost" else "before")
        return nullcontext()

    def say(self, code: str) -> None:
        self._break(METHODS["create"], code, "before")

    def _break(self, method: str, code: str, when: str) -> None:
        if code in STATUS or code not in TABLES["gcp"]:
            status = STATUS.get(code, 500)
            # Google's library asks for a new token and tries twice more when the service does not know it.
            self.cloud.fail(method, status, code, when=when, times=3 if status == 401 else 1)
        else:
            self.cloud.fail(method, 200, code, f"{code} of {LATE}", when="at once")

    def pass_time(self) -> None:
        self.clock.advance(30 * SECOND_US)
        self.cloud.pass_time()

    def take_back(self, provider_id: str) -> None:
        self.cloud.preempt(*parts_of(provider_id))

    def told(self) -> str:
        """All rows but their metadata, and all operations."""
        rows = [{**row, "metadata": None} for row in self.cloud.instances.values()]
        return json.dumps([*rows, *(one.row for one in self.cloud.operations)])

    def handed(self, provider_id: str) -> str:
        return json.dumps(self.cloud.instances[parts_of(provider_id)]["metadata"])

    def close(self) -> None:
        for provider in self.providers:
            provider.close()
        assert self.cloud.violations == []
