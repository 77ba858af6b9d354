"""Writes docs/jobfile.md and docs/policies.md from the schemas, docs/api.md from the comments of proto/,
docs/errors.md from the words for ends, reasons and errors.

Run     make docs  (python docs/generate_pages.py); with --check it only says whether the pages are true.
Why     each key, each call and each field is described once, where the program has it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bursar.cli.ends import NEVER_STARTS
from bursar.clock import HOUR_US
from bursar.errors import BursarError
from bursar.model import EndCause, EndFacts, Step, Steps, remedy_of, sentence_of
from bursar.model.ends import (
    IMAGE,
    IMAGE_DENIED,
    IMAGE_DISK,
    IMAGE_NOT_FOUND,
    IMAGE_UNREACHABLE,
    OUTPUT_FILE,
    SAID,
    SUPERVISOR_LOST,
    WORKDIR,
)
from bursar.model.reason import MEANINGS, MEANINGS_LIVE
from bursar.schemas import job_schema, policy_schema

DOCS = Path(__file__).parent
PROTO = DOCS.parent / "proto/bursar/v1"
Schema = Mapping[str, Any]

JOB_HEAD = """# The job file

Written by `make docs` from the schema that `bursar schema job` prints; a test fails when they differ.

`bursar submit train.yaml` reads one YAML file per job, at most 64 kB, UTF-8, without anchors, aliases, tags
and merge keys. Unknown keys are refused with the nearest right name, every fault with its line. Scalars are
taken as they are written: `version: 010` is `010`. Durations are `90s`, `15m`, `24h`, `7d`, `1h30m`; sizes
`128GB` (10^9) or `128GiB` (2^30); money `500 USD`; times `2026-10-01T08:00:00Z` or a date. Flags of
`submit` stand above what the file says, and have the same names. In editors with a YAML language server,
`bursar schema job > bursar-job.json` and a first line `# yaml-language-server: $schema=bursar-job.json`
check a file while it is typed.

```yaml
name: llama-ft
project: nlp/finetune
nodes: 4                                    # a gang: all or nothing
resources: {gpus: H100:8, cpus: 16, memory: 128GB}   # of each node
time_limit: 24h
budget: {max_cost: 500 USD, on_exceed: checkpoint-stop}
checkpoint: {signal: USR1, grace: 2m}
retry: {on: [preemption, node-failure], max: 3}
env: {HF_HOME: /data}
setup: pip install -r requirements.txt
output: logs/%x-%j.%N.out                   # beside the log that `bursar logs` shows
run: torchrun --nnodes $NNODES --node-rank $NODE_RANK train.py
```

Exactly one of `run` and `command` is needed, nothing else (`type: interactive` needs neither). `run` and
`setup` are read by `bash -n` (or the shell of their `#!` line) of the machine that submits, which runs
nothing of them: what it cannot read is
refused with its line. What the job finds around it: [its
environment](environment.md). Keys of the contract that are not built yet (`base_on_demand_replicas`,
`spot`, `engine`, `gateway`) are refused by name.

## Ranges of sizes

`nodes: 2..8` is a gang of at least two nodes and at most eight, and `gpus: H100:2..8` two to eight GPUs
on one node: 8, 4 or 2, its ends and the powers of two between them. Such a job starts as soon as its
least size has room and is paid for, as the largest size that can start at that time, and keeps it until
the attempt ends; another attempt may have another. With both, nodes are added that have the most GPUs.
Each attempt finds its own size in `BURSAR_NODES`, `NNODES`, `WORLD_SIZE` and `BURSAR_GPUS`. Its budgets
hold for the size that starts, and with what is left of them, and with its quotas, it is as large as they
allow; `max_cost` buys it no larger size for a shorter time. `bursar plan` tells what would start, and the
worst case of the largest. `#SBATCH -N 2-8` is the same range.

`throughput: {A100: 1, H100: 2.6, A100x4: 3.1}` says how fast the job is on GPUs of a type, or on so many
of them in all; what is not said is 1. By itself it changes nothing of where a job goes. Where a
`PlacementPolicy` names an [allocator](allocators.md), that decides every round how large such a job runs,
and it is stopped and started anew at its next size.
"""
POLICY_HEAD = """# Policy documents

Written by `make docs` from the schema that `bursar schema policy` prints; a test fails when they differ.

`bursar policy check FILE…` validates, `bursar policy apply FILE…` applies all documents of all files or
none. A file may hold several, separated by `---`. An applied document is in force until a newer one of its
kind and name, or `bursar policy rm`; the past is never priced again. Who applied what and when is kept:
`bursar policy show NAME`, `bursar policy diff FILE`. How waiting jobs are
ordered: [priority](priority.md); what a project or a user may hold at a time: [quotas](quotas.md); nodes that
are kept for a window of time: [reservations](reservations.md); what becomes of jobs that do not use what they
hold: [idle policies](idle.md); whose costs are: [teams and cost centres](attribution.md). Keys of the
contract that are not built yet are refused by name.

```yaml
kind: Budget
name: vision-month
spec:
  scope: {project: research/vision}
  limit: 5000 USD
  period: month
  enforcement: hard
  thresholds:
    - {at: 80%, do: [notify, lower-priority]}
    - {at: 100%, do: [hold-queue]}
  carry_over: 20%
```

## Whose jobs spend a budget

All that the scope names must match. Who a job's user is, and which projects he may submit to, the daemon
knows ([security](security.md#where-roles-come-from)); its `experiment`, `model` and labels are whatever its
submitter writes. So a budget whose scope names neither a project nor a user is spent by jobs of anybody, in
any project, that say so, and a hard one that is used up keeps all of them waiting: `policy check` and
`policy apply` note it. `scope: {project: research/vision, experiment: e1}` counts the jobs of that project
alone. A job of another project that says `e1` is paid for by the budgets of its own project, or by none:
what each project may spend is bounded by a budget of that project.

## What a budget has beside its limit

The *limit in force* of a period is the document's limit, and what was granted, transferred and carried over
in that period: `limit` and `base_limit` in JSON, the parts and each posting with who and why in `budget
show NAME`. Thresholds are shares of the limit in force, so that a grant arms them again as a raised limit
does.

- `bursar budget grant NAME 500 USD --reason TEXT` gives it more until its period ends; `--take-back` takes
  back what was granted by mistake. `bursar budget transfer FROM TO 200 USD --reason TEXT` lets one budget
  have what another gives. Both are for finance, operators and administrators, of a project for the budgets
  of that project. With `--idempotency-key` the same request gives once. Nothing that is settled changes; a
  hard budget keeps what it has settled and holds; a soft one may give all that its limit is. Where one
  budget covers the other's jobs too, the wider one has less all the same.
- What was given is of the budget's name and its period: it stays when the document changes, or is removed
  and applied again, and a document is refused whose limit with it is below what is settled and held. The
  next period begins without it.
- `carry_over: 20%` lets so much of what is left at the end of a period go on into the next, `carry_over:
  500 USD` all of it up to that. What is left is the limit in force less what is settled and what jobs hold
  at that moment; rests of earlier periods that were carried over and not used are part of it, and periods
  in which the daemon did not run leave their rest too. Of a change of the rule the next end of a period is
  the first that knows.
- What is used before the end of a period and told after it settles in the old period, for which the holds
  of its jobs have room, and changes nothing that was carried. Corrections are of the period in which they
  are booked.
- Jobs may hold more than the new period of a hard budget has, when the old one was granted more: as much as
  is missing is carried over with them, whatever `carry_over` says.

## Rolling budgets

`period: rolling-30d` (from `rolling-1d` to `rolling-366d`) limits what any so many days in a row cost, today
among them, in the days of its `timezone`. At each midnight the oldest day leaves the window, and what it
cost is free again; what jobs hold goes on with them. `budget show` tells what the window has settled and
since when, `budget history` the window as it was on each day. What a correction or `ledger retag` takes
back is taken back on the day of the correction: once the corrected day has left the window, as much more
than the limit may be spent until that day leaves too.

- What is granted or transferred counts as long as the day of the grant is in the window. Where a hard budget
  has spent or still holds money of a grant whose day leaves, as much stays granted, as a posting that says
  so: time alone passes no limit.
- A threshold is announced once while it is passed; when the window has fallen below it at a midnight, it is
  armed again, and what was approved ends.
- `carry_over` and thresholds `on: forecast` are refused: nothing is left over at the end of a window, and it
  has no end to look forward to.

## What a start holds

A hard budget pays for nothing that it has not set aside before. What a job holds in its budgets when it
starts is their `hold`:

- `worst-case`: its whole time limit, its grace and five seconds. It starts when that can be paid, and always
  goes on to its end.
- `lease`: the next `lease: 15m` (from 10s to 7d) of it, its grace and five seconds. When half of a lease is
  used it is given a whole one again, while its nodes are in contact and the budget has as much, or at least
  a quarter. With the last one it gets its checkpoint signal and its grace, and ends with the cause `budget`
  before the limit is passed. Its node does that by itself: so it also ends where nobody can renew, because
  the daemon is dead or cut off for longer than half of a lease.

- `expected`: as long as nine of ten runs like it took (p90), and no less than a lease; beyond that it goes on
  by leases. Alike are jobs of one project and of one name, but for the numbers in it, that ask for the same
  on as many nodes; the last 32 of those that succeeded count, looked up when the job is submitted. Where
  fewer than three are known, the worst case is held.

Of a job with several hard budgets the most careful decides: the worst case before what is expected, that
before a lease, the shorter lease before the longer. The `max_cost` of a whole array is held for in full. A
job that asks to be warned so long before its limit (`checkpoint: {before: 5m}`) has leases that are so much
longer, and is warned when its last one ends. `plan` tells what is held at the start and what the job may
cost at most, `show` how far it is paid for. What runs keeps what it was placed with when `hold` changes.
Jobs that start take money that those that run may need for their next lease: `{at: 90%, on: settled+held,
do: [hold-queue]}` keeps the rest for these.

## What thresholds do

A threshold is passed when what is `settled`, `settled+held`, or what is expected to be settled at the end of
the period (`forecast`, its p50: [forecasts](forecast.md)) reaches its share of the limit in force. That
is one event (`threshold-crossed`) with the numbers, once for each limit and period, whatever is restarted.
What it does beside `notify` is a *stage* of the budget, in force from then on; another limit in force (a
changed document, a grant) and the next period end it and arm the threshold again. `budget show NAME` names
the stages in force and what ends them, `explain JOB` the one that a job waits for.

- `notify`: tells. The event stands in `events` and in the daemon's log, and each `AlertChannel` that hears
  of the budget gets it: by a webhook, a mail or a broker.
- `lower-priority`: its jobs come behind all others: they have 101 less than they ask for. A PriorityPolicy
  that weighs `qos` weighs that.
- `spot-only`: its jobs start on nodes of the market `spot` alone; those that ask for `on-demand` wait. It is
  refused where no node is of that market.
- `hold-queue`: none starts any more.
- `approval`: none starts until somebody approves.
- `checkpoint-stop`: what runs gets its checkpoint signal and its grace, and ends with the cause `budget`;
  none starts any more.

Soft budgets have stages as hard ones do. `lower-priority`, `spot-only` and `hold-queue` on `settled+held`
rest while so much is given back that the share is not reached; `approval` and `checkpoint-stop` stay, and so
does whatever is on `forecast`: what it does bends the forecast, and would end itself. Forecasts are looked at
once a minute, and at once when a limit changes.

`bursar budget approve NAME --reason TEXT` lets jobs start again that a passed threshold keeps waiting for an
approval: until its period ends or its limit is another, with `--until TIME` no longer than that, with
`--amount "500 USD"` until so much more is settled and held. It is for project-admins (of budgets of their
project), operators and administrators, and stands among the postings with who and why. A further threshold
asks again.

```yaml
kind: AlertChannel
name: finance
spec:
  smtp: {host: mail.example.org, from: bursar@example.org, to: [finance@example.org]}
  budgets: [vision-*]
  anomalies: [vision]
```

An `AlertChannel` tells by one of `webhook` (POST of JSON), `smtp` and `mqtt` (JSON, QoS 1), of all budgets
or of those it names; with `anomalies` also of days and runs of those projects, and of all below them, that
cost more than their like ([anomalies](forecast.md#anomalies)), and of budgets only where it names some.
What is secret is named as a file, mode 0600, in the directory `alert_secrets` of the
daemon's settings (beside the state directory), and stands in no document, event or log. Alerts are sent by
threads of their own and tried five times within about three minutes; one that nobody takes is given up with
an error in the daemon's log, and one that was under way when the daemon stopped is not sent again: the
event is what is kept. JSON: `id` (the same whenever it is tried again), `cluster`, `at`, `budget`,
`percent`, `on`, `limit`, `settled`, `held`, `currency`, `do`, `text`; of an anomaly `id`, `cluster`, `at`,
`anomaly` (`day` or `run`), `project`, `day`, `job`, `cost`, `usual`, `currency`, `lines`, `text`.

## A tariff by the hour

```yaml
kind: CostModel
name: rack-a
spec:
  pool: rack-a
  node_capex: 300000 USD
  useful_life: 5y
  power:
    max_watts: 10200
    load_factor: 0.6
    timezone: Europe/Berlin
    tariff:
      - {price: 0.30 USD/kWh}
      - {days: mon-fri, hours: "0-6,22-24", price: 0.10 USD/kWh}
      - {days: "sat,sun", price: 0.05 USD/kWh}
```

Every hour of the week has one price: where several entries name it, that of the last; an hour that none
names is refused. Hours and days are those that the clocks of `timezone` show (UTC without one): when
these are set, a day has the 23 or 25 hours that it has. The *cost* rate of a node changes where the
tariff does, and the books are cut there. What jobs *pay* goes by the mean of a week, so that it does not
hang on the hour of their start; the difference is absorption. `prices explain` tells the energy of now
and the mean, `report energy` values each hour at its tariff, `whatif` tries another one at what jobs
would pay. Each change is one event a node.
"""
API_HEAD = """# The API

Written by `make docs` from the comments in `proto/bursar/v1`; a test fails when they differ.

gRPC, package `bursar.v1`, on the daemon's unix socket and over TLS. Every call carries `authorization:
Bearer TOKEN`; on the unix socket `auth.sock`, beside it, gives a short token for the caller's uid. Refusals
carry a `google.rpc.ErrorInfo` of domain `bursar` whose `reason` is the class in `bursar.errors`. Money is
integer nanos with a currency beside it, instants (`*_at`) are microseconds since 1970 in UTC with 0 for
"not yet", durations (`*_us`) microseconds. Fields are only ever added. From Python use [the
client](sdk.md), which takes all of this away.
"""
ERRORS_HEAD = """# Errors, reasons, ends

Written by `make docs` from the classes and tables that say them; a test fails when they differ.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | the job, or what was waited for, failed or can never start; or a check found something |
| 2 | the command line, job file or policy is wrong; the message names file, line and the nearest right name |
| 3 | refused: budget, quota or permission; the message has the numbers |
| 4 | not found |
| 5 | the server cannot be reached or is not ready |
| 124 | `wait` ran past `--timeout` |
| other | `--follow` ends as its job did: its exit code, 128 + N for signal N |
"""


# ------------------------------------------------------------------ schemas


def tables(schema: Schema, path: str = "") -> Iterator[str]:
    """A table of the keys of a mapping, then one for each mapping below it."""
    yield "| key | form | default | meaning |\n|---|---|---|---|"
    needed = schema.get("required", ())
    for key, value in schema["properties"].items():
        default = json.dumps(value["default"]).strip('"') if "default" in value else ""
        shown, star = f"`{default}`" if default else "", " (needed)" if key in needed else ""
        yield f"| `{key}`{star} | {form(value)} | {shown} | {cell(value['description'])} |"
    for key, value in schema["properties"].items():
        for below in mappings(value):
            yield f"\n### `{path}{key}`\n"
            yield from tables(below, f"{path}{key}.")


def mappings(value: Schema) -> Iterator[Schema]:
    """The mappings with fixed keys that a value may be, also as an element of a list."""
    if "properties" in value:
        yield value
    for one in value.get("anyOf", ()):
        if isinstance(one, dict):
            yield from mappings(one)
    if value.get("type") == "array":
        yield from mappings(value["items"])


def form(value: Schema) -> str:
    """What a value may be, in a few words."""
    if "enum" in value:
        return cell(", ".join(f"`{word}`" for word in value["enum"]))
    if "examples" in value:
        return ", ".join(f"`{example}`" for example in value["examples"])
    kind = value.get("type")
    if kind in ("integer", "number"):
        if "exclusiveMaximum" in value:
            return f"above {value['exclusiveMinimum']}, below {value['exclusiveMaximum']}"
        low, high = value.get("minimum"), value.get("maximum")
        return f"{low} to {high}" if high is not None else f"{low} or more"
    if kind == "array":
        return f"list of {form(value['items'])}"
    if kind == "object":
        return "mapping"
    if "anyOf" in value and kind is None:
        return " or ".join(dict.fromkeys(form(one) for one in value["anyOf"]))
    return {"boolean": "`true`, `false`"}.get(str(kind), "text")


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def policies() -> Iterator[str]:
    """The envelope, then each kind."""
    schema = policy_schema()
    yield from tables(schema)
    for one in schema["allOf"]:
        kind = one["if"]["properties"]["kind"]["const"]
        spec = one["then"]["properties"]["spec"]
        yield f"\n## {kind}\n\n{spec['description']}\n"
        yield from tables(spec, "spec.")


# ------------------------------------------------------------------ the wire


LINE = re.compile(
    r"^\s*(?:(rpc) (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);"
    r"|((?:repeated |optional )?(?:map<[^>]+>|\w+)) (\w+) = \d+;)\s*(?://\s*(.*))?$"
)


def api() -> Iterator[str]:
    """Each file: its services with their calls, then its messages with their fields."""
    for path in sorted(PROTO.glob("*.proto")):
        if path.stem == "agents":
            continue  # between our own programs; no promise to others
        yield from _file(path.stem, path.read_text("utf-8").splitlines())


def _file(stem: str, lines: list[str]) -> Iterator[str]:
    head = " ".join(line[3:] for line in lines[: lines.index('syntax = "proto3";')])
    yield f"\n## {stem}.proto\n\n{head}\n"
    said: list[str] = []
    for line in lines[lines.index('syntax = "proto3";') + 1 :]:
        opened = re.match(r"^(service|message) (\w+) \{(\})?", line)
        found = LINE.match(line)
        if opened:
            yield from _opened(opened[1], opened[2], " ".join(said), empty=bool(opened[3]))
        elif found:
            yield _row(found, " ".join(said))
        comment = re.match(r"^\s*// ?(.*)", line)
        said = [*said, comment[1]] if comment else []


def _opened(kind: str, name: str, said: str, *, empty: bool) -> Iterator[str]:
    yield f"\n### {kind} {name}\n" + (f"\n{said}\n" if said else "")
    if not empty:
        head = ("call", "takes", "answers") if kind == "service" else ("field", "type")
        yield f"| {' | '.join((*head, 'meaning'))} |\n|{'---|' * (len(head) + 1)}"


def _row(found: re.Match[str], said: str) -> str:
    rpc, call, many, takes, streamed, answers, kind, field, beside = found.groups()
    meaning = cell(" ".join(filter(None, (said, beside))))
    if rpc:
        many, streamed = ("stream of " if each else "" for each in (many, streamed))
        return f"| `{call}` | {many}`{takes}` | {streamed}`{answers}` | {meaning} |"
    return f"| `{field}` | `{kind}` | {meaning} |"


# ------------------------------------------------------------------ errors


SAMPLE: dict[str, Any] = {"job": "12", "rank": 1, "members": 2, "node": "n-2"}
ENDS = (
    EndFacts(**SAMPLE, cause=EndCause.OUT_OF_MEMORY, exit_code=137, signal=9, memory_bytes=64 * 10**9),
    EndFacts(**SAMPLE, cause=EndCause.TIME_LIMIT, exit_code=143, time_limit_us=2 * HOUR_US),
    EndFacts(job="12", cause=EndCause.BUDGET, exit_code=143, detail="budget.max_cost was reached"),
    EndFacts(**SAMPLE, cause=EndCause.NODE_LOST),
    EndFacts(job="12", cause=EndCause.PREEMPTED),
    EndFacts(job="12", cause=EndCause.IDLE),
    EndFacts(job="12", cause=EndCause.CANCELLED),
    EndFacts(job="12", cause=EndCause.FAILED, started=False, detail="job 11 failed"),
    EndFacts(**SAMPLE, cause=EndCause.START_FAILED, detail="cannot write the script: disk is full"),
    EndFacts(**SAMPLE, cause=EndCause.START_FAILED, detail="no account of user ann on this node"),
    *(
        EndFacts(**SAMPLE, cause=EndCause.IMAGE_FAILED, detail=f"{words}: ghcr.io/acme/train:1: {said}")
        for words, said in (
            (IMAGE_DENIED, "unauthorized"),
            (IMAGE_NOT_FOUND, "manifest unknown"),
            (IMAGE_UNREACHABLE, "dial tcp: i/o timeout"),
            (IMAGE_DISK, "no space left on device"),
            (IMAGE, "it ended with 125"),
        )
    ),
    EndFacts(
        **SAMPLE, cause=EndCause.FAILED, exit_code=126, detail=f"{WORKDIR} '/data': No such file or directory"
    ),
    EndFacts(
        **SAMPLE,
        cause=EndCause.FAILED,
        exit_code=126,
        detail=f"{OUTPUT_FILE} '/out/12.log': No space left on device",
    ),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=127, detail="no such command: trian"),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=126),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=4, detail="setup failed"),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=137, signal=9),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=139, signal=11),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=143, signal=15),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, exit_code=3),
    EndFacts(**SAMPLE, cause=EndCause.FAILED, detail=f"{SUPERVISOR_LOST}; the job's processes were killed"),
    EndFacts(**SAMPLE, cause=EndCause.FAILED),
    EndFacts(
        job="12",
        cause=EndCause.COMPLETED,
        exit_code=0,
        steps=Steps(total=3, failed=1, told=(Step(number=1, state="failed", name="python", exit_code=1),)),
    ),
    EndFacts(job="12", cause=EndCause.COMPLETED, exit_code=0),
)
"""One end of each kind."""


def errors() -> Iterator[str]:
    """How a job ends, why one waits, and what a call is refused with."""
    yield "## How a job ends\n\n`end` in the JSON of a job has `cause`, `rank` (of a gang, who failed first),"
    yield "`exit_code`, `signal`, `message`, `remedy`; of an array `failed_tasks`. Each kind by an example:\n"
    yield "| `cause` | `message` | `remedy` |\n|---|---|---|"
    for end in ENDS:
        yield f"| `{end.cause.value}` | {cell(sentence_of(end))} | {cell(remedy_of(end))} |"
    yield "\nOf one that failed by itself `show`, `explain`, `wait` and `--follow` also tell what its last"
    yield "lines say, where they are of these (of several the one that is said last):\n"
    yield "| among the last lines | what is told |\n|---|---|"
    for pattern, told in SAID:
        words = (word.replace(r"\b", "").replace(r"\.", ".") for word in pattern.split("|"))
        yield f"| {', '.join(f'`{word}`' for word in words)} | {cell(told)} |"
    yield "\n## Why a job waits\n\n`bursar explain JOB` has the numbers and the remedy.\n"
    yield "| `reason.code` | meaning | `--follow` and `--wait` |\n|---|---|---|"
    for code, meaning in MEANINGS.items():
        waits = "end, exit code 1" if code in NEVER_STARTS else "wait"
        yield f"| `{code.value}` | {meaning} | {waits} |"
    yield "\n## Why a job that has its place may not go on\n\nOf one that is `STARTING`, `RUNNING` or"
    yield "`STOPPING`. `show`, `explain` and `ls` say it; `wait`, `--wait` and `--follow` once when it"
    yield "becomes so, and once when it is over. The job is not ended: its processes may still run.\n"
    yield "| `reason.code` | meaning |\n|---|---|"
    for code, meaning in MEANINGS_LIVE.items():
        yield f"| `{code.value}` | {meaning} |"
    yield "\n## Refusals\n\nClasses of `bursar.errors`, by the `reason` on the wire. Again: whether the same"
    yield "call may succeed later as it is.\n"
    yield "| `reason` | status | exit code | again | meaning |\n|---|---|---|---|---|"
    for kind in _error_classes(BursarError):
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        again = "yes" if kind.transient else "no"
        yield f"| `{kind.reason}` | `{kind.status}` | {kind.exit_code} | {again} | {meaning} |"


def _error_classes(kind: type[BursarError]) -> Iterator[type[BursarError]]:
    for below in kind.__subclasses__():
        if below.__module__ == BursarError.__module__:
            yield below
            yield from _error_classes(below)


# ------------------------------------------------------------------ writing


def pages() -> dict[str, str]:
    """Every page by its name."""
    return {
        "jobfile.md": "\n".join((JOB_HEAD, "## Keys\n", *tables(job_schema()), "")),
        "policies.md": "\n".join((POLICY_HEAD, "## Every document\n", *policies(), "")),
        "api.md": "\n".join((API_HEAD, *api(), "")),
        "errors.md": "\n".join((ERRORS_HEAD, *errors(), "")),
    }


def main() -> int:
    """Write, or with --check compare: 1 when a page is out of date."""
    wrong = 0
    for name, text in pages().items():
        path = DOCS / name
        if "--check" not in sys.argv[1:]:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            print(f"docs/{name} is not what the program says: run make docs", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
