"""What each provider's error codes mean: of what kind they are, of which places they speak, and how long.

Owns    one table for each cloud, and `Blocks`, which remembers what was said.
Why     asking again where there is nothing costs calls and time; not asking where there is something costs
        money. A code that is not in the table is never read as "no machine was made".

A stock-out speaks of one type in one zone. Clouds are short of whole families at once, and then one call for
each type of them is a storm: after `FAMILY_AFTER` of them in a zone, the family is left alone there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple

from bursar.clock import HOUR_US, SECOND_US
from bursard.machines.provider import CloudError, Kind, Place

MINUTE_US: Final = 60 * SECOND_US
FAMILY_AFTER: Final = 3
"""Types of a family that are out of stock in a zone, before all of it is left alone there."""


class Reach(Enum):
    """Of which places a code speaks, seen from the one that was asked for: what must be the same."""

    NOTHING = frozenset[str]()
    PROVIDER = ("provider",)
    TYPE_ZONE = ("region", "zone", "instance_type")
    TYPE_REGION = ("region", "instance_type")
    TYPE_ZONE_MARKET = ("region", "zone", "instance_type", "market")
    TYPE_REGION_MARKET = ("region", "instance_type", "market")
    FAMILY_REGION_MARKET = ("region", "family", "market")
    REGION_MARKET = ("region", "market")

    def of(self, place: Place) -> Place | None:
        """What is spoken of when this was asked for; None: of no place."""
        if self is Reach.NOTHING:
            return None
        return Place(**{part: getattr(place, part) for part in self.value if part != "provider"})


class Meaning(NamedTuple):
    """What one code means. `ttl_us` 0: until a person has done something, or not at all."""

    kind: Kind
    reach: Reach
    ttl_us: int
    maybe_created: bool = False


_THROTTLED: Final = Meaning(Kind.THROTTLED, Reach.NOTHING, 0, maybe_created=True)
_REFUSED: Final = Meaning(Kind.THROTTLED, Reach.NOTHING, 0)
_CONFLICT: Final = Meaning(Kind.CONFLICT, Reach.NOTHING, 0, maybe_created=True)
_AUTH: Final = Meaning(Kind.AUTH, Reach.PROVIDER, 10 * MINUTE_US)
_MISSING: Final = Meaning(Kind.MISSING, Reach.NOTHING, 0)
_INVALID: Final = Meaning(Kind.INVALID, Reach.TYPE_REGION, 10 * MINUTE_US)
UNKNOWN: Final = Meaning(Kind.THROTTLED, Reach.NOTHING, 0, maybe_created=True)
"""Of a code that is in no table: nobody knows whether a machine was made."""

_AWS_CAPACITY: Final = Meaning(Kind.CAPACITY, Reach.TYPE_ZONE_MARKET, 3 * MINUTE_US)
_GCP_CAPACITY: Final = Meaning(Kind.CAPACITY, Reach.TYPE_ZONE_MARKET, 5 * MINUTE_US)
_AZURE_CAPACITY: Final = Meaning(Kind.CAPACITY, Reach.TYPE_ZONE_MARKET, HOUR_US)
_QUOTA: Final = Meaning(Kind.QUOTA, Reach.FAMILY_REGION_MARKET, 10 * MINUTE_US)
_NOT_OFFERED: Final = Meaning(Kind.NOT_OFFERED, Reach.TYPE_ZONE, 24 * HOUR_US)

TABLES: Final[Mapping[str, Mapping[str, Meaning]]] = {
    "aws": {
        "InsufficientInstanceCapacity": _AWS_CAPACITY,
        "UnfulfillableCapacity": _AWS_CAPACITY,
        "InsufficientFreeAddressesInSubnet": _AWS_CAPACITY,
        "MaxFleetCountExceeded": _AWS_CAPACITY,
        "InsufficientCapacity": _AWS_CAPACITY,
        "InsufficientHostCapacity": _AWS_CAPACITY,
        "SpotMaxPriceTooLow": _AWS_CAPACITY,
        "Unsupported": _NOT_OFFERED,
        "MaxSpotInstanceCountExceeded": _QUOTA,
        "VcpuLimitExceeded": _QUOTA,
        "InstanceLimitExceeded": _QUOTA,
        "RequestLimitExceeded": _THROTTLED,
        "Throttling": _THROTTLED,
        "ThrottlingException": _THROTTLED,
        "EC2ThrottledException": _THROTTLED,
        "InternalError": _THROTTLED,
        "InternalFailure": _THROTTLED,
        "ServiceUnavailable": _THROTTLED,
        "Unavailable": _THROTTLED,
        "IdempotentParameterMismatch": _CONFLICT,
        "IdempotentInstanceTerminated": Meaning(Kind.CONFLICT, Reach.NOTHING, 0),
        "AuthFailure": _AUTH,
        "UnauthorizedOperation": _AUTH,
        "ExpiredToken": _AUTH,
        "RequestExpired": _AUTH,
        "InvalidClientTokenId": _AUTH,
        "SignatureDoesNotMatch": _AUTH,
        "OptInRequired": _AUTH,
        "PendingVerification": _AUTH,
        "Blocked": _AUTH,
        "AccessDenied": _AUTH,
        "AccessDeniedException": _AUTH,
        "ExpiredTokenException": _AUTH,
        "InvalidSignatureException": _AUTH,
        "MissingAuthenticationToken": _AUTH,
        "UnrecognizedClientException": _AUTH,
        "NoCredentials": _AUTH,
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted": _AUTH,
        "RequestTimeTooSkewed": _AUTH,
        "InvalidInstanceID.NotFound": _MISSING,
        "VolumeLimitExceeded": _QUOTA,
        "InvalidParameter": _INVALID,
        "InvalidParameterValue": _INVALID,
        "InvalidParameterCombination": _INVALID,
        "MissingParameter": _INVALID,
        "InvalidKeyPair.NotFound": _INVALID,
        "InvalidSecurityGroupID.NotFound": _INVALID,
        "ParameterNotFound": _INVALID,
        "InvalidAMIID.NotFound": _INVALID,
        "InvalidAMIID.Malformed": _INVALID,
        "InvalidAMIID.Unavailable": _INVALID,
        "InvalidBlockDeviceMapping": _INVALID,
        "InvalidInstanceType": _INVALID,
        "InvalidRequest": _INVALID,
        "InvalidSubnet": _INVALID,
        "InvalidUserData.Malformed": _INVALID,
        "VPCIdNotSpecified": _INVALID,
        "VPCResourceNotSpecified": _INVALID,
        "InvalidSubnetID.NotFound": _INVALID,
        "InvalidGroup.NotFound": _INVALID,
    },
    "gcp": {
        "ZONE_RESOURCE_POOL_EXHAUSTED": _GCP_CAPACITY,
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": _GCP_CAPACITY,
        "RESOURCE_POOL_EXHAUSTED": _GCP_CAPACITY,
        "RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": _GCP_CAPACITY,
        "insufficientCapacity": _GCP_CAPACITY,
        "UNSUPPORTED_OPERATION": _GCP_CAPACITY,
        "RESOURCE_NOT_FOUND": _GCP_CAPACITY,
        "QUOTA_EXCEEDED": _QUOTA,
        "quotaExceeded": _QUOTA,
        "GPUS_ALL_REGIONS": Meaning(Kind.QUOTA, Reach.PROVIDER, 10 * MINUTE_US),
        "rateLimitExceeded": _THROTTLED,
        "userRateLimitExceeded": _THROTTLED,
        "resourceNotReady": _REFUSED,
        "backendError": _THROTTLED,
        "internalError": _THROTTLED,
        "INTERNAL_ERROR": _REFUSED,
        "RATE_LIMIT_EXCEEDED": _REFUSED,
        "RESOURCE_OPERATION_RATE_EXCEEDED": _REFUSED,
        "Unreachable": _THROTTLED,
        "Nonsense": _THROTTLED,
        "EndlessList": _THROTTLED,
        "alreadyExists": _CONFLICT,
        "RESOURCE_ALREADY_EXISTS": _CONFLICT,
        "forbidden": _AUTH,
        "authError": _AUTH,
        "accessNotConfigured": _AUTH,
        "PERMISSIONS_ERROR": _AUTH,
        "NoCredentials": _AUTH,
        "notFound": _MISSING,
        "notFound/on-demand": _INVALID,
        "notFound/spot": _INVALID,
        "invalid": _INVALID,
        "badRequest": _INVALID,
        "INVALID_USAGE": _INVALID,
    },
    "azure": {
        "AllocationFailed": _AZURE_CAPACITY,
        "ZonalAllocationFailed": _AZURE_CAPACITY,
        "OverconstrainedAllocationRequest": _AZURE_CAPACITY,
        "OverconstrainedZonalAllocationRequest": _AZURE_CAPACITY,
        "SkuNotAvailable": Meaning(Kind.NOT_OFFERED, Reach.TYPE_REGION_MARKET, 23 * HOUR_US),
        "SkuNotAvailable/spot": Meaning(Kind.CAPACITY, Reach.TYPE_REGION_MARKET, HOUR_US),
        "VMSizeNotSupported": Meaning(Kind.NOT_OFFERED, Reach.TYPE_REGION, 24 * HOUR_US),
        "QuotaExceeded": _QUOTA,
        "OperationNotAllowed": _QUOTA,
        "OperationNotAllowed/spot": Meaning(Kind.QUOTA, Reach.REGION_MARKET, HOUR_US),
        "TooManyRequests": _THROTTLED,
        "OperationPreempted": _REFUSED,
        "RetryableError": _THROTTLED,
        "ServerTimeout": _THROTTLED,
        "InternalServerError": _THROTTLED,
        "ServiceUnavailable": _THROTTLED,
        "Unreachable": _THROTTLED,
        "Nonsense": _THROTTLED,
        "EndlessList": _THROTTLED,
        "OSProvisioningTimedOut": _INVALID,
        "PreconditionFailed": _CONFLICT,
        "Conflict": _CONFLICT,
        "AuthorizationFailed": _AUTH,
        "AuthenticationFailed": _AUTH,
        "ExpiredAuthenticationToken": _AUTH,
        "InvalidAuthenticationToken": _AUTH,
        "LinkedAuthorizationFailed": _AUTH,
        "SubscriptionNotFound": _AUTH,
        "ReadOnlyDisabledSubscription": _AUTH,
        "RequestDisallowedByPolicy": _AUTH,
        "NoCredentials": _AUTH,
        "ResourceNotFound": _MISSING,
        "ResourceNotFound/on-demand": _INVALID,
        "ResourceNotFound/spot": _INVALID,
        "ResourceGroupNotFound": _INVALID,
        "InvalidResourceReference": _INVALID,
        "InvalidRequestContent": _INVALID,
        "ImageNotFound": _INVALID,
        "BadRequest": _INVALID,
        "InvalidParameter": _INVALID,
    },
    "local": {
        "NoCapacity": Meaning(Kind.CAPACITY, Reach.TYPE_ZONE_MARKET, 10 * SECOND_US),
        "NotOffered": _NOT_OFFERED,
        "QuotaExceeded": Meaning(Kind.QUOTA, Reach.REGION_MARKET, 10 * SECOND_US),
        "Throttled": _REFUSED,
        "Unavailable": _THROTTLED,
        "AlreadyThere": _CONFLICT,
        "NotAllowed": _AUTH,
        "NotFound": _MISSING,
        "CannotStart": Meaning(Kind.INVALID, Reach.TYPE_REGION, MINUTE_US),
    },
}
"""By provider, then by its code. `CODE/MARKET` goes before `CODE`: Azure says the same of two things."""


def error_of(provider: str, code: str, message: str, place: Place | None = None) -> CloudError:
    """The error that a code of a provider means; `place`: what was asked for, when something was."""
    table = TABLES[provider]
    special = f"{code}/{place.market}" if place is not None else code
    meaning = table.get(special) or table.get(code, UNKNOWN)
    scope = meaning.reach.of(place) if place is not None else None
    return CloudError(
        meaning.kind, code, message, scope=scope, ttl_us=meaning.ttl_us, maybe_created=meaning.maybe_created
    )


class Block(NamedTuple):
    """Something a provider said of some places, until when it is believed, and in what words."""

    scope: Place
    kind: Kind
    until: int
    why: str


class Blocks:
    """What one provider said it does not give. Instants are those of whoever asks."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Place, Kind], Block] = {}

    def add(self, error: CloudError, now: int) -> None:
        """Remember an error that speaks of places."""
        if error.scope is None or not error.ttl_us:
            return
        self._put(Block(error.scope, error.kind, now + error.ttl_us, str(error)))
        scope = error.scope
        if error.kind is not Kind.CAPACITY or not scope.instance_type:
            return
        family = Place(scope.region, scope.zone, family_of(scope.instance_type), "", scope.market)
        short = {
            one.scope.instance_type
            for one in self.now(now)
            if one.kind is Kind.CAPACITY
            and one.scope.instance_type
            and (one.scope.region, one.scope.zone, one.scope.market)
            == (scope.region, scope.zone, scope.market)
            and family_of(one.scope.instance_type) == family.family
        }
        if len(short) >= FAMILY_AFTER:
            said = f"{len(short)} types of {family.family} are out of stock there"
            self._put(Block(family, Kind.CAPACITY, now + error.ttl_us, said))

    def _put(self, block: Block) -> None:
        before = self._kept.get((block.scope, block.kind))
        if before is None or before.until < block.until:
            self._kept[block.scope, block.kind] = block

    def now(self, now: int) -> Iterator[Block]:
        """What is believed now; the rest is forgotten."""
        self._kept = {key: block for key, block in self._kept.items() if block.until > now}
        yield from list(self._kept.values())

    def of(self, place: Place, now: int) -> Block | None:
        """Why a place is not asked now, by the longest of its blocks; None: it may be."""
        found = [block for block in self.now(now) if block.scope.covers(place)]
        return max(found, key=lambda block: block.until, default=None)


def family_of(instance_type: str) -> str:
    """What types share a quota and are out of stock together: `p5` of `p5.48xlarge`, `a3` of `a3-highgpu-8g`,
    `Standard_ND` of `Standard_ND96isr_H100_v5`.
    """
    head, _, rest = instance_type.partition("_")
    if rest:
        letters = rest[: next((at for at, sign in enumerate(rest) if sign.isdigit()), len(rest))]
        return f"{head}_{letters}"
    for separator in (".", "-"):
        if separator in instance_type:
            return instance_type.partition(separator)[0]
    return instance_type
