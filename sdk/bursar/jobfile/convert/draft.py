"""A job file that grows out of another system's file, and what of that file has no place in it.

Owns    which values were used, the notes by line, and the text of the job file.
Why     a converter that forgets a line says nothing about it. Here everything that no mapping took is
        noted by itself, so what is not written down cannot be lost in silence. A value that a mapping
        takes and cannot read is a fault: guessed at or left out, it would be another job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import yaml

from bursar.clock import parse_duration
from bursar.errors import InvalidRequest
from bursar.jobfile.gpus import read_gpus
from bursar.model.check import image_problem, quote
from bursar.resources import MILLI
from bursar.yamlfile import Faults, Node

_YES: Final = ("true", "yes", "on")
_NO: Final = ("false", "no", "off")
_NUMBER: Final = r"\d{1,12}(?:\.\d{1,9})?"
_SIZE: Final = r"(\d{1,18}(?:\.\d{1,9})?)\s*(?:([KMGTP])(i?)b?)?"
IMAGE_AUTH: Final = "keep USER:PASSWORD by bursar secret set NAME; write secrets: [NAME] and image_auth: NAME"
NO_ENTRYPOINT: Final = "args: the image's entrypoint is not run, which would take them; write the command"
PLACEHOLDER: Final = 'echo "write the command of this job here"; exit 1\n'


class Draft:
    """The job file so far.

    Attributes:
        fields: keys of the job file. notes: (line, sentence). faults: values that cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.faults = Faults(source)
        self.fields: dict[str, Any] = {}
        self.notes: list[tuple[int, str]] = []
        self._used: set[int] = set()

    def take(self, node: Node | None, *path: str) -> Node | None:
        """The value at a path, which is used up with it; None where there is none."""
        for key in path:
            node = None if node is None else node.entries.get(key)
        if node is not None:
            self._used.add(id(node))
        return node

    def text(self, node: Node | None, *path: str) -> str:
        """The text at a path, used up; empty where there is none, or no text."""
        found = node
        for key in path:
            found = None if found is None else found.entries.get(key)
        if found is None or found.kind != "scalar":
            return ""
        self._used.add(id(found))
        return "" if found.is_null else found.text

    def refuse(self, node: Node, right: str) -> None:
        """A value that cannot be read is a fault, with what would be `right`."""
        self._used.add(id(node))
        what = quote(node.text) if node.kind == "scalar" else f"a {node.kind}"
        self.faults.add(node, f"{what} cannot be read; write {right}")

    def whole(self, node: Node | None, *path: str, least: int = 0) -> int | None:
        """A whole number of at least `least`; None where there is none."""
        if not (text := self.text(node, *path)):
            return None
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) and int(text) >= least:
            return int(text)
        self._wrong(node, path, f"a whole number of {least} or more")
        return None

    def number(self, node: Node | None, *path: str, milli: bool = False) -> int | float | None:
        """A number, the least of a range; thousandths (`500m`) with `milli`."""
        if not (text := self.text(node, *path)):
            return None
        if (found := number(text, milli)) is None:
            self._wrong(node, path, "a number, such as 4" + (" or 500m" if milli else ""))
        return found

    def size(self, node: Node | None, *path: str, unit: str) -> str:
        """A size, the least of a range."""
        if not (text := self.text(node, *path)):
            return ""
        if not (found := size(text, unit)):
            self._wrong(node, path, "a size, such as " + ("32 or 32GB" if unit == "GB" else "4Gi"))
        return found

    def price(self, node: Node | None, *path: str) -> str:
        """US dollars per hour."""
        if not (text := self.text(node, *path)):
            return ""
        if re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", text, re.ASCII) and Decimal(text) > 0:
            return f"{text} USD/h"
        self._wrong(node, path, "US dollars per hour, such as 4.5")
        return ""

    def duration(self, node: Node | None, *path: str) -> str:
        """`2h`, or seconds."""
        if not (text := self.text(node, *path)):
            return ""
        found = f"{text}s" if re.fullmatch(r"[0-9]+", text, re.ASCII) else text
        try:
            parse_duration(found)
        except InvalidRequest:
            self._wrong(node, path, "a duration, such as 90s or 2h")
            return ""
        return found

    def yes(self, node: Node | None, *path: str) -> bool:
        """A switch, in the words that YAML has for one; false where there is none."""
        text = self.text(node, *path).lower()
        if text not in ("", *_YES, *_NO):
            self._wrong(node, path, "true or false")
        return text in _YES

    def choice(self, node: Node | None, *path: str, of: tuple[str, ...]) -> str:
        """One word of some."""
        if (text := self.text(node, *path)) in ("", *of):
            return text
        self._wrong(node, path, f"{', '.join(of[:-1])} or {of[-1]}")
        return ""

    def texts(self, node: Node | None, *path: str) -> list[str]:
        """A list of texts, which is used up; one text alone is none."""
        found = self.take(node, *path)
        if found is None or found.is_null:
            return []
        if found.kind != "sequence":
            self.refuse(found, "a list")
        for item in found.items:
            if item.kind != "scalar":
                self.refuse(item, "a text")
        return [item.text for item in found.items]

    def words(self, node: Node | None, *path: str) -> dict[str, str]:
        """A mapping to texts, which is used up."""
        found = self.take(node, *path)
        if found is None or found.is_null:
            return {}
        if found.kind != "mapping":
            self.refuse(found, "a mapping, such as {NAME: value}")
        for value in found.entries.values():
            if value.kind != "scalar":
                self.refuse(value, "a text")
        return {name: value.text for name, value in found.entries.items()}

    def gpu(self, node: Node, text: str) -> str:
        """GPUs as the job file writes them, if it can read them."""
        self._used.add(id(node))
        read = Node("scalar", node.line, node.column, node.parent)
        read.key, read.text = node.key, text
        found = read_gpus(read, self.faults)
        if found is not None and found.request is not None and not 0 < found.request.milli <= MILLI:
            self.refuse(node, "whole GPUs, such as H100:2, or a share of one, such as H100:0.5")
            return ""
        return text if found is not None else ""

    def image(self, node: Node, text: str, workdir: Node | None = None) -> None:
        """The image of a container. `workdir`: where theirs say a directory within it."""
        self._used.add(id(node))
        launch = self.fields.get("launch", "per-node")
        if problem := image_problem(text):
            self.faults.add(node, problem)
        elif launch != "per-node":
            self.note(
                node, f"{text} is left out: launch: {launch} in a container is not built; prepare the nodes"
            )
        else:
            self.put("image", text)
            if workdir is not None and workdir.kind == "scalar" and not workdir.is_null:
                words = "workdir is a directory of the node; write cd into run for one of the image"
                self.note(workdir, f"{workdir.key}: {words}")

    def _wrong(self, node: Node | None, path: tuple[str, ...], right: str) -> None:
        for key in path:
            node = None if node is None else node.entries.get(key)
        if node is not None:
            self.refuse(node, right)

    def note(self, node: Node, sentence: str) -> None:
        """Say something at a value, which is used up."""
        self._used.add(id(node))
        self.notes.append((node.key_line, sentence))

    def put(self, key: str, value: Any) -> None:
        """One key of the job file; nothing is not written."""
        if value not in ("", None, [], {}):
            self.fields[key] = value

    def under(self, key: str, name: str, value: Any) -> None:
        """One key below another: `resources.gpus`."""
        if value not in ("", None, [], {}):
            self.fields.setdefault(key, {})[name] = value

    def pairs(self, node: Node | None, key: str) -> None:
        """A mapping or `A=b` list of variables or labels."""
        if node is None:
            return
        self._used.add(id(node))
        if node.kind == "scalar" and not node.is_null:
            self.refuse(node, "a mapping, such as {NAME: value}")
        for name, value in node.entries.items():
            if value.kind != "scalar" or value.is_null:
                self.note(value, f"{name} has no value here; give it with --env {name} or as a secret")
            else:
                self.under(key, name, value.text)
        for item in node.items:
            name, mark, text = item.text.partition("=")
            if item.kind == "scalar" and mark:
                self.under(key, name, text)
            else:
                self.note(item, f"{name or 'this'} has no value here; give it with --env {name}")

    def leave(self, node: Node, hints: Mapping[str, str]) -> None:
        """Note everything that nothing took, at its line. `hints`: key: what to do about it."""
        if id(node) in self._used:
            return
        children = [*node.entries.values(), *node.items]
        if not children:
            hint = next((hints[part] for part in reversed(_words(node)) if part in hints), "")
            self.notes.append(
                (node.key_line, f"{node.path or 'this'} has no equal" + (f": {hint}" if hint else ""))
            )
            return
        if not any(self._touched(child) for child in children):
            hint = next((hints[part] for part in reversed(_words(node)) if part in hints), "")
            if hint or (node.kind == "sequence" and not any(child.entries for child in children)):
                text = f"{node.path} has no equal" + (f": {hint}" if hint else "")
                self.notes.append((node.key_line, text))
                return
        for child in children:
            self.leave(child, hints)

    def _touched(self, node: Node) -> bool:
        return id(node) in self._used or any(
            self._touched(child) for child in (*node.entries.values(), *node.items)
        )

    def render(self, kind: str, source: str) -> str:
        """The job file, notes first as comments."""
        if "run" not in self.fields and "command" not in self.fields:
            self.fields["run"] = PLACEHOLDER
            self.notes.append((1, "no command stands here; write it under run"))
        lines = [f"# From {source}, {kind}. What has no equal, by line of that file:"]
        lines += [f"#   {line}: {text}" for line, text in sorted(set(self.notes))] or ["#   nothing"]
        body = yaml.dump(
            self.fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000,
            default_flow_style=False,
        )  # fmt: skip
        return "\n".join(lines) + "\n" + body


def _words(node: Node) -> list[str]:
    return re.split(r"[.\[\]]+", node.path)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _block)


def job_name(text: str) -> str:
    """The nearest name a job may have."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]
    return f"job-{name}" if name.isdigit() else name


def gpus(kind: str, count: str) -> str:
    """`H100:8` of a type and a count; a size within the type (`A100-80GB`) becomes a part of its own."""
    match = re.fullmatch(r"(.+?)-(\d+)(?:GB|gb)(?:-.*)?", kind)
    name = f"{match.group(1)}:{match.group(2)}GB" if match is not None else kind
    return f"{name.upper().replace(' ', '-')}:{count}" if name else count


def size(text: str, unit: str) -> str:
    """`32`, `32+`, `64GB..128GB` as a least size, with `unit` where there is none; empty for no size."""
    found = re.fullmatch(rf"({_SIZE})(?:\+|(?:\.\.|-)(?:{_SIZE})?)?", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        return ""
    _, amount, prefix, binary = found.groups()[:4]
    return f"{amount}{prefix.upper()}{binary}B" if prefix else amount + unit


def number(text: str, milli: bool = False) -> int | float | None:
    """`4`, `4+`, `8..16`, and with `milli` `500m`, as the least number; None for no number."""
    found = re.fullmatch(rf"({_NUMBER})(m?)(?:\+|\.\.(?:{_NUMBER})?)?", text.strip(), re.ASCII)
    if found is None or (found[2] and not milli):
        return None
    value = float(found[1]) / (1000 if found[2] else 1)
    return int(value) if value == int(value) else value
