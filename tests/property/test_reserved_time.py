"""What nobody held of a node while it was reserved is `reserved`, to the nano of the node's cost, whatever is
reserved, cancelled and moved meanwhile, and however late the node tells.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.errors import WrongState
from bursar.resources import ResourceRequest
from bursard.engine import unposted
from bursard.fleet.testing import FACTS, World
from bursard.housekeeping import Housekeeping
from bursard.state import image
from bursard.state.decide.policies import remove

Span = tuple[int, int]
WHOLE = ResourceRequest(None, FACTS.cpu_milli, FACTS.memory_bytes)
LENGTHS_S = st.sampled_from([1, 10, 29, 60, 61, 600, 3600, 10_000, 25_000])
STEPS = st.one_of(
    st.tuples(st.just("pass"), LENGTHS_S),
    st.tuples(st.just("pass"), LENGTHS_S),
    st.tuples(st.just("tell"), st.just(0)),
    st.tuples(
        st.sampled_from(["hold", "release", "lose", "find", "housekeep", "cancel a", "cancel b"]), st.just(0)
    ),
    st.tuples(
        st.sampled_from(["reserve a", "reserve b"]),
        st.tuples(st.sampled_from([-7200, -5, 0, 7, 45, 3600, 9000]), LENGTHS_S),
    ),
)


class Site:
    """A daemon with one node, and beside it when that was reserved and held, kept by hand."""

    def __init__(self, reserves: bool) -> None:
        self.world, self.reserves = World(), reserves
        self.connected = False
        self.reserved: list[Span] = []
        self.in_force: dict[str, Span] = {}
        self.held: list[Span] = []
        self.since, self.attempt = 0, ""
        self.find()
        self.began, self.before = self.now, self.kinds()

    @property
    def now(self) -> int:
        return self.world.engine.now()

    def kinds(self) -> Counter[str]:
        """Nanos by kind, what is not posted yet included."""
        self.world.writer.flush()
        found: Counter[str] = Counter()
        for row in [*self.world.writer.charges, *unposted(self.world.state).rows]:
            found[row.kind] += row.nanos
        return found

    def do(self, what: str, how: object) -> None:
        name = what[-1]
        if what == "pass":
            self.world.clock.advance(how * SECOND_US)  # type: ignore[operator]
        elif what.startswith("reserve") and self.reserves:
            self.reserve(name, *how)  # type: ignore[misc]
        elif what.startswith("cancel") and name in self.in_force:
            self.world.engine.commit(remove(self.world.state, "Reservation", name), "ann")
            self.cut(name)
        elif what == "housekeep":
            self.housekeep()
        elif what in ("tell", "hold", "release", "lose", "find"):
            getattr(self, what)()
        self.world.writer.flush()

    def reserve(self, name: str, begins_s: int, lasts_s: int) -> None:
        start = self.now + begins_s * SECOND_US
        end = start + lasts_s * SECOND_US
        text = (
            f"kind: Reservation\nname: {name}\nspec:\n  nodes: [n-1]\n  for: {{users: [bob]}}\n"
            f"  start: {format_instant(Instant(start))}\n  end: {format_instant(Instant(end))}\n"
        )
        known = {key: span for key, span in self.in_force.items() if key != name}
        if end <= self.now:
            return
        try:
            self.world.apply(text)
        except WrongState:
            assert any(a < end and start < b for a, b in known.values()), "only another one is in its way"
            return
        self.cut(name)
        self.in_force[name] = max(start, self.now), end

    def cut(self, name: str) -> None:
        """It keeps nothing from now on."""
        if name in self.in_force:
            start, end = self.in_force.pop(name)
            self.reserved.append((start, min(end, self.now)))

    def housekeep(self) -> None:
        def commit(what: str, events: object) -> bool:
            self.world.engine.commit(events, "bursard")  # type: ignore[arg-type]
            return True

        Housekeeping(self.world.state, lambda: self.world.engine.prices, commit).turn(self.now)
        for name in self.in_force.keys() - self.world.state.reservations.specs.keys():
            assert self.in_force[name][1] <= self.now
            self.cut(name)

    def tell(self) -> None:
        if self.connected:
            self.world.backend.report()
            self.world.writer.flush()

    def hold(self) -> None:
        """Somebody gets the whole node."""
        if self.connected and not self.since:
            self.tell()
            job = self.world.submit(user="bob", options=(WHOLE,), time_limit_us=9000 * HOUR_US)
            self.world.cycle()
            self.world.backend.report()
            self.world.writer.flush()
            assert [one.started_at for one in job.attempts] == [self.now]
            self.since, self.attempt = self.now, job.attempts[-1].id

    def release(self) -> None:
        if self.connected and 0 < self.since < self.now:
            self.world.backend.finish(self.attempt, 0)
            self.held.append((self.since, self.now))
            self.since = 0

    def lose(self) -> None:
        """Its agent is out of contact, with a node that nobody holds."""
        if self.connected and not self.since:
            self.tell()
            self.world.backend.disconnect("n-1")
            self.connected = False

    def find(self) -> None:
        if not self.connected:
            self.world.backend.connect(replace(FACTS, name="n-1"))
            self.connected = True
            self.world.backend.report()

    def close(self) -> Counter[str]:
        """Everything is told. Nanos by kind since the beginning."""
        self.release()
        self.find()
        self.tell()
        for name in list(self.in_force):
            self.cut(name)
        spent = self.kinds()
        spent.subtract(self.before)
        return spent

    def nobodys_and_reserved_us(self) -> int:
        """By the notes: what lies in a window and in no time that was held."""
        edges = sorted({at for span in [*self.reserved, *self.held] for at in span})

        def within(spans: list[Span], at: int) -> bool:
            return any(start <= at < end for start, end in spans)

        return sum(b - a for a, b in pairwise(edges) if within(self.reserved, a) and not within(self.held, a))


@settings(max_examples=120, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_reserved_is_what_lies_in_windows_and_nobody_held(steps: list[tuple[str, object]]) -> None:
    site, bare = Site(reserves=True), Site(reserves=False)
    for what, how in steps:
        for one in (site, bare):
            one.do(what, how)
        state = site.world.state
        again = image.decode(image.encode(state, site.now))
        assert (again.reservations.past, again.reservations.since) == (
            state.reservations.past,
            state.reservations.since,
        )
    spent, plain = site.close(), bare.close()
    assert sum(spent.values()) == sum(plain.values()), "what a node cost is cut otherwise, and is the same"
    assert spent["usage"] == plain["usage"]
    assert spent["idle"] + spent["reserved"] + spent["overhead"] == plain["idle"] + plain["overhead"]
    hourly = next(iter(site.world.node().spans(site.now + 1))).cost_rates.total
    wanted = site.nobodys_and_reserved_us() * hourly // HOUR_US
    assert abs(spent["reserved"] - wanted) <= 8 * (len(steps) + 1) * 2
    if not site.in_force:
        assert not site.world.state.reservations.past, "what is metered is not kept"
    site.world.writer.flush()
    assert site.world.killed().state.reservations.past == site.world.state.reservations.past
