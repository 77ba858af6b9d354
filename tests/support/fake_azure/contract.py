"""What Azure's requests and answers for virtual machines must be, as Microsoft's own library says it.

Why     a fake that accepts what the real service refuses proves nothing. The library carries the service's
        contract: the paths and queries of its requests, and typed dictionaries of what travels.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import typing_extensions
from azure.mgmt.compute import models as compute_models
from azure.mgmt.compute import types as wire
from azure.mgmt.compute.operations import _operations as operations
from jsonschema import Draft202012Validator

METHODS = {
    "virtual_machines_create_or_update": "VirtualMachine",
    "virtual_machines_delete": "",
    "virtual_machines_get": "VirtualMachine",
    "virtual_machines_instance_view": "VirtualMachineInstanceView",
    "virtual_machines_list": "VirtualMachine",
    "virtual_machines_list_all": "VirtualMachine",
    "virtual_machines_simulate_eviction": "",
    "resource_skus_list": "",
    "usage_list": "",
}
"""Methods that the fake knows, and what their answers, or the rows of these, are. Of what nobody ever sends
the library has no typed dictionary: that it reads these rows itself is a test of its own.
"""
BODIES = {"virtual_machines_create_or_update": "VirtualMachine"}
_NEEDED = (typing.Required, typing_extensions.Required)
_MAY_BE = (typing.NotRequired, typing_extensions.NotRequired)


class Method(NamedTuple):
    """One method. `newest`: the newest api-version that the library knows of it."""

    name: str
    verb: str
    path: re.Pattern[str]
    query: frozenset[str]
    newest: str


class Contract:
    """Methods and schemas."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._validators: dict[str, Draft202012Validator] = {}
        self._names = {**vars(compute_models), **vars(wire)}
        self.methods = [_method(name) for name in METHODS]

    def find(self, verb: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """The method behind a path, and the names in it; None: there is none."""
        for method in self.methods:
            if method.verb == verb and (match := method.path.fullmatch(path)):
                return method, match.groupdict()
        return None

    def wrong_request(self, method: Method, query: Mapping[str, str], body: object) -> list[str]:
        """Everything about a request that the library would not have sent."""
        version = query.get("api-version", "")
        found = [] if "" < version <= method.newest else [f"api-version {version!r}"]
        known = method.query | {"api-version", "$skiptoken"}
        found += [f"unknown query parameter {key}" for key in query if key not in known]
        return found + (self.wrong(BODIES[method.name], body) if method.name in BODIES else [])

    def wrong(self, name: str, value: object) -> list[str]:
        """Everything about a value that its typed dictionary does not allow, with its place."""
        validator = self._validators.get(name)
        if validator is None:
            schema = {**self._schema(getattr(wire, name)), "$defs": self._definitions}
            self._validators[name] = validator = Draft202012Validator(schema)
        return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]

    def _schema(self, kind: Any) -> dict[str, Any]:
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin in (*_NEEDED, *_MAY_BE):
            return self._schema(inner[0])
        if origin in (typing.Union, types.UnionType):
            return self._either([one for one in inner if one is not type(None)])
        if origin is list:
            return {"type": "array", "items": self._schema(inner[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self._schema(inner[1])}
        if typing_extensions.is_typeddict(kind):
            return self._dictionary(kind)
        kinds = {str: "string", int: "integer", float: "number", bool: "boolean"}
        return {"type": kinds[kind]} if kind in kinds else {}

    def _either(self, kinds: list[Any]) -> dict[str, Any]:
        """Enumerations of this service are open: a word that is not known yet is one."""
        if any(inspect.isclass(one) and issubclass(one, enum.Enum) for one in kinds):
            return {"type": "string"}
        return {"anyOf": [self._schema(one) for one in kinds]}

    def _dictionary(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if name not in self._definitions:
            self._definitions[name] = {}
            hints = typing_extensions.get_type_hints(kind, self._names, include_extras=True)
            self._definitions[name] = {
                "type": "object",
                "properties": {key: self._schema(hint) for key, hint in hints.items()},
                "required": [key for key, hint in hints.items() if typing.get_origin(hint) in _NEEDED],
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}


@cache
def compute() -> Contract:
    """The contract of Microsoft.Compute; made once in a process."""
    return Contract()


def _method(name: str) -> Method:
    """A method from the function of the library that builds its request."""
    tree = ast.parse(inspect.getsource(getattr(operations, f"build_{name}_request")))
    url, verb, newest, query = "", "", "", set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "_url" and isinstance(node.value, ast.Constant):
                url = str(node.value.value)
        elif isinstance(node, ast.keyword) and node.arg == "method" and isinstance(node.value, ast.Constant):
            verb = str(node.value.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id == "_params" and isinstance(node.slice, ast.Constant):
                query.add(str(node.slice.value))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"20\d\d-\d\d-\d\d", str(node.value)):
            newest = str(node.value)
    assert url, f"the library builds no request {name} any more"
    path = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(url))
    return Method(name, verb, re.compile(path, re.IGNORECASE), frozenset(query), newest)
