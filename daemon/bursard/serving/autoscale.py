"""How many replicas a service has, and which of them go: one function. PURE.

Input   what gateways saw of it, its replicas, and what was remembered of the last look.
Output  a number of places, replicas to let go once they have answered, replicas to replace, and why.
Why     whoever else wrote that number would fight with this (docs/adr/0029). The rule is Knative's: the mean
        of requests in hand over two windows; a burst is believed at once, quiet takes its time.
        Its difference is from none: requests are held there, and the first replica alone is started for
        them, however many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import ServiceSpec
from bursard.serving.canary import NONE, Answers, Trial, advance, problem

PANIC: Final = 2
"""A burst wants so many times the replicas that are ready."""
GROWTH_MAX: Final = 1_000
"""So many times the ready ones at one look, at most."""
ZERO_WAIT_US: Final = 60 * SECOND_US
"""What the wait for a cold start is worth, in time that a replica is kept for nothing."""


class Sample(NamedTuple):
    """A span of one gateway: requests in hand over it, those that waited among them."""

    at: int
    span_us: int
    busy_us: int
    gateway: str = ""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One live replica.

    Attributes:
        ready: it answers, and is not on its way out. old: of another revision than the service is of now.
        leaving: it is told to end, or to answer what it has in hand and then end.
        outstanding: requests that it has in hand. rate: nanos per hour.
    """

    attempt_id: str
    ready: bool
    old: bool = False
    leaving: bool = False
    outstanding: int = 0
    rate: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A service at one moment.

    Attributes:
        samples: of its longest window, oldest first.
        asked_at: when somebody had asked or waited last; 0: never.
        waiting: requests that no replica has yet.
        cold_us: how long a start took last.
        unplaced: places that have found no room for a while.
        cap: so many replicas are within its `max_price`; None: it has none, or its price is not known.
        new, old: of a canary, what either revision answered since its step began. ends: of one replica of the
            new one, in a row. back: it came back from a revision that was no good, and tries none.
    """

    now: int
    replicas: Sequence[Standing]
    samples: Sequence[Sample] = ()
    asked_at: int = 0
    waiting: int = 0
    cold_us: int = 0
    unplaced: int = 0
    cap: int | None = None
    new: Answers = NONE
    old: Answers = NONE
    ends: int = 0
    back: bool = False


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What one look leaves for the next.

    Attributes:
        target: replicas that are wanted, without those of an update beside them.
        panic_until, panic_peak: a burst goes on, and wanted so many.
        more_since: since when more are wanted; 0: they are not.
        recent: (when, how many were wanted) within the delay of fewer, without what a later one passed: the
            first is the most.
        trial: of a canary.
    """

    target: int
    panic_until: int = 0
    panic_peak: int = 0
    more_since: int = 0
    recent: tuple[tuple[int, int], ...] = ()
    trial: Trial | None = None


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be. `places`: replicas at once, those of an update among them. `drain`: they answer what
    they have in hand and go. `replace`: they answer nothing and go now.
    `hidden`: they are ready, and are not to be asked yet. `percent`: of the requests go to the new revision;
    0: to all alike. `bad`: why that is to be rolled back.
    """

    places: int
    drain: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    percent: int = 0
    bad: str = ""
    why: str = ""


def scale(service: ServiceSpec, seen: Seen, memory: Memory) -> tuple[Scaled, Memory]:
    """The next number of replicas of one service."""
    ready = [one for one in seen.replicas if one.ready and not one.leaving]
    wanted, why, memory = _wanted(service, seen, memory, len(ready))
    target, memory = _in_time(service, seen, memory, wanted)
    live = [one for one in seen.replicas if not one.leaving]
    updating = target > 0 and any(one.old for one in live)
    if updating and service.strategy == "canary" and not seen.back:
        return _tried(service, seen, msgspec.structs.replace(memory, target=target), ready, why)
    first = _first_to_go(ready)
    spare = max(len(ready) - target, 0)
    hidden = tuple[str, ...]()
    at_once = updating and service.strategy == "blue-green" and not seen.back
    if at_once:
        old = sum(one.old for one in ready)
        whole = len(ready) - old >= target
        # All of the old ones stay, and alone are asked, until there are as many new ones.
        spare = spare if whole else max(old - target, 0)
        hidden = tuple(one.attempt_id for one in ready if not one.old and old and not whole)
    elif updating and not spare:
        spare = min(_makes_room(service, seen, target - len(ready)), sum(one.old for one in ready))
    scaled = Scaled(
        places=target + (target if at_once else service.max_surge) * updating,
        drain=tuple(one.attempt_id for one in first[:spare]),
        replace=_useless(live),
        hidden=hidden,
        why=f"revision {service.revision} takes over; {why}" if updating else why,
    )
    return scaled, msgspec.structs.replace(memory, target=target, trial=None)


def _first_to_go(ready: Sequence[Standing]) -> list[Standing]:
    return sorted(ready, key=lambda one: (not one.old, -one.rate, one.outstanding, one.attempt_id))


def _useless(live: Sequence[Standing]) -> tuple[str, ...]:
    return tuple(one.attempt_id for one in live if one.old and not one.ready)


def _tried(
    service: ServiceSpec, seen: Seen, memory: Memory, ready: Sequence[Standing], why: str
) -> tuple[Scaled, Memory]:
    """A canary: so many of the new revision as its step wants, beside all of the old ones; with the last step
    it takes over replica by replica.
    """
    target, new = memory.target, [one for one in ready if not one.old]
    trial = advance(service, memory.trial, seen.now, target, len(new))
    spare, old, last = max(len(ready) - target, 0), len(ready) - len(new), trial.last(service)
    if not last:
        spare = max(old - target, 0)
    elif not spare:
        spare = min(_makes_room(service, seen, target - len(ready)), old)
    percent = 0 if last else trial.percent(service)
    # A step that began anew has its answers counted from then on: those of now are of the one before.
    same = memory.trial is not None and memory.trial.since == trial.since > 0
    bad = problem(service, seen.new if same else NONE, seen.old if same else NONE, seen.ends)
    part = "all" if last else f"{percent} %"
    scaled = Scaled(
        places=target + (service.max_surge if last else trial.replicas(service, target)),
        drain=tuple(one.attempt_id for one in _first_to_go(ready)[:spare]),
        replace=_useless([one for one in seen.replicas if not one.leaving]),
        hidden=tuple(one.attempt_id for one in new if old and not last and not percent),
        percent=percent,
        bad=bad,
        why=f"revision {service.revision} is tried with {part} of the requests; {why}",
    )
    return scaled, msgspec.structs.replace(memory, trial=trial)


def _makes_room(service: ServiceSpec, seen: Seen, missing: int) -> int:
    """How many old replicas go before there is a new one: where none finds room, as many as may be missing.
    Those that are on their way out, or in, are missing already.
    """
    wait = seen.unplaced if service.max_surge else service.max_unavailable
    return max(min(service.max_unavailable - missing, wait), 0)


def zero_after_us(service: ServiceSpec, cold_us: int) -> int:
    """Without requests for so long, no replica is kept: keeping one has cost then what a start costs, so
    that together it is at most twice what it would have been for whoever knew the future.
    """
    return service.zero_after_us or min(HOUR_US, cold_us + ZERO_WAIT_US)


def mean_milli(samples: Sequence[Sample], since: int) -> int:
    """Requests in hand after an instant, in thousandths, rounded up: the means of all gateways together."""
    sums: dict[str, tuple[int, int]] = {}
    for one in reversed(samples):  # an hour of them is there, and a minute is asked for
        if one.at <= since:
            break
        busy_us, span_us = sums.get(one.gateway, (0, 0))
        sums[one.gateway] = busy_us + one.busy_us, span_us + one.span_us
    return sum(-(-busy_us * 1_000 // span_us) for busy_us, span_us in sums.values() if span_us)


def _needed(samples: Sequence[Sample], since: int, target: int) -> int:
    return -(-mean_milli(samples, since) // (target * 1_000))


def _wanted(service: ServiceSpec, seen: Seen, memory: Memory, ready: int) -> tuple[int, str, Memory]:
    """What the load asks for, within what is allowed, and in words why."""
    now, idle_us = seen.now, seen.now - seen.asked_at
    zero_us = zero_after_us(service, seen.cold_us)
    asked = seen.waiting > 0 or (seen.asked_at > 0 and idle_us < zero_us)
    stable = _needed(seen.samples, now - service.window_us, service.target)
    burst = _needed(seen.samples, now - service.panic_window_us, service.target)
    if ready == 0:
        wanted, why = int(asked), "the first replica is started alone" if asked else "nobody asks"
        memory = msgspec.structs.replace(memory, panic_until=0, panic_peak=0)
    else:
        # Knative would halve at most, too; here fewer wait for their delay, which is enough.
        stable, burst = min(stable, ready * GROWTH_MAX), min(burst, ready * GROWTH_MAX)
        if burst >= PANIC * ready:
            memory = msgspec.structs.replace(memory, panic_until=now + service.window_us)
        panic = now < memory.panic_until
        peak = max(memory.panic_peak, burst, stable) if panic else 0
        memory = msgspec.structs.replace(memory, panic_peak=peak)
        wanted = max(peak if panic else stable, 1) if asked else 0
        mean = mean_milli(seen.samples, now - service.window_us) // 100
        why = f"{mean // 10}.{mean % 10} requests in hand at {service.target} each"
        if panic and peak > stable:
            why = f"a burst wants {peak}; {why}"
        elif not asked:
            why = f"nobody asked for {zero_us // SECOND_US} s" if seen.asked_at else "nobody asks"
    if wanted < service.replicas_min:
        wanted, why = service.replicas_min, f"at least {service.replicas_min}; {why}"
    most = service.replicas_max
    if seen.cap is not None and seen.cap < most:
        most = max(seen.cap, 0)
        why = f"max_price pays for {most}; {why}" if wanted > most else why
    return min(wanted, most), why, memory


def _in_time(service: ServiceSpec, seen: Seen, memory: Memory, wanted: int) -> tuple[int, Memory]:
    """What is done of what is wanted now: more after its delay, and no fewer than were wanted at any time of
    the delay of fewer. Both go by when it was wanted, not by the last change.
    """
    now, target = seen.now, memory.target
    most = service.replicas_max if seen.cap is None else min(service.replicas_max, max(seen.cap, 0))
    kept = [one for one in memory.recent or ((now, target),) if one[0] > now - service.down_delay_us]
    while kept and kept[-1][1] <= wanted:
        kept.pop()
    memory = msgspec.structs.replace(memory, recent=(*kept, (now, wanted)))
    if wanted > target:
        since = memory.more_since or now
        must = target == 0 or target < min(service.replicas_min, most)
        if must or now - since >= service.up_delay_us:
            return wanted, msgspec.structs.replace(memory, more_since=0)
        return target, msgspec.structs.replace(memory, more_since=since)
    memory = msgspec.structs.replace(memory, more_since=0)
    if wanted == 0 or target > most:
        return wanted, memory
    return min(target, memory.recent[0][1]), memory
