"""Filters: which nodes could ever serve a request, whatever runs there today.

Why     the answer depends on facts only, so it is computed once per class of jobs and kept; what
        changes with every placement (what is free) is the scheduler's own business.
"""

from bursar.model.constraints import matches
from bursar_policies.filters.api import Ask, Filter
from bursar_policies.filters.capacity import Capacity
from bursar_policies.filters.constraints import AvoidNodes, Constraints
from bursar_policies.filters.gpu import GpuMemory, GpuType
from bursar_policies.filters.market import KnownPrice, SpotPolicy

FILTERS: tuple[Filter, ...] = (
    Constraints(),
    SpotPolicy(),
    GpuType(),
    GpuMemory(),
    Capacity(),
    KnownPrice(),
    AvoidNodes(),
)
"""In the order they are applied and counted: the user's own words first, machine limits after."""

__all__ = ["FILTERS", "Ask", "Filter", "matches"]
