"""Where the provider `aws` stands: moto's server with what it lacks, on this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from fake_aws.server import IMAGE, open_aws

from bursar.clock import SECOND_US, VirtualClock
from bursar_policies.specs import LaunchSetting
from bursard.machines.aws import AwsProvider
from bursard.machines.aws_wire import Clients
from bursard.machines.errors import TABLES
from bursard.machines.provider import Kind, Needs, Place

_ACTIONS = {"create": "RunInstances", "terminate": "TerminateInstances", "list": "DescribeInstances"}
_CODES = {
    Kind.CAPACITY: "InsufficientInstanceCapacity",
    Kind.QUOTA: "VcpuLimitExceeded",
    Kind.AUTH: "UnauthorizedOperation",
    Kind.THROTTLED: "RequestLimitExceeded",
}


class AwsStand:
    """The provider `aws` in front of a fake account."""

    here = Place("us-east-1", "us-east-1a", "g6", "g6.xlarge", "on-demand")
    spot_here = Place("us-east-1", "us-east-1a", "g6", "g6.xlarge", "spot")
    launch = (
        LaunchSetting("server", "grpcs://bursar.example:7443"),
        LaunchSetting("image", IMAGE),
        LaunchSetting("disk", "200GiB"),
    )
    never = "us-east-1/i-0123456789abcdef0"
    codes = tuple(TABLES["aws"])

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.fake = open_aws()
        self.world = world = self.fake.new_world(self.clock.now)
        began = self.clock.now() - 3600 * SECOND_US
        for kind, price in {"g6.xlarge": "0.8048", "g6.2xlarge": "0.9776", "p5.48xlarge": "55.04"}.items():
            world.on_demand["us-east-1", kind] = price
        world.spot["us-east-1a", "g6.xlarge"] = [(began, "0.3500"), (began + 60 * SECOND_US, "0.3219")]
        world.spot["us-east-1b", "g6.xlarge"] = [(began, "0.8000")]
        world.quotas = {
            "Running On-Demand G and VT instances": 64.0,
            "All G and VT Spot Instance Requests": 8.0,
            "Running On-Demand P instances": 0.0,
            "EC2-VPC Elastic IPs": 5.0,
        }
        self.provider = self.again()

    def again(self) -> AwsProvider:
        needs = Needs(now=self.clock.now, currency="USD", rate=lambda place: None)
        return AwsProvider(needs, Clients(self.fake.client), page=5)

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        action, lost, _ = call.partition("-lost")
        self.world.fail(_ACTIONS[action], _CODES[kind], after=bool(lost))
        return nullcontext()

    def say(self, code: str) -> None:
        self.world.fail("RunInstances", code)

    def pass_time(self) -> None:
        self.clock.advance(30 * SECOND_US)

    def take_back(self, provider_id: str) -> None:
        self.fake.take_back(provider_id.partition("/")[2])

    def told(self) -> str:
        return repr(self.world.asked)

    def handed(self, provider_id: str) -> str:
        return self.world.user_data[provider_id.partition("/")[2]]

    def close(self) -> None:
        """The server is the next test's too."""
