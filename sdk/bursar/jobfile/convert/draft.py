"""A job file that grows out of another system's file, and what of that file has no place in it.

Owns    which values were used, the notes by line, and the text of the job file.
Why     a converter that forgets a line says nothing about it. Here everything that no mapping took is
        noted by itself, so what is not written down cannot be lost in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from bursar.yamlfile import Node

PLACEHOLDER: Final = 'echo "write the command of this job here"; exit 1\n'


class Draft:
    """The job file so far.

    Attributes:
        fields: keys of the job file. notes: (line, sentence).
    """

    def __init__(self) -> None:
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
    number = count if re.fullmatch(r"\d+(?:\.\d+)?", count) else "1"
    return f"{name.upper().replace(' ', '-')}:{number}" if name else number


def size(text: str, unit: str) -> str:
    """`32`, `32+`, `64GB..128GB` as a least size, with `unit` where there is none."""
    least = re.split(r"\.\.|\+|-", text.strip())[0].strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", least):
        return least + unit
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGTP])(i?)(?:b|B)?", least, re.IGNORECASE)
    return f"{match.group(1)}{match.group(2).upper()}{match.group(3)}B" if match is not None else ""


def number(text: str) -> int | float | None:
    """`4`, `4+`, `8..16`, `500m` as the least number."""
    least = re.split(r"\.\.|\+", text.strip())[0].strip()
    milli = least.endswith("m")
    if not re.fullmatch(r"\d+(?:\.\d+)?", least.removesuffix("m")):
        return None
    value = float(least.removesuffix("m")) / (1000 if milli else 1)
    return int(value) if value == int(value) else value
