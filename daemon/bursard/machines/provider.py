"""What a provider of machines is asked, and what it answers: one interface, one file for each provider.

Owns    the words between us and a cloud: orders, instances, offers, prices, quotas, and the errors of calls.
Why     a cloud's calls fail in four ways that cost money when they are mixed up: it has no machine, we may
        not, nobody knows whether it happened, and it happened twice. So an error says which (`CloudError`),
        and every answer is a value that the reconciler (`bursard.machines.reconcile`) can reason about.

Every call blocks, and is made in the provider's own thread. Instants and durations are microseconds, money is
integer nanos of the provider's own currency.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final, Protocol, TypeVar

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.money import US_PER_HOUR
from bursar.words import on_one_line
from bursar_policies.specs import LaunchSetting

Thing = TypeVar("Thing")
TEXT_MAX: Final = 1_000
"""Characters that are kept of a sentence."""


class Kind(Enum):
    """What an error of a call means for whoever wanted a machine."""

    CAPACITY = "capacity"
    """It has none to give there now: ask elsewhere, and there later."""
    NOT_OFFERED = "not-offered"
    """It never gives that there."""
    QUOTA = "quota"
    """We may not have more of it."""
    THROTTLED = "throttled"
    """We ask too fast, or it does not answer: ask again later, and more slowly."""
    CONFLICT = "conflict"
    """Something of that name is there already: look at it."""
    AUTH = "auth"
    """It does not know us, or we may not do that: a person has to mend it."""
    MISSING = "missing"
    """There is no such machine."""
    INVALID = "invalid"
    """It does not understand the request: a person has to mend it."""


class Place(msgspec.Struct, frozen=True):
    """A kind of machine somewhere: what an offer is of, and what an error speaks of. "" is any.

    `family`: what shares one quota, such as `p5`.
    """

    region: str = ""
    zone: str = ""
    family: str = ""
    instance_type: str = ""
    market: str = ""

    def covers(self, other: Place) -> bool:
        """Does what is said of this place hold of the other one?"""
        return all(
            not mine or mine == theirs
            for mine, theirs in zip(
                msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True
            )
        )


def plain(said: object) -> str:
    """A provider's sentence as it is kept."""
    return on_one_line(str(said), TEXT_MAX)


class CloudError(Exception):
    """A call failed.

    Attributes:
        scope: of which places it speaks; None: of none, the call itself failed.
        ttl_us: for how long it is believed.
        code: the provider's own word.
        maybe_created: nobody knows whether a machine was made: list before anything else.
    """

    def __init__(
        self,
        kind: Kind,
        code: str,
        message: str,
        *,
        scope: Place | None = None,
        ttl_us: int = 0,
        maybe_created: bool = False,
    ) -> None:
        self.kind = kind
        self.code = plain(code)
        self.message = plain(message)
        super().__init__(f"{self.code}: {self.message}")
        self.scope = scope
        self.ttl_us = ttl_us
        self.maybe_created = maybe_created


class Billing(msgspec.Struct, frozen=True):
    """How a provider bills a machine.

    Attributes:
        least_us: what each launch is billed for at least.
        interrupted_free_us: a spot machine that the provider takes back within so long costs nothing.
    """

    least_us: int = 60 * SECOND_US
    interrupted_free_us: int = 0

    def billed_us(self, ran_us: int, *, interrupted: bool = False) -> int:
        """How long a machine is billed that ran for so long. `interrupted`: the provider took it back."""
        if interrupted and ran_us < self.interrupted_free_us:
            return 0
        return max(ran_us, self.least_us)

    def nanos(self, rate_nanos_per_hour: int, ran_us: int, *, interrupted: bool = False) -> int:
        """What that costs, rounded down."""
        return rate_nanos_per_hour * self.billed_us(ran_us, interrupted=interrupted) // US_PER_HOUR


class Capabilities(msgspec.Struct, frozen=True):
    """What a provider can do.

    Attributes:
        notice_us: how long before it takes a spot machine back it says so.
        own_lifetime: it ends a machine by itself after the lifetime of its order.
        busy_us, calm_us: how often it is asked for its list while a machine comes or goes, and while none
            does; no more often than it bears for long.
    """

    billing: Billing
    notice_us: int
    own_lifetime: bool = False
    busy_us: int = SECOND_US
    calm_us: int = 15 * SECOND_US


class Check(msgspec.Struct, frozen=True):
    """One thing that must be right before machines can be rented. `remedy`: what to do when it is not."""

    name: str
    good: bool
    says: str
    remedy: str = ""


def unknown(error: CloudError, provider: str, credentials: str) -> Check:
    """The check of a provider that did not say who we are. `credentials`: what mends those."""
    if error.kind is Kind.AUTH:
        return Check("credentials", False, str(error), credentials)
    remedy = f"see that bursard's machine reaches {provider}: its network, proxy and endpoint"
    return Check("connection", False, str(error), remedy)


class Wanted(msgspec.Struct, frozen=True):
    """Which machines are of interest. Empty: all. `instance_types`: shell patterns, such as `g6.*`."""

    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    instance_types: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    markets: tuple[str, ...] = ()

    def includes(self, place: Place, gpu_type: str) -> bool:
        """Is a machine of these?"""
        pairs = (
            (self.regions, place.region),
            (self.zones, place.zone),
            (self.gpus, gpu_type),
            (self.markets, place.market),
        )
        if any(chosen and value not in chosen for chosen, value in pairs):
            return False
        patterns = self.instance_types
        return not patterns or any(fnmatchcase(place.instance_type, pattern) for pattern in patterns)


BOOT_US: Final = 180 * SECOND_US
"""Until an agent says hello, where nobody knows better."""


class MachineOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that can be asked for.

    Attributes:
        rate_nanos_per_hour: of the whole machine now. currency: of it.
        as_of: when that was true. source: who said so.
        boot_us: how long it takes until its agent says hello, as experience has it.
    """

    place: Place
    cpu_milli: int
    memory_bytes: int
    gpu_type: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    rate_nanos_per_hour: int
    currency: str
    as_of: int
    source: str
    boot_us: int = BOOT_US


class PricePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A price since an instant: a dated fact. Without a zone it holds in all of the region."""

    place: Place
    since: int
    rate_nanos_per_hour: int
    currency: str


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """How many machines of some places may run at once, and how many do.

    Attributes:
        name: the provider's own. unit: what is counted where it is not machines, such as `vCPUs`.
    """

    scope: Place
    limit: int
    used: int
    name: str = ""
    unit: str = ""

    @property
    def left(self) -> int:
        """How many more."""
        return max(self.limit - self.used, 0)


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent of a machine is told, by which it finds its cluster.

    Attributes:
        server: where the daemon listens. name, pool: of the node.
        token: to enrol with, once and soon; the only secret that leaves the daemon. Never logged.
    """

    server: str
    name: str
    pool: str
    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"Join(server={self.server!r}, name={self.name!r}, pool={self.pool!r})"


class PoolTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool in force asks of its provider: which machines, and how they are made."""

    name: str
    wanted: Wanted
    launch: tuple[LaunchSetting, ...] = ()


def setting(launch: Iterable[LaunchSetting], key: str, place: Place) -> str:
    """What a pool says under a key of `launch` for a place: of its zone, else of its region, else of all; ""
    when it says nothing.
    """
    found = {one.where: one.text for one in launch if one.key == key}
    return found.get(place.zone) or found.get(place.region) or found.get("", "")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for when a machine is made.

    Attributes:
        machine_id: of our intent; the provider's token, name and tag come of it, so that the same order made
            twice is one machine.
        cluster: whose it is, as a tag.
        lifetime_us: it is not to live longer, whoever has forgotten it.
        launch: what its pool says of how it is made; `setting` reads it.
    """

    machine_id: str
    cluster: str
    place: Place
    join: Join
    lifetime_us: int
    launch: tuple[LaunchSetting, ...] = ()


class InstanceState(Enum):
    """A machine as its provider sees it."""

    PENDING = "pending"
    RUNNING = "running"
    ENDING = "ending"
    FAILED = "failed"
    """It was never made to run, and is still there to be ended."""
    GONE = "gone"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as its provider lists it.

    Attributes:
        provider_id: its name there, never used twice.
        cluster, machine_id: its tags; empty without.
        created_at: when it was asked for. billed_from: since when it is paid for; 0: not yet.
        billed_until: until when it was; 0: still.
        interrupted: the provider took it back.
    """

    provider_id: str
    cluster: str
    machine_id: str
    place: Place
    state: InstanceState
    created_at: int
    billed_from: int = 0
    billed_until: int = 0
    interrupted: bool = False
    message: str = ""

    @property
    def gone(self) -> bool:
        """Nothing of it is there or paid for any more."""
        return self.state is InstanceState.GONE


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider did by itself: `interrupted` (it takes a machine back), or `failed`."""

    at: int
    provider_id: str
    kind: str
    message: str


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider bills for one machine: the truth that our own figures are held against."""

    provider_id: str
    machine_id: str
    billed_us: int
    nanos: int
    currency: str


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """What the books know of a machine's price now, and since when it is so."""

    nanos_per_hour: int
    currency: str
    as_of: int
    source: str


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider is given when it is opened.

    Attributes:
        now: the wall clock, microseconds.
        currency: of the books; an offer in another one cannot be rented.
        rate: what the price books say of a place; None: nothing. It may be called in any thread.
    """

    now: Callable[[], int]
    currency: str
    rate: Callable[[Place], Rate | None]


SWEEP_US: Final = 600 * SECOND_US
"""Where nothing of ours should be is looked at so often at least, by a provider that has to ask there."""
LATELY_US: Final = HOUR_US
"""So long after its end a machine is still listed, as gone, by a provider that has to remember it."""
REMEMBERED_MAX: Final = 1_000
"""Of so many machines something is remembered that their provider does not say again."""
MARKETS: Final = ("spot", "on-demand")


def remember(known: dict[str, Thing], key: str, value: Thing) -> None:
    """Remember, and forget the oldest of too many."""
    while len(known) >= REMEMBERED_MAX:
        del known[next(iter(known))]
    known[key] = value


class Provider(Protocol):
    """A cloud. Every call may raise `CloudError`, and nothing else."""

    name: str
    capabilities: Capabilities

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        """Credentials, permissions, places and what these pools launch by: everything that can be known
        without renting. Never raises.
        """

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        """What could be asked for now."""

    def prices(self, since: int) -> list[PricePoint]:
        """Every price that began to hold since then, oldest first."""

    def quotas(self, region: str) -> list[Quota]:
        """What we may have in a region."""

    def create(self, order: Order) -> str:
        """Ask for a machine; its provider id, at once. The same order again: the same machine."""

    def poll(self, provider_id: str) -> Instance:
        """One machine as it is. Raises the error that its making met after it had been promised."""

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        """Some machines as they are; None: there is nothing of it, and nobody remembers."""

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        """Every machine of a cluster in every place, also one that failed or ends; those lately gone too.

        `regions`: where machines are known to be or may come to be. Each call looks there. A provider that
        is asked region by region may look elsewhere only now and then (`SWEEP_US` at most), and then in
        every call for as long as something of ours is there.
        """

    def terminate(self, provider_id: str) -> bool:
        """End a machine for good. True: it is gone. Asked again, or of what never was: no error."""

    def events(self, since: int) -> list[CloudEvent]:
        """What it did by itself since then, oldest first."""

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        """What it bills for machines that were made in that time."""
