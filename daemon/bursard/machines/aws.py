"""The provider `aws`: machines of EC2.

Owns    what is asked of EC2 to make, find and end machines.
Why     EC2 answers late, twice or not at all. An order's token makes the same order the same machine; tags
        say whose a machine is; and what we know of it is what `DescribeInstances` lists, region by region.

A machine's provider id is `REGION/INSTANCE`: EC2 knows an instance only in its region. It is switched off by
itself when its lifetime is over, and one that is switched off is terminated.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from bursar.clock import HOUR_US, SECOND_US
from bursard.machines import aws_check, userdata
from bursard.machines.aws_offers import Offers
from bursard.machines.aws_wire import (
    TAG_CLUSTER,
    TAG_MACHINE,
    Answer,
    Clients,
    asked,
    equals,
    failure_of,
    instance_of,
    instances,
    paged,
)
from bursard.machines.errors import error_of
from bursard.machines.provider import (
    SWEEP_US,
    Billing,
    Capabilities,
    Check,
    CloudError,
    CloudEvent,
    CostRow,
    Instance,
    MachineOffer,
    Needs,
    Order,
    Place,
    PoolTerms,
    PricePoint,
    Provider,
    Quota,
    Wanted,
    setting,
)

log = logging.getLogger(__name__)

FIRST_REGION: Final = "us-east-1"
"""Asked which regions an account has."""
PAGE: Final = 1_000
USER_DATA_BYTES_MAX: Final = 16_384
GONE_KEPT: Final = 10_000
SUBNET_US: Final = 600 * SECOND_US
"""So long a zone of which a pool names no subnet is left alone: the pool may be mended."""


def open_provider(needs: Needs) -> Provider:
    """Of the account that the default chain of credentials names."""
    return AwsProvider(needs, Clients())


class AwsProvider:
    """See `Provider`. `page`: rows of an answer."""

    name = "aws"
    capabilities = Capabilities(
        billing=Billing(least_us=60 * SECOND_US, interrupted_free_us=HOUR_US),
        notice_us=120 * SECOND_US,
        own_lifetime=True,
        calm_us=30 * SECOND_US,
    )

    def __init__(self, needs: Needs, clients: Clients, page: int = PAGE) -> None:
        self._needs = needs
        self._clients = clients
        self._page = page
        self._offers = Offers(clients, needs, page)
        self._lively: set[str] = set()
        """Regions where something of ours was in the newest list, or was asked for since."""
        self._swept_at = -SWEEP_US
        self._gone: dict[str, int] = {}

    # --- what is asked

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        """Who we are, what we may do, and whether machines of these pools could be made, by dry run."""
        return list(aws_check.checks(self._clients, self._offers, pools, self._asking))

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        """What could be asked for now; nothing of regions that are not named."""
        return self._offers.of(wanted)

    def prices(self, since: int) -> list[PricePoint]:
        """Of what was offered so far."""
        return self._offers.points(since)

    def quotas(self, region: str) -> list[Quota]:
        """In vCPUs, by what they are of."""
        return aws_check.quotas(self._clients, self._offers, region, self._page)

    def create(self, order: Order) -> str:
        """`RunInstances` of one. It is listed by its tag from then on, seconds later."""
        region = order.place.region
        client = self._clients.of("ec2", region)
        self._refuse_beyond_quota(order.place)
        self._lively.add(region)
        answer = asked(lambda: client.run_instances(**self._asking(order)), order.place)
        try:
            (made,) = answer["Instances"]
            return f"{region}/{made['InstanceId']}"
        except (KeyError, ValueError, TypeError):
            said = "its answer names no instance, or several"
            raise error_of("aws", "NonsenseAnswer", said, order.place) from None

    def poll(self, provider_id: str) -> Instance:
        """One machine."""
        rows = list(self._rows([provider_id]))
        if not rows:
            raise error_of("aws", "InvalidInstanceID.NotFound", f"there is no machine {provider_id}")
        region, row = rows[0]
        found = self._instance(region, row)
        failure = failure_of(row, found.place)
        if failure is not None:
            raise failure
        return found

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        """Some machines."""
        found: dict[str, Instance | None] = dict.fromkeys(provider_ids)
        for region, row in self._rows(provider_ids):
            one = self._instance(region, row)
            found[one.provider_id] = one
        return found

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        """In these regions and where anything of ours was; in all of the account every ten minutes."""
        must = {*regions, *self._lively}
        sweep = abs(self._needs.now() - self._swept_at) >= SWEEP_US
        found: list[Instance] = []
        lively = set()
        for region in sorted(must | (set(self._regions(bool(must))) if sweep else set())):
            try:
                listed = self._owned(cluster, region)
            except CloudError as error:
                if region in must:
                    raise
                # One that is closed to us has nothing of ours; another one is asked at the next sweep.
                log.info("a region is not listed", extra={"region": region, "why": str(error)})
                continue
            found += listed
            if any(not one.gone for one in listed):
                lively.add(region)
        if sweep:
            self._swept_at = self._needs.now()
        self._lively = lively
        return found

    def terminate(self, provider_id: str) -> bool:
        """`TerminateInstances`; gone is what is terminated, or was never there."""
        region, _, instance_id = provider_id.partition("/")
        if not instance_id:
            return True
        client = self._clients.of("ec2", region)
        try:
            answer = asked(lambda: client.terminate_instances(InstanceIds=[instance_id]))
        except CloudError as error:
            if error.code == "InvalidInstanceID.NotFound":
                return True
            raise
        states = [one["CurrentState"]["Name"] for one in answer.get("TerminatingInstances") or ()]
        return states == ["terminated"]

    def events(self, since: int) -> list[CloudEvent]:
        """Machines that it took back, or could not make run, of what is still listed."""
        rows = [
            self._instance(region, row)
            for region in sorted(self._lively)
            for row in instances(
                self._clients.of("ec2", region), [equals("tag-key", TAG_CLUSTER)], self._page
            )
        ]
        found = [
            CloudEvent(
                at=one.billed_until or one.created_at,
                provider_id=one.provider_id,
                kind="interrupted" if one.interrupted else "failed",
                message=one.message,
            )
            for one in rows
            if one.interrupted or (one.gone and not one.billed_from)
        ]
        return sorted((one for one in found if one.at >= since), key=lambda one: one.at)

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        """Nothing: AWS bills a day later, by reports that are not read here."""
        return ()

    # --- inside

    def _asking(self, order: Order) -> dict[str, Any]:
        """What `RunInstances` is asked. The same for the same order, or its token would be refused."""
        place, launch = order.place, order.launch
        text = userdata.script(order, self.name, off_is_gone=True)
        if len(text.encode()) > USER_DATA_BYTES_MAX:
            said = f"the user data would be over {USER_DATA_BYTES_MAX} bytes; shorten launch.bootstrap"
            raise error_of("aws", "InvalidParameterValue", said, place)
        asking: dict[str, Any] = {
            "ImageId": setting(launch, "image", place),
            "InstanceType": place.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": token_of(order),
            "UserData": text,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "Placement": {"AvailabilityZone": place.zone},
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": _tags(order)} for kind in ("instance", "volume")
            ],
        }
        if place.market == "spot":
            # No highest price: EC2 takes a machine back for its capacity, and never asks more than on demand.
            options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            asking["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        if subnet := setting(launch, "subnet", place):
            asking["SubnetId"] = subnet
        elif any(one.key == "subnet" for one in launch):
            error = error_of("aws", "Unsupported", f"launch.subnet names none in {place.zone}", place)
            error.ttl_us = SUBNET_US
            raise error
        if group := setting(launch, "security_group", place):
            asking["SecurityGroupIds"] = [group]
        if profile := setting(launch, "instance_profile", place):
            asking["IamInstanceProfile"] = {"Name": profile}
        if key_name := setting(launch, "key_name", place):
            asking["KeyName"] = key_name
        if disk := setting(launch, "disk", place):
            device = aws_check.root_device(self._clients, place.region, asking["ImageId"])
            size = {
                "VolumeSize": int(disk.removesuffix("GiB")),
                "VolumeType": "gp3",
                "DeleteOnTermination": True,
            }
            asking["BlockDeviceMappings"] = [{"DeviceName": device, "Ebs": size}]
        return asking

    def _refuse_beyond_quota(self, place: Place) -> None:
        """Without asking for it: a new account may have no GPU. A quota that we may not see stops nothing."""
        try:
            shape = self._offers.shapes(place.region, (place.instance_type,)).get(place.instance_type)
            key, ask = ("limits", place.region), lambda: aws_check.limits(self._clients, place.region)
            limits = self._offers.keep(key, HOUR_US, ask)
        except CloudError as error:
            log.info("the quotas are not known", extra={"region": place.region, "why": str(error)})
            return
        if shape is not None:
            aws_check.refuse_beyond(limits, place, shape.cpu_milli // 1000)

    def _owned(self, cluster: str, region: str) -> list[Instance]:
        client, filters = self._clients.of("ec2", region), [equals(f"tag:{TAG_CLUSTER}", cluster)]
        return [self._instance(region, row) for row in instances(client, filters, self._page)]

    def _rows(self, provider_ids: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """(region, instance). By a filter: of one that is unknown an id would refuse all of them."""
        by_region: dict[str, list[str]] = {}
        for provider_id in provider_ids:
            region, _, instance_id = provider_id.partition("/")
            if instance_id:
                by_region.setdefault(region, []).append(instance_id)
        for region, ids in sorted(by_region.items()):
            for start in range(0, len(ids), 200):
                filters = [equals("instance-id", *ids[start : start + 200])]
                for row in instances(self._clients.of("ec2", region), filters, self._page):
                    yield region, row

    def _instance(self, region: str, row: Answer) -> Instance:
        return instance_of(row, region, self._first_gone)

    def _first_gone(self, provider_id: str) -> int:
        while len(self._gone) >= GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        return self._gone.setdefault(provider_id, self._needs.now())

    def _regions(self, others: bool) -> list[str]:
        """Those of the account that are open. `others`: there are some to be asked anyway."""
        client = self._clients.of("ec2", FIRST_REGION)
        try:
            rows = list(paged(client.describe_regions, "Regions"))
        except CloudError as error:
            if not others:
                raise
            log.warning("the regions of the account are not known", extra={"why": str(error)})
            return []
        return [row["RegionName"] for row in rows]


def token_of(order: Order) -> str:
    """The same for the same order of the same cluster, and for no other one."""
    text = f"{order.cluster}/{order.machine_id}"
    return "bursar-" + hashlib.sha256(text.encode()).hexdigest()[:48]


def _tags(order: Order) -> list[dict[str, str]]:
    tags = {
        "Name": order.join.name,
        TAG_CLUSTER: order.cluster,
        TAG_MACHINE: order.machine_id,
        "bursar-pool": order.join.pool,
        "bursar-lifetime-s": str(order.lifetime_us // SECOND_US),
    }
    return [{"Key": key, "Value": value} for key, value in tags.items()]
