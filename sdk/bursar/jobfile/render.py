"""A job file from a `JobSpec`, such that reading it gives the same spec.

Why     `show -o yaml` answers "how was this asked for?" with something that can be edited and
        submitted again; so numbers keep their exact value (`1500MB`, never `1.5GB` rounded).
Limits  shell text indented into YAML grows: a file near 64 kB may render larger than can be read.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from bursar.clock import DAY_US, HOUR_US, SECOND_US, format_instant
from bursar.jobfile.arrays import format_ranges
from bursar.jobfile.service import PERCENTS, SERVICE_KEYS
from bursar.model import WRITTEN_OTHERWISE, ArraySpec, JobSpec, ServiceSpec
from bursar.model.check import RETRY_CAUSES
from bursar.money import format_nanos
from bursar.resources import MICRO, MILLI, GpuRequest, ResourceRequest, least_gpus, throughput_key

_WIDTH: Final = 1_000_000
_TIME_UNITS = (
    ("d", DAY_US), ("h", HOUR_US), ("m", 60 * SECOND_US), ("s", SECOND_US), ("ms", 1000), ("us", 1),
)  # fmt: skip
_SIZE_UNITS = tuple(
    (f"{prefix}{tail}", base**power)
    for power, prefix in ((5, "P"), (4, "T"), (3, "G"), (2, "M"), (1, "K"))
    for base, tail in ((1000, "B"), (1024, "iB"))
)
_DEFAULTS = {name: getattr(JobSpec(), name) for name in JobSpec.__struct_fields__}
_SERVICE = ServiceSpec()
_PRIORITIES = {25: "low", 50: "normal", 75: "high"}


def spec_to_yaml(spec: JobSpec) -> str:
    """The job file of a spec; what has its default is left out."""
    fields: dict[str, Any] = {}
    for key in ("name", "project", "experiment", "model", "model_version"):
        fields[key] = getattr(spec, key)
    if fields["project"] == "default":
        fields["project"] = None
    fields["labels"] = dict(spec.labels)
    if spec.priority != 50:
        fields["priority"] = _PRIORITIES.get(spec.priority, spec.priority)
    fields["preemptible"] = None if spec.preemptible else False
    fields["nodes"] = spec.nodes if spec.nodes != 1 else None
    if spec.max_nodes:
        fields["nodes"] = f"{spec.nodes}..{spec.max_nodes}"
    fields["throughput"] = {
        throughput_key(kind, gpus): _micro(micro) for kind, gpus, micro in spec.throughput
    }
    fields["resources"] = _resources(spec)
    fields["spot_policy"] = spec.spot_policy if spec.spot_policy != "auto" else None
    fields["time_limit"] = exact_duration(spec.time_limit_us) if spec.time_limit_us else None
    fields["begin_after"] = format_instant(spec.begin_after) if spec.begin_after else None
    fields["deadline"] = format_instant(spec.deadline_at) if spec.deadline_at else None
    fields["deadline_policy"] = spec.deadline_policy if spec.deadline_policy != "promise" else None
    fields["depends_on"] = [{"job": d.job, "when": d.when} for d in spec.depends_on]
    if spec.service is not None:
        fields.update(service_fields(spec.service))
    fields["array"] = _array(spec.array) if spec.array is not None and spec.service is None else None
    fields["budget"] = _budget(spec)
    if spec.interactive:
        fields["type"], fields["launch"] = "interactive", spec.launch
    idle = spec.idle_policy
    if idle.window_us:
        fields["idle_policy"] = {
            "min_gpu_utilization": idle.below_percent,
            **({"min_cpu_utilization": idle.cpu_below_percent} if idle.cpu_below_percent else {}),
            "time_window": exact_duration(idle.window_us),
            "warn_after": exact_duration(idle.warn_after_us),
            "action": idle.action,
        }
    if idle.detached_us:
        fields["idle_policy"] = {
            **fields.get("idle_policy", {}),
            "detached": exact_duration(idle.detached_us),
        }
    if spec.checkpoint.signal:
        grace = exact_duration(spec.checkpoint.grace_us)
        fields["checkpoint"] = {"signal": spec.checkpoint.signal, "grace": grace}
        if spec.checkpoint.before_us:
            fields["checkpoint"]["before"] = exact_duration(spec.checkpoint.before_us)
        if spec.checkpoint.script_only:
            fields["checkpoint"]["script_only"] = True
    fields["retry"] = _retry(spec)
    fields["env"] = dict(spec.env)
    fields["secrets"] = [
        {"name": name, "file": True} if name in spec.secret_files else name for name in spec.secrets
    ]
    fields["workdir"], fields["setup"] = spec.workdir, spec.setup
    fields["run"], fields["command"] = spec.script, list(spec.command)
    fields["arguments"] = list(spec.arguments)
    fields["held"] = True if spec.held else None
    for name, default in _DEFAULTS.items():
        if name not in fields and name not in WRITTEN_OTHERWISE and getattr(spec, name) != default:
            fields[name] = getattr(spec, name)
    said = {key: value for key, value in fields.items() if value not in (None, "", [], {})}
    return yaml.dump(
        said, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=False
    )


class _Dumper(yaml.SafeDumper):
    """Plain values only, shell text as a readable block, no anchors (they would be refused)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    # Line separators of Unicode are line breaks to YAML and would come back as "\n" from a block.
    if any(char in value for char in "\r\x85\u2028\u2029\ufeff"):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _resources(spec: JobSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if (least := least_gpus(spec.options, spec.ordered)) and spec.options[0].gpus is not None:
        fields.update(_option(spec.options[0]))
        fields["gpus"] = _gpus(spec.options[0].gpus, least)
    elif len(spec.options) == 1 and not spec.ordered:
        if spec.options[0] != ResourceRequest():
            fields.update(_option(spec.options[0]))
    else:
        fields["ordered" if spec.ordered else "any_of"] = [_option(option) for option in spec.options]
    if spec.constraints:
        fields["constraints"] = dict(spec.constraints)
    return fields


def _option(option: ResourceRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if option.gpus is not None:
        fields["gpus"] = _gpus(option.gpus)
    fields["cpus"] = _cpus(option.cpu_milli)
    if option.memory_bytes:
        fields["memory"] = exact_size(option.memory_bytes)
    return fields


def _gpus(gpus: GpuRequest, least: int = 0) -> str | int:
    parts = ["|".join(gpus.types)] if gpus.types else []
    if gpus.memory_bytes:
        parts.append(exact_size(gpus.memory_bytes))
    if least:
        return ":".join([*parts, f"{least}..{gpus.count}"])
    parts.append(str(gpus.count) if gpus.milli == MILLI else f"0.{gpus.milli:03d}".rstrip("0"))
    return gpus.count if parts == [str(gpus.count)] else ":".join(parts)


def _micro(micro: int) -> int | str:
    whole, rest = divmod(micro, MICRO)
    return whole if not rest else f"{whole}.{rest:06d}".rstrip("0")


def _cpus(milli: int) -> int | str:
    whole, rest = divmod(milli, MILLI)
    return whole if not rest else f"{whole}.{rest:03d}".rstrip("0")


def _array(array: ArraySpec) -> dict[str, Any]:
    fields: dict[str, Any] = {"range": format_ranges(array.ranges)}
    if array.max_parallel:
        fields["max_parallel"] = array.max_parallel
    return fields


def service_fields(service: ServiceSpec) -> dict[str, Any]:
    """The keys of a service; what has its default is left out."""
    fields: dict[str, Any] = {"type": "service", "port": service.port}
    fields["replicas"] = f"{service.replicas_min}..{service.replicas_max}"
    for name, path in SERVICE_KEYS.items():
        value = getattr(service, name)
        if value == getattr(_SERVICE, name) or name in ("port", "replicas_min", "replicas_max"):
            continue
        said = exact_duration(value) if name.endswith("_us") else value
        said = f"{value}%" if name in PERCENTS else list(value) if name == "steps" else said
        if len(path) == 1:
            fields[path[0]] = said
        else:
            fields.setdefault(path[0], {})[path[1]] = said
    return fields


def _budget(spec: JobSpec) -> dict[str, str]:
    fields = {}
    if spec.max_cost_nanos:
        fields["max_cost"] = f"{_plain(spec.max_cost_nanos)} {spec.currency}"
        if spec.array is not None and spec.max_cost_per != "job":
            fields["per"] = spec.max_cost_per
    if spec.max_price_nanos_per_hour:
        fields["max_price"] = f"{_plain(spec.max_price_nanos_per_hour)} {spec.currency}/h"
    if spec.on_exceed != "stop":
        fields["on_exceed"] = spec.on_exceed
    return fields


def _plain(nanos: int) -> str:
    return format_nanos(nanos).rstrip("0").rstrip(".")


def _retry(spec: JobSpec) -> dict[str, Any]:
    retry = spec.retry
    if not retry.on and not retry.max and not retry.avoid_same_node:
        return {}
    words = {cause: word for word, cause in RETRY_CAUSES.items()}
    fields: dict[str, Any] = {"on": [words[cause] for cause in retry.on], "max": retry.max}
    if retry.avoid_same_node:
        fields["avoid_same_node"] = True
    return fields


def exact_duration(us: int) -> str:
    """A duration in the largest unit that divides it: `24h`, `90s`, `1500ms`."""
    for unit, size in _TIME_UNITS:
        if us >= size and us % size == 0:
            return f"{us // size}{unit}"
    return "0s"


def exact_size(size_bytes: int) -> str:
    """A size in the largest unit that divides it: `128GB`, `1536MiB`, `7B`."""
    fitting = [(size, unit) for unit, size in _SIZE_UNITS if size_bytes % size == 0 and size_bytes >= size]
    if not fitting:
        return f"{size_bytes}B"
    size, unit = max(fitting)
    return f"{size_bytes // size}{unit}"
