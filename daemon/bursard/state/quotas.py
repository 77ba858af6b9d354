"""Quotas as they are in force, and what live attempts hold of them.

Owns    which quotas count whose work, and by attempt what its live members hold. Nothing here is persisted:
        all of it follows from the documents in force and the live attempts.
Why     every plan asks how much each quota has used. A member that starts or ends changes one entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from bursar.model import MemberAllocation
from bursar_policies.decision import Holding
from bursar_policies.specs import EACH, GPUS, SPEND_RATE, QuotaSpec

KNOWN_MAX = 10_000
"""Answers kept: which quotas count one user in one project."""


class _Live:
    """One attempt, while it is counted."""

    __slots__ = ("frozen", "members", "pinned", "quotas", "since", "uses")

    def __init__(self, quotas: tuple[str, ...], since: int, pinned: bool) -> None:
        self.quotas, self.since, self.pinned = quotas, since, pinned
        self.members: dict[int, dict[str, int]] = {}
        """By rank, as it was when it was taken: what a node says of its devices may change."""
        self.uses: Counter[str] = Counter()
        self.frozen: Holding | None = None

    def holding(self) -> Holding:
        if self.frozen is None:
            uses = tuple(sorted((name, amount) for name, amount in self.uses.items() if amount))
            self.frozen = Holding(self.quotas, uses, self.since, self.pinned)
        return self.frozen


class QuotaTable:
    """Quotas by name, and what is held of them. Without any quota, nothing is counted."""

    def __init__(self) -> None:
        self.specs: Mapping[str, QuotaSpec] = {}
        """Those of each user stand here as `NAME/USER`, from the first look at that user on."""
        self._given: Mapping[str, QuotaSpec] = {}
        self._live: dict[str, _Live] = {}
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}
        self._holdings: Mapping[str, Holding] | None = None
        self.used: dict[str, Counter[str]] = {}
        """By quota, what is held of it now."""

    def __bool__(self) -> bool:
        return bool(self._given)

    @property
    def guarantees(self) -> bool:
        """Does any of them guarantee something?"""
        return any(spec.guaranteed for spec in self.specs.values())

    def put(self, specs: Mapping[str, QuotaSpec]) -> bool:
        """These are in force from now on, and what lives is to be counted anew. False: they were before."""
        if specs == self._given:
            return False
        self._given = dict(sorted(specs.items()))
        self.specs = {name: spec for name, spec in self._given.items() if spec.user != EACH}
        self._live.clear()
        self.used = {name: Counter() for name in self.specs}
        self._known.clear()
        self._holdings = None
        return True

    def covering(self, user: str, project: str) -> tuple[str, ...]:
        """Those that count a user's work in a project: of projects, the innermost first, then of the user."""
        if not self._given:
            return ()
        key = user, project.lower()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._open(user)
            names = (name for name, spec in self.specs.items() if spec.covers(*key))
            found = self._known[key] = tuple(sorted(names, key=self._inner_first))
        return found

    def _open(self, user: str) -> None:
        """What bounds each user bounds this one. The mapping of a snapshot stays as it is."""
        mine = {f"{name}/{user}": spec for name, spec in self._given.items() if spec.user == EACH}
        fresh = {name: replace(spec, user=user) for name, spec in mine.items() if name not in self.specs}
        if fresh:
            self.specs = {**self.specs, **fresh}
            self.used |= {name: Counter() for name in fresh}

    def _inner_first(self, name: str) -> tuple[bool, int, str]:
        spec = self.specs[name]
        return bool(spec.user), -len(spec.project), name

    def bounds_rates(self, names: Iterable[str]) -> bool:
        """Does any of these bound a spend rate?"""
        return any(SPEND_RATE in dict((*self.specs[n].guaranteed, *self.specs[n].max)) for n in names)

    def beyond(self, names: Iterable[str], uses: Mapping[str, int]) -> tuple[str, str] | None:
        """(quota, resource) of the first of these whose `max` so much more would pass."""
        for name in names:
            for resource, most in self.specs[name].max:
                asked = uses.get(resource, 0)
                if asked and self.used[name][resource] + asked > most:
                    return name, resource
        return None

    def take(
        self,
        attempt_id: str,
        quotas: tuple[str, ...],
        alloc: MemberAllocation,
        types: Sequence[str],
        since: int,
        pinned: bool,
    ) -> None:
        """A member holds this from now on. `types`: of the devices of its node."""
        live = self._live.get(attempt_id)
        if live is None:
            live = self._live[attempt_id] = _Live(quotas, since, pinned)
        uses = live.members[alloc.rank] = uses_of(alloc, types)
        live.uses.update(uses)
        for name in live.quotas:
            self.used[name].update(uses)
        live.frozen = self._holdings = None

    def give(self, attempt_id: str, rank: int) -> None:
        """A member holds nothing any longer."""
        live = self._live.get(attempt_id)
        if live is None:
            return
        uses = live.members.pop(rank, {})
        live.uses.subtract(uses)
        for name in live.quotas:
            self.used[name].subtract(uses)
        live.frozen = self._holdings = None
        if not live.members:
            del self._live[attempt_id]

    def forget(self, attempt_id: str) -> None:
        """It is to be counted anew."""
        live = self._live.get(attempt_id)
        for rank in list(live.members) if live is not None else ():
            self.give(attempt_id, rank)

    def holdings(self) -> Mapping[str, Holding]:
        """What each attempt holds, for good."""
        if self._holdings is None:
            self._holdings = {attempt_id: live.holding() for attempt_id, live in self._live.items()}
        return self._holdings


def uses_of(alloc: MemberAllocation, types: Sequence[str]) -> dict[str, int]:
    """What a member counts for. `types`: of the devices of its node, by index."""
    found = Counter({"cpus": alloc.cpu_milli, "memory": alloc.memory_bytes})
    for share in alloc.devices:
        found[GPUS] += share.milli
        found[f"{GPUS}/{types[share.index]}"] += share.milli
    if alloc.price_id:
        found[SPEND_RATE] = alloc.rates.total
    return dict(found)
