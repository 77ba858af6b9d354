"""What a node really has, as its agent found it."""

from __future__ import annotations

from typing import Final

import msgspec

MARKETS: Final = ("on-demand", "spot", "committed-1y", "committed-3y")
"""Ways a cloud sells one machine type; each has its own price."""


class Device(msgspec.Struct, frozen=True):
    """One GPU of a node.

    Attributes:
        index: position on the node, as CUDA counts.
        uuid: the device's own name; stable across boots.
        type: canonical type, such as H100.
        memory_bytes: device memory.
        simulated: no such silicon exists; marked wherever it appears.
    """

    index: int
    uuid: str
    type: str
    memory_bytes: int = 0
    simulated: bool = False


LIMITS: Final = ("memory", "cpu", "pids", "gpu")
"""What a node may be able to hold a job to. `gpu`: one with a fraction of a device to its share of memory and
multiprocessors; whole devices need no limit."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node delivered when it was measured, each a second; 0: not known. Of devices the slowest.

    Attributes:
        at: when the daemon was told, microseconds. job_id: of what measured. torch: its version.
        devices: GPUs that were measured; 0: its CPUs were.
        bf16_flops_per_second and so on: of square matrix products, one device.
        memory_bytes_per_second: read and written by a copy, one device.
        allreduce_bytes_per_second: bus bandwidth over all devices.
    """

    at: int = 0
    job_id: str = ""
    torch: str = ""
    devices: int = 0
    bf16_flops_per_second: int = 0
    fp16_flops_per_second: int = 0
    tf32_flops_per_second: int = 0
    fp32_flops_per_second: int = 0
    fp64_flops_per_second: int = 0
    memory_bytes_per_second: int = 0
    allreduce_bytes_per_second: int = 0
    disk_write_bytes_per_second: int = 0
    disk_read_bytes_per_second: int = 0


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node really has, as its agent found it.

    Attributes:
        cpu_milli: allocatable CPUs in thousandths. memory_bytes: allocatable memory.
        provider, region, zone, instance_type, market: how its price is found; `onprem` machines use `pool`.
        labels: (key, value) pairs, sorted, for constraints.
        address: where other members of a gang reach it.
        limits: what it can hold a job to, of `LIMITS`; whatever is missing is trust alone.
    """

    name: str
    cpu_milli: int
    memory_bytes: int
    devices: tuple[Device, ...] = ()
    pool: str = "local"
    provider: str = "onprem"
    region: str = ""
    zone: str = ""
    rack: str = ""
    instance_type: str = ""
    market: str = "on-demand"
    labels: tuple[tuple[str, str], ...] = ()
    address: str = "127.0.0.1"
    limits: tuple[str, ...] = ()

    @property
    def needed_limits(self) -> tuple[str, ...]:
        """Of `LIMITS`, what there is to hold a job to: without devices that exist there are no fractions."""
        real = any(not device.simulated for device in self.devices)
        return LIMITS if real else LIMITS[:-1]

    @property
    def partition(self) -> str:
        """What Slurm's commands call its place: the label `partition`, or the pool."""
        return dict(self.labels).get("partition") or self.pool
