"""Pools of rented machines from their YAML nodes.

Owns    the form of `kind: CloudPool` (contract section 11).
Why     a pool spends money by itself: what bounds it is never guessed, and what this version does not do is
        refused by name.
"""

from __future__ import annotations

import re
from typing import Final

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import MARKETS
from bursar.resources import parse_gpu_type
from bursar.yamlfile import Faults, Fields, Node, read_enum, read_items, read_string
from bursar_policies.launch_keys import KEYS
from bursar_policies.specs import CloudPoolSpec, LaunchSetting

_KEYS = (
    "provider", "regions", "zones", "offers", "limits", "keep_alive", "max_lifetime", "boot_timeout",
    "launch",
)  # fmt: skip
_PER: Final = ("per_job_machines", "per_user_machines", "per_project_machines")
PROVIDERS: Final = tuple(sorted(KEYS))
MACHINES_MAX: Final = 1_000
LIST_MAX: Final = 200
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_PATTERN: Final = r"[A-Za-z0-9*?\[][A-Za-z0-9._*?\[\]-]{0,62}"
MINUTE_US: Final = 60 * SECOND_US


def read_cloud_pool(node: Node, faults: Faults) -> CloudPoolSpec | None:
    """The spec of a CloudPool, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, _KEYS)
    provider = fields.enum("provider", PROVIDERS, required=True)
    offers = fields.fields("offers", ("gpus", "instance_types", "markets"))
    limits = fields.fields("limits", ("machines", "spend_rate", *_PER), required=True)
    machines = limits.integer("machines", required=True, minimum=0, maximum=MACHINES_MAX) if limits else None
    spend_rate = limits.money_per("spend_rate", "h", positive=True) if limits else None
    per = [limits.integer(key, minimum=1, maximum=MACHINES_MAX) or 0 if limits else 0 for key in _PER]
    per_job, per_user, per_project = per
    if provider in KEYS and provider != "local":
        # Every region of a cloud would be hundreds of types in dozens of places.
        fields.get("regions", required=True)
    regions, zones = _list(fields, "regions", _NAME), _list(fields, "zones", _NAME)
    spec = CloudPoolSpec(
        provider=provider or "",
        machines=machines or 0,
        per_job_machines=per_job,
        per_user_machines=per_user,
        per_project_machines=per_project,
        launch=_launch(fields, provider or "", regions, zones) if provider in KEYS else (),
        regions=regions,
        zones=zones,
        gpus=_gpus(offers) if offers else (),
        instance_types=_list(offers, "instance_types", _PATTERN) if offers else (),
        markets=_markets(offers) if offers else (),
        spend_rate=spend_rate,
        keep_alive_us=_duration(fields, "keep_alive", 5 * MINUTE_US, 10 * SECOND_US, DAY_US),
        max_lifetime_us=_duration(fields, "max_lifetime", 3 * DAY_US, 10 * MINUTE_US, 30 * DAY_US),
        boot_timeout_us=_duration(fields, "boot_timeout", 15 * MINUTE_US, 10 * SECOND_US, DAY_US),
    )
    return spec if len(faults.found) == before else None


def _launch(
    fields: Fields, provider: str, regions: tuple[str, ...], zones: tuple[str, ...]
) -> tuple[LaunchSetting, ...]:
    """One text for a key, or one for each region or zone that needs its own."""
    known, node = (
        KEYS[provider],
        fields.get("launch", required=any(one.required for one in KEYS[provider].values())),
    )
    if node is None:
        return ()
    if not known:
        fields.faults.add(node, f"the provider {provider} has nothing to launch by; leave it out")
        return ()
    launch, found = Fields(node, fields.faults, tuple(known)), list[LaunchSetting]()
    for key, form in known.items():
        value = launch.get(key, required=form.required)
        if value is None:
            continue
        mapping = value.kind == "mapping"
        if mapping and len(value.entries) > LIST_MAX:
            fields.faults.add(value, f"has {len(value.entries)} places; at most {LIST_MAX}")
            continue
        for where, one in value.entries.items() if mapping else [("", value)]:
            if re.fullmatch(_NAME, where or "all") is None:
                fields.faults.add_key(one, "is no name of a region or zone")
            if form.zonal and where in ("", *regions) and len(zones) != 1:
                fields.faults.add(
                    one, "is of one zone: write {ZONE: ...} for each, or name that zone alone under zones"
                )
            text = read_string(
                one,
                fields.faults,
                pattern=form.pattern,
                expected=form.expected,
                length_max=form.length_max,
                multiline=form.lines,
            )
            found.append(LaunchSetting(key, text or "", where))
    return tuple(found)


def _duration(fields: Fields, key: str, default: int, least: int, most: int) -> int:
    node, found = fields.get(key), fields.duration(key)
    if node is None or found is None:
        return default
    if not least <= found <= most:
        fields.faults.add(node, f"must be from {_shown(least)} to {_shown(most)}")
    return found


def _shown(us: int) -> str:
    return f"{us // DAY_US}d" if us >= DAY_US else f"{us // SECOND_US}s"


def _items(fields: Fields, key: str) -> list[Node]:
    node = fields.get(key)
    if node is None:
        return []
    found = read_items(node, fields.faults, items_max=LIST_MAX)
    if node.kind == "sequence" and not found and not node.items:
        fields.faults.add(node, "is empty, so nothing could be rented; leave it out for all")
    return found


def _list(fields: Fields, key: str, pattern: str) -> tuple[str, ...]:
    expected = "a name of letters, digits, '.', '_' and '-'"
    texts = [
        read_string(item, fields.faults, pattern=pattern, expected=expected) for item in _items(fields, key)
    ]
    return tuple(text for text in texts if text is not None)


def _markets(fields: Fields) -> tuple[str, ...]:
    words = [read_enum(item, fields.faults, MARKETS[:2]) for item in _items(fields, "markets")]
    return tuple(word for word in words if word is not None)


def _gpus(fields: Fields) -> tuple[str, ...]:
    found = []
    for item in _items(fields, "gpus"):
        text = read_string(item, fields.faults, pattern=_NAME, expected="a type of GPU, such as L4")
        try:
            found += [parse_gpu_type(text)] if text is not None else []
        except InvalidRequest as error:
            fields.faults.add(item, error.message)
    return tuple(found)
