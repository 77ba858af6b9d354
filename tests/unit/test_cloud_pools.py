"""The policy CloudPool: what it says is read whole, and what would not be kept is refused with its line."""

from __future__ import annotations

import pytest

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest, NotBuilt, PolicyInvalid
from bursar.money import Money
from bursar_policies.document import parse_documents
from bursar_policies.specs import CloudPoolSpec
from bursard.machines.opening import refuse_pools

WHOLE = """\
kind: CloudPool
name: rented
spec:
  provider: local
  regions: [home]
  zones: [home-a, home-b]
  offers: {gpus: [l4], instance_types: ["g6.*"], markets: [spot, on-demand]}
  limits: {machines: 16, spend_rate: 300 USD/h}
  keep_alive: 10s
  max_lifetime: 10m
  boot_timeout: 10s
"""


def spec(text: str) -> CloudPoolSpec:
    (document,) = parse_documents(text, "pool.yaml")
    assert isinstance(document.spec, CloudPoolSpec)
    return document.spec


def test_a_pool_is_read_as_it_stands() -> None:
    assert spec(WHOLE) == CloudPoolSpec(
        provider="local",
        machines=16,
        regions=("home",),
        zones=("home-a", "home-b"),
        gpus=("L4",),
        instance_types=("g6.*",),
        markets=("spot", "on-demand"),
        spend_rate=Money(300_000_000_000, "USD"),
        keep_alive_us=10 * SECOND_US,
        max_lifetime_us=600 * SECOND_US,
        boot_timeout_us=10 * SECOND_US,
    )


def test_what_is_left_out_is_any_machine_for_a_while() -> None:
    found = spec("kind: CloudPool\nname: p\nspec: {provider: local, limits: {machines: 0}}\n")
    assert found == CloudPoolSpec(provider="local", machines=0)
    assert (found.keep_alive_us, found.max_lifetime_us, found.boot_timeout_us) == (
        300 * SECOND_US,
        3 * DAY_US,
        900 * SECOND_US,
    )


WRONG = [
    ("provider: local", "provider: locl", "pool.yaml:4:13: spec.provider: ", "did you mean 'local'"),
    ("  limits: {machines: 16, spend_rate: 300 USD/h}\n", "", "pool.yaml:4:3: spec.limits", "is missing"),
    ("machines: 16", "machines: 1001", "pool.yaml:8", "1000"),
    ("machines: 16", "machine: 16", "pool.yaml:8", "did you mean 'machines'"),
    ("300 USD/h", "300 USD", "pool.yaml:8", "USD/h"),
    ("keep_alive: 10s", "keep_alive: 9s", "pool.yaml:9:15: spec.keep_alive: ", "must be from 10s to 1d"),
    ("max_lifetime: 10m", "max_lifetime: 31d", "pool.yaml:10", "must be from 600s to 30d"),
    ("boot_timeout: 10s", "boot_timeout: 2d", "pool.yaml:11", "must be from 10s to 1d"),
    ("[spot, on-demand]", "[spot, committed-1y]", "pool.yaml:7", "on-demand"),
    ("regions: [home]", "regions: []", "pool.yaml:5:12: spec.regions: ", "nothing could be rented"),
    ("regions: [home]", "region: [home]", "pool.yaml:5", "did you mean 'regions'"),
    ('["g6.*"]', '["g6 *"]', "pool.yaml:7", "a name of letters"),
]


@pytest.mark.parametrize(("old", "new", "place", "says"), WRONG, ids=str)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, place: str, says: str) -> None:
    assert old in WHOLE
    with pytest.raises(PolicyInvalid) as error:
        parse_documents(WHOLE.replace(old, new), "pool.yaml")
    assert place in str(error.value)
    assert says in str(error.value)


LATER = [
    ("provider: local", "provider: aws", "the provider aws"),
    ("  keep_alive", "  launch: {image: x}\n  keep_alive", "launch"),
    ("machines: 16", "machines: 16, per_job_machines: 4", "per_job_machines"),
]


@pytest.mark.parametrize(("old", "new", "what"), LATER, ids=str)
def test_what_is_not_built_is_refused_by_name(old: str, new: str, what: str) -> None:
    with pytest.raises(NotBuilt) as error:
        parse_documents(WHOLE.replace(old, new), "pool.yaml")
    assert f"{what} is part of the contract, not built yet" in str(error.value)


def test_a_daemon_that_rents_nothing_takes_no_pool() -> None:
    with pytest.raises(InvalidRequest, match=r"pool\.yaml:1: CloudPool rented: this daemon rents no"):
        refuse_pools(parse_documents(WHOLE, "pool.yaml"))
