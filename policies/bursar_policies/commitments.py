"""Who gets what was promised to a provider for an hour: the waterfall. Pure, and exact.

Why     each cloud says in which order its discounts apply, and money that was promised is spent whether it
        is used or not. So for each hour what was used of a commitment and what was not add up to its fee, to
        the nano, and what it covers of a machine is a part of what the machine costs at list.
Order   AWS: reservations, then savings plans of one family, then those of all types; Azure: reservations,
        then savings plans; GCP: committed use of machines, then flexible. Of several of a rank by name.
        Within a plan the greatest saving first, of equal ones the lowest rate (AWS and Azure say so). Spot
        machines are covered by nothing; who calls leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from bursar.clock import HOUR_US
from bursar_policies.specs import CommitmentSpec


class Usage(NamedTuple):
    """A machine's time in an hour, on demand. `nanos`: what it costs at list, `rate` for a whole hour."""

    key: str
    provider: str
    region: str
    instance_type: str
    nanos: int
    rate: int

    @property
    def hours(self) -> Fraction:
        """Machine-hours; of what is not a machine, units of it."""
        return Fraction(self.nanos, self.rate)


class Piece(NamedTuple):
    """What a commitment covers of a usage: `nanos` of its list cost `of`, for so much of the fee."""

    key: str
    commitment: str
    of: int
    nanos: int
    effective: int
    hours: Fraction


class Spent(NamedTuple):
    """A commitment in an hour: `used + unused = fee`. `unused_hours`: of one of machines."""

    commitment: str
    fee: int
    used: int
    unused: int
    unused_hours: Fraction


class Promise(NamedTuple):
    """A version of a commitment, and the full hours `[since, until)` that it is in force for, as far as its
    term goes. `key` names it in pieces and sums: two versions of a name may be of different kinds.
    """

    name: str
    version: int
    spec: CommitmentSpec
    since: int
    until: int

    @property
    def key(self) -> str:
        """Of the name and the version."""
        return f"{self.name}@{self.version}"

    def hours(self, since: int, until: int) -> range:
        """Starts of its hours in a time of full hours."""
        first, last = max(self.since, self.spec.start, since), min(self.until, self.spec.end, until)
        return range(first, max(first, last), HOUR_US)


class Purchase(NamedTuple):
    """What was paid, or is owed, for a promise: all of it at its start (`upfront`), or an amount for each of
    so many hours.
    """

    key: str
    start: int
    end: int
    nanos: int
    hours: int
    upfront: bool


def purchases(promises: Iterable[Promise], since: int, until: int) -> Iterator[Purchase]:
    """What promises cost in a time of full hours, as it is paid. Over whole terms that is all that they cost
    by the hour (`CommitmentSpec.fee_nanos`), to the nano.
    """
    for one in promises:
        hours, spec = one.hours(since, until), one.spec
        if not hours:
            continue
        if hours[0] == spec.start and spec.upfront_nanos:
            yield Purchase(one.key, spec.start, spec.end, spec.upfront_nanos, spec.hours, True)
        if spec.hourly_nanos:
            end = hours[-1] + HOUR_US
            yield Purchase(one.key, hours[0], end, spec.hourly_nanos * len(hours), len(hours), False)


class Hour(NamedTuple):
    """What became of an hour."""

    pieces: tuple[Piece, ...]
    spent: tuple[Spent, ...]


class _Left(msgspec.Struct):
    """A usage, and how many of its hours are covered."""

    usage: Usage
    taken: Fraction = Fraction(0)

    @property
    def left(self) -> Fraction:
        return self.usage.hours - self.taken

    def take(self, hours: Fraction) -> int:
        """So many hours more are covered: which part of the list cost that is."""
        before = int(self.taken * self.usage.rate)
        self.taken += hours
        return int(self.taken * self.usage.rate) - before


def waterfall(usages: Sequence[Usage], commitments: Sequence[tuple[str, CommitmentSpec]], hour: int) -> Hour:
    """Apply commitments, (name, spec) pairs, to what ran in the hour that begins at an instant.

    Usages of no time or no price are passed over; the order of both arguments does not matter.
    """
    lefts = [_Left(one) for one in sorted(usages) if one.nanos > 0 and one.rate > 0]
    pieces: list[Piece] = []
    spent: list[Spent] = []
    for name, spec in sorted(commitments, key=lambda one: (_rank(one[1]), one[0])):
        fee = spec.fee_nanos(hour)
        if not fee:
            continue
        used, unused_hours = (
            _machines(name, spec, fee, lefts) if spec.quantity else _money(name, spec, fee, lefts)
        )
        pieces += used
        paid = sum(piece.effective for piece in used)
        spent.append(Spent(name, fee, paid, fee - paid, unused_hours))
    return Hour(tuple(pieces), tuple(spent))


def _rank(spec: CommitmentSpec) -> int:
    return 0 if spec.quantity else 1 if spec.family else 2


def _machines(
    name: str, spec: CommitmentSpec, fee: int, lefts: Sequence[_Left]
) -> tuple[list[Piece], Fraction]:
    """So many machine-hours, filled by any mix of machines of its type."""
    taken, whole = Fraction(0), Fraction(spec.quantity)
    pieces = []
    for left in lefts:
        usage = left.usage
        if (usage.provider, usage.region, usage.instance_type) != (
            spec.provider,
            spec.region,
            spec.instance_type,
        ):
            continue
        hours = min(left.left, whole - taken)
        if hours > 0:
            effective = int(fee * (taken + hours) / whole) - int(fee * taken / whole)
            taken += hours
            pieces.append(Piece(usage.key, name, usage.nanos, left.take(hours), effective, hours))
    return pieces, whole - taken


def _money(name: str, spec: CommitmentSpec, fee: int, lefts: Sequence[_Left]) -> tuple[list[Piece], Fraction]:
    """So much money at the plan's own rates, where it saves the most first."""
    rates = {one.instance_type: one.rate_nanos_per_hour for one in spec.rates}
    fitting = [
        (Fraction(rates[left.usage.instance_type], left.usage.rate), rates[left.usage.instance_type], left)
        for left in lefts
        if left.usage.provider == spec.provider
        and left.usage.instance_type in rates
        and (not spec.region or left.usage.region == spec.region)
        and (not spec.family or left.usage.instance_type.split(".")[0] == spec.family)
    ]
    paid = Fraction(0)
    pieces = []
    for _, rate, left in sorted(fitting, key=lambda one: (one[0], one[1], one[2].usage.key)):
        hours = min(left.left, (fee - paid) / rate)
        if hours > 0:
            effective = int(paid + hours * rate) - int(paid)
            paid += hours * rate
            usage = left.usage
            pieces.append(Piece(usage.key, name, usage.nanos, left.take(hours), effective, hours))
    return pieces, Fraction(0)
