"""What Compute Engine's requests and answers must be, as Google's own discovery document says it.

Why     a fake that accepts what the real service refuses proves nothing. The document comes in a package
        (google-api-python-client), so what is checked here is Google's word, not ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from googleapiclient import discovery_cache
from jsonschema import Draft202012Validator

LONG = ("int64", "uint64", "fixed64")
"""Numbers that JSON cannot hold: they travel as texts."""


class Method(NamedTuple):
    """One method of the service, such as `compute.instances.insert`."""

    id: str
    verb: str
    path: re.Pattern[str]
    query: frozenset[str]
    request: str
    response: str
    needs: tuple[str, ...]
    """Fields of the request without which the service refuses it."""


class Contract:
    """All methods and schemas of one version of one service."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._schemas = document["schemas"]
        self._definitions = {name: _schema(node) for name, node in self._schemas.items()}
        self._validators: dict[str, Draft202012Validator] = {}
        everywhere = frozenset(document.get("parameters", {}))
        self.revision = str(document["revision"])
        self.methods = [self._method(one, everywhere) for one in _methods(document)]

    def _method(self, node: Mapping[str, Any], everywhere: frozenset[str]) -> Method:
        request = node.get("request", {}).get("$ref", "")
        fields = self._schemas[request].get("properties", {}) if request else {}
        needs = [
            name
            for name, field in fields.items()
            if node["id"] in field.get("annotations", {}).get("required", ())
        ]
        path = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(node["flatPath"]))
        return Method(
            node["id"],
            node["httpMethod"],
            re.compile(path),
            everywhere | frozenset(node.get("parameters", {})),
            request,
            node.get("response", {}).get("$ref", ""),
            tuple(needs),
        )

    def find(self, verb: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """The method behind a path below the service's own, and the names in it; None: there is none."""
        for method in self.methods:
            if method.verb == verb and (match := method.path.fullmatch(path)):
                return method, match.groupdict()
        return None

    def wrong_request(self, method: Method, query: Mapping[str, str], body: object) -> list[str]:
        """Everything about a request that the document does not allow."""
        found = [f"unknown query parameter {key}" for key in query if key not in method.query]
        if not method.request:
            return found + (["it takes no body"] if body is not None else [])
        given = body if isinstance(body, dict) else {}
        found += [f"{name} is required" for name in method.needs if name not in given]
        return found + self.wrong(method.request, given)

    def wrong(self, schema: str, value: object) -> list[str]:
        """Everything about a value that its schema does not allow, with its place."""
        validator = self._validators.get(schema)
        if validator is None:
            root = {"$ref": f"#/$defs/{schema}", "$defs": self._definitions}
            self._validators[schema] = validator = Draft202012Validator(root)
        return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


@cache
def compute_engine() -> Contract:
    """The contract of `compute.v1`; made once in a process."""
    return Contract(json.loads(discovery_cache.get_static_doc("compute", "v1")))


def _methods(resource: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from resource.get("methods", {}).values()
    for below in resource.get("resources", {}).values():
        yield from _methods(below)


def _schema(node: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the document as JSON Schema: what is not named is not allowed."""
    if "$ref" in node:
        return {"$ref": f"#/$defs/{node['$ref']}"}
    kind = node.get("type", "any")
    if kind == "any":
        return {}
    if kind == "array":
        return {"type": "array", "items": _schema(node["items"])}
    if kind != "object":
        if node.get("format") in LONG:
            return {"type": "string", "pattern": r"^-?\d+$"}
        found: dict[str, Any] = {"type": kind}
        if "enum" in node:
            found["enum"] = node["enum"]
        if "pattern" in node:
            found["pattern"] = f"^(?:{node['pattern']})$"
        return found
    found = {"type": "object"}
    if "properties" in node:
        found["properties"] = {name: _schema(field) for name, field in node["properties"].items()}
        found["additionalProperties"] = False
    if "additionalProperties" in node:
        found["additionalProperties"] = _schema(node["additionalProperties"])
    return found
