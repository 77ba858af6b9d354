"""What must be right before machines of Azure can be rented: asked, and never tried by renting one.

Why     a permission, an image or a subnet that is missing is found by its name before a job waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bursard.machines import azure_calls
from bursard.machines.azure_calls import Calls
from bursard.machines.provider import Check, CloudError, Place, PoolTerms, setting, unknown

ACTIONS: Final = (
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/disks/delete",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/publicIPAddresses/delete",
)
"""In a pool's resource group. What is read of the subscription is seen by its being read."""


def checked(calls: Calls, pools: Sequence[PoolTerms]) -> list[Check]:
    """The subscription, what its credentials may, and what each pool launches by."""
    try:
        subscription = calls.subscription
        count = len(calls.machines())
    except CloudError as error:
        remedy = (
            "run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET for bursard,"
        )
        return [unknown(error, "Azure", f"{remedy} and AZURE_SUBSCRIPTION_ID")]
    found = [Check("credentials", True, f"subscription {subscription}, {count} machines")]
    for pool in pools:
        for region in pool.wanted.regions:
            found += _region(calls, pool, region)
    return found


def _region(calls: Calls, pool: PoolTerms, region: str) -> list[Check]:
    place = Place(region=region)
    group = setting(pool.launch, "resource_group", place)
    where = f"/resourceGroups/{group}"
    asks = {
        "region": f"/providers/Microsoft.Compute/locations/{region}/usages",
        "resource_group": where,
        **{
            key: setting(pool.launch, key, place) for key in ("image", "subnet", "security_group", "identity")
        },
    }
    found = []
    for key, path in asks.items():
        if not path or (key == "image" and not path.startswith("/subscriptions/")):
            continue  # an image of the marketplace is found when a machine is made
        says = _there(calls, path, key == "region")
        remedy = f"mend launch.{key} of CloudPool {pool.name}" if says else ""
        found.append(Check(f"pool {pool.name}: {key} in {region}", not says, says or "is there", remedy))
    says = "a machine deletes itself then"
    if not setting(pool.launch, "identity", place):
        says = "no launch.identity: nothing ends a machine when bursard is gone"
    return [*found, _granted(calls, pool, where), Check(f"pool {pool.name}: max_lifetime", True, says)]


def _there(calls: Calls, path: str, region: bool) -> str:
    """What is wrong with it; "" when nothing is."""
    try:
        query = {"api-version": azure_calls.COMPUTE}
        found = calls.get(path, query) if region else calls.resource(path)
    except CloudError as error:
        return str(error)
    return "" if found is not None else f"{path} is not there"


def _granted(calls: Calls, pool: PoolTerms, group: str) -> Check:
    name = f"pool {pool.name}: permissions"
    query = {"api-version": azure_calls.PERMISSIONS}
    try:
        rows = list(calls.rows(f"{group}/providers/Microsoft.Authorization/permissions", query))
    except CloudError as error:
        return Check(name, True, f"they could not be looked up: {error}")
    lacking = [one for one in ACTIONS if not any(_allows(row, one) for row in rows)]
    says = f"lacks {', '.join(lacking)}" if lacking else f"all {len(ACTIONS)} that are needed"
    return Check(name, not lacking, says, "grant the role of docs/clouds.md" if lacking else "")


def _allows(row: Mapping[str, Any], action: str) -> bool:
    return _names(row.get("actions"), action) and not _names(row.get("notActions"), action)


def _names(patterns: Any, action: str) -> bool:
    """Does one of these name an action? `*` is any text in them."""
    return any(
        re.fullmatch(".*".join(map(re.escape, str(one).split("*"))), action, re.IGNORECASE)
        for one in patterns or ()
    )
