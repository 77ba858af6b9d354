"""What differs between two descriptions of a job, as an event holds it: the fields that differ, and no other.

Why     a script has tens of kilobytes, and may be told once: a job that is changed ten thousand times is not
        to have ten thousand copies of it in the log. PURE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.model import JobSpec

Fields = Mapping[str, Any]
"""By name of a field of `JobSpec`, its new value as JSON has it. Of `labels` by key, those that differ alone;
None: the label is gone.
"""


def difference(old: JobSpec, new: JobSpec) -> dict[str, Any]:
    """What `with_changes` makes `new` of `old` with."""
    names = [name for name in JobSpec.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    fields = {name: msgspec.to_builtins(getattr(new, name)) for name in names}
    if "labels" in fields:
        before, after = dict(old.labels), dict(new.labels)
        other = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        fields["labels"] = {key: after.get(key) for key in other}
    return fields


def with_changes(spec: JobSpec, fields: Fields) -> JobSpec:
    """The description with some fields changed. Raises `msgspec.ValidationError` for what is none of one."""
    plain = dict(fields)
    if "labels" in plain:
        labels = {**dict(spec.labels), **plain["labels"]}
        plain["labels"] = sorted((key, value) for key, value in labels.items() if value is not None)
    values = msgspec.convert(plain, JobSpec)
    return msgspec.structs.replace(spec, **{name: getattr(values, name) for name in plain})
