"""What GPUs could do at most, by type: what a PFLOP-day costs at least, before anybody measured one.

Source  data sheets of their maker: dense 16-bit matrix products (BF16; FP16 of V100 and T4) of the module
        form where a type has several. What a node delivers is measured by `bursar node calibrate`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

PEAK_TFLOPS: Final = MappingProxyType(
    {"V100": 125, "T4": 65, "A10": 125, "L4": 121, "A100": 312, "H100": 989, "H200": 989, "B200": 2250}
)
"""10^12 floating point operations a second."""


def peak_pflop_day(gpu_type: str, nanos_per_gpu_hour: int) -> int | None:
    """Nanos for 10^15 operations a second over a day, at the peak; None of a type whose peak is not known,
    or of a price that is not (below 0).
    """
    peak = PEAK_TFLOPS.get(gpu_type, 0)
    return nanos_per_gpu_hour * 24_000 // peak if peak and nanos_per_gpu_hour >= 0 else None
