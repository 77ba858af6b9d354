"""Totals: could the empty node hold one member?

Why     a job that no empty node can hold must be told so at once instead of waiting for ever.
"""

from __future__ import annotations

from bursar.resources import MILLI, format_size
from bursar.words import plural
from bursar_policies.decision import NodeColumns
from bursar_policies.filters.api import Ask, Mask


class Capacity:
    """CPUs, memory and devices of the whole node cover the request."""

    name = "capacity"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes large enough when empty."""
        request = ask.request
        fits = (nodes.cpu_total >= request.cpu_milli) & (nodes.memory_total >= request.memory_bytes)
        if request.gpus is not None:
            fits &= nodes.gpu_total >= request.gpus.count
        return fits

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The first quantity that is too small."""
        request = ask.request
        if request.gpus is not None and int(nodes.gpu_total[row]) < request.gpus.count:
            return f"it has {plural(int(nodes.gpu_total[row]), 'GPU')}, you ask {request.gpus.count}"
        if int(nodes.cpu_total[row]) < request.cpu_milli:
            has = int(nodes.cpu_total[row]) / MILLI
            return f"it has {plural(has, 'CPU')}, you ask {request.cpu_milli / MILLI:g}"
        has_memory = format_size(int(nodes.memory_total[row]))
        return f"it has {has_memory} of memory, you ask {format_size(request.memory_bytes)}"
