"""The keys of `type: service`: replicas, probe, scaling, update, timeouts.

Owns    where each field of `ServiceSpec` stands in a job file, and what of the contract is not built yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from bursar.jobfile.reading import read_mapping
from bursar.model import ServiceSpec
from bursar.model.check import quote
from bursar.model.service import APIS, STRATEGIES
from bursar.yamlfile import Faults, Node, read_duration, read_enum, read_int, read_percent, read_string

KEYS: Final = (
    "port",
    "api",
    "readiness_probe",
    "replicas",
    "scaling",
    "update",
    "timeouts",
    "balance",
    "fallback",
    "metering",
)
"""Of a service alone."""
NOT_BUILT: Final = {
    "base_on_demand_replicas": "use spot_policy",
    "spot": "use spot_policy",
    "engine": "",
    "gateway": "",
}
SERVICE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "port": ("port",),
    "api": ("api",),
    "units": ("metering", "units"),
    "balance": ("balance",),
    "fallback": ("fallback",),
    "replicas_min": ("replicas",),
    "replicas_max": ("replicas",),
    "probe_path": ("readiness_probe", "path"),
    "probe_interval_us": ("readiness_probe", "interval"),
    "probe_timeout_us": ("readiness_probe", "timeout"),
    "probe_failures": ("readiness_probe", "failures"),
    "start_timeout_us": ("readiness_probe", "start_timeout"),
    "target": ("scaling", "target"),
    "window_us": ("scaling", "window"),
    "panic_window_us": ("scaling", "panic_window"),
    "up_delay_us": ("scaling", "up_delay"),
    "down_delay_us": ("scaling", "down_delay"),
    "zero_after_us": ("scaling", "zero_after"),
    "max_surge": ("update", "max_surge"),
    "max_unavailable": ("update", "max_unavailable"),
    "strategy": ("update", "strategy"),
    "steps": ("update", "steps"),
    "hold_us": ("update", "hold"),
    "max_errors": ("update", "max_errors"),
    "max_latency": ("update", "max_latency"),
    "drain_us": ("update", "drain"),
    "queue_us": ("timeouts", "queue"),
    "cold_queue_us": ("timeouts", "cold_queue"),
    "first_byte_us": ("timeouts", "first_byte"),
    "idle_us": ("timeouts", "idle"),
    "total_us": ("timeouts", "total"),
}
"""Where each field stands in the file."""
_WORDS: Final = {("scaling", "zero_after"): "auto", ("timeouts", "cold_queue"): "start_timeout"}
"""What may stand in place of a duration: the field is 0 then."""
_METRICS_LATER: Final = ("rps", "queue", "cost")
_UNBUILT_UNDER: Final = {
    "scaling": {"max_cost_per_request": "say budget: {max_price: ...}", "prefer": ""},
}
PERCENTS: Final = ("max_errors", "max_latency")
PERCENT_MAX: Final = 2**31 - 1
_RANGE: Final = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?")


def read_service(fields: Mapping[str, Node], faults: Faults) -> ServiceSpec:
    """The service of the keys that stand beside those of any job."""
    said: dict[str, Any] = {}
    if "port" in fields and (port := read_int(fields["port"], faults)) is not None:
        said["port"] = port
    if "api" in fields:
        said["api"] = read_enum(fields["api"], faults, APIS) or "http"
    if "replicas" in fields:
        said["replicas_min"], said["replicas_max"] = _read_replicas(fields["replicas"], faults)
    for key in ("balance", "fallback"):
        if key in fields and (text := read_string(fields[key], faults, length_max=200)) is not None:
            said[key] = text
    for part in ("readiness_probe", "scaling", "timeouts", "metering"):
        if part in fields:
            _read_part(part, fields[part], faults, said)
    if "update" in fields:
        _read_update(fields["update"], faults, said)
    return ServiceSpec(**said)


def _read_replicas(node: Node, faults: Faults) -> tuple[int, int]:
    text = read_string(node, faults, length_max=20)
    found = _RANGE.fullmatch(text or "")
    if found is None:
        if text is not None:
            faults.add(node, f"{quote(text)} is no number of replicas; write 3, or 0..8")
        return 1, 1
    least = int(found[1])
    return least, int(found[2]) if found[2] is not None else least


def _read_update(node: Node, faults: Faults, said: dict[str, Any]) -> None:
    if node.kind == "scalar":
        _read_strategy(node, faults, said)
    else:
        _read_part("update", node, faults, said)


def _read_strategy(node: Node, faults: Faults, said: dict[str, Any]) -> None:
    if strategy := read_enum(node, faults, STRATEGIES):
        said["strategy"] = strategy


def _read_steps(node: Node, faults: Faults) -> tuple[int, ...]:
    if node.kind != "sequence":
        faults.add(node, "is to be a list of percents, such as [5, 25, 100]")
        return ()
    found = [read_int(one, faults) for one in node.items]
    return tuple(one for one in found if one is not None)


def _read_percent(name: str, node: Node, faults: Faults) -> dict[str, int]:
    ratio = read_percent(node, faults)
    if ratio is None:
        return {}
    if ratio * 100 % 1:
        faults.add(node, f"{quote(node.text)} is no whole percentage; write 5%")
        return {}
    return {name: min(int(ratio * 100), PERCENT_MAX)}


def _read_part(part: str, node: Node, faults: Faults, said: dict[str, Any]) -> None:
    keys = {path[1]: name for name, path in SERVICE_KEYS.items() if path[0] == part and len(path) == 2}
    word = {"scaling": ("metric",)}.get(part, ())
    later = _UNBUILT_UNDER.get(part, {})
    fields = read_mapping(node, faults, (*keys, *word), unbuilt=tuple(later))
    for key, child in (fields or {}).items():
        if key in later:
            faults.not_built(child, f"the key {part}.{key}", instead=later[key])
        elif key == "strategy":
            _read_strategy(child, faults, said)
        elif key == "steps":
            said["steps"] = _read_steps(child, faults)
        elif key in PERCENTS:
            said |= _read_percent(key, child, faults)
        elif key == "metric":
            if (metric := read_enum(child, faults, ("concurrency",), later=_METRICS_LATER)) in _METRICS_LATER:
                faults.not_built(child, metric, instead="write concurrency")
        elif key in ("path", "units"):
            said[keys[key]] = read_string(child, faults, length_max=1000) or ""
        elif not keys[key].endswith("_us"):
            value = read_int(child, faults)
            said |= {} if value is None else {keys[key]: value}
        elif child.kind == "scalar" and child.text == _WORDS.get((part, key)):
            said[keys[key]] = 0
        elif (duration := read_duration(child, faults)) is not None:
            said[keys[key]] = duration
