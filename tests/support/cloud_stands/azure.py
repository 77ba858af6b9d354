"""Where the provider `azure` stands: Microsoft's own client, asking an Azure that is none over TLS."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

from fake_azure.cloud import FIREWALL, GROUP, IMAGE, SUBNET, SUBSCRIPTION, Cloud, machine_id
from fake_azure.server import Server
from fake_azure.token import StubCredential

from bursar.clock import SECOND_US, VirtualClock
from bursar_policies.specs import LaunchSetting
from bursard.machines.azure import AzureProvider
from bursard.machines.azure_calls import Calls
from bursard.machines.azure_prices import RetailPrices
from bursard.machines.azure_words import parts_of
from bursard.machines.errors import TABLES
from bursard.machines.provider import Kind, Needs, Place, Rate

PRICES = {
    ("eastus", "Standard_NC4as_T4_v3", "on-demand"): 526_000_000,
    ("eastus", "Standard_NC4as_T4_v3", "spot"): 158_000_000,
    ("eastus", "Standard_NC24ads_A100_v4", "on-demand"): 3_673_000_000,
    ("eastus", "Standard_ND96isr_H100_v5", "on-demand"): 98_320_000_000,
    ("eastus", "Standard_ND96isr_H100_v5", "spot"): 30_000_000_000,
    ("eastus", "Standard_NV6ads_A10_v5", "on-demand"): 454_000_000,
    ("northcentralus", "Standard_D4s_v5", "on-demand"): 192_000_000,
}
"""Nano dollars an hour."""
STATUS = {
    "TooManyRequests": 429,
    "RetryableError": 503,
    "ServerTimeout": 500,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "OperationPreempted": 409,
    "SkuNotAvailable": 409,
    "QuotaExceeded": 409,
    "OperationNotAllowed": 409,
    "AuthorizationFailed": 403,
    "LinkedAuthorizationFailed": 403,
    "RequestDisallowedByPolicy": 403,
    "ReadOnlyDisabledSubscription": 409,
    "AuthenticationFailed": 401,
    "ExpiredAuthenticationToken": 401,
    "InvalidAuthenticationToken": 401,
    "ResourceNotFound": 404,
    "ResourceGroupNotFound": 404,
    "SubscriptionNotFound": 404,
    "ImageNotFound": 404,
}
"""Of an answer with such a code; of others 400."""
OWN = ("Unreachable", "Nonsense", "EndlessList", "NoCredentials", "PreconditionFailed", "Conflict")
"""Codes that Azure never sends as such, or that an order meets only when its machine is there."""
LATE = ("OSProvisioningTimedOut",)
"""Codes that no order is answered with: its machine is there and has failed."""
CODES = {
    Kind.CAPACITY: "ZonalAllocationFailed",
    Kind.QUOTA: "QuotaExceeded",
    Kind.AUTH: "AuthorizationFailed",
    Kind.THROTTLED: "ServiceUnavailable",
}
METHODS = {
    "create": "virtual_machines_create_or_update",
    "terminate": "virtual_machines_delete",
    "list": "virtual_machines_list_all",
}


@cache
def server() -> Server:
    """One for all tests of a process: each puts its own cloud into it."""
    return Server()


class AzureStand:
    """See `Stand`."""

    here = Place("eastus", "eastus-1", "Standard_NC", "Standard_NC4as_T4_v3", "on-demand")
    spot_here = Place("eastus", "eastus-1", "Standard_NC", "Standard_NC4as_T4_v3", "spot")
    launch = (
        LaunchSetting("resource_group", GROUP),
        LaunchSetting("image", IMAGE),
        LaunchSetting("subnet", SUBNET),
        LaunchSetting("security_group", FIREWALL),
        LaunchSetting("ssh_key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"),
    )
    never = f"{GROUP}/bursar-00000000-mach-never"
    codes = tuple(sorted(code for code in TABLES["azure"] if "/" not in code and code not in (*OWN, *LATE)))

    def __init__(self, folder: Path) -> None:
        self.clock, self.server, self.credential = VirtualClock(), server(), StubCredential()
        self.cloud = Cloud(self.clock.now, base=self.server.url)
        self.server.cloud, self.server.raw = self.cloud, None
        self.bodies: list[str] = []
        self.providers: list[AzureProvider] = []
        self.provider = self.again()

    def again(self) -> AzureProvider:
        calls = Calls(SUBSCRIPTION, self.server.url, self.server.ca_file, self.credential)
        needs = Needs(now=self.clock.now, currency="USD", rate=self.rate)
        prices = RetailPrices(needs, self.server.url, self.server.ca_file)
        self.providers.append(AzureProvider(calls, needs, prices))
        return self.providers[-1]

    def rate(self, place: Place) -> Rate | None:
        nanos = PRICES.get((place.region, place.instance_type, place.market))
        return Rate(nanos_per_hour=nanos, currency="USD", as_of=1, source="a book") if nanos else None

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        code = CODES[kind]
        when = "after" if call == "create-lost" else "before"
        self.cloud.fail(METHODS[call.removesuffix("-lost")], STATUS.get(code, 400), code, when=when)
        return nullcontext()

    def say(self, code: str) -> None:
        status = STATUS.get(code, 400 if code in TABLES["azure"] else 500)
        self.cloud.fail(METHODS["create"], status, code)

    def pass_time(self) -> None:
        self.clock.advance(30 * SECOND_US)
        self.cloud.pass_time()

    def take_back(self, provider_id: str) -> None:
        self.cloud.evict(machine_id(*parts_of(provider_id)))

    def told(self) -> str:
        """All rows, of which the service keeps no user data, and all that it has noted."""
        rows = [one.row for one in self.cloud.machines.values()]
        return json.dumps([*rows, *self.cloud.parts.values(), *self.cloud.activities])

    def handed(self, provider_id: str) -> str:
        return self.cloud.machines[machine_id(*parts_of(provider_id)).lower()].handed

    def close(self) -> None:
        for provider in self.providers:
            provider.close()
        assert self.cloud.violations == []
        assert self.credential.asked <= {"https://management.azure.com/.default"}
