"""Renting: what waits and fits nowhere gets a machine, and what is idle is given back.

Owns    when pools of machines are looked at, for which jobs a machine is rented, and when one is not kept.
Why     a plan says what stops a job; whether that is worth a machine is asked here, after the plan and beside
        it, at a pace of its own: a provider answers in seconds, a plan in milliseconds. What is rented is
        then a node like others, and the plan gives it to whom it likes.

Nothing here is remembered that matters: pools, machines and what they hold are in the state, so a daemon that
starts again goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, TypeVar

from msgspec.structs import replace

from bursar.clock import HOUR_US, SECOND_US, format_duration
from bursar.errors import BursarError, InvalidRequest
from bursar.model import EndCause, Reason, ReasonCode
from bursar.money import format_nanos
from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass
from bursar_policies.document import parse_documents
from bursar_policies.specs import CloudPoolSpec, Document
from bursard.engine import Engine
from bursard.events import Event, NodeScheduling, NodeTokenIssued, StopRequested
from bursard.machines.choose import Choice, Coming, Pool, choose, unheld
from bursard.machines.keeper import Keeper
from bursard.machines.provider import (
    Check,
    CloudError,
    Join,
    Kind,
    MachineOffer,
    Order,
    PoolTerms,
    Provider,
    Wanted,
)
from bursard.place import LastPlan
from bursard.state import JobRecord, MachineRecord, MachineState, NodeRecord
from bursard.state.decide import machines as decide
from bursard.state.decide import policies
from bursard.state.decide.conduct import TAKEN_BACK
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
PRICES_EVERY_US: Final = HOUR_US
OWN_END_US: Final = HOUR_US
"""So long after its lifetime a machine ends by itself, where its provider can do that: nobody ended it."""
NOTICED_US: Final = 180 * SECOND_US
"""So long one that its provider said it takes back is left to it: a provider may bill nothing then."""
RELEASED: Final = "released"
"""How the reason of a drain begins that lasts until nothing runs there, and then gives the machine back."""
RENTED_FOR: Final = ("room", "fault")
"""What stops a job that another machine would serve: too little is free, or no node could ever."""
RENTED_CODES: Final = (ReasonCode.EXCEEDS_NODE_CAPACITY, ReasonCode.WAITING_FOR_RESOURCES)
"""What its reason is then."""
SHAPES_MAX: Final = 10_000
"""Of so many different requests it is remembered whether a machine could hold them."""


class _Shape(NamedTuple):
    """What decides whether a machine could hold a job, whatever it costs and whoever pays."""

    nodes: int
    options: tuple[ResourceRequest, ...]
    constraints: tuple[tuple[str, str], ...]
    spot_policy: str


class _Wish(NamedTuple):
    """A job that fits nowhere."""

    job: JobRecord
    job_class: JobClass


class Renting:
    """Of one provider: its keeper, and the pools that name it.

    Args:
        last: the newest plan. cut: end the stream of a node; False: there is none.
        server: where agents of rented machines find this daemon.
    """

    def __init__(
        self,
        engine: Engine,
        provider: Provider,
        server: str,
        last: Callable[[], LastPlan | None],
        cut: Callable[[str], bool],
    ) -> None:
        self.engine = engine
        self.keeper = Keeper(provider, engine.state, self)
        self.notes: dict[str, str] = {}
        """By job that waits, why no machine is rented for it, as of the newest look."""
        self._provider = provider
        self._server = server
        self._last = last
        self._cut = cut
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"bursard-{provider.name}")
        self._offers: dict[str, tuple[CloudPoolSpec, Sequence[MachineOffer]]] = {}
        self._priced_at = -PRICES_EVERY_US
        self._idle_since: dict[str, int] = {}
        self._wished: dict[str, int] = {}
        """By job, since when it fits nowhere, and on nothing that is on its way."""
        self._pools: Sequence[Pool] = ()
        self._unheld: dict[_Shape, str] = {}
        """By what is asked for, why no machine of `_pools` could hold it; "" where one could."""

    # --- what the keeper needs

    def now(self) -> int:
        """Bursard's wall clock."""
        return self.engine.now()

    async def commit(self, decisions: Sequence[Decision]) -> None:
        """True, and durable."""
        await self.engine.durable(self.engine.commit_each(decisions, "bursard"))

    def rise(self, machine_id: str, billed_from: int) -> Sequence[Event]:
        """A machine is up, and its node is paid for."""
        engine = self.engine
        return decide.rise(engine.state, engine.ids, engine.prices, machine_id, billed_from, engine.now())

    def cut(self, node_id: str) -> bool:
        """End the stream of a node."""
        return self._cut(node_id)

    async def call(self, work: Callable[[], Answer]) -> Answer:
        """A call of the provider, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(asked, work))

    # --- the loop

    async def run(self) -> None:
        """For ever. A provider that fails is looked at again; nothing else of the daemon waits for it."""
        try:
            while True:
                try:
                    await self.look()
                except (CloudError, BursarError) as error:
                    log.warning("a look at rented machines failed", extra={"why": str(error)})
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """One look: prices, the provider's list, what is given back, what is rented."""
        specs = dict(self.pools())
        if specs:
            await self._prices()
        if self.keeper.due():
            await self.keeper.turn()
        for decisions in self._unwanted(specs):
            await self.commit(decisions)
        await self._rent([await self._pool(name, spec) for name, spec in specs.items()])

    def pools(self) -> Iterator[tuple[str, CloudPoolSpec]]:
        """Pools of this provider in force."""
        for (kind, name), document in self.engine.state.policies.items():
            spec = document.spec
            if (
                kind == "CloudPool"
                and isinstance(spec, CloudPoolSpec)
                and spec.provider == self._provider.name
            ):
                yield name, spec

    async def _pool(self, name: str, spec: CloudPoolSpec) -> Pool:
        known = self._offers.get(name)
        if known is None or known[0] != spec:
            self._offers[name] = known = (
                spec,
                await self.call(lambda: self._provider.offers(wanted_of(spec))),
            )
        billing = self._provider.capabilities.billing
        return Pool(name, spec, self._provider.name, billing, known[1], self.keeper.blocks)

    async def _prices(self) -> None:
        """What the provider asks is a PriceBook like others: dated, in the log, to be looked up."""
        now = self.engine.now()
        if abs(now - self._priced_at) < PRICES_EVERY_US:
            return
        offers = await self.call(lambda: self._provider.offers(Wanted()))
        self._offers.clear()
        self._priced_at = now
        book = price_book(self._provider.name, offers)
        if book is not None:
            await self.commit([lambda: policies.apply_documents(self.engine.state, [book], now)])

    # --- renting

    def wishes(self) -> list[_Wish]:
        """Jobs that the newest plan found no place for and that a machine of some pool could hold, as it
        ranked their queues.

        A user has as many places here as another, and a job that no machine could hold has none: neither
        keeps others' jobs from being seen.
        """
        last = self._last()
        if last is None:
            return []
        ranked, lines = list[_Wish](), dict[str, list[tuple[int, int]]]()
        for index, verdict in last.plan.verdicts.items():
            queue = last.snapshot.queues[index]
            if self._why_unheld(queue.job_class):
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

    def _wish(self, job_id: str) -> _Wish | None:
        state = self.engine.state
        job = state.jobs.get(job_id)
        if job is None or state.pending.key_of(job.id) is None:
            return None
        return _Wish(job, state.class_of(job))

    def _why_unheld(self, job_class: JobClass) -> str:
        """Why no machine of any pool could ever hold a job; "" where one could, or nobody knows yet."""
        shape = _Shape(job_class.nodes, job_class.options, job_class.constraints, job_class.spot_policy)
        known = self._unheld.get(shape)
        if known is None:
            said = [unheld(pool, job_class) for pool in self._pools]
            self._unheld[shape] = known = "; ".join(said) if all(said) else ""
        return known

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
        full, refused = set[JobClass](), dict[JobClass, str]()
        self._know(pools)
        machines = [one for one in state.machines.values() if one.state is not MachineState.ENDING]
        coming, awaited = Coming(machines), {one.job_id for one in machines}
        wishes = self.wishes() if pools else []
        # Whose machine comes has its room there, whoever else is ranked before it.
        for wish in sorted(wishes, key=lambda wish: wish.job.id not in awaited):
            if wish.job_class not in full and coming.takes(wish.job_class):
                continue
            full.add(wish.job_class)
            wished[wish.job.id] = since = self._wished.get(wish.job.id, now)
            if abs(now - since) < PATIENCE_US or rented >= RENTS_MAX or self.keeper.quiet:
                continue
            found = refused.get(wish.job_class) or self._cheapest(pools, wish)
            if isinstance(found, str):
                notes[wish.job.id] = refused[wish.job_class] = found
                continue
            pool, choice = found
            coming.add(choice.facts)
            full.clear()
            coming.takes(wish.job_class)
            rented += 1
            await self._launch(pool, choice, wish.job)
        self.notes, self._wished = notes, wished

    def _note(self, job_id: str) -> str:
        """Why no machine is rented for a job that fits nowhere, one that no look has come to included."""
        note = self.notes.get(job_id, "")
        wish = self._wish(job_id) if self._pools and not note else None
        if wish is None:
            return note
        if why := self._why_unheld(wish.job_class):
            return why
        names = [pool.name for pool in self._pools if not unheld(pool, wish.job_class)]
        return f"pool {names[0]} has machines that could hold it, and rents them for jobs in their turn"

    def would_rent(self, job: JobRecord, job_class: JobClass) -> tuple[str, Choice] | str:
        """What would be rented for a job that fits nowhere: its provider and the offer, as the provider said
        last; else why nothing would be. "": no pool could be asked.
        """
        billing = self._provider.capabilities.billing
        pools = [
            Pool(name, spec, self._provider.name, billing, self._offers[name][1], self.keeper.blocks)
            for name, spec in self.pools()
            if name in self._offers
        ]
        found = self._cheapest(pools, _Wish(job, job_class))
        return found if isinstance(found, str) else (self._provider.name, found[1])

    def _cheapest(self, pools: Sequence[Pool], wish: _Wish) -> tuple[Pool, Choice] | str:
        """Over all pools; else why there is none, of each of them."""
        engine = self.engine
        best: tuple[Pool, Choice] | None = None
        why = []
        for pool in pools:
            found = choose(engine.state, pool, wish.job, wish.job_class, engine.prices, engine.now())
            if isinstance(found, str):
                why.append(found)
            elif best is None or found.offer.rate_nanos_per_hour < best[1].offer.rate_nanos_per_hour:
                best = pool, found
        return best or "; ".join(why)

    async def _launch(self, pool: Pool, choice: Choice, job: JobRecord) -> None:
        engine, spec, place = self.engine, pool.spec, choice.offer.place
        rate = choice.offer.rate_nanos_per_hour
        intent = decide.intend(
            engine.state,
            engine.ids,
            provider=pool.provider,
            region=place.region,
            zone=place.zone,
            instance_type=place.instance_type,
            market=place.market,
            why=f"job {job.display} fits on no node",
            lease_until=engine.now() + spec.boot_timeout_us,
            launch=Launch(pool.name, job.id, choice.holds, choice.facts, rate),
        )
        event = intent[0]
        machine_id = str(getattr(event, "machine_id", ""))
        name = str(getattr(event, "name", ""))

        async def order() -> Order:
            join = await self._invite(name, pool)
            lifetime_us = spec.max_lifetime_us + OWN_END_US
            cluster = engine.state.cluster_id
            return Order(
                machine_id=machine_id,
                cluster=cluster,
                place=place,
                join=join,
                lifetime_us=lifetime_us,
                launch=spec.launch,
            )

        await self.keeper.rent(machine_id, intent, order)

    async def _invite(self, name: str, pool: Pool) -> Join:
        """A secret for one agent to be this node with, of which the log knows the hash."""
        token = "node_" + secrets.token_urlsafe(32)
        digest, now = hashlib.sha256(token.encode()).hexdigest(), self.engine.now()
        until = now + pool.spec.max_lifetime_us + OWN_END_US
        issued = NodeTokenIssued(name, digest, now + pool.spec.boot_timeout_us, until)
        await self.commit([lambda: [issued]])
        return Join(server=self._server, name=name, pool=pool.name, token=token)

    # --- giving back

    def _unwanted(self, specs: dict[str, CloudPoolSpec]) -> Iterator[list[Decision]]:
        """What becomes of machines that are not kept, each as one commit."""
        state, now = self.engine.state, self.engine.now()
        records = list(self.keeper.records().values())
        self._idle_since = {key: at for key, at in self._idle_since.items() if key in state.machines}
        for machine in records:
            if machine.state is MachineState.ENDING:
                continue
            node = decide.node_of(state, machine)
            spec = specs.get(machine.pool)
            if not machine.node_id or node is None:
                if spec is None:
                    yield [self._ending(machine, f"pool {machine.pool} was removed")]
                elif not machine.job_id:
                    yield [self._ending(machine, "the job that it was for is over")]
                continue
            if why := self._worn_out(machine, node, spec, now):
                yield self._retire(machine, node, why)
            elif why := self._idle(machine, node, spec, now):
                yield [partial(_drained, node, why), self._ending(machine, why)]

    def _worn_out(
        self, machine: MachineRecord, node: NodeRecord, spec: CloudPoolSpec | None, now: int
    ) -> str:
        """Why a machine must go, whatever runs there; "" when it may stay."""
        if spec is None:
            return ""
        if now - machine.intended_at >= spec.max_lifetime_us:
            return f"its lifetime of {format_duration(spec.max_lifetime_us)} is over"
        if not node.connected and now - node.changed_at >= spec.boot_timeout_us:
            return f"its agent is silent for {format_duration(spec.boot_timeout_us)}"
        return ""

    def _idle(self, machine: MachineRecord, node: NodeRecord, spec: CloudPoolSpec | None, now: int) -> str:
        """Why a machine on which nothing runs is not kept; "" while it is."""
        if node.live:
            self._idle_since.pop(machine.id, None)
            return ""
        if spec is None:
            return f"pool {machine.pool} was removed"
        since = self._idle_since.setdefault(machine.id, now)
        kept_us = spec.keep_alive_us
        if node.reason.startswith(TAKEN_BACK):
            kept_us = max(kept_us, NOTICED_US)
        if node.mode == "drain" and node.reason.startswith(RELEASED):
            return node.reason
        if abs(now - since) < kept_us:
            return ""
        return f"idle for {format_duration(kept_us)}"

    def _retire(self, machine: MachineRecord, node: NodeRecord, why: str) -> list[Decision]:
        """No new work, what runs is stopped; once nothing does, or nobody can be told, it ends."""
        state = self.engine.state
        if not node.live or not node.connected:
            return [partial(_drained, node, why), self._ending(machine, why)]
        stops: list[Event] = [
            StopRequested(
                attempt_id, EndCause.PREEMPTED, state.attempts[attempt_id].grace_us, f"{machine.name}: {why}"
            )
            for attempt_id in node.live
            if state.attempts[attempt_id].stop_cause is None
        ]
        return [lambda: [*_drained(node, why), *stops]]

    def _ending(self, machine: MachineRecord, why: str) -> Decision:
        return lambda: decide.ending(self.engine.state, machine.id, why)

    # --- what people ask

    async def check(self) -> list[Check]:
        """What must be right before machines can be rented, and what each pool could rent."""
        terms = [terms_of(name, spec) for name, spec in self.pools()]
        found = list(await self.call(lambda: self._provider.preflight(terms)))
        for name, spec in self.pools():
            offers = await self.call(partial(self._provider.offers, wanted_of(spec)))
            says = f"{len(offers)} offers" if offers else "no machine of the provider is one that it names"
            remedy = "" if offers else f"mend regions, zones and offers of CloudPool {name}"
            found.append(Check(f"pool {name}", bool(offers), says, remedy))
        regions = {offer.place.region for _, offers in self._offers.values() for offer in offers}
        for region in sorted(regions):
            for quota in await self.call(partial(self._provider.quotas, region)):
                scope = f"quota {region} {quota.scope.market or 'all'}"
                found.append(Check(scope, quota.left > 0, f"{quota.used} of {quota.limit} are used"))
        if self.keeper.fault:
            found.append(Check("list", False, self.keeper.fault, "machines are looked for again and again"))
        return found

    async def refuse_empty(self, documents: Sequence[Document]) -> None:
        """Raise `InvalidRequest` for a pool of which nothing could ever be rented."""
        for one in documents:
            if not isinstance(one.spec, CloudPoolSpec) or one.spec.provider != self._provider.name:
                continue
            if not await self.call(partial(self._provider.offers, wanted_of(one.spec))):
                raise InvalidRequest(
                    f"{one.source}:{one.line}: CloudPool {one.name}: the provider {one.spec.provider} has no"
                    " machine that its regions, zones and offers name"
                )

    def reason(self, job_id: str, otherwise: Reason | None = None) -> Reason | None:
        """Why a job waits: for a machine that comes up; else for what it waited for anyway (`otherwise`), and
        why none is rented for that.
        """
        machine = next(
            (
                one
                for one in self.engine.state.machines.values()
                if one.job_id == job_id and not one.node_id and one.state is not MachineState.ENDING
            ),
            None,
        )
        if machine is None:
            rentable = otherwise is not None and otherwise.code in RENTED_CODES
            note = self._note(job_id) if rentable else ""
            if otherwise is None or not note:
                return otherwise
            return replace(otherwise, message=f"{otherwise.message}; nothing is rented for it: {note}")
        waited = format_duration((self.engine.now() - machine.intended_at) // SECOND_US * SECOND_US)
        until = format_duration(max(machine.lease_until - self.engine.now(), 0) // SECOND_US * SECOND_US)
        rate = format_nanos(machine.rate).rstrip("0").rstrip(".")
        return Reason(
            ReasonCode.PROVISIONING,
            f"a {machine.instance_type} of {machine.provider} in {machine.zone}"
            f" ({machine.market}, {rate} {self.engine.state.currency}/h) is {machine.state.value} for it,"
            f" since {waited}",
            f"it starts by itself then; `bursar cloud ls` shows the machine, which is given up in {until}",
            (("machine", machine.name), ("pool", machine.pool), ("rate_per_hour", rate)),
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
    except Exception as error:
        log.exception("a call of a provider failed in a way that it has no word for")
        kind, said = type(error).__name__, "its answer could not be read; bursard's log has more"
        raise CloudError(Kind.THROTTLED, kind, said, maybe_created=True) from error


def _drained(node: NodeRecord, why: str) -> Sequence[Event]:
    return [] if node.mode != "open" else [NodeScheduling(node.id, "drain", why)]


def wanted_of(spec: CloudPoolSpec) -> Wanted:
    """Which machines a pool names."""
    return Wanted(
        regions=spec.regions,
        zones=spec.zones,
        instance_types=spec.instance_types,
        gpus=spec.gpus,
        markets=spec.markets,
    )


def terms_of(name: str, spec: CloudPoolSpec) -> PoolTerms:
    """What a pool asks of its provider."""
    return PoolTerms(name=name, wanted=wanted_of(spec), launch=spec.launch)


def price_book(provider: str, offers: Sequence[MachineOffer]) -> Document | None:
    """The prices of offers as a document; None when there are none. Zones of a region have one price."""
    rows: dict[tuple[str, str, str], MachineOffer] = {}
    for offer in offers:
        key = (offer.place.region, offer.place.instance_type, offer.place.market)
        known = rows.setdefault(key, offer)
        if known.rate_nanos_per_hour < offer.rate_nanos_per_hour:
            rows[key] = offer
    if not rows:
        return None
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
        lines.append(
            f"    - {{provider: {provider}, region: '{region}', instance_type: '{instance_type}',"
            f" market: {market}, price: {price}{gpus}}}"
        )
    return parse_documents("\n".join(lines) + "\n", f"provider {provider}")[0]
