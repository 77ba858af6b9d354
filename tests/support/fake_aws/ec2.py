"""What moto's EC2 lacks, put into it while the fake is open: idempotency, spot prices, offerings that hold,
capacity errors, and machines that take their time to come and to go.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest import mock

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.responses import EC2Response
from moto.ec2.utils import filter_dict_attribute_mapping

from fake_aws.world import World

REGIONS = ("us-east-1", "us-east-2")
"""Of the account: moto reads all images of a region when it is asked there first."""
SAYS = {
    "IdempotentParameterMismatch": "Arguments on this idempotent request are inconsistent with arguments used"
    " in previous request(s).",
    "IdempotentInstanceTerminated": "The client token you have provided is associated with a terminated"
    " instance. Please use a different client token.",
    "Unsupported": "Your requested instance type is not supported in your requested Availability Zone.",
}
_run, _terminate, _describe = (
    EC2Response.run_instances,
    EC2Response.terminate_instances,
    EC2Response.describe_instances,
)


def error(code: str) -> EC2ClientError:
    """As EC2 says it."""
    return EC2ClientError(code, SAYS.get(code, f"{code}, the fake says"))


@contextmanager
def patched(world: Callable[[], World]) -> Iterator[None]:
    """While this lasts, moto's EC2 does what it lacks. `world`: the one in force."""
    acts = {
        "run_instances": lambda self: _run_instances(self, world()),
        "terminate_instances": lambda self: _terminate_instances(self, world()),
        "describe_instances": lambda self: _describe_instances(self, world()),
        "describe_regions": lambda self: ActionResult(
            {"Regions": [{"RegionName": name, "OptInStatus": "opt-in-not-required"} for name in REGIONS]}
        ),
        "describe_spot_price_history": lambda self: _spot_prices(self, world()),
    }
    filters = mock.patch.dict(filter_dict_attribute_mapping, {"client-token": "client_token"})
    with filters, mock.patch.multiple(EC2Response, **acts):
        yield


def _zone_of(self: EC2Response) -> str:
    if zone := self._get_param("Placement.AvailabilityZone"):
        return str(zone)
    subnet = self._get_param("SubnetId")
    return str(self.ec2_backend.get_subnet(subnet).availability_zone) if subnet else f"{self.region}a"


def _run_instances(self: EC2Response, world: World) -> Any:
    kind, zone, token = self._get_param("InstanceType"), _zone_of(self), self._get_param("ClientToken") or ""
    said = {key: value for key, value in self.querystring.items() if key not in ("Signature", "Timestamp")}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    with world.lock:
        # With a zone named a token is of that zone: in another one it makes another machine.
        key = self.region, zone, token
        if token and key in world.tokens:
            before, answer, instance = world.tokens[key]
            if before != digest:
                raise error("IdempotentParameterMismatch")
            if instance in world.ended:
                raise error("IdempotentInstanceTerminated")
            return answer
        offered = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(self.region, [])
        if not any(one["InstanceType"] == kind and one["Location"] == zone for one in offered):
            raise error("Unsupported")
        known = {one.id for one in self.ec2_backend.all_instances()}
        answer = _run(self)
        for one in self.ec2_backend.all_instances():
            if one.id not in known:
                world.born[one.id] = world.now()
                one.launch_time = world.date()
                world.user_data[one.id] = _plain(self._get_param("UserData"))
                if token:
                    world.tokens[key] = digest, answer, one.id
        return answer


def _plain(data: str | None) -> str:
    return base64.b64decode(data).decode() if data else ""


def _terminate_instances(self: EC2Response, world: World) -> Any:
    _terminate(self)
    ids = self._get_param("InstanceIds", [])
    for instance in ids:
        world.ended.setdefault(instance, world.now())
    _settle(self, world)
    found = [one for one in self.ec2_backend.all_instances() if one.id in ids]
    states = [
        {"InstanceId": one.id, "CurrentState": {"Name": one._state.name, "Code": one._state.code}}
        for one in found
    ]
    return ActionResult({"TerminatingInstances": states})


def _describe_instances(self: EC2Response, world: World) -> Any:
    _settle(self, world)
    return _describe(self)


def _settle(self: EC2Response, world: World) -> None:
    """Every machine is what the time has made of it."""
    for one in self.ec2_backend.all_instances():
        ended, born = world.ended.get(one.id), world.born.get(one.id, 0)
        if ended is not None:
            gone = world.now() >= ended + world.ending_us
            one._state.name, one._state.code = ("terminated", 48) if gone else ("shutting-down", 32)
            if "spot" not in (one._reason or ""):
                one._reason = f"User initiated ({world.date(ended):%Y-%m-%d %H:%M:%S} GMT)"
        elif world.now() >= born + world.boot_us:
            one._state.name, one._state.code = "running", 16
        else:
            one._state.name, one._state.code = "pending", 0


def _spot_prices(self: EC2Response, world: World) -> ActionResult:
    kinds = self._get_param("InstanceTypes", [])
    start = self._get_param("StartTime")
    since = int(start.timestamp() * 1_000_000) if hasattr(start, "timestamp") else _micros(start)
    rows = []
    for (zone, kind), prices in sorted(world.spot.items()):
        if zone[:-1] != self.region or (kinds and kind not in kinds):
            continue
        later = [one for one in prices if one[0] > since]
        holding = [one for one in prices if one[0] <= since][-1:]
        rows += [
            {
                "InstanceType": kind,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": price,
                "AvailabilityZone": zone,
                "Timestamp": world.date(at),
            }
            for at, price in [*holding, *later]
        ]
    first, page = int(self._get_param("NextToken") or 0), int(self._get_param("MaxResults") or 1000)
    answer: dict[str, Any] = {"SpotPriceHistory": rows[first : first + page]}
    if first + page < len(rows):
        answer["NextToken"] = str(first + page)
    return ActionResult(answer)


def _micros(text: str | None) -> int:
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1_000_000) if text else 0
