"""SkyPilot, dstack, Kubernetes and Ray: what their keys become here.

Input   the tree of a file. Output: a draft; what no line here takes is noted by the draft itself.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from bursar.jobfile.convert.draft import Draft, gpus, job_name, number, size
from bursar.yamlfile import Node

SKY_HINTS: Final = {
    "file_mounts": "copy or mount it in setup, or keep it on a disk that all nodes share",
    "storage": "copy or mount it in setup",
    "image_id": "the job runs on the node itself; prepare it in setup",
    "disk_size": "local disk is not counted",
    "ports": "a job listens on its node; nothing is opened for it",
    "service": "a service is not converted; write it as docs/services.md says",
    "autostop": "nodes end by the policy of their pool",
    "job_recovery": "preemption and lost nodes are retried anyway; else retry: {on: [failure], max: 3}",
    "instance_type": "write resources.constraints: {instance_type: ...}",
    "config": "it is SkyPilot's own",
}
_SKY_SHIM = """\
export SKYPILOT_NODE_RANK=$BURSAR_NODE_RANK SKYPILOT_NUM_NODES=$BURSAR_NODES
export SKYPILOT_NUM_GPUS_PER_NODE=$BURSAR_GPUS SKYPILOT_NODE_IPS="$(echo $BURSAR_NODE_ADDRESSES | tr , '\\n')"
"""
_DSTACK_SHIM = """\
export DSTACK_NODE_RANK=$BURSAR_NODE_RANK DSTACK_NODES_NUM=$BURSAR_NODES
export DSTACK_GPUS_PER_NODE=${BURSAR_GPUS:-0} DSTACK_GPUS_NUM=$((BURSAR_NODES * ${BURSAR_GPUS:-0}))
export DSTACK_MASTER_NODE_IP=${BURSAR_NODE_ADDRESSES%%,*}
export DSTACK_NODES_IPS="$(echo $BURSAR_NODE_ADDRESSES | tr , '\\n')"
"""
_INDEX_SHIM = "export JOB_COMPLETION_INDEX=${BURSAR_ARRAY_INDEX:-0}\n"
_REFERENCE = re.compile(r"(\$?)\$\(([A-Za-z_][A-Za-z0-9_]*)\)", re.ASCII)
DSTACK_HINTS: Final = {
    "duration": "retry.max says how often, and wait_limit is not built yet",
    "image": "the job runs on the node itself; prepare it in setup",
    "python": "prepare the environment in setup",
    "ide": "write type: interactive, and `bursar attach`",
    "ports": "a job listens on its node; nothing is opened for it",
    "port": "a service is not converted; write it as docs/services.md says",
    "volumes": "keep it on a disk that all nodes share",
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
    "image": "the job runs on the node itself; prepare it in setup",
    "volumes": "keep it on a disk that all nodes share",
    "volumeMounts": "keep it on a disk that all nodes share",
    "tolerations": "nodes have no taints; use resources.constraints",
    "affinity": "write resources.constraints",
    "serviceAccountName": "a job runs as who submits it",
    "initContainers": "write it into setup",
    "ports": "a job listens on its node; nothing is opened for it",
    "schedule": "jobs are not repeated by the clock; submit from cron",
    "valueFrom": "use bursar secret and secrets: [NAME]",
    "envFrom": "use bursar secret and secrets: [NAME]",
    "namespace": "write project",
    "imagePullSecrets": "there are no images",
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
    "docker": "the job runs on the node itself; prepare it in setup",
    "head_start_ray_commands": "launch: ray starts it",
    "worker_start_ray_commands": "launch: ray starts it",
    "file_mounts": "keep it on a disk that all nodes share",
    "applications": "a service is not converted; write it as docs/services.md says",
    "node_config": "write resources.constraints: {instance_type: ...}",
    "min_workers": "a gang has one size",
}


def sky(root: Node, draft: Draft) -> None:
    """A SkyPilot task."""
    draft.put("name", job_name(draft.text(root, "name")))
    nodes = number(draft.text(root, "num_nodes"))
    draft.put("nodes", nodes if nodes != 1 else None)
    wanted = root.entries.get("resources")
    if wanted is not None:
        for key, word in (("cloud", "provider"), ("region", "region"), ("zone", "zone")):
            if text := draft.text(wanted, key):
                draft.under("resources", "constraints", _with(draft, word, text))
        _sky_infra(draft, wanted)
        _sky_gpus(draft, wanted)
        draft.under("resources", "cpus", number(draft.text(wanted, "cpus")))
        draft.under("resources", "memory", size(draft.text(wanted, "memory"), "GB"))
        if (spot := draft.text(wanted, "use_spot")) and spot.lower() in ("true", "yes", "on"):
            draft.put("spot_policy", "spot")
        if price := draft.text(wanted, "max_hourly_cost"):
            draft.under("budget", "max_price", f"{price} USD/h")
    draft.pairs(draft.take(root, "envs"), "env")
    _secrets(draft, draft.take(root, "secrets"))
    _workdir(draft, root, "workdir")
    shim = _SKY_SHIM if "SKYPILOT_" in _words_of(root, "run", "setup") else ""
    for key in ("setup", "run"):
        if text := draft.text(root, key):
            draft.put(key, shim + text)


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
    for key, value in zip(("provider", "region", "zone"), parts, strict=False):
        if value and value != "*":
            draft.under("resources", "constraints", _with(draft, key, value))


def _sky_gpus(draft: Draft, wanted: Node) -> None:
    node = draft.take(wanted, "accelerators")
    if node is None:
        return
    found = [node.text] if node.kind == "scalar" else [item.text for item in node.items]
    found += [f"{kind}:{count.text}" for kind, count in node.entries.items()]
    options = [gpus(kind, count) for kind, _, count in (one.partition(":") for one in found if one)]
    if len(options) == 1:
        draft.under("resources", "gpus", options[0])
    elif options:
        draft.under("resources", "any_of", [{"gpus": option} for option in options])


def _secrets(draft: Draft, node: Node | None) -> None:
    names = [*node.entries, *(item.text for item in node.items)] if node is not None else []
    if node is not None and names:
        draft.put("secrets", names)
        draft.note(node, "values are not copied; keep each with bursar secret set NAME")


def dstack(root: Node, draft: Draft) -> None:
    """A dstack configuration."""
    kind = root.entries.get("type")
    if kind is not None and draft.text(root, "type") not in ("", "task"):
        draft.note(kind, f"type: {kind.text} is not built yet; this becomes a job that ends with its command")
    draft.put("name", job_name(draft.text(root, "name")))
    nodes = number(draft.text(root, "nodes"))
    draft.put("nodes", nodes if nodes != 1 else None)
    wanted = root.entries.get("resources")
    if wanted is not None:
        gpu = draft.take(wanted, "gpu")
        if gpu is not None and gpu.kind == "mapping":
            names = gpu.entries.get("name")
            kinds = [names.text] if names is not None and not names.items else []
            kinds += [item.text for item in names.items] if names is not None else []
            count = gpu.entries.get("count")
            least = number(count.text) if count is not None else 1
            memory = gpu.entries.get("memory")
            parts = ["|".join(kinds), size(memory.text, "GB") if memory is not None else "", str(least or 1)]
            draft.under("resources", "gpus", ":".join(part for part in parts if part))
        elif gpu is not None:
            draft.under("resources", "gpus", _least_gpus(draft, gpu))
        draft.under("resources", "cpus", number(draft.text(wanted, "cpu")))
        draft.under("resources", "memory", size(draft.text(wanted, "memory"), "GB"))
    regions = draft.take(root, "regions")
    if regions is not None:
        draft.under("resources", "constraints", {"region": ",".join(one.text for one in regions.items)})
    if (spot := draft.text(root, "spot_policy")) in ("spot", "on-demand"):
        draft.put("spot_policy", spot)
    if (limit := draft.text(root, "max_duration")) not in ("", "off"):
        draft.put("time_limit", f"{limit}s" if limit.isdigit() else limit)
    if price := draft.text(root, "max_price"):
        draft.under("budget", "max_price", f"{price} USD/h")
    draft.put("priority", number(draft.text(root, "priority")))
    draft.pairs(draft.take(root, "env"), "env")
    _dstack_retry(root, draft)
    _workdir(draft, root, "working_dir")
    commands = draft.take(root, "commands")
    if commands is not None:
        text = "".join(f"{item.text.rstrip()}\n" for item in commands.items)
        draft.put("run", (_DSTACK_SHIM if "DSTACK_" in text else "") + text)


def _dstack_retry(root: Node, draft: Draft) -> None:
    node = root.entries.get("retry")
    if node is None or draft.text(root, "retry").lower() in ("false", "no", "off"):
        return
    events = draft.take(node, "on_events")
    failure = events is not None and any(one.text == "error" for one in events.items)
    on = ["preemption", "node-failure"]
    if events is not None and failure:
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
    labels = draft.take(meta, "labels")
    if labels is not None:
        draft.put("labels", {name.split("/")[-1]: value.text for name, value in labels.entries.items()})
    of_ray = kind in ("RayJob", "RayCluster")
    if of_ray:
        draft.put("launch", "ray")
    elif kind not in ("Job", "Pod") and spec is not None:
        draft.notes.append((root.entries["kind"].key_line, f"kind: {kind} is read for its pods alone"))
    draft.put("run", draft.text(spec, "entrypoint"))
    _job_of_kubernetes(spec, draft)
    indexed = draft.text(spec, "completionMode") == "Indexed"
    pods = [pod for pod in _pods(spec, draft) if "containers" in pod[0].entries]
    if not pods:
        return
    if of_ray:
        pods = [*pods[1:], pods[0]]  # the head stands first, and workers have the GPUs
    nodes = sum(count for _, count in pods)
    if nodes > 1:
        draft.put("nodes", nodes)
    pod = pods[0][0]
    for other, _ in pods[1:]:
        said = "has what the workers have" if of_ray else "runs the first one's command"
        draft.note(other, f"pods of another kind: every node of the job {said}")
    chosen = draft.take(pod, "nodeSelector")
    if chosen is not None:
        found = {name.split("/")[-1]: value.text for name, value in chosen.entries.items()}
        draft.under("resources", "constraints", found)
    for name in ("restartPolicy", "terminationGracePeriodSeconds"):
        draft.take(pod, name)
    containers = pod.entries["containers"].items
    if containers:
        _container(containers[0], draft, indexed)
    for other in containers[1:]:
        draft.note(other, "a second container has no equal: start it in run, in the background")


def _job_of_kubernetes(spec: Node | None, draft: Draft) -> None:
    tasks, at_once = number(draft.text(spec, "completions")), number(draft.text(spec, "parallelism"))
    tasks = tasks or at_once
    if tasks and tasks > 1:
        draft.put("array", f"0-{int(tasks) - 1}" + (f"%{at_once}" if at_once and at_once < tasks else ""))
    if limit := draft.text(spec, "activeDeadlineSeconds"):
        draft.put("time_limit", f"{limit}s")
    if retries := number(draft.text(spec, "backoffLimit")):
        draft.put("retry", {"on": ["failure"], "max": min(int(retries), 100)})
    if draft.text(spec, "suspend") == "true":
        draft.put("held", True)


def _pods(spec: Node | None, draft: Draft) -> list[tuple[Node, int]]:
    """Specs of pods below, each with how many there are of it."""
    if spec is None:
        return []
    if "containers" in spec.entries:
        return [(spec, 1)]
    found: list[tuple[Node, int]] = []
    for child in (*spec.entries.values(), *spec.items):
        below = _pods(child, draft)
        count = number(draft.text(child, "replicas")) if below else 1
        if below:
            draft.take(child, "groupName")
        found += [(pod, many * int(count or 1)) for pod, many in below]
    return found


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


def _container(node: Node, draft: Draft, indexed: bool) -> None:
    draft.take(node, "name")
    words = [item for key in ("command", "args") for item in node.entries.get(key, node).items]
    for key in ("command", "args"):
        draft.take(node, key)
    if words and (indexed or any(_REFERENCE.search(item.text) for item in words)):
        line = " ".join(_shell_word(item.text) for item in words)
        draft.put("run", f"{_INDEX_SHIM if indexed else ''}exec {line}\n")
    elif "launch" not in draft.fields:
        draft.put("command", [item.text for item in words])
    draft.put("workdir", draft.text(node, "workingDir"))
    env = node.entries.get("env")
    for item in env.items if env is not None else ():
        name, value = item.entries.get("name"), item.entries.get("value")
        if name is not None and value is not None:
            draft.take(env)
            draft.under("env", name.text, value.text)
        elif name is not None:
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
                draft.under("resources", "cpus", number(draft.text(listed, key)))
            elif key == "memory":
                draft.under("resources", "memory", size(draft.text(listed, key), "B"))
            elif key.endswith(".com/gpu"):
                draft.under("resources", "gpus", number(draft.text(listed, key)))
            else:
                draft.note(value, f"{key} has no equal: only CPUs, memory and GPUs are counted")


# ------------------------------------------------------------------ Ray


def ray(root: Node, draft: Draft) -> None:
    """A job of Ray, or a cluster of its launcher."""
    draft.put("name", job_name(draft.text(root, "submission_id") or draft.text(root, "cluster_name")))
    runtime = root.entries.get("runtime_env")
    draft.put("workdir", draft.text(runtime, "working_dir"))
    draft.pairs(draft.take(runtime, "env_vars"), "env")
    packages = draft.take(runtime, "pip")
    setup = []
    if packages is not None:
        listed = [item.text for item in packages.items] or [packages.text]
        setup.append("pip install " + " ".join(f"'{one}'" for one in listed if one))
    for key in ("initialization_commands", "setup_commands"):
        commands = draft.take(root, key)
        setup += [item.text for item in commands.items] if commands is not None else []
    draft.put("setup", "".join(f"{one}\n" for one in setup))
    draft.under("resources", "gpus", number(draft.text(root, "entrypoint_num_gpus")))
    draft.under("resources", "cpus", number(draft.text(root, "entrypoint_num_cpus")))
    workers = number(draft.text(root, "max_workers"))
    if workers:
        draft.put("nodes", int(workers) + 1)
    kinds = root.entries.get("available_node_types")
    for kind in kinds.entries.values() if kinds is not None else ():
        wanted = kind.entries.get("resources")
        draft.under("resources", "cpus", number(draft.text(wanted, "CPU")))
        draft.under("resources", "gpus", number(draft.text(wanted, "GPU")))
    draft.take(root, "head_node_type")
    draft.put("launch", "ray")
    draft.put("run", draft.text(root, "entrypoint"))
