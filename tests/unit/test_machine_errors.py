"""What providers' error codes mean, and what is remembered of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import astuple

from bursar.clock import HOUR_US, SECOND_US, parse_duration
from bursard.machines.errors import FAMILY_AFTER, TABLES, UNKNOWN, Blocks, error_of, family_of
from bursard.machines.provider import Billing, Kind, Place

MINUTE_US = 60 * SECOND_US
SPOT = Place("us-east-1", "us-east-1a", "p5", "p5.48xlarge", "spot")
LISTED = Place("us-east-1", "us-east-1a", "p5", "p5.48xlarge", "on-demand")

MEANT = [
    ("aws", "InsufficientInstanceCapacity", SPOT, Kind.CAPACITY, 3 * MINUTE_US, False),
    ("aws", "Unsupported", SPOT, Kind.NOT_OFFERED, 24 * HOUR_US, False),
    ("aws", "VcpuLimitExceeded", LISTED, Kind.QUOTA, 10 * MINUTE_US, False),
    ("aws", "RequestLimitExceeded", SPOT, Kind.THROTTLED, 0, True),
    ("aws", "IdempotentInstanceTerminated", SPOT, Kind.CONFLICT, 0, False),
    ("aws", "ExpiredToken", SPOT, Kind.AUTH, 10 * MINUTE_US, False),
    ("gcp", "ZONE_RESOURCE_POOL_EXHAUSTED", SPOT, Kind.CAPACITY, 5 * MINUTE_US, False),
    ("gcp", "RESOURCE_NOT_FOUND", SPOT, Kind.CAPACITY, 5 * MINUTE_US, False),
    ("azure", "ZonalAllocationFailed", SPOT, Kind.CAPACITY, HOUR_US, False),
    ("azure", "SkuNotAvailable", SPOT, Kind.CAPACITY, HOUR_US, False),
    ("azure", "SkuNotAvailable", LISTED, Kind.NOT_OFFERED, 23 * HOUR_US, False),
    ("azure", "OperationNotAllowed", SPOT, Kind.QUOTA, HOUR_US, False),
    ("azure", "OperationNotAllowed", LISTED, Kind.QUOTA, 10 * MINUTE_US, False),
    ("aws", "SomethingNew", SPOT, Kind.THROTTLED, 0, True),
]


@pytest.mark.parametrize(("cloud", "code", "place", "kind", "ttl_us", "maybe"), MEANT, ids=str)
def test_a_code_is_read_by_its_clouds_table(
    cloud: str, code: str, place: Place, kind: Kind, ttl_us: int, maybe: bool
) -> None:
    error = error_of(cloud, code, "said so", place)
    assert (error.kind, error.ttl_us, error.maybe_created) == (kind, ttl_us, maybe)
    assert str(error) == f"{code}: said so"
    assert error.scope is None or error.scope.covers(place)


CODES = Path(__file__).parents[1] / "fixtures/cloud_codes.txt"
"""What the clouds' documents say of their codes. `?`: a machine may have been made all the same."""


@pytest.mark.parametrize(
    "line", CODES.read_text().splitlines()[1:], ids=lambda line: line.rpartition("  ")[2]
)
def test_every_code_of_a_clouds_documents_is_of_its_kind_and_leaves_its_places_alone(line: str) -> None:
    cloud, kind, places, time, *codes = line.split()
    for code in codes:
        error = error_of(cloud, code, "", SPOT)
        assert f"{error.kind.value}{'?' * error.maybe_created}" == kind, code
        assert ("-" if error.scope is None else "/".join(astuple(error.scope))) == places, code
        assert error.ttl_us == parse_duration(time), code


def test_no_code_is_read_that_no_document_has() -> None:
    lines = [line.split() for line in CODES.read_text().splitlines()[1:]]
    written = {(cloud, code) for cloud, _, _, _, *codes in lines for code in codes}
    assert {(cloud, code.partition("/")[0]) for cloud, table in TABLES.items() for code in table} == written


def test_a_code_that_nobody_knows_is_never_read_as_nothing_was_made() -> None:
    assert UNKNOWN.maybe_created
    assert all("Unknown" not in table for table in TABLES.values())


SCOPES = [
    ("aws", "InsufficientInstanceCapacity", Place("us-east-1", "us-east-1a", "", "p5.48xlarge", "spot")),
    ("aws", "Unsupported", Place("us-east-1", "us-east-1a", "", "p5.48xlarge", "")),
    ("aws", "VcpuLimitExceeded", Place("us-east-1", "", "p5", "", "spot")),
    ("aws", "AuthFailure", Place()),
    ("aws", "RequestLimitExceeded", None),
    ("azure", "OperationNotAllowed", Place("us-east-1", "", "", "", "spot")),
    ("azure", "VMSizeNotSupported", Place("us-east-1", "", "", "p5.48xlarge", "")),
]


@pytest.mark.parametrize(("cloud", "code", "scope"), SCOPES, ids=str)
def test_a_code_speaks_of_its_places_and_of_no_other(cloud: str, code: str, scope: Place | None) -> None:
    assert error_of(cloud, code, "", SPOT).scope == scope


def test_what_was_said_is_believed_until_its_time_is_over() -> None:
    blocks = Blocks()
    blocks.add(error_of("aws", "InsufficientInstanceCapacity", "none", SPOT), 100)
    block = blocks.of(SPOT, 100 + 3 * MINUTE_US - 1)
    assert block is not None
    assert block.why == "InsufficientInstanceCapacity: none"
    assert blocks.of(LISTED, 100) is None
    assert blocks.of(SPOT, 100 + 3 * MINUTE_US) is None


def test_a_family_that_is_out_of_stock_type_after_type_is_left_alone_in_its_zone() -> None:
    blocks = Blocks()
    for number in range(FAMILY_AFTER):
        other = Place("us-east-1", "us-east-1a", "p5", "p5.96xlarge", "spot")
        assert blocks.of(other, 1) is None
        place = Place("us-east-1", "us-east-1a", "p5", f"p5.{number}xlarge", "spot")
        blocks.add(error_of("aws", "InsufficientInstanceCapacity", "none", place), 1)
    block = blocks.of(other, 1)
    assert block is not None
    assert block.why == "3 types of p5 are out of stock there"
    assert blocks.of(Place("us-east-1", "us-east-1b", "p5", "p5.96xlarge", "spot"), 1) is None
    assert blocks.of(Place("us-east-1", "us-east-1a", "g6", "g6.xlarge", "spot"), 1) is None
    assert blocks.of(Place("us-east-1", "us-east-1a", "p5", "p5.96xlarge", "on-demand"), 1) is None


def test_a_family_is_not_left_alone_for_what_other_places_lack() -> None:
    blocks = Blocks()
    other = Place("us-east-1", "us-east-1a", "p5", "p5.96xlarge", "spot")
    for number, (zone, market) in enumerate(
        (("us-east-1a", "spot"), ("us-east-1b", "spot"), ("us-east-1a", ""))
    ):
        place = Place("us-east-1", zone, "p5", f"p5.{number}xlarge", market)
        blocks.add(error_of("aws", "InsufficientInstanceCapacity", "none", place), 1)
    for number in range(FAMILY_AFTER):
        place = Place("us-east-1", "us-east-1a", "p5", f"p5.{number + 9}xlarge", "spot")
        blocks.add(error_of("aws", "Unsupported", "none", place), 1)
        place = Place("us-east-1", "us-east-1a", "g6", f"g6.{number}xlarge", "spot")
        blocks.add(error_of("aws", "InsufficientInstanceCapacity", "none", place), 1)
    assert blocks.of(other, 1) is None


def test_an_answer_that_says_less_shortens_nothing() -> None:
    blocks = Blocks()
    blocks.add(error_of("gcp", "insufficientCapacity", "none", SPOT), 50)
    blocks.add(error_of("gcp", "insufficientCapacity", "none", SPOT), 1)
    assert blocks.of(SPOT, 5 * MINUTE_US + 49) is not None


@pytest.mark.parametrize(
    ("instance_type", "family"),
    [
        ("p5.48xlarge", "p5"),
        ("a3-highgpu-8g", "a3"),
        ("Standard_ND96isr_H100_v5", "Standard_ND"),
        ("Standard_NC24ads_A100_v4", "Standard_NC"),
        ("tiny", "tiny"),
    ],
)
def test_types_that_share_a_quota_are_one_family(instance_type: str, family: str) -> None:
    assert family_of(instance_type) == family


@pytest.mark.parametrize(
    ("ran_s", "interrupted", "billed_s"),
    [(0, False, 60), (59, False, 60), (60, False, 60), (61, False, 61), (3599, True, 0), (3600, True, 3600)],
)  # fmt: skip
def test_a_machine_is_billed_by_its_providers_rule(ran_s: int, interrupted: bool, billed_s: int) -> None:
    aws = Billing(interrupted_free_us=HOUR_US)
    assert aws.billed_us(ran_s * SECOND_US, interrupted=interrupted) == billed_s * SECOND_US
    assert aws.nanos(3_600, ran_s * SECOND_US, interrupted=interrupted) == billed_s
