"""Readable text for one thing: a job, a plan, an explanation, a node, a budget.

Input   the JSON objects of `bursar.codec.view`. Output: text for a terminal of 80 columns.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import IO, Any, Final

from bursar.cli.idletext import idle_text
from bursar.cli.output import Column, Row, table_text
from bursar.cli.pace import progress_pairs
from bursar.cli.stepped import step_lines
from bursar.cli.terminal import (
    STATE_STYLES,
    age_text,
    clean,
    is_terminal,
    left_text,
    money_text,
    paint,
    rate_text,
    seconds_text,
    size_text,
    terminal_columns,
    time_text,
    width,
)
from bursar.model import ReasonCode
from bursar.model.ends import REQUEUED
from bursar.resources import gpu_sizes
from bursar.words import plural

Pair = tuple[str, str]
VALUE_LEAST: Final = 20
"""Cells without which a value is not broken: a word a line says less than a long line."""


def pairs_text(pairs: Iterable[Pair], indent: str = "") -> str:
    """`name  value` lines with the values aligned; pairs without a value are left out. On a terminal that is
    too narrow for a value it goes on below, and no word of it is broken: a path is copied whole.
    """
    kept = [(name, value) for name, value in pairs if value]
    span = max((len(name) for name, _ in kept), default=0)
    room = width() - len(indent) - span - 2 if is_terminal(sys.stdout) else None
    lines = []
    for name, value in kept:
        first, *rest = [part for line in value.split("\n") for part in _within(line, room)]
        lines.append(f"{indent}{name:<{span}}  {first}".rstrip())
        lines += [f"{indent}{'':<{span}}  {line}" for line in rest]
    return "\n".join(lines)


def _within(line: str, room: int | None) -> list[str]:
    if room is None or room < VALUE_LEAST or len(line) <= room:
        return [line]
    return textwrap.wrap(line, room, break_on_hyphens=False, break_long_words=False)


def within_terminal(text: str, stream: IO[Any]) -> str:
    """One line, or as many as it takes on the terminal that `stream` is; no word of it is broken."""
    return "\n".join(_within(text, width() if is_terminal(stream) else None))


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph within 80 columns, or those of a narrower terminal."""
    columns = min(80, max(width(), VALUE_LEAST)) if is_terminal(sys.stdout) else 80
    return textwrap.fill(clean(text), columns, initial_indent=indent, subsequent_indent=indent)


def resources_text(view: Row) -> str:
    """`H100:8, 16 cpus, 128GB`; of the sizes of a range `H100:2..8`."""
    parts = []
    if view["gpus"]:
        names = "|".join(view.get("gpu_types") or ["any"])
        least = _least_gpus(view)
        parts.append(f"gpu {names}:{f'{least:g}..' if least else ''}{view['gpus']:g}")
    if view["cpus"]:
        parts.append(plural(float(view["cpus"]), "cpu"))
    if view["memory_bytes"]:
        parts.append(size_text(view["memory_bytes"]))
    return ", ".join(parts) or "nothing"


def _least_gpus(view: Row) -> float:
    """Where alternatives are the sizes of one range of GPUs, tried the most first, its least; else 0."""
    options: Sequence[Row] = view.get("any_of") or ()
    if len(options) < 2 or not view.get("ordered"):
        return 0
    counts = [option["gpus"] for option in options]
    alike = all({**option, "gpus": 0} == {**options[0], "gpus": 0} for option in options)
    whole = all(count == int(count) > 0 for count in counts)
    sizes = gpu_sizes(int(counts[-1]), int(counts[0])) if alike and whole else ()
    return float(counts[-1]) if tuple(counts) == sizes else 0


def where_text(nodes: Sequence[Row]) -> str:
    """The nodes of an attempt with their devices: `a[0,1] b[0,1]`."""
    words = []
    for node in nodes:
        devices = ",".join(str(index) for index in node["devices"])
        words.append(node["node"] + (f"[gpu {devices}]" if devices else ""))
    return clean(", ".join(words))


def members_text(nodes: Sequence[Row]) -> str:
    """What a plan takes on each node, one line each; equal nodes are counted."""
    lines = []
    for node in nodes[:8]:
        held = {"gpus": 0, "cpus": node["cpus"], "memory_bytes": node["memory_bytes"]}
        parts = [resources_text(held)] if node["cpus"] or node["memory_bytes"] else []
        if node["gpus"]:
            parts.insert(0, f"{node['gpus']:g} gpu")
        lines.append(clean(f"{node['node']} ({', '.join(parts)})"))
    if len(nodes) > 8:
        lines.append(f"and {len(nodes) - 8} more nodes")
    return "\n".join(lines)


# ------------------------------------------------------------------ plan and explain


def plan_text(plan: Row, now: int) -> str:
    """The price table before a submit."""
    each = " each task" if plan["worst_case_cost_per_task"] else ""
    budgets = [_budget_text(each, plan["tasks"]) for each in plan["budgets"]]
    pairs = [
        ("where", _where_text(plan)),
        ("price", rate_text(plan["rate_per_hour"]) + each),
        *_cost_pairs(plan),
        ("lease", _lease_text(plan)),
        ("budget", "\n".join(budgets) or "none applies"),
        ("start", start_text(plan, now)),
        ("deadline", _promised_text(plan)),
        ("idle", idle_text(plan)),
    ]
    _, named, missing = (plan["placed_because"] or "").partition("fallback: ")
    if plan["service"] and named:
        pairs.append(("fallback", clean(missing)))
    if plan["limits_not_held"]:
        names = ", ".join(plan["limits_not_held"])
        gpu = "; fractions of a GPU share it in time, and its memory is not limited"
        gpu = gpu if "gpu" in plan["limits_not_held"] else ""
        more = f"it can take more than it asks for of {names} there (see `bursar doctor`)"
        pairs.append(("limits", more + gpu))
    return "\n".join([pairs_text(pairs), *reason_lines(plan["reason"])])


def _promised_text(plan: Row) -> str:
    promise = plan.get("promise")
    return f"{time_text(promise['by'])}, {promise_text(promise)}" if promise else ""


def _cost_pairs(plan: Row) -> list[Pair]:
    """What it will cost, and at most; of a service by the hour, since it does not end."""
    service = plan.get("service")
    if not service:
        return [("expected", _expected_text(plan)), ("worst case", _worst_text(plan))]
    least, most = service["replicas_min"], service["replicas_max"]
    few, many = rate_text(service["rate_min_per_hour"]), rate_text(service["rate_max_per_hour"])
    told = f"{most}: {many}" if least == most else f"{least} to {most}: {few} to {many}"
    return [("replicas", f"{told}, until it is cancelled"), *_served_pairs(service)]


def _served_pairs(service: Row) -> list[Pair]:
    """Of a service: what is done costs at some loads, and what a cold start takes, by what it did before."""
    measured, pairs = service.get("measured"), list[Pair]()
    if measured is None:
        return pairs
    job, minutes = measured["job"], plural(measured["minutes"], "minute")
    by = f"by {minutes} of job {job} at {measured['load_percent']} % load"
    if measured["other_resources"]:
        by += ", which had other resources"
    for key, what in (("per_million_tokens", "1M tokens"), ("per_thousand_requests", "1k requests")):
        told = [f"{money_text(one[key])} at {one['load_percent']} %" for one in service["loads"] if one[key]]
        if told:
            pairs.append((what, f"{', '.join(told)} load  ({by})"))
            break
    if service["cold_start_s"] is not None:
        cost = service["cold_start_cost"]
        paid = f", {money_text(cost)}" if cost is not None else ""
        pairs.append(
            ("cold start", f"{seconds_text(service['cold_start_s'])}{paid}  (the last of job {job})")
        )
    return pairs


def replicas_text(job: Row) -> str:
    """Of a service, how many replicas run and how many may: `2 of 1..8 replicas`."""
    counts, service = job["array"]["counts"], job["service"]
    runs = sum(counts.get(name, 0) for name in ("STARTING", "RUNNING", "STOPPING"))
    least, most = service["replicas_min"], service["replicas_max"]
    return f"{runs} of {least if least == most else f'{least}..{most}'} replicas"


def _budget_text(budget: Row, tasks: int) -> str:
    """What is left of a budget afterwards, and of an array how many tasks it pays for."""
    pays = "" if budget["tasks_paid"] is None else f"pays {_of_tasks(budget['tasks_paid'], tasks)}, "
    left = f"{left_text(budget['available_after'])} left of {money_text(budget['limit'])}"
    return f"{clean(budget['name'])}: {pays}{left} ({budget['enforcement']})"


def _of_tasks(paid: int, tasks: int) -> str:
    return plural(tasks, "task") if paid == tasks else f"{paid} of {plural(tasks, 'task')}"


def _where_text(plan: Row) -> str:
    """Where it would go; what nothing but a budget holds has its place, and says so."""
    held = (plan["reason"] or {}).get("code") in _HELD_BY_BUDGET
    return (members_text(plan["nodes"]) or "no node now") + (
        "\nonce its budget pays" if held and plan["nodes"] else ""
    )


def _expected_text(plan: Row) -> str:
    """What it will cost by past runs; without them no more is known than the most it can."""
    basis = clean(plan["expected_basis"])
    most, expected = plan["worst_case_cost"], plan["expected_cost"]
    if expected is None:
        return f"at most {money_text(most)}  ({basis})" if most else "unknown"
    if plan.get("expected_runs"):
        basis = f"p90 {money_text(plan['expected_cost_p90'])}, {plural(plan['expected_runs'], 'run')} like it"
    if plan["expected_cost_per_task"]:
        basis = f"{plural(plan['tasks'], 'task')}, each {money_text(plan['expected_cost_per_task'])}: {basis}"
    about = "about " if plan.get("expected_runs") else ""
    return f"{about}{money_text(expected)}  ({basis})"


def _worst_text(plan: Row) -> str:
    worst = money_text(plan["worst_case_cost"])
    if plan["worst_case_cost_per_task"]:
        each_task = money_text(plan["worst_case_cost_per_task"])
        whole = Decimal(plan["worst_case_cost_per_task"]["amount"]) * plan["tasks"]
        shown_max = Decimal(2**63 - 1).scaleb(-9)  # of the wire: a sum beyond it is no cap
        is_capped = Decimal(plan["worst_case_cost"]["amount"]) < min(whole, shown_max)
        capped = "capped by max_cost: " if is_capped else ""
        tasks = plural(plan["tasks"], "task")
        return f"{worst}  ({capped}{tasks}, each {each_task} {_worst_of(plan)})"
    if plan["time_limit_s"] and plan["worst_case_cost"]:
        return f"{worst}  ({_size_text(plan)}{_worst_of(plan)})"
    return worst


def _size_text(plan: Row) -> str:
    """Of a range of sizes, the size that the worst case is of."""
    nodes, gpus = plan["worst_case_nodes"], plan["worst_case_gpus"]
    if not nodes:
        return ""
    each = f" with {plural(gpus, 'GPU')}{' each' if nodes > 1 else ''}" if gpus else ""
    return f"at most {plural(nodes, 'node')}{each}, "


def _lease_text(plan: Row) -> str:
    """What the first lease holds; nothing where all of the worst case is held."""
    lease, limit = plan.get("lease_s"), plan["time_limit_s"]
    if not lease or lease == limit:
        return ""
    if plan.get("service"):
        held = money_text(plan["hold_at_start"])
        return f"{held} held for each replica, for {seconds_text(lease)}; renewed while the budget pays"
    each = " each task" if plan["worst_case_cost_per_task"] else ""
    held = money_text(plan["hold_at_start"])
    return f"{held}{each} held at its start, for {seconds_text(lease)}; renewed while the budget pays"


def _worst_of(plan: Row) -> str:
    """Of what time a worst case is: the limit, and what ending it may take (of an older daemon not told)."""
    limit, whole = plan["time_limit_s"], plan["worst_case_s"]
    end = f" and takes {seconds_text(whole - limit)} to end" if whole and limit else ""
    return f"if it runs its whole {seconds_text(limit)}{end}"


def max_cost_text(job: Row) -> str:
    """A job's own cap, and what it is for when it is an array."""
    if not job["max_cost"]:
        return ""
    whole = {"job": " for all tasks together", "task": " for each task"}.get(job["max_cost_per"] or "", "")
    return money_text(job["max_cost"]) + whole


def start_text(plan: Row, now: int) -> str:
    """When it starts, as far as that is known: the limits of what runs and who is ahead decide."""
    if plan.get("starts_now"):
        paid = plan["tasks_paid"]
        whole = paid in (None, plan["tasks"])
        return "now" if whole else f"now, {_of_tasks(paid, plan['tasks'])} are paid for"
    at, ahead = plan["expected_start_at"], plan["ahead_total"]
    if at is None:
        return "unknown"
    left = age_text(_now_text(now), 0, at)
    if plan["reason"] and plan["reason"]["code"] == ReasonCode.BEGIN_TIME:
        return f"not before {time_text(at)} (in {left})"
    if plan["reason"] and plan["reason"]["code"] == ReasonCode.PROVISIONING:
        return f"about {time_text(at)} (in {left}), once the machine has come up"
    then = f"at {time_text(at)} (in {left})" if left != seconds_text(0) else "any moment"
    if ahead and plan["ahead_counted"]:
        return f"{then} if what runs and the {plural(ahead, 'job')} ahead of it take their whole limits"
    first = f"not before the {plural(ahead, 'job')} ahead of it; " if ahead else ""
    return f"{first}room for it {then} if what runs takes its whole limit"


def _now_text(now: int) -> str:
    from bursar.clock import format_instant

    return format_instant(now)


def reason_lines(reason: Row | None) -> list[str]:
    """Why it waits, and what to do."""
    if reason is None:
        return []
    lines = [wrapped(": ".join(filter(None, (reason["code"], reason["message"]))))]
    if reason["remedy"]:
        lines.append(wrapped(f"remedy: {reason['remedy']}"))
    return lines


def end_lines(end: Row) -> list[str]:
    """How it ended, and what to do."""
    lines = [wrapped(end["message"])]
    if end["remedy"]:
        lines.append(wrapped(f"remedy: {end['remedy']}"))
    return lines


def explain_text(view: Row, now: int) -> str:
    """Why a job is where it is."""
    job = view["job"]
    words = (f"job {job_ref(job)}", clean(job["name"]), f"is {state(job['state'])}")
    lines = [" ".join(filter(None, words))]
    why = view["reason"] or job["reason"]
    if why and not job["end"] and job["state"] != "PENDING" and (job["array"] or job["service"]):
        lines.append(f"some of its {'replicas' if job['service'] else 'tasks'} wait:")
    lines += end_lines(job["end"]) if job["end"] else reason_lines(why)
    if view["placed_because"]:
        lines.append(wrapped(f"placed: {view['placed_because']}"))
    if job["state"] == "PENDING":
        lines.append(wrapped(f"expected start: {start_text(view, now)}"))
    if deadline := deadline_text(job):
        lines.append(wrapped(f"deadline: {deadline}"))
    if view["suggestion"]:
        price = view["suggestion_rate_per_hour"]
        at = f" ({rate_text(price)})" if price else ""
        lines.append(wrapped(f"suggestion: {view['suggestion']}{at}"))
    if view["ahead_total"]:
        more = view["ahead_total"] - len(view["ahead"])
        called = [_called(one) for one in view["ahead_jobs"]]
        told = ", ".join(called or view["ahead"])  # of an older daemon their ids
        others = f"{more} of others" if not told else f" and {more} more"
        lines.append(wrapped("ahead of it: " + told + (others if more else "")))
    if view["terms"]:
        lines.append(wrapped(_score_text(view)))
    if view["nodes"]:
        columns = (Column("node"), Column("fits"), Column("why_not", wrap=True, least=20))
        lines += ["", table_text(view["nodes"], columns, terminal_columns())]
    if view["budgets"]:
        rows = [{**each, "stages": ", ".join(each["stages"])} for each in view["budgets"]]
        staged = (Column("stages"),) if any(each["stages"] for each in rows) else ()
        lines += ["", table_text(rows, (*BUDGET_NOW, *staged), terminal_columns())]
    return "\n".join(lines)


def _called(one: Row) -> str:
    name = " ".join(filter(None, (one["number"], one["name"])))
    return f"{name} ({one['why']})" if one["why"] else name


def _score_text(view: Row) -> str:
    """What puts it where it is, by the policy: the sum, and each part as weight x factor."""
    parts = [
        f"{each['factor']} {each['points']:.3f} ({each['weight']:g} x {each['value']:.3f})"
        for each in view["terms"]
    ]
    whole = f"its score: {sum(each['points'] for each in view['terms']):.3f} points = {' + '.join(parts)}"
    return f"it has waited past max_wait, which stands above {whole}" if view["overdue"] else whole


_HELD_BY_BUDGET = frozenset(
    (ReasonCode.BUDGET_EXHAUSTED, ReasonCode.BUDGET_COMMITTED, ReasonCode.APPROVAL_REQUIRED)
)
BUDGET_NOW = (
    Column("budget", "name", shrink=True),
    Column("limit", right=True),
    Column("settled", right=True),
    Column("held", right=True),
    Column("left", "available", right=True, left=True),
    Column("renews", "renews_at", drop=1, title="renews_at"),
)


# ------------------------------------------------------------------ job


def job_ref(job: Row) -> str:
    """What people call it: `12`, a task of an array `12[3]`."""
    index = job["lineage"].get("array_index")
    return str(job["number"]) if index is None else f"{job['number']}[{index}]"


def state(name: str) -> str:
    """A state in its colour."""
    return paint(name, STATE_STYLES.get(name))


def job_text(job: Row, unheld: str = "") -> str:
    """One job, whole. `unheld`: what its node does not hold it to."""
    title = "  ".join(filter(None, (f"job {job_ref(job)}", clean(job["name"]), state(job["state"]))))
    if job["simulated"]:
        title += "  (simulated devices)"
    pairs: list[Pair] = [
        ("id", job["id"]),
        ("project", clean(job["project"])),
        ("user", clean(job["user"])),
        ("experiment", clean(job["experiment"])),
        ("model", clean(" ".join(filter(None, (job["model"], job["model_version"]))))),
        ("labels", clean(", ".join(f"{k}={v}" for k, v in job["labels"].items()))),
        ("needs", needs_text(job)),
        ("limits", unheld),
        ("priority", str(job["priority"])),
        ("time limit", _limit_text(job)),
        ("lease", _leased_text(job)),
        ("not before", time_text(job["begin_after"]) if job["begin_after"] else ""),
        ("deadline", deadline_text(job)),
        ("submitted", time_text(job["submitted_at"])),
        ("started", time_text(job["started_at"]) if job["started_at"] else ""),
        ("finished", time_text(job["finished_at"]) if job["finished_at"] else ""),
        ("elapsed", _elapsed_text(job)),
        ("exit code", "" if job["exit_code"] is None else str(job["exit_code"])),
        *_money_pairs(job),
        ("gpu energy", energy_text(job["gpu_energy_joules"], job["gpu_energy_source"])),
        ("gpus now", _gpus_now(job)),
        ("idle policy", idle_text(job)),
        *progress_pairs(job),
        ("service", _service_text(job)),
        ("array", _array_text(job["array"]) if not job["service"] else ""),
        ("command", "(its owner's)" if job.get("redacted") else clean(" ".join(job["command"]))),
        ("workdir", clean(job["workdir"])),
        ("output file", clean(job["output_file"])),
        ("error file", clean(job["error_file"])),
        ("image", _image_text(job)),
        ("mounts", clean(", ".join(job["mounts"]))),
        ("comment", clean(job["comment"])),
    ]
    why = end_lines(job["end"]) if job["end"] else reason_lines(job["reason"])
    lines = [title, *why, pairs_text(pairs, "  ")]
    if job["attempts"]:
        rows = [{**each, "where": where_text(each["nodes"])} for each in job["attempts"]]
        lines += ["", table_text(rows, ATTEMPT_COLUMNS, min(100, terminal_columns() or 100))]
        lines += [
            wrapped(f"attempt {each['number']}: {each['message']}", "  ")
            for each in (job["attempts"][:-1] if job["end"] else job["attempts"])
            if each["message"]
        ]
        lines += [
            wrapped(f"attempt {each['number']}: {_limit_waits(each)}", "  ")
            for each in job["attempts"]
            if each.get("limit_waits_for")
        ]
        lines += [wrapped(line, "  ") for each in job["attempts"] for line in step_lines(each)]
    return "\n".join(lines)


def _leased_text(job: Row) -> str:
    """Of what lives by leases, how far the one that it has goes."""
    last = job["attempts"][-1] if job["attempts"] and not job["end"] else {}
    leased, limit = last.get("leased_s"), last.get("time_limit_s")
    if not leased or leased == limit:
        return ""
    of_it = " of it" if limit else ""
    return f"paid for {seconds_text(leased)}{of_it}; renewed while the budget pays"


def deadline_text(job: Row) -> str:
    """Its deadline, and what was promised of it."""
    if not job.get("deadline"):
        return ""
    at, promise = time_text(job["deadline"]), job.get("promise")
    if promise is None:
        return f"{at}, without a promise"
    return f"{at}, {promise_text(promise)}"


def promise_text(promise: Row) -> str:
    """What was promised, or became of it."""
    state = promise["state"]
    if state == "promised":
        cost = f", for {money_text(promise['cost_at_most'])} at most" if promise["cost_at_most"] else ""
        return f"promised: it begins by {time_text(promise['starts_by'])}{cost}"
    if state == "kept":
        return "the promise was kept"
    word = "the promise was given up" if state == "given-up" else "the promise is broken"
    return f"{word}: {clean(promise['message'])}"


def _limit_text(job: Row) -> str:
    return "none: it runs until it is cancelled" if job["service"] else seconds_text(job["time_limit_s"])


def _service_text(job: Row) -> str:
    service = job["service"]
    if not service or not job["array"]:
        return ""
    more = f"`bursar service show {clean(job['name'])}`"
    return f"{replicas_text(job)} run, revision {service['revision']}; more in {more}"


def _limit_waits(attempt: Row) -> str:
    """Another time limit was asked for, and not every node has taken it."""
    waits = clean(", ".join(attempt["limit_waits_for"]))
    asked, now = seconds_text(attempt["wanted_time_limit_s"]), seconds_text(attempt["time_limit_s"])
    return f"a time limit of {asked} is not yet taken by {waits}; until then {now} is held and billed by"


def _image_text(job: Mapping[str, Any]) -> str:
    """The image, and what its newest container was of."""
    told = next((one["image_digest"] for one in reversed(job["attempts"]) if one["image_digest"]), "")
    return clean(job["image"]) + (f" ({clean(told)})" if job["image"] and told else "")


def _elapsed_text(job: Row) -> str:
    """What was held and charged; of several attempts, all of them together."""
    if job["elapsed_s"] is None:
        return ""
    return seconds_text(job["elapsed_s"]) + (", all attempts together" if len(job["attempts"]) > 1 else "")


def needs_text(job: Row) -> str:
    """What it asks for: its nodes, and of each the size, the range or the alternatives."""
    most = job["max_nodes"]
    many = f"{job['nodes']}..{most}" if most else str(job["nodes"])
    nodes = "" if many == "1" else f"{many} nodes, each "
    options = job["resources"].get("any_of") or [job["resources"]]
    if _least_gpus(job["resources"]):
        options = [job["resources"]]
    return nodes + " or ".join(resources_text(option) for option in options)


def is_estimate(job: Row) -> bool:
    """Whether what a job has cost so far rests on its price, since some of it is not metered yet."""
    cost = job["cost"]
    return bool(cost["accrued"] != cost["settled"])


def known_cost(job: Row) -> Row | None:
    """What a job has cost so far; None where none of it has a known price."""
    cost: Row = job["cost"]
    nothing = not Decimal(cost["accrued"]["amount"])
    return None if cost["unknown"] and nothing else cost["accrued"]


def cost_text(job: Row) -> str:
    """The same in words, with the part that nobody knows."""
    known = known_cost(job)
    if known is None:
        return "unknown"
    return money_text(known) + (" and an unknown part" if job["cost"]["unknown"] else "")


def _money_pairs(job: Row) -> list[Pair]:
    cost = job["cost"]
    so_far = cost_text(job)
    if is_estimate(job):
        so_far = f"~{so_far} so far (estimate; {money_text(cost['settled'])} settled)"
    if cost["unknown"]:
        so_far += f"  ({'part of it' if known_cost(job) else 'it'} ran at an unknown price)"
    live = job["state"] in ("STARTING", "RUNNING", "STOPPING")
    expected, most = cost["estimate_expected"], cost["estimate_max"]
    estimate = f"at most {money_text(most)}" if most else "unknown"
    if expected is not None:
        estimate = f"{money_text(expected)} expected, {estimate}"
    said = most is not None or job["state"] == "PENDING" or live
    return [
        ("cost", so_far),
        ("held", money_text(cost["held"]) if float(cost["held"]["amount"]) else ""),
        ("estimate", estimate if said and not job["service"] else ""),
        ("price", rate_text(job["rate_per_hour"]) if live else ""),
        ("max cost", max_cost_text(job)),
        ("budgets", clean(", ".join(each["name"] for each in job["budgets"]))),
    ]


def end_words(job: Row) -> str:
    """Of a job that failed by itself or could not start, what of: the head of its end's sentence, its signal
    or its exit code. Empty of every other job.
    """
    end = job["end"]
    if end is None or job["array"] or end["cause"] not in ("failed", "start_failed"):
        return ""
    sentence = str(end["message"])
    if signalled := re.match(r"signal (\d+)( \(SIG\w+\))?", sentence):
        return clean((signalled[2] or signalled[0]).strip(" ()"))
    head = sentence.partition(":")[0]
    if head == "failed":
        return "exit code " + str(end["exit_code"]) if end["exit_code"] else "failed"
    return clean(head) if sentence else ""


def energy_text(joules: float | None, source: str | None) -> str:
    """`1.2 kWh, measured`; empty where it is not known."""
    if joules is None:
        return ""
    amount = f"{joules:.0f} J" if joules < 3600 else f"{joules / 3_600_000:.3g} kWh"
    return f"{amount}, {source}"


def _gpus_now(job: Row) -> str:
    """A line for each device of the members that run, and one for what each member's processes draw."""
    lines = []
    for attempt in job["attempts"]:
        for node in attempt["nodes"]:
            lines += [f"{clean(node['node'])}[{gpu['index']}] {gpu_text(gpu)}" for gpu in node["gpu_samples"]]
            own = node["sample"]
            energy = energy_text(own["gpu_energy_joules"], own["gpu_energy_source"]) if own else ""
            if energy and node["gpu_limited"] and own["gpu_energy_source"] == "modelled":
                energy += " by its share, since MPS tells nothing of its clients' work"
            lines += [f"{clean(node['node'])} energy so far: {energy}"] if energy else []
            used = own["gpu_memory_used_bytes"] if own else None
            share = node["gpu_memory_share_bytes"]
            if used and share and used > share:
                why = "it goes round its limit" if node["gpu_limited"] else "nothing limits it"
                lines.append(
                    f"{clean(node['node'])} uses {size_text(used)} of device memory, more than its share of"
                    f" {size_text(share)}: {why}, and others on the device may lack it"
                )
    return "\n".join(lines)


def gpu_text(gpu: Row) -> str:
    """What one device does: `idle: sm 0 %, utilization 18 %, 1.2 GB, 130 W, 1980 MHz (power cap)`."""
    tensor, clock = gpu["tensor_ratio"], gpu["sm_clock_mhz"]
    why = [word for word in gpu["clocks_low_because"] if word != "idle"]
    words = [
        _percent("sm", gpu["sm_ratio"]),
        _percent("tensor", tensor) if tensor else "",
        _percent("utilization", gpu["utilization_ratio"]),
        size_text(gpu["memory_used_bytes"]) if gpu["memory_used_bytes"] else "",
        "" if gpu["power_watts"] is None else f"{gpu['power_watts']:.0f} W",
        "" if clock is None else f"{clock} MHz" + (f" ({', '.join(why)})" if why else ""),
        f"Xid {gpu['xid']}" if gpu["xid"] else "",
        f"{gpu['ecc_uncorrected']} ECC errors" if gpu["ecc_uncorrected"] else "",
    ]
    text = ", ".join(filter(None, words)) or "nothing is told"
    return f"idle: {text}" if gpu["idle"] else text


def _percent(name: str, ratio: float | None) -> str:
    return "" if ratio is None else f"{name} {100 * ratio:.3g} %"


def _array_text(array: Row | None) -> str:
    if array is None:
        return ""
    counts = ", ".join(f"{number} {name}" for name, number in array["counts"].items())
    return f"{plural(array['size'], 'task')}: {counts}"


def _end_text(attempt: Row) -> str:
    if attempt["end_cause"] == "preempted" and (attempt["message"] or "").startswith(REQUEUED):
        return "requeued"
    return attempt["end_cause"] or "-"


ATTEMPT_COLUMNS = (
    Column("attempt", "number", right=True),
    Column("state", drop=1),
    Column("where", shrink=True, drop=2),
    Column("elapsed", "elapsed_s", lambda row: seconds_text(row["elapsed_s"]), right=True, title="elapsed_s"),
    Column("exit", "exit_code", right=True),
    Column("end", "end_cause", lambda row: _end_text(row), wrap=True, least=20),
)


# ------------------------------------------------------------------ node, budget, server


def calibration_pairs(found: Row) -> list[Pair]:
    """What a node delivered, and since when that is known."""
    what = plural(found["devices"], "device") if found["devices"] else "its CPUs"
    rates = found["matmul_flops_per_second"].items()
    speeds = [
        (label, found[f"{name}_bytes_per_second"])
        for label, name in (
            ("memory", "memory"),
            ("all-reduce", "allreduce"),
            ("disk write", "disk_write"),
            ("read", "disk_read"),
        )
    ]
    cost = found["cost_per_pflop_day"]
    return [
        ("delivers", ", ".join(f"{name} {rate / 1e12:.4g} TFLOP/s" for name, rate in rates)),
        ("", ", ".join(f"{label} {rate / 1e9:.3g} GB/s" for label, rate in speeds if rate)),
        ("", f"{money_text(cost)} for a PFLOP-day of {found['pflop_day_precision']}" if cost else ""),
        ("calibrated", f"{time_text(found['at'])}, {what}, torch {found['torch']}, {found['job']}"),
    ]


def node_text(node: Row) -> str:
    """One node, with its devices."""
    pairs: list[Pair] = [
        ("id", node["id"]),
        ("reason", clean(node["reason"] or "")),
        ("pool", clean(node["pool"])),
        (
            "machine",
            clean(
                " ".join(
                    filter(None, (node["provider"], node["region"], node["instance_type"], node["market"]))
                )
            ),
        ),
        ("address", clean(node["address"])),
        ("cpus", f"{node['cpus_free']:g} free of {node['cpus']:g}"),
        ("memory", f"{size_text(node['memory_free_bytes'])} free of {size_text(node['memory_bytes'])}"),
        ("gpus", f"{node['gpus_free']:g} free of {node['gpus']}" if node["gpus"] else "none"),
        ("limits", ", ".join(node["limits"]) or "none is enforced: no cgroup is delegated to its agent"),
        ("price", rate_text(node["rate_per_hour"])),
        *(calibration_pairs(node["calibration"]) if node["calibration"] else []),
        ("jobs", str(node["jobs"])),
        ("labels", clean(", ".join(f"{k}={v}" for k, v in node["labels"].items()))),
        ("last seen", time_text(node["last_seen_at"])),
        ("agent", clean(node["agent_version"])),
        *_sample_pairs(node["sample"]),
    ]
    lines = [f"node {clean(node['name'])}  {state(node['state'])}", pairs_text(pairs, "  ")]
    if node["devices"]:
        columns = (
            Column("gpu", "index", right=True),
            Column("type"),
            Column("memory", show=lambda row: size_text(row["memory_bytes"]), right=True),
            Column("free", right=True),
            Column("simulated", drop=2),
            Column("uuid", drop=1),
        )
        lines += ["", table_text(node["devices"], columns, terminal_columns())]
        gpus = node["sample"]["gpus"] if node["sample"] else []
        lines += [f"  gpu {gpu['index']}  {gpu_text(gpu)}" for gpu in gpus]
    return "\n".join(lines)


def _sample_pairs(sample: Row | None) -> list[Pair]:
    if sample is None:
        return []
    power = sample["power_watts"]
    return [
        ("cpu used", f"{100 * sample['cpu_utilization_ratio']:.0f} %"),
        ("memory used", size_text(sample["memory_used_bytes"])),
        ("power", f"{power:.0f} W" if power else ""),
    ]
