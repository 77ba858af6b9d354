"""Settings of a daemon: a frozen dataclass read from TOML < environment < flags, every value with its place.

Why     both daemons have settings; one reader keeps their rules the same: an unknown key is an error that
        names the nearest, each field's docstring is its help text, and what is in force can be printed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bursar.errors import InvalidRequest

Given = dict[str, tuple[Any, str]]
"""Setting -> (raw value, where it was said)."""


def helps(settings: type) -> dict[str, str]:
    """The docstring under each field, read from the source."""
    body = ast.parse(inspect.getsource(settings)).body[0]
    found: dict[str, str] = {}
    name = ""
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split()).replace("%", "%%")
    return found


def add_flags(parser: argparse.ArgumentParser, settings: type, argv: Sequence[str], config: Path) -> None:
    """One flag per field, and those every daemon has. Help is read only when asked for."""
    texts = helps(settings) if {"-h", "--help"} & set(argv) else {}
    for name in keys(settings):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, metavar="VALUE", help=texts.get(name, ""))
    parser.add_argument("--config", metavar="FILE", help=f"TOML file; default {config}")
    parser.add_argument("--check-config", action="store_true", help="read the settings, then exit")
    parser.add_argument("--print-config", action="store_true", help="print the settings, then exit")


def collect(
    settings: type, options: Mapping[str, Any], environ: Mapping[str, str], prefix: str, config: Path
) -> Given:
    """Everything that was said, the strongest last word for each setting. Raises `InvalidRequest`."""
    given: Given = {}
    path = Path(options["config"]) if options["config"] is not None else config
    if options["config"] is not None or path.exists():
        given |= _from_toml(settings, path)
    given |= _from_environment(settings, environ, prefix)
    for name in keys(settings):
        if options[name] is not None:
            given[name] = (options[name], f"--{name.replace('_', '-')}")
    return given


def keys(settings: type) -> tuple[str, ...]:
    """The settings there are."""
    return tuple(field.name for field in fields(settings))


def _from_toml(settings: type, path: Path) -> Given:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InvalidRequest(f"{path}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InvalidRequest(f"{path}: not TOML: {problem}") from None
    given: Given = {}
    for key, value in _flat(document, keys(settings)):
        name = key.replace("-", "_").replace(".", "_")
        _check_key(settings, name, key, str(path))
        given[name] = (value, f"{path}: {key}")
    return given


def _flat(table: Mapping[str, Any], known: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`[telemetry.mqtt] url` is the setting telemetry_mqtt_url; a setting that is a table stays one."""
    for key, value in table.items():
        path = prefix + key
        if isinstance(value, Mapping) and path.replace("-", "_").replace(".", "_") not in known:
            yield from _flat(value, known, path + ".")
        else:
            yield path, value


def _from_environment(settings: type, environ: Mapping[str, str], prefix: str) -> Given:
    given: Given = {}
    for variable, value in environ.items():
        if variable.startswith(prefix):
            name = variable[len(prefix) :].lower()
            _check_key(settings, name, variable, "environment")
            given[name] = (value, variable)
    return given


def _check_key(settings: type, name: str, shown: str, place: str) -> None:
    known = keys(settings)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
    raise InvalidRequest(f"{place}: unknown setting {shown}{hint}")


_SECRET = re.compile(r"(\w://[^:@/\s\"']*):[^\s\"']*@")


def masked(text: str) -> str:
    """Text without the passwords of the addresses in it: for terminals, and for what is said of a fault."""
    return _SECRET.sub(r"\1:***@", text)


def to_toml(settings: Any) -> str:
    """The settings in force, as a file that reads back to them: but for passwords, which are `***`."""
    lines = []
    for name in keys(type(settings)):
        value = getattr(settings, name)
        if isinstance(value, Mapping):
            pairs = ", ".join(f"{quote(k)} = {quote(v)}" for k, v in sorted(value.items()))
            lines.append(f"{name} = {{{pairs}}}")
        elif isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        elif isinstance(value, tuple):
            lines.append(f"{name} = [{', '.join(quote(str(item)) for item in value)}]")
        else:
            lines.append(f"{name} = {quote('' if value == Path() else str(value))}")
    return masked("\n".join(lines)) + "\n"


def quote(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
