"""Where a provider stands while it is tried: its fake, a clock, and how a test makes things happen.

Why     one suite (tests/contract/test_machine_providers.py) says what every provider must do. What a provider
        has to bring for that is a class with these members, and one line in `STANDS`.

Nothing of a stand needs the network, sleeps, or goes by the wall clock: its fake is told the time by `clock`.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Protocol

from bursar.clock import VirtualClock
from bursar_policies.specs import LaunchSetting
from bursard.machines.provider import Kind, Place, Provider

STANDS = {
    "aws": "cloud_stands.aws:AwsStand",
    "azure": "cloud_stands.azure:AzureStand",
    "gcp": "cloud_stands.gcp:GcpStand",
    "local": "cloud_stands.local:LocalStand",
}
"""By name of the provider, its class as MODULE:CLASS; imported only by who asks for it."""


class Stand(Protocol):
    """A provider, its fake, and a clock that both go by. Made anew for each test, with an empty folder."""

    provider: Provider
    clock: VirtualClock
    here: Place
    """Of a machine on demand that can be had."""
    spot_here: Place
    """Of one of the market `spot`."""
    launch: tuple[LaunchSetting, ...]
    """By which machines are made here."""
    never: str
    """A provider id as this provider writes them, of a machine that never was."""
    codes: Collection[str]
    """What of its table of errors this provider says to a `create`."""

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        """The next such call fails so. `call`: create, terminate, list; create-lost: after it was done."""

    def say(self, code: str) -> None:
        """The next `create` is answered with this code of the provider, and makes nothing."""

    def pass_time(self) -> None:
        """Long enough for a machine to boot, or to be gone; less than a minute."""

    def take_back(self, provider_id: str) -> None:
        """The provider takes a spot machine back for itself, without anybody having asked; it is gone after
        `pass_time`.
        """

    def again(self) -> Provider:
        """The same cloud, asked by a daemon that was started again."""

    def told(self) -> str:
        """All that the provider was told but what it hands to machines as their user data."""

    def handed(self, provider_id: str) -> str:
        """What it hands to that machine."""

    def close(self) -> None:
        """End what was started for it."""


def stand_of(name: str, folder: Path) -> Stand:
    """The stand of a provider."""
    module, _, kind = STANDS[name].partition(":")
    stand: Stand = getattr(import_module(module), kind)(folder)
    return stand
