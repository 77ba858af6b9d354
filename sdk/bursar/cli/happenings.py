"""Events as sentences: what happened, to whom, by whom, as people say it.

Input   the JSON objects of `bursar.codec.view.event`. Output: one line each, not yet escaped for a terminal.
Why     the log holds what programs need to make every state again; who looks for what happened reads prose.
        A kind that this version does not know is shown by its name and payload, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bursar.cli.idletext import acted_words, idle_words
from bursar.cli.output import Row, dumps
from bursar.clock import SECOND_US, Instant, format_duration, format_instant
from bursar.model import EndCause, EndFacts, kind_of, phrase_of, sentence_of
from bursar.model.ends import beginning_of
from bursar.money import format_nanos
from bursar.words import plural

METERING: Final = "node-metered"
COUNTING: Final = "service-metered"
IDLING: Final = "attempt-idle-seen"
DIVIDING: Final = "keys-charged"
HIDDEN: Final = (METERING, COUNTING, DIVIDING, IDLING)
"""Written every few minutes: left out of what people read unless they ask for it."""

_NO_LONGER: Final = {
    "busy": ": it works",
    "unknown": ": nothing was known of it for too long",
    "snoozed": ": its policy was put off",
    "policy": ": another policy is about it",
}

SENTENCES: Final[Mapping[str, str]] = {
    "cluster-created": "cluster {cluster_id} was created; its books are in {currency}",
    "clock-doubted": "the machine's clock has jumped and is not believed: `bursar doctor` says what to do",
    "clock-stepped": "a jump of the clock was believed: {why}",
    "log-resumed": "the log goes on from event {through} ({cause}, by {by}); jobs go on at number"
    " {next_number}, above those that may have been given out meanwhile",
    "job-submitted": "{user} submitted job {number}{named} to {project}",
    "job-held": "{actor} put job {job_id} on hold",
    "job-released": "{actor} released job {job_id}",
    "job-updated": "{actor} changed job {job_id}{changes}",
    "job-requeued": "{actor} asked that job {job_id} runs again",
    "job-ended": "job {job_id} ended {state}{because}",
    "tasks-ended": "the waiting tasks of job {job_id} ended {state}{because}",
    "attempt-placed": "attempt {number} of job {job_id} was placed on {count}{whyplaced}",
    "member-started": "rank {rank} of {attempt_id} {started}",
    "stop-requested": "{attempt_id} is to stop: {cause}{because}",
    "limit-changed": "{actor} set the time limit of {attempt_id} to {limit}",
    "limit-taken": "rank {rank} of {attempt_id} lives by its new time limit{inforce}",
    "limit-refused": "rank {rank} of {attempt_id} keeps the time limit it had: {problem}",
    "node-calibrated": "{actor} measured what node {node_id} delivers",
    "deadline-promised": "job {job_id} is promised its deadline {deadline}: it begins by {begins} and costs"
    " {amount} at most",
    "deadline-broken": "the promise of the deadline {deadline} of job {job_id} {gone}{because}",
    "attempt-attached": "{actor} attached to rank {rank} of {attempt_id} ({kind})",
    "attempt-idle": "{idle}",
    "attempt-idle-acted": "{idleacted}",
    "attempt-idle-seen": "{idle}",
    "attempt-idle-over": "{attempt_id} is idle no longer{idlewhy}",
    "member-overdue": "rank {rank} of {attempt_id} is overdue: {message}",
    "member-ended": "rank {rank} of {attempt_id} ended: {ending}",
    "attempt-ended": "{attempt_id} ended: {end}{again}",
    "node-registered": "node {node} said what it has",
    "node-priced": "node {node_id} has {price}",
    "node-booted": "node {node_id} is in a new boot",
    "node-connected": "the agent of {node_id} is in contact{flapping}",
    "node-redated": "the times of {node_id} follow the clock that was set right",
    "node-silent": "the agent of {node_id} is out of contact; what runs there may still run",
    "node-scheduling": "{actor} set node {node_id} to {mode}{reasoned}",
    "node-quarantined": "node {node_id} gets no new work: {reason}",
    "node-misbehaved": "node {node_id} misbehaved{withjob}: {how}",
    "node-condition": "node {node_id} {condition}",
    "node-removed": "node {name} is gone for good",
    METERING: "node {node_id} was metered",
    "service-scaled": "service {job_id} is to have so many replicas: {target}, {why}",
    "service-rolled-back": "service {job_id} went back to what it was before: {why}",
    COUNTING: "a minute of service {job_id} was counted at gateway {gateway}",
    "key-issued": "{actor} made key {name} for service {job_id}",
    DIVIDING: "what keys were charged of service {job_id} counts against budget {budget}",
    "key-revoked": "{actor} revoked a key of service {job_id}",
    "charges-corrected": "{actor} corrected charges of {attempt_id}: {reason}",
    "bill-kept": "{actor} kept a part of the bill {source} of {period}",
    "period-closed": "{actor} closed {name} of the books",
    "period-signed": "{name} of the books was signed with {charges} charges",
    "machine-intended": "a {instance_type} of {provider} is to be rented as {machine_id}: {why}",
    "machine-launched": "{machine_id} is {provider_id} at its provider",
    "machine-up": "{machine_id} runs and is billed",
    "machine-joined": "{machine_id} is node {node_id}",
    "machine-ending": "{machine_id} is not wanted any more: {reason}",
    "machine-gone": "{machine_id} is gone: {reason}",
    "policy-applied": "{actor} applied {documents}",
    "policy-removed": "{actor} removed {kind} {name}",
    "holds-rolled": "budget {budget} began a new period",
    "budget-opened": "the account of budget {budget} opened with {spent} spent, and {running} running",
    "budget-closed": "the account of budget {budget} closed",
    "budget-granted": "{actor} {gave} {amount} {gaveto} budget {budget}: {reason}",
    "budget-transferred": "{actor} transferred {amount} from budget {budget} to {to}: {reason}",
    "rest-carried": "{amount} of budget {budget} {went} its next period: {reason}",
    "anomaly-found": "{unusual} cost {amount}, its like {usual}{mostly}",
    "threshold-crossed": "budget {budget} passed {percent} of its limit ({on} {reached}){does}",
    "budget-approved": "{actor} approved what budget {budget} asks for: {reason}",
    "approval-lapsed": "the time of what was approved of budget {budget} has passed",
    "node-token-issued": "{actor} issued a secret for node {name}",
    "node-enrolled": "node {name} used its secret for the first time",
    "node-token-revoked": "{actor} voided a secret of node {name}",
    "role-granted": "{actor} made {user} {role} of {where}",
    "role-revoked": "{actor} took {role} of {where} from {user}",
    "secret-set": "{actor} set secret {name} of {where}",
    "secret-removed": "{actor} removed secret {name} of {where}",
}


class _Words(dict[str, Any]):
    """The words of a payload; what is not said, as its default is not, is empty."""

    def __missing__(self, key: str) -> str:
        return ""


def sentence(event: Row) -> str:
    """One event as a sentence."""
    data, kind = event["data"], event["kind"]
    if kind not in SENTENCES or not isinstance(data, dict):
        shown = data if isinstance(data, str) else dumps(data) if data else ""
        return f"{kind} {event['subject']} {shown}".strip()
    data = _named(data, event["names"])
    words = (
        _Words(data)
        | _made(data)
        | _amounts(data, event.get("currency") or "")
        | {"actor": event["actor"] or "somebody"}
    )
    return SENTENCES[kind].format_map(_Words(words))


def _made(data: Mapping[str, Any]) -> dict[str, Any]:
    """Words that are not fields themselves."""
    spec, facts = _part(data, "spec"), _part(data, "facts")
    members, documents = data.get("members") or [], data.get("documents") or []
    named = [f"{one['kind']} {one['name']}" for one in documents]
    nodes = sorted({str(one["node_id"]) for one in members})
    return {
        "idlewhy": _NO_LONGER.get(data.get("why", ""), ""),
        "deadline": _moment(data.get("by", 0)),
        "begins": _moment(data.get("start", 0)),
        "gone": "was given up" if data.get("given_up") else "is broken",
        "named": f" {spec['name']!r}" if spec.get("name") else "",
        "project": spec.get("project", "default"),
        "node": facts.get("name", ""),
        "withjob": _with(data.get("job_id", "")),
        "because": f": {data['message']}" if data.get("message") else "",
        "flapping": f"; {data['refused']} hellos before were refused as too many"
        if data.get("refused")
        else "",
        "reasoned": f": {data['reason']}" if data.get("reason") else "",
        "whyplaced": f", {data['why']}" if data.get("why") else "",
        "number": data.get("number", 1),
        "rank": data.get("rank", 0),
        "count": ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more nodes" if len(nodes) > 4 else ""),
        # Of a job that was over before its start was told, the log has no process.
        "started": f"runs (pid {data['pid']})" if data.get("pid") else "was over before it was seen to run",
        "ending": _ending(_part(data, "report")),
        "end": _end(data),
        "again": "; the job goes back to the queue" if data.get("requeue") else "",
        "limit": format_duration(data.get("time_limit_us", 0)),
        "inforce": f"; {format_duration(data['time_limit_us'])} are in force"
        if data.get("time_limit_us")
        else "",
        "condition": f"gets no work for now: {data['trouble']}"
        if data.get("trouble")
        else "can start jobs again",
        "price": f"price {data['price_id']}" if data.get("price_id") else "no known price",
        "documents": ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else ""),
        "does": _does(data.get("do") or ()),
        "percent": f"{data.get('at_ppm', 0) / 10_000:g} %",
        **_direction(data.get("nanos", 0) < 0),
        "changes": _changes(data.get("changed") or ()),
        "running": plural(len(data.get("holds") or []), "attempt"),
        "unusual": _unusual(data),
        "mostly": f"; mostly {data['lines']}" if data.get("lines") else "",
        "where": data.get("project") or "the whole site",
    }


def _amounts(data: Mapping[str, Any], currency: str) -> dict[str, str]:
    """Sums, with what they are in where the server says it."""
    sums = {"reached": _reached(data), "spent": data.get("settled_nanos", 0)}
    sums["amount"], sums["usual"] = abs(data.get("nanos", 0)), data.get("usual_nanos", 0)
    words = {name: f"{format_nanos(nanos)} {currency}".rstrip() for name, nanos in sums.items()}
    cost_nanos = data.get("cost_nanos", -1)
    cost = f"{format_nanos(cost_nanos)} {currency}".rstrip() if cost_nanos >= 0 else ""
    return words | {"idle": idle_words(data, cost), "idleacted": acted_words(data, cost)}


def _unusual(data: Mapping[str, Any]) -> str:
    """What cost more than its like: a run, or a day of a project."""
    project = data.get("name", "")
    if data.get("job_number"):
        return f"run {data['job_number']} {data.get('run', '')}".rstrip() + f" of project {project}"
    return f"project {project} on {_moment(data.get('day', 0))[:10]}"


def _moment(at: Any) -> str:
    return format_instant(Instant(at)) if isinstance(at, int) and at else str(at or "")


def _changes(changed: Sequence[Sequence[str]]) -> str:
    """What of a job was changed; of what is private, that it was. An older log does not say."""
    words = [
        f"{field} from {old or 'none'} to {new or 'none'}" if old or new else field
        for field, old, new in changed
    ]
    return ": " + ", ".join(words) if words else ""


def _reached(data: Mapping[str, Any]) -> int:
    """What passed the threshold: of one on what is settled, that alone; of one on the forecast, that."""
    if data.get("on") == "forecast":
        return int(data.get("forecast_nanos", 0))
    held_nanos = data.get("held_nanos", 0) if data.get("on") == "settled+held" else 0
    return int(data.get("settled_nanos", 0) + held_nanos)


def _does(actions: Sequence[str]) -> str:
    """What a threshold does beside telling."""
    words = [action for action in actions if action != "notify"]
    return f": {', '.join(words)}" if words else ""


def _direction(back: bool) -> dict[str, str]:
    """Which way money of a budget went."""
    if back:
        return {"gave": "took back", "gaveto": "from", "went": "came back from"}
    return {"gave": "granted", "gaveto": "to", "went": "went on into"}


def _with(job: str) -> str:
    """With what a node misbehaved: a job, or all of a user who has no account there."""
    if not job:
        return ""
    user = job.removeprefix("user:")
    return f" with job {job}" if user == job else f" with jobs of {user}"


def _named(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The payload with what people call its ids. An attempt is always called so, its id too."""
    ids = {ref: names.get(data[ref], data[ref]) for ref in ("job_id", "node_id") if ref in data}
    if "attempt_id" in data:
        ids["attempt_id"] = names.get(data["attempt_id"], f"attempt {data['attempt_id']}")
    members = [
        {**one, "node_id": names.get(one["node_id"], one["node_id"])} for one in data.get("members") or ()
    ]
    return {**data, **ids, "members": members}


def _part(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = data.get(name)
    return part if isinstance(part, dict) else {}


def _facts(told: Mapping[str, Any]) -> EndFacts | None:
    """Of an end whose cause alone does not say what it was; None: its cause and exit code do."""
    if told.get("cause") not in (EndCause.FAILED, EndCause.START_FAILED):
        return None
    facts = EndFacts(
        job="",
        cause=EndCause(told["cause"]),
        exit_code=told.get("exit_code", -1),
        signal=told.get("signal", 0),
        detail=str(told.get("message", "")),
    )
    return None if kind_of(facts) in ("exit_code", "unknown") else facts


def _end(data: Mapping[str, Any]) -> str:
    """How an attempt ended, in the words that `show` has for it; of its signal it knows the shell's code."""
    facts = _facts(data)
    if facts is not None:
        kept_back = bool(facts.detail) and facts.detail == beginning_of(facts.detail)
        short = kept_back or kind_of(facts) in ("killed", "crash", "signal")
        return phrase_of(facts) if short else sentence_of(facts)
    # Of an exit code nothing said is 0.
    code = _exit_code(data.get("exit_code", 0)) if data.get("cause") == EndCause.FAILED else ""
    return f"{data.get('cause', '')}{code}"


def _exit_code(code: int) -> str:
    return f" (exit code {code})" if code >= 0 else " (its exit code is not known)"


def _ending(report: Mapping[str, Any]) -> str:
    if not report:
        return ""
    said = str(report.get("cause", ""))
    if (facts := _facts(report)) is not None:
        said = phrase_of(facts)
    elif said == "completed" and report.get("signal"):
        said += ", its place was let go"  # of a job that runs once, elsewhere: no failure
    elif report.get("signal"):
        said += f", signal {report['signal']}"
    elif report.get("exit_code", -1) >= 0:
        said += f", exit code {report['exit_code']}"
    held_us = report.get("held_us", 0)
    return f"{said}, after {format_duration(held_us)}" if held_us >= SECOND_US else said
