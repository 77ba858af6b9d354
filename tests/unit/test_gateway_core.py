"""Who may ask, which replica answers, who waits."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from bursar_gateway.core import EJECTED_US, Core, Key, Refusal, Route, Waiter

S = 1_000_000


def route(**more: Any) -> Route:
    given: dict[str, Any] = {
        "job_id": "job_1", "name": "chat", "api": "openai", "target": 2, "replicas": {}, "queue_us": S,
        "cold_us": S, "first_byte_us": S, "idle_us": S, "total_us": S,
    }  # fmt: skip
    return Route(**{**given, **more})


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def core(one: Route, **limits: int) -> tuple[Core, Key]:
    made, key = Core(), Key(id="key_1", job_id="job_1", **limits)
    made.learn([one], {digest("bsk_a"): key}, 0)
    return made, key


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer "}, {"Authorization": "Basic bsk_a"}, {"Authorization": "Bearer bsk_b"},
    {"Authorization": "Bearer " + "x" * 10_000}, {"x-api-key": "bsk_"},
])  # fmt: skip
def test_without_a_good_key_it_is_401(headers: dict[str, str]) -> None:
    made, _ = core(route())
    found = made.key_of(headers, 0)
    assert isinstance(found, Refusal)
    assert found.status == 401


@pytest.mark.parametrize("headers", [{"Authorization": "bearer bsk_a"}, {"x-api-key": "bsk_a"}])
def test_a_key_is_known_by_its_hash_until_it_lapses(headers: dict[str, str]) -> None:
    made, key = core(route(), expires_at=10)
    assert made.key_of(headers, 9) == key
    assert isinstance(made.key_of(headers, 10), Refusal)
    made.learn([route()], {}, 0)
    assert isinstance(made.key_of(headers, 0), Refusal), "it was revoked"


def test_a_key_opens_its_own_service_alone() -> None:
    made, key = core(route())
    made.learn([route(), route(name="other", job_id="job_2")], {digest("bsk_a"): key}, 0)
    for name in ("other", "nothing"):
        found = made.route_of(name, key)
        assert isinstance(found, Refusal)
        assert (found.status, found.message) == (404, "this key opens no such service")


def test_a_key_asks_no_more_often_and_no_more_at_once_than_it_may() -> None:
    made, key = core(route(), requests_per_minute=60, concurrency=3)
    refusals = [made.admit(key, 0) for _ in range(4)]
    assert refusals[:3] == [None] * 3
    assert refusals[3] is not None
    assert (refusals[3].status, refusals[3].code) == (429, "concurrency_exceeded")
    made.leave(key)
    for _ in range(3):
        assert made.admit(key, 0) is None
        made.leave(key)
    refused = made.admit(key, 0)
    assert refused is not None
    assert (refused.code, refused.retry_s) == ("rate_limit_exceeded", 1)
    assert made.admit(key, S) is None


def test_the_replica_with_the_fewest_in_hand_is_next_and_a_full_one_gets_none() -> None:
    made, _ = core(route(replicas={"a": 1, "b": 2}))
    one = made.routes["chat"]
    for _ in range(8):
        attempt = made.pick(one, 0)
        made.take(attempt)
    assert made.outstanding == {"a": 4, "b": 4}
    assert made.pick(one, 0) == ""


def test_one_that_refuses_gets_none_for_a_while() -> None:
    made, _ = core(route(replicas={"a": 1, "b": 2}))
    made.eject("a", 0)
    assert made.pick(made.routes["chat"], EJECTED_US - 1) == "b"
    assert made.pick(made.routes["chat"], EJECTED_US) == "a"


def test_keys_that_wait_have_their_turns_one_after_the_other() -> None:
    made, _ = core(route())
    gone: list[str] = []
    for key_id in ("k1", "k1", "k1", "k2"):
        assert made.wait(made.routes["chat"], Waiter(key_id, 1, lambda _, k=key_id: gone.append(k))) is None
    made.learn([route(replicas={"a": 1}, target=10)], {}, 0)
    assert gone == ["k1", "k2", "k1", "k1"]
    assert made.outstanding == {"a": 4}


def test_a_line_has_an_end() -> None:
    made, _ = core(route(replicas={"a": 1}, target=1))
    one = made.routes["chat"]
    for _ in range(4):
        assert made.wait(one, Waiter("k", 1, lambda _: None)) is None
    refused = made.wait(one, Waiter("k", 1, lambda _: None))
    assert refused is not None
    assert (refused.status, refused.code, refused.retry_s) == (503, "queue_full", 1)
    made.lines.clear()
    large = made.wait(one, Waiter("k", 1 << 40, lambda _: None))
    assert large is not None
    assert large.status == 503


def test_who_waits_no_more_gets_no_turn() -> None:
    made, _ = core(route())
    gone: list[str] = []
    waiter = Waiter("k", 1, gone.append)
    made.wait(made.routes["chat"], waiter)
    assert made.stop_waiting(made.routes["chat"], waiter)
    made.learn([route(replicas={"a": 1})], {}, 0)
    assert gone == []
    assert not made.stop_waiting(made.routes["chat"], waiter)


def test_without_money_it_is_429_with_the_numbers_and_no_waiting() -> None:
    facts = {"code": "BudgetExhausted", "message": "budget b is used up", "budget": "b", "limit": "5"}
    made, _ = core(route(refused=facts))
    refused = made.wait(made.routes["chat"], Waiter("k", 1, lambda _: None))
    assert refused is not None
    assert refused.status == 429
    assert refused.body() == {
        "error": {"type": "insufficient_quota", "code": "budget_exhausted", "message": "budget b is used up",
                  "budget": "b", "limit": "5"}
    }  # fmt: skip
    made.learn([route(refused=facts, replicas={"a": 1})], {}, 0)
    assert made.wait(made.routes["chat"], Waiter("k", 1, lambda _: None)) is None, (
        "what still runs still answers"
    )


def test_who_waits_again_is_first_of_all_keys_and_finds_no_line_full() -> None:
    made, _ = core(route(replicas={"a": 1}, target=1))
    one = made.routes["chat"]
    for _ in range(2):
        made.take("a")
    gone: list[str] = []
    for key_id, again in (("k1", False), ("k1", False), ("k2", False), ("k2", False), ("k2", True)):
        assert made.wait(one, Waiter(key_id, 1, lambda _, k=key_id: gone.append(k), again)) is None  # type: ignore[misc]
    for _ in range(3):
        made.give(one, "a", 0)
    assert gone == ["k2", "k1", "k2"]
    assert made.line(one).many == 2


def test_keys_stay_when_the_daemon_says_that_none_has_changed() -> None:
    made, key = core(route(), requests_per_minute=60)
    made.learn([route(name="other")], None, 0)
    assert made.key_of({"x-api-key": "bsk_a"}, 0) == key
    assert list(made.routes) == ["other"]


def test_a_request_costs_its_part_of_the_replica_for_its_time_rounded_up() -> None:
    one = route(target=4, rates={"att_1": 3_600_000_000})
    assert one.cost_nanos("att_1", 1_000_000) == 250_000
    assert one.cost_nanos("att_1", 1) == 1
    assert one.cost_nanos("att_1", -5) == 0
    assert one.cost_nanos("att_2", 1_000_000) is None


def test_requests_of_one_session_go_to_one_replica_until_it_is_full_or_gone() -> None:
    made, _ = core(route(replicas={"a": 1, "b": 2, "c": 3}, session_header="x-session"))
    one = made.routes["chat"]
    theirs = {made.pick(one, 0, like=b"%d" % number) for number in range(50)}
    assert theirs == {"a", "b", "c"}, "sessions are spread"
    first = made.pick(one, 0, like=b"ann")
    for _ in range(2 * one.target):
        assert made.pick(one, 0, like=b"ann") == first
        made.take(first)
    second = made.pick(one, 0, like=b"ann")
    assert second not in {first, ""}
    made.learn([route(replicas={"a": 1, "b": 2, "c": 3, "d": 4}, session_header="x-session")], None, 0)
    for _ in range(2 * one.target):
        made.give(one, first, 0)
    moved = [
        number
        for number in range(400)
        if made.pick(one, 0, like=b"%d" % number) != made.pick(made.routes["chat"], 0, like=b"%d" % number)
    ]
    assert 0 < len(moved) < 200, "a replica more takes its own part of the sessions, and moves no other"
    made.eject(first, 0)
    assert made.pick(one, 1, like=b"ann") not in {first, ""}


@pytest.mark.parametrize(("target", "at_most"), [(20, 31), (28, 31), (40, 40)])
def test_what_begins_alike_goes_elsewhere_from_a_replica_that_is_full_and_busier_than_the_others(
    target: int, at_most: int
) -> None:
    made, _ = core(route(replicas={"a": 1, "b": 2}, target=target, by_prefix=True))
    one = made.routes["chat"]
    near = made.pick(one, 0, like=b"you are")
    other = ({"a", "b"} - {near}).pop()
    for _ in range(10):
        made.take(other)
    while (attempt := made.pick(one, 0, like=b"you are")) == near:
        made.take(near)
    assert (attempt, made.outstanding[near]) == (other, at_most), "half as much again as the mean"


def test_who_waited_goes_to_the_replica_of_its_session_where_that_is_free() -> None:
    made, _ = core(route(replicas={}, session_header="x-session"))
    got: list[str | Refusal] = []
    for _ in range(2):
        assert made.wait(made.routes["chat"], Waiter("key_1", 1, got.append, like=b"ann")) is None
    made.learn([route(replicas={"a": 1, "b": 2}, session_header="x-session")], None, 0)
    assert got == [made.pick(route(replicas={"a": 1, "b": 2}), 0, like=b"ann")] * 2


def test_a_fallback_answers_only_while_money_is_at_an_end_here_and_not_there() -> None:
    spent = {"code": "BudgetExhausted", "message": "no money"}
    small = route(name="small", job_id="job_2", replicas={"s": 1})
    made, _ = core(route(fallback="small", replicas={"a": 1}))
    made.learn([route(fallback="small", replicas={"a": 1}), small], None, 0)
    assert made.serving(made.routes["chat"]).name == "chat"
    made.learn([route(fallback="small", refused=spent), small], None, 0)
    assert made.serving(made.routes["chat"]).name == "small"
    made.learn(
        [route(fallback="small", refused=spent), route(name="small", job_id="job_2", refused=spent)], None, 0
    )
    assert made.serving(made.routes["chat"]).name == "chat"
    made.learn([route(refused=spent), small], None, 0)
    assert made.serving(made.routes["chat"]).name == "chat"
