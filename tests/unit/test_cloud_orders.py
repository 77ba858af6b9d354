"""What clouds are asked for: with all that a pool can say of its machines, and with each thing left out.

Why     a body of forty values is believed by a provider as it stands: one that moved makes a machine that
        lives on, is reached from outside or has no disk of its own. What is asked stands in
        tests/golden/cloud_orders.txt; a change of it is one that a review sees. Written anew by
        `BURSAR_GOLDEN=write pytest -n0 tests/unit/test_cloud_orders.py`, and read before it is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bursar.clock import HOUR_US
from bursar_policies.specs import LaunchSetting
from bursard.machines import azure_words, gcp_words, userdata
from bursard.machines.provider import Join, Order, Place

GOLDEN = Path(__file__).parents[1] / "golden/cloud_orders.txt"
AZURE = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/g/providers"
COMMON = {
    "server": "grpcs://bursar.example:7443", "ca_file": "/etc/bursar/ca.pem",
    "bootstrap": "#!/bin/sh\ntrue\n", "disk": "200GiB",
}  # fmt: skip
LAUNCH: dict[str, dict[str, str]] = {
    "gcp": COMMON | {
        "image": "projects/p/global/images/family/f", "subnet": "projects/p/regions/r/subnetworks/s",
        "service_account": "a@p.iam", "network_tags": "a,b", "external_ip": "none", "disk_type": "pd-ssd",
    },
    "azure": COMMON | {
        "resource_group": "gpus", "image": "Canonical:ubuntu:server:latest",
        "subnet": f"{AZURE}/Microsoft.Network/virtualNetworks/v/subnets/s",
        "ssh_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "external_ip": "none", "disk_type": "Premium_LRS",
        "security_group": f"{AZURE}/Microsoft.Network/networkSecurityGroups/s",
        "identity": f"{AZURE}/Microsoft.ManagedIdentity/userAssignedIdentities/i",
    },
}  # fmt: skip
PLACES = {
    "gcp": Place("us-central1", "us-central1-a", "a3", "a3-highgpu-8g", "spot"),
    "azure": Place("eastus", "eastus-2", "NDv5", "Standard_ND96isr_H100_v5", "spot"),
}


def order(provider: str, **changes: Any) -> Order:
    settings = LAUNCH[provider] | changes.pop("launch", {})
    given: dict[str, Any] = {
        "machine_id": "mach_0001", "cluster": "cluster_0002", "place": PLACES[provider],
        "join": Join(server="unix:///s", name="n-1", pool="rented", token="once"), "lifetime_us": 2 * HOUR_US,
        "launch": tuple(LaunchSetting(key, text) for key, text in settings.items() if text is not None),
    }  # fmt: skip
    return Order(**(given | changes))


def bodies(provider: str) -> dict[str, Callable[[Order], Any]]:
    def body(asked: Order, gpus: bool = True) -> Any:
        if provider == "azure":
            return azure_words.body_of(asked, "the script")
        return gcp_words.body_of(asked, gpus, "the script")

    made: dict[str, Callable[[Order], Any]] = {"body": body}
    made["script"] = lambda asked: userdata.script(asked, provider, off_is_gone=provider != "azure")
    if provider == "gcp":
        made["body without GPUs"] = lambda asked: body(asked, False)
    return made


def orders(provider: str) -> Iterator[tuple[str, Order]]:
    place = PLACES[provider]
    yield "all", order(provider)
    yield "on demand", order(provider, place=replace(place, market="on-demand"))
    yield "short", order(provider, lifetime_us=1)
    for key in LAUNCH[provider]:
        yield f"without {key}", order(provider, launch={key: None})
    yield "reached from outside", order(provider, launch={"external_ip": "ephemeral"})


def lines(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from lines(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for at, part in enumerate(value):
            yield from lines(part, f"{path}[{at}]")
    else:
        yield f"{path}: {json.dumps(value, default=str)}"


def everything() -> Iterator[str]:
    for provider in LAUNCH:
        for what, ask in bodies(provider).items():
            base: list[str] = []
            for name, asked in orders(provider):
                found = list(lines(ask(asked)))
                yield f"--- {provider} {what}: {name}"
                yield from [f"- {line}" for line in base if line not in found] if base else ()
                yield from [f"+ {line}" for line in found if line not in base] if base else found
                base = base or found


def test_each_order_asks_for_what_it_asked_for() -> None:
    found = "\n".join(everything()) + "\n"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text(found)
    assert found.splitlines() == GOLDEN.read_text().splitlines(), "see the head of this file"


@pytest.mark.parametrize("provider", LAUNCH)
def test_no_order_tells_what_its_agent_enrols_with_anywhere_but_in_its_script(provider: str) -> None:
    assert "once" not in json.dumps(bodies(provider)["body"](order(provider)), default=str)


@pytest.mark.parametrize("provider", LAUNCH)
def test_an_address_of_its_own_is_the_default_and_may_be_said(provider: str) -> None:
    body = bodies(provider)["body"]
    unsaid, said = (body(order(provider, launch={"external_ip": text})) for text in (None, "ephemeral"))
    assert unsaid == said != body(order(provider))
