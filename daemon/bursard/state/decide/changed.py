"""What an update changed of a job, in words, for whoever reads the log, and when it may not. PURE.

Why     the event has the new values alone, from which nobody sees what was there before; and of fields that
        are not everybody's to see no word may get into what everybody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bursar.clock import format_duration
from bursar.errors import WrongState
from bursar.model import JobSpec
from bursar.model.job import PUBLIC_FIELDS
from bursar.money import format_nanos
from bursard.state.core import State
from bursard.state.records import JobRecord

CALLED: Final = {
    "options": "resources",
    "time_limit_us": "time limit",
    "max_cost_nanos": "max cost",
    "max_price_nanos_per_hour": "max price",
    "model_version": "model version",
    "spot_policy": "spot policy",
    "idle_policy": "idle snooze",
}
MARKS: Final = ("project", "experiment", "model", "labels")
"""Fields of a spec that scopes of budgets go by."""
WORD_CHARS_MAX: Final = 100


def changed(old: JobSpec, new: JobSpec) -> tuple[tuple[str, str, str], ...]:
    """(field, old, new) of each field that differs; old and new are empty where they are private."""
    names = [name for name in JobSpec.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    return tuple((CALLED.get(name, name), _word(old, name), _word(new, name)) for name in names)


def _word(spec: JobSpec, name: str) -> str:
    value = getattr(spec, name)
    if name not in (*PUBLIC_FIELDS, "options") or value is None or value in ("", ()):
        return ""
    tell = _WORDS.get(name)
    word = str(value) if tell is None else tell(spec, value)
    return word if len(word) <= WORD_CHARS_MAX else word[: WORD_CHARS_MAX - 1] + "…"


def _amount(spec: JobSpec, nanos: int) -> str:
    return f"{format_nanos(nanos)} {spec.currency}".rstrip() if nanos else ""


_WORDS: Final[Mapping[str, Callable[[JobSpec, Any], str]]] = {
    "options": lambda spec, options: " or ".join(map(str, options)),
    "time_limit_us": lambda spec, limit_us: format_duration(limit_us) if limit_us else "",
    "max_cost_nanos": _amount,
    "max_price_nanos_per_hour": lambda spec, nanos: f"{_amount(spec, nanos)}/h" if nanos else "",
    "labels": lambda spec, labels: " ".join(f"{key}={value}" for key, value in labels),
    "preemptible": lambda spec, yes: "yes" if yes else "no",
}


def refuse_while_launched(state: State, live: JobRecord, spec: JobSpec) -> None:
    """What a machine costs that comes up for a job is held in the budgets that cover the job, until it is
    there: so long nothing may change that they go by. Raises `WrongState`.
    """
    fixed = [CALLED.get(name, name) for name in MARKS if getattr(spec, name) != getattr(live.spec, name)]
    if not fixed:
        return
    for machine in state.machines.values():
        if machine.holding and live.id in (machine.job_id, machine.job_id.partition(".")[0]):
            raise WrongState(
                f"machine {machine.name} is coming up for job {live.display} and is paid for by its budgets,"
                f" so its {', '.join(fixed)} cannot change until it is there; change it then, or"
                f" `bursar cancel {live.display}` and submit the changed job",
                {"fields": ",".join(fixed), "machine": machine.name},
            )
