"""What a service asks beside its job: how many replicas, when one is ready, and how they follow the load.

Why     a service is a job whose tasks are its replicas (docs/adr/0029), so all that a process needs stands in
        its `JobSpec`; here is only what no other job has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec

from bursar.clock import DAY_US, HOUR_US, SECOND_US

REPLICAS_MAX: Final = 256
SURGE_MAX: Final = 8
TARGET_MAX: Final = 100_000
PORT_MIN, PORT_MAX = 1024, 60_000
PATH_MAX: Final = 256
STRATEGIES: Final = ("rolling", "blue-green", "canary")
"""How another revision takes over: one replica after another, all at once when all are ready, or with a part
of the requests first.
"""
STEPS: Final = (5, 25, 100)
STEPS_MAX: Final = 16
APIS: Final = ("openai", "anthropic", "http")
"""What is counted: tokens as these two say them, or requests alone."""
LEAST, PREFIX = "least-outstanding", "prefix"
_SESSION: Final = re.compile(r"session\(([A-Za-z0-9-]{1,64})\)")
_POINTER: Final = re.compile(r"(/([^~/]|~[01])*){1,16}")
PROBE_MAX_US: Final = HOUR_US
TIMEOUT_MAX_US: Final = DAY_US


def session_header(balance: str) -> str:
    """The header of `session(HEADER)`; empty of any other way to balance."""
    found = _SESSION.fullmatch(balance)
    return found[1] if found is not None else ""


class Way(msgspec.Struct, frozen=True):
    """How gateways on other machines reach a replica: at its node's address.

    Attributes:
        port: 0: they do not. certificate: what is shown there. admits: digests of the gateways that may come.
    """

    port: int = 0
    certificate: str = ""
    admits: tuple[str, ...] = ()


NOWHERE: Final = Way()


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One service, as accepted. Durations are microseconds.

    Attributes:
        port: the first that a replica may be given to listen on; which one it is says BURSAR_PORT.
        api: openai | anthropic | http: whose counts of tokens its answers have.
        replicas_min, replicas_max: how many there may be. 0: none while nobody asks.
        units: where an answer in JSON says how many units it took (RFC 6901): they count as written tokens;
            empty: only `api` says what is counted.
        balance: least-outstanding | session(HEADER) | prefix: which replica a request goes to.
        fallback: the service that answers for this one when its money is at an end; empty: none.
        probe_path: GET of it answers 200 to 399 when a replica is ready; empty: it is ready when it listens.
        probe_failures: so many in a row, and a ready replica gets no more requests.
        start_timeout_us: a replica that is not ready for so long is ended and another started.
        target: requests that one replica has in hand at once.
        window_us, panic_window_us: over which these are averaged, in quiet and in a burst.
        up_delay_us, down_delay_us: for how long more, or fewer, must be wanted before that is done.
        zero_after_us: without a request, until there is no replica; 0: as long as keeping one costs what a
            start costs.
        strategy: rolling | blue-green | canary.
        steps: of a canary, the parts of the requests in percent that the new revision gets, one after the
            other; the last is 100. Empty: `STEPS`. hold_us: how long each lasts.
        max_errors, max_latency: of a canary, in percent: so many of its answers may fail, and so long they
            may take of what those of the old revision do, or it is rolled back.
        max_surge: replicas above what is wanted while an update goes on.
        max_unavailable: replicas that may be missing from it meanwhile, where there is no room for one more.
        drain_us: how long one that is to go may still answer what it has in hand.
        queue_us, cold_queue_us: how long a request waits for a free replica, and where there is none at all;
            0 of the latter: as long as a start may take.
        first_byte_us, idle_us, total_us: of an answer: until it begins, between two pieces, all of it.
        revision: 1 when it was submitted, and one more with each update.
    """

    port: int = 8000
    api: str = "http"
    units: str = ""
    balance: str = LEAST
    fallback: str = ""
    replicas_min: int = 1
    replicas_max: int = 1
    probe_path: str = ""
    probe_interval_us: int = 10 * SECOND_US
    probe_timeout_us: int = 5 * SECOND_US
    probe_failures: int = 3
    start_timeout_us: int = 20 * 60 * SECOND_US
    target: int = 8
    window_us: int = 60 * SECOND_US
    panic_window_us: int = 6 * SECOND_US
    up_delay_us: int = 0
    down_delay_us: int = 5 * 60 * SECOND_US
    zero_after_us: int = 0
    max_surge: int = 1
    max_unavailable: int = 0
    strategy: str = "rolling"
    steps: tuple[int, ...] = ()
    hold_us: int = 10 * 60 * SECOND_US
    max_errors: int = 5
    max_latency: int = 200
    drain_us: int = 120 * SECOND_US
    queue_us: int = 30 * SECOND_US
    cold_queue_us: int = 0
    first_byte_us: int = 60 * SECOND_US
    idle_us: int = 300 * SECOND_US
    total_us: int = 1800 * SECOND_US
    revision: int = 1

    @property
    def slots(self) -> int:
        """Places for replicas: as many as there may ever be at once."""
        more = {
            "blue-green": self.replicas_max,
            "canary": max(self.max_surge, self.beside(self.replicas_max)),
        }
        return self.replicas_max + more.get(self.strategy, self.max_surge)

    @property
    def parts(self) -> tuple[int, ...]:
        """The steps of a canary in percent."""
        return self.steps or STEPS

    def beside(self, replicas: int) -> int:
        """How many of the new revision a canary has at most beside so many old ones."""
        part = max((one for one in self.parts if one < 100), default=0)
        return -(-replicas * part // 100)

    @property
    def cold_us(self) -> int:
        """How long a request waits where there is no replica."""
        return self.cold_queue_us or self.start_timeout_us


_BOUNDS: Final = {
    "port": (("port",), PORT_MIN, PORT_MAX),
    "replicas_max": (("replicas",), 1, REPLICAS_MAX),
    "probe_failures": (("readiness_probe", "failures"), 1, 100),
    "target": (("scaling", "target"), 1, TARGET_MAX),
    "max_surge": (("update", "max_surge"), 0, SURGE_MAX),
    "max_unavailable": (("update", "max_unavailable"), 0, REPLICAS_MAX),
    "max_errors": (("update", "max_errors"), 0, 100),
    "max_latency": (("update", "max_latency"), 100, 10_000),
    "revision": ((), 1, 2**31 - 1),
}
_DURATIONS: Final = {
    "probe_interval_us": (("readiness_probe", "interval"), SECOND_US // 10, PROBE_MAX_US),
    "probe_timeout_us": (("readiness_probe", "timeout"), SECOND_US // 10, PROBE_MAX_US),
    "start_timeout_us": (("readiness_probe", "start_timeout"), SECOND_US, DAY_US),
    "window_us": (("scaling", "window"), SECOND_US, HOUR_US),
    "panic_window_us": (("scaling", "panic_window"), SECOND_US, HOUR_US),
    "up_delay_us": (("scaling", "up_delay"), 0, HOUR_US),
    "down_delay_us": (("scaling", "down_delay"), 0, DAY_US),
    "zero_after_us": (("scaling", "zero_after"), 0, 30 * DAY_US),
    "drain_us": (("update", "drain"), 0, DAY_US),
    "hold_us": (("update", "hold"), SECOND_US, DAY_US),
    "queue_us": (("timeouts", "queue"), 0, TIMEOUT_MAX_US),
    "cold_queue_us": (("timeouts", "cold_queue"), 0, TIMEOUT_MAX_US),
    "first_byte_us": (("timeouts", "first_byte"), SECOND_US // 10, TIMEOUT_MAX_US),
    "idle_us": (("timeouts", "idle"), SECOND_US // 10, TIMEOUT_MAX_US),
    "total_us": (("timeouts", "total"), SECOND_US // 10, TIMEOUT_MAX_US),
}


def problems_of(service: ServiceSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with it: where in the job file, and why."""
    for name, (path, least, most) in _BOUNDS.items():
        if not least <= (value := getattr(service, name)) <= most:
            yield path, f"is {value}; {least} to {most}"
    for name, (path, least, most) in _DURATIONS.items():
        if not least <= (value := getattr(service, name)) <= most:
            yield path, f"is {value / SECOND_US:g}s; {least / SECOND_US:g}s to {most / SECOND_US:g}s"
    if not 0 <= service.replicas_min <= service.replicas_max:
        yield ("replicas",), f"{service.replicas_min}..{service.replicas_max} is empty; write the least first"
    if service.panic_window_us > service.window_us:
        yield ("scaling", "panic_window"), "is longer than window"
    if not service.max_surge and not service.max_unavailable:
        yield ("update", "max_surge"), "is 0, and max_unavailable too: no replica could ever be replaced"
    if service.strategy not in STRATEGIES:
        yield ("update", "strategy"), f"{service.strategy[:40]!r} is not one of {', '.join(STRATEGIES)}"
    said, parts = " ".join(map(str, service.steps)), service.parts
    rising = all(before < after for before, after in pairwise((0, *parts)))
    if len(parts) > STEPS_MAX or not rising or parts[-1] != 100:
        yield ("update", "steps"), f"[{said[:60]}] do not rise from 1 to 100 in {STEPS_MAX} steps at most"
    if service.api not in APIS:
        yield ("api",), f"{service.api[:40]!r} is not one of {', '.join(APIS)}"
    if service.balance not in (LEAST, PREFIX) and not session_header(service.balance):
        said = f"{service.balance[:80]!r} is not one of {LEAST}, {PREFIX}, session(HEADER)"
        yield ("balance",), f"{said}, such as session(x-session-id)"
    if service.units and service.api != "http":
        yield ("metering", "units"), f"goes with api: http; {service.api} says itself what is counted"
    elif len(service.units) > PATH_MAX or (service.units and _POINTER.fullmatch(service.units) is None):
        yield (
            ("metering", "units"),
            f"{service.units[:60]!r} is no place in JSON, such as /usage/total_tokens",
        )
    probe = service.probe_path
    if probe and not (probe.startswith("/") and probe.isascii() and probe.isprintable() and " " not in probe):
        yield ("readiness_probe", "path"), f"{probe[:60]!r} is not a path such as /health"
    elif len(probe) > PATH_MAX:
        yield ("readiness_probe", "path"), f"has {len(probe)} characters; at most {PATH_MAX}"
