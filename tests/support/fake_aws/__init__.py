"""EC2 and what belongs to it, on this machine: moto's server, and what moto lacks. See README.md here."""

from fake_aws.server import FakeAws, open_aws
from fake_aws.world import World

__all__ = ["FakeAws", "World", "open_aws"]
