"""What becomes of a file when a line is left out, or has another value: of each kind that people write.

Why     every key has a default, bounds and a sentence for what is wrong, more than anybody names in tests one
        by one. What a variation changes stands in tests/golden/variations.txt; a change of it people see.
        Written anew by `BURSAR_GOLDEN=write pytest tests/unit/test_files_varied.py`, and read then.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from foreign_files import (
    DSTACK,
    DSTACK_ONE,
    DSTACK_PLAIN,
    KUBERNETES,
    LEAST,
    NOMAD,
    PYTORCHJOB,
    RAY,
    RAY_CLUSTER,
    SKY,
    SKY_CHOICE,
)
from policy_texts import IDLE, OWNERS

from bursar.errors import BursarError
from bursar.jobfile import Caller, parse_job, parse_script
from bursar.jobfile.convert import convert
from bursar.jobfile.options import OPTIONS
from bursar.model import JobSpec
from bursar.steps import srun
from bursar.steps.request import Refused
from bursar_policies.document import parse_documents
from bursar_policies.specs import BUILT_KINDS

GOLDEN = Path(__file__).parents[1] / "golden/variations.txt"
VALUES = ("", "-1", "0", "1.5", "101", "x y", "{a: 1}", "2 USD", "50%")

JOB = """\
name: llama
project: nlp/finetune
experiment: e1
model: llama
model_version: v2
labels: {team: a, tier: b}
comment: a note
nodes: 2
resources:
  gpus: H100:80GB:4
  cpus: 16
  memory: 128GB
  constraints: {region: eu-*, node: '!bad-01', zone: 'a,b'}
spot_policy: spot
launch: torchrun
tasks_per_node: 4
time_limit: 24h
begin_after: 2026-10-01T08:00:00Z
priority: high
preemptible: false
held: true
depends_on: [7, {job: 8, when: finished}]
array: 0-9:3%2
budget:
  max_cost: 500 USD
  per: job
  max_price: 40 USD/h
  on_exceed: checkpoint-stop
checkpoint:
  signal: USR1
  grace: 2m
  before: 10m
  script_only: true
retry:
  on: [failure, preemption]
  max: 5
  avoid_same_node: true
env:
  A: b
  C: "1"
secrets: [S, {name: T, file: true}]
workdir: sub
output: o-%j-%N
error: e-%j-%N
open_mode: append
setup: make
run: python train.py
"""
CHOICE = """\
resources:
  any_of:
    - {gpus: {type: H100, count: 2, memory: 80GB}, cpus: 4}
    - {gpus: "A100|L4:0.5", memory: 64GiB}
    - gpus: {count: 1, fraction: 0.25}
  constraints: {pool: '!p'}
priority: 7
depends_on: [9]
array: {range: "1,5-7", max_parallel: 2}
retry: {never: true}
command: [python, -c, "a b"]
"""
BUDGET = """\
kind: Budget
name: vision
version: 3
effective_at: 2026-10-01
spec:
  scope: {project: research/vision, user: u, experiment: e, model: m, label: team=vision}
  limit: 5000 USD
  period: week
  timezone: Europe/Berlin
  enforcement: soft
  hold: worst-case
  carry_over: 20%
  counts_from: 2026-10-01T08:00:00Z
  thresholds:
    - {at: 80%, on: settled, do: [notify]}
    - {at: 50%, do: [notify]}
"""
MODEL = """\
kind: CostModel
name: own
spec:
  pool: p
  node_capex: 250000 USD
  useful_life: 4y
  residual: 10%
  network: 15%
  power:
    max_watts: 10200
    load_factor: 0.8
    pue: 1.3
    tariff: 0.12 USD/kWh
  colo: 140 USD/kW-month
  support: 5%/y
  staff:
    nodes_per_fte: 100
    salary: 150000 USD/y
  practical_capacity: 75%
  component_weights:
    gpu: 90
    cpu: 7
    memory: 3
  gpus:
    H100: {capex: 20000 USD, max_watts: 700}
    other: {capex: 5000 USD}
"""
BOOK = """\
kind: PriceBook
name: aws
spec:
  source: read by hand
  currency: USD
  defaults:
    provider: aws
    region: us-east-1
    market: spot
    valid_from: 2026-01-01
    valid_until: 2027-01-01
    source: a page
  component_weights: {gpu: 85, cpu: 10, memory: 5}
  prices:
    - instance_type: p5.48xlarge
      price: 55.04 USD/h
      cpus: 192
      memory: 2TiB
      gpus: H100:8
      gpu_memory: 80GB
    - {instance_type: c7, market: on-demand, price: 1 USD/h, cpus: 2, memory: 4GiB}
"""
PRIORITY = """\
kind: PriorityPolicy
name: order
spec:
  weights:
    age: 10
    fair_share: 20
    size: 3
    run_time: 4
    budget: 5
    qos: 6
  max_wait: 2d
  age_full: 3d
  age_power: 2
  share_days: 14
  shares: {nlp: 2, nlp/a: 1, cv: 3}
  max_priority: {submitter: 40, project_admin: 60, projects: {nlp: 90, nlp/a: 10}}
  short_jobs: {limit: 1h, keep: 25%}
  preempt: {gap: 20, restart: 2m}
"""
QUOTA = """\
kind: Quota
name: q
spec:
  scope: {project: nlp}
  guaranteed:
    gpus: {H100: 16, A100: 0.5}
    cpus: 2
    memory: 1TB
    spend_rate: 40 USD/h
  max:
    gpus: 32
    cpus: 256
"""
RESERVATION = """\
kind: Reservation
name: r
spec:
  nodes: 2
  where:
    pool: rack-*
  gpu_type: H100
  start: 2026-12-01T08:00:00Z
  end: 2026-12-01T12:00:00Z
  for:
    projects: [nlp/ft, cv]
    users: [ann]
  running: preempt
  reason: big run
"""
PLACEMENT = """\
kind: PlacementPolicy
name: place
spec:
  strategy: pack
  weights: {fragmentation: 3, best_fit: 1}
"""
NAMES = """\
kind: SlurmNames
name: names
spec:
  partitions:
    gpu*: {constraints: {pool: p, region: r}, time_limit: 2d}
    debug: {priority: high}
  qos:
    urgent: {priority: 90}
    scavenger: {spot_policy: spot}
  accounts:
    abc@v100: {project: nlp, gpu_type: V100}
    free: {project: cv}
"""
SERVICE = """\
name: chat
type: service
port: 8000
api: http
metering:
  units: /usage/total
balance: session(x-session)
fallback: small
replicas: 1..8
readiness_probe:
  path: /health
  interval: 5s
  timeout: 2s
  failures: 3
  start_timeout: 10m
scaling:
  metric: concurrency
  target: 4
  window: 60s
  panic_window: 6s
  up_delay: 1s
  down_delay: 5m
  zero_after: 30m
update:
  max_surge: 2
  max_unavailable: 1
  strategy: blue-green
  drain: 30s
timeouts:
  queue: 30s
  cold_queue: 5m
  first_byte: 60s
  idle: 2m
  total: 1h
run: serve
"""
DEV = """\
type: interactive
idle_policy:
  time_window: 30m
  detached: 10m
resources: {gpus: 1}
"""
POOL = """\
kind: CloudPool
name: rented
spec:
  provider: local
  regions: [home]
  zones: [home-a]
  offers:
    gpus: [H100]
    instance_types: ["p5*"]
    markets: [spot, on-demand]
  limits:
    machines: 4
    spend_rate: 40 USD/h
  keep_alive: 5m
  max_lifetime: 12h
  boot_timeout: 10m
"""
AZURE = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/g/providers"
LAUNCH = """\
    server: grpcs://bursar.example.org:7443
    ca_file: /etc/bursar/ca.pem
    bootstrap: |
      #!/bin/sh
      true
    disk: 200GiB
"""
POOLS = {
    "aws": """\
    image: ami-0123456789abcdef0
    subnet: subnet-0123456789abcdef0
    security_group: sg-0123456789abcdef0
    instance_profile: agents
    key_name: ops
""",
    "gcp": """\
    image: projects/p/global/images/family/f
    subnet: default
    service_account: a@p.iam.gserviceaccount.com
    network_tags: a,b
    external_ip: none
    disk_type: pd-balanced
""",
    "azure": f"""\
    resource_group: g
    image: Canonical:ubuntu:server:latest
    subnet: {AZURE}/Microsoft.Network/virtualNetworks/v/subnets/s
    ssh_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA
    security_group: {AZURE}/Microsoft.Network/networkSecurityGroups/s
    identity: {AZURE}/Microsoft.ManagedIdentity/userAssignedIdentities/i
    external_ip: ephemeral
    disk_type: StandardSSD_LRS
""",
}
HOOK = """\
kind: AlertChannel
name: hook
spec:
  webhook:
    url: https://alerts.example.org/hook
    token_file: token
  budgets: [nlp, "v-*"]
"""
MAIL = """\
kind: AlertChannel
name: mail
spec:
  smtp:
    host: mail.example.org
    port: 2525
    tls: tls
    from: bursar@example.org
    to: [ops@example.org, b@example.org]
    user: bursar
    password_file: mail
"""
TOPIC = """\
kind: AlertChannel
name: topic
spec:
  mqtt:
    url: mqtts://broker.example.org:8883
    topic: alerts/budgets
    user: bursar
    password_file: broker
"""
RESERVED = """\
kind: Commitment
name: reserved
spec:
  provider: aws
  type: reservation
  region: us-east-1
  instance_type: p5.48xlarge
  quantity: 2
  hourly: 30 USD/h
  upfront: 1000 USD
  start: 2026-01-01T00:00:00Z
  end: 2029-01-01T00:00:00Z
"""
PLAN = """\
kind: Commitment
name: plan
spec:
  provider: azure
  type: savings-plan
  region: eastus
  family: NDv5
  hourly: 30 USD/h
  rates:
    - instance_type: a
      rate: 3 USD/h
    - {instance_type: b, rate: 2 USD/h}
  start: 2026-01-01T00:00:00Z
  end: 2029-01-01T00:00:00Z
"""
USE = """\
kind: Commitment
name: use
spec:
  provider: gcp
  type: committed-use
  region: us-central1
  instance_type: a3-highgpu-8g
  quantity: 2
  hourly: 30 USD/h
  start: 2026-01-01T00:00:00Z
  end: 2029-01-01T00:00:00Z
"""
GPUS = """\
resources:
  gpus:
    type: [H100, A100]
    count: 2
    memory: 80GB
run: a
"""
CALLER = Caller({"HOME": "/root", "A": "b"}, datetime(2026, 11, 27, 12, tzinfo=UTC), "login")
SCRIPT = "#!/bin/bash\n#SBATCH --nodes=2 --ntasks-per-node=4 --time=1:00:00\n#SBATCH {}\nsrun true\n"
SLURM = {
    "array": ("0-9%2", "[1,5]", "1-", "9-1", "x"),
    "begin": ("now+1hour", "16:00", "tomorrow", "2026-12-01T10:00:00", "x"),
    "constraint": ("F", "F&G", "H100", "F|G", "x y"),
    "dependency": (
        "afterok:1:2",
        "afternotok:1,afterany:2",
        "after:3+5",
        "singleton",
        "afterok:1?afterany:2",
    ),
    "exclude": ("n[1-3]", "n1,n2", "[1-3"),
    "export": ("ALL", "NONE", "A", "A,Z=1", "ALL,Z=1"),
    "gres": ("gpu:2", "gpu:H100:2", "gpu:h100", "shard:1", "none"),
    "gpus": ("4", "H100:4", "3", "x:y:z"),
    "gpus-per-node": ("2", "A100:2", "x"),
    "gpus-per-task": ("1", "H100:1", "x"),
    "gpu-bind": ("single:1", "map_gpu:0,1", "closest", "x"),
    "mem": ("4G", "500", "0", "4Q"),
    "mem-per-cpu": ("2G", "x"),
    "mem-per-gpu": ("10G", "x"),
    "nodelist": ("n[1-2]", "n1", "n[1-9]"),
    "nodes": ("2", "2-4", "1,3", "4-2", "x"),
    "ntasks": ("8", "7", "0", "x"),
    "open-mode": ("append", "truncate", "x"),
    "priority": ("100", "x"),
    "signal": ("B:USR1@120", "USR1", "10@60", "R:USR1@10", "x@y"),
    "time": ("90", "1:30", "1-12", "1-12:30:10", "UNLIMITED", "x"),
    "time-min": ("1:00", "2-0"),
    "mail-type": ("END",),
}
STEPS = {
    "distribution": ("cyclic", "block:cyclic", "plane=2", "x"),
    "export": ("ALL", "NONE", "A,Z=1", "ALL,Z=1", "NIL"),
    "gpu-bind": ("single:1", "map_gpu:0,1", "single:2", "closest", "none", "x:y", "map_gpu:a"),
    "gres": ("gpu:2", "gpu:a100:1", "none", "x"),
    "kill-on-bad-exit": ("", "0", "1", "x"),
    "mpi": ("pmi2", "none", "x", "list"),
    "nodelist": ("n[1-2]", "n1", "[1"),
    "open-mode": ("a", "append", "t", "x"),
    "time": ("1", "1:30", "1-0", "x"),
    "wait": ("5", "x"),
}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """One line for each value in it."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, f"{path}.{name}" if path else str(name))
    else:
        yield f"{path}: {value!r}"


UNSAID = frozenset(leaves(JobSpec()))
"""What a job is that says nothing: not told of a file as it stands, so that a new field changes no golden."""


def job(text: str) -> Iterator[str]:
    yield from leaves(parse_job(text, "f.yaml", "/home"))


def policy(text: str) -> Iterator[str]:
    for document in parse_documents(text, "f.yaml"):
        yield from (line for line in leaves(document) if not line.startswith("text: "))


def foreign(text: str) -> Iterator[str]:
    made = convert(text, "f.yaml")
    body = [line for line in made.text.splitlines() if not line.startswith("#")]
    yield from (made.kind, *body, *(f"note: {sentence}" for _, sentence in made.notes))


def script(text: str) -> Iterator[str]:
    spec, notices = parse_script(text, "f.sh", "/home", caller=CALLER)
    yield from (line for line in leaves(spec) if not line.startswith("script: "))
    yield from map(str, notices)


def step(text: str) -> Iterator[str]:
    env = {"BURSAR_NODES": "2", "SLURM_JOB_ID": "3", "A": "b"}
    request, found = srun.request_of([*text.split(), "prog"], env)
    yield from leaves(request)
    yield from leaves(found)


def outcome(read: Callable[[str], Iterator[str]], text: str) -> list[str]:
    try:
        return list(read(text))
    except (BursarError, Refused) as error:
        return [f"! {line}" for line in str(error).splitlines()[:3]]


def variations(text: str, values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What is varied, and the text with it: each line left out, and each that has one value with others."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        yield f"without {line.strip()}", "".join(lines[:number] + lines[number + 1 :])
        match = re.fullmatch(r"([ -]*(?!kind:)\w+: )(\S.*\n)", line)
        for value in values if match else ():
            assert match is not None
            changed = f"{match[1]}{value}\n"
            what = " / ".join(changed.split("\n")).strip(" /")
            yield what, "".join([*lines[:number], changed, *lines[number + 1 :]])


def told(base: list[str], found: list[str]) -> list[str]:
    """What it has that the base has not, and what it lacks, unless all is another."""
    more, less = Counter(found) - Counter(base), Counter(base) - Counter(found)
    if found and found[0].startswith("! "):
        return found
    return [f"+ {line}" for line in found if line in more] + [f"- {line}" for line in base if line in less]


FILES: dict[str, tuple[Callable[[str], Iterator[str]], str, tuple[str, ...]]] = {
    "job": (job, JOB, VALUES),
    "job of choices": (job, CHOICE, VALUES),
    "Budget": (policy, BUDGET, VALUES),
    "CostModel": (policy, MODEL, VALUES),
    "PriceBook": (policy, BOOK, VALUES),
    "PriorityPolicy": (policy, PRIORITY, VALUES),
    "Quota": (policy, QUOTA, VALUES),
    "Reservation": (policy, RESERVATION, VALUES),
    "PlacementPolicy": (policy, PLACEMENT, VALUES),
    "SlurmNames": (policy, NAMES, VALUES),
    "IdlePolicy": (policy, IDLE, VALUES),
    "Attribution": (policy, OWNERS, (*VALUES, "60%", "even", "shares", "[idle, idle]")),
    "service": (job, SERVICE, (*VALUES, "5s", "20d", "start_timeout", "auto", "0..0")),
    "interactive": (job, DEV, (*VALUES, "5s", "true")),
    "CloudPool": (policy, POOL, (*VALUES, "5s", "20d", "aws")),
    "AlertChannel by webhook": (policy, HOOK, (*VALUES, "http://a.example.org/", "https://u:p@a/")),
    "AlertChannel by mail": (policy, MAIL, (*VALUES, "none", "starttls", "localhost", "65536")),
    "AlertChannel by broker": (
        policy,
        TOPIC,
        (*VALUES, "mqtt://a", "mqtt://localhost", "mqtts://a/b", "a/#"),
    ),
    "Commitment of machines": (policy, RESERVED, (*VALUES, "gcp", "savings-plan", "2026-01-01T00:30:00Z")),
    "Commitment of money": (policy, PLAN, (*VALUES, "1 EUR/h", "2036-01-02T00:00:00Z")),
    "Commitment of use": (policy, USE, (*VALUES, "2025-01-01T00:00:00Z")),
    "SkyPilot": (foreign, SKY, ("0", "x y", "[a, b]", "{a: 1}")),
    "SkyPilot with a choice": (foreign, SKY_CHOICE, ()),
    "dstack": (foreign, DSTACK, ("0", "x y", "[a, b]", "{a: 1}")),
    "dstack, plain": (foreign, DSTACK_PLAIN, ()),
    "dstack, one": (foreign, DSTACK_ONE, ()),
    "Kubernetes": (foreign, KUBERNETES, ("0", "1", "x y")),
    "PyTorchJob": (foreign, PYTORCHJOB, ("0",)),
    "Ray": (foreign, RAY, ("0", "x y", "[a, b]")),
    "Ray cluster": (foreign, RAY_CLUSTER, ("0", "1")),
    "Nomad": (foreign, NOMAD, ()),
    "GPUs": (
        job,
        GPUS,
        (*VALUES, "1\n    name: b", "1\n    vendor: b", "1\n    mig: b", "1\n    fraction: 0.5"),
    ),
} | {f"{name}, least": (foreign, text, ()) for name, text in LEAST.items()}
for _provider, _launch in POOLS.items():
    _text = POOL.replace("provider: local", f"provider: {_provider}") + "  launch:\n" + LAUNCH + _launch
    FILES[f"CloudPool of {_provider}"] = policy, _text, ("", "-1", "x y", "{a: 1}", "[a]")


def options(table: Any, values: dict[str, tuple[str, ...]], form: str) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(option.name for option in table):
        for value in values.get(name, ("2",)):
            words = f"--{name}={value}" if value else f"--{name}"
            yield words, form.format(words)
        yield f"--{name}", form.format(f"--{name}")


@pytest.mark.parametrize("name", [*FILES, "#SBATCH", "srun"])
def test_each_variation_of_a_file_becomes_what_it_became(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # what is said of directories does not depend on where the tests are run
    if name in FILES:
        read, text, values = FILES[name]
        varied = variations(text, values)
    elif name == "srun":
        read, text, varied = step, "-n 2", options(srun.TABLE, STEPS, "-n 2 {}")
    else:
        read, text = script, SCRIPT.format("").replace("#SBATCH \n", "\n")
        varied = options(OPTIONS.values(), SLURM, SCRIPT)
    base = outcome(read, text)
    found = [f"=== {name}", *(line for line in base if read not in (job, script) or line not in UNSAID)]
    for what, changed in varied:
        found += [f"--- {what}", *told(base, outcome(read, changed))]
    sections = {part.partition("\n")[0]: f"=== {part}" for part in kept().split("=== ")[1:]}
    if os.environ.get("BURSAR_GOLDEN") == "write":
        sections[name] = "\n".join(found) + "\n"
        GOLDEN.write_text("".join(sections[each] for each in sorted(sections)))
    assert found == sections[name].splitlines(), "see the head of this file"


def test_every_kind_of_document_is_varied() -> None:
    held = "".join(text for _, text, _ in FILES.values())
    assert [kind for kind in BUILT_KINDS if f"kind: {kind}\n" not in held] == []


def kept() -> str:
    return GOLDEN.read_text() if GOLDEN.exists() else ""
