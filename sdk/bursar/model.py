"""The vocabulary: what a job asks for, what a node is, what an attempt holds. Frozen, no I/O.

Owns    the nouns that cross rooms: `JobSpec`, `NodeFacts`, `Device`, `MemberAllocation`, `Hold`.
        Who changes over time (a job's state, a node's free devices) lives in `bursard.state`, folded
        from events; nothing here has a clock or a identity source.
Why     one definition of each noun for the wire, the scheduler, the ledger, the simulator and the CLI.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from bursar.resources import ResourceRequest

MARKETS: Final = ("on-demand", "spot", "committed-1y", "committed-3y")
"""Ways a cloud sells one machine type; each has its own price."""


class JobState(StrEnum):
    """Where a job is. The last three are terminal and immutable."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """No event changes it any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class EndCause(StrEnum):
    """Why an attempt ended. Exactly one per attempt."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    TIME_LIMIT = "time_limit"
    BUDGET = "budget"
    IDLE = "idle"
    OUT_OF_MEMORY = "out_of_memory"
    START_FAILED = "start_failed"


class Dependency(msgspec.Struct, frozen=True):
    """Another job that must end first. `when`: succeeded | failed | finished."""

    job: str
    when: str = "succeeded"


class ArraySpec(msgspec.Struct, frozen=True):
    """A sweep of tasks that share one spec.

    Attributes:
        indices: the task indices, ascending, unique, each >= 0.
        max_parallel: tasks alive at once; 0 means no limit.
    """

    indices: tuple[int, ...]
    max_parallel: int = 0


class RetrySpec(msgspec.Struct, frozen=True):
    """When a failed attempt is followed by another.

    Attributes:
        on: causes among `failed`, `out_of_memory`, `start_failed`, `time_limit`, `node_lost`, `preempted`
            (the last two never use up `max`).
        max: further attempts after the first.
        avoid_same_node: the next attempt goes elsewhere.
    """

    on: tuple[str, ...] = ()
    max: int = 0
    avoid_same_node: bool = False


class CheckpointSpec(msgspec.Struct, frozen=True):
    """How a job is asked to save itself: `signal` name without SIG, then `grace_us` before TERM."""

    signal: str = ""
    grace_us: int = 0


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the user asked for, as accepted. One spec serves every attempt and every array task.

    Attributes:
        project: path such as `nlp/finetune`; owns budgets.
        labels: (key, value) pairs, sorted by key.
        priority: 0..100, higher first; low 25, normal 50, high 75.
        nodes: size of the gang, >= 1: all or nothing, one member per node.
        options: alternatives of what each node must give; at least one.
        ordered: try the options in order (True) or take the cheapest that fits now (False).
        constraints: (key, pattern) pairs; glob, `!` negates; keys node, pool, zone, region, rack,
            provider, instance_type or any node label.
        spot_policy: auto | spot | on-demand.
        time_limit_us: running time after which an attempt is stopped; 0 means the daemon's default.
        begin_after: earliest start, 0 for none.
        max_cost_nanos: all attempts together; 0 for none. max_price_nanos_per_hour: whole job.
        currency: of the two above; empty when both are 0.
        on_exceed: stop | checkpoint-stop, what happens at `max_cost`.
        env: (name, value) pairs, sorted.
        command: argv, used as is; empty when `script` is given.
        script: run by the interpreter of its `#!` line, without one by bash; `setup`, shell text, runs
            before it in the same environment.
        workdir: absolute directory on the node.
    """

    name: str = ""
    project: str = "default"
    experiment: str = ""
    model: str = ""
    model_version: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = 50
    preemptible: bool = True
    nodes: int = 1
    options: tuple[ResourceRequest, ...] = (ResourceRequest(),)
    ordered: bool = False
    constraints: tuple[tuple[str, str], ...] = ()
    spot_policy: str = "auto"
    time_limit_us: int = 0
    begin_after: int = 0
    depends_on: tuple[Dependency, ...] = ()
    array: ArraySpec | None = None
    max_cost_nanos: int = 0
    max_price_nanos_per_hour: int = 0
    currency: str = ""
    on_exceed: str = "stop"
    checkpoint: CheckpointSpec = CheckpointSpec()
    retry: RetrySpec = RetrySpec()
    env: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    script: str = ""
    setup: str = ""
    workdir: str = ""
    held: bool = False
    comment: str = ""


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


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node really has, as its agent found it.

    Attributes:
        cpu_milli: allocatable CPUs in thousandths. memory_bytes: allocatable memory.
        provider, region, zone, instance_type, market: how its price is found; `onprem` machines use `pool`.
        labels: (key, value) pairs, sorted, for constraints.
        address: where other members of a gang reach it.
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


class DeviceShare(msgspec.Struct, frozen=True):
    """Part of one device held by one member: `milli` of 1000."""

    index: int
    milli: int = 1000


class ShareRates(msgspec.Struct, frozen=True):
    """A member's price per hour by component, int nanos; their sum is its rate."""

    gpu: int = 0
    cpu: int = 0
    memory: int = 0

    @property
    def total(self) -> int:
        """Nanos per hour of the whole share."""
        return self.gpu + self.cpu + self.memory


class MemberAllocation(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank of an attempt holds on one node, with the price frozen at placement.

    Attributes:
        rates: nanos per hour of this share. price_id: the price book entry or cost model they came
            from; empty when the node's price is unknown (then rates are 0 and the cost is *unknown*).
    """

    rank: int
    node_id: str
    devices: tuple[DeviceShare, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    rates: ShareRates = ShareRates()
    price_id: str = ""


class Hold(msgspec.Struct, frozen=True):
    """Money promised to one attempt by one budget in one period."""

    budget: str
    period_start: int
    nanos: int


class ReasonCode(StrEnum):
    """Why a job is where it is: the dominant code, ordered from fault to routine."""

    NONE = ""
    MISCONFIGURED = "Misconfigured"
    EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"
    EXCEEDS_NODE_CAPACITY = "ExceedsNodeCapacity"
    HELD = "Held"
    BEGIN_TIME = "BeginTime"
    DEPENDENCY = "Dependency"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    WAITING_FOR_RESOURCES = "WaitingForResources"
    WAITING_FOR_TOPOLOGY = "WaitingForTopology"
    BEHIND_HIGHER_PRIORITY = "BehindHigherPriority"
    RESERVED_FOR_OTHER = "ReservedForOther"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    BUDGET_COMMITTED = "BudgetCommitted"
    PRICE_CAP_EXCEEDED = "PriceCapExceeded"
    WAITING_FOR_CHEAPER_PRICE = "WaitingForCheaperPrice"
    APPROVAL_REQUIRED = "ApprovalRequired"
    PROVISIONING = "Provisioning"
    PREEMPTION_PENDING = "PreemptionPending"
    RATE_LIMITED = "RateLimited"


class Reason(msgspec.Struct, frozen=True):
    """One dominant reason: a stable code, a sentence with numbers, and what the user can do.

    Attributes:
        facts: the numbers behind the sentence, as text, for programs.
    """

    code: ReasonCode
    message: str
    remedy: str = ""
    facts: tuple[tuple[str, str], ...] = ()
