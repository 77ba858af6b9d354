"""Flags as a job file: the flags of `run` and of `#BURSAR` lines become the tree that YAML would give.

Owns    which flag means which key, and faults that name the flag (`--gpus`) in place of the key.
Why     a second validator for flags would drift from the first one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from bursar.errors import Fault, InvalidRequest, NotBuilt
from bursar.jobfile.document import read_job
from bursar.model import JobSpec
from bursar.model.check import quote
from bursar.yamlfile import Faults, Node

PAIRS: Final[Mapping[str, tuple[str, ...]]] = {
    "env": ("env",),
    "label": ("labels",),
    "throughput": ("throughput",),
    "constraint": ("resources", "constraints"),
}
"""Flags given several times, as NAME=VALUE, each with the mapping that it adds to."""
SWITCHES: Final[Mapping[str, tuple[str, str]]] = {"spot": ("spot_policy", "spot"), "hold": ("held", "true")}
"""Flags without a value, each with the key and what it says there."""


@dataclass(frozen=True, slots=True)
class RunFlags:
    """The flags of `run` as the user typed them; None where the flag was not given.

    Attributes:
        env: `NAME=VALUE` words. label, throughput, constraint: the same.
        after: jobs to wait for, `JOB` or `JOB:finished`; each word may hold several by comma.
        secret: names of secrets, `NAME:file` for a private file; each word may hold several by comma.
        mount: `SOURCE:TARGET[:ro]` words.
        retry_on: causes after which another attempt follows; each word may hold several by comma.
        spot, hold: `--spot` and `--hold` were given.
        command: the words after `--`.
    """

    command: tuple[str, ...] = ()
    name: str | None = None
    project: str | None = None
    experiment: str | None = None
    model: str | None = None
    model_version: str | None = None
    nodes: str | None = None
    gpus: str | None = None
    cpus: str | None = None
    memory: str | None = None
    time_limit: str | None = None
    begin_after: str | None = None
    deadline: str | None = None
    deadline_policy: str | None = None
    priority: str | None = None
    preemptible: str | None = None
    spot_policy: str | None = None
    max_cost: str | None = None
    max_cost_per: str | None = None
    max_price: str | None = None
    on_exceed: str | None = None
    checkpoint_signal: str | None = None
    checkpoint_grace: str | None = None
    checkpoint_before: str | None = None
    retry_max: str | None = None
    idle_window: str | None = None
    idle_action: str | None = None
    setup: str | None = None
    workdir: str | None = None
    array: str | None = None
    comment: str | None = None
    launch: str | None = None
    tasks_per_node: str | None = None
    output_file: str | None = None
    error_file: str | None = None
    open_mode: str | None = None
    image: str | None = None
    image_auth: str | None = None
    env: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    throughput: tuple[str, ...] = ()
    constraint: tuple[str, ...] = ()
    retry_on: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    spot: bool = False
    hold: bool = False


_ELSEWHERE: Final = {
    "gpus": ("resources", "gpus"),
    "cpus": ("resources", "cpus"),
    "memory": ("resources", "memory"),
    "max_cost": ("budget", "max_cost"),
    "max_cost_per": ("budget", "per"),
    "max_price": ("budget", "max_price"),
    "on_exceed": ("budget", "on_exceed"),
    "checkpoint_signal": ("checkpoint", "signal"),
    "checkpoint_grace": ("checkpoint", "grace"),
    "checkpoint_before": ("checkpoint", "before"),
    "retry_max": ("retry", "max"),
    "idle_window": ("idle_policy", "time_window"),
    "idle_action": ("idle_policy", "action"),
}
PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    flag.name: _ELSEWHERE.get(flag.name, (flag.name,)) for flag in fields(RunFlags) if flag.default is None
}
"""Flags with one value, each with its place in the job file: the key of its name, unless it is elsewhere."""


def spec_from_flags(flags: RunFlags, base_dir: str = "") -> JobSpec:
    """The job of a `run` command line.

    Args:
        flags: as typed.
        base_dir: absolute directory of the caller: where a relative `--workdir` starts, and the
            working directory when none is given.

    Raises:
        InvalidRequest: with one line per fault, each naming its flag.
    """
    faults = FlagFaults("command line")
    tree = Tree(faults)
    apply_flags(tree, flags)
    if flags.command:
        tree.put_words(("command",), flags.command, Place("command", 0, 0))
        spec = read_job(tree.root, faults, base_dir)
    else:
        faults.add(FlagNode("scalar", Place("command", 0, 0)), "there is none; write it after --")
        tree.put_words(("command",), ("true",), Place("command", 0, 0))
        spec = read_job(tree.root, faults, base_dir)
    if faults:
        _raise(faults)
    return spec


def apply_flags(tree: Tree, flags: RunFlags) -> None:
    """Flags above what a file says; `--after` replaces all that it waits for."""
    if flags.after:
        tree.root.entries.pop("depends_on", None)
    for name, value in _given(flags):
        tree.apply(name, value, Place(f"--{name.replace('_', '-')}", 0, 0))


def _given(flags: RunFlags) -> Iterator[tuple[str, str]]:
    for field in fields(flags):
        value = getattr(flags, field.name)
        if field.name == "command" or value is None or value is False:
            continue
        if isinstance(value, tuple):
            yield from ((field.name, word) for word in value)
        else:
            yield field.name, "" if value is True else value


def _raise(faults: FlagFaults) -> None:
    kind = NotBuilt if all(fault.not_built for fault in faults.found) else InvalidRequest
    lines = [f"{fault.field}: {fault.message}" for fault in faults.found]
    failure = kind("\n".join(lines), {"faults": str(len(lines))})
    failure.faults = tuple(faults.found)
    raise failure


# ------------------------------------------------------------------ the tree


@dataclass(frozen=True, slots=True)
class Place:
    """Where a flag was written; line and column are 0 on a command line."""

    flag: str
    line: int
    column: int


class FlagNode(Node):
    """A node that knows the flag it came from."""

    __slots__ = ("flag",)

    def __init__(self, kind: str, place: Place, text: str = "") -> None:
        super().__init__(kind, place.line, place.column, None)
        self.flag = place.flag
        self.text = text
        # What is typed is meant: `--name null` is the word, not nothing.
        self.quoted = True


class FlagFaults(Faults):
    """Faults whose field is the flag, since the user never wrote the key."""

    def add(self, node: Node, message: str, *, field: str = "", nearest: str | None = None) -> None:
        """Report at a value."""
        super().add(node, message, field=field, nearest=nearest)
        self._rename(node)

    def add_key(self, node: Node, message: str, *, nearest: str | None = None) -> None:
        """Report at a name, such as that of a variable."""
        super().add_key(node, message, nearest=nearest)
        self._rename(node)

    def refuse(self, node: Node, message: str) -> None:
        """Report what is not built."""
        super().refuse(node, message)
        self._rename(node)

    def _rename(self, node: Node) -> None:
        holder: Node | None = node
        while holder is not None and not isinstance(holder, FlagNode):
            holder = holder.parent
        if isinstance(holder, FlagNode) and holder.flag:
            fault: Fault = self.found[-1]
            self.found[-1] = fault._replace(field=holder.flag)


class Tree:
    """A job file that grows by flags, from nothing or from what a file says."""

    def __init__(self, faults: FlagFaults, root: Node | None = None) -> None:
        self.root: Node = FlagNode("mapping", Place("", 1, 1)) if root is None else root
        self._faults = faults

    def apply(self, name: str, value: str, place: Place) -> None:
        """Set what the flag `name` (with underscores) means. A later one replaces an earlier one."""
        if name in PAIRS:
            key, mark, text = value.partition("=")
            if mark:
                self.put((*PAIRS[name], key), text, place)
            else:
                self._faults.add(FlagNode("scalar", place), f"{quote(value)} has no '='; write NAME=VALUE")
        elif name in SWITCHES:
            key, said = SWITCHES[name]
            self.put((key,), said, place)
        elif name == "retry_on":
            for word in value.split(","):
                self._extend(("retry", "on"), FlagNode("scalar", place, word.strip()), place)
        elif name == "secret":
            for word in value.split(","):
                self._secret(word.strip(), place)
        elif name == "mount":
            self._extend(("mounts",), FlagNode("scalar", place, value), place)
        elif name == "after":
            for word in value.split(","):
                job, _, when = word.strip().partition(":")
                self.depend(job, when or "succeeded", place)
        else:
            self.put(PATHS[name], value, place)

    def put(self, path: tuple[str, ...], text: str, place: Place) -> None:
        """Set one value, making the mappings above it."""
        self._hang(path, FlagNode("scalar", place, text))

    def put_words(self, path: tuple[str, ...], words: tuple[str, ...], place: Place) -> None:
        """Set a list."""
        node = FlagNode("sequence", place)
        self._hang(path, node)
        for word in words:
            _append(node, FlagNode("scalar", place, word))

    def depend(self, job: str, when: str, place: Place) -> None:
        """Add one dependency."""
        entry = FlagNode("mapping", place)
        self._extend(("depends_on",), entry, place)
        _hang(entry, "job", FlagNode("scalar", place, job))
        _hang(entry, "when", FlagNode("scalar", place, when))

    def _secret(self, word: str, place: Place) -> None:
        """Add one secret: `NAME`, or `NAME:file`."""
        name, mark, form = word.partition(":")
        if not mark:
            self._extend(("secrets",), FlagNode("scalar", place, name), place)
            return
        entry = FlagNode("mapping", place)
        self._extend(("secrets",), entry, place)
        _hang(entry, "name", FlagNode("scalar", place, name))
        _hang(entry, "file", FlagNode("scalar", place, "true" if form == "file" else form))

    def _extend(self, path: tuple[str, ...], entry: FlagNode, place: Place) -> None:
        if path not in self:
            self._hang(path, FlagNode("sequence", place))
        listed: Node = self.root
        for key in path:
            listed = listed.entries[key]
        _append(listed, entry)

    def __contains__(self, path: tuple[str, ...]) -> bool:
        node: Node = self.root
        for key in path:
            if key not in node.entries:
                return False
            node = node.entries[key]
        return True

    def _hang(self, path: tuple[str, ...], node: FlagNode) -> None:
        holder: Node = self.root
        for key in path[:-1]:
            if key not in holder.entries:
                _hang(holder, key, FlagNode("mapping", Place(node.flag, node.line, node.column)))
            holder = holder.entries[key]
        _hang(holder, path[-1], node)


def _hang(holder: Node, key: str, node: FlagNode) -> None:
    node.parent, node.key = holder, key
    holder.entries[key] = node


def _append(holder: Node, node: FlagNode) -> None:
    node.parent, node.key = holder, len(holder.items)
    holder.items.append(node)


def job_name_from(text: str) -> str:
    """The nearest job name: other characters become `-`; empty when nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]
    return f"job-{name}" if name.isdigit() or name == "last" or name.startswith("job_") else name
