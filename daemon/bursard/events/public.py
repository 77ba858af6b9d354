"""What others may see of an event: the one form for `events`, the broker, logs and pages.

Owns    the list of shown fields, by event type. What is not listed is not shown, so a new field stays private
        until somebody writes it down here (`tests/unit/test_events_public.py` asks for the decision).
Why     an event holds all that happened, with a job's environment and program and the hashes of tokens;
        whoever may follow events, or the broker, is not always somebody who may see those (V1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bursar.model.ends import (
    beginning_of,
)
from bursar.model.job import PUBLIC_FIELDS
from bursard.events import budgets as b
from bursard.events import union as e
from bursard.events.anomalies import AnomalyFound
from bursard.events.bills import BillKept
from bursard.events.clock import ClockDoubted, ClockStepped
from bursard.events.condition import NodeCondition
from bursard.events.deadlines import DeadlineBroken, DeadlinePromised
from bursard.events.lives import LogResumed
from bursard.events.measured import (
    AttemptAttached,
    AttemptIdle,
    IdleActed,
    IdleOver,
    IdleSeen,
    NodeCalibrated,
)
from bursard.events.periods import PeriodClosed, PeriodSigned
from bursard.events.rights import RoleGranted, RoleRevoked, SecretRemoved, SecretSet
from bursard.events.services import (
    KeyIssued,
    KeyRevoked,
    KeysCharged,
    ServiceMetered,
    ServiceRolledBack,
    ServiceScaled,
)

Shape = Mapping[str, "Shape | None"]
"""The shown fields of a struct; the shape of those that are structs, or sequences of them, themselves."""


def _shape(names: str, **parts: Shape) -> Shape:
    return {**dict.fromkeys(names.split()), **parts}


_CHARGE = _shape("kind node_id start end nanos price_id attempt_id job_id rank gpu cpu memory")
# Written as arrays, so that their order is their names: as many of them are shown as stand here.
_USED = _shape("attempt_id rank held_us gpu cpu memory")
_PIECE = _shape("held_us gpu cpu memory")
_REST = _shape("kind from_us to_us gpu cpu memory")
_CORRECTED = _shape("of start end held_us gpu cpu memory to_gpu to_cpu to_memory energy_millijoules")
_SHIFT = _shape("budget period_start nanos")
_ATTRIBUTION = _shape("project user experiment model model_version labels")
_OPENING_HOLD = _shape("attempt_id nanos whole_nanos")
_RATES = _shape("gpu cpu memory")
_HOLD = _shape("budget period_start nanos")
_SERVICE = _shape(
    "port api replicas_min replicas_max probe_path probe_interval_us probe_timeout_us probe_failures"
    " start_timeout_us target window_us panic_window_us up_delay_us down_delay_us zero_after_us max_surge"
    " max_unavailable strategy drain_us queue_us cold_queue_us first_byte_us idle_us total_us revision"
    " units balance fallback steps hold_us max_errors max_latency"
)
_IDLE_POLICY = _shape(
    "below_percent window_us warn_after_us action snoozed_until detached_us cpu_below_percent snoozes"
)
_PROGRESS = _shape(
    "step total samples tokens elapsed_us data_wait_us compute_us communication_us checkpoint_us mfu_ppm"
    " attended"
)
_DEVICE_USE = _shape(
    "heard_us empty_us idle_us launch_us memory_us partial_us busy_us throttled_us sm_us tensor_us dram_us"
    " units_us clock_mhz_us devices unused_devices memory_bytes ecc_uncorrected remapped_rows xid"
)
_CALIBRATION = _shape(
    "at job_id torch devices bf16_flops_per_second fp16_flops_per_second tf32_flops_per_second"
    " fp32_flops_per_second fp64_flops_per_second memory_bytes_per_second allreduce_bytes_per_second"
    " disk_write_bytes_per_second disk_read_bytes_per_second"
)
_KEY_USE = _shape("key_id requests failed tokens_in tokens_out tokens_cached busy_us counted estimated")
_RESOURCES = _shape("cpu_milli memory_bytes", gpus=_shape("count types milli memory_bytes"))
SPEC: Final = _shape(
    " ".join(sorted(PUBLIC_FIELDS)),
    options=_RESOURCES,
    depends_on=_shape("job when"),
    array=_shape("indices max_parallel"),
    checkpoint=_shape("signal grace_us before_us script_only"),
    retry=_shape("on max avoid_same_node never"),
    service=_SERVICE,
    idle_policy=_IDLE_POLICY,
)
_MEMBER = _shape("rank node_id cpu_milli memory_bytes price_id", devices=_shape("index milli"), rates=_RATES)
_FACTS = _shape(
    "name cpu_milli memory_bytes pool provider region zone rack instance_type market labels address limits",
    devices=_shape("index uuid type memory_bytes simulated"),
)
_REPORT = _shape(
    "cause exit_code signal held_us cpu_us max_rss_bytes log_bytes gpu_energy_millijoules gpu_energy_source"
    " ran_us stopped unbegun image_digest pull_us",
    progress=_PROGRESS,
    device_use=_DEVICE_USE,
    steps=_shape("total failed cut_off"),
)
_BILL_LINE = _shape("resource hour hours estimate final")

PUBLIC: Final[Mapping[type, Shape]] = {
    e.ClusterCreated: _shape("cluster_id currency"),
    ClockDoubted: _shape("wall going_by"),
    ClockStepped: _shape("was became why redates"),
    LogResumed: _shape("cause through known_seq epoch next_number by"),
    e.JobSubmitted: _shape(
        "job_id number user dependencies", spec=SPEC, follows=_shape("other called waits lost")
    ),
    e.JobHeld: _shape("job_id"),
    e.JobReleased: _shape("job_id"),
    e.JobUpdated: _shape("job_id changed whole", fields=SPEC),
    e.JobRequeued: _shape("job_id"),
    e.JobEnded: _shape("job_id state message"),
    e.TasksEnded: _shape("job_id state message"),
    e.AttemptPlaced: _shape(
        "attempt_id job_id number option time_limit_us grace_us currency why cut_by_budget after"
        " lease_us full_limit_us",
        members=_MEMBER,
        holds=_HOLD,
    ),
    e.MemberStarted: _shape("attempt_id rank at boot_us pid measured"),
    e.StopRequested: _shape("attempt_id cause grace_us message for_job"),
    e.LimitChanged: _shape("attempt_id order time_limit_us hold_nanos cut_by_budget full_limit_us"),
    e.LimitTaken: _shape("attempt_id rank order ran_us time_limit_us hold_nanos"),
    e.LimitRefused: _shape("attempt_id rank order problem"),
    AttemptIdle: _shape(
        "attempt_id idle_us ends_in_us policy ground action by most_ppm memory_bytes cost_nanos"
    ),
    IdleSeen: _shape("attempt_id policy ground idle_us most_ppm"),
    IdleOver: _shape("attempt_id policy ground why"),
    IdleActed: _shape("attempt_id idle_us policy ground action by most_ppm memory_bytes cost_nanos"),
    AttemptAttached: _shape("attempt_id rank kind"),
    DeadlinePromised: _shape(
        "job_id by start until option rate nanos currency gpu_type time_limit_us",
        members=_shape("node_id cpu_milli memory_bytes", devices=_shape("index milli")),
    ),
    DeadlineBroken: _shape("job_id by cause message given_up"),
    e.MemberOverdue: _shape("attempt_id rank phase message"),
    e.MemberEnded: _shape("attempt_id rank", report=_REPORT, pieces=_PIECE),
    e.AttemptEnded: _shape("attempt_id cause exit_code requeue counts wait_us"),
    e.NodeRegistered: _shape("node_id", facts=_FACTS),
    e.NodePriced: _shape("node_id price_id since", rates=_RATES),
    e.NodeBooted: _shape("node_id boot_id anchor_at anchor_boot_us", charges=_CHARGE),
    e.NodeRedated: _shape("node_id from_at to_at", charges=_CHARGE),
    e.NodeConnected: _shape("node_id refused"),
    e.NodeSilent: _shape("node_id"),
    e.NodeScheduling: _shape("node_id mode reason"),
    e.ChargesCorrected: _shape(
        "job_id job_number attempt_id rank booked_at node_id node_name pool simulated price_id share reason"
        " kind",
        attribution=_ATTRIBUTION,
        moved_to=_ATTRIBUTION,
        rates=_RATES,
        charges=_CORRECTED,
        budgets=_SHIFT,
    ),
    AnomalyFound: _shape("name what day nanos usual_nanos lines job_number run"),
    BillKept: _shape("name source period currency cost by part parts replaces", lines=_BILL_LINE),
    PeriodClosed: _shape("name since until by missing"),
    PeriodSigned: _shape("name of hash totals charges"),
    e.MachineIntended: _shape(
        "machine_id provider region zone instance_type market why lease_until name pool job_id rate moves",
        holds=_HOLD,
        facts=_FACTS,
    ),
    e.MachineLaunched: _shape("machine_id provider_id"),
    e.MachineUp: _shape("machine_id billed_from"),
    e.MachineJoined: _shape("machine_id node_id through keeps pending waits", charges=_CHARGE),
    e.MachineEnding: _shape("machine_id reason"),
    e.MachineGone: _shape("machine_id billed_until reason", refund=_CHARGE),
    e.NodeQuarantined: _shape("node_id reason"),
    e.NodeMisbehaved: _shape("node_id how job_id"),
    NodeCalibrated: _shape("node_id", found=_CALIBRATION),
    NodeCondition: _shape("node_id trouble"),
    e.NodeRemoved: _shape("node_id name"),
    e.NodeMetered: _shape("node_id through price_id posted", used=_USED, rest=_REST),
    e.PolicyApplied: _shape("", documents=_shape("kind name version effective_at problem")),
    e.PolicyRemoved: _shape("kind name"),
    b.HoldsRolled: _shape("budget from_period to_period anew"),
    b.BudgetOpened: _shape("budget period_start settled_nanos since", holds=_OPENING_HOLD),
    b.BudgetClosed: _shape("budget"),
    b.BudgetGranted: _shape("budget period_start nanos by reason"),
    b.BudgetTransferred: _shape("budget period_start to to_period nanos by reason"),
    b.RestCarried: _shape("budget from_period to_period nanos reason"),
    b.ThresholdCrossed: _shape(
        "budget period_start at_ppm on settled_nanos held_nanos limit_nanos do forecast_nanos"
    ),
    b.BudgetApproved: _shape("budget period_start limit_nanos stages by reason until ceiling_nanos nanos"),
    b.ApprovalLapsed: _shape("budget period_start"),
    e.NodeTokenIssued: _shape("name expires_at valid_until"),
    e.NodeTokenRevoked: _shape("name"),
    e.NodeEnrolled: _shape("name"),
    RoleGranted: _shape("user role project"),
    RoleRevoked: _shape("user role project"),
    SecretSet: _shape("project name"),
    SecretRemoved: _shape("project name"),
    ServiceScaled: _shape("job_id target why"),
    ServiceRolledBack: _shape("job_id revision to why"),
    KeyIssued: _shape("key_id job_id name project user requests_per_minute concurrency expires_at budget"),
    KeyRevoked: _shape("key_id job_id"),
    KeysCharged: _shape("job_id budget", hours=_shape("hour period_start nanos")),
    ServiceMetered: _shape(
        "job_id gateway seq minute busy_us capacity_us",
        uses=_KEY_USE,
    ),
}

_TOLD: Final = re.compile(r"\A(rank \d+ ended: \w+).*", re.DOTALL)
"""Older logs quote here what the node said of an end, which may be the command or a directory."""


_NAMED: Final = re.compile(r"(?:rank \d+ of )?(?:\bjob \d+(?:\[\d+\])?|\batt_\w+)")


def unnamed(text: str) -> str:
    """Words of the daemon about a node or a place, for who may not see the job that they name. What is kept
    of nodes names none; an older log, and why an attempt waits for the end of another, may.
    """
    return _NAMED.sub("another job", text)


def public(event: e.Event) -> bytes:
    """An event as the JSON that others may see: its tag and its shown fields, in the order of the log's own.

    An event of a type that is not listed shows its tag alone.
    """
    whole = msgspec.to_builtins(event)
    if isinstance(event, e.StopRequested):
        whole["message"] = _TOLD.sub(r"\1", event.message)
    shown = {"type": whole["type"], **_cut(whole, PUBLIC.get(type(event), {}))}
    for spec in (shown.get("spec"), shown.get("fields")):
        service = spec.get("service") if isinstance(spec, dict) else None
        if service and "probe_path" in service:
            service["probe_path"] = path_alone(service["probe_path"])
    # What kind of end it was, in our own words: what follows them may be a path or a command.
    if isinstance(event, e.AttemptEnded) and (words := beginning_of(event.message)):
        shown["message"] = words
    if isinstance(event, e.MemberEnded) and (words := beginning_of(event.report.message)):
        shown["report"]["message"] = words
    return msgspec.json.encode(shown)


def path_alone(probe_path: str) -> str:
    """Of a service's probe, what everybody may see: its query may be a token."""
    return probe_path.partition("?")[0]


def _cut(value: Any, shape: Shape) -> Any:
    if isinstance(value, list | tuple):
        if value and shape and not isinstance(value[0], dict | list | tuple):
            return value[: len(shape)]
        return [_cut(one, shape) for one in value]
    if not isinstance(value, dict):
        return value  # a struct that may be absent
    return {
        name: part if shape[name] is None else _cut(part, shape[name])  # type: ignore[arg-type]
        for name, part in value.items()
        if name in shape
    }
