"""The job file: YAML to `JobSpec`, every fault of it at once.

Owns    the keys of a job, what each may be, and what of the contract is not built yet.
Input   text, the name of its file, and the directory that relative paths start from.
Why     the tree is read by `read_job` whether it came from YAML, from flags or from directives,
        so there is one meaning of each field.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from bursar.clock import SECOND_US, assumed_utc
from bursar.errors import InvalidRequest
from bursar.jobfile import service
from bursar.jobfile.gpus import Resources, read_resources
from bursar.jobfile.reading import read_mapping
from bursar.jobfile.sections import (
    Caps,
    read_array,
    read_budget,
    read_checkpoint,
    read_depends_on,
    read_idle,
    read_moment,
    read_pairs,
    read_priority,
    read_retry,
    read_secrets,
    read_throughput,
)
from bursar.model import CheckpointSpec, IdleSpec, JobSpec, RetrySpec, ServiceSpec
from bursar.model.check import DEADLINE_POLICIES, SPOT_POLICIES, Path, Problem, check, quote
from bursar.yamlfile import (
    Faults,
    Node,
    load_yaml,
    raise_if_any,
    read_bool,
    read_duration,
    read_enum,
    read_int,
    read_project,
    read_text,
)

if TYPE_CHECKING:
    from bursar.jobfile.flags import RunFlags

_BUILT = (
    "type", "name", "project", "experiment", "model", "model_version", "labels", "priority",
    "preemptible", "nodes", "throughput", "resources", "spot_policy", "time_limit", "begin_after", "deadline",
    "deadline_policy", "depends_on", "array", "budget", "checkpoint", "retry", "env", "workdir", "setup",
    "run", "arguments", "command",
    "held", "comment", "secrets", "launch", "tasks_per_node", "output_file", "error_file", "open_mode",
    *service.KEYS,
    "idle_policy", "image", "image_auth", "mounts",
)  # fmt: skip
TYPES: Final = ("job", "service", "interactive")
DETACHED_US: Final = 30 * 60 * SECOND_US
_NOT_BUILT: Final = {
    **service.NOT_BUILT,
}
_SECOND_NAMES = {
    "num_nodes": "nodes",
    "time": "time_limit",
    "output": "output_file",
    "error": "error_file",
}
_UNDER_RESOURCES = ("gpus", "cpus", "memory", "mem", "any_of", "ordered", "constraints")
_UNDER_BUDGET = ("max_cost", "per", "max_price", "on_exceed")
_HINTS: Final = {
    **{key: f"it belongs under resources: {{{key}: ...}}" for key in _UNDER_RESOURCES},
    **{key: f"it belongs under budget: {{{key}: ...}}" for key in _UNDER_BUDGET},
    "accelerators": "write resources: {gpus: H100:8}",
    "gpu": "write resources: {gpus: H100:8}",
    "envs": "write env",
    "environment": "write env",
    "script": "write run",
    "commands": "write run, one line per command after |",
    "max_duration": "write time_limit: 24h",
    "timeout": "write time_limit: 24h",
    "utilization_policy": "use idle_policy: {time_window: 30m}",
    "use_spot": "write spot_policy: spot",
    "account": "write project",
    "depends": "write depends_on",
    "stdout": "write output_file",
    "image_id": "write image: NAME",
    "docker": "write image: NAME",
    "container": "write image: NAME",
    "volumes": "write mounts: [/on/the/node:/in/the/container]",
    "registry_auth": "write image_auth: NAME of a secret",
    "stderr": "write error_file",
}


def parse_job(text: str | bytes, source: str, base_dir: str, flags: RunFlags | None = None) -> JobSpec:
    """Read one job file.

    Args:
        text: the whole file.
        source: its name, for messages.
        base_dir: absolute directory that a relative `workdir` starts from, and the working
            directory when none is given; empty when there is none.
        flags: stand above what the file says.

    Returns:
        The job as asked for.

    Raises:
        InvalidRequest: `faults` lists all that is wrong; `NotBuilt` when all of it is only that.
    """
    faults = Faults(source) if flags is None else _flag_faults(source)
    roots = load_yaml(text, faults)
    if not roots and not faults:
        faults.add_at(1, 1, "the file is empty; a job needs at least run: COMMAND")
    if len(roots) > 1:
        line, column = roots[1].line, roots[1].column
        faults.add_at(line, column, "a second document starts here; write one job per file")
    if roots and flags is not None and roots[0].kind == "mapping":
        _apply(flags, roots[0], faults)
    _refuse_script(source, roots)
    spec = read_job(roots[0], faults, base_dir) if roots else JobSpec()
    raise_if_any(faults, error=InvalidRequest)
    return spec


def says(text: str | bytes, key: str) -> bool:
    """Whether a job file has this key at its top, whatever it says there."""
    return any(key in root.entries for root in load_yaml(text, Faults(""))[:1])


def _refuse_script(source: str, roots: Sequence[Node]) -> None:
    """One sentence of a file that is a script and does not begin as one, in place of faults of its YAML."""
    if roots and roots[0].entries.keys() & {"run", "command"}:
        return
    from bursar.jobfile.others import script_without_line  # a job file need not pay for these tables

    said = script_without_line(source, plain=bool(roots) and roots[0].kind == "scalar")
    if said is not None:
        faults = Faults(source)
        faults.add_at(1, 1, said)
        raise_if_any(faults, error=InvalidRequest)


def unexpanded(text: str, source: str) -> list[str]:
    """Sentences, by line, about variables in `env` of a job file that look as if they were expanded."""
    if "env" not in text or "$" not in text:
        return []
    roots = load_yaml(text, Faults(source))
    env = roots[0].entries.get("env") if roots else None
    return [
        f"{source}:{node.line}: env.{name}: {quote(node.text)} is taken as it is, nothing in it is expanded; "
        f"write `export {name}=...` in run"
        for name, node in (env.entries.items() if env is not None else ())
        if re.search(r"\$[A-Za-z_{]", node.text)
    ]


def of_utc(text: str, source: str, spec: JobSpec) -> list[str]:
    """Sentences, by line, about times of a job file that name no zone."""
    found = (("begin_after", spec.begin_after), ("deadline", spec.deadline_at))
    if not any(at and key in text for key, at in found):
        return []
    roots = load_yaml(text, Faults(source))
    nodes = [(key, at, roots[0].entries.get(key)) for key, at in found if roots and at]
    said = [(key, node.line, assumed_utc(node.text, at)) for key, at, node in nodes if node is not None]
    return [f"{source}:{line}: {key}: {sentence}" for key, line, sentence in said if sentence]


def _flag_faults(source: str) -> Faults:
    from bursar.jobfile.flags import FlagFaults  # flags read jobs, so only here

    return FlagFaults(source)


def _apply(flags: RunFlags, root: Node, faults: Faults) -> None:
    from bursar.jobfile.flags import FlagFaults, Tree, apply_flags

    assert isinstance(faults, FlagFaults)
    apply_flags(Tree(faults, root), flags)


def read_job(root: Node, faults: Faults, base_dir: str) -> JobSpec:
    """The job of one tree. What it returns means something only when `faults` stayed empty."""
    if root.kind == "mapping" and {"kind", "spec"} <= set(root.entries):
        faults.add(root, f"this is a policy, not a job; `bursar policy apply {faults.source}` takes it")
        return JobSpec()
    fields = read_mapping(
        root, faults, _BUILT, renamed=_SECOND_NAMES, hints=_HINTS, unbuilt=tuple(_NOT_BUILT)
    )
    if fields is None:
        return JobSpec()
    _refuse_not_built(fields, faults)
    reader = _Reader(fields, faults)
    resources = reader.resources()
    caps = reader.caps()
    money = caps.max_cost or caps.max_price
    script, command = _read_code(fields, faults)
    array = read_array(fields["array"], faults) if "array" in fields else None
    secrets, secret_files = read_secrets(fields["secrets"], faults) if "secrets" in fields else ((), ())
    kind = fields.get("type")
    interactive = kind is not None and kind.kind == "scalar" and kind.text == "interactive"
    idle = read_idle(fields["idle_policy"], faults) if "idle_policy" in fields else IdleSpec()
    least, most = reader.nodes()
    spec = JobSpec(
        name=reader.word("name"),
        project=reader.project(),
        experiment=reader.word("experiment"),
        model=reader.word("model"),
        model_version=reader.word("model_version"),
        labels=read_pairs(fields["labels"], faults) if "labels" in fields else (),
        priority=reader.priority(),
        preemptible=reader.boolean("preemptible", True),
        nodes=least,
        max_nodes=most,
        throughput=read_throughput(fields["throughput"], faults) if "throughput" in fields else (),
        options=resources.options,
        ordered=resources.ordered,
        constraints=resources.constraints,
        spot_policy=reader.choice("spot_policy", SPOT_POLICIES),
        time_limit_us=reader.time_limit(),
        begin_after=reader.instant("begin_after"),
        deadline_at=reader.instant("deadline"),
        deadline_policy=reader.choice("deadline_policy", DEADLINE_POLICIES),
        depends_on=read_depends_on(fields["depends_on"], faults) if "depends_on" in fields else (),
        array=array,
        max_cost_nanos=caps.max_cost.nanos if caps.max_cost else 0,
        # Of a job that is no array both words mean the same, and one of them is written down.
        max_cost_per=caps.per if array is not None and caps.max_cost else "task",
        max_price_nanos_per_hour=caps.max_price.nanos if caps.max_price else 0,
        currency=money.currency if money else "",
        on_exceed=caps.on_exceed,
        checkpoint=reader.checkpoint(),
        retry=read_retry(fields["retry"], faults) if "retry" in fields else RetrySpec(),
        idle_policy=watched_when_detached(idle) if interactive else idle,
        env=read_pairs(fields["env"], faults) if "env" in fields else (),
        command=command,
        script=script,
        arguments=_read_words(fields.get("arguments"), faults, "of words that run gets", empty=True),
        setup=reader.text("setup"),
        workdir=_read_workdir(fields.get("workdir"), faults, base_dir),
        held=reader.boolean("held", False),
        comment=reader.text("comment"),
        secrets=secrets,
        secret_files=secret_files,
        launch=reader.text("launch") or ("once" if interactive else "per-node"),
        tasks_per_node=reader.count("tasks_per_node"),
        output_file=reader.word("output_file"),
        error_file=reader.word("error_file"),
        open_mode=reader.word("open_mode"),
        image=reader.word("image"),
        image_auth=reader.word("image_auth"),
        mounts=_read_words(fields.get("mounts"), faults, "of SOURCE:TARGET", empty=True),
        service=_read_service(fields, faults),
        interactive=interactive,
    )
    report(check(spec), root, faults)
    return spec


def watched_when_detached(idle: IdleSpec) -> IdleSpec:
    """What an interactive job that says nothing of it has: it is not held for ever for nobody."""
    return idle if idle.detached_us else msgspec.structs.replace(idle, detached_us=DETACHED_US)


def report(problems: Sequence[Problem], root: Node, faults: Faults) -> None:
    """Say each problem at the value it is about; a value that could not even be read is not judged."""
    unread = [_parts(path) for path in faults.paths]
    told = set()
    for problem in problems:
        node, path = _find(root, problem.path)
        if any(_related(path, other) for other in unread) or (path, problem.message) in told:
            continue
        told.add((path, problem.message))
        if problem.not_built:
            faults.refuse(node, problem.message)
        else:
            faults.add(node, problem.message)


def _find(root: Node, path: Path) -> tuple[Node, tuple[str, ...]]:
    """The value a problem is about, else what holds it; and its path. An alternative inherits what it
    does not name from the resources above it.
    """
    inherited = ("resources", path[-1])
    node, depth = _walk(root, path)
    if depth < len(path) and path[0] == "resources" and _walk(root, inherited)[1] == 2:
        node, path = _walk(root, inherited)[0], inherited
    return node, tuple(str(part) for part in path)


def _walk(root: Node, path: Path) -> tuple[Node, int]:
    node, depth = root, 0
    for part in path:
        below = (
            (node.items[part] if part < len(node.items) else None)
            if isinstance(part, int)
            else node.entries.get(part)
        )
        if below is None:
            break
        node, depth = below, depth + 1
    return node, depth


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[.\[\]]+", path) if part)


def _related(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """One of them is, or holds, the other; `run` and `command` are two words for one thing."""
    same = {"command": "run"}
    return all(same.get(a, a) == same.get(b, b) for a, b in zip(one, other, strict=False)) and bool(other)


def _refuse_not_built(fields: dict[str, Node], faults: Faults) -> None:
    for key, remedy in _NOT_BUILT.items():
        if key in fields:
            faults.not_built(fields[key], f"the key {key}", instead=remedy)
    if "type" in fields:
        read_enum(fields["type"], faults, TYPES)


def _read_service(fields: dict[str, Node], faults: Faults) -> ServiceSpec | None:
    if "type" in fields and fields["type"].kind == "scalar" and fields["type"].text == "service":
        if "array" in fields:
            faults.add(fields["array"], "is of a job; a service says replicas")
        return service.read_service(fields, faults)
    for key in service.KEYS:
        if key in fields:
            faults.add(fields[key], "is of a service; write type: service")
    return None


class _Reader:
    """The plain fields of a job, each with its default."""

    def __init__(self, fields: dict[str, Node], faults: Faults) -> None:
        self._fields = fields
        self._faults = faults

    def text(self, key: str) -> str:
        node = self._fields.get(key)
        return (None if node is None else read_text(node, self._faults)) or ""

    def word(self, key: str) -> str:
        """A name; an empty one is a variable that was not set, and is not taken for none."""
        text = self.text(key)
        node = self._fields.get(key)
        if node is not None and text == "" and node.kind == "scalar" and not node.is_null:
            self._faults.add(node, "is empty; give a name or leave the key out")
        return text

    def project(self) -> str:
        node = self._fields.get("project")
        path = None if node is None else read_project(node, self._faults)
        return path or "default"

    def priority(self) -> int:
        node = self._fields.get("priority")
        value = None if node is None else read_priority(node, self._faults)
        return 50 if value is None else value

    def boolean(self, key: str, default: bool) -> bool:
        node = self._fields.get(key)
        value = None if node is None else read_bool(node, self._faults)
        return default if value is None else value

    def count(self, key: str) -> int:
        """A whole number from 1 on; 0 where the key is left out."""
        node = self._fields.get(key)
        value = None if node is None else read_int(node, self._faults)
        if node is not None and value == 0:
            self._faults.add(node, "is 0; at least 1 is needed, or leave the key out")
        return value or 0

    def number(self, key: str, default: int) -> int:
        """A whole number; `model.check` has its bounds."""
        node = self._fields.get(key)
        value = None if node is None else read_int(node, self._faults)
        return default if value is None else value

    def nodes(self) -> tuple[int, int]:
        """The least, and of a range the most; else 0."""
        node = self._fields.get("nodes")
        if node is None:
            return 1, 0
        text = node.text if node.kind == "scalar" else ""
        if (both := re.fullmatch(r"([1-9]\d{0,8})\.\.([1-9]\d{0,8})", text, re.ASCII)) is not None:
            return int(both[1]), int(both[2])
        if re.fullmatch(r"\d{0,9}\s*\.\.\s*\d{0,9}|\d{1,9}\s*-\s*\d{0,9}|\d{1,9}\s*\+", text, re.ASCII):
            self._faults.add(node, f"{quote(text)} is no range of nodes; {_range_instead(text)}")
            return 1, 0
        return self.number("nodes", 1), 0

    def choice(self, key: str, words: tuple[str, ...]) -> str:
        """One of some words, of which the first is the default."""
        node = self._fields.get(key)
        return (None if node is None else read_enum(node, self._faults, words)) or words[0]

    def time_limit(self) -> int:
        node = self._fields.get("time_limit")
        limit_us = None if node is None else read_duration(node, self._faults)
        if node is None or limit_us is None:
            return 0
        if limit_us == 0:
            self._faults.add(node, f"is {quote(node.text)}; at least 1s (leave it out for the default)")
        return limit_us

    def instant(self, key: str) -> int:
        node = self._fields.get(key)
        return (None if node is None else read_moment(node, self._faults)) or 0

    def resources(self) -> Resources:
        node = self._fields.get("resources")
        return Resources() if node is None else read_resources(node, self._faults)

    def caps(self) -> Caps:
        node = self._fields.get("budget")
        return Caps() if node is None else read_budget(node, self._faults)

    def checkpoint(self) -> CheckpointSpec:
        node = self._fields.get("checkpoint")
        return CheckpointSpec() if node is None else read_checkpoint(node, self._faults)


def _read_code(fields: dict[str, Node], faults: Faults) -> tuple[str, tuple[str, ...]]:
    run, command = fields.get("run"), fields.get("command")
    return _read_run(run, faults), _read_words(command, faults, _COMMAND)


def _read_run(node: Node | None, faults: Faults) -> str:
    if node is None:
        return ""
    if node.kind == "sequence":
        faults.add(node, "run is shell text; for a list of words use the key command")
        return ""
    text = read_text(node, faults)
    if text == "":
        faults.add(node, "is blank; write the shell text to run")
    return text or ""


_COMMAND: Final = "such as [python, train.py]; for shell text use the key run"


def _read_words(node: Node | None, faults: Faults, form: str, empty: bool = False) -> tuple[str, ...]:
    if node is None:
        return ()
    if node.kind != "sequence":
        faults.add(node, f"expected a list, {form}")
        return ()
    if not node.items and not empty:
        faults.add(node, "is empty; name the program to run")
    return tuple(read_text(item, faults) or "" for item in node.items)


def _read_workdir(node: Node | None, faults: Faults, base_dir: str) -> str:
    if node is None:
        return base_dir
    text = read_text(node, faults)
    if text is None:
        return ""
    if not text.strip():
        faults.add(node, "is blank; write a directory, or leave the key out")
        return ""
    if text.startswith("~"):
        faults.add(node, f"{quote(text)}: ~ is not expanded, since nodes differ; write the whole path")
        return ""
    path = posixpath.normpath(posixpath.join(base_dir, text))
    return "/" + path.lstrip("/") if path.startswith("/") else path


def _range_instead(text: str) -> str:
    """What to write for something that is none."""
    numbers = [int(one) for one in re.findall(r"\d{1,9}", text, re.ASCII)]
    if len(numbers) == 2 and 0 in numbers[:1]:
        return f"a job has at least one node: write 1..{max(numbers[1], 1)}"
    if len(numbers) == 2:
        return f"write {min(numbers)}..{max(numbers)}"
    return "it has both ends, as in 2..8"
