"""What budgets settle of keys is what the bill says of these, to the nano, whatever is told and when (G5)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from money_daemon import COST_MODEL, START, Daemon, in_a_daemon

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import ServiceSpec
from bursar.v1 import money_pb2 as pb
from bursard.events import KeyIssued, KeyUse
from bursard.services.apart import budgets_and_cost
from bursard.services.keybooks import KeyBooks
from bursard.services.servicekeys import Keys
from bursard.serving.board import Gateway
from bursard.serving.keeper import Keeper
from bursard.state import image
from bursard.state.decide import jobs, policies
from bursard.state.decide import services as decide

MINUTE_US = 60 * SECOND_US
BUDGET = (
    "kind: Budget\nname: {name}\nspec:\n  scope: {{project: {project}}}\n  limit: {limit} USD\n"
    "  period: {period}\n"
)
CHAT = ServiceSpec(replicas_min=1, replicas_max=4, target=4)


class Shop:
    """A daemon with a service of project `ml`, and what looks after its keys."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.engine = daemon, daemon.engine
        self.keeper = Keeper(self.engine)
        self.books = KeyBooks(self.engine, self.keeper, Keys(self.engine))
        self.seq: Counter[str] = Counter()
        self.job_id = ""

    async def open(self, *budgets: str) -> None:
        await self.daemon.apply(COST_MODEL, *budgets)
        self.daemon.node("a")
        self.job_id = self.daemon.submit(name="chat", project="ml", time_limit_us=0, service=CHAT)
        await self.engine.durable()

    def key(self, budget: str, project: str = "nlp") -> str:
        job = self.engine.state.jobs[self.job_id]
        events: list[Any] = decide.new_key(
            self.engine.state, self.engine.ids, job, sha256=f"{len(self.engine.state.service_keys):064}",
            user="ann", name="", project=project, budget=budget,
        )  # fmt: skip
        self.engine.commit(events, "ann")
        return str(events[0].key_id)

    def tell(self, at: int, uses: tuple[KeyUse, ...], gateway: str = "g", busy: int = 2) -> None:
        """A gateway tells of a minute."""
        self.seq[gateway] += 1
        job = self.engine.state.jobs[self.job_id]
        room = 4 * MINUTE_US
        told = (at, busy * MINUTE_US, room, uses)
        self.engine.commit(
            decide.metered(self.engine.state, job, gateway, self.seq[gateway], *told), f"gateway:{gateway}"
        )
        self.books.told(job, at, busy * MINUTE_US, room, uses)

    async def minute(self, *uses: KeyUse, busy: int = 2) -> None:
        at = self.daemon.clock.now()
        self.daemon.clock.advance(MINUTE_US)
        self.daemon.meter()
        self.tell(at, uses, busy=busy)
        await self.engine.durable()

    async def look(self) -> None:
        await self.engine.durable()
        await self.books.look()
        await self.engine.durable()

    async def bill(self, since: int = 0, until: int = 0) -> dict[str, int]:
        """What the bill says, by key and idle."""
        request = pb.CostRequest(by=["service", "key"], since=since, until=until)
        answer = await self.daemon.money.Cost(request, None)
        found = {row.keys[1]: int(row.nanos) for row in answer.rows}
        assert sum(found.values()) == int(answer.total.nanos)
        return found

    def settled(self, budget: str) -> int:
        record = self.engine.state.budgets.records[budget]
        return self.engine.state.ledger.settled(budget, record.period_start)

    def part(self, budget: str, gateway: str = "g") -> Any:
        found = self.books.parts(Gateway(gateway, "boot", "", self.engine.now()))
        return next(one for one in found if one.name == budget)


def used(key: str, many: int = 10) -> KeyUse:
    return KeyUse(key, requests=many, tokens_out=many, busy_us=MINUTE_US, counted=many)


minutes = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), max_size=4),
        st.integers(0, 9), st.sampled_from(("g", "h")), st.integers(0, 90), st.booleans(),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=25)
@given(minutes)
def test_budgets_have_settled_what_the_bill_says_of_their_keys_to_the_nano(
    told: list[tuple[list[tuple[int, int]], int, str, int, bool]],
) -> None:
    """Keys of two budgets, one without, one that is revoked; minutes that come late; looks now and then."""

    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        await shop.open(
            BUDGET.format(name="nlp", project="nlp", limit=10**6, period="month"),
            BUDGET.format(name="vision", project="vision", limit=10**6, period="month"),
        )
        keys = [shop.key("nlp"), shop.key("nlp"), shop.key("vision"), shop.key("")]
        for at, (uses, busy, gateway, late, looks) in enumerate(told):
            began = daemon.clock.now()
            daemon.clock.advance(MINUTE_US * (1 + late))
            daemon.meter()
            mine = tuple(used(keys[key], many) for key, many in dict(uses).items())
            shop.tell(began, mine, gateway, busy)
            if at == len(told) // 2 and keys[1] in shop.engine.state.service_keys:
                shop.engine.commit(decide.revoke_key(shop.engine.state, keys[1])[1], "ann")
            if looks:
                await shop.look()
        await shop.look()
        bill = await shop.bill()
        assert shop.settled("nlp") == bill.get(keys[0], 0) + bill.get(keys[1], 0)
        assert shop.settled("vision") == bill.get(keys[2], 0)
        state = shop.engine.state
        assert state.ledger.violations() == []
        assert (await budgets_and_cost(shop.engine, full=True)).ok
        again = image.decode(image.encode(state, shop.engine.now()))
        assert again.keys_charged.image() == state.keys_charged.image()

    in_a_daemon(story)


def test_a_budget_that_pays_for_the_replicas_themselves_counts_them_once() -> None:
    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        await shop.open(BUDGET.format(name="ml", project="ml", limit=10**6, period="month"))
        key = shop.key("ml", project="ml")
        for _ in range(3):
            await shop.minute(used(key))
        await shop.look()
        assert shop.settled("ml") == sum((await shop.bill()).values())
        part = shop.part("ml")
        assert int(part.left.nanos) == 10**15 - shop.settled("ml")  # what is held for replicas is for these

    in_a_daemon(story)


def test_what_was_told_and_is_not_divided_yet_is_no_longer_left_to_gateways() -> None:
    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        await shop.open(BUDGET.format(name="nlp", project="nlp", limit=10, period="month"))
        key = shop.key("nlp")
        await shop.minute(used(key))
        told = 10**10 - int(shop.part("nlp").left.nanos)
        assert told == int(shop.part("nlp").settled.nanos) > 0
        await shop.look()
        assert shop.settled("nlp") == (await shop.bill())[key]
        assert int(shop.part("nlp").left.nanos) == 10**10 - shop.settled("nlp")
        # By the price of a place a minute of two of four places costs half of what the replica does.
        assert abs(told - shop.settled("nlp") // 2) <= 1_000

    in_a_daemon(story)


def test_gateways_have_equal_parts_and_one_that_asks_no_more_keeps_its_part_until_that_lapses() -> None:
    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        await shop.open(BUDGET.format(name="nlp", project="nlp", limit=10, period="month"))
        shop.key("nlp")
        parts = [int(shop.part("nlp", name).left.nanos) for name in ("g", "h", "g")]
        assert parts == [10**10, 5 * 10**9, 5 * 10**9]
        daemon.clock.advance(600 * SECOND_US)
        assert int(shop.part("nlp", "g").left.nanos) == 10**10

    in_a_daemon(story)


def test_a_budget_that_is_opened_anew_knows_what_keys_were_charged_before() -> None:
    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        await shop.open(BUDGET.format(name="nlp", project="nlp", limit=10, period="month"))
        key = shop.key("nlp")
        for _ in range(3):
            await shop.minute(used(key))
        await shop.look()
        before = shop.settled("nlp")
        assert before == (await shop.bill())[key] > 0
        for period, limit in (("year", 10), ("day", 7), ("rolling-30d", 8)):
            await daemon.apply(BUDGET.format(name="nlp", project="nlp", limit=limit, period=period))
            assert shop.settled("nlp") == before
            await shop.look()
            assert shop.settled("nlp") == before
        await daemon.policies.Delete(pb.PolicyRequest(name="nlp"), None)
        await shop.minute(used(key))
        await shop.look()
        assert list(shop.books.parts(Gateway("g", "b", "", 0))) == []
        await daemon.apply(BUDGET.format(name="nlp", project="nlp", limit=9, period="month"))
        await shop.look()
        assert shop.settled("nlp") == (await shop.bill())[key] > before

    in_a_daemon(story)


def test_the_last_hour_of_a_month_is_of_that_month_however_late_it_is_divided() -> None:
    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        daemon.clock.advance(29 * 24 * HOUR_US + 22 * HOUR_US)  # 30 November, 23:00
        await shop.open(BUDGET.format(name="nlp", project="nlp", limit=100, period="month"))
        key = shop.key("nlp")
        november = shop.engine.state.budgets.records["nlp"].period_start
        for _ in range(58):
            await shop.minute(used(key))
        daemon.clock.advance(4 * MINUTE_US)
        shop.engine.commit(policies.roll_periods(shop.engine.state, shop.engine.now()), "bursard")
        await shop.minute(used(key))
        await shop.look()
        december = START + 29 * 24 * HOUR_US + 23 * HOUR_US
        assert shop.settled("nlp") == (await shop.bill(since=december))[key]
        in_november = shop.engine.state.ledger.settled("nlp", november)
        assert in_november == (await shop.bill(until=december))[key] > shop.settled("nlp") > 0

    in_a_daemon(story)


def test_what_keys_were_charged_of_a_service_that_has_ended_is_told_all_the_same() -> None:
    async def story(daemon: Daemon) -> None:
        shop = Shop(daemon)
        await shop.open(BUDGET.format(name="nlp", project="nlp", limit=100, period="month"))
        key = shop.key("nlp")
        for _ in range(3):
            await shop.minute(used(key))
        state = shop.engine.state
        job = state.jobs[shop.job_id]
        shop.engine.commit(jobs.cancel(state, job, 0), "ann")
        [attempt] = state.attempts.values()
        daemon.finish(attempt.job_id)
        await shop.engine.durable()
        assert shop.job_id not in state.jobs
        assert key not in state.service_keys
        await shop.look()
        assert shop.settled("nlp") == (await shop.bill())[key] > 0

    in_a_daemon(story)


def test_a_spec_of_a_key_that_names_no_budget_is_as_it_was() -> None:
    """Events of before budgets of keys were there are read as they are."""
    event = KeyIssued("k", "job_1", "s", "n", "p", "ann")
    assert b"budget" not in msgspec.json.encode(event)
