"""The job file: YAML to `JobSpec`, every fault of it at once.

Owns    the keys of a job, what each may be, and what of the contract is not built yet.
Input   text, the name of its file, and the directory that relative paths start from.
Why     the tree is read by `read_job` whether it came from YAML, from flags or from directives,
        so there is one meaning of each field.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.jobfile.gpus import Resources, read_resources
from bursar.jobfile.reading import quote, read_mapping
from bursar.jobfile.sections import (
    Caps,
    read_array,
    read_begin_after,
    read_budget,
    read_checkpoint,
    read_depends_on,
    read_env,
    read_labels,
    read_priority,
    read_project_path,
    read_retry,
)
from bursar.model import CheckpointSpec, JobSpec, RetrySpec
from bursar.yamlfile import (
    Faults,
    Node,
    load_yaml,
    raise_if_any,
    read_bool,
    read_duration,
    read_enum,
    read_int,
    read_items,
    read_string,
)

NODES_MAX: Final = 10_000
TIME_LIMIT_MAX_US: Final = 366 * DAY_US
CODE_MAX: Final = 65_536
"""Characters of a script, of a setup, of all words of a command together."""
WORDS_MAX: Final = 4096
COMMENT_MAX: Final = 1024
PATH_MAX: Final = 4096

_BUILT = (
    "type", "name", "project", "experiment", "model", "model_version", "labels", "priority",
    "preemptible", "nodes", "resources", "spot_policy", "time_limit", "begin_after", "depends_on",
    "array", "budget", "checkpoint", "retry", "env", "workdir", "setup", "run", "command", "held",
    "comment",
)  # fmt: skip
_NOT_BUILT: Final = {
    "deadline": "use priority, and time_limit for the longest run",
    "idle_policy": "use time_limit, or an IdlePolicy document of the cluster",
    "secrets": "let the job read them from a file on the node",
    "image": "the job runs on the node itself; prepare it in setup",
    "port": "",
    "readiness_probe": "",
    "replicas": "",
    "scaling": "",
    "base_on_demand_replicas": "",
    "update": "",
}
_SECOND_NAMES = {"num_nodes": "nodes", "time": "time_limit"}
_UNDER_RESOURCES = ("gpus", "cpus", "memory", "mem", "any_of", "ordered", "constraints")
_HINTS: Final = {
    **{key: f"it belongs under resources: {{{key}: ...}}" for key in _UNDER_RESOURCES},
    **{key: f"it belongs under budget: {{{key}: ...}}" for key in ("max_cost", "max_price", "on_exceed")},
    "accelerators": "write resources: {gpus: H100:8}",
    "gpu": "write resources: {gpus: H100:8}",
    "envs": "write env",
    "environment": "write env",
    "script": "write run",
    "commands": "write run, one line per command after |",
    "max_duration": "write time_limit: 24h",
    "timeout": "write time_limit: 24h",
    "utilization_policy": "write idle_policy",
    "use_spot": "write spot_policy: spot",
    "account": "write project",
    "depends": "write depends_on",
}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_TAG = r"[A-Za-z0-9][A-Za-z0-9._:@+=-]*"


def parse_job(text: str | bytes, source: str, base_dir: str) -> JobSpec:
    """Read one job file.

    Args:
        text: the whole file.
        source: its name, for messages.
        base_dir: absolute directory that a relative `workdir` starts from, and the working
            directory when none is given; empty when there is none.

    Returns:
        The job as asked for.

    Raises:
        InvalidRequest: `faults` lists all that is wrong; `NotBuilt` when all of it is only that.
    """
    faults = Faults(source)
    roots = load_yaml(text, faults)
    if not roots and not faults:
        faults.add_at(1, 1, "the file is empty; a job needs at least run: COMMAND")
    if len(roots) > 1:
        line, column = roots[1].line, roots[1].column
        faults.add_at(line, column, "a second document starts here; write one job per file")
    spec = read_job(roots[0], faults, base_dir) if roots else JobSpec()
    raise_if_any(faults, error=InvalidRequest)
    return spec


def read_job(root: Node, faults: Faults, base_dir: str) -> JobSpec:
    """The job of one tree. What it returns means something only when `faults` stayed empty."""
    known = (*_BUILT, *_NOT_BUILT)
    fields = read_mapping(root, faults, known, renamed=_SECOND_NAMES, hints=_HINTS)
    if fields is None:
        return JobSpec()
    _refuse_not_built(fields, faults)
    reader = _Reader(fields, faults)
    resources = reader.resources()
    caps = reader.caps()
    money = caps.max_cost or caps.max_price
    script, command = _read_code(root, fields, faults)
    return JobSpec(
        name=reader.name(),
        project=reader.project(),
        experiment=reader.tag("experiment"),
        model=reader.tag("model"),
        model_version=reader.tag("model_version"),
        labels=read_labels(fields["labels"], faults) if "labels" in fields else (),
        priority=reader.priority(),
        preemptible=reader.boolean("preemptible", True),
        nodes=reader.nodes(),
        options=resources.options,
        ordered=resources.ordered,
        constraints=resources.constraints,
        spot_policy=reader.spot_policy(),
        time_limit_us=reader.time_limit(),
        begin_after=reader.begin_after(),
        depends_on=read_depends_on(fields["depends_on"], faults) if "depends_on" in fields else (),
        array=read_array(fields["array"], faults) if "array" in fields else None,
        max_cost_nanos=caps.max_cost.nanos if caps.max_cost else 0,
        max_price_nanos_per_hour=caps.max_price.nanos if caps.max_price else 0,
        currency=money.currency if money else "",
        on_exceed=caps.on_exceed,
        checkpoint=reader.checkpoint(),
        retry=read_retry(fields["retry"], faults) if "retry" in fields else RetrySpec(),
        env=read_env(fields["env"], faults) if "env" in fields else (),
        command=command,
        script=script,
        setup=reader.text("setup", CODE_MAX),
        workdir=_read_workdir(fields.get("workdir"), faults, base_dir),
        held=reader.boolean("held", False),
        comment=reader.text("comment", COMMENT_MAX),
    )


def _refuse_not_built(fields: dict[str, Node], faults: Faults) -> None:
    for key, remedy in _NOT_BUILT.items():
        if key in fields:
            faults.not_built(fields[key], f"the key {key}", instead=remedy)
    if "type" in fields:
        kind = read_enum(fields["type"], faults, ("job", "service", "interactive"))
        if kind in ("service", "interactive"):
            faults.not_built(fields["type"], f"type: {kind}", instead="write type: job")


class _Reader:
    """The plain fields of a job, each with its default."""

    def __init__(self, fields: dict[str, Node], faults: Faults) -> None:
        self._fields = fields
        self._faults = faults

    def name(self) -> str:
        node = self._fields.get("name")
        if node is None:
            return ""
        expected = "a job name: letters, digits, '.', '_', '-', starting with a letter or digit"
        text = read_string(node, self._faults, pattern=_NAME, expected=expected, length_max=100)
        if text is not None and (text.isdigit() or text == "last" or text.startswith("job_")):
            self._faults.add(node, f"{quote(text)} would be read as an id or a number; add a word")
        return text or ""

    def tag(self, key: str) -> str:
        node = self._fields.get(key)
        if node is None:
            return ""
        expected = f"a name for {key}: letters, digits and . _ : @ + = - without spaces or slashes"
        return read_string(node, self._faults, pattern=_TAG, expected=expected, length_max=200) or ""

    def text(self, key: str, length_max: int) -> str:
        node = self._fields.get(key)
        if node is None:
            return ""
        return read_string(node, self._faults, length_max=length_max, multiline=True) or ""

    def project(self) -> str:
        node = self._fields.get("project")
        path = None if node is None else read_project_path(node, self._faults)
        return path or "default"

    def priority(self) -> int:
        node = self._fields.get("priority")
        value = None if node is None else read_priority(node, self._faults)
        return 50 if value is None else value

    def boolean(self, key: str, default: bool) -> bool:
        node = self._fields.get(key)
        value = None if node is None else read_bool(node, self._faults)
        return default if value is None else value

    def nodes(self) -> int:
        node = self._fields.get("nodes")
        if node is None:
            return 1
        if node.kind == "scalar" and re.fullmatch(r"\d{0,9}\.\.\d{0,9}|\d{1,9}-\d{0,9}|\d{1,9}\+", node.text):
            self._faults.add(node, f"{quote(node.text)}: a gang has one size, such as 4")
            return 1
        return read_int(node, self._faults, minimum=1, maximum=NODES_MAX) or 1

    def spot_policy(self) -> str:
        node = self._fields.get("spot_policy")
        choices = ("auto", "spot", "on-demand")
        return (None if node is None else read_enum(node, self._faults, choices)) or "auto"

    def time_limit(self) -> int:
        node = self._fields.get("time_limit")
        limit_us = None if node is None else read_duration(node, self._faults)
        if node is None or limit_us is None:
            return 0
        if limit_us < SECOND_US:
            self._faults.add(node, f"is {quote(node.text)}; at least 1s (leave it out for the default)")
        elif limit_us > TIME_LIMIT_MAX_US:
            self._faults.add(node, f"is {quote(node.text)}; at most 366d")
        return limit_us

    def begin_after(self) -> int:
        node = self._fields.get("begin_after")
        return (None if node is None else read_begin_after(node, self._faults)) or 0

    def resources(self) -> Resources:
        node = self._fields.get("resources")
        return Resources() if node is None else read_resources(node, self._faults)

    def caps(self) -> Caps:
        node = self._fields.get("budget")
        return Caps() if node is None else read_budget(node, self._faults)

    def checkpoint(self) -> CheckpointSpec:
        node = self._fields.get("checkpoint")
        return CheckpointSpec() if node is None else read_checkpoint(node, self._faults)


def _read_code(root: Node, fields: dict[str, Node], faults: Faults) -> tuple[str, tuple[str, ...]]:
    run, command = fields.get("run"), fields.get("command")
    if run is None and command is None:
        faults.add(root, "nothing to run: give run: SHELL TEXT, or command: [PROGRAM, ARGUMENT]")
    if run is not None and command is not None:
        faults.add_key(command, "stands beside run; give one of the two")
    return _read_run(run, faults), _read_command(command, faults)


def _read_run(node: Node | None, faults: Faults) -> str:
    if node is None:
        return ""
    if node.kind == "sequence":
        faults.add(node, "run is shell text; for a list of words use the key command")
        return ""
    text = read_string(node, faults, length_max=CODE_MAX, multiline=True)
    if text is not None and not text.strip():
        faults.add(node, "is blank; write the shell text to run")
    return text or ""


def _read_command(node: Node | None, faults: Faults) -> tuple[str, ...]:
    if node is None:
        return ()
    if node.kind != "sequence":
        faults.add(node, "expected a list, such as [python, train.py]; for shell text use the key run")
        return ()
    if not node.items:
        faults.add(node, "is empty; name the program to run")
    words: list[str] = []
    for item in read_items(node, faults, items_max=WORDS_MAX):
        word = read_string(item, faults, length_max=CODE_MAX, multiline=True)
        if not words and word is not None and not word.strip():
            faults.add(item, "is blank; name the program to run")
        words.append(word or "")
    if sum(map(len, words)) > CODE_MAX:
        faults.add(node, f"has more than {CODE_MAX} characters; put the command into a script")
    return tuple(words)


def _read_workdir(node: Node | None, faults: Faults, base_dir: str) -> str:
    if node is None:
        return base_dir
    text = read_string(node, faults, length_max=PATH_MAX)
    if text is None:
        return ""
    if not text.strip():
        faults.add(node, "is blank; write a directory, or leave the key out")
        return ""
    if text.startswith("~"):
        faults.add(node, f"{quote(text)}: ~ is not expanded, since nodes differ; write the whole path")
        return ""
    if not text.startswith("/") and not base_dir:
        faults.add(node, f"{quote(text)} is relative, here to nothing; write the whole path")
        return ""
    path = posixpath.normpath(posixpath.join(base_dir, text))
    return "/" + path.lstrip("/")
