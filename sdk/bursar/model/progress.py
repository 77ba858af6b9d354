"""How far a job says that it has come: one small file of numbers, and what of it is believed.

Owns    the form of the progress file and its bounds. Input: its bytes. Output: a `Progress`, or why not.
Why     the program that trains is the only one that knows its steps, and may say anything. So it says numbers
        alone, each within a range, about itself; no price, budget or placement ever rests on them.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from bursar.errors import InvalidRequest

FILE_BYTES_MAX: Final = 4096
COUNT_MAX: Final = 2**53
"""What every JSON reader can hold exactly."""
SECONDS_MAX: Final = 10 * 366 * 86_400
_SLACK_S: Final = 1.0
_PROBLEM_CHARS: Final = 120

_Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)]
_Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job told last. 0: it did not tell. Durations are microseconds of this attempt.

    Attributes:
        step: done since the job's first attempt began. total: that it wants to do.
        samples, tokens: done in these steps, by all processes together.
        elapsed_us: since the loop began; the four parts lie within it.
        mfu_ppm: share of the devices' peak FLOP/s that the model's own arithmetic made use of.
        attended: somebody uses it at the moment, as a notebook whose kernel works.
    """

    step: int
    total: int = 0
    samples: int = 0
    tokens: int = 0
    elapsed_us: int = 0
    data_wait_us: int = 0
    compute_us: int = 0
    communication_us: int = 0
    checkpoint_us: int = 0
    mfu_ppm: int = 0
    attended: bool = False


class ProgressFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file itself, one JSON object. Other keys are not read: a later release may know them."""

    step: _Count
    total: _Count = 0
    samples: _Count = 0
    tokens: _Count = 0
    elapsed_s: _Seconds = 0
    data_wait_s: _Seconds = 0
    compute_s: _Seconds = 0
    communication_s: _Seconds = 0
    checkpoint_s: _Seconds = 0
    mfu: _Ratio = 0
    attended: bool = False


_DECODER = msgspec.json.Decoder(ProgressFile)


def read_progress(data: bytes) -> Progress:
    """What a progress file tells. Raises `InvalidRequest` that names what of it cannot be."""
    if len(data) > FILE_BYTES_MAX:
        raise InvalidRequest(f"it has more than {FILE_BYTES_MAX} bytes")
    try:
        told = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise InvalidRequest(str(problem)[:_PROBLEM_CHARS]) from None
    parts_s = told.data_wait_s + told.compute_s + told.communication_s + told.checkpoint_s
    if parts_s > told.elapsed_s + _SLACK_S:
        raise InvalidRequest("data_wait_s, compute_s, communication_s and checkpoint_s pass elapsed_s")
    return Progress(
        step=told.step,
        total=told.total,
        samples=told.samples,
        tokens=told.tokens,
        elapsed_us=round(told.elapsed_s * 1_000_000),
        data_wait_us=round(told.data_wait_s * 1_000_000),
        compute_us=round(told.compute_s * 1_000_000),
        communication_us=round(told.communication_s * 1_000_000),
        checkpoint_us=round(told.checkpoint_s * 1_000_000),
        mfu_ppm=round(told.mfu * 1_000_000),
        attended=told.attended,
    )
