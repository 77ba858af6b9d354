"""Azure's words: what a machine is called there, how it is asked for, and what is read of it.

Owns    names, tags and the body of a request; virtual machines, their states and their parts as Azure writes
        them; what a size is.
Why     none of it needs Microsoft's library, so what is asked for can be looked at without it.

Azure has no token for an order: the name of the virtual machine is one. Network card, address and disk are
made with it, go with it, and are called after it, so that what is left behind is found by its name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from bursar.clock import SECOND_US
from bursard.machines.errors import family_of
from bursard.machines.provider import Instance, InstanceState, MachineOffer, Order, Place, Rate, setting

CLUSTER_TAG: Final = "bursar-cluster"
MACHINE_TAG: Final = "bursar-machine"
USER: Final = "bursar"
NETWORK_VERSION: Final = "2022-11-01"
KERNEL_PERMILLE: Final = 75
"""What a machine's own system takes of its memory: so much of a size's memory is not offered to jobs."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_POWER: Final = "powerstate/"
_ON: Final = ("starting", "running", "stopping", "stopped")
"""In these a machine holds its host and is paid for: one that only switched itself off is."""


class Gpus(NamedTuple):
    """What a size has of them."""

    type: str
    number: int
    memory_gb: int


_SIZES: Final = (
    (r"Standard_NC(4|8|16)as_T4_v3", "T4", 1, 16),
    (r"Standard_NC64as_T4_v3", "T4", 4, 16),
    (r"Standard_NC12s_v3", "V100", 2, 16),
    (r"Standard_NC6s_v3", "V100", 1, 16),
    (r"Standard_NC24r?s_v3", "V100", 4, 16),
    (r"Standard_ND40rs_v2", "V100", 8, 32),
    (r"Standard_NC24ads_A100_v4", "A100", 1, 80),
    (r"Standard_NC48ads_A100_v4", "A100", 2, 80),
    (r"Standard_NC96ads_A100_v4", "A100", 4, 80),
    (r"Standard_ND96asr_v4", "A100", 8, 40),
    (r"Standard_ND96amsr_A100_v4", "A100", 8, 80),
    (r"Standard_NC40ads_H100_v5", "H100", 1, 94),
    (r"Standard_NC80adis_H100_v5", "H100", 2, 94),
    (r"Standard_NCC40ads_H100_v5", "H100", 1, 94),
    (r"Standard_ND96isr?_H100_v5", "H100", 8, 80),
    (r"Standard_ND96isr_H200_v5", "H200", 8, 141),
    (r"Standard_NV36ads_A10_v5", "A10", 1, 24),
    (r"Standard_NV72ads_A10_v5", "A10", 2, 24),
    (r"Standard_ND96isr_MI300X_v5", "MI300X", 8, 192),
)
"""Sizes with GPUs, as the catalogue of prices has them: Azure says how many there are, not what they are."""


def gpus_of(size: str) -> Gpus | None:
    """Those of a size; None where nothing here knows."""
    for pattern, kind, count, memory_gb in _SIZES:
        if re.fullmatch(pattern, size):
            return Gpus(kind, count, memory_gb)
    return None


def prefix_of(cluster: str) -> str:
    """How the names of all that is a cluster's begin."""
    return f"bursar-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}-"


def name_of(cluster: str, machine_id: str) -> str:
    """What a machine is called."""
    return prefix_of(cluster) + machine_id.replace("_", "-")


def machine_of(cluster: str, name: str) -> str:
    """The machine that a name begins with; "" of what is none of this cluster's."""
    match = re.match(re.escape(prefix_of(cluster)) + r"([a-z]+)-([A-Za-z0-9_]+)", name)
    return f"{match[1]}_{match[2]}" if match else ""


def provider_id(group: str, name: str) -> str:
    """By which a machine is known."""
    return f"{group}/{name}"


def parts_of(key: str) -> tuple[str, str]:
    """Resource group and name; both "" of what is no id of a virtual machine."""
    group, _, name = key.partition("/")
    return (group, name) if group and name and "/" not in name else ("", "")


def group_of(resource_id: str) -> str:
    """The resource group of an id, as /subscriptions/S/resourceGroups/G is the beginning of one."""
    match = re.search(r"/resourcegroups/([^/]+)", resource_id, re.IGNORECASE)
    return match[1] if match else ""


def zone_of(region: str, number: str) -> str:
    """What a zone is called here: `eastus-1`; the region itself where a machine is in none."""
    return f"{region}-{number}" if number else region


def instant(text: object) -> int:
    """Microseconds of a time as Azure writes it, with up to seven places; 0 of none. Raises `ValueError`."""
    if not isinstance(text, str) or not text:
        return 0
    shorter = re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00"))
    found = datetime.fromisoformat(shorter)
    return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def body_of(order: Order, script: str) -> dict[str, Any]:
    """What is asked for, in the words of the wire."""
    place, name = order.place, name_of(order.cluster, order.machine_id)

    def said(key: str, otherwise: str = "") -> str:
        return setting(order.launch, key, place) or otherwise

    tags = {CLUSTER_TAG: order.cluster, MACHINE_TAG: order.machine_id}
    disk: dict[str, Any] = {
        "name": f"{name}-os",
        "createOption": "FromImage",
        "deleteOption": "Delete",
        "managedDisk": {"storageAccountType": said("disk_type", "StandardSSD_LRS")},
    }
    if size := said("disk"):
        disk["diskSizeGB"] = int(size.removesuffix("GiB"))
    key = {"path": f"/home/{USER}/.ssh/authorized_keys", "keyData": said("ssh_key")}
    properties: dict[str, Any] = {
        "hardwareProfile": {"vmSize": place.instance_type},
        "storageProfile": {"imageReference": image_of(said("image")), "osDisk": disk},
        "osProfile": {
            "computerName": name,
            "adminUsername": USER,
            "customData": base64.b64encode(script.encode()).decode(),
            "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
        },
        "networkProfile": {
            "networkApiVersion": NETWORK_VERSION,
            "networkInterfaceConfigurations": [_card(name, said, tags)],
        },
    }
    if place.market == "spot":
        # Up to the price on demand: it is taken back for want of room alone.
        properties |= {
            "priority": "Spot",
            "evictionPolicy": "Delete",
            "billingProfile": {"maxPrice": -1},
        }
    body: dict[str, Any] = {"location": place.region, "tags": tags, "properties": properties}
    number = place.zone.removeprefix(place.region).lstrip("-")
    if number:
        body["zones"] = [number]
    if identity := said("identity"):
        body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}
    return body


def with_own_end(script: str, order: Order, subscription: str, identity: str) -> str:
    """A script by which a machine also deletes itself when its time is over, whoever has forgotten it.

    One that only switches itself off is still paid for; so it asks its metadata service for a token of its
    identity, and Azure to delete it.
    """
    minutes = max(order.lifetime_us // (60 * SECOND_US), 1)
    group = setting(order.launch, "resource_group", order.place)
    home = f"/subscriptions/{subscription}/resourceGroups/{group}/providers"
    own = f"{home}/Microsoft.Compute/virtualMachines/{name_of(order.cluster, order.machine_id)}"
    asked = f"api-version=2018-02-01&resource=https://management.azure.com/&msi_res_id={identity}"
    token = f"http://169.254.169.254/metadata/identity/oauth2/token?{asked}"
    lines = [
        "cat >/run/bursar-end <<'BURSAR_OWN_END'",
        f"answer=$(curl -s --retry 9 -H Metadata:true '{token}')",
        """token=$(printf '%s' "$answer" | sed 's/.*"access_token" *: *"\\([^"]*\\)".*/\\1/')""",
        'curl -s --retry 9 -X DELETE -H "Authorization: Bearer $token" \\',
        f"  'https://management.azure.com{own}?api-version=2024-07-01&forceDeletion=true'",
        "BURSAR_OWN_END",
        f"systemd-run --unit=bursar-end --on-active={minutes}min sh /run/bursar-end || true",
    ]
    first, _, rest = script.partition("\n")
    return "\n".join([first, *lines, rest])


def _card(name: str, said: Any, tags: Mapping[str, str]) -> dict[str, Any]:
    """Its network card, which goes with it, as does its address."""
    address: dict[str, Any] = {"primary": True, "subnet": {"id": said("subnet")}}
    if said("external_ip", "ephemeral") == "ephemeral":
        address["publicIPAddressConfiguration"] = {
            "name": f"{name}-ip",
            "sku": {"name": "Standard"},
            "tags": dict(tags),
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
        }
    card: dict[str, Any] = {
        "primary": True,
        "deleteOption": "Delete",
        "ipConfigurations": [{"name": f"{name}-ip", "properties": address}],
    }
    if group := said("security_group"):
        card["networkSecurityGroup"] = {"id": group}
    return {"name": f"{name}-nic", "tags": dict(tags), "properties": card}


def image_of(text: str) -> dict[str, str]:
    """An image by its id, or by PUBLISHER:OFFER:SKU:VERSION."""
    parts = text.split(":")
    if len(parts) == 4:
        return dict(zip(("publisher", "offer", "sku", "version"), parts, strict=True))
    if "/communityGalleries/" in text:
        return {"communityGalleryImageId": text}
    return {"id": text}


# --- what is read


def statuses_of(view: Any) -> tuple[str, str, str]:
    """Of an instance view: power (`running`), and code and message of what its making failed with."""
    power, code, said = "", "", ""
    for one in (view or {}).get("statuses") or ():
        word = str(one.get("code", ""))
        if word.lower().startswith(_POWER):
            power = word[len(_POWER) :].lower()
        elif word.lower().startswith("provisioningstate/failed"):
            code, said = word.partition("/")[2].partition("/")[2], str(one.get("message", ""))
    return power, code, said


def is_ours(row: Mapping[str, Any], cluster: str) -> bool:
    """Does a row of a list have a cluster's tag? One with a name of ours and tags that cannot be read is an
    error: taken for a stranger's, it would be paid for and looked after by nobody.
    """
    tags = row.get("tags") or {}
    if not isinstance(tags, dict) and not str(row.get("name", "")).lower().startswith(prefix_of(cluster)):
        return False
    return bool(tags.get(CLUSTER_TAG) == cluster)


def instance_of(row: Mapping[str, Any], view: Any) -> Instance:
    """A virtual machine as it was listed, with its instance view or without."""
    properties, tags = row.get("properties") or {}, row.get("tags") or {}
    power, code, said = statuses_of(view)
    made, created_at = str(properties.get("provisioningState", "")), instant(properties.get("timeCreated"))
    size = str((properties.get("hardwareProfile") or {}).get("vmSize", ""))
    region = str(row["location"])
    state, message = _state(made, power), ""
    if state is InstanceState.FAILED:
        message = f"{code or 'Failed'}: {said}" if said else (code or "its making failed")
    elif state is InstanceState.ENDING and made != "Deleting":
        message = "it was stopped, or has switched itself off"
    return Instance(
        provider_id=provider_id(group_of(str(row["id"])), str(row["name"])),
        cluster=str(tags.get(CLUSTER_TAG, "")),
        machine_id=str(tags.get(MACHINE_TAG, "")),
        place=Place(
            region=region,
            zone=zone_of(region, next(iter(row.get("zones") or ()), "")),
            family=family_of(size),
            instance_type=size,
            market="spot" if properties.get("priority") in ("Spot", "Low") else "on-demand",
        ),
        state=state,
        created_at=created_at,
        billed_from=created_at if power in _ON or (made == "Succeeded" and not power) else 0,
        message=message,
    )


def _state(made: str, power: str) -> InstanceState:
    if made == "Deleting":
        return InstanceState.ENDING
    if made == "Failed":
        return InstanceState.FAILED
    if power in ("stopping", "stopped", "deallocating", "deallocated"):
        return InstanceState.ENDING
    if made in ("Creating", ""):
        return InstanceState.PENDING
    return InstanceState.RUNNING


class Past(NamedTuple):
    """What the log of activities says of a machine that is gone."""

    made_at: int
    gone_at: int
    interrupted: bool

    def instance(self, key: str, cluster: str) -> Instance:
        """It, as one that is gone."""
        return Instance(
            provider_id=key,
            cluster=cluster,
            machine_id=machine_of(cluster, parts_of(key)[1]),
            place=Place(),
            state=InstanceState.GONE,
            created_at=self.made_at,
            billed_from=self.made_at,
            billed_until=self.gone_at,
            interrupted=self.interrupted,
            message="it was taken back" if self.interrupted else "",
        )


_MACHINE: Final = re.compile(
    r".*/resourcegroups/([^/]+)/providers/microsoft\.compute/virtualmachines/([^/]+)$", re.IGNORECASE
)


def pasts_of(rows: list[Mapping[str, Any]]) -> dict[tuple[str, str], Past]:
    """Of the log's rows, by resource group and name in lower case: machines whose end it tells."""
    found: dict[tuple[str, str], Past] = {}
    for row in sorted(rows, key=lambda row: str(row.get("eventTimestamp", ""))):
        match = _MACHINE.match(str(row.get("resourceId", "")))
        operation = str((row.get("operationName") or {}).get("value", "")).lower()
        status = str((row.get("status") or {}).get("value", "")).lower()
        if match is None:
            continue
        key, at = (match[1].lower(), match[2].lower()), instant(row.get("eventTimestamp"))
        past = found.get(key, Past(0, 0, False))
        if operation.endswith("/write") and not past.made_at:
            past = past._replace(made_at=at)
        elif "evict" in operation:
            past = past._replace(gone_at=at, interrupted=True)
        elif operation.endswith("/delete") and status == "succeeded":
            past = past._replace(gone_at=at)
        found[key] = past
    return {key: past for key, past in found.items() if past.gone_at}


# --- what could be had


def capabilities_of(sku: Mapping[str, Any]) -> dict[str, str]:
    """Of a size, by name: `vCPUs`, `MemoryGB`, `GPUs`, `LowPriorityCapable` and more."""
    return {str(one.get("name")): str(one.get("value")) for one in sku.get("capabilities") or ()}


def zones_of(sku: Mapping[str, Any], region: str) -> list[str]:
    """Where this subscription may have a size in a region, as zones are called here; the region itself where
    it has none. Empty: nowhere.
    """
    for one in sku.get("restrictions") or ():
        if one.get("type") == "Location":
            return []
    closed = {
        zone
        for one in sku.get("restrictions") or ()
        if one.get("type") == "Zone"
        for zone in (one.get("restrictionInfo") or {}).get("zones") or ()
    }
    found = [one for one in sku.get("locationInfo") or () if str(one.get("location", "")).lower() == region]
    numbers = [zone for one in found for zone in one.get("zones") or ()]
    if not numbers:
        return [region] if found else []
    return [zone_of(region, number) for number in sorted(numbers) if number not in closed]


def offer_of(sku: Mapping[str, Any], place: Place, rate: Rate) -> MachineOffer | None:
    """A size at a price; None where it has GPUs that nothing here knows, or another architecture."""
    has, gpus = capabilities_of(sku), gpus_of(place.instance_type)
    counted = int(float(has.get("GPUs", "0")))
    cpus = int(has.get("vCPUsAvailable") or has.get("vCPUs") or 0)
    if has.get("CpuArchitectureType", "x64") != "x64" or not cpus or (counted and gpus is None):
        return None
    whole, _, part = has.get("MemoryGB", "0").partition(".")
    memory_bytes = (int(whole) << 30) + ((int(part) << 30) // 10 ** len(part) if part else 0)
    return MachineOffer(
        place=place,
        cpu_milli=cpus * 1000,
        memory_bytes=memory_bytes * (1000 - KERNEL_PERMILLE) // 1000,
        gpu_type=gpus.type if gpus else "",
        gpu_count=gpus.number if gpus else 0,
        gpu_memory_bytes=gpus.memory_gb * 10**9 if gpus else 0,
        rate_nanos_per_hour=rate.nanos_per_hour,
        currency=rate.currency,
        as_of=rate.as_of,
        source=rate.source,
        boot_us=(600 if gpus else 240) * SECOND_US,
    )
