"""What one node must give: the GPU grammar (`A100:80GB:4`), CPUs, memory and the alternatives.

Owns    the `resources:` part of a job file, from nodes to `ResourceRequest`s and constraints.
Why     the short GPU form is what people know from other schedulers, and each part of it can be
        wrong in its own way, so each part gets its own sentence.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bursar.errors import InvalidRequest
from bursar.jobfile.reading import read_mapping
from bursar.model.check import GPUS_MAX, quote
from bursar.resources import (
    MILLI,
    GpuRequest,
    ResourceRequest,
    parse_gpu_type,
    parse_milli,
    parse_size,
    sizes_of,
)
from bursar.yamlfile import Faults, Node, read_int, read_items, read_string, read_text

_SIZES = ("gpus", "cpus", "memory")
_RESOURCES = (*_SIZES, "any_of", "ordered", "constraints")
_GPU_KEYS = ("type", "count", "memory", "fraction")
_HINTS = {
    "accelerators": "write gpus: H100:8",
    "use_spot": "write spot_policy: spot at the top level",
    "infra": "write constraints: {provider: ..., region: ...}",
    "max_hourly_cost": "write budget: {max_price: 40 USD/h} at the top level",
    "nodes": "nodes stands at the top level; resources are per node",
    "num_nodes": "nodes stands at the top level; resources are per node",
}
_RANGE = re.compile(r"(\d{0,9})\.\.(\d{0,9})|\d{1,9}\+", re.ASCII)
_DASHED = re.compile(r"(\d{1,9})\s*[-\u2013]\s*(\d{1,9})", re.ASCII)
"""What people write who mean a range."""
_TIMES = re.compile(r"([A-Za-z][A-Za-z0-9-]*\d)[xX](\d{1,2})", re.ASCII)
"""What people write who know `8xH100`, or name a size in `throughput`."""
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
_SIZE = re.compile(r"\d+(?:\.\d+)?\s*(?:[KMGTP]i?B?|B)", re.ASCII | re.IGNORECASE)
_MIG = re.compile(r"\d+g\.\d+gb(?:\+me)?|mig.*", re.ASCII | re.IGNORECASE)
_AT_LEAST = re.compile(r"(.+?)\s*(?:\+|\.\.)", re.ASCII)


class Resources(NamedTuple):
    """The `resources:` part, read."""

    options: tuple[ResourceRequest, ...] = (ResourceRequest(),)
    ordered: bool = False
    constraints: tuple[tuple[str, str], ...] = ()


class Gpus(NamedTuple):
    """A GPU request that was read; `request` is None for `gpus: 0`.

    Attributes:
        least: of a range, of which `request` has the most; 0: it is none.
    """

    request: GpuRequest | None
    least: int = 0


class _Option(NamedTuple):
    """What one node must give; `least` as in `Gpus`."""

    request: ResourceRequest = ResourceRequest()
    least: int = 0

    @property
    def sizes(self) -> tuple[ResourceRequest, ...]:
        """One request for each count of GPUs, most first."""
        return sizes_of(self.request, self.least) if self.least else (self.request,)


class _Draft(msgspec.Struct, frozen=True):
    """The parts of `A100:80GB:4` found so far; None for what was not said."""

    types: tuple[str, ...] | None = None
    count: int | None = None
    least: int | None = None
    milli: int | None = None
    memory_bytes: int | None = None

    def clash(self, other: _Draft) -> str:
        """What both say; a count and a share are the same part of the short form."""
        if self.types is not None and other.types is not None:
            return "types; give alternatives as H100|A100"
        if self.memory_bytes is not None and other.memory_bytes is not None:
            return "sizes"
        counted = self.count is not None or self.milli is not None
        return "counts" if counted and (other.count is not None or other.milli is not None) else ""

    def merged(self, other: _Draft) -> _Draft:
        """Both together."""
        return _Draft(
            types=other.types if self.types is None else self.types,
            count=other.count if self.count is None else self.count,
            least=other.least if self.least is None else self.least,
            milli=other.milli if self.milli is None else self.milli,
            memory_bytes=other.memory_bytes if self.memory_bytes is None else self.memory_bytes,
        )


def read_resources(node: Node, faults: Faults) -> Resources:
    """The `resources:` mapping: base sizes, then the alternatives that override them."""
    fields = read_mapping(node, faults, _RESOURCES, renamed={"mem": "memory"}, hints=_HINTS)
    if fields is None:
        return Resources()
    base = _read_option(fields, faults, _Option())
    alternatives, ordered = fields.get("any_of"), fields.get("ordered")
    if alternatives is not None and ordered is not None:
        faults.add_key(ordered, "stands beside any_of; give one of the two")
    chosen = alternatives or ordered
    options = (base,) if chosen is None else _read_options(chosen, faults, base)
    constraints = fields.get("constraints")
    pairs = () if constraints is None else read_constraints(constraints, faults)
    ranges = any(option.least for option in options)
    if alternatives is not None and ranges:
        faults.add_key(
            alternatives,
            "takes the cheapest, and of a range of GPUs the most that can be had; write ordered, or the types"
            " in one, as in A100|H100:2..8",
        )
    found = tuple(request for option in options for request in option.sizes)
    return Resources(found, alternatives is None and (ordered is not None or ranges), pairs)


def _read_options(node: Node, faults: Faults, base: _Option) -> tuple[_Option, ...]:
    items = read_items(node, faults)
    if not items and node.kind == "sequence" and not node.items:
        faults.add(node, "is empty; give at least one alternative or leave the key out")
    options = []
    for item in items:
        fields = read_mapping(item, faults, _SIZES, renamed={"mem": "memory"}, hints=_HINTS)
        if fields is not None:
            options.append(_read_option(fields, faults, base))
    return tuple(options) or (base,)


def _read_option(fields: dict[str, Node], faults: Faults, base: _Option) -> _Option:
    gpus_node, cpus_node, memory_node = (fields.get(key) for key in _SIZES)
    gpus = None if gpus_node is None else read_gpus(gpus_node, faults)
    cpus = None if cpus_node is None else read_cpus(cpus_node, faults)
    memory = None if memory_node is None else read_memory(memory_node, faults)
    request = ResourceRequest(
        gpus=base.request.gpus if gpus is None else gpus.request,
        cpu_milli=base.request.cpu_milli if cpus is None else cpus,
        memory_bytes=base.request.memory_bytes if memory is None else memory,
    )
    return _Option(request, base.least if gpus is None else gpus.least)


# ------------------------------------------------------------------ CPUs and memory


def read_cpus(node: Node, faults: Faults) -> int | None:
    """`16`, `0.5`, `16+` or `16..` in thousandths. The job gets that many, and no fewer."""
    text = _at_least(node, faults, "cpus")
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        faults.add(node, f"{quote(text)} is not a number of CPUs, such as 16, 16+ or 0.5")
        return None
    if text.startswith("-"):
        faults.add(node, f"is {text}; a job needs some CPU, at least 0.001")
        return None
    return _milli(node, faults, text)


def read_memory(node: Node, faults: Faults) -> int | None:
    """`128GB`, `64GiB`, `128GB+` in bytes."""
    text = _at_least(node, faults, "memory")
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is not None:
        number = text.lstrip("+-")[:9]
        faults.add(node, f"{quote(text)} has no unit; write {number}GB or {number}GiB")
        return None
    return _bytes(node, faults, text)


def _at_least(node: Node, faults: Faults, what: str) -> str | None:
    """The text of a size, its `+` or `..` taken off."""
    text = read_text(node, faults)
    if text is None:
        return None
    text = text.strip()
    if len(text) > 40:
        faults.add(node, f"{quote(text)} is too long for {what}")
        return None
    match = _AT_LEAST.fullmatch(text)
    if match is not None:
        return match.group(1)
    if ".." in text:
        faults.not_built(
            node, f"a range of {what} ({text})", instead=f"write the least, {text.split('..')[0] or 1}+"
        )
        return None
    return text


def _milli(node: Node, faults: Faults, text: str) -> int | None:
    try:
        return parse_milli(text.removeprefix("+"))
    except InvalidRequest as error:
        faults.add(node, error.message)
        return None


def _bytes(node: Node, faults: Faults, text: str) -> int | None:
    try:
        size = parse_size(text)
    except InvalidRequest as error:
        faults.add(node, error.message)
        return None
    if size == 0:
        faults.add(node, f"is {quote(text)}; ask for more than 0 or leave it out")
        return None
    return size


# ------------------------------------------------------------------ GPUs


def read_gpus(node: Node, faults: Faults) -> Gpus | None:
    """`H100:8`, `8`, `A100:80GB:4`, `H100:2..8`, `H100:0.5`, or a mapping; None when wrong (reported)."""
    before = len(faults.found)
    draft = _mapping_draft(node, faults) if node.kind == "mapping" else _text_draft(node, faults)
    if draft is None or len(faults.found) > before:
        return None
    return _finish(node, faults, draft)


def _finish(node: Node, faults: Faults, draft: _Draft) -> Gpus | None:
    milli = MILLI if draft.milli is None else draft.milli
    if draft.count == 0:
        if draft.types or draft.memory_bytes:
            faults.add(node, "asks for 0 GPUs of a kind; write gpus: 0, or a count of 1 or more")
            return None
        return Gpus(None)
    count = 1 if draft.count is None else draft.count
    return Gpus(GpuRequest(count, draft.types or (), milli, draft.memory_bytes or 0), draft.least or 0)


def _text_draft(node: Node, faults: Faults) -> _Draft | None:
    text = read_text(node, faults)
    if text is None:
        return None
    if len(text) > 1000:
        faults.add(node, f"{quote(text)} is too long; write a type and a count, such as H100:8")
        return None
    draft = _Draft()
    for token in (part.strip() for part in text.split(":")):
        read = _token(node, faults, token, text)
        if read is None:
            return None
        clash = draft.clash(read)
        if clash:
            faults.add(node, f"{quote(text)} names two {clash}")
            return None
        draft = draft.merged(read)
    return draft


def _token(node: Node, faults: Faults, token: str, whole: str) -> _Draft | None:
    """One part between colons, as a draft that says only this."""
    if _RANGE.fullmatch(token):
        return _range(node, faults, token)
    if _MIG.fullmatch(token):
        faults.not_built(node, f"a MIG slice ({token})", instead="ask for a fraction, such as H100:0.5")
        return None
    if _NUMBER.fullmatch(token):
        return _number(node, faults, token)
    if _SIZE.fullmatch(token):
        size = _bytes(node, faults, token)
        return None if size is None else _Draft(memory_bytes=size)
    if token.lower() == "gpu":
        faults.add(node, f"{quote(whole)}: leave 'gpu:' out; write a type and a count, such as H100:8, or 8")
        return None
    if (dashed := _DASHED.fullmatch(token)) is not None:
        meant = whole.replace(token, "{}..{}".format(*dashed.groups()), 1)
        faults.add(node, f"{quote(token)} is no range of GPUs; write {quote(meant)}")
        return None
    if ".." in token:
        kind = whole.partition(":")[0] if ":" in whole else "A100"
        faults.add(
            node, f"{quote(token)} is no range of GPUs: its ends are numbers; write {quote(f'{kind}:2..4')}"
        )
        return None
    types = _types(node, faults, re.split(r"[|,]", token))
    return None if types is None else _Draft(types=types)


def _number(node: Node, faults: Faults, token: str) -> _Draft | None:
    """A count, or (with a decimal point) a share of one device."""
    if "." not in token:
        return _Draft(count=int(token))
    milli = _milli(node, faults, token)
    return None if milli is None else _Draft(milli=milli)


def _range(node: Node, faults: Faults, token: str) -> _Draft | None:
    """`2..8`: both ends; with one end alone nobody knows what it may cost."""
    match = _RANGE.fullmatch(token)
    least, most = match.groups() if match is not None else (None, None)
    if not least or not most:
        faults.add(node, f"{quote(token)} has no end; a range of GPUs has both, such as 2..8")
        return None
    if not 0 < int(least) < int(most) <= GPUS_MAX:
        what = f"the least comes first, as in 2..8, and at most {GPUS_MAX} are on one node"
        faults.add(node, f"{quote(token)} is no range of GPUs: {what}")
        return None
    return _Draft(count=int(most), least=int(least))


def _types(node: Node, faults: Faults, names: list[str]) -> tuple[str, ...] | None:
    found: list[str] = []
    if [name.strip().lower() for name in names] == ["any"]:
        return ()
    for name in names:
        if (times := _TIMES.fullmatch(name.strip())) is not None:
            faults.add(node, f"{quote(name)} has no type and count; write {times[1]}:{max(int(times[2]), 1)}")
            return None
        try:
            canonical = parse_gpu_type(name)
        except InvalidRequest:
            faults.add(
                node, f"{quote(name)} is not a GPU type, count or size; write H100:8, A100:80GB:4 or 8"
            )
            return None
        if canonical not in found:
            found.append(canonical)
    return tuple(found)


def _mapping_draft(node: Node, faults: Faults) -> _Draft | None:
    hints = {"name": "write type: H100", "vendor": "write the type itself, such as H100"}
    fields = read_mapping(node, faults, _GPU_KEYS, hints=hints, unbuilt=("mig",))
    if fields is None:
        return None
    draft = _Draft()
    if "mig" in fields:
        faults.not_built(fields["mig"], "a MIG slice", instead="ask for a fraction, such as 0.5")
    if "type" in fields:
        draft = replace(draft, types=_read_types(fields["type"], faults))
    if "count" in fields:
        counted = _read_count(fields["count"], faults)
        draft = replace(draft, count=counted.count, least=counted.least)
    if "memory" in fields:
        text = _at_least(fields["memory"], faults, "GPU memory")
        if text is not None:
            size = _bytes(fields["memory"], faults, text)
            draft = replace(draft, memory_bytes=size)
    if "fraction" in fields:
        text = read_text(fields["fraction"], faults)
        if text is not None:
            draft = replace(draft, milli=_milli(fields["fraction"], faults, text[:40]))
    return draft


def _read_count(node: Node, faults: Faults) -> _Draft:
    if node.kind == "scalar" and _RANGE.fullmatch(node.text.strip()):
        return _range(node, faults, node.text.strip()) or _Draft()
    return _Draft(count=read_int(node, faults))


def _read_types(node: Node, faults: Faults) -> tuple[str, ...] | None:
    if node.kind != "sequence":
        text = read_string(node, faults, length_max=1000)
        return None if text is None else _types(node, faults, re.split(r"[|,]", text))
    if not node.items:
        faults.add(node, "is empty; name a type such as H100, or leave the key out for any")
    found: list[str] = []
    for item in read_items(node, faults):
        text = read_string(item, faults, length_max=64)
        found += (None if text is None else _types(item, faults, [text])) or ()
    return tuple(dict.fromkeys(found))


# ------------------------------------------------------------------ constraints


def read_constraints(node: Node, faults: Faults) -> tuple[tuple[str, str], ...]:
    """Patterns by property of nodes, sorted."""
    if node.kind != "mapping":
        faults.add(node, "expected a mapping, such as {zone: eu-*, node: '!bad-01'}")
        return ()
    pairs = []
    for key, value in node.entries.items():
        if value.kind == "sequence":
            faults.add(value, "a constraint is one pattern; use a glob such as eu-*")
            continue
        pattern = read_text(value, faults)
        if pattern is not None and (key, pattern) != ("topology", "any"):
            pairs.append((key, pattern))
    return tuple(sorted(pairs))
