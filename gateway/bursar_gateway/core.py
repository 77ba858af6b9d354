"""Who may ask what, which replica answers, who waits and for how long. PURE: no socket, no clock of its own.

Why     all that can be wrong about a gateway's choices is here, and can be played without a connection.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from bursar_gateway.purses import Place, Purse, Purses

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
EJECTED_US: Final = 2 * SECOND_US
"""A replica that refuses a connection gets none for so long: its agent has yet to see that it is gone."""
FULL: Final = 2
"""A replica has so many times its target in hand at most; what is more waits."""
BUSY_MAX: Final = 2_048
"""Requests of one key in hand: half of what the gateway takes of all, so that one key cannot take it all."""
WAITING_MAX: Final = 1_000
"""Requests of one service that wait, however many replicas it may have."""
WAITING_BYTES_MAX: Final = 256 << 20
"""Bodies of all that wait."""
QUEUE_A_PLACE: Final = 4
"""So many requests wait for each place that there is."""
SECRET_MAX: Final = 200
PREFIX_PERCENT: Final = 150
"""Of the mean in hand: with more, whoever begins alike goes elsewhere."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. Limits are of this gateway; 0: none. `budget`: what it is charged counts there too."""

    id: str
    job_id: str
    requests_per_minute: int = 0
    concurrency: int = 0
    expires_at: int = 0
    budget: str = ""


class Door(msgspec.Struct, frozen=True):
    """Where the agent of another machine forwards to a replica there: by TLS, with just this certificate."""

    address: str
    port: int
    certificate: str


class Route(msgspec.Struct, kw_only=True):
    """One service.

    Attributes:
        doors: of replicas on other machines, by attempt.
        units: where an answer says how many it took. session_header, by_prefix: by what requests find the
            replica that had those before. fallback: the service that answers where money is at an end.
        replicas: port by attempt. rates: nanos an hour, by attempt.
        refused, waits: why nothing can serve, with numbers.
        budget_left: nanos; None: no hard budget is over it.
        tried: replicas of a revision that gets `percent` of the requests; 0: all are alike.
    """

    job_id: str
    name: str
    api: str
    target: int
    replicas: dict[str, int]
    queue_us: int
    cold_us: int
    first_byte_us: int
    idle_us: int
    total_us: int
    units: str = ""
    session_header: str = ""
    by_prefix: bool = False
    fallback: str = ""
    refused: dict[str, str] = {}
    waits: str = ""
    doors: dict[str, Door] = {}
    rates: dict[str, int] = {}
    currency: str = ""
    budget_left: int | None = None
    tried: frozenset[str] = frozenset()
    percent: int = 0

    @property
    def place(self) -> Place | None:
        """What a request in hand costs in the mean of its replicas; None: nobody says."""
        rates = [self.rates[one] for one in self.replicas if one in self.rates]
        return Place(sum(rates), len(rates) * self.target, self.total_us) if rates else None

    def cost_nanos(self, attempt: str, held_us: int) -> int | None:
        """What a request cost that had one of the replica's places for so long, rounded up; None: unknown.

        It is the busy part of the bill, by time in hand: the bill divides each minute by tokens where these
        are counted, and what nobody asked for is nobody's.
        """
        rate = self.rates.get(attempt)
        return None if rate is None else -(-rate * max(held_us, 0) // (HOUR_US * self.target))


class Refusal(msgspec.Struct, frozen=True):
    """An answer of the gateway itself. `retry_s`: when to ask again; 0: it would change nothing."""

    status: int
    type: str
    code: str
    message: str
    retry_s: int = 0
    facts: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read errors."""
        return {"error": {"type": self.type, "code": self.code, "message": self.message, **self.facts}}


def secret_of(headers: Mapping[str, str]) -> str:
    """What a request is asked with: `Authorization: Bearer`, else `x-api-key`."""
    kind, _, secret = headers.get("Authorization", "").partition(" ")
    found = secret.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
    return found if len(found) <= SECRET_MAX else ""


class Bucket:
    """So many requests a minute, evenly; a tenth of them, one at least, at once."""

    def __init__(self, per_minute: int, now: int) -> None:
        self.per_minute = per_minute
        self._most = max(per_minute // 10, 1) * MINUTE_US
        self._left, self._at = self._most, now

    def take(self, now: int) -> int:
        """0: it may. Else microseconds until it may."""
        # In requests times a minute, so that it is exact.
        earned = max(now - self._at, 0) * self.per_minute
        self._left, self._at = min(self._left + earned, self._most), now
        if self._left >= MINUTE_US:
            self._left -= MINUTE_US
            return 0
        return -(-(MINUTE_US - self._left) // self.per_minute)


class Waiter:
    """A request that waits for a replica. `go` is called once, with the attempt that it gets, or with why
    there will be none.

    Args:
        again: it had its turn, and its replica went away with it. like: as `pick` takes it.
    """

    __slots__ = ("again", "go", "key_id", "like", "size")

    def __init__(
        self,
        key_id: str,
        size: int,
        go: Callable[[str | Refusal], None],
        again: bool = False,
        like: bytes = b"",
    ) -> None:
        self.key_id, self.size, self.go, self.again, self.like = key_id, size, go, again, like


class Line:
    """Who waits for one service: each key in turn, however many requests it has."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self.many = 0

    def add(self, waiter: Waiter) -> None:
        """At the end of its key's own; before all others where it has waited once already."""
        line = self._keys.setdefault(waiter.key_id, deque())
        if waiter.again:
            line.appendleft(waiter)
            self._keys.move_to_end(waiter.key_id, last=False)
        else:
            line.append(waiter)
        self.many += 1

    def next(self) -> Waiter | None:
        """The first of the next key; that key is last then."""
        if not self._keys:
            return None
        key_id, line = next(iter(self._keys.items()))
        found = line.popleft()
        self.many -= 1
        if line:
            self._keys.move_to_end(key_id)
        else:
            del self._keys[key_id]
        return found

    def leave(self, waiter: Waiter) -> bool:
        """It waits no more. False: it had its turn."""
        line = self._keys.get(waiter.key_id)
        if line is None or waiter not in line:
            return False
        line.remove(waiter)
        self.many -= 1
        if not line:
            del self._keys[waiter.key_id]
        return True


class Core:
    """All services of one gateway. Instants are microseconds of the caller's clock."""

    def __init__(self, purses: Purses | None = None) -> None:
        self.purses = purses or Purses()
        self.routes: dict[str, Route] = {}
        """By name."""
        self.outstanding: dict[str, int] = {}
        """Requests in hand, by attempt."""
        self.lines: dict[str, Line] = {}
        """Who waits, by job."""
        self.known = False
        """Has the daemon ever answered?"""
        self._keys: dict[str, Key] = {}
        self._buckets: dict[str, Bucket] = {}
        self._busy: dict[str, int] = {}
        self._ejected: dict[str, int] = {}
        self._waiting_bytes = 0
        self._turns: dict[str, int] = {}
        """Of a service of which a revision is tried, requests that a replica took."""

    def learn(
        self,
        routes: Iterable[Route],
        keys: Mapping[str, Key] | None,
        now: int,
        purses: Iterable[Purse] = (),
    ) -> None:
        """What the daemon says now. Who waits for a replica that is new gets it. No `keys`: they stay."""
        self.known = True
        self.routes = {one.name: one for one in routes}
        self.purses.learn(purses, {one.job_id: one.place for one in self.routes.values()}, now)
        if keys is not None:
            self._keys = dict(keys)
            self.purses.name((key.id, key.budget) for key in keys.values())
            ids = {key.id for key in keys.values()}
            self._buckets = {key_id: one for key_id, one in self._buckets.items() if key_id in ids}
        tries = {one.job_id for one in self.routes.values() if one.percent}
        self._turns = {job_id: turn for job_id, turn in self._turns.items() if job_id in tries}
        self._ejected = {attempt: at for attempt, at in self._ejected.items() if now < at}
        for route in self.routes.values():
            self.serve(route, now)

    def line(self, route: Route) -> Line:
        """Who waits for it."""
        return self.lines.setdefault(route.job_id, Line())

    # --- who

    def key_of(self, headers: Mapping[str, str], now: int) -> Key | Refusal:
        """Who asks, or 401."""
        secret = secret_of(headers)
        key = self._keys.get(hashlib.sha256(secret.encode()).hexdigest()) if secret else None
        if key is None or (key.expires_at and now >= key.expires_at):
            said = "this key is not good" if secret else "no key was given"
            return Refusal(
                401, "authentication_error", "invalid_api_key",
                f"{said}; send Authorization: Bearer bsk_..., from `bursar key new`",
            )  # fmt: skip
        return key

    def route_of(self, name: str, key: Key) -> Route | Refusal:
        """The service of a path, if this key opens it; others are as if they were not there."""
        route = self.routes.get(name)
        if route is None or route.job_id != key.job_id:
            return Refusal(
                404, "invalid_request_error", "service_not_found", "this key opens no such service"
            )
        return route

    def admit(self, key: Key, now: int) -> Refusal | None:
        """Within the limits of its key; then it is counted as busy until `leave`."""
        most = min(key.concurrency or BUSY_MAX, BUSY_MAX)
        if self._busy.get(key.id, 0) >= most:
            return Refusal(
                429, "rate_limit_error", "concurrency_exceeded",
                f"{most} requests of this key are in hand already, which is its limit", 1,
                {"limit": str(most)},
            )  # fmt: skip
        if key.budget and (found := self.purses.refusal(key.budget, key.job_id, now)) is not None:
            code, text, retry_s, facts = found
            kind = "rate_limit_error" if code == "budget_committed" else "insufficient_quota"
            return Refusal(429, kind, code, text, retry_s, facts)
        if key.requests_per_minute:
            bucket = self._buckets.get(key.id)
            if bucket is None or bucket.per_minute != key.requests_per_minute:
                bucket = self._buckets[key.id] = Bucket(key.requests_per_minute, now)
            if wait_us := bucket.take(now):
                return Refusal(
                    429, "rate_limit_error", "rate_limit_exceeded",
                    f"this key may ask {key.requests_per_minute} times a minute",
                    -(-wait_us // SECOND_US), {"limit": str(key.requests_per_minute)},
                )  # fmt: skip
        self._busy[key.id] = self._busy.get(key.id, 0) + 1
        if key.budget:
            self.purses.take(key.budget, key.job_id)
        return None

    def leave(self, key: Key, held_us: int = 0) -> None:
        """One of its requests is over, which was in hand for so long."""
        if key.budget:
            self.purses.give(key.budget, key.job_id, held_us)
        self._busy[key.id] -= 1
        if not self._busy[key.id]:
            del self._busy[key.id]

    # --- which replica

    def serving(self, route: Route) -> Route:
        """Who answers: its fallback, where its own money is at an end and the other's is not."""
        other = self.routes.get(route.fallback)
        if other is None or self.refused(route) is None or self.refused(other) is not None:
            return route
        return other

    def pick(self, route: Route, now: int, without: Iterable[str] = (), like: bytes = b"") -> str:
        """The replica with the fewest requests in hand; empty: none is there, or all are full.

        Args:
            like: requests with the same go to the same replica: unless that is full; and where they only
                begin alike, unless it has its target in hand and half as much again as all have in the mean.
        """
        left_out = set(without)
        found = [
            (self.outstanding.get(attempt, 0), attempt)
            for attempt in route.replicas
            if attempt not in left_out and self._ejected.get(attempt, 0) <= now
        ]
        if route.percent:
            found = self._part(route, found, like)
        least, attempt = min(found, default=(0, ""))
        if like and len(found) > 1:
            many, favourite = max(found, key=lambda one: hashlib.sha256(one[1].encode() + like).digest())
            too_many = 100 * len(found) * many > PREFIX_PERCENT * sum(one for one, _ in found)
            if many < (route.target if route.by_prefix and too_many else FULL * route.target):
                return favourite
        return attempt if least < FULL * route.target else ""

    def _part(self, route: Route, found: list[tuple[int, str]], like: bytes) -> list[tuple[int, str]]:
        """Of those that may be asked, those of the revision whose turn it is; all, where none of these is
        free. What belongs together goes to one revision.
        """
        if like:
            tried = int.from_bytes(hashlib.sha256(like).digest()[:4]) % 100 < route.percent
        else:
            turn = self._turns.get(route.job_id, 0)
            tried = turn * route.percent // 100 < (turn + 1) * route.percent // 100
        part = [one for one in found if (one[1] in route.tried) == tried and one[0] < FULL * route.target]
        return part or found

    def take(self, attempt: str, route: Route | None = None) -> None:
        """A request more is in its hand."""
        if route is not None and route.percent:
            self._turns[route.job_id] = self._turns.get(route.job_id, 0) + 1
        self.outstanding[attempt] = self.outstanding.get(attempt, 0) + 1

    def give(self, route: Route, attempt: str, now: int) -> None:
        """One less; who waits may have its turn."""
        self.outstanding[attempt] -= 1
        if not self.outstanding[attempt]:
            del self.outstanding[attempt]
        self.serve(self.routes.get(route.name, route), now)

    def eject(self, attempt: str, now: int) -> None:
        """It refused a connection."""
        self._ejected[attempt] = now + EJECTED_US

    def serve(self, route: Route, now: int) -> None:
        """Let go who waits, as many as there is room for; all of them, refused, where no money is left."""
        line = self.line(route)
        refusal = self.refused(route)
        while refusal is not None and (waiter := line.next()):
            self._waiting_bytes -= waiter.size
            waiter.go(refusal)
        while line.many and (attempt := self.pick(route, now)):
            waiter = line.next()
            assert waiter is not None
            self._waiting_bytes -= waiter.size
            if waiter.like:
                attempt = self.pick(route, now, like=waiter.like)
            self.take(attempt, route)
            waiter.go(attempt)

    def wait(self, route: Route, waiter: Waiter) -> Refusal | None:
        """Take a place in the line, if there is one."""
        refusal = self.refused(route)
        if refusal is not None:
            return refusal
        line, places = self.line(route), len(route.replicas) * route.target
        most = min(QUEUE_A_PLACE * places, WAITING_MAX) if places else WAITING_MAX
        full = line.many >= max(most, 1) and not waiter.again
        if full or self._waiting_bytes + waiter.size > WAITING_BYTES_MAX:
            return Refusal(
                503, "overloaded_error", "queue_full",
                f"{line.many} requests wait for service {route.name} already", 1, {"waiting": str(line.many)},
            )  # fmt: skip
        line.add(waiter)
        self._waiting_bytes += waiter.size
        return None

    def stop_waiting(self, route: Route, waiter: Waiter) -> bool:
        """It waits no more. False: it had its turn."""
        left = self.line(route).leave(waiter)
        self._waiting_bytes -= waiter.size if left else 0
        return left

    def refused(self, route: Route) -> Refusal | None:
        """Money is why nothing can serve."""
        if route.replicas or not route.refused:
            return None
        facts = dict(route.refused)
        code = "budget_exhausted" if facts.get("code", "").startswith("Budget") else "price_cap_exceeded"
        facts.pop("code", None)
        return Refusal(
            429, "insufficient_quota", code, facts.pop("message", "no money is left"), 3_600, facts
        )

    def timed_out(self, route: Route) -> Refusal:
        """It waited as long as it may."""
        why = f": {route.waits}" if route.waits else ""
        code = "queue_timeout" if route.replicas else "no_replica"
        return Refusal(503, "overloaded_error", code, f"no replica of service {route.name} was free{why}", 5)
