"""One provider as this daemon deals with it: its keeper, its thread, what it offers, and what it is told.

Why     providers fail and wait by themselves: what one of them does must not hold up another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from bursar.clock import HOUR_US, Instant, format_instant
from bursar.ids import Ids
from bursar.money import format_nanos
from bursar_policies.compile import PriceTable
from bursar_policies.document import parse_documents
from bursar_policies.specs import CloudPoolSpec, Document, PriceBookSpec
from bursard.events import Event
from bursard.machines.keeper import QUIET_MAX_US, QUIET_US, Keeper
from bursard.machines.offered import sound
from bursard.machines.provider import (
    CloudError,
    Kind,
    MachineOffer,
    Place,
    PoolTerms,
    Provider,
    Rate,
    Wanted,
)
from bursard.state import State
from bursard.state.decide import machines as decide
from bursard.state.decide.machines import Decision

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

PRICES_EVERY_US: Final = HOUR_US


class Ground(Protocol):
    """What renting stands on: the daemon's engine, or a simulation's."""

    state: State
    ids: Ids

    @property
    def prices(self) -> PriceTable:
        """In force now."""

    def now(self) -> Instant:
        """The wall clock."""

    def commit_each(self, decisions: Iterable[Decision], actor: str) -> int:
        """Make events true, each decided on what those before it made true; all or none. Returns how far the
        log goes then.
        """

    async def durable(self, seq: int | None = None) -> None:
        """Wait until so much of the log is on disk."""


class Owner(Protocol):
    """Whose houses these are."""

    engine: Ground
    cut: Callable[[str], bool]

    async def commit(self, decisions: Sequence[Decision]) -> None:
        """True, and durable."""

    async def call(self, work: Callable[[], Any], house: House) -> Any:
        """A call of a provider, in its own thread. Raises `CloudError`."""


class House:
    """One provider as this daemon deals with it: its keeper, the thread of its calls, and what it offered."""

    def __init__(self, owner: Owner, provider: Provider) -> None:
        self.provider = provider
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"bursard-{provider.name}")
        self.offers: dict[str, tuple[CloudPoolSpec, Sequence[MachineOffer]]] = {}
        """By pool, what it said to what the pool named then."""
        self.priced_at = -PRICES_EVERY_US
        self.priced_for: Sequence[Wanted] = ()
        """What pools named when its prices were heard."""
        self.fault = ""
        """Why its offers are not known."""
        self.left_out: dict[str, str] = {}
        """By pool, what of its offers cannot be rented, and why."""
        self.failures = self.not_before = 0
        self._owner = owner
        self.keeper = Keeper(provider, owner.engine.state, self)

    @property
    def name(self) -> str:
        """Of the provider."""
        return self.provider.name

    @property
    def waits(self) -> bool:
        """It failed a moment ago, and is not asked now. A clock that jumped back waits for nothing."""
        return self.now() < self.not_before <= self.now() + QUIET_MAX_US

    def fail(self, why: str) -> None:
        """It did not say what it offers: it is asked again, later each time."""
        log.warning("a provider does not say what it offers", extra={"provider": self.name, "why": why})
        self.fault = why
        self.not_before = self.now() + min(QUIET_US << min(self.failures, 16), QUIET_MAX_US)
        self.failures += 1

    async def ask(self, pool: str, wanted: Wanted) -> Sequence[MachineOffer]:
        """What it offers of what a pool wants, without what cannot be rented. Raises `CloudError`."""
        currency = self._owner.engine.state.currency
        offers, left_out = await self.call(lambda: sound(self.provider.offers(wanted), currency))
        if left_out and self.left_out.get(pool) != left_out:
            log.warning("offers of a provider are left out", extra={"provider": self.name, "why": left_out})
        self.left_out[pool] = left_out
        return offers

    def now(self) -> int:
        """Bursard's wall clock."""
        return self._owner.engine.now()

    async def commit(self, decisions: Sequence[Decision]) -> None:
        """True, and durable."""
        await self._owner.commit(decisions)

    def rise(self, machine_id: str, billed_from: int) -> Sequence[Event]:
        """A machine is up, and its node is paid for."""
        engine = self._owner.engine
        return decide.rise(engine.state, engine.ids, engine.prices, machine_id, billed_from, engine.now())

    def bury(self, machine_id: str, billed_until: int, reason: str, free: bool) -> Sequence[Decision]:
        """A machine is gone, and its node is paid for no more."""
        engine = self._owner.engine
        return decide.bury(engine.state, engine.prices, machine_id, billed_until, reason, free)

    def cut(self, node_id: str) -> bool:
        """End the stream of a node."""
        return self._owner.cut(node_id)

    async def call(self, work: Callable[[], Answer]) -> Answer:
        """A call of this provider, one at a time; another one's do not wait for it."""
        answer: Answer = await self._owner.call(work, self)
        return answer


class BookRates:
    """What the books in force say of machines' prices, for providers that cannot say it themselves.

    `table`: given by the loop; a table does not change, so any thread may read it.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self.table: PriceTable | None = None
        self._now = now

    def of(self, provider: str, place: Place) -> Rate | None:
        """That of a place of a provider."""
        if self.table is None:
            return None
        quote = self.table.lookup_machine(
            provider, place.region, place.instance_type, place.market, Instant(self._now())
        )
        if quote is None:
            return None
        return Rate(
            nanos_per_hour=quote.rate_nanos_per_hour,
            currency=quote.currency,
            as_of=quote.as_of,
            source=quote.source,
        )


def terms_of(name: str, spec: CloudPoolSpec) -> PoolTerms:
    """What a pool asks of its provider."""
    return PoolTerms(name=name, wanted=wanted_of(spec), launch=spec.launch)


def wanted_of(spec: CloudPoolSpec) -> Wanted:
    """Which machines a pool names."""
    return Wanted(
        regions=spec.regions,
        zones=spec.zones,
        instance_types=spec.instance_types,
        gpus=spec.gpus,
        markets=spec.markets,
    )


def asked(work: Callable[[], Answer]) -> Answer:
    """What a call of a provider answers. Raises `CloudError`.

    A provider that answers nonsense, or a library that stumbles over it, is one that did not answer: it is
    asked again, more slowly, and nobody knows whether a machine was made.
    """
    try:
        return work()
    except CloudError:
        raise
    except BaseException as error:  # a library may panic, or call `sys.exit`: that is no end of the daemon
        log.exception("a call of a provider failed in a way that it has no word for")
        kind, said = type(error).__name__, "its answer could not be read; bursard's log has more"
        raise CloudError(Kind.THROTTLED, kind, said, maybe_created=True) from error


def price_book(
    provider: str, offers: Sequence[MachineOffer], now: int = 0, before: object = None
) -> Document | None:
    """The prices of offers as a document; None when there are none.

    A region has the highest price of its zones, and a zone that is cheaper has its own. Each counts from
    `now` on, since a fact without a date is older than all that have one; or, where the book `before` (its
    spec) says the same, since it does.
    """
    since = {
        (row.region, row.instance_type, row.market, row.rate_nanos_per_hour): row.valid_from
        for row in (before.prices if isinstance(before, PriceBookSpec) else ())
    }
    rows: dict[tuple[str, str, str], MachineOffer] = {}
    for offer in offers:
        key = (offer.place.region, offer.place.instance_type, offer.place.market)
        known = rows.setdefault(key, offer)
        if known.rate_nanos_per_hour < offer.rate_nanos_per_hour:
            rows[key] = offer
    if not rows:
        return None
    for offer in offers:
        place, rate = offer.place, offer.rate_nanos_per_hour
        highest = rows[place.region, place.instance_type, place.market].rate_nanos_per_hour
        # A zone that is `1` in each region is no name for a price.
        if rate < highest and place.zone.startswith(place.region):
            rows[place.zone, place.instance_type, place.market] = offer
    lines = [
        "kind: PriceBook",
        f"name: cloud-{provider}",
        "spec:",
        f"  source: provider {provider}",
        f"  currency: {offers[0].currency}",
        "  prices:",
    ]
    for (region, instance_type, market), offer in sorted(rows.items()):
        gpus = f", gpus: '{offer.gpu_type}:{offer.gpu_count}'" if offer.gpu_count else ""
        price = f"{format_nanos(offer.rate_nanos_per_hour)} {offer.currency}/h"
        valid_from = since.get((region, instance_type, market, offer.rate_nanos_per_hour), now)
        dated = f", valid_from: {format_instant(valid_from)}" if valid_from else ""
        lines.append(
            f"    - {{provider: {provider}, region: '{region}', instance_type: '{instance_type}',"
            f" market: {market}, price: {price}{gpus}{dated}}}"
        )
    return parse_documents("\n".join(lines) + "\n", f"provider {provider}")[0]
