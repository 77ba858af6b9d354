"""Files of other systems, of each kind that `bursar convert` takes."""

from __future__ import annotations

SKY = """\
name: llama ft
num_nodes: 2
resources:
  accelerators: {A100-80GB: 8}
  infra: aws/us-east-1
  cloud: aws
  region: r
  zone: z
  cpus: 4+
  memory: 32+
  use_spot: true
  disk_size: 256
  max_hourly_cost: 5
envs: {A: b, HF_TOKEN: }
secrets: [WANDB]
file_mounts: {/data: s3://x}
workdir: .
setup: pip install x
run: echo $SKYPILOT_NODE_RANK
"""
SKY_CHOICE = """\
num_nodes: 1
resources:
  accelerators: [A100, "H100:2"]
  infra: "*/r/z"
secrets: {W: , V: x}
run: a
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
regions: [a, b]
spot_policy: spot
max_duration: 2h
max_price: 4.5
priority: 50
retry: true
working_dir: /w
"""
DSTACK_PLAIN = """\
type: dev-environment
nodes: 1
resources:
  gpu: 24GB:1
max_duration: 7200
commands: [a]
"""
DSTACK_ONE = """\
type: task
resources:
  gpu: {name: A100, count: 1}
max_duration: off
commands: [a]
"""
LEAST = {
    "SkyPilot": "num_nodes: 2\nrun: a\n",
    "dstack": "type: task\nname: x\ncommands: [a]\n",
    "Kubernetes": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{command: [a]}]}\n",
    "Ray": "entrypoint: a\n",
    "Nomad": 'job "x" {\n  group "g" {\n    task "t" {\n      config { command = "a" }\n    }\n  }\n}\n',
}
"""Files that say as little as they can."""
KUBERNETES = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: sample
  labels: {app.kubernetes.io/team: a}
spec:
  completions: 4
  completionMode: Indexed
  parallelism: 2
  backoffLimit: 3
  activeDeadlineSeconds: 600
  suspend: true
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 3
      nodeSelector: {a/pool: rack-a}
      tolerations: [{key: gpu}]
      containers:
        - name: main
          image: busybox
          command: [python]
          args: [train.py, --x]
          workingDir: /data
          env: [{name: A, value: b}, {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}]
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
RAY_CLUSTER = """\
cluster_name: demo
max_workers: 3
provider: {type: aws, region: us-west-2}
head_node_type: head
available_node_types:
  head:
    resources: {CPU: 8, GPU: 1}
    node_config: {InstanceType: p3}
initialization_commands: [a]
setup_commands: [pip install ray]
"""
NOMAD = """\
job "train" {
  type = "batch"
  meta { team = "a" }
  group "g" {
    count = 3
    restart { attempts = 2 }
    task "t" {
      driver = "exec"
      config {
        command = "python"
        args = ["train.py", "--x"]
      }
      env { A = "b" }
      resources {
        cores = 4
        cpu = 500
        memory = 256
        device "nvidia/gpu/a100" { count = 2 }
        device "nvidia/gpu" { }
      }
    }
    task "other" { driver = "exec" }
  }
  group "h" { count = 1 }
}
"""
