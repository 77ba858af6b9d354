"""Files of other systems are recognised, and become job files that are read by the real reader."""

from __future__ import annotations

import re
import subprocess

import msgspec
import pytest

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar.jobfile import parse_job
from bursar.jobfile.convert import convert, recognise
from bursar.jobfile.convert.nomad import parse as read_nomad
from bursar.model import JobSpec, RetrySpec
from bursar.resources import GpuRequest

SKY = """\
name: llama ft
num_nodes: 2
resources:
  accelerators: {A100-80GB: 8}
  infra: aws/us-east-1
  cpus: 4+
  memory: 32+
  use_spot: true
  disk_size: 256
envs:
  A: b
  HF_TOKEN:
secrets: [WANDB]
file_mounts:
  /data: s3://x
workdir: .
setup: pip install x
run: |
  echo $SKYPILOT_NODE_RANK
"""
DSTACK = """\
type: task
name: train
nodes: 2
image: nvcr.io/x
env: [A=b, HF_TOKEN]
commands:
  - pip install x
  - python train.py
resources:
  gpu: {name: [A100, H100], memory: 80GB, count: 2}
  cpu: 8..
  memory: 64GB..
spot_policy: auto
max_duration: 2h
max_price: 4.5
retry: true
"""
KUBERNETES = """\
apiVersion: batch/v1
kind: Job
metadata: {name: sample, labels: {app.kubernetes.io/team: a}}
spec:
  completions: 4
  parallelism: 2
  backoffLimit: 3
  activeDeadlineSeconds: 600
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {pool: rack-a}
      tolerations: [{key: gpu}]
      containers:
        - name: main
          image: busybox
          command: [python]
          args: [train.py, --x]
          workingDir: /data
          env:
            - {name: A, value: b}
            - name: KEY
              valueFrom: {secretKeyRef: {name: s, key: k}}
          resources:
            requests: {cpu: 500m, memory: 4Gi}
            limits: {nvidia.com/gpu: 2, hugepages-2Mi: 1Gi}
        - {name: side, image: envoy}
"""
PYTORCHJOB = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: ddp}
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      template: {spec: {containers: [{name: c, command: [torchrun, a.py]}]}}
    Worker:
      replicas: 3
      template: {spec: {containers: [{name: c, command: [torchrun, a.py]}]}}
"""
RAY = """\
entrypoint: python script.py
submission_id: raysubmit-1
runtime_env:
  working_dir: /srv/code
  pip: [torch==2.1, ray]
  env_vars: {A: b}
entrypoint_num_gpus: 1
entrypoint_num_cpus: 4
metadata: {x: y}
"""
CLUSTER = """\
cluster_name: demo
max_workers: 3
provider: {type: aws, region: us-west-2}
head_node_type: head
available_node_types:
  head:
    resources: {CPU: 8, GPU: 1}
    node_config: {InstanceType: p3}
setup_commands: [pip install ray]
"""
NOMAD = """\
# a comment
job "train" {
  datacenters = ["dc1"]
  type = "batch"
  meta { team = "a" }
  group "g" {
    count = 3
    restart { attempts = 2 }
    task "t" {
      driver = "docker"
      config {
        image   = "x"
        command = "python"
        args    = ["a.py", "--x"]
      }
      env { A = "b" }
      template { data = <<EOF
x
EOF
      }
      resources {
        cpu = 500
        memory = 256
        device "nvidia/gpu" { count = 2 }
      }
    }
    task "side" { driver = "exec" }
  }
}
"""
FILES = {
    "a SkyPilot task": SKY,
    "a dstack configuration": DSTACK,
    "a Kubernetes manifest": KUBERNETES,
    "a Ray file": RAY,
    "a Nomad job": NOMAD,
}


def job(text: str) -> tuple[JobSpec, dict[int, str]]:
    made = convert(text, "other")
    return parse_job(made.text, "job.yaml", "/home/u"), dict(made.notes)


@pytest.mark.parametrize(("kind", "text"), FILES.items(), ids=list(FILES))
def test_each_is_recognised_and_becomes_a_job_file(kind: str, text: str) -> None:
    assert recognise(text) == kind
    made = convert(text, "other.yaml")
    assert made.text.startswith(f"# From other.yaml, {kind}. What has no equal")
    assert all(f"#   {line}: {sentence}\n" in made.text for line, sentence in made.notes)
    parse_job(made.text, "job.yaml", "/")


WHOSE = {
    "a SkyPilot task": [
        *(f"{key}: x\n" for key in ("num_nodes", "envs", "file_mounts", "service")),
        *(
            f"resources: {{{key}: x}}\n"
            for key in (
                *("accelerators", "cloud", "infra", "use_spot", "disk_size", "image_id", "autostop"),
                "instance_type",
            )
        ),
    ],
    "a dstack configuration": [
        *(f"type: {kind}\n" for kind in ("task", "dev-environment", "fleet", "gateway", "volume")),
        "type: service\ncommands: [x]\n",
        "type: service\nresources: {gpu: 1}\n",
    ],
    "a Ray file": [
        "entrypoint: x\n",
        *(
            f"cluster_name: x\n{key}: x\n"
            for key in (
                *("runtime_env", "head_node_type", "available_node_types", "applications"),
                *("import_path", "max_workers"),
            )
        ),
    ],
    "a Kubernetes manifest": ["apiVersion: v1\nkind: Pod\n"],
}
"""By system, the least by which a file is its."""


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in WHOSE.items() for text in texts])
def test_the_words_that_only_one_system_has_say_whose_a_file_is(kind: str, text: str) -> None:
    assert recognise(text) == kind
    assert recognise("run: x\n---\n" + text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "run: echo\n",
        "name: a\nnodes: 2\nresources: {gpus: H100:8}\nrun: x\n",
        "type: service\nport: 80\nrun: x\n",
        "cluster_name: x\nrun: x\n",
        "apiVersion: v1\nrun: x\n",
        "kind: Pod\nrun: x\n",
        "- a\n",
        "",
        "{",
        "a b c",
    ],
)
def test_our_own_files_and_nobodys_are_not(text: str) -> None:
    assert recognise(text) is None
    with pytest.raises(InvalidRequest):
        convert(text, "x.yaml")


def test_skypilot() -> None:
    spec, notes = job(SKY)
    assert (spec.name, spec.nodes, spec.spot_policy) == ("llama-ft", 2, "spot")
    assert spec.options[0].gpus == GpuRequest(8, ("A100",), memory_bytes=80 * 10**9)
    assert (spec.options[0].cpu_milli, spec.options[0].memory_bytes) == (4_000, 32 * 10**9)
    assert spec.constraints == (("provider", "aws"), ("region", "us-east-1"))
    assert (spec.env, spec.secrets, spec.workdir) == ((("A", "b"),), ("WANDB",), "/home/u")
    assert spec.script.startswith("export SKYPILOT_NODE_RANK=$BURSAR_NODE_RANK")
    assert spec.script.endswith("echo $SKYPILOT_NODE_RANK\n")
    assert set(notes) == {9, 12, 13, 14}
    assert job(SKY.replace("SKYPILOT_", "MY_"))[0].script == "echo $MY_NODE_RANK\n"
    assert notes[14].startswith("file_mounts has no equal: copy or mount it in setup")


@pytest.mark.parametrize(
    ("accelerators", "count"), [("H100:8", 8), ("H100", 1), ("{H100: 4}", 4), ("[H100:2]", 2)]
)
def test_each_form_of_accelerators(accelerators: str, count: int) -> None:
    spec, _ = job(f"resources: {{accelerators: {accelerators}}}\nrun: x\n")
    assert spec.options[0].gpus == GpuRequest(count, ("H100",))


def test_dstack() -> None:
    spec, notes = job(DSTACK)
    assert (spec.nodes, spec.time_limit_us) == (2, 7200 * SECOND_US)
    assert spec.options[0].gpus == GpuRequest(2, ("A100", "H100"), memory_bytes=80 * 10**9)
    assert (spec.options[0].cpu_milli, spec.options[0].memory_bytes) == (8_000, 64 * 10**9)
    assert spec.script == "set -e\npip install x\npython train.py\n"
    assert (spec.max_price_nanos_per_hour, spec.retry) == (
        4_500_000_000,
        RetrySpec(("preempted", "node_lost")),
    )
    assert spec.image == "nvcr.io/x"
    assert set(notes) == {5}


def test_kubernetes() -> None:
    spec, notes = job(KUBERNETES)
    assert spec.command == ("python", "train.py", "--x")
    assert (spec.labels, spec.env, spec.workdir) == ((("team", "a"),), (("A", "b"),), "/data")
    assert (spec.options[0].cpu_milli, spec.options[0].memory_bytes) == (500, 4 * 2**30)
    assert spec.options[0].gpus == GpuRequest(2)
    assert spec.array is not None
    assert (list(spec.array.indices), spec.array.max_parallel) == ([0, 1, 2, 3], 2)
    assert (spec.retry, spec.time_limit_us) == (RetrySpec(("failed",), 3), 600 * SECOND_US)
    assert spec.constraints == (("pool", "rack-a"),)
    assert spec.image == "busybox"
    assert notes[19] == (
        "workingDir: workdir is a directory of the node; write cd into run for one of the image"
    )
    assert set(notes) == {13, 19, 22, 26, 27}


def test_the_pods_of_a_training_job_are_a_gang() -> None:
    spec, notes = job(PYTORCHJOB)
    assert spec.nodes == 4
    env = {"BURSAR_NODE_RANK": "2", "BURSAR_NODES": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "29501"}
    told = spec.script.replace(
        "exec torchrun a.py",
        "echo $RANK $WORLD_SIZE $PET_NODE_RANK/$PET_NNODES $PET_MASTER_ADDR:$PET_MASTER_PORT",
    )
    assert ran(msgspec.structs.replace(spec, script=told), env) == "2 4 2/4 n1:29501\n"
    assert notes[2] == "kind: PyTorchJob is read for its pods alone"


def test_ray() -> None:
    spec, notes = job(RAY)
    assert (spec.script, spec.name, spec.workdir) == ("python script.py", "raysubmit-1", "/srv/code")
    assert (spec.setup, spec.env) == ("pip install 'torch==2.1' 'ray'\n", (("A", "b"),))
    assert (spec.options[0].gpus, spec.options[0].cpu_milli) == (GpuRequest(1), 4_000)
    assert set(notes) == {9}
    spec, notes = job(CLUSTER)
    assert (spec.name, spec.nodes, spec.setup) == ("demo", 4, "pip install ray\n")
    assert {1, 3, 8} <= set(notes)


def test_what_dstack_and_skypilot_give_a_job_and_cannot_be_had_is_written_out_or_noted() -> None:
    spec, notes = job(
        "type: task\nnodes: 2\nresources: {gpu: 'A100:80GB:2..8'}\n"
        "retry: {on_events: [error], duration: 1h}\n"
        "working_dir: ~/code\ncommands: ['echo $DSTACK_NODE_RANK/$DSTACK_NODES_NUM at $DSTACK_MASTER_NODE_IP"
        " $DSTACK_GPUS_NUM $DSTACK_NODES_IPS']\n"
    )
    assert [one.gpus.count for one in spec.options if one.gpus] == [8, 4, 2]
    assert spec.options[0].gpus == GpuRequest(8, ("A100",), memory_bytes=80 * 10**9)
    assert spec.retry == RetrySpec(("preempted", "node_lost", "failed"), 3)
    _, open_end = job("type: task\nnodes: 2\nresources: {gpu: 'A100:2..'}\ncommands: [train]\n")
    assert open_end[3] == "A100:2.. is taken as A100:2, the least of a range without an end"
    assert notes[4].startswith("retry.duration has no equal")
    assert notes[5] == "working_dir: ~/code is not expanded, since nodes differ; write the whole path"
    assert spec.workdir == "/home/u"
    env = {"BURSAR_NODE_RANK": "1", "BURSAR_NODES": "2", "BURSAR_GPUS": "4", "BURSAR_NODE_ADDRESSES": "a,b"}
    assert ran(spec, env) == "1/2 at a 8 a b\n"


def ran(spec: JobSpec, env: dict[str, str]) -> str:
    return subprocess.check_output(
        ["bash", "-c", spec.script], env={"PATH": "/usr/bin:/bin", **env}, text=True
    )


def test_variables_in_the_command_of_a_container_are_those_of_its_shell() -> None:
    text = (
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\n"
        "spec:\n  completions: 3\n  completionMode: Indexed\n  template: {spec: {containers: [{name: c,"
        " command: [echo, '$(JOB_COMPLETION_INDEX) \"$(LR)\"', '$HOME', '$$(LR)'],"
        " env: [{name: LR, value: '0.1'}]}]}}\n"
    )
    spec, _ = job(text)
    assert ran(spec, {"BURSAR_ARRAY_INDEX": "2", "LR": "0.1"}) == '2 "0.1" $HOME $(LR)\n'
    plain, _ = job(text.replace("  completionMode: Indexed\n", "").replace("$(JOB_COMPLETION_INDEX) ", ""))
    assert ran(plain, {"LR": "0.1"}) == '"0.1" $HOME $(LR)\n'


def test_a_job_of_kuberay_starts_ray_on_as_many_nodes_as_its_workers_have_with_their_gpus() -> None:
    limits = "{cpu: 2, nvidia.com/gpu: %d}"
    pod = f"template: {{spec: {{containers: [{{name: c, image: ray, resources: {{limits: {limits}}}}}]}}}}"
    spec, notes = job(
        "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: rj}\nspec:\n  entrypoint: python train.py\n"
        "  rayClusterSpec:\n    headGroupSpec:\n"
        f"      {pod.replace(', nvidia.com/gpu: %d', '')}\n"
        "    workerGroupSpecs:\n    - replicas: 3\n      groupName: w\n"
        f"      {pod % 1}\n"
    )
    assert (spec.launch, spec.nodes, spec.script) == ("ray", 4, "python train.py")
    assert spec.options[0].gpus == GpuRequest(1)
    assert "replicas" not in "".join(notes.values())
    assert any("has what the workers have" in note for note in notes.values())


def test_nomad() -> None:
    spec, notes = job(NOMAD)
    assert (spec.name, spec.command, spec.env) == ("train", ("python", "a.py", "--x"), (("A", "b"),))
    assert (spec.options[0].memory_bytes, spec.options[0].gpus) == (256 * 2**20, GpuRequest(2))
    assert (spec.labels, spec.retry) == ((("team", "a"),), RetrySpec(("failed",), 2))
    assert spec.array is not None
    assert spec.image == "x"
    assert set(notes) == {3, 17, 22, 27}


AUTH = "keep USER:PASSWORD by bursar secret set NAME; write secrets: [NAME] and image_auth: NAME"
ONE_TASK = 'job "x" {\n group "g" { task "t" {\n  driver = "%s"\n  config {\n   %s\n  }\n } }\n}\n'
IMAGES = [
    ("resources: {image_id: 'docker:ghcr.io/a/b:1'}\nrun: x\n", "ghcr.io/a/b:1", {}),
    (
        "envs:\n  SKYPILOT_DOCKER_SERVER: reg.io\n  SKYPILOT_DOCKER_PASSWORD: p\n"
        "resources: {image_id: docker:a/b}\nrun: x\n",
        "reg.io/a/b",
        {2: f"a login of a registry: {AUTH}"},
    ),
    (
        "resources: {image_id: ami-1}\nrun: x\n",
        "",
        {1: "resources.image_id has no equal: a machine's image is its pool's: launch: {image: ...}; "
            "docker:NAME becomes image"},
    ),
    (
        "type: task\nimage: a/b\nregistry_auth: {username: u, password: p}\ncommands: [x]\n",
        "a/b",
        {3: f"registry_auth has no equal: {AUTH}"},
    ),
    (
        "apiVersion: v1\nkind: Pod\nspec:\n  imagePullSecrets: [{name: s}]\n"
        "  containers:\n  - image: a/b\n    args: [x]\n",
        "a/b",
        {4: f"spec.imagePullSecrets has no equal: {AUTH}",
         7: "args: the image's entrypoint is not run, which would take them; write the command"},
    ),
    (
        "apiVersion: ray.io/v1\nkind: RayJob\nspec:\n  entrypoint: x\n  w:\n"
        "    containers:\n    - image: a/b\n",
        "",
        {7: "a/b is left out: launch: ray in a container is not built; prepare the nodes"},
    ),
    (
        ONE_TASK % ("docker", 'image = "https://reg.io/a/b:1"\n   args = ["x"]\n   auth { username = "u" }'),
        "reg.io/a/b:1",
        {6: "args: the image's entrypoint is not run, which would take them; write the command",
         7: f"job.x.group.g.task.t.config.auth has no equal: {AUTH}"},
    ),
    (
        ONE_TASK % ("exec", 'command = "x"\n   image = "a/b"'),
        "",
        {3: "job.x.group.g.task.t.driver has no equal: a job is started as a process of its account",
         6: "job.x.group.g.task.t.config.image has no equal"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "image", "said"), IMAGES)
def test_an_image_of_a_registry_is_the_jobs_and_what_stays_with_it_is_said(
    text: str, image: str, said: dict[int, str]
) -> None:
    spec, notes = job(text)
    assert (spec.image, notes) == (image, said)
    assert "SKYPILOT_DOCKER" not in repr(spec.env)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("num_nodes: 2\nresources: {image_id: docker:A}\n", "other:2:23: resources.image_id: 'A'"),
        ("type: task\nimage: A B\ncommands: [x]\n", "other:2:8: image: 'A B'"),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: /a.sqsh}]}\n", "image: '/a.sqsh' is a file"),
        (ONE_TASK % ("docker", 'image = "${x}"'), "image: '${x}'"),
    ],
)
def test_what_is_no_name_of_an_image_is_refused_with_its_line(text: str, place: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(place)) as refused:
        convert(text, "other")
    assert "HOST/PATH:TAG, as in ghcr.io/acme/train:1" in str(refused.value)


def test_a_file_without_a_command_says_so() -> None:
    made = convert("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: x}]}\n", "pod.yaml")
    assert (1, "no command stands here; write it under run") in made.notes
    assert "exit 1" in parse_job(made.text, "job.yaml", "/").script


def test_every_part_of_a_nomad_file_knows_its_line_and_whether_it_was_quoted() -> None:
    root = read_nomad('job "x" {\n  a = "1"\n  b = 2\n  c = ["p",\n q]\n d { e = "f\\"g" }\n h =')
    job = root.entries["job"].entries["x"]
    assert (job.kind, job.line, job.key, job.key_line) == ("mapping", 2, "x", 1)
    found = {
        name: (node.kind, node.text, node.quoted, node.line, node.key, node.key_line)
        for name, node in job.entries.items()
        if node.kind == "scalar"
    }
    assert found == {
        "a": ("scalar", "1", True, 2, "a", 2),
        "b": ("scalar", "2", False, 3, "b", 3),
        "h": ("scalar", "", False, 1, "h", 7),
    }
    listed = job.entries["c"]
    assert (listed.kind, listed.line) == ("sequence", 4)
    assert [(item.text, item.key, item.line, item.key_line) for item in listed.items] == [
        ("p", 0, 4, 4), ("q", 1, 5, 5),
    ]  # fmt: skip
    assert job.entries["d"].entries["e"].text == 'f"g'


@pytest.mark.parametrize(
    "text", ['job "x" {', 'job "x" { a = ', 'job "x" { a = [', 'job "x" {' * 3000, "job x {}}}"]
)
def test_a_broken_nomad_file_hangs_nobody(text: str) -> None:
    assert recognise(text) == "a Nomad job"
    parse_job(convert(text, "x").text, "job.yaml", "/")


POD = "apiVersion: v1\nkind: Job\nspec:\n  %s\n  template: {spec: {containers: [{command: [x], %s}]}}\n"
TASK = 'job x {\n group g {\n  %s\n  task t {\n   config { command = "x" }\n   resources { %s }\n  }\n }\n}\n'
UNREADABLE = [
    *(
        (f"num_nodes: 2\nresources:\n  {key}: {value}\nrun: x\n", 3, f"resources.{key}", value)
        for key, value in (
            *(("accelerators", one) for one in ("H100:eight", "H100:-2", "H100:1.5", "a:b:c")),
            *(("cpus", one) for one in ("many", "-1", "8..many", "500m")),
            *(("memory", one) for one in ("huge", "-1", "32+x")),
            *(("use_spot", "perhaps"), ("max_hourly_cost", "cheap"), ("max_hourly_cost", "0")),
            *(("infra", "a/b/c/d"),),
        )
    ),
    ("resources: {accelerators: {H100: many}}\nrun: x\n", 1, "resources.accelerators.H100", "many"),
    ("resources: {accelerators: [H100:eight]}\nrun: x\n", 1, "resources.accelerators[0]", "H100:eight"),
    ("resources:\n  job_recovery: {max_restarts_on_errors: often}\n  use_spot: true\nrun: x\n", 2,
     "resources.job_recovery.max_restarts_on_errors", "often"),
    *((f"num_nodes: {one}\nrun: x\n", 1, "num_nodes", one) for one in ("two", "-1", "1.5", "0")),
    *((f"num_nodes: 2\n{key}: A\nrun: x\n", 2, key, "A") for key in ("envs", "secrets")),
    *(
        (f"type: task\n{key}: {value}\n", 2, key, value)
        for key, value in (
            *(("nodes", "two"), ("max_duration", "soon"), ("max_price", "cheap"), ("priority", "high")),
            *(("spot_policy", "perhaps"), ("retry", "perhaps"), ("commands", "x"), ("env", "x")),
            ("regions", "x"),
        )
    ),
    *(
        (f"type: task\nresources:\n  {key}: {value}\n", 3, f"resources.{key}", value)
        for key, value in (("gpu", "banana:x:y"), ("cpu", "many"), ("memory", "huge"))
    ),
    ("type: task\nresources: {gpu: {name: A100, count: two}}\n", 2, "resources.gpu.count", "two"),
    ("type: task\nresources: {gpu: {memory: huge}}\n", 2, "resources.gpu.memory", "huge"),
    *(
        (f"type: service\ncommands: [x]\n{key}: {value}\n", 3, key, value)
        for key, value in (("port", "http"), ("replicas", "two"))
    ),
    ("type: service\ncommands: [x]\nscaling: {scale_up_delay: soon}\n", 3, "scaling.scale_up_delay", "soon"),
    *(
        (POD % (f"{key}: {value}", "image: i"), 4, f"spec.{key}", value)
        for key, value in (
            *(("parallelism", "many"), ("completions", "-1"), ("activeDeadlineSeconds", "soon")),
            *(("backoffLimit", "often"), ("suspend", "perhaps")),
        )
    ),
    *(
        (POD % ("suspend: false", f"resources: {{limits: {{{key}: {value}}}}}"), 5, key, value)
        for key, value in (
            *(("nvidia.com/gpu", "two"), ("nvidia.com/gpu", "1.5"), ("cpu", "lots"), ("memory", "big")),
        )
    ),
    (POD % ("suspend: false", "args: --x"), 5, "args", "--x"),
    (PYTORCHJOB.replace("replicas: 3", "replicas: many"), 10, "Worker.replicas", "many"),
    *(
        (f"entrypoint: x\n{key}: {value}\n", 2, key, value)
        for key, value in (
            *(("entrypoint_num_gpus", "two"), ("entrypoint_num_cpus", "-1"), ("max_workers", "1.5")),
            ("setup_commands", "x"),
        )
    ),
    (CLUSTER.replace("GPU: 1", "GPU: one"), 7, "head.resources.GPU", "one"),
    *(
        (TASK % (group, wanted), line, key, value)
        for group, wanted, line, key, value in (
            ("count = var.n", "cores = 1", 3, "count", "var.n"),
            ("restart { attempts = often }", "cores = 1", 3, "restart.attempts", "often"),
            ("count = 2", "cores = many", 6, "cores", "many"),
            ("count = 2", "memory = 1.5", 6, "memory", "1.5"),
            ("count = 2", 'device "nvidia/gpu" { count = two }', 6, "count", "two"),
        )
    ),
]  # fmt: skip
"""A file, the line of what cannot be read there, its key and its value."""


@pytest.mark.parametrize(("text", "line", "key", "value"), UNREADABLE)
def test_a_value_that_cannot_be_read_is_refused_and_not_guessed_at(
    text: str, line: int, key: str, value: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        convert(text, "other")
    [fault] = refused.value.faults
    assert (fault.line, refused.value.exit_code) == (line, 2)
    assert fault.field.endswith(key)
    assert value.split(":")[-1] in fault.message
    assert re.search("write | give | is ", fault.message)


def test_all_values_that_cannot_be_read_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as refused:
        convert("num_nodes: two\nresources: {cpus: many, use_spot: perhaps}\nrun: x\n", "task.yaml")
    assert str(refused.value) == (
        "task.yaml:1:12: num_nodes: 'two' cannot be read; write a whole number of 1 or more\n"
        "task.yaml:2:19: resources.cpus: 'many' cannot be read; write a number, such as 4\n"
        "task.yaml:2:35: resources.use_spot: 'perhaps' cannot be read; write true or false"
    )


def test_values_that_are_right_in_a_rare_form_are_read() -> None:
    spec, _ = job("resources: {accelerators: {H100:8, A100: 4}, cpus: 2.5+, use_spot: off}\nrun: x\n")
    assert [one.gpus for one in spec.options] == [GpuRequest(8, ("H100",)), GpuRequest(4, ("A100",))]
    assert (spec.options[0].cpu_milli, spec.spot_policy) == (2_500, JobSpec().spot_policy)
    spec, _ = job("type: task\nmax_duration: off\nresources: {gpu: null, memory: 8GB..}\ncommands: [x]\n")
    assert (spec.time_limit_us, spec.options[0].memory_bytes) == (JobSpec().time_limit_us, 8 * 10**9)


def test_an_alias_and_another_document_are_not_lost() -> None:
    with pytest.raises(InvalidRequest, match="aliases"):
        convert("name: &n a\nnum_nodes: *n\nrun: x\n", "task.yaml")
    _, notes = job("num_nodes: 2\nrun: x\n---\nnum_nodes: 3\nrun: y\n")
    assert notes == {
        4: "this document is not converted: a job file has one; convert it in a file of its own, and join "
        "the two by depends_on"
    }
    spec, notes = job("name: both\n---\nname: one\nrun: a\n---\nname: two\nnum_nodes: 2\nrun: b\n")
    assert (spec.name, spec.script, set(notes)) == ("one", "a", {6})
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{command: [x]}]}\n"
    spec, notes = job("apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n---\n" + pod)
    assert (spec.name, spec.command, set(notes)) == ("p", ("x",), {1})


def test_a_word_that_names_a_template_becomes_no_command() -> None:
    spec, notes = job(
        "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  entrypoint: w\n"
        "  templates: [{name: w, steps: [[{name: a, template: b}]]}]\n"
    )
    assert spec.script.endswith("exit 1\n")
    assert notes[5] == "spec.entrypoint has no equal"
    assert recognise("entrypoint: true\n") is None
    assert recognise("entrypoint: python train.py\n") == "a Ray file"


def test_a_job_of_mpi_starts_the_program_on_its_workers_by_mpi() -> None:
    text = (
        "apiVersion: kubeflow.org/v2beta1\nkind: MPIJob\nmetadata: {name: m}\nspec:\n  slotsPerWorker: 2\n"
        "  mpiReplicaSpecs:\n"
        "    Launcher: {replicas: 1, template: {spec: {containers: [{name: l, command: %s}]}}}\n"
        "    Worker: {replicas: 3, template: {spec: {containers: [{name: w,"
        " resources: {limits: {cpu: 2}}}]}}}\n"
    )
    spec, _ = job(text % "[mpirun, -np, '6', --allow-run-as-root, -mca, btl, tcp, python, t.py]")
    assert (spec.launch, spec.nodes, spec.tasks_per_node, spec.script) == ("mpi", 3, 2, "python t.py")
    assert spec.options[0].cpu_milli == 2_000
    spec, _ = job(text.replace("  slotsPerWorker: 2\n", "") % "[mpirun, -n, '12', a]")
    assert (spec.tasks_per_node, spec.script) == (4, "a")
    spec, notes = job(text % "[sh, -c, mpirun a]")
    assert spec.script.endswith("exit 1\n")
    assert "write it under run without mpirun" in notes[7]


def test_the_pods_of_a_set_of_jobs_are_counted_with_those_of_each_job() -> None:
    spec, _ = job(
        "apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata: {name: s}\nspec:\n"
        "  replicatedJobs:\n  - name: w\n    replicas: 2\n    template:\n      spec:\n"
        "        parallelism: 2\n        completions: 2\n"
        "        template: {spec: {containers: [{name: c, command: [x]}]}}\n"
    )
    assert spec.nodes == 4


def test_a_service_of_skypilot_is_a_service_and_a_list_of_accelerators_is_in_order() -> None:
    spec, notes = job(
        "name: chat\nresources:\n  ports: 8080\n  accelerators: [H100:8, A100:8]\nservice:\n"
        "  readiness_probe: {path: /v1/models, initial_delay_seconds: 90}\n"
        "  replica_policy: {min_replicas: 1, max_replicas: 3, target_qps_per_replica: 5}\nrun: serve\n"
    )
    assert spec.service is not None
    assert (spec.name, spec.service.port, spec.ordered) == ("chat", 8080, True)
    assert (spec.service.replicas_min, spec.service.replicas_max) == (1, 3)
    assert (spec.service.probe_path, spec.service.start_timeout_us) == ("/v1/models", 90 * SECOND_US)
    assert "$BURSAR_PORT" in notes[3]
    assert "target_qps_per_replica" in notes[7]
    spec, _ = job(
        "service: {readiness_probe: /, replicas: 2}\nresources: {accelerators: {H100:8, A100:8}}\nrun: s\n"
    )
    assert (spec.name, spec.ordered) == ("service", False)


def test_variables_of_the_other_system_are_set_or_named() -> None:
    spec, notes = job(
        "num_nodes: 2\nrun: echo $SKYPILOT_TASK_ID $SKYPILOT_INTERNAL_JOB_ID $SKYPILOT_CLUSTER_INFO\n"
    )
    env = {"BURSAR_JOB_ID": "job_x", "BURSAR_JOB_NUMBER": "7"}
    assert ran(spec, env) == "job_x 7\n"
    assert notes == {1: "$SKYPILOT_CLUSTER_INFO is not set here; docs/environment.md lists what a job finds"}
    spec, _ = job("type: task\nname: t\nnodes: 2\ncommands: ['echo $DSTACK_RUN_NAME']\n")
    assert ran(spec, {"BURSAR_NODES": "1"}) == "t\n"
    spec, notes = job(
        'job "j" {\n group "g" {\n  task "t" {\n   config {\n    command = "echo"\n'
        '    args = ["${NOMAD_ALLOC_INDEX}", "${env.A} $HOME", "${NOMAD_META_K}"]\n}}}}\n'
    )
    assert ran(spec, {"BURSAR_ARRAY_INDEX": "3", "A": "x"}) == "3 x $HOME \n"
    assert notes[1].startswith("$NOMAD_META_K is not set here")


def test_restarts_on_errors_of_skypilot_are_a_retry() -> None:
    for text in ("resources: {use_spot: true, %s}\nrun: x\n", "num_nodes: 2\n%s\nrun: x\n"):
        spec, notes = job(text % "job_recovery: {max_restarts_on_errors: 3}")
        assert (spec.retry, notes) == (RetrySpec(("failed",), 3), {})


def test_a_service_of_dstack_is_a_service_with_what_has_an_equal() -> None:
    spec, notes = job(
        "type: service\nname: chat\nport: 8000\nreplicas: 0..4\nmodel: llama\nmax_duration: 2h\nretry: true\n"
        "commands: [serve]\nscaling:\n  metric: rps\n  target: 10\n  scale_down_delay: 10m\n"
    )
    assert spec.service is not None
    assert (spec.name, spec.script, spec.time_limit_us) == ("chat", "serve\n", JobSpec().time_limit_us)
    assert (spec.service.port, spec.service.replicas_min, spec.service.replicas_max) == (8000, 0, 4)
    assert spec.service.down_delay_us == 600 * SECOND_US
    assert "$BURSAR_PORT" in notes[3]
    assert set(notes) == {3, 5, 6, 7, 10, 11}
    spec, notes = job("type: service\nport: '80:443'\ncommands: [serve]\n")
    assert (spec.name, notes[2][:8]) == ("service", "port 443")
    assert "found by its name" in notes[1]


def test_a_deployment_is_said_to_become_a_job_that_ends() -> None:
    _, notes = job(
        "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {containers: [{command: [x]}]}}}\n"
    )
    assert notes[2].startswith("kind: Deployment runs until it is deleted, and this becomes a job that ends")
