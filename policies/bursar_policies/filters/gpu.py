"""GPU type and device memory.

Why     "wrong GPU" and "too few GPUs" need different remedies, so they are different filters.
"""

from __future__ import annotations

import numpy as np

from bursar.resources import format_size
from bursar_policies.decision import NodeColumns
from bursar_policies.filters.api import Ask, Mask


class GpuType:
    """The node's devices are of an acceptable type."""

    name = "gpu_type"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes with devices of a wanted type."""
        gpus = ask.request.gpus
        if gpus is None or not gpus.types:
            return None
        wanted = [i for i, name in enumerate(nodes.gpu_types) if name in gpus.types]
        return np.isin(nodes.gpu_type, np.array(wanted, dtype=np.int16))

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The type it has."""
        kind = int(nodes.gpu_type[row])
        has = nodes.gpu_types[kind] if kind >= 0 else "no"
        wanted = "|".join(ask.request.gpus.types) if ask.request.gpus else ""
        return f"it has {has} GPUs, you ask {wanted}"


class GpuMemory:
    """Each device has the memory asked for."""

    name = "gpu_memory"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes whose devices are large enough."""
        gpus = ask.request.gpus
        if gpus is None or gpus.memory_bytes == 0:
            return None
        return nodes.gpu_memory >= gpus.memory_bytes

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The memory it has."""
        wanted = ask.request.gpus.memory_bytes if ask.request.gpus else 0
        has = format_size(int(nodes.gpu_memory[row]))
        return f"its GPUs have {has} of memory, you ask {format_size(wanted)}"
