"""Nomad: its language (HCL, as far as job files use it), and what its blocks become here."""

from __future__ import annotations

import re
from typing import Final

from bursar.jobfile.convert.draft import IMAGE_AUTH, NO_ENTRYPOINT, Draft, gpus, job_name
from bursar.yamlfile import Node

HINTS: Final = {
    "datacenters": "write resources.constraints: {zone: ...}",
    "auth": IMAGE_AUTH,
    "work_dir": "write cd into run",
    "volumes": "mounts gives a container what a node has",
    "driver": "a job is started as a process of its account",
    "constraint": "write resources.constraints",
    "affinity": "write resources.constraints",
    "artifact": "fetch it in setup",
    "template": "write the file in setup",
    "volume": "keep it on a disk that all nodes share",
    "volume_mount": "keep it on a disk that all nodes share",
    "network": "a job listens on its node; nothing is opened for it",
    "service": "a service is not converted; write it as docs/services.md says",
    "periodic": "jobs are not repeated by the clock; submit from cron",
    "vault": "use bursar secret and secrets: [NAME]",
    "update": "a service is not converted; write it as docs/services.md says",
    "cpu": "MHz are not CPUs; write resources.cpus",
    "priority": "Nomad's scale is another one; write priority: low, normal or high",
}
_TOKEN = re.compile(
    r'(?P<skip>[ \t\r]+|\#[^\n]*|//[^\n]*|/\*.*?\*/)|(?P<line>\n)|(?P<text>"(?:[^"\\]|\\.)*")'
    r"|<<-?(?P<mark>\w+)\n(?P<doc>.*?)\n[ \t]*(?P=mark)(?=\n|$)"
    r"|(?P<word>[A-Za-z0-9_.$/:*+-]+)|(?P<sign>.)",
    re.DOTALL,
)
_DEPTH_MAX: Final = 20
_REFERENCE = re.compile(r"\$\{(?:env\.)?(\w+)\}|\$\{(?:attr|node|meta)\.[\w.]+\}", re.ASCII)
_SHIM: Final = """\
export NOMAD_ALLOC_INDEX=${BURSAR_ARRAY_INDEX:-0} NOMAD_ALLOC_ID=$BURSAR_JOB_ID NOMAD_TASK_DIR=$PWD
export NOMAD_CPU_CORES=$BURSAR_CPUS NOMAD_SHORT_ALLOC_ID=$BURSAR_JOB_NUMBER
"""
_SPECIAL: Final = re.compile(r'([\\"`$])')


def parse(text: str) -> Node:
    """The blocks of a file as a tree: a block with a label is a mapping below its word and label."""
    return _Parser(text).body(None, 0)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or "sign"
            value = match.group("doc") if match.group("mark") else match.group()
            kind = "text" if match.group("mark") else kind
            if kind == "text" and not match.group("mark"):
                value = value[1:-1].replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
            if kind not in ("skip", "line"):
                self._tokens.append((kind, value, line))
            line += match.group().count("\n")
        self._at = 0

    def body(self, parent: Node | None, depth: int) -> Node:
        """Blocks and attributes up to the closing bracket."""
        line = self._tokens[self._at][2] if self._at < len(self._tokens) else 1
        node = Node("mapping", line, 1, parent)
        while self._at < len(self._tokens):
            kind, value, line = self._tokens[self._at]
            self._at += 1
            if value == "}" and kind == "sign":
                break
            if kind not in ("word", "text"):
                continue
            labels = [value]
            while self._peek() in ("word", "text") and self._tokens[self._at][2] == line:
                labels.append(self._tokens[self._at][1])
                self._at += 1
            self._entry(node, labels, line, depth)
        return node

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _entry(self, node: Node, labels: list[str], line: int, depth: int) -> None:
        sign = self._tokens[self._at][1] if self._at < len(self._tokens) else ""
        if sign in ("=", ":"):
            self._at += 1
            _hang(node, labels[-1], self._value(node, depth), line)
        elif sign == "{" and depth < _DEPTH_MAX:
            self._at += 1
            holder = node
            for label in labels[:-1]:
                below = holder.entries.get(label) or Node("mapping", line, 1, holder)
                _hang(holder, label, below, line)
                holder = below
            _hang(holder, labels[-1], self.body(holder, depth + 1), line)

    def _value(self, parent: Node, depth: int) -> Node:
        if self._at >= len(self._tokens):
            return Node("scalar", 1, 1, parent)
        kind, value, line = self._tokens[self._at]
        self._at += 1
        if kind == "sign" and value == "{" and depth < _DEPTH_MAX:
            return self.body(parent, depth + 1)
        node = Node("scalar", line, 1, parent)
        if kind == "sign" and value == "[":
            node.kind = "sequence"
            while self._at < len(self._tokens) and self._tokens[self._at][1] != "]":
                if self._peek() in ("word", "text"):
                    item = Node("scalar", self._tokens[self._at][2], 1, node)
                    item.text, item.key, item.key_line = self._tokens[self._at][1], len(node.items), item.line
                    node.items.append(item)
                self._at += 1
            self._at += 1
        else:
            node.text, node.quoted = value, kind == "text"
        return node


def _hang(holder: Node, key: str, node: Node, line: int) -> None:
    """Below its holder. A block that stands there already is gone on with; what else says a key again stands
    beside it under another name, so that no mapping takes it and it is named.
    """
    before = holder.entries.get(key)
    if before is node:
        return
    if before is not None and before.kind == node.kind == "mapping":
        for name, child in node.entries.items():
            _hang(before, name, child, child.key_line)
        return
    while key in holder.entries:
        key = f"{key} (again)"
    node.parent, node.key, node.key_line = holder, key, line
    holder.entries[key] = node


def nomad(root: Node, draft: Draft) -> None:
    """A job of Nomad: its first group, and that group's first task."""
    jobs = root.entries.get("job")
    for name, job in list(jobs.entries.items())[:1] if jobs is not None else ():
        draft.put("name", job_name(name))
        if (kind := draft.text(job, "type")) not in ("", "batch"):
            draft.note(job.entries["type"], f"type: {kind} is not converted; this ends with its command")
        draft.pairs(draft.take(job, "meta"), "labels")
        if "task" in job.entries:  # of a group that is not written
            _group(job, draft)
        groups = job.entries.get("group")
        for place, group in enumerate(groups.entries.values() if groups is not None else ()):
            if place or "task" in job.entries:
                draft.note(
                    group, f"group {group.key}: a job has one kind of member; make it a job of its own"
                )
            else:
                _group(group, draft)


def _group(group: Node, draft: Draft) -> None:
    count = draft.whole(group, "count")
    if count == 0:
        draft.note(group.entries["count"], "count: 0 would run nothing; this becomes one job")
    if count and count > 1:
        draft.put("array", f"0-{count - 1}")
    if attempts := draft.whole(group, "restart", "attempts"):
        draft.put("retry", {"on": ["failure"], "max": attempts})
    tasks = group.entries.get("task")
    for place, task in enumerate(tasks.entries.values() if tasks is not None else ()):
        if place:
            draft.note(
                task, f"task {task.key}: a second task has no equal: start it in run, in the background"
            )
        else:
            _task(task, draft)


def _task(task: Node, draft: Draft) -> None:
    program = draft.text(task, "config", "command")
    words = [word for word in (program, *draft.texts(task, "config", "args")) if word]
    if any(_REFERENCE.search(word) for word in words):
        # Nomad puts its variables into the words of a command; a job's shell does here.
        shim = _SHIM if any("NOMAD_" in word for word in words) else ""
        draft.put("run", f"{shim}exec {' '.join(map(_shell_word, words))}\n")
    else:
        draft.put("command", words)
    _image(task, draft)
    draft.pairs(draft.take(task, "env"), "env")
    wanted = task.entries.get("resources")
    draft.under("resources", "cpus", draft.whole(wanted, "cores"))
    memory = draft.whole(wanted, "memory", least=1)
    draft.under("resources", "memory", f"{memory}MiB" if memory else None)
    devices = wanted.entries.get("device") if wanted is not None else None
    for name, device in devices.entries.items() if devices is not None else ():
        if "gpu" in name and "gpus" in draft.fields.get("resources", {}):
            draft.note(device, f"device {name}: a job asks for GPUs of one kind, and has the first")
        elif "gpu" in name:
            count = draft.whole(device, "count", least=1) or 1
            if not device.entries:
                draft.take(device)
            kind = name.split("/")[2] if name.count("/") == 2 else ""
            asked = draft.gpu(device.entries.get("count", device), gpus(kind, str(count)))
            draft.under("resources", "gpus", int(asked) if asked.isdigit() else asked)


def _shell_word(word: str) -> str:
    """A word of a command for a shell, with `${NAME}` and `${env.NAME}` as its variables."""
    parts, at = [], 0
    for found in _REFERENCE.finditer(word):
        parts.append(_SPECIAL.sub(r"\\\1", word[at : found.start()]))
        parts.append(f"${{{found[1]}}}" if found[1] else _SPECIAL.sub(r"\\\1", found[0]))
        at = found.end()
    return '"' + "".join(parts) + _SPECIAL.sub(r"\\\1", word[at:]) + '"'


def _image(task: Node, draft: Draft) -> None:
    config, driver = task.entries.get("config"), task.entries.get("driver")
    image = config.entries.get("image") if config is not None else None
    if config is None or driver is None or driver.text not in ("docker", "podman") or image is None:
        return
    draft.take(driver)
    name = draft.text(config, "image")
    draft.image(image, name.removeprefix("docker://").removeprefix("https://"))
    if "args" in config.entries and "command" not in config.entries:
        draft.note(config.entries["args"], NO_ENTRYPOINT)
