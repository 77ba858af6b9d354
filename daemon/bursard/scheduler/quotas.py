"""Quotas in one plan: who may start, who is owed what, and from whom it may be taken back.

Owns    `Tenancy`: what each quota has used, its own starts among it; the bounds of `max`; who is *within his
        guarantee*; whose attempts are *sheltered* by theirs; the room that work which stays may take.
Why     what is guaranteed must be there when it is asked for, and until then others may use it. So whatever
        goes beyond a guarantee is borrowed and can be taken back, and what cannot be stopped may borrow
        nothing that is guaranteed to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from bursar.resources import ResourceRequest
from bursar_policies.decision import Holding, JobClass, NodeColumns, Placement, Snapshot, Start
from bursar_policies.specs import GPUS, SPEND_RATE

Uses = Mapping[str, int]


class Over(NamedTuple):
    """What stops a start: `quota` is "" for what is guaranteed to others.

    Attributes:
        asked: of the resource.
        for_job: the first job that waits for this quota; this one would delay it. until: when that starts.
    """

    quota: str
    resource: str
    asked: int
    for_job: str = ""
    until: int = 0


class _Claim(NamedTuple):
    """Of the first job that waits for a quota: when it has enough, and what is left beside it then."""

    job_id: str
    at: int
    left: Counter[str]


class Tenancy:
    """What the quotas of a snapshot say, as one plan spends them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.specs = snapshot.quotas
        self.nodes: NodeColumns = snapshot.nodes
        self._running = snapshot.running
        self.most = {name: dict(spec.max) for name, spec in self.specs.items()}
        self.owed = {name: dict(spec.guaranteed) for name, spec in self.specs.items()}
        self.used = {name: Counter[str]() for name in self.specs}
        self._pinned = {name: Counter[str]() for name in (*self.specs, "")}
        """By quota, what may not be stopped; "" for that of no project's quota."""
        self.holdings: dict[str, Holding] = {}
        self._ends: dict[str, int] = {}
        self._claims: dict[str, _Claim] = {}
        self._within: dict[int, tuple[JobClass, bool]] = {}
        for attempt_id, holding in snapshot.holdings.items():
            self._put(attempt_id, holding)

    # --- what is used

    def counts(self, job_class: JobClass) -> bool:
        """Has any quota to do with such jobs?"""
        return bool(job_class.quotas or job_class.pinned)

    def _put(self, name: str, holding: Holding) -> None:
        self.holdings[name] = holding
        uses = dict(holding.uses)
        for quota in holding.quotas:
            self.used[quota].update(uses)
        if holding.pinned:
            for quota in holding.quotas:
                self._pinned[quota].update(uses)
            if not any(self.specs[quota].project for quota in holding.quotas):
                self._pinned[""].update(uses)

    def take(self, job_class: JobClass, job_id: str, uses: Uses, ends_at: int) -> None:
        """A job of this class starts and holds so much until then."""
        if not self.counts(job_class):
            return
        self._within.clear()
        self.__dict__.pop("sheltered", None)
        self._ends[job_id] = ends_at
        since = 1 << 62  # after all that runs
        self._put(job_id, Holding(job_class.quotas, tuple(sorted(uses.items())), since, job_class.pinned))
        for quota in job_class.quotas:
            claim = self._claims.get(quota)
            if claim is not None and ends_at > claim.at:
                claim.left.subtract(uses)

    def started(self, starts: Iterable[Start], classes: Sequence[JobClass]) -> None:
        """These have started; `classes`: by queue."""
        for start in starts:
            self.take(classes[start.queue], start.job_id, self.of_members(start.members), 1 << 62)

    def of_members(self, members: Iterable[Placement]) -> Uses:
        """What these count for."""
        return uses_of(self.nodes, members)

    def of_rows(self, request: ResourceRequest, rows: Sequence[int], rate: int) -> Uses:
        """What a gang on these nodes counts for. `rate`: of all of it, below 0 when unknown."""
        found = self._of_request(request, len(rows))
        found[SPEND_RATE] = max(rate, 0)
        if request.gpus is not None:
            for row in rows:
                found[f"{GPUS}/{self._type(row)}"] += request.gpus.count * request.gpus.milli
        return found

    def at_least(self, request: ResourceRequest, nodes: int, rate: int = 0) -> Uses:
        """What it counts for wherever it goes. `rate`: the least that it can cost."""
        found = self._of_request(request, nodes)
        found[SPEND_RATE] = max(rate, 0)
        types = (request.gpus.types or tuple(self.nodes.gpu_types)) if request.gpus is not None else ()
        if len(types) == 1:
            found[f"{GPUS}/{types[0]}"] = found[GPUS]
        return found

    def _of_request(self, request: ResourceRequest, nodes: int) -> Counter[str]:
        gpus = request.gpus.count * request.gpus.milli if request.gpus is not None else 0
        asked = {"cpus": request.cpu_milli, "memory": request.memory_bytes, GPUS: gpus}
        return Counter({resource: nodes * amount for resource, amount in asked.items() if amount})

    def _type(self, row: int) -> str:
        return _type(self.nodes, row)

    # --- what may start

    def stops(self, job_class: JobClass, uses: Uses, ends_at: int) -> Over | None:
        """What keeps a gang that holds so much until then from starting."""
        for name in job_class.quotas:
            used = self.used[name]
            for resource, most in self.most[name].items():
                asked = uses.get(resource, 0)
                if asked and used[resource] + asked > most:
                    return Over(name, resource, asked)
        for name in job_class.quotas:
            claim = self._claims.get(name)
            if claim is None or ends_at <= claim.at:
                continue
            for resource in self.most[name]:
                asked = uses.get(resource, 0)
                if asked > max(claim.left[resource], 0):
                    return Over(name, resource, asked, claim.job_id, claim.at)
        return self._stays(job_class, uses) if job_class.pinned else None

    def set_aside(self, job_id: str, over: Over, uses: Uses) -> None:
        """A claim on a quota, of the first job that waits for it: nobody behind it may delay it."""
        name = over.quota
        if not name or over.for_job or name in self._claims:
            return
        most = self.most[name]
        if any(uses.get(resource, 0) > limit for resource, limit in most.items()):
            return  # it never fits: nobody has to wait for it
        left = Counter({r: limit - self.used[name][r] - uses.get(r, 0) for r, limit in most.items()})
        for at, given in self._releases(name):
            left.update(given)
            if all(left[resource] >= 0 for resource in most):
                self._claims[name] = _Claim(job_id, at, left)
                break

    def _releases(self, name: str) -> list[tuple[int, dict[str, int]]]:
        """What ends when, soonest first."""
        ends = self._latest | self._ends
        found = [
            (ends.get(one, 0), one, {r: n for r, n in holding.uses if r in self.most[name]})
            for one, holding in self.holdings.items()
            if name in holding.quotas
        ]
        return [(at, given) for at, _, given in sorted(found, key=lambda entry: entry[:2])]

    @cached_property
    def _latest(self) -> dict[str, int]:
        found: dict[str, int] = {}
        ends = self._running.ends_at.tolist()
        for attempt_id, at in zip(self._running.attempt_ids, ends, strict=True):
            found[attempt_id] = max(at, found.get(attempt_id, 0))
        return found

    # --- what is guaranteed

    def within(self, job_class: JobClass, rate: int = 0) -> bool:
        """Is a job of this class within a guarantee, by one of its alternatives?"""
        known = self._within.get(id(job_class))
        if known is None or known[0] is not job_class:
            options = (self.at_least(option, job_class.nodes, rate) for option in job_class.options)
            found = any(
                self._moderate(name, uses) for uses in options for name in self.guaranteed(job_class, uses)
            )
            known = self._within[id(job_class)] = (job_class, found)
        return known[1]

    def _moderate(self, name: str, uses: Uses) -> bool:
        """Of what the guarantee does not name it asks for no larger part of the site than is guaranteed: else
        one of a little of one thing would put a job first for all of another.
        """
        owed, whole = self.owed[name], self._whole
        if SPEND_RATE in owed:
            return True
        part = self._parts[name]
        gpus = any(resource.partition("/")[0] == GPUS for resource in owed)
        return all(
            uses[r] <= part * whole[r]
            for r in ("cpus", "memory", GPUS)
            if uses.get(r) and r not in owed and not (r == GPUS and gpus)
        )

    @cached_property
    def _parts(self) -> dict[str, Fraction]:
        """By quota, the largest part of the site that it guarantees of anything."""
        whole = self._whole
        return {
            name: max((Fraction(owed[r], whole[r]) for r in owed if whole.get(r)), default=Fraction(0))
            for name, owed in self.owed.items()
        }

    @cached_property
    def _whole(self) -> dict[str, int]:
        """Of all nodes that are ready."""
        nodes, ready = self.nodes, self.nodes.ready
        gpus = nodes.gpu_total * 1000
        found = {
            "cpus": int(nodes.cpu_total[ready].sum()),
            "memory": int(nodes.memory_total[ready].sum()),
            GPUS: int(gpus[ready].sum()),
        }
        for kind, name in enumerate(nodes.gpu_types):
            found[f"{GPUS}/{name}"] = int(gpus[ready & (nodes.gpu_type == kind)].sum())
        return found

    def guaranteed(self, job_class: JobClass, uses: Uses) -> tuple[str, ...]:
        """The quotas that guarantee so much more: of what each names it asks for some, and for no more than
        is left of that.
        """
        return tuple(name for name in job_class.quotas if self._fits(self.owed[name], self.used[name], uses))

    @staticmethod
    def _fits(owed: Uses, used: Uses, uses: Uses) -> bool:
        asked = [(resource, uses.get(resource, 0)) for resource in owed]
        some = any(amount for _, amount in asked)
        return some and all(used.get(r, 0) + amount <= owed[r] for r, amount in asked if amount)

    @cached_property
    def sheltered(self) -> dict[str, set[str]]:
        """By quota, the attempts that its guarantee is used for: first those of a guarantee inside it, then
        those that may not be stopped, then the oldest, as far as they fit.
        """
        found: dict[str, set[str]] = {}
        inner: set[str] = set()
        for name in self._inner_first:
            held: Counter[str] = Counter()
            mine = [(one, holding) for one, holding in self.holdings.items() if name in holding.quotas]
            mine.sort(key=lambda pair: (pair[0] not in inner, not pair[1].pinned, pair[1].since, pair[0]))
            found[name] = set()
            for one, holding in mine:
                uses = dict(holding.uses)
                if self._fits(self.owed[name], held, uses):
                    held.update(uses)
                    found[name].add(one)
            inner |= found[name]
        return found

    @cached_property
    def _inner_first(self) -> list[str]:
        return sorted(self.specs, key=lambda name: (-len(self.specs[name].project), name))

    def shelters(self, attempt_id: str, job_class: JobClass) -> bool:
        """Is an attempt within the guarantee of a quota that does not count the other job?"""
        holding = self.holdings.get(attempt_id)
        quotas = holding.quotas if holding is not None else ()
        return any(attempt_id in self.sheltered[name] for name in quotas if name not in job_class.quotas)

    def owes(self, attempt_id: str, job_class: JobClass, guaranteed: Sequence[str]) -> frozenset[str]:
        """The resources that are guaranteed to a job of this class against this attempt; none where it holds
        nothing of them. What counts is the widest quota with a guarantee that counts the one and not the
        other: `guaranteed` names those that the job is within.
        """
        holding = self.holdings.get(attempt_id)
        if holding is None or self.shelters(attempt_id, job_class):
            return frozenset()
        apart = [name for name in job_class.quotas if name not in holding.quotas and self.owed[name]]
        by_project = [name for name in apart if self.specs[name].project]
        by_user = [name for name in apart if self.specs[name].user]
        widest = [name for name in (*by_project[-1:], *by_user[-1:]) if name in guaranteed]
        named = frozenset(resource for name in widest for resource in self.owed[name])
        return named if named & {resource for resource, amount in holding.uses if amount} else frozenset()

    # --- what stays

    @cached_property
    def totals(self) -> dict[str, int]:
        """Of all that is ready and guaranteed to somebody."""
        found = self._whole
        named = {resource for owed in self.owed.values() for resource in owed} - {SPEND_RATE}
        if any(resource.startswith(f"{GPUS}/") for resource in named):
            named.add(GPUS)
        return {resource: found.get(resource, 0) for resource in sorted(named)}

    def _stays(self, job_class: JobClass, uses: Uses) -> Over | None:
        """What may not be stopped leaves, of everything, as much as is guaranteed to others."""
        for resource, total in self.totals.items():
            asked = uses.get(resource, 0)
            if not asked:
                continue
            before, after = (self.spoken_for(resource, job_class, more) for more in (0, asked))
            if after > before and after > total:
                return Over("", resource, asked)
        return None

    def spoken_for(self, resource: str, job_class: JobClass | None = None, more: int = 0) -> int:
        """What is guaranteed to somebody or held by what may not be stopped, so much more of this class among
        it. What may not be stopped counts for the guarantee that it is within.
        """
        quotas = job_class.quotas if job_class is not None else ()
        pinned = {name: used[resource] + more * (name in quotas) for name, used in self._pinned.items()}
        if not any(self.specs[name].project for name in quotas):
            pinned[""] += more
        total = pinned[""]
        inside: Counter[str] = Counter()
        for name in self._inner_first:
            spec, owed = self.specs[name], self._owed_of(name, resource)
            if spec.user:
                total += max(owed - pinned[name], 0)
                continue
            mine = max(owed, pinned[name] + inside[name])
            outer = self._outer.get(name, "")
            if outer:
                inside[outer] += mine - pinned[name]
            else:
                total += mine
        return total

    def _owed_of(self, name: str, resource: str) -> int:
        owed = self.owed[name]
        if resource != GPUS:
            return owed.get(resource, 0)
        return max(owed.get(GPUS, 0), sum(n for r, n in owed.items() if r.startswith(f"{GPUS}/")))

    @cached_property
    def _outer(self) -> dict[str, str]:
        """Of a project's quota, the next wider one."""
        projects = [name for name in self._inner_first if self.specs[name].project]
        found = {}
        for at, name in enumerate(projects):
            wider = (
                one for one in projects[at + 1 :] if self.specs[one].covers("", self.specs[name].project)
            )
            found[name] = next(wider, "")
        return found


def uses_of(nodes: NodeColumns, members: Iterable[Placement]) -> Counter[str]:
    """What members that are to be placed count for."""
    found: Counter[str] = Counter()
    for member in members:
        found.update({"cpus": member.cpu_milli, "memory": member.memory_bytes})
        gpus = sum(share.milli for share in member.devices)
        if gpus:
            found.update({GPUS: gpus, f"{GPUS}/{_type(nodes, member.node)}": gpus})
        if nodes.price_ids[member.node]:
            found[SPEND_RATE] += member.rates.total
    return found


def _type(nodes: NodeColumns, row: int) -> str:
    kind = int(nodes.gpu_type[row])
    return nodes.gpu_types[kind] if kind >= 0 else ""
