"""Nodes, what they measured, and their tokens, as they are shown."""

from __future__ import annotations

from bursar.codec.amounts import exact
from bursar.codec.view.jobs import job
from bursar.codec.view.readings import sample
from bursar.codec.view.scalars import DEFAULT_CURRENCY, View, count, instant, money, rate
from bursar.v1 import nodes_pb2, types_pb2


def node(wire: types_pb2.Node) -> View:
    """A node: what it has, what is free, what it costs, how it is."""
    facts = wire.facts
    cash = wire.currency or DEFAULT_CURRENCY
    free = {share.index: share.milli for share in wire.devices_free}
    return {
        "id": wire.id,
        "name": facts.name,
        "state": wire.state,
        "reason": wire.reason or None,
        "pool": facts.pool,
        "provider": facts.provider,
        "region": facts.region,
        "zone": facts.zone,
        "rack": facts.rack,
        "instance_type": facts.instance_type,
        "market": facts.market,
        "labels": dict(sorted(facts.labels.items())),
        "address": facts.address,
        "limits": list(facts.limits),
        "cpus": count(facts.cpu_milli),
        "cpus_free": count(wire.cpu_free_milli),
        "memory_bytes": facts.memory_bytes,
        "memory_free_bytes": wire.memory_free_bytes,
        "gpus": len(facts.devices),
        "gpus_free": count(sum(free.values())),
        "gpu_types": sorted({device.type for device in facts.devices}),
        "simulated": any(device.simulated for device in facts.devices),
        "devices": [
            {
                "index": device.index,
                "uuid": device.uuid,
                "type": device.type,
                "memory_bytes": device.memory_bytes,
                "simulated": device.simulated,
                "free": count(free.get(device.index, 0)),
            }
            for device in facts.devices
        ],
        "rate_per_hour": rate(wire.rate_nanos_per_hour, cash),
        "price_id": wire.price_id or None,
        "jobs": wire.jobs,
        "last_seen_at": instant(wire.last_seen_at),
        "agent_version": wire.agent_version,
        "calibration": _calibration(wire, cash) if wire.HasField("calibration") else None,
        "sample": sample(wire.sample) if wire.HasField("sample") else None,
    }


PRECISIONS = ("bf16", "fp16", "tf32", "fp32", "fp64")
"""Of matrix products, the one that trainings use first. What comes first and is known prices a PFLOP-day."""
_BYTES = ("memory", "allreduce", "disk_write", "disk_read")


def _calibration(wire: types_pb2.Node, cash: str) -> View:
    """What it delivered, and what so much work costs at its price: a PFLOP-day is 10^15 FLOP/s for a day."""
    found = wire.calibration
    matmul = {name: getattr(found, f"{name}_flops_per_second") for name in PRECISIONS}
    matmul = {name: rate for name, rate in matmul.items() if rate}
    best = next(iter(matmul), "")
    each_hour = wire.rate_nanos_per_hour
    flops = matmul.get(best, 0) * max(found.devices, 1)
    known = each_hour >= 0 and flops > 0
    return {
        "at": instant(found.at),
        "job": found.job,
        "torch": found.torch,
        "devices": found.devices,
        "matmul_flops_per_second": matmul,
        **{f"{name}_bytes_per_second": getattr(found, f"{name}_bytes_per_second") or None for name in _BYTES},
        "pflop_day_precision": best or None,
        "cost_per_pflop_day": money(each_hour * 24 * 10**15 // flops, cash) if known else None,
    }


def top(wire: nodes_pb2.TopResponse) -> View:
    """The live picture: nodes and live jobs."""
    return {
        "nodes": [node(each) for each in wire.nodes],
        "jobs": [job(each) for each in wire.jobs],
        "jobs_total": wire.jobs_total,
        "nodes_total": wire.nodes_total,
    }


def node_token(wire: nodes_pb2.TokenResponse, name: str) -> View:
    """A fresh enrolment secret."""
    return {"node": name, "token": wire.token, "expires_at": instant(wire.expires_at)}


def node_hours(wire: types_pb2.Node) -> list[View]:
    """What its devices did in each hour of the last day; null is not known."""
    return [
        {
            "node": wire.facts.name,
            "hour": instant(each.at),
            "gpu_utilization_ratio": round(each.utilization_ratio, 4)
            if each.HasField("utilization_ratio")
            else None,
            "sm_ratio": round(each.sm_ratio, 4) if each.HasField("sm_ratio") else None,
        }
        for each in wire.hours
    ]


def known_token(wire: nodes_pb2.NodeToken) -> View:
    """A secret that is good now, without the secret."""
    return {
        "id": wire.id,
        "node": wire.node,
        "state": wire.state,
        "issued_at": instant(wire.issued_at),
        "expires_at": instant(wire.expires_at),
    }


def reservation(wire: nodes_pb2.Reservation) -> View:
    """A reservation of nodes."""
    whose = [*(f"project {one}" for one in wire.projects), *(f"user {one}" for one in wire.users)]
    return {
        "name": wire.name,
        "state": wire.state,
        "nodes": list(wire.nodes),
        "count": len(wire.nodes),
        "starts_at": instant(wire.starts_at),
        "ends_at": instant(wire.ends_at),
        "whose": ", ".join(whose) or ("maintenance" if wire.maintenance else "others"),
        "projects": list(wire.projects),
        "users": list(wire.users),
        "maintenance": wire.maintenance,
        "running": wire.running,
        "reason": wire.reason or None,
        "version": wire.version,
        "own": wire.own,
        "others": wire.others,
        "others_until": instant(wire.others_until),
    }


def machine(wire: nodes_pb2.Machine) -> View:
    """A rented machine."""
    return {
        "name": wire.name,
        "id": wire.id,
        "pool": wire.pool,
        "provider": wire.provider,
        "provider_id": wire.provider_id or None,
        "region": wire.region,
        "zone": wire.zone,
        "instance_type": wire.instance_type,
        "market": wire.market,
        "state": wire.state,
        "job": wire.job or None,
        "attempt": wire.attempt or None,
        "why": wire.why or None,
        "reason": wire.reason or None,
        "launched_at": instant(wire.intended_at),
        "billed_from": instant(wire.billed_from),
        "billed_until": instant(wire.billed_until),
        "ends_at": instant(wire.ends_at),
        "rate_per_hour": rate(wire.rate_nanos_per_hour, wire.currency),
        "cost": money(exact(wire, "cost_nanos"), wire.currency),
    }


def cloud_check(wire: nodes_pb2.CloudCheck) -> View:
    """One thing that must be right before machines can be rented."""
    return {"name": wire.name, "good": wire.good, "says": wire.says, "remedy": wire.remedy or None}
