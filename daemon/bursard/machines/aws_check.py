"""Whether machines can be rented from AWS: who we are, what we may do, and how much of it; nothing is made.

Why     what is wrong shows at the first launch, when a job waits for it. A dry run asks EC2 the same thing
        before, and EC2 says what it would have said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bursar.clock import HOUR_US
from bursard.machines.aws_offers import Offers
from bursard.machines.aws_wire import Clients, asked, equals, instances, paged
from bursard.machines.errors import error_of, family_of
from bursard.machines.provider import (
    Check,
    CloudError,
    Join,
    Kind,
    MachineOffer,
    Order,
    Place,
    PoolTerms,
    Quota,
    setting,
    unknown,
)

_DRY: Final = "DryRunOperation"
_QUOTA_OF: Final = (
    ("on-demand", re.compile(r"Running On-Demand (.+) instances")),
    ("spot", re.compile(r"All (.+) Spot Instance Requests")),
)
_FAMILY: Final = re.compile(r"\b[A-Z]{1,4}[0-9]*\b")
REMEDIES: Final[Mapping[Kind, str]] = {
    Kind.AUTH: "grant what docs/clouds.md lists under AWS, to the account that bursard runs with",
    Kind.INVALID: "mend launch of CloudPool {pool}",
    Kind.QUOTA: "ask AWS for a higher quota, or name other machines",
    Kind.NOT_OFFERED: "name other zones or machines in CloudPool {pool}",
}


def checks(
    clients: Clients,
    offers: Offers,
    pools: Sequence[PoolTerms],
    asking: Callable[[Order], dict[str, Any]],
) -> Iterator[Check]:
    """Everything that can be known without renting. `asking`: what would be asked for an order."""
    first = next((region for pool in pools for region in pool.wanted.regions), "us-east-1")
    try:
        who = asked(lambda: clients.of("sts", first).get_caller_identity())
    except CloudError as error:
        remedy = "give bursard credentials in its environment, as docs/clouds.md has it under AWS"
        yield unknown(error, "AWS", remedy)
        return
    yield Check("credentials", True, f"{who.get('Arn', 'somebody')} of account {who.get('Account', '?')}")
    for pool in pools:
        for region in pool.wanted.regions:
            yield _launches(clients, offers, pool, region, asking)
    if offers.refused:
        says = f"prices on demand are those of the price books, not of today: {offers.refused}"
        yield Check("prices", True, says, "allow pricing:GetProducts")


def _launches(
    clients: Clients,
    offers: Offers,
    pool: PoolTerms,
    region: str,
    asking: Callable[[Order], dict[str, Any]],
) -> Check:
    """Would EC2 make the cheapest machine of a pool in a region?"""
    name = f"launch {pool.name} {region}"
    try:
        wanted = [one for one in offers.of(pool.wanted) if one.place.region == region]
        if not wanted:
            says = "no machine with a known price is one that it names there"
            return Check(name, False, says, f"mend regions, zones and offers of CloudPool {pool.name}")
        cheapest = min(wanted, key=lambda one: one.rate_nanos_per_hour)
        call = asking(_order(pool, cheapest))
        del call["ClientToken"]
        asked(lambda: clients.of("ec2", region).run_instances(DryRun=True, **call), cheapest.place)
    except CloudError as error:
        if error.code == _DRY:
            return Check(name, True, f"EC2 would make a {cheapest.place.instance_type}")
        return Check(name, False, str(error), REMEDIES.get(error.kind, "").format(pool=pool.name))
    return Check(name, False, "EC2 took a dry run for a real one", "look at what runs there now")


def _order(pool: PoolTerms, offer: MachineOffer) -> Order:
    server = setting(pool.launch, "server", offer.place)
    join = Join(server=server, name=pool.name, pool=pool.name, token="dry-run")
    return Order(
        machine_id="dry-run",
        cluster="dry-run",
        place=offer.place,
        join=join,
        lifetime_us=HOUR_US,
        launch=pool.launch,
    )


def root_device(clients: Clients, region: str, image: str) -> str:
    """The name of the root disk of an image. Raises `CloudError`."""
    if image.startswith("resolve:ssm:"):
        name = image.removeprefix("resolve:ssm:")
        found = asked(lambda: clients.of("ssm", region).get_parameter(Name=name))
        image = str(found["Parameter"]["Value"])
    images = asked(lambda: clients.of("ec2", region).describe_images(ImageIds=[image])).get("Images") or ()
    if not images:
        raise error_of("aws", "InvalidAMIID.NotFound", f"there is no image {image}", Place(region))
    return str(images[0].get("RootDeviceName") or "/dev/xvda")


class Limit(NamedTuple):
    """A quota. `said`: the families that it is of, as its name says them."""

    market: str
    said: str
    vcpus: int
    name: str


def limits(clients: Clients, region: str) -> list[Limit]:
    """How many vCPUs the account may have in a region. Raises `CloudError`."""
    rows = paged(clients.of("service-quotas", region).list_service_quotas, "Quotas", ServiceCode="ec2")
    return [
        Limit(market, found[1], int(row["Value"]), str(row["QuotaName"]))
        for row in rows
        for market, pattern in _QUOTA_OF
        if (found := pattern.fullmatch(str(row.get("QuotaName", ""))))
    ]


def refuse_beyond(known: Sequence[Limit], place: Place, vcpus: int) -> None:
    """Raise `CloudError` for a machine that is larger than all that the account may have of its kind."""
    for limit in known:
        if limit.market == place.market and vcpus > limit.vcpus and covers(limit.said, place.family):
            said = (
                f"the quota {limit.name!r} is {limit.vcpus} vCPUs, and a {place.instance_type} has {vcpus};"
                " ask AWS for more"
            )
            error = error_of("aws", "VcpuLimitExceeded", said, place)
            error.ttl_us = HOUR_US
            raise error


def quotas(clients: Clients, offers: Offers, region: str, page: int) -> list[Quota]:
    """In vCPUs, with what runs of each now, whoever runs it."""
    known = limits(clients, region)
    running = _running(clients, offers, region, page)
    return [
        Quota(
            scope=Place(region=region, market=market),
            limit=limit,
            used=sum(
                vcpus for (family, of), vcpus in running.items() if of == market and covers(said, family)
            ),
            name=name,
            unit="vCPUs",
        )
        for market, said, limit, name in known
    ]


def covers(said: str, family: str) -> bool:
    """Is a family among those that a quota's name says: `P` is `p4d` and `p5`, `P5` is `p5` and `p5en`?"""
    family = family.upper()
    letters = family[: next((at for at, sign in enumerate(family) if not sign.isalpha()), len(family))]
    return any(
        family.startswith(word) if word[-1].isdigit() else letters == word for word in _FAMILY.findall(said)
    )


def _running(clients: Clients, offers: Offers, region: str, page: int) -> dict[tuple[str, str], int]:
    """VCPUs by family and market."""
    filters = [equals("instance-state-name", "pending", "running")]
    kinds: dict[tuple[str, str], int] = {}
    for row in instances(clients.of("ec2", region), filters, page):
        key = row["InstanceType"], row.get("InstanceLifecycle", "on-demand")
        kinds[key] = kinds.get(key, 0) + 1
    shapes = offers.shapes(region, tuple(sorted({kind for kind, _ in kinds}))) if kinds else {}
    found: dict[tuple[str, str], int] = {}
    for (kind, market), count in kinds.items():
        if kind in shapes:
            key = family_of(kind), market
            found[key] = found.get(key, 0) + count * shapes[kind].cpu_milli // 1000
    return found
