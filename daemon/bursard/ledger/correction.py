"""Another amount for a charge that is posted, by component.

Why     a credit or a debt is agreed on in one sum, and the books know components: each gets what it was of
        the charge before, so that what a GPU costs can still be told from the rest.
"""

from __future__ import annotations

from bursar.money import split_largest_remainder
from bursard.ledger.allocation import Parts


def amended(parts: Parts, nanos: int, shape: Parts) -> Parts:
    """`nanos` by component, as `parts` were; of a charge that was 0, as `shape`, else all of it as CPU."""
    weights = parts if any(parts) else shape if any(shape) else (0, 1, 0)
    gpu, cpu, memory = split_largest_remainder(nanos, weights)
    return gpu, cpu, memory
