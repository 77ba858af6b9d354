"""Renting: what waits and fits nowhere gets a machine, and what is idle is given back.

Owns    when pools of machines are looked at, and for which jobs a machine is rented (`giving_back`: when one
        is not kept).
Why     a plan says what stops a job; whether that is worth a machine is asked here, after the plan and beside
        it, at a pace of its own: a provider answers in seconds, a plan in milliseconds. What is rented is
        then a node like others, and the plan gives it to whom it likes, but for one that waits for the other
        machines of its job's gang: until these are there nothing starts on it.

Nothing here is remembered that matters: pools, machines and what they hold are in the state, so a daemon that
starts again goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

from msgspec.structs import replace

from bursar.clock import HOUR_US, SECOND_US, Instant, format_duration, format_instant
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar.model import JobSpec, Reason, ReasonCode
from bursar.money import format_nanos
from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass
from bursar_policies.specs import CloudPoolSpec, Document
from bursard.events import MachineIntended, NodeTokenIssued
from bursard.machines.choose import Choice, Coming, Have, Later, Look, Pool, choose, looks, room_here, unheld
from bursard.machines.gangs import Wish, at_most, never_so_many
from bursard.machines.giving_back import GivingBack, bound_us
from bursard.machines.houses import (
    PRICES_EVERY_US,
    BookRates,
    Ground,
    House,
    asked,
    price_book,
    terms_of,
    wanted_of,
)
from bursard.machines.in_time import comes_back, in_time, saved_us, spare_us, worth_moving
from bursard.machines.offered import sound
from bursard.machines.provider import (
    BOOT_US,
    Check,
    CloudError,
    Join,
    Kind,
    MachineOffer,
    Order,
    Place,
    Provider,
    setting,
)
from bursard.place import LastPlan
from bursard.state import JobRecord, MachineRecord, MachineState
from bursard.state.decide import launches, policies
from bursard.state.decide import machines as decide
from bursard.state.decide.machines import Decision, Launch

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LOOK_EVERY_S: Final = 0.5
JOBS_MAX: Final = 100
"""Waiting jobs of one user that one look asks for machines for, and as many of one queue."""
WISHES_MAX: Final = 1_000
"""Those of all users: of more, each user's first are looked at, then each one's second, and so on."""
RENTS_MAX: Final = 4
"""Machines that one look rents: a provider is not asked in bursts."""
PATIENCE_US: Final = 2 * SECOND_US
"""So long a job fits nowhere before a machine is rented: meanwhile a plan was made that has seen all."""
OWN_END_US: Final = HOUR_US
"""So long after its lifetime a machine ends by itself, where its provider can do that: nobody ended it."""
RENTED_FOR: Final = ("room", "fault")
"""What stops a job that another machine would serve: too little is free, or no node could ever."""
_RENTED_CODES: Final = (ReasonCode.EXCEEDS_NODE_CAPACITY, ReasonCode.WAITING_FOR_RESOURCES)
"""What its reason is then."""
_RENTED_CHECKS: Final = ("constraints", "spot_policy", "price", "avoid_same_node")
"""What else no node here passes and a machine may, where the reason is that it is misconfigured."""
LOOKS_AT_ONCE: Final = 200
"""Offers of a pool that are looked at for whoever asks, before the loop goes on."""
OFFERS_MAX: Final = 2_000
"""Machines, each in its zone and market, that one pool may name."""
SHAPES_MAX: Final = 10_000
"""Of so many different requests it is remembered whether a machine could hold them."""


def serves(reason: Reason) -> bool:
    """Is a job that waits for this one that another machine would serve?"""
    if reason.code is ReasonCode.MISCONFIGURED:
        return dict(reason.facts).get("check") in _RENTED_CHECKS
    return reason.code in _RENTED_CODES


class _Shape(NamedTuple):
    """What decides whether a machine could hold a job, whatever it costs and whoever pays."""

    nodes: int
    options: tuple[ResourceRequest, ...]
    constraints: tuple[tuple[str, str], ...]
    spot_policy: str


_Alike = tuple[JobClass, int, int, str, str]
"""Jobs of one class, deadline, saved work and owner: what one of them is refused, or waits for, all are."""


class Renting:
    """The pools of all providers, and the house of each.

    Args:
        providers: those that are open already. opener: opens another one, by its name, when a pool names it;
            raises `InvalidRequest`.
        last: the newest plan. cut: end the stream of a node; False: there is none.
        server: where agents of machines on this machine find this daemon; others' pools say it.
        rates: what providers are told of prices; is given the books in force.
    """

    def __init__(
        self,
        engine: Ground,
        providers: Sequence[Provider],
        server: str,
        last: Callable[[], LastPlan | None],
        cut: Callable[[str], bool],
        opener: Callable[[str], Provider] | None = None,
        rates: BookRates | None = None,
    ) -> None:
        self.engine = engine
        self.houses: dict[str, House] = {}
        self._tried: dict[str, House] = {}
        """Of providers that were asked for a pool that may never be in force."""
        self.is_closed = False
        """Nothing is rented any more: who stops the daemon gives back what there is, and no other follows."""
        self.unopened: dict[str, str] = {}
        """By provider that a pool names and that cannot be asked, why."""
        self.notes: dict[str, str] = {}
        """By job that waits, why no machine is rented for it, as of the newest look."""
        self.waits_until: dict[str, int] = {}
        """By job that has time to wait for a spot machine, until when, likewise."""
        self.cut = cut
        self._server = server
        self._last = last
        self._opener = opener
        self._rates = rates
        self._wished: dict[str, int] = {}
        """By job, since when it fits nowhere, and on nothing that is on its way."""
        self._pools: Sequence[Pool] = ()
        self._unheld: dict[_Shape, str] = {}
        """By what is asked for, why no machine of `_pools` could hold it; "" where one could."""
        self.movable = False
        """A job runs on demand that would go on on a spot machine, as of the newest look."""
        self._moves_from = 0
        self.giving_back = GivingBack(engine, self._lacks)
        for provider in providers:
            self.houses[provider.name] = House(self, provider)

    # --- what the houses need

    async def commit(self, decisions: Sequence[Decision]) -> None:
        """True, and durable."""
        await self.engine.durable(self.engine.commit_each(decisions, "bursard"))

    async def call(self, work: Callable[[], Answer], house: House) -> Answer:
        """A call of a provider, in its own thread. Raises `CloudError`."""
        return await asyncio.get_running_loop().run_in_executor(house.thread, partial(asked, work))

    def house(self, name: str) -> House:
        """That of a provider, opened now if it was not. Raises `InvalidRequest`."""
        house = self.houses.get(name)
        if house is None:
            if self._opener is None:
                raise InvalidRequest(
                    f"this daemon rents no machines of provider {name}; start bursard with --local-cloud FILE"
                )
            house = self.houses[name] = self._to_ask(name)
            self._tried.pop(name, None)
        return house

    def _to_ask(self, name: str) -> House:
        """That of a provider, which is not one of this daemon's before a pool of it is in force. Raises
        `InvalidRequest`.
        """
        if name not in self.houses and name not in self._tried and self._opener is not None:
            self._tried[name] = House(self, self._opener(name))
        return self._tried.get(name) or self.house(name)

    # --- the loop

    async def run(self) -> None:
        """For ever. A provider that fails is looked at again; nothing else waits for it."""
        turns = dict[str, asyncio.Task[None]]()
        try:
            while True:
                self._open_named()
                for name, house in self.houses.items():
                    if name not in turns or turns[name].done():
                        if name in turns:
                            turns[name].result()  # a defect ends the daemon, as everywhere
                        turns[name] = asyncio.create_task(self._attend(house), name=f"machines-{name}")
                try:
                    await self._decide()
                except (CloudError, BursarError) as error:
                    log.warning("a look at rented machines failed", extra={"why": str(error)})
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for turn in turns.values():
                turn.cancel()
            for house in (*self.houses.values(), *self._tried.values()):
                house.thread.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """One look: prices, providers' lists, what is given back, what is rented."""
        self._open_named()
        for house in list(self.houses.values()):
            await self._attend(house)
        await self._decide()

    async def _attend(self, house: House) -> None:
        """Hear what a provider offers and has."""
        specs = dict(self.pools(house.provider.name))
        if specs and not house.waits:
            try:
                await self._prices(house, specs)
                for name, spec in specs.items():
                    await self._offered(house, name, spec)
            except (CloudError, BursarError) as error:
                house.fail(str(error))
            else:
                house.failures, house.fault = 0, ""
        try:
            if house.keeper.due():
                await house.keeper.turn()
        except BursarError as error:
            log.warning("a look at machines failed", extra={"provider": house.name, "why": str(error)})

    async def _decide(self) -> None:
        """Give back and rent, by what is known now."""
        specs = dict(self.pools())
        for decisions in self.giving_back.unwanted(specs):
            await self.commit(decisions)
        if not self.is_closed:
            await self._rent([pool for pool in self._known(specs) if pool is not None])

    def _open_named(self) -> None:
        """Pools that name a provider whose house is not open: somebody applied them before the last start."""
        if self._rates is not None:
            self._rates.table = self.engine.prices
        for _, spec in self.pools():
            if spec.provider in self.houses:
                continue
            try:
                self.house(spec.provider)
            except InvalidRequest as error:
                if self.unopened.get(spec.provider) != error.message:
                    log.error("a provider cannot be asked", extra={"why": error.message})
                self.unopened[spec.provider] = error.message
            else:
                self.unopened.pop(spec.provider, None)

    def pools(self, provider: str = "") -> Iterator[tuple[str, CloudPoolSpec]]:
        """Pools in force, of one provider where it is named."""
        for (kind, name), document in self.engine.state.policies.items():
            spec = document.spec
            if kind == "CloudPool" and isinstance(spec, CloudPoolSpec) and provider in ("", spec.provider):
                yield name, spec

    def _known(self, specs: Mapping[str, CloudPoolSpec]) -> Iterator[Pool]:
        """Those pools of which a provider has said what there is."""
        for name, spec in specs.items():
            house = self.houses.get(spec.provider)
            if house is not None and name in house.offers:
                provider = house.provider
                billing, offers = provider.capabilities.billing, house.offers[name][1]
                yield Pool(name, spec, provider.name, billing, offers, house.keeper.blocks)

    async def _offered(self, house: House, name: str, spec: CloudPoolSpec) -> Sequence[MachineOffer]:
        known = house.offers.get(name)
        if known is None or known[0] != spec:
            offers = await house.ask(name, wanted_of(spec))
            house.offers[name] = known = spec, offers
        return known[1]

    async def _prices(self, house: House, specs: Mapping[str, CloudPoolSpec]) -> None:
        """What the provider asks is a PriceBook like others: dated, in the log, to be looked up."""
        now = self.engine.now()
        named = [wanted_of(spec) for spec in specs.values()]
        if abs(now - house.priced_at) < PRICES_EVERY_US and named == house.priced_for:
            return
        house.offers.clear()
        offers = dict[Place, MachineOffer]()
        for name, spec in specs.items():
            offers |= {one.place: one for one in await self._offered(house, name, spec)}
        house.priced_at, house.priced_for = now, named
        own = [one for one in offers.values() if not self._booked(house, one)]
        before = self.engine.state.policies.get(("PriceBook", f"cloud-{house.name}"))
        said = before.spec if before is not None else None
        book = price_book(house.name, own, now // SECOND_US * SECOND_US, said)
        if book is not None:
            await self.commit([lambda: policies.apply_documents(self.engine.state, [book], now)])

    def _booked(self, house: House, offer: MachineOffer) -> bool:
        """Is its price the books' own? Written down again it would be a younger fact than it is."""
        known = self._rates.of(house.name, offer.place) if self._rates is not None else None
        return known is not None and known.source == offer.source

    # --- renting

    def wishes(self) -> list[Wish]:
        """Jobs that the newest plan found no place for and that a machine of some pool could hold, as it
        ranked their queues.

        A user has as many places here as another, and a job that no machine could hold has none: neither
        keeps others' jobs from being seen.
        """
        last = self._last()
        if last is None:
            return []
        ranked, lines = list[Wish](), dict[str, list[tuple[int, int]]]()
        for index, verdict in last.plan.verdicts.items():
            queue = last.snapshot.queues[index]
            if self.why_unheld(queue.job_class):
                continue
            for position in range(verdict.position, min(len(queue.jobs), verdict.position + JOBS_MAX)):
                blocked_by = verdict.of(queue.class_at(position).hold_us).blocked_by
                wish = self._wish(queue.jobs[position][1]) if blocked_by in RENTED_FOR else None
                if wish is not None:
                    lines.setdefault(wish.job.user, []).append((position - verdict.position, len(ranked)))
                    ranked.append(wish)
        turns = (enumerate(sorted(line)[:JOBS_MAX]) for line in lines.values())
        seen = sorted((turn, rank) for line in turns for turn, (_, rank) in line)[:WISHES_MAX]
        return [ranked[rank] for rank in sorted(rank for _, rank in seen)]

    def _wish(self, job_id: str) -> Wish | None:
        state = self.engine.state
        job = state.jobs.get(job_id)
        if job is None or state.pending.key_of(job.id) is None:
            return None
        return Wish(job, state.class_of(job))

    def why_unheld(self, job_class: JobClass) -> str:
        """Why no machine of any pool could ever hold a job; "" where one could, or nobody knows yet."""
        shape = _Shape(job_class.nodes, job_class.options, job_class.constraints, job_class.spot_policy)
        known = self._unheld.get(shape)
        if known is None:
            said = [unheld(pool, job_class) for pool in self._pools]
            self._unheld[shape] = known = "; ".join(said) if all(said) else ""
        return known or never_so_many(self.engine.state, self._pools, job_class)

    def _know(self, pools: Sequence[Pool]) -> None:
        """These are in force. What is known of shapes is of the same pools, and not of shapes for ever."""
        before = [(pool.name, pool.spec, pool.offers) for pool in self._pools]
        if before != [(pool.name, pool.spec, pool.offers) for pool in pools]:
            self._unheld.clear()
        while len(self._unheld) > SHAPES_MAX:
            del self._unheld[next(iter(self._unheld))]
        self._pools = pools

    async def _rent(self, pools: Sequence[Pool]) -> None:
        state, now = self.engine.state, self.engine.now()
        notes, wished, rented = dict[str, str](), dict[str, int](), 0
        full, refused, self.waits_until = set[JobClass](), dict[_Alike, str | Later](), {}
        self._know(pools)
        machines = [one for one in state.machines.values() if one.state is not MachineState.ENDING]
        coming, awaited = Coming(machines), {one.job_id for one in machines}
        wishes = self.wishes() if pools else []
        open_now = [pool for pool in pools if not self.houses[pool.provider].keeper.quiet]
        # Whose machine comes has its room there, whoever else is ranked before it.
        for wish in sorted(wishes, key=lambda wish: wish.job.id not in awaited):
            here = self._here(wish)
            if wish.job_class not in full and coming.takes(wish.job_class, here):
                continue
            full.add(wish.job_class)
            wished[wish.job.id] = since = self._wished.get(wish.job.id, now)
            if abs(now - since) < PATIENCE_US or rented >= RENTS_MAX or not open_now:
                continue
            have = self._have(wish, here, coming)
            owner = wish.job.user, wish.job.spec.project
            alike = (wish.job_class, wish.job.spec.deadline_at, saved_us(wish.job), *owner)
            found = refused.get(alike) or self._cheapest(open_now, wish, have)
            if not isinstance(found, tuple) or isinstance(found, Later):
                refused[alike] = found
                notes[wish.job.id] = found if isinstance(found, str) else self._until(found)
                if isinstance(found, Later):
                    self.waits_until[wish.job.id] = found.until
                continue
            pool, choice = found
            for _ in range(choice.machines):
                coming.add(choice.facts)
            full.clear()
            coming.takes(wish.job_class, here)
            rented += choice.machines
            await self._launch(pool, choice, wish.job)
        self.notes, self._wished = notes, wished
        await self._move(open_now, RENTS_MAX - rented)

    async def _move(self, pools: Sequence[Pool], most: int) -> None:
        """Rent spot machines for jobs that run on demand and have the time to go on there, where that costs
        less; they move once the machine is up. Of many some are looked at, the others in turn.
        """
        state, now = self.engine.state, self.engine.now()
        own = Counter(one.job_id for one in state.machines.values() if one.state is not MachineState.ENDING)
        able = [
            (one, job) for one in state.machines.values() if (job := self._may_move(one, own)) is not None
        ]
        self.movable = bool(able)
        self._moves_from %= max(len(able), 1)
        turn = [*able[self._moves_from :], *able[: self._moves_from]][: max(most, 0)]
        self._moves_from += len(turn)
        spot = [
            pool._replace(offers=[one for one in pool.offers if one.place.market == "spot"]) for pool in pools
        ]
        for machine, job in turn:
            job_class, spare = state.class_of(job), spare_us(state)
            for pool in spot:
                seen = looks(state, pool, job, job_class, self.engine.prices, now)
                choice = next((look.choice for look in seen if look.choice is not None), None)
                if choice and worth_moving(job, job_class.hold_us, machine.rate, choice.offer, now, spare):
                    await self._launch(pool, choice, job, moves=True)
                    break

    def _may_move(self, machine: MachineRecord, own: Counter[str]) -> JobRecord | None:
        """The job that alone runs on a machine on demand and could go on on another one, which it has not.
        `own`: how many were rented for each job.
        """
        node = decide.node_of(self.engine.state, machine) if machine.market == "on-demand" else None
        if node is None or len(node.live) != 1 or node.mode != "open" or self.engine.state.allocator:
            return None
        attempt = self.engine.state.attempts[next(iter(node.live))]
        job = self.engine.state.jobs[attempt.job_id]
        if attempt.state != "RUNNING" or attempt.stop_cause is not None or not comes_back(job):
            return None
        return job if own[job.id] <= (machine.job_id == job.id) else None

    def _lacks(self, job_id: str) -> bool:
        """Is a job about to be given machines, as far as nothing speaks against it?"""
        return job_id in self._wished and job_id not in self.notes

    def _own(self, job_id: str) -> list[MachineRecord]:
        """Machines that were rented for a job and are not to end."""
        machines = self.engine.state.machines.values()
        return [one for one in machines if one.job_id == job_id and one.state is not MachineState.ENDING]

    def _here(self, wish: Wish) -> list[int]:
        """For how many members of a gang there is room on nodes; of one that fits on no node, for none."""
        last, job_class = self._last(), wish.job_class
        if job_class.nodes == 1 or last is None:
            return [0] * len(job_class.options)
        own = self._own(wish.job.id)
        return room_here(last, job_class, own[-1].facts if own else None)

    def _have(self, wish: Wish, here: Sequence[int], coming: Coming) -> Have:
        """What a job that is to be given machines has already. One machine of no gang is not near others."""
        own = self._own(wish.job.id)
        if wish.job_class.nodes == 1:
            return Have(here)
        members = [a + b for a, b in zip(here, coming.members(wish.job_class), strict=True)]
        paid = sum(launches.pays_run(self.engine.state, one) for one in own)
        place = own[-1].facts if own else None
        return Have(members, place, len(own), min(paid, wish.job_class.nodes))

    def _note(self, job_id: str) -> str:
        """Why no machine is rented for a job that fits nowhere, one that no look has come to included."""
        note = self.notes.get(job_id, "")
        wish = self._wish(job_id) if not note else None
        if wish is None:
            return note
        unheard = self._unheard()
        if self._pools and not unheard and (why := self.why_unheld(wish.job_class)):
            return why
        for name in (pool.name for pool in self._pools if not unheld(pool, wish.job_class)):
            return f"pool {name} has machines that could hold it, and rents them for jobs in their turn"
        return f"pool {unheard} has not yet said which machines it has" if unheard else ""

    def _unheard(self) -> str:
        """A pool whose offers are not known yet, of a provider that can be asked; "" where there is none."""
        known = {pool.name for pool in self._pools}
        names = (name for name, spec in self.pools() if spec.provider not in self.unopened)
        return next((name for name in names if name not in known), "")

    def told(self, reason: Reason, spec: JobSpec, job_class: JobClass) -> Reason:
        """Why a job waits that no node could ever hold: for a machine, where one of some pool could, or where
        a pool has not said yet what it has. It is not for ever then.
        """
        held = bool(self._pools) and not self.why_unheld(job_class)
        if reason.code is ReasonCode.WAITING_FOR_RESOURCES or spec.caps_array:
            return reason
        if not (held or self._unheard()):
            if never_so_many(self.engine.state, self._pools, job_class):
                way = "lower --nodes, add nodes, or have the limits of a pool raised"
                return replace(reason, remedy=way)
            return reason
        remedy = "wait: `bursar offers` shows what pools have, `bursar cloud ls` what they rent"
        return replace(reason, code=ReasonCode.WAITING_FOR_RESOURCES, remedy=remedy)

    def would_rent(self, job: JobRecord, job_class: JobClass) -> tuple[str, Choice, int] | str:
        """What would be rented for a job that fits nowhere: its provider and the offer, as the provider said
        last, and what all of it costs at most (`gangs.at_most`); else why nothing is. "": no pool could be
        asked.
        """
        if never := never_so_many(self.engine.state, self._pools, job_class):
            return never
        wish = Wish(job, job_class)
        have = self._have(wish, self._here(wish), self._on_their_way())
        pools = list(self._known(dict(self.pools())))
        found = self._cheapest(pools, wish, have)
        if isinstance(found, Later):
            return self._until(found)
        if isinstance(found, str):
            return found
        most = at_most(self.engine.state, pools, wish, self.engine.prices, self.engine.now(), have, found[1])
        return found[0].provider, found[1], most

    def _until(self, later: Later) -> str:
        """Why nothing is rented yet for a job that has time."""
        at = format_instant(Instant(later.until // SECOND_US * SECOND_US))
        return f"{later.why}; from {at} on one on demand is rented, so that its deadline holds"

    def offers_for(
        self, job: JobRecord, job_class: JobClass, wanted: Callable[[Pool, Place], bool]
    ) -> Iterator[list[tuple[Pool, Look]]]:
        """What each offer of each pool that is wanted is to a job, as providers said last: a few at once."""
        engine, wish = self.engine, Wish(job, job_class)
        have = self._have(wish, self._here(wish), self._on_their_way())
        for pool in self._known(dict(self.pools())):
            own = [one for one in pool.offers if wanted(pool, one.place)]
            for at in range(0, len(own), LOOKS_AT_ONCE):
                some = pool._replace(offers=own[at : at + LOOKS_AT_ONCE])
                seen = looks(engine.state, some, job, job_class, engine.prices, engine.now(), have)
                yield [(pool, look) for look in seen]

    def _on_their_way(self) -> Coming:
        machines = self.engine.state.machines.values()
        return Coming([one for one in machines if one.state is not MachineState.ENDING])

    def _cheapest(self, pools: Sequence[Pool], wish: Wish, have: Have) -> tuple[Pool, Choice] | Later | str:
        """Over all pools; else why there is none, of each of them. What a pool will have later is waited
        for, unless another one has a spot machine now.
        """
        engine = self.engine
        best: tuple[Pool, Choice] | None = None
        later: Later | None = None
        why = []
        for pool in pools:
            found = choose(engine.state, pool, wish.job, wish.job_class, engine.prices, engine.now(), have)
            if isinstance(found, str):
                why.append(found)
            elif isinstance(found, Later):
                later = later or found
            elif best is None or _asks(found) < _asks(best[1]):
                best = pool, found
        if later is not None and (best is None or best[1].offer.place.market != "spot"):
            return later
        return best or "; ".join(why)

    async def _launch(self, pool: Pool, choice: Choice, job: JobRecord, moves: bool = False) -> None:
        engine, spec, place = self.engine, pool.spec, choice.offer.place
        rate = choice.offer.rate_nanos_per_hour
        await self.commit(
            [partial(launches.kept, one) for one in self._own(job.id) if self._stands_empty(one)]
        )
        lacks, nodes = choice.machines, engine.state.class_of(job).nodes
        why = f"lacks {lacks} of its {nodes} nodes" if nodes > 1 else "fits on no node"
        if moves:
            why = "runs on demand, and has time to go on where it costs less"
        hold_us = engine.state.class_of(job).hold_us
        hurry = in_time(job, hold_us, pool.offers, spare_us(engine.state))
        if place.market == "on-demand" and hurry is not None and engine.now() >= hurry.spot_until:
            why += ", and has no time to lose a spot machine before its deadline"
        intents = [
            intent
            for _ in range(lacks)
            for intent in decide.intend(
                engine.state,
                engine.ids,
                provider=pool.provider,
                region=place.region,
                zone=place.zone,
                instance_type=place.instance_type,
                market=place.market,
                why=f"job {job.display} {why}",
                lease_until=engine.now() + spec.boot_timeout_us,
                launch=Launch(pool.name, job.id, choice.holds, choice.facts, rate, moves),
            )
        ]

        async def order(intent: MachineIntended) -> Order:
            join = await self._invite(intent.name, pool, place)
            lifetime_us = spec.max_lifetime_us + OWN_END_US
            cluster = engine.state.cluster_id
            return Order(
                machine_id=intent.machine_id,
                cluster=cluster,
                place=place,
                join=join,
                lifetime_us=lifetime_us,
                launch=spec.launch,
            )

        orders = {intent.machine_id: partial(order, intent) for intent in intents}
        await self.houses[pool.provider].keeper.rent(orders, intents)

    def _stands_empty(self, machine: MachineRecord) -> bool:
        node = decide.node_of(self.engine.state, machine)
        return bool(machine.node_id) and node is not None and not node.live

    async def _invite(self, name: str, pool: Pool, place: Place) -> Join:
        """A secret for one agent to be this node with, of which the log knows the hash."""
        token = "node_" + secrets.token_urlsafe(32)
        digest, now = hashlib.sha256(token.encode()).hexdigest(), self.engine.now()
        until = now + pool.spec.max_lifetime_us + OWN_END_US
        issued = NodeTokenIssued(name, digest, now + pool.spec.boot_timeout_us, until)
        await self.commit([lambda: [issued]])
        server = setting(pool.spec.launch, "server", place) or self._server
        return Join(server=server, name=name, pool=pool.name, token=token)

    # --- what people ask

    async def check(self) -> list[Check]:
        """What must be right before machines can be rented, and what each pool could rent."""
        self._open_named()
        found = [Check(f"provider {name}", False, why) for name, why in sorted(self.unopened.items())]
        for house in list(self.houses.values()):
            found += await self._checked(house)
        if not found:
            remedy = "apply a CloudPool, or start bursard with --local-cloud FILE"
            found.append(Check("provider", False, "no pool rents machines", remedy))
        return found

    async def _checked(self, house: House) -> list[Check]:
        specs, provider = dict(self.pools(house.name)), house.provider
        terms = [terms_of(name, spec) for name, spec in specs.items()]
        found = [
            replace(one, name=one.name if one.name.startswith("pool ") else f"{house.name}: {one.name}")
            for one in await house.call(lambda: provider.preflight(terms))
        ]
        regions = set[str]()
        for name, spec in specs.items():
            try:
                offers = await house.ask(name, wanted_of(spec))
            except CloudError as error:
                found.append(Check(f"pool {name}", False, str(error), "its offers are asked for again"))
                continue
            regions |= {offer.place.region for offer in offers}
            says = f"{len(offers)} offers" if offers else "no machine of the provider is one that it names"
            remedy = "" if offers else f"mend regions, zones and offers of CloudPool {name}"
            found.append(Check(f"pool {name}", bool(offers), says, remedy))
            if left_out := house.left_out.get(name):
                remedy = "the others are rented; ask its provider"
                found.append(Check(f"pool {name}: offers", False, left_out, remedy))
        for region in sorted(regions):
            found += await self._quotas(house, region)
        if house.keeper.fault:
            says, remedy = house.keeper.fault, "machines are looked for again and again"
            found.append(Check(f"{house.name}: list", False, says, remedy))
        return found

    async def _quotas(self, house: House, region: str) -> list[Check]:
        try:
            quotas = await house.call(partial(house.provider.quotas, region))
        except CloudError as error:
            return [Check(f"{house.name}: quota {region}", False, str(error), "let bursard read the quotas")]
        return [
            Check(
                f"{house.name}: quota {region} {quota.name or quota.scope.market or 'all'}",
                quota.left > 0,
                f"{quota.used} of {quota.limit}{quota.unit and ' ' + quota.unit} are used",
            )
            for quota in quotas
        ]

    async def refuse_empty(self, documents: Sequence[Document]) -> None:
        """Raise `InvalidRequest` for a pool of which nothing could ever be rented, or whose provider does not
        know us; `ServerUnavailable` where the provider does not answer. Nothing is kept of what was refused.
        """
        for one in documents:
            if not isinstance(one.spec, CloudPoolSpec):
                continue
            at = f"{one.source}:{one.line}: CloudPool {one.name}"
            try:
                house = self._to_ask(one.spec.provider)
            except InvalidRequest as error:
                raise InvalidRequest(f"{at}: {error.message}") from None
            try:
                offered = await house.call(partial(house.provider.offers, wanted_of(one.spec)))
            except CloudError as error:
                known = self.engine.state.policies.get((one.kind, one.name))
                if known is not None and known.spec == one.spec:
                    continue  # it is in force as it is: `cloud check` says what is wrong
                raise _unasked(at, one.spec.provider, error) from None
            offers, left_out = sound(offered, self.engine.state.currency)
            if not offers and left_out:
                raise InvalidRequest(
                    f"{at}: the provider {one.spec.provider} has no machine that can be rented: {left_out}"
                )
            if not offers:
                raise InvalidRequest(
                    f"{at}: the provider {one.spec.provider} has no machine that its regions, zones and"
                    " offers name"
                )
            if len(offers) > OFFERS_MAX:
                raise InvalidRequest(
                    f"{at}: it names {len(offers)} machines of the provider {one.spec.provider}, at most"
                    f" {OFFERS_MAX}; name fewer regions, or GPUs or instance types under offers"
                )

    def comes_at(self, job_id: str) -> int:
        """When the machines that come up for a job are expected to be there, 0 where none does; never in the
        past: one that takes longer than others may be there any moment, until it is given up.
        """
        return max((self._there_at(machine) for machine in self._coming(job_id)), default=0)

    def _there_at(self, machine: MachineRecord) -> int:
        place = (machine.region, machine.zone, machine.instance_type, machine.market)
        house = self.houses.get(machine.provider)
        known = house.offers.values() if house is not None else ()
        boots = (
            one.boot_us
            for _, offers in known
            for one in offers
            if (one.place.region, one.place.zone, one.place.instance_type, one.place.market) == place
        )
        at = machine.intended_at + next(boots, BOOT_US)
        return max(at, self.engine.now())

    def _coming(self, job_id: str) -> list[MachineRecord]:
        return [
            one
            for one in self.engine.state.machines.values()
            if one.job_id == job_id and not one.node_id and one.state is not MachineState.ENDING
        ]

    def _waiting(self, job_id: str) -> str:
        """What a job has of machines that wait for others, and until when they do."""
        own = [one for one in self._own(job_id) if one.waits]
        spec = dict(self.pools()).get(own[0].pool) if own else None
        if spec is None:
            return ""
        most = format_duration(bound_us(spec))
        return f"; {len(own)} of its machines {'waits' if len(own) == 1 else 'wait'} for that, {most} at most"

    def reason(self, job_id: str, otherwise: Reason | None = None) -> Reason | None:
        """Why a job waits: for a machine that comes up; else for what it waited for anyway (`otherwise`), and
        why none is rented for that.
        """
        coming = self._coming(job_id)
        if not coming:
            note = self._note(job_id) if otherwise is not None and serves(otherwise) else ""
            if otherwise is None or not note:
                return otherwise
            wish = self._wish(job_id)
            told = self.told(otherwise, wish.job.spec, wish.job_class) if wish is not None else otherwise
            return replace(told, message=f"{told.message}; nothing is rented for it: {note}")
        machine, others = coming[0], len(coming) - 1
        waited = format_duration((self.engine.now() - machine.intended_at) // SECOND_US * SECOND_US)
        until = format_duration(max(machine.lease_until - self.engine.now(), 0) // SECOND_US * SECOND_US)
        rate = format_nanos(machine.rate).rstrip("0").rstrip(".")
        return Reason(
            ReasonCode.PROVISIONING,
            f"a {machine.instance_type} of {machine.provider} in {machine.zone}"
            f" ({machine.market}, {rate} {self.engine.state.currency}/h) is {machine.state.value} for it,"
            f" since {waited}{f'; and {others} more' if others else ''}{self._waiting(job_id)}",
            f"it starts by itself then; `bursar cloud ls` shows the machine, which is given up in {until}",
            (("machine", machine.name), ("pool", machine.pool), ("rate_per_hour", rate)),
        )


def _asks(choice: Choice) -> int:
    """What all machines of a choice cost in an hour."""
    return choice.offer.rate_nanos_per_hour * choice.machines


def _unasked(at: str, provider: str, error: CloudError) -> BursarError:
    """Why a pool is not taken whose provider could not be asked, and what mends it."""
    says = f"{at}: the provider {provider} could not be asked for machines: {error}"
    if error.kind is Kind.AUTH:
        return InvalidRequest(
            f"{says}; give bursard credentials of it in its environment, as docs/clouds.md has it, start"
            " bursard again and apply the pool then"
        )
    if error.kind is Kind.THROTTLED:
        return ServerUnavailable(
            f"{says}; nothing was applied: see that bursard reaches it, and apply it again"
        )
    return InvalidRequest(says)
