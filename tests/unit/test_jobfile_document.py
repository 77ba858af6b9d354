"""Right job files: what each field becomes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bursar.clock import DAY_US, SECOND_US, parse_instant
from bursar.jobfile import parse_job, spec_to_yaml
from bursar.model import ArraySpec, CheckpointSpec, Dependency, JobSpec, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest

GB = 10**9

CONTRACT = """\
type: job                     # job | service | interactive
name: llama-ft
project: nlp/finetune         # a path; owns quota and budget
experiment: exp-42
model: llama-3-8b
model_version: v7
labels: {cost-center: R-1234}
priority: normal              # low | normal | high | 0..100
preemptible: true
nodes: 4                      # a gang: all or nothing
resources:                    # per node
  gpus: H100:8
  cpus: 16+                   # "16+" and "16.." both
  memory: 128GB+
  any_of: [{gpus: H100:8}, {gpus: A100:8}]
  constraints: {zone: eu-*, node: "!bad-01", topology: any}
spot_policy: auto             # spot | on-demand | auto
time_limit: 24h
begin_after: 2026-10-01T08:00:00Z
depends_on: [{job: prep, when: succeeded}]
array: {range: 0-99, max_parallel: 10}
budget: {max_cost: 500 USD, max_price: 40 USD/h, on_exceed: checkpoint-stop}
checkpoint: {signal: USR1, grace: 120s}
retry: {on: [preemption, node-failure, out-of-memory], max: 3, avoid_same_node: true}
env: {HF_HOME: /data}
workdir: .
setup: pip install -r requirements.txt
run: torchrun --nnodes $NNODES --node-rank $NODE_RANK train.py
"""


def parse(text: str, base_dir: str = "/home/u") -> JobSpec:
    return parse_job(text, "job.yaml", base_dir)


def option(resources: str) -> ResourceRequest:
    (only,) = parse(f"run: x\nresources: {resources}\n").options
    return only


def test_the_job_file_of_the_contract_reads_as_it_says() -> None:
    def size(kind: str) -> ResourceRequest:
        return ResourceRequest(GpuRequest(8, (kind,)), 16_000, 128 * GB)

    assert parse(CONTRACT) == JobSpec(
        name="llama-ft",
        project="nlp/finetune",
        experiment="exp-42",
        model="llama-3-8b",
        model_version="v7",
        labels=(("cost-center", "R-1234"),),
        nodes=4,
        options=(size("H100"), size("A100")),
        constraints=(("node", "!bad-01"), ("zone", "eu-*")),
        time_limit_us=DAY_US,
        begin_after=parse_instant("2026-10-01T08:00:00Z"),
        depends_on=(Dependency("prep"),),
        array=ArraySpec(tuple(range(100)), 10),
        max_cost_nanos=500 * 10**9,
        max_cost_per="job",
        max_price_nanos_per_hour=40 * 10**9,
        currency="USD",
        on_exceed="checkpoint-stop",
        checkpoint=CheckpointSpec("USR1", 120 * SECOND_US),
        retry=RetrySpec(("preempted", "node_lost", "out_of_memory"), 3, True),
        env=(("HF_HOME", "/data"),),
        script="torchrun --nnodes $NNODES --node-rank $NODE_RANK train.py",
        setup="pip install -r requirements.txt",
        workdir="/home/u",
    )


def test_a_command_alone_is_a_job_in_the_directory_of_the_caller() -> None:
    assert parse("run: echo hi\n") == JobSpec(script="echo hi", workdir="/home/u")
    assert parse(b"command: [python, -c, 'print(1)']\n").command == ("python", "-c", "print(1)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("H100:8", GpuRequest(8, ("H100",))),
        ("h100", GpuRequest(1, ("H100",))),
        ("8", GpuRequest(8)),
        ("any:2", GpuRequest(2)),
        ("A100:80GB:4", GpuRequest(4, ("A100",), memory_bytes=80 * GB)),
        ("A100:80GiB:4", GpuRequest(4, ("A100",), memory_bytes=80 * 2**30)),
        ("80GB:2", GpuRequest(2, memory_bytes=80 * GB)),
        ("H100:0.5", GpuRequest(1, ("H100",), milli=500)),
        ("0.125", GpuRequest(1, milli=125)),
        ("H100|A100:4", GpuRequest(4, ("H100", "A100"))),
        ("{type: [A100, H100], count: 8, memory: 80GB}", GpuRequest(8, ("A100", "H100"), 1000, 80 * GB)),
        ("{type: A100, fraction: 0.5}", GpuRequest(1, ("A100",), 500)),
        ("{count: 2, memory: 24GB+}", GpuRequest(2, memory_bytes=24 * GB)),
        ("0", None),
        ("{count: 0}", None),
    ],
)
def test_each_form_of_a_gpu_request(text: str, expected: GpuRequest | None) -> None:
    quoted = text if text.startswith("{") else f"'{text}'"
    assert option(f"{{gpus: {quoted}}}").gpus == expected


@pytest.mark.parametrize(
    ("text", "milli"), [("16", 16_000), ("16+", 16_000), ("16..", 16_000), ("0.5", 500), ("'16+'", 16_000)]
)
def test_each_form_of_cpus(text: str, milli: int) -> None:
    assert option(f"{{cpus: {text}}}").cpu_milli == milli


def test_memory_takes_both_units_and_at_least() -> None:
    assert option("{memory: 1.5TB}").memory_bytes == 1500 * GB
    assert option("{memory: 64GiB..}").memory_bytes == 64 * 2**30
    assert option("{mem: 2GB}").memory_bytes == 2 * GB


def test_alternatives_override_the_base_and_keep_what_they_do_not_name() -> None:
    spec = parse("run: x\nresources: {cpus: 4, memory: 8GB, ordered: [{gpus: L4:1}, {cpus: 32}]}\n")
    assert spec.ordered
    assert spec.options == (
        ResourceRequest(GpuRequest(1, ("L4",)), 4000, 8 * GB),
        ResourceRequest(None, 32_000, 8 * GB),
    )


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [
        ("0-3", (0, 1, 2, 3), 0),
        ("0-9%4", tuple(range(10)), 4),
        ("1,3,5-9:2", (1, 3, 5, 7, 9), 0),
        ("7", (7,), 0),
        ("9,1", (1, 9), 0),
        ("{range: 2-3}", (2, 3), 0),
    ],
)
def test_each_form_of_an_array(text: str, indices: tuple[int, ...], limit: int) -> None:
    assert parse(f"run: x\narray: {text}\n").array == ArraySpec(indices, limit)


def test_environment_values_stay_as_they_are_written() -> None:
    spec = parse("run: x\nenv: {B: 010, A: yes, C: 1e3, D: '', E: 12:30:45, F: 'null'}\n")
    assert spec.env == (
        ("A", "yes"),
        ("B", "010"),
        ("C", "1e3"),
        ("D", ""),
        ("E", "12:30:45"),
        ("F", "null"),
    )


def test_a_workdir_starts_from_the_directory_of_the_caller() -> None:
    assert parse("run: x\nworkdir: a/../b\n").workdir == "/home/u/b"
    assert parse("run: x\nworkdir: ../../../..\n").workdir == "/"
    assert parse("run: x\nworkdir: /data//x/\n").workdir == "/data/x"
    assert parse("run: x\n", base_dir="").workdir == ""


def test_second_names_of_other_schedulers_are_read() -> None:
    spec = parse("run: x\nnum_nodes: 2\ntime: 1h30m\n")
    assert (spec.nodes, spec.time_limit_us) == (2, 5400 * SECOND_US)


def test_projects_are_lower_case_however_they_are_written() -> None:
    assert parse("run: x\nproject: NLP/Fine-Tune\n").project == "nlp/fine-tune"


def test_a_checkpoint_signal_without_grace_gets_a_minute() -> None:
    assert parse("run: x\ncheckpoint: {signal: SIGUSR1}\n").checkpoint == CheckpointSpec(
        "USR1", 60 * SECOND_US
    )


def test_preemption_alone_needs_no_number_of_retries() -> None:
    assert parse("run: x\nretry: {on: [preemption]}\n").retry == RetrySpec(("preempted",))


def test_a_gang_may_be_an_array() -> None:
    spec = parse("run: x\nnodes: 2\narray: 0-1\n")
    assert spec.nodes == 2
    assert spec.array is not None


def test_a_rendered_job_file_is_readable_and_says_the_same() -> None:
    spec = parse(CONTRACT)
    text = spec_to_yaml(spec)
    assert "gpus: H100:8" in text
    assert "max_cost: 500 USD" in text
    assert "range: 0-99\n" in text
    assert "memory: 128GB" in text
    assert parse(text, base_dir="") == spec


def test_a_rendered_script_is_a_block() -> None:
    assert "run: |" in spec_to_yaml(JobSpec(script="set -e\npython train.py\n"))


def test_reading_a_job_file_loads_neither_grpc_nor_the_tables_of_slurm() -> None:
    code = (
        "import sys, bursar.jobfile as j; j.parse_job('run: x', 'a', '/'); "
        "print([m for m in ('grpc', 'google.protobuf', 'bursar.jobfile.slurm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
