"""SkyPilot, dstack, Kubernetes and Ray: what their keys become here.

Input   the tree of a file. Output: a draft; what no line here takes is noted by the draft itself.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from bursar.jobfile.convert.draft import IMAGE_AUTH, NO_ENTRYPOINT, Draft, gpus, job_name
from bursar.yamlfile import Node

_SHARED: Final = "keep it on a disk that all nodes share; mounts gives a container what a node has"
_RAY_IMAGE: Final = "launch: ray in a container is not built; prepare the nodes in setup"
SKY_HINTS: Final = {
    "file_mounts": "copy or mount it in setup, or keep it on a disk that all nodes share",
    "storage": "copy or mount it in setup",
    "image_id": "a machine's image is its pool's: launch: {image: ...}; docker:NAME becomes image",
    "disk_size": "local disk is not counted",
    "ports": "a job listens on its node; nothing is opened for it",
    "readiness_probe": "a replica is asked with GET, and start_timeout is how long it may take to begin",
    "replica_policy": "replicas follow the requests in hand; write scaling: {target: ...}",
    "load_balancing_policy": "write balance",
    "autostop": "nodes end by the policy of their pool",
    "job_recovery": "preemption and lost nodes are retried anyway; else retry: {on: [failure], max: 3}",
    "instance_type": "write resources.constraints: {instance_type: ...}",
    "config": "it is SkyPilot's own",
}
_SKY_LOGIN: Final = ("SKYPILOT_DOCKER_SERVER", "SKYPILOT_DOCKER_USERNAME", "SKYPILOT_DOCKER_PASSWORD")
_SKY_SHIM = """\
export SKYPILOT_NODE_RANK=$BURSAR_NODE_RANK SKYPILOT_NUM_NODES=$BURSAR_NODES
export SKYPILOT_NUM_GPUS_PER_NODE=$BURSAR_GPUS SKYPILOT_NODE_IPS="$(echo $BURSAR_NODE_ADDRESSES | tr , '\\n')"
export SKYPILOT_TASK_ID=$BURSAR_JOB_ID SKYPILOT_INTERNAL_JOB_ID=$BURSAR_JOB_NUMBER
"""
_DSTACK_SHIM = """\
export DSTACK_NODE_RANK=$BURSAR_NODE_RANK DSTACK_NODES_NUM=$BURSAR_NODES
export DSTACK_GPUS_PER_NODE=${BURSAR_GPUS:-0} DSTACK_GPUS_NUM=$((BURSAR_NODES * ${BURSAR_GPUS:-0}))
export DSTACK_MASTER_NODE_IP=${BURSAR_NODE_ADDRESSES%%,*}
export DSTACK_NODES_IPS="$(echo $BURSAR_NODE_ADDRESSES | tr , '\\n')"
export DSTACK_RUN_ID=$BURSAR_JOB_ID
"""
_KUBEFLOW_SHIM = """\
export RANK=$BURSAR_NODE_RANK WORLD_SIZE=$BURSAR_NODES
export MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} MASTER_PORT=${MASTER_PORT:-29500}
export PET_NNODES=$BURSAR_NODES PET_NODE_RANK=$BURSAR_NODE_RANK PET_MASTER_ADDR=$MASTER_ADDR
export PET_MASTER_PORT=$MASTER_PORT
"""
_INDEX_SHIM = "export JOB_COMPLETION_INDEX=${BURSAR_ARRAY_INDEX:-0}\n"
_REFERENCE = re.compile(r"(\$?)\$\(([A-Za-z_][A-Za-z0-9_]*)\)", re.ASCII)
_ENDLESS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController")
_WORLDS = ("PyTorchJob", "PaddleJob", "XGBoostJob", "TrainJob")
"""Whose pods are told their rank and world by variables."""
_OFF = ("off", "false", "no")
DSTACK_HINTS: Final = {
    "duration": "retry.max says how often, and wait_limit is not built yet",
    "registry_auth": IMAGE_AUTH,
    "python": "prepare the environment in setup",
    "ide": "write type: interactive, and `bursar attach`",
    "ports": "a job listens on its node; nothing is opened for it",
    "port": "write port: N; a replica is to listen on $BURSAR_PORT",
    "metric": "replicas follow the requests in hand; write scaling: {target: ...}",
    "target": "it is not the requests in hand of a replica; write scaling: {target: ...}",
    "replicas": "write replicas: 3 or 0..8",
    "model": "write api: openai if it answers so",
    "probes": "write readiness_probe: {path: ...}",
    "gateway": "bursar service url NAME says where it answers",
    "volumes": _SHARED,
    "repos": "clone it in setup",
    "files": "keep them on a disk that all nodes share",
    "disk": "local disk is not counted",
    "shm_size": "shared memory is the node's",
    "backends": "write resources.constraints: {provider: ...}",
    "utilization_policy": "use idle_policy: {time_window: 30m}",
    "idle_duration": "nodes end by the policy of their pool",
    "fleets": "write resources.constraints: {pool: ...}",
}
KUBERNETES_HINTS: Final = {
    "imagePullPolicy": "an image without a tag, or latest, is fetched each time, another once",
    "volumes": _SHARED,
    "volumeMounts": _SHARED,
    "tolerations": "nodes have no taints; use resources.constraints",
    "affinity": "write resources.constraints",
    "serviceAccountName": "a job runs as who submits it",
    "initContainers": "write it into setup",
    "ports": "a job listens on its node; nothing is opened for it",
    "schedule": "jobs are not repeated by the clock; submit from cron",
    "valueFrom": "use bursar secret and secrets: [NAME]",
    "envFrom": "use bursar secret and secrets: [NAME]",
    "namespace": "write project",
    "imagePullSecrets": IMAGE_AUTH,
    "ttlSecondsAfterFinished": "ended jobs are kept",
    "runtimeEnvYAML": "write what it installs into setup",
    "rayStartParams": "launch: ray starts it",
    "autoscalerOptions": "a gang has one size",
    "minReplicas": "a gang has one size",
    "maxReplicas": "a gang has one size",
}
RAY_HINTS: Final = {
    "provider": "write resources.constraints: {provider: ..., region: ...}",
    "auth": "agents need no ssh",
    "docker": _RAY_IMAGE,
    "container": _RAY_IMAGE,
    "image_uri": _RAY_IMAGE,
    "head_start_ray_commands": "launch: ray starts it",
    "worker_start_ray_commands": "launch: ray starts it",
    "file_mounts": "keep it on a disk that all nodes share",
    "applications": "a service is not converted; write it as docs/services.md says",
    "node_config": "write resources.constraints: {instance_type: ...}",
    "min_workers": "a gang has one size",
}


def sky(root: Node, draft: Draft) -> None:
    """A SkyPilot task."""
    _sky_service(root, draft)
    draft.put("name", job_name(draft.text(root, "name")))
    nodes = draft.whole(root, "num_nodes", least=1)
    draft.put("nodes", nodes if nodes != 1 else None)
    wanted = root.entries.get("resources")
    if wanted is not None:
        for key, word in (("cloud", "provider"), ("region", "region"), ("zone", "zone")):
            if text := draft.text(wanted, key):
                draft.under("resources", "constraints", _with(draft, word, text))
        _sky_infra(draft, wanted)
        _sky_gpus(draft, wanted)
        draft.under("resources", "cpus", draft.number(wanted, "cpus"))
        draft.under("resources", "memory", draft.size(wanted, "memory", unit="GB"))
        if draft.yes(wanted, "use_spot"):
            draft.put("spot_policy", "spot")
        draft.under("budget", "max_price", draft.price(wanted, "max_hourly_cost"))
    for holder in (root, wanted):
        if errors := draft.whole(holder, "job_recovery", "max_restarts_on_errors"):
            draft.put("retry", {"on": ["failure"], "max": errors})
    draft.pairs(draft.take(root, "envs"), "env")
    _secrets(draft, draft.take(root, "secrets"))
    _workdir(draft, root, "workdir")
    _sky_image(root, wanted, draft)
    shim = _SKY_SHIM if "SKYPILOT_" in _words_of(root, "run", "setup") else ""
    for key in ("setup", "run"):
        if text := draft.text(root, key):
            draft.put(key, shim + text)


def _sky_service(root: Node, draft: Draft) -> None:
    """`service`, whose port may stand in `resources`."""
    node = root.entries.get("service")
    if node is None or node.kind != "mapping":
        return
    draft.put("type", "service")
    draft.put("name", "service")
    if not draft.text(root, "name"):
        draft.note(node, "a service is found by its name; write one in place of name: service")
    wanted = root.entries.get("resources")
    for holder, key in ((node, "ports"), (wanted, "ports")):
        if holder is not None and key in holder.entries and "port" not in draft.fields:
            _service_port(draft, holder.entries[key], draft.text(holder, key))
    least = draft.whole(node, "replica_policy", "min_replicas")
    most = draft.whole(node, "replica_policy", "max_replicas", least=1)
    if least is not None:
        draft.put("replicas", f"{least}..{most}" if most and most > least else str(least))
    draft.put("replicas", draft.whole(node, "replicas"))
    probe = node.entries.get("readiness_probe")
    path = draft.text(node, "readiness_probe") or draft.text(probe, "path")
    draft.under("readiness_probe", "path", path)
    draft.under("readiness_probe", "start_timeout", draft.duration(probe, "initial_delay_seconds"))


def _sky_image(root: Node, wanted: Node | None, draft: Draft) -> None:
    """`docker:NAME`, of the registry that the variables for a login name."""
    node = wanted.entries.get("image_id") if wanted is not None else None
    if node is None or not node.text.startswith("docker:"):
        return
    name = node.text.removeprefix("docker:")
    env = draft.fields.get("env", {})
    login = {key: env.pop(key) for key in _SKY_LOGIN if key in env}
    if not env:
        draft.fields.pop("env", None)
    server = login.get("SKYPILOT_DOCKER_SERVER", "").rstrip("/")
    if server and not name.startswith(f"{server}/"):
        name = f"{server}/{name}"
    draft.image(node, name)
    if login:
        envs = root.entries["envs"]
        draft.note(envs.entries.get(next(iter(login)), envs), f"a login of a registry: {IMAGE_AUTH}")


def _workdir(draft: Draft, root: Node, key: str) -> None:
    """A directory by its whole path, or below the one where the job file lies."""
    node, text = root.entries.get(key), draft.text(root, key)
    if node is not None and text.startswith("~"):
        draft.note(node, f"{key}: {text} is not expanded, since nodes differ; write the whole path")
    else:
        draft.put("workdir", text)


def _words_of(root: Node, *keys: str) -> str:
    return "\n".join(root.entries[key].text for key in keys if key in root.entries)


def _with(draft: Draft, key: str, value: str) -> dict[str, str]:
    constraints: dict[str, str] = draft.fields.get("resources", {}).get("constraints", {})
    return {**constraints, key: value}


def _sky_infra(draft: Draft, wanted: Node) -> None:
    parts = draft.text(wanted, "infra").split("/")
    if len(parts) > 3:
        draft.refuse(wanted.entries["infra"], "CLOUD/REGION/ZONE")
    for key, value in zip(("provider", "region", "zone"), parts, strict=False):
        if value and value != "*":
            draft.under("resources", "constraints", _with(draft, key, value))


def _sky_gpus(draft: Draft, wanted: Node) -> None:
    node = draft.take(wanted, "accelerators")
    if node is None:
        return
    found = [(one, one.text) for one in ([node] if node.kind == "scalar" else node.items) if not one.is_null]
    # `{H100:8}` without a blank is a key that has no value.
    found += [(one, kind if one.is_null else f"{kind}:{one.text}") for kind, one in node.entries.items()]
    options = []
    for one, text in found:
        kind, mark, count = text.partition(":")
        if one.kind != "scalar" or (mark and not re.fullmatch(r"\d+(?:\.\d+)?", count, re.ASCII)):
            draft.refuse(one, "a type and a count, such as H100:8")
        elif asked := draft.gpu(one, gpus(kind, count or "1")):
            options.append(asked)
    if len(options) == 1:
        draft.under("resources", "gpus", options[0])
    elif options:
        inorder = node.kind == "sequence"  # a mapping is a set there
        draft.under("resources", "ordered" if inorder else "any_of", [{"gpus": one} for one in options])


def _secrets(draft: Draft, node: Node | None) -> None:
    names = [*node.entries, *(item.text for item in node.items)] if node is not None else []
    if node is not None and not node.is_null and (node.kind == "scalar" or "" in names):
        draft.refuse(node, "the names of secrets, such as [NAME]")
    if node is not None and names:
        draft.put("secrets", names)
        draft.note(node, "values are not copied; keep each with bursar secret set NAME")


def dstack(root: Node, draft: Draft) -> None:
    """A dstack configuration."""
    kind = root.entries.get("type")
    if draft.text(root, "type") == "service":
        _dstack_service(root, draft)
    elif kind is not None and kind.text != "task":
        draft.note(kind, f"type: {kind.text} is not converted; this becomes a job that ends with its command")
    draft.put("name", job_name(draft.text(root, "name")))
    if kind is not None and draft.fields.get("type") == "service" and "name" not in draft.fields:
        draft.put("name", "service")
        draft.note(kind, "a service is found by its name; write one in place of name: service")
    nodes = draft.whole(root, "nodes", least=1)
    draft.put("nodes", nodes if nodes != 1 else None)
    wanted = root.entries.get("resources")
    if wanted is not None:
        _dstack_gpus(wanted, draft)
        draft.under("resources", "cpus", draft.number(wanted, "cpu"))
        draft.under("resources", "memory", draft.size(wanted, "memory", unit="GB"))
    if regions := draft.texts(root, "regions"):
        draft.under("resources", "constraints", {"region": ",".join(regions)})
    spot = draft.choice(root, "spot_policy", of=("spot", "on-demand", "auto"))
    draft.put("spot_policy", spot if spot != "auto" else "")
    limit = (
        draft.duration(root, "max_duration") if draft.text(root, "max_duration").lower() not in _OFF else ""
    )
    if limit and draft.fields.get("type") == "service":
        draft.note(root.entries["max_duration"], "max_duration: a service goes on until it is cancelled")
    else:
        draft.put("time_limit", limit)
    draft.under("budget", "max_price", draft.price(root, "max_price"))
    draft.put("priority", draft.whole(root, "priority"))
    draft.pairs(draft.take(root, "env"), "env")
    _dstack_retry(root, draft)
    _workdir(draft, root, "working_dir")
    if name := draft.text(root, "image"):
        draft.image(root.entries["image"], name, root.entries.get("working_dir"))
    if commands := draft.texts(root, "commands"):
        text = "".join(f"{one.rstrip()}\n" for one in commands)
        ends = "set -e\n" if len(commands) > 1 else ""  # dstack joins them by `&&`
        name = draft.fields.get("name", "$BURSAR_JOB_NUMBER")
        shim = f"{_DSTACK_SHIM}export DSTACK_RUN_NAME={name}\n" if "DSTACK_" in text else ""
        draft.put("run", shim + ends + text)


def _dstack_service(root: Node, draft: Draft) -> None:
    draft.put("type", "service")
    if (port := root.entries.get("port")) is not None:
        _service_port(draft, port, draft.text(root, "port"))
    replicas = draft.text(root, "replicas")
    if replicas and re.fullmatch(r"\d{1,6}(?:\.\.\d{1,6})?", replicas, re.ASCII) is None:
        draft.refuse(root.entries["replicas"], "a number of replicas, such as 3 or 0..8")
    else:
        draft.put("replicas", replicas)
    scaling = root.entries.get("scaling")
    for theirs, ours in (("scale_up_delay", "up_delay"), ("scale_down_delay", "down_delay")):
        draft.under("scaling", ours, draft.duration(scaling, theirs))


def _service_port(draft: Draft, node: Node, text: str) -> None:
    if not text:
        return
    found = re.fullmatch(r"(?:\d{1,5}:)?(\d{1,5})", text, re.ASCII)
    if found is None:
        draft.refuse(node, "a port, such as 8000")
        return
    kept = 1024 <= int(found[1]) <= 60000
    draft.put("port", int(found[1]) if kept else None)
    no = "" if kept else f"port {found[1]} is not from 1024 to 60000, so it is left out; "
    draft.note(node, f"{no}a replica is to listen on 127.0.0.1, on $BURSAR_PORT: write it into run")


def _dstack_gpus(wanted: Node, draft: Draft) -> None:
    node = wanted.entries.get("gpu")
    if node is None or node.is_null:
        draft.take(node)
    elif node.kind == "scalar":
        draft.under("resources", "gpus", draft.gpu(node, _least_gpus(draft, node)))
    elif node.kind == "sequence":
        draft.refuse(node, "a type and a count, such as H100:8")
    else:
        name = draft.text(node, "name")
        kinds = [name] if name else draft.texts(node, "name")
        count = draft.number(node, "count")
        memory = draft.size(node, "memory", unit="GB")
        parts = ["|".join(kinds), memory, "1" if count is None else str(count)]
        at = next((node.entries[key] for key in ("name", "count", "memory") if key in node.entries), node)
        draft.under("resources", "gpus", draft.gpu(at, ":".join(part for part in parts if part)))


def _dstack_retry(root: Node, draft: Draft) -> None:
    node = root.entries.get("retry")
    if node is None or node.is_null or (node.kind == "scalar" and not draft.yes(root, "retry")):
        return
    if draft.fields.get("type") == "service":
        draft.note(node, "retry: a replica that ends is always started again")
        return
    events = node.entries.get("on_events")
    said = draft.texts(node, "on_events")
    if events is not None and not set(said) <= {"no-capacity", "interruption", "error"}:
        draft.refuse(events, "no-capacity, interruption or error")
    on = ["preemption", "node-failure"]
    if events is not None and "error" in said:
        draft.note(events, "on_events: error is tried again 3 times, since how often must be said")
        draft.put("retry", {"on": [*on, "failure"], "max": 3})
    else:
        draft.put("retry", {"on": on})


def _least_gpus(draft: Draft, node: Node) -> str:
    """`A100:80GB:2..8`; of a range of memory, or without an end, the least."""

    def least(part: str) -> str:
        kept = ".." not in part or re.fullmatch(r"[1-9]\d*\.\.[1-9]\d*", part, re.ASCII)
        return part if kept else part.partition("..")[0] or "1"

    if (found := ":".join(map(least, node.text.split(":")))) != node.text:
        draft.note(node, f"{node.text} is taken as {found}, the least of a range without an end")
    return found


# ------------------------------------------------------------------ Kubernetes


def kubernetes(root: Node, draft: Draft) -> None:
    """A Job, a Pod, or a training job of Kubeflow or KubeRay."""
    kind = draft.text(root, "kind")
    draft.take(root, "apiVersion")
    meta, spec = root.entries.get("metadata"), root.entries.get("spec")
    draft.put("name", job_name(draft.text(meta, "name")))
    labels = draft.words(meta, "labels")
    draft.put("labels", {name.split("/")[-1]: text for name, text in labels.items()})
    of_ray = kind in ("RayJob", "RayCluster")
    if of_ray:
        draft.put("launch", "ray")
    elif kind in _ENDLESS:
        draft.notes.append((
            root.entries["kind"].key_line,
            f"kind: {kind} runs until it is deleted, and this becomes a job that ends with its command; "
            "for what answers requests write type: service (docs/services.md)",
        ))  # fmt: skip
    elif kind not in ("Job", "Pod") and spec is not None:
        draft.notes.append((root.entries["kind"].key_line, f"kind: {kind} is read for its pods alone"))
    if kind == "RayJob":  # of other kinds, of Argo's, it names a template
        draft.put("run", draft.text(spec, "entrypoint"))
    _job_of_kubernetes(spec, draft)
    indexed = draft.text(spec, "completionMode") == "Indexed"
    pods = [pod for pod in _pods(spec, draft, kind == "JobSet") if "containers" in pod[0].entries]
    shim = _INDEX_SHIM if indexed else ""
    if kind == "MPIJob":
        pods = _of_mpi(spec, pods, draft)
    elif kind in _WORLDS and sum(count for _, count in pods) > 1:
        shim = _KUBEFLOW_SHIM + _per_node(spec, draft)
    if not pods:
        return
    if of_ray:
        pods = [*pods[1:], pods[0]]  # the head stands first, and workers have the GPUs
    nodes = sum(count for _, count in pods)
    pods = [pod for pod in pods if pod[1]] or pods
    if nodes > 1:
        draft.put("nodes", nodes)
    pod = pods[0][0]
    for other, _ in pods[1:]:
        said = "has what the workers have" if of_ray else "runs the first one's command"
        draft.note(other, f"pods of another kind: every node of the job {said}")
    chosen = draft.words(pod, "nodeSelector")
    draft.under("resources", "constraints", {name.split("/")[-1]: text for name, text in chosen.items()})
    if draft.text(pod, "restartPolicy") not in ("", "Never"):
        draft.note(
            pod.entries["restartPolicy"],
            "restartPolicy: a process is not restarted in its place; retry: {on: [failure], max: 3} runs it"
            " anew",
        )
    if "terminationGracePeriodSeconds" in pod.entries:
        said = "terminationGracePeriodSeconds is not carried; write checkpoint: {signal: TERM, grace: 30s}"
        draft.note(pod.entries["terminationGracePeriodSeconds"], said)
    containers = pod.entries["containers"].items
    if containers:
        _container(containers[0], draft, shim)
    for other in containers[1:]:
        draft.note(other, "a second container has no equal: start it in run, in the background")


def _job_of_kubernetes(spec: Node | None, draft: Draft) -> None:
    tasks, at_once = draft.whole(spec, "completions"), draft.whole(spec, "parallelism")
    tasks = tasks or at_once
    if tasks and tasks > 1:
        draft.put("array", f"0-{tasks - 1}" + (f"%{at_once}" if at_once and at_once < tasks else ""))
    if limit := draft.whole(spec, "activeDeadlineSeconds", least=1):
        draft.put("time_limit", f"{limit}s")
    if spec is not None and (retries := draft.whole(spec, "backoffLimit")):
        if retries > 100:
            draft.note(spec.entries["backoffLimit"], f"backoffLimit: {retries} is taken as 100, the most")
        draft.put("retry", {"on": ["failure"], "max": min(retries, 100)})
    if draft.yes(spec, "suspend"):
        draft.put("held", True)


def _per_node(spec: Node | None, draft: Draft) -> str:
    """How many processes `torchrun` starts on a node."""
    processes = draft.text(spec, "nprocPerNode")
    return f"export PET_NPROC_PER_NODE={processes}\n" if re.fullmatch(r"\w{1,9}", processes) else ""


def _of_mpi(spec: Node | None, pods: list[tuple[Node, int]], draft: Draft) -> list[tuple[Node, int]]:
    """Workers are the nodes; `launch: mpi` is the launcher's `mpirun`, and starts what that would."""
    replicas = spec.entries.get("mpiReplicaSpecs") if spec is not None else None
    launchers = [pod for pod, _ in _pods(replicas.entries.get("Launcher"), draft)] if replicas else []
    workers = [one for one in pods if all(one[0] is not launcher for launcher in launchers)]
    draft.put("launch", "mpi")
    slots = draft.whole(spec, "slotsPerWorker", least=1)
    draft.put("tasks_per_node", slots)
    for launcher in launchers[:1] if workers else ():
        container = launcher.entries["containers"].items[0]
        words = [word for key in ("command", "args") for word in draft.texts(container, key)]
        draft.take(container, "name")
        program, count = of_mpirun(words)
        if words and not program:
            draft.note(container, "launch: mpi starts the program itself: write it under run without mpirun")
        draft.put("run", " ".join(map(_shell_word, program)))
        nodes = sum(many for _, many in workers)
        if count and not slots and count % nodes == 0:
            draft.put("tasks_per_node", count // nodes)
        if (image := draft.take(container, "image")) is not None:
            draft.image(image, image.text)
    return workers or pods


_MPI_SWITCHES: Final = frozenset((
    "--allow-run-as-root", "-allow-run-as-root", "--oversubscribe", "--tag-output", "--report-bindings", "-v",
))  # fmt: skip
_MPI_VALUES: Final = frozenset((
    "-np", "-n", "--np", "-c", "-H", "-host", "--host", "-hostfile", "--hostfile", "-machinefile", "-f",
    "-bind-to", "--bind-to", "-map-by", "--map-by", "-npernode", "-ppn", "-x",
))  # fmt: skip


def of_mpirun(words: list[str]) -> tuple[list[str], int]:
    """The program of a command of mpirun and how many of it (0: not said); none where that cannot be told."""
    if not words or words[0].rpartition("/")[2] not in ("mpirun", "mpiexec", "orterun"):
        return [], 0
    at, count = 1, 0
    while at < len(words) and words[at].startswith("-"):
        word = words[at]
        if word in ("-np", "-n", "--np") and words[at + 1 : at + 2] and words[at + 1].isdecimal():
            count = int(words[at + 1][:9])
        if word in ("-mca", "--mca"):
            at += 3
        elif word in _MPI_VALUES:
            if word == "-x" and "=" in "".join(words[at + 1 : at + 2]):
                return [], 0
            at += 2
        elif word in _MPI_SWITCHES:
            at += 1
        else:
            return [], 0
    return words[at:], count


def _pods(spec: Node | None, draft: Draft, sets: bool = False) -> list[tuple[Node, int]]:
    """Specs of pods below, each with how many there are of it. `sets`: jobs have several each."""
    if spec is None:
        return []
    if "containers" in spec.entries:
        return [(spec, 1)]
    found: list[tuple[Node, int]] = []
    for child in (*spec.entries.values(), *spec.items):
        below = _pods(child, draft, sets)
        count = draft.whole(child, "replicas") if below else None
        if below and sets and "template" in child.entries:
            each = draft.whole(child, "parallelism"), draft.whole(child, "completions")
            below = [(pod, many * (each[0] or each[1] or 1)) for pod, many in below]
        if below:
            draft.take(child, "groupName")
        found += [(pod, many * (1 if count is None else count)) for pod, many in below]
    return found


def has_pods(root: Node) -> bool:
    """Is there a container below?"""
    return "containers" in root.entries or any(
        has_pods(child) for child in (*root.entries.values(), *root.items)
    )


_SPECIAL = re.compile(r'([\\"`$])')


def _shell_word(text: str) -> str:
    """A word of a container's command for a shell: `$(NAME)` is a variable there, `$$(NAME)` itself."""
    if not _REFERENCE.search(text):
        return shlex.quote(text)
    parts, at = [], 0
    for found in _REFERENCE.finditer(text):
        parts.append(_SPECIAL.sub(r"\\\1", text[at : found.start()]))
        parts.append(f"\\$({found[2]})" if found[1] else f"${{{found[2]}}}")
        at = found.end()
    return '"' + "".join(parts) + _SPECIAL.sub(r"\\\1", text[at:]) + '"'


def _container(node: Node, draft: Draft, shim: str) -> None:
    """`shim`: what is to stand above its command."""
    draft.take(node, "name")
    words = [word for key in ("command", "args") for word in draft.texts(node, key)]
    if words and (shim or any(map(_REFERENCE.search, words))):
        line = " ".join(map(_shell_word, words))
        draft.put("run", f"{shim}exec {line}\n")
    elif "launch" not in draft.fields:
        draft.put("command", words)
    draft.put("workdir", draft.text(node, "workingDir"))
    if image := draft.text(node, "image"):
        draft.image(node.entries["image"], image, node.entries.get("workingDir"))
        if words and "command" not in node.entries:
            draft.note(node.entries["args"], NO_ENTRYPOINT)
    env = node.entries.get("env")
    if env is not None and not env.is_null and env.kind != "sequence":
        draft.refuse(env, "a list, such as [{name: A, value: b}]")
    for item in env.items if env is not None else ():
        name, value = item.entries.get("name"), item.entries.get("value")
        if name is None or (value is not None and value.kind != "scalar"):
            draft.refuse(item, "a name and a text, such as {name: A, value: b}")
        elif value is not None:
            draft.take(env)
            draft.under("env", name.text, value.text)
        else:
            draft.note(
                item, f"{name.text} comes from elsewhere; use bursar secret and secrets: [{name.text}]"
            )
    if env is not None:
        draft.take(env)
    resources = node.entries.get("resources")
    for part in ("requests", "limits"):
        listed = resources.entries.get(part) if resources is not None else None
        for key, value in listed.entries.items() if listed is not None else ():
            if key == "cpu":
                draft.under("resources", "cpus", draft.number(listed, key, milli=True))
            elif key == "memory":
                draft.under("resources", "memory", draft.size(listed, key, unit="B"))
            elif key.endswith(".com/gpu"):
                count = draft.whole(listed, key)
                if count is not None and draft.gpu(value, str(count)):
                    draft.under("resources", "gpus", count)
            else:
                draft.note(value, f"{key} has no equal: only CPUs, memory and GPUs are counted")


# ------------------------------------------------------------------ Ray


def ray(root: Node, draft: Draft) -> None:
    """A job of Ray, or a cluster of its launcher."""
    draft.put("name", job_name(draft.text(root, "submission_id") or draft.text(root, "cluster_name")))
    runtime = root.entries.get("runtime_env")
    draft.put("workdir", draft.text(runtime, "working_dir"))
    draft.pairs(draft.take(runtime, "env_vars"), "env")
    setup = []
    holder, key = runtime, "pip"
    if runtime is not None and "pip" in runtime.entries and runtime.entries["pip"].entries:
        holder, key = runtime.entries["pip"], "packages"
    file = draft.text(holder, key)  # the requirements of a file, which pip reads by -r
    if listed := [] if file else draft.texts(holder, key):
        setup.append("pip install " + " ".join(map(_quoted, listed)))
    elif file:
        setup.append(f"pip install -r {_quoted(file)}")
    for key in ("initialization_commands", "setup_commands"):
        setup += draft.texts(root, key)
    draft.put("setup", "".join(f"{one}\n" for one in setup))
    draft.under("resources", "gpus", draft.number(root, "entrypoint_num_gpus"))
    draft.under("resources", "cpus", draft.number(root, "entrypoint_num_cpus"))
    if workers := draft.whole(root, "max_workers"):
        draft.put("nodes", workers + 1)
    kinds = root.entries.get("available_node_types")
    for kind in kinds.entries.values() if kinds is not None else ():
        wanted = kind.entries.get("resources")
        draft.under("resources", "cpus", draft.number(wanted, "CPU"))
        draft.under("resources", "gpus", draft.number(wanted, "GPU"))
    draft.take(root, "head_node_type")
    draft.put("launch", "ray")
    draft.put("run", draft.text(root, "entrypoint"))


def _quoted(text: str) -> str:
    return f"'{text}'" if "'" not in text else shlex.quote(text)
