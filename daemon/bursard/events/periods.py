"""Events about months of the books: what finance closed, and what it signed.

Why     a month that was signed off reads the same for ever. Closing says that nothing enters it any more;
        signing says what it was then, once nothing of it can change between the reading and the saying.
"""

from __future__ import annotations

import msgspec


class PeriodClosed(msgspec.Struct, frozen=True, tag="period-closed", kw_only=True, omit_defaults=True):
    """Nothing is posted into `[since, until)` any more: what is told later counts where the books are open.

    What is open of it is posted with this event.

    Attributes:
        name: a month of UTC, `2026-10`. by: who closed it.
        missing: what was known to be lacking, as sentences: it was closed in spite of that.
    """

    name: str
    since: int
    until: int
    by: str
    missing: tuple[str, ...] = ()


class PeriodSigned(msgspec.Struct, frozen=True, tag="period-signed", kw_only=True):
    """What a closed month is: nothing can change it.

    Attributes:
        of: the event that closed it. hash: of the log up to that event, hexadecimal.
        totals: nanos by kind of charge, those of kinds that there are. charges: how many rows.
    """

    name: str
    of: int
    hash: str
    totals: tuple[tuple[str, int], ...]
    charges: int
