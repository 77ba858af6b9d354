"""Google Compute Engine's words: what a machine is called there, how it is asked for, and what is read of it.

Owns    names, labels and the body of a request; instances, operations and instants as Google writes them.
Why     none of it needs Google's library, so what is asked for can be looked at without it.

Google remembers nothing of an instance that is gone; its operations do, for two weeks. So the name of an
instance says whose it is: `bursar-`, eight digits of the cluster, and the machine's id.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from bursar.clock import SECOND_US
from bursard.machines.provider import Instance, InstanceState, MachineOffer, Order, Place, Rate, setting

OURS: Final = uuid.UUID("6f0c7d1e-5b6e-5a55-9f0a-0d1c2b3a4958")
"""Of which the tokens of requests are derived."""
LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
CLUSTER_LABEL: Final = "bursar-cluster"
MACHINE_LABEL: Final = "bursar-machine"
LIFETIME_US: Final = (60 * SECOND_US, 120 * 86_400 * SECOND_US)
"""What Google takes as the longest life of an instance."""
GPUS: Final[Mapping[str, tuple[str, int]]] = {
    "nvidia-tesla-a100": ("A100", 40),
    "nvidia-a100-80gb": ("A100", 80),
    "nvidia-h100-80gb": ("H100", 80),
    "nvidia-h100-mega-80gb": ("H100", 80),
    "nvidia-h200-141gb": ("H200", 141),
    "nvidia-b200": ("B200", 180),
    "nvidia-gb200": ("GB200", 186),
    "nvidia-l4": ("L4", 24),
    "nvidia-rtx-pro-6000": ("RTXPRO6000", 96),
}
"""Types of accelerators that machine types have built in, as the catalogue of prices calls them, and GB."""
QUOTAS: Final[Mapping[str, str]] = {
    "NVIDIA_A100_GPUS": "a2",
    "NVIDIA_A100_80GB_GPUS": "a2",
    "NVIDIA_H100_GPUS": "a3",
    "NVIDIA_H100_MEGA_GPUS": "a3",
    "NVIDIA_H200_GPUS": "a3",
    "NVIDIA_B200_GPUS": "a4",
    "NVIDIA_L4_GPUS": "g2",
    "CPUS": "",
}
"""Metrics of a region, and the family of types that each is of."""
GPU_FAMILIES: Final = ("a2", "a3", "a4", "a4x", "g2", "g4")
"""Whose machines have GPUs, and so cannot move to another host while they run."""
MARKETS: Final = {"SPOT": "spot", "STANDARD": "on-demand"}
_MODELS: Final = {market: model for model, market in MARKETS.items()}
_STATES: Final = {
    "PENDING": InstanceState.PENDING,
    "PROVISIONING": InstanceState.PENDING,
    "STAGING": InstanceState.PENDING,
    "RUNNING": InstanceState.RUNNING,
    "REPAIRING": InstanceState.RUNNING,
}
"""All else ends, or was stopped and is to be ended: it is there for its disk, and that is paid for."""
KERNEL_PERMILLE: Final = 75
"""What a machine's own system takes of its memory: so much of a type's memory is not offered to jobs."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def prefix_of(cluster: str) -> str:
    """How the names of all instances of a cluster begin."""
    return f"bursar-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}-"


def name_of(cluster: str, machine_id: str) -> str:
    """What a machine is called."""
    return prefix_of(cluster) + machine_id.replace("_", "-")


def machine_of(cluster: str, name: str) -> str:
    """The machine of a name; "" of one that is none of this cluster's."""
    prefix = prefix_of(cluster)
    return name.removeprefix(prefix).replace("-", "_", 1) if name.startswith(prefix) else ""


def request_of(order: Order) -> str:
    """The token by which Google knows an order that is made again, for about an hour."""
    return str(uuid.uuid5(OURS, f"{order.cluster}/{order.machine_id}"))


def region_of(zone: str) -> str:
    """`us-central1` of `us-central1-a`."""
    return zone.rpartition("-")[0]


def last(link: str) -> str:
    """The name at the end of a link."""
    return link.rpartition("/")[2]


def instant(text: str) -> int:
    """Microseconds of a time as Google writes it; 0 of none. Raises `ValueError`."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1) if text else 0


def body_of(order: Order, has_gpus: bool, script: str) -> dict[str, Any]:
    """What is asked for, as the fields of `compute_v1.Instance`.

    It has a longest life after which Google itself deletes it, whoever has forgotten it; it is never started
    again by itself, and its disk goes with it.
    """
    place = order.place

    def said(key: str, otherwise: str = "") -> str:
        return setting(order.launch, key, place) or otherwise

    spot = place.market == "spot"
    least, most = LIFETIME_US
    labels = {CLUSTER_LABEL: order.cluster, MACHINE_LABEL: order.machine_id}
    disk: dict[str, Any] = {
        "source_image": said("image"),
        "disk_type": f"zones/{place.zone}/diskTypes/{said('disk_type', 'pd-balanced')}",
        "labels": labels,
    }
    if size := said("disk"):
        disk["disk_size_gb"] = int(size.removesuffix("GiB"))
    network: dict[str, Any] = {"network": "global/networks/default"}
    if subnet := said("subnet"):
        network = {"subnetwork": subnet_link(subnet, place.region)}
    if said("external_ip", "ephemeral") == "ephemeral":
        network["access_configs"] = [{"name": "external", "type_": "ONE_TO_ONE_NAT"}]
    body: dict[str, Any] = {
        "name": name_of(order.cluster, order.machine_id),
        "machine_type": f"zones/{place.zone}/machineTypes/{place.instance_type}",
        "labels": labels,
        "scheduling": {
            "provisioning_model": _MODELS.get(place.market, "STANDARD"),
            "automatic_restart": False,
            "on_host_maintenance": "TERMINATE" if spot or has_gpus else "MIGRATE",
            "instance_termination_action": "DELETE",
            "max_run_duration": {"seconds": min(max(order.lifetime_us, least), most) // SECOND_US},
        },
        "disks": [{"boot": True, "auto_delete": True, "initialize_params": disk}],
        "network_interfaces": [network],
        "metadata": {"items": [{"key": "startup-script", "value": script}]},
    }
    if account := said("service_account"):
        scope = "https://www.googleapis.com/auth/cloud-platform"
        body["service_accounts"] = [{"email": account, "scopes": [scope]}]
    if tags := said("network_tags"):
        body["tags"] = {"items": [one.strip() for one in tags.split(",") if one.strip()]}
    return body


def subnet_link(subnet: str, region: str) -> str:
    """The link of a subnet that is named by its own name or by a link."""
    return subnet if "/" in subnet else f"regions/{region}/subnetworks/{subnet}"


def image_parts(image: str) -> tuple[str, str, bool] | None:
    """Project, name and whether it is a family, of `projects/P/global/images/[family/]NAME`."""
    match = re.search(r"projects/([^/]+)/global/images/(family/)?([^/]+)$", image)
    return (match[1], match[3], bool(match[2])) if match else None


def provider_id(zone: str, name: str) -> str:
    """By which an instance is known: a name is never used twice."""
    return f"{zone}/{name}"


def parts_of(key: str) -> tuple[str, str]:
    """Zone and name; both "" of what is no id of an instance."""
    zone, _, name = key.partition("/")
    return (zone, name) if zone and name and "/" not in name else ("", "")


def instance_of(row: Any) -> Instance:
    """An instance as it was listed (`compute_v1.Instance`)."""
    zone, labels = last(row.zone), dict(row.labels)
    state = _STATES.get(row.status, InstanceState.ENDING)
    running = state in (InstanceState.RUNNING, InstanceState.ENDING)
    stopped = row.status in ("STOPPED", "SUSPENDED", "SUSPENDING", "TERMINATED")
    return Instance(
        provider_id=provider_id(zone, row.name),
        cluster=labels.get(CLUSTER_LABEL, ""),
        machine_id=labels.get(MACHINE_LABEL, ""),
        place=Place(
            region=region_of(zone),
            zone=zone,
            family=last(row.machine_type).partition("-")[0],
            instance_type=last(row.machine_type),
            market=MARKETS.get(row.scheduling.provisioning_model, "on-demand"),
        ),
        state=state,
        created_at=instant(row.creation_timestamp),
        billed_from=instant(row.last_start_timestamp) if running else 0,
        message="it was stopped, or has switched itself off" if stopped else "",
    )


class Past(NamedTuple):
    """What operations say of an instance that is gone. `code`: why it was never made."""

    zone: str
    name: str
    created_at: int
    billed_from: int
    gone_at: int
    interrupted: bool
    code: str
    said: str

    def instance(self, cluster: str) -> Instance:
        """It, as one that is gone."""
        family = Place(region=region_of(self.zone), zone=self.zone)
        return Instance(
            provider_id=provider_id(self.zone, self.name),
            cluster=cluster,
            machine_id=machine_of(cluster, self.name),
            place=family,
            state=InstanceState.GONE,
            created_at=self.created_at,
            billed_from=self.billed_from,
            billed_until=self.gone_at,
            interrupted=self.interrupted,
            message=self.said,
        )


PREEMPTED: Final = "compute.instances.preempted"
_ENDS: Final = ("delete", PREEMPTED, "compute.instances.automaticTermination")


def pasts_of(operations: Sequence[Any]) -> list[Past]:
    """Of all operations of instances (`compute_v1.Operation`), in any order: those whose end they tell."""
    by_instance: dict[tuple[str, str], list[Any]] = {}
    for one in operations:
        by_instance.setdefault((last(one.zone), last(one.target_link)), []).append(one)
    found = [_past(zone, name, rows) for (zone, name), rows in by_instance.items()]
    return [one for one in found if one is not None]


def _past(zone: str, name: str, rows: Sequence[Any]) -> Past | None:
    made = next((one for one in rows if one.operation_type == "insert"), None)
    created_at = instant(made.insert_time) if made is not None else 0
    ended = bool(made is not None and made.end_time)
    if made is not None and ended and made.error.errors:
        first = made.error.errors[0]
        at = instant(made.end_time)
        return Past(zone, name, created_at, 0, at, False, first.code, f"{first.code}: {first.message}")
    done = [one for one in rows if one.operation_type in _ENDS and one.end_time and not one.error.errors]
    if not done:
        return None
    taken = any(one.operation_type == PREEMPTED for one in done)
    gone_at = max(instant(one.end_time) for one in done)
    billed_from = min(instant(made.end_time), gone_at) if made is not None and ended else 0
    said = (
        "it was taken back" if taken else "" if done[0].operation_type == "delete" else "its lifetime is over"
    )
    return Past(zone, name, created_at, billed_from, gone_at, taken, "", said)


def offer_of(row: Any, place: Place, price: Rate) -> MachineOffer | None:
    """A machine type (`compute_v1.MachineType`) at a price; None where nothing here knows its accelerator, or
    where it is part of a CPU.
    """
    kinds = [(one.guest_accelerator_type, one.guest_accelerator_count) for one in row.accelerators]
    if len(kinds) > 1 or row.is_shared_cpu or (kinds and kinds[0][0] not in GPUS):
        return None
    gpu, gpu_gb = GPUS[kinds[0][0]] if kinds else ("", 0)
    return MachineOffer(
        place=place,
        cpu_milli=row.guest_cpus * 1000,
        memory_bytes=(row.memory_mb << 20) * (1000 - KERNEL_PERMILLE) // 1000,
        gpu_type=gpu,
        gpu_count=kinds[0][1] if kinds else 0,
        gpu_memory_bytes=gpu_gb * 10**9,
        rate_nanos_per_hour=price.nanos_per_hour,
        currency=price.currency,
        as_of=price.as_of,
        source=price.source,
        boot_us=(420 if gpu else 120) * SECOND_US,
    )
