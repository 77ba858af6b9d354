"""The fake account, judged by other people's client: Apache Libcloud speaks EC2 by its own code, not boto3's.

Why     a provider and a fake by the same hands can be wrong together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cloud_stands.aws import AwsStand
from fake_aws.server import IMAGE

from bursar.clock import HOUR_US
from bursard.machines.provider import InstanceState, Join, Order


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[AwsStand]:
    made = AwsStand(tmp_path)
    yield made
    made.close()


@pytest.fixture
def judge(stand: AwsStand) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from libcloud.compute.providers import get_driver
        from libcloud.compute.types import Provider

    at = urlsplit(stand.fake.url)
    return get_driver(Provider.EC2)(
        "AKIAFAKE", "fake-secret-key", region="us-east-1", host=at.hostname, port=at.port, secure=False,
        signature_version="4",
    )  # fmt: skip


def order(stand: AwsStand) -> Order:
    join = Join(server="grpcs://bursar.example:7443", name="pool-1", pool="pool", token="node_secret")
    return Order(
        machine_id="mach_1", cluster="cluster_1", place=stand.spot_here, join=join, lifetime_us=HOUR_US,
        launch=stand.launch,
    )  # fmt: skip


def test_another_client_sees_what_we_made_and_ends_it(stand: AwsStand, judge: Any) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    (seen,) = judge.list_nodes(ex_filters={"tag:bursar-cluster": "cluster_1"})
    assert f"us-east-1/{seen.id}" == key
    assert (seen.state, seen.extra["instance_type"], seen.extra["availability"]) == (
        "running",
        "g6.xlarge",
        "us-east-1a",
    )
    assert judge.ex_describe_tags(seen)["bursar-machine"] == "mach_1"
    assert judge.destroy_node(seen)
    stand.pass_time()
    (gone,) = stand.provider.list_owned("cluster_1", ["us-east-1"])
    assert gone.state is InstanceState.GONE
    assert not gone.interrupted


def test_what_another_client_makes_is_not_ours_and_its_token_makes_it_once(
    stand: AwsStand, judge: Any
) -> None:
    from libcloud.compute.base import NodeImage

    size = next(one for one in judge.list_sizes() if one.id.startswith("p4d."))
    asked = {"name": "theirs", "image": NodeImage(IMAGE, None, judge), "size": size, "ex_clienttoken": "t-1"}
    first, second = judge.create_node(**asked), judge.create_node(**asked)
    assert first.id == second.id
    assert stand.provider.list_owned("cluster_1", ["us-east-1"]) == []
    assert len(judge.list_nodes()) == 1
