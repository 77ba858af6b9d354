"""Events about bills of providers: what finance kept of one beside what the books said.

Why     a provider's word is final and comes weeks later; what the books say is an estimate, and stays. Which
        hours the two differed in, and which only one of them knew, is a fact of the day on which somebody
        looked, and is kept as one: nothing of the books follows from it.
"""

from __future__ import annotations

import msgspec


class BillLine(msgspec.Struct, frozen=True, array_like=True):
    """A machine in some of its hours.

    Attributes:
        resource: as the books, or else the provider, call it. hour: its first. hours: so many in all, told as
            one where the two agreed to the nano. estimate, final: nanos by the books and by the provider;
            None: it knows nothing of these hours.
    """

    resource: str
    hour: int
    hours: int
    estimate: int | None
    final: int | None


class BillHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a part of a provider's bill says of itself, without its lines.

    Attributes:
        name: digest of the bill and of what it was held against. source: what the file was called; the newest
            bill of a source and period is the one that counts.
        period: as it was asked for. cost: the column that counted. part: of so many `parts`, from 0 on.
        replaces: the source of a bill that does not count any more, once this one is whole; empty: of none.
    """

    name: str
    source: str
    period: str
    currency: str
    cost: str
    by: str
    part: int
    parts: int
    replaces: str = ""


class BillKept(BillHead, frozen=True, tag="bill-kept", kw_only=True, omit_defaults=True):
    """A part of a provider's bill, held against the books."""

    lines: tuple[BillLine, ...]
