"""What callers ask for, as the wire takes it: a job from keywords or a file, changes, filters.

Why     keywords become the flags of `bursar run`, which one parser reads: a wrong GPU count reads the same in
        Python, on the command line and in a job file.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from bursar import jobfile
from bursar.client.arguments import JobRef, WrongArgument
from bursar.clock import SECOND_US, SystemClock, parse_duration
from bursar.codec.spec import spec_to_wire
from bursar.errors import InvalidRequest
from bursar.jobfile.flags import SWITCHES, RunFlags
from bursar.jobfile.request import job_of_file, job_of_script
from bursar.jobfile.site import Asks, Site, SiteNode
from bursar.model import JobSpec, JobState
from bursar.model.constraints import attributes
from bursar.money import Money, parse_money
from bursar.resources import least_gpus
from bursar.results import Job
from bursar.smallfile import read_small_file
from bursar.v1 import types_pb2
from bursar.yamlfile import nearest

_PERCENT_MAX = 100_000
_STATES: Final = ("ALL", *(state.value for state in JobState))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FLAG_OF: Final = {"labels": "label", "secrets": "secret", "mounts": "mount", "constraints": "constraint"}
"""Keywords whose flag has another name; of the others it is the same."""
UPDATED_BY: Final = {
    "name": ("name",),
    "project": ("project",),
    "experiment": ("experiment",),
    "model": ("model",),
    "model_version": ("model_version",),
    "nodes": ("nodes", "max_nodes"),
    "priority": ("priority",),
    "time_limit": ("time_limit_us",),
    "max_cost": ("max_cost_nanos", "currency"),
    "max_price": ("max_price_nanos_per_hour", "currency"),
    "deadline": ("deadline_at",),
    "spot_policy": ("spot_policy",),
    "comment": ("comment",),
}
"""Fields that each flag of `update` changes; labels and resources are merged with those of the job."""


class BursarWarning(UserWarning):
    """Something of a submitted file that is not honoured, or not as its author may expect."""


# ------------------------------------------------------------------ references and times


def reference(job: JobRef) -> str:
    """A job by whatever names it."""
    return job.id if isinstance(job, Job) else str(job)


def references(jobs: JobRef | Sequence[JobRef]) -> list[str]:
    """One job or several."""
    return [reference(jobs)] if isinstance(jobs, str | int | Job) else [reference(job) for job in jobs]


def microseconds(at: datetime | None) -> int:
    """An instant for the wire; a `datetime` without a time zone is of this machine's. None: 0."""
    if at is None:
        return 0
    since = at.astimezone(UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND_US + since.microseconds


def filters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Filters of `list`, `cost`, `prices` and `events`, as the wire has them."""
    found = dict(given)
    for name, value in given.items():
        if isinstance(value, datetime):
            found[name] = microseconds(value)
        elif name in ("job", "tasks_of"):
            found[name] = reference(value)
        elif name == "states":
            found[name] = [_state(state) for state in ([value] if isinstance(value, str) else value)]
    return found


def money(amount: Money | str) -> Money:
    """An amount, also as text: `500 USD`."""
    return parse_money(amount) if isinstance(amount, str) else amount


def approval(until: datetime | None, amount: Money | str | None) -> dict[str, Any]:
    """For how long and how much something is approved."""
    return {
        "until": microseconds(until) if until is not None else 0,
        "amount": money(amount) if amount is not None else None,
    }


def correction(
    amount: Money | str | None, percent: float | None, since: datetime | None, until: datetime | None
) -> dict[str, Any]:
    """What charges are to be, and which. Raises `WrongArgument` unless one of amount and percent is given."""
    if (amount is None) == (percent is None):
        raise WrongArgument("correct: say amount or percent, one of them")
    if percent is not None and not 0 <= percent <= _PERCENT_MAX:
        raise WrongArgument(f"correct: percent is {percent!r}; it is a number from 0 to {_PERCENT_MAX}")
    return {
        "amount": None if amount is None else money(amount),
        "to_ppm": None if percent is None else round(percent * 10_000),
        **stretch(since, until),
    }


def stretch(since: datetime | None, until: datetime | None) -> dict[str, int]:
    """A stretch of time; open where it is None."""
    return {
        "since": microseconds(since) if since is not None else 0,
        "until": microseconds(until) if until is not None else 0,
    }


def _state(word: str) -> str:
    """A state of jobs by its name, in any case. Raises `WrongArgument`."""
    if word.upper() in _STATES:
        return word.upper()
    near = nearest(word[:60].upper(), _STATES)
    known = f"did you mean {near!r}?" if near else f"there are: {', '.join(_STATES)}"
    raise WrongArgument(f"states: {word[:60]!r} is no state; {known}")


# ------------------------------------------------------------------ jobs


def wanted(
    method: str,
    job: File | JobSpec | str | Path | None,
    command: Sequence[str] | None,
    arguments: Sequence[str],
    fields: Mapping[str, Any],
    site: Site | None = None,
) -> JobSpec:
    """The job that a call of `submit` or `plan` means; a path as it was `opened`.

    Raises:
        InvalidRequest: with one line per fault, each naming the argument or the place in the file.
    """
    if (job is None) == (command is None):
        said = "both were given" if job is not None else "neither was given"
        raise WrongArgument(f"{method}() takes a file, or command=['python', 'train.py']; {said}")
    if arguments and not isinstance(job, File):
        raise WrongArgument(f"{method}(): arguments are the words of a script file; there is no file here")
    if isinstance(job, JobSpec):
        if fields:
            raise WrongArgument(
                f"{method}(): {', '.join(fields)} cannot be set beside a JobSpec: it has them"
            )
        return job
    try:
        if job is None:
            return jobfile.spec_from_flags(run_flags(fields, tuple(command or ())), str(Path.cwd()))
        assert isinstance(job, File)
        return _of_file(job, arguments, run_flags(fields) if fields else None, site)
    except InvalidRequest as fault:
        raise in_python(fault, fields) from None


class File(NamedTuple):
    """A file that was read. `asks`: what of the site a script speaks of; None for a job file."""

    source: str
    text: str
    asks: Asks | None


def opened(job: object, command: object) -> File | None:
    """The file that a call names, read once; None where it names none. Raises `InvalidRequest`."""
    if not isinstance(job, str | Path) or command is not None:
        return None
    text = read_small_file(str(job))
    if not jobfile.looks_like_script(text):
        return File(str(job), text, None)
    from bursar.jobfile.slurm import asks_of_site  # a job file need not pay for Slurm's tables

    return File(str(job), text, asks_of_site(text))


def site_nodes(nodes: Iterable[types_pb2.Node]) -> tuple[SiteNode, ...]:
    """Nodes as scripts speak of them, with what constraints ask of."""
    found = []
    for node in nodes:
        facts, kinds = node.facts, {device.type for device in node.facts.devices}
        found.append(
            SiteNode(
                attributes(facts, facts.labels),
                facts.cpu_milli,
                facts.memory_bytes,
                len(facts.devices),
                kinds.pop() if len(kinds) == 1 else "",
                node.rate_nanos_per_hour,
                node.state == "up",
            )
        )
    return tuple(found)


def _of_file(file: File, arguments: Sequence[str], flags: RunFlags | None, site: Site | None) -> JobSpec:
    text, source, base = file.text, file.source, str(Path.cwd())
    if file.asks is not None:
        here = (_EPOCH + timedelta(microseconds=SystemClock().now())).astimezone()
        caller = jobfile.Caller(os.environ, here, socket.gethostname(), site)
        spec, sentences = job_of_script(text, source, base, arguments, flags, caller)
    elif arguments:
        raise InvalidRequest(
            f"{source} is a job file, which takes no words; put {arguments[0]!r} into its `run`"
        )
    else:
        spec, sentences = job_of_file(text, source, base, flags)
    for sentence in sentences:
        warnings.warn(sentence, BursarWarning, stacklevel=5)
    return spec


def run_flags(fields: Mapping[str, Any], command: tuple[str, ...] = ()) -> RunFlags:
    """Keywords as the flags of `bursar run`."""
    flags: dict[str, Any] = {}
    for name, value in fields.items():
        flag = FLAG_OF.get(name, name)
        if isinstance(value, bool):
            flags[flag] = value if flag in SWITCHES else str(value).lower()
        elif isinstance(value, Mapping):
            flags[flag] = tuple(f"{key}={item}" for key, item in value.items())
        elif name == "after":
            flags[flag] = tuple(references(value))
        elif name in ("secrets", "mounts", "retry_on"):
            flags[flag] = tuple(value)
        else:
            flags[flag] = _text(value)
    return RunFlags(command=command, **flags)


def _text(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, timedelta):
        us = value // timedelta(microseconds=1)
        return f"{us / SECOND_US:.6f}".rstrip("0").rstrip(".") + "s"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return str(value)


def in_python(fault: InvalidRequest, fields: Mapping[str, Any]) -> InvalidRequest:
    """A fault whose flags are the arguments that were given."""
    message = fault.message
    faults = list(fault.faults)
    for name in sorted(fields, key=len, reverse=True):
        flag = f"--{FLAG_OF.get(name, name).replace('_', '-')}"
        message = message.replace(flag, name)
        faults = [each._replace(field=name) if each.field == flag else each for each in faults]
    said = type(fault)(message.replace("there is none; write it after --", "is empty"), fault.facts)
    said.faults = tuple(faults)
    return said


_APART = ("spot_policy", "deadline_policy", "idle_snooze")
"""Of what `update` changes, what is no flag of `run`."""


def changes_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `update` as fields of its request. Raises `InvalidRequest`."""
    if not fields:
        raise WrongArgument(
            "update() has nothing to change; name at least one of priority, time_limit, gpus, …"
        )
    flags = run_flags({name: value for name, value in fields.items() if name not in _APART})
    given = {name: getattr(flags, FLAG_OF.get(name, name)) for name in fields if name not in _APART}
    given = {FLAG_OF.get(name, name): value for name, value in given.items()}
    given |= {name: fields[name] for name in _APART if name in fields}
    try:
        return changes(given)
    except InvalidRequest as fault:
        raise in_python(fault, fields) from None


def snooze_us(text: str | timedelta) -> int:
    """Raises `InvalidRequest`."""
    if isinstance(text, timedelta):
        return text // timedelta(microseconds=1)
    return 0 if text in ("0", "0s") else parse_duration(text)


def changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags of `update` mean: they are read as those of `run` are, by the same rules."""
    typed = {name: value for name, value in given.items() if name not in _APART}
    spec = jobfile.spec_from_flags(RunFlags(command=("true",), **typed))
    wire = spec_to_wire(spec)
    found = {field: getattr(spec, field) for name in typed for field in UPDATED_BY.get(name, ())}
    for name in ("spot_policy", "deadline_policy"):
        if name in given:
            found[name] = given[name]
    if "idle_snooze" in given:
        found["idle_snooze_us"] = snooze_us(given["idle_snooze"])
    if "label" in given:
        found["labels"] = dict(spec.labels)
    option = wire.options[0]
    if "gpus" in given:
        found["gpus"] = option.gpus
        if least := least_gpus(spec.options, spec.ordered):
            found["gpus_least"] = least
    if "throughput" in given:
        found["throughput"] = list(wire.throughput)
    if "cpus" in given:
        found["cpu_milli"] = option.cpu_milli
    if "memory" in given:
        found["memory_bytes"] = option.memory_bytes
    return found
