"""A second book of money, kept from the payloads of the log alone, to be held against every figure.

It reads JSON and adds integers; of the product it uses nothing: what the ledger, the rows and the views agree
on among themselves can still be wrong together.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

HOUR_US = 3_600_000_000
PARTS = ("gpu", "cpu", "memory")
DIMS = ("kind", "node_id", "attempt", "job", "job_number", "price", "hour", "project", "user", "label:team")
Key = tuple[Any, ...]
Amounts = tuple[int, ...]
"""Nanos in all and by component, and microseconds."""


class Part(NamedTuple):
    """A piece of time with its price."""

    key: Key
    amounts: Amounts


class Stretch(NamedTuple):
    """Of what somebody pays for: where and when."""

    kind: str
    node_id: str
    rank: int
    price_id: str
    start: int
    end: int


class SecondBook:
    """What the log says. Raises `AssertionError` where it contradicts itself."""

    def __init__(self, events: Iterable[Any]) -> None:
        self.parts: list[Part] = []
        self.settled = Counter[tuple[str, int]]()
        """By budget and period, each moment of use in the period that it lies in."""
        self.given = Counter[tuple[str, int]]()
        """By budget and period, what was granted and transferred, by key once."""
        self.of_array = Counter[str]()
        self.of_job = Counter[str]()
        """What jobs cost as metered; `corrected`: what corrections made of it beyond, tasks by themselves."""
        self.corrected = Counter[str]()
        self._standing: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0] * 4)
        """By member and hour, what stands: nanos by component, and microseconds."""
        self._keys: set[tuple[str, str]] = set()
        self._scopes: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}
        self._attempts: dict[str, dict[str, Any]] = {}
        self._pending: dict[str, int] = {}
        """By machine, what its launch cost that nobody has paid yet."""
        self._purses: dict[str, str] = {}
        """By machine, by whose id its job holds money for it, where that is not its own."""
        for event in events:
            told = json.loads(bytes(event.payload))
            getattr(self, "_" + told["type"].replace("-", "_"), lambda _: None)(told)

    # --- what happened

    def _job_submitted(self, told: dict[str, Any]) -> None:
        self._jobs[told["job_id"]] = told

    def _job_updated(self, told: dict[str, Any]) -> None:
        job = self._jobs[told["job_id"]]
        for task in {each["job_id"] for each in self._attempts.values()}:
            if task.startswith(told["job_id"] + "."):
                # What runs keeps what it was promised, and what waits does not.
                self._jobs.pop(task, None)
                if any(each["live"] and each["job_id"] == task for each in self._attempts.values()):
                    self._jobs[task] = dict(job)
        fields, before = dict(told["fields"]), {} if told.get("whole") else job["spec"]
        if "labels" in fields:
            labels = {**dict(before.get("labels", ())), **fields["labels"]}
            fields["labels"] = [[key, value] for key, value in labels.items() if value is not None]
        job["spec"] = {**before, **fields}

    def _attempt_placed(self, told: dict[str, Any]) -> None:
        job = self._jobs.get(told["job_id"]) or self._jobs[told["job_id"].partition(".")[0]]
        members = {one.get("rank", 0): {**one, "since": 0, "used_us": 0} for one in told["members"]}
        holds = {
            one["budget"]: {"periods": [one["period_start"]], "left": one["nanos"], "whole": one["nanos"]}
            for one in told.get("holds", ())
        }
        more = {"live": True, "members": members, "holds": holds, "paid": 0, "spec": job["spec"]}
        self._attempts[told["attempt_id"]] = {**told, **more, "job": job}

    def _limit_changed(self, told: dict[str, Any]) -> None:
        attempt = self._attempts[told["attempt_id"]]
        full_us = told.get("full_limit_us") or attempt.get("full_limit_us", 0)
        attempt["full_limit_us"] = full_us
        assert told["time_limit_us"] <= full_us or not full_us, f"a lease goes too far: {told}"
        self._resize(told["attempt_id"], told.get("hold_nanos", 0), told["order"])

    def _limit_taken(self, told: dict[str, Any]) -> None:
        if told.get("time_limit_us"):
            self._resize(told["attempt_id"], told.get("hold_nanos", 0), told["order"])

    def _resize(self, attempt_id: str, nanos: int, order: int) -> None:
        attempt = self._attempts[attempt_id]
        assert order >= attempt.get("order", 0), f"{attempt_id} lives by an older order"
        attempt["order"] = order
        for hold in attempt["holds"].values():
            hold["left"] = max(hold["left"] + nanos - hold["whole"], 0)
            hold["whole"] = nanos

    def _member_started(self, told: dict[str, Any]) -> None:
        self._attempts[told["attempt_id"]]["members"][told["rank"]]["since"] = told["at"]

    def _member_ended(self, told: dict[str, Any]) -> None:
        for piece in told.get("pieces", ()):
            self._used(told["attempt_id"], told["rank"], *piece)

    def _attempt_ended(self, told: dict[str, Any]) -> None:
        attempt = self._attempts[told["attempt_id"]]
        attempt["live"] = False
        if not told.get("requeue"):
            self._job_ended(attempt)

    def _job_ended(self, told: dict[str, Any]) -> None:
        for launch in self._attempts.values():
            if launch.get("machine_id") and launch["job_id"] == told["job_id"]:
                launch["live"] = False

    # --- rented machines: a launch holds, and is paid for, by the machine's id

    def _machine_intended(self, told: dict[str, Any]) -> None:
        if told.get("job_id"):
            self._attempt_placed({**told, "attempt_id": told["machine_id"], "members": []})

    def _machine_joined(self, told: dict[str, Any]) -> None:
        if told.get("pending"):
            if told.get("through"):
                self._pending[told["machine_id"]] = sum(one["nanos"] for one in told.get("charges", ()))
            if not told.get("waits"):
                self._hold_no_more(told["machine_id"])
            return
        pending = self._pending.pop(told["machine_id"], 0)
        assert told.get("keeps") or pending in (0, sum(one["nanos"] for one in told.get("charges", ())))
        for one in told.get("charges", ()):
            if one.get("job_id"):
                self._exchanged(told["machine_id"], one["attempt_id"])
                self._launched(one)
            else:
                amounts = [one.get(part, 0) for part in PARTS]
                self._own(one["node_id"], one["kind"], one["start"], one["end"], amounts, one["price_id"])
        self._let_go(told)

    def _purse(self, machine_id: str) -> str:
        return self._purses.get(machine_id, machine_id)

    def _exchanged(self, machine_id: str, payer: str) -> None:
        """What another machine's job held for that pays for this one, and the other way round."""
        mine = self._purse(machine_id)
        if mine != payer:
            other = next((one for one, purse in self._purses.items() if purse == payer), payer)
            self._purses[machine_id], self._purses[other] = payer, mine

    def _hold_no_more(self, machine_id: str) -> None:
        launch = self._attempts.get(self._purse(machine_id))
        if launch is not None and launch["live"]:
            for hold in launch["holds"].values():
                hold["left"] = min(hold["left"], self._pending.get(machine_id, 0))

    def _machine_gone(self, told: dict[str, Any]) -> None:
        for one in told.get("refund", ()):
            amounts = [one.get(part, 0) for part in PARTS]
            assert sum(amounts) == one["nanos"] < 0, f"{told['machine_id']} is given back {one['nanos']}"
            self._own(one["node_id"], one["kind"], one["start"], one["end"], amounts, one["price_id"])
        self._let_go(told)

    def _let_go(self, told: dict[str, Any]) -> None:
        if (purse := self._purse(told["machine_id"])) in self._attempts:
            self._attempts[purse]["live"] = False

    def _launched(self, one: dict[str, Any]) -> None:
        launch = self._attempts[one["attempt_id"]]
        assert (one["kind"], one["job_id"]) == ("startup", launch["job_id"]), "a launch of another job"
        assert launch["live"], f"{one['attempt_id']} pays for a launch that is over"
        amounts = tuple(one.get(part, 0) for part in PARTS)
        stretch = Stretch("startup", one["node_id"], 0, one["price_id"], one["start"], one["end"])
        self._paid(launch, stretch, amounts)
        for budget, hold in launch["holds"].items():
            hold["left"] = max(hold["left"] - sum(amounts), 0)
            self._settle_whole(budget, hold, one["start"], sum(amounts))

    def _holds_rolled(self, told: dict[str, Any]) -> None:
        for attempt in self._attempts.values():
            hold = attempt["holds"].get(told["budget"])
            if attempt["live"] and hold and hold["periods"][-1] == told["from_period"]:
                earlier = [start for start in hold["periods"] if start < told["to_period"]]
                hold["periods"] = [*earlier, told["to_period"]]

    def _budget_opened(self, told: dict[str, Any]) -> None:
        name, period = told["budget"], told["period_start"]
        taken_in = {attempt_id: (left, whole) for attempt_id, left, whole in told.get("holds", ())}
        for attempt_id, attempt in self._attempts.items():
            before = attempt["holds"].pop(name, None) if attempt["live"] else None
            if attempt_id in taken_in:
                left, whole = taken_in[attempt_id]
                if before is None or before["periods"][-1] != period:
                    before = {"periods": [period], "left": left, "whole": whole}
                assert (before["left"], before["whole"]) == (left, whole), f"{attempt_id} brings another hold"
                attempt["holds"][name] = {**before, "since": told["since"]}
        self.settled[name, period] = told["settled_nanos"]

    def _budget_granted(self, told: dict[str, Any]) -> None:
        self.given[told["budget"], told["period_start"]] += told["nanos"]
        self._once(told)

    def _budget_transferred(self, told: dict[str, Any]) -> None:
        self.given[told["budget"], told["period_start"]] -= told["nanos"]
        self.given[told["to"], told["to_period"]] += told["nanos"]
        self._once(told)

    def _rest_carried(self, told: dict[str, Any]) -> None:
        self.given[told["budget"], told["from_period"]] -= told["nanos"]
        self.given[told["budget"], told["to_period"]] += told["nanos"]

    def _once(self, told: dict[str, Any]) -> None:
        key = (told["by"], told.get("key", ""))
        assert key not in self._keys, f"{key} gave twice"
        if key[1]:
            self._keys.add(key)

    def _budget_closed(self, told: dict[str, Any]) -> None:
        for attempt in self._attempts.values():
            if attempt["live"]:
                attempt["holds"].pop(told["budget"], None)

    def _node_booted(self, told: dict[str, Any]) -> None:
        for one in told["charges"]:
            amounts = [one.get(part, 0) for part in PARTS]
            self._own(told["node_id"], one["kind"], one["start"], one["end"], amounts, one["price_id"])

    def _node_metered(self, told: dict[str, Any]) -> None:
        for attempt_id, rank, *piece in told.get("used", ()):
            self._used(attempt_id, rank, *piece)
        for kind, from_us, to_us, *amounts in told.get("rest", ()):
            start, end = told["through"] - from_us, told["through"] - to_us
            self._own(told["node_id"], kind, start, end, amounts, told.get("price_id", ""))

    def _policy_applied(self, told: dict[str, Any]) -> None:
        for document in told["documents"]:
            if document["kind"] == "Budget":
                self._scopes[document["name"]] = document["spec"]["scope"]

    def _policy_removed(self, told: dict[str, Any]) -> None:
        self._scopes.pop(told["name"], None)

    def _charges_corrected(self, told: dict[str, Any]) -> None:
        attempt_id, rank, hour = told["attempt_id"], told.get("rank", 0), told["booked_at"]
        attempt, whose = self._attempts[attempt_id], told["attribution"]
        assert not attempt["live"], f"{attempt_id} still lives"
        hour -= hour % HOUR_US
        labels = json.loads(whose.get("labels", "{}"))
        price = told.get("price_id", "")
        of_job = (attempt_id, told["job_id"], attempt["job"]["number"], price, hour, whose.get("project", ""))
        usage = (told.get("kind", "usage"), told["node_id"], *of_job)
        usage = (*usage, whose.get("user", ""), labels.get("team", ""))
        variance = ("variance", told["node_id"], "", "", 0, price, hour, "", "", "")
        more = 0
        for of, start, _, held_us, *said in told["charges"]:
            amounts = said[:6]  # after them stands the energy, which no money follows
            standing = self._standing[attempt_id, rank, start // HOUR_US]
            assert standing == [*amounts[:3], held_us], f"a correction of event {of} reverses another charge"
            standing[:3] = amounts[3:]
            each = [after - before for before, after in zip(amounts[:3], amounts[3:], strict=True)]
            self.parts.append(Part(usage, (sum(each), *each, 0)))
            self.parts.append(Part(variance, (-sum(each), *(-one for one in each), 0)))
            more += sum(each)
        for job_id in {told["job_id"], told["job_id"].partition(".")[0]}:
            self.corrected[job_id] += more
        covering = [name for name, scope in sorted(self._scopes.items()) if _covers(scope, whose, labels)]
        shifts = told.get("budgets", ())
        assert [one[0] for one in shifts] == (covering if more else []), "B4: other budgets follow"
        for budget, period, nanos in shifts:
            assert nanos == more, f"B4: {budget} follows by {nanos} of {more}"
            self.settled[budget, period] += nanos

    # --- what it cost

    def _own(self, node: str, kind: str, start: int, end: int, amounts: list[int], price: str) -> None:
        key = (kind, node, "", "", 0, price, start - start % HOUR_US, "", "", "")
        # Money alone: the time is that of the shares, and counts once.
        held_us = 0 if kind in ("overhead", "variance", "absorption", "refund") else end - start
        self.parts.append(Part(key, (sum(amounts), *amounts, held_us)))

    def _used(self, attempt_id: str, rank: int, used_us: int, *amounts: int) -> None:
        attempt = self._attempts[attempt_id]
        member = attempt["members"][rank]
        before_us, member["used_us"] = member["used_us"], used_us
        start, end = member["since"] + before_us, member["since"] + used_us
        assert member["since"], f"L5: {attempt_id} pays before it began"
        assert start < end, f"L6: a counter of {attempt_id} fell"
        assert start // HOUR_US == (end - 1) // HOUR_US, f"a charge of {attempt_id} crosses an hour"
        assert _cost(member, start, end) == amounts, f"L5: {attempt_id} from {before_us} to {used_us} us"
        stretch = Stretch("usage", member["node_id"], rank, member.get("price_id", ""), start, end)
        self._paid(attempt, stretch, amounts)
        nanos = sum(amounts)
        for budget, hold in attempt["holds"].items():
            hold["left"] = max(hold["left"] - nanos, 0)
            self._settle(budget, hold, member, start, end)

    def _paid(self, attempt: dict[str, Any], of: Stretch, amounts: Amounts) -> None:
        job, spec, nanos = attempt["job"], attempt["spec"], sum(amounts)
        labels, held_us = dict(spec.get("labels", ())), of.end - of.start
        whose = (attempt["attempt_id"], attempt["job_id"], job["number"], of.price_id)
        marks = (spec.get("project", ""), job["user"], labels.get("team", ""))
        key = (of.kind, of.node_id, *whose, of.start - of.start % HOUR_US, *marks)
        self.parts.append(Part(key, (nanos, *amounts, held_us)))
        attempt["paid"] += nanos
        standing = self._standing[attempt["attempt_id"], of.rank, of.start // HOUR_US]
        for at, more in enumerate((*amounts, held_us)):
            standing[at] += more
        self.of_job[attempt["job_id"]] += nanos
        self.of_array[attempt["job_id"].partition(".")[0]] += nanos

    def _settle(
        self, budget: str, hold: dict[str, Any], member: dict[str, Any], start: int, end: int
    ) -> None:
        periods = hold["periods"]
        edges = [start, *(one for one in periods if start < one < end), end]
        for a, b in pairwise(edges):
            self._settle_whole(budget, hold, a, sum(_cost(member, a, b)))

    def _settle_whole(self, budget: str, hold: dict[str, Any], at: int, nanos: int) -> None:
        periods, since = hold["periods"], hold.get("since", 0)
        period = max((one for one in periods if one <= at), default=periods[0])
        opened_in = max((one for one in periods if one <= since), default=periods[0])
        # An account that was opened has in it already what is dated before, or wants none of it.
        if at >= since or (period != opened_in and periods[0] <= at):
            self.settled[budget, period] += nanos

    # --- what must be shown

    def sums(self) -> dict[Key, Amounts]:
        """By `DIMS`."""
        found: dict[Key, list[int]] = defaultdict(lambda: [0] * 5)
        for part in self.parts:
            found[part.key] = [one + more for one, more in zip(found[part.key], part.amounts, strict=True)]
        return {key: tuple(amounts) for key, amounts in found.items()}

    def held(self) -> Counter[tuple[str, int]]:
        """By budget and period, what live attempts may still spend."""
        found = Counter[tuple[str, int]]()
        for attempt in self._attempts.values():
            for budget, hold in attempt["holds"].items() if attempt["live"] else ():
                found[budget, hold["periods"][-1]] += hold["left"]
        return found


def _covers(scope: dict[str, Any], whose: dict[str, Any], labels: dict[str, str]) -> bool:
    root, project = scope.get("project", ""), whose.get("project", "")
    return (
        (not root or project == root or project.startswith(root + "/"))
        and all(scope.get(name, "") in ("", whose.get(name, "")) for name in ("user", "experiment", "model"))
        and all(labels.get(key) == value for key, value in (scope.get("labels") or ()))
    )


def _cost(member: dict[str, Any], start: int, end: int) -> Amounts:
    """Of a stretch of its time, by component, each rounded down from its start."""
    rates = member.get("rates", {}) if member.get("price_id") else {}
    a, b = start - member["since"], end - member["since"]
    return tuple(rates.get(part, 0) * b // HOUR_US - rates.get(part, 0) * a // HOUR_US for part in PARTS)
