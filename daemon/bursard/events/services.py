"""What happens to services beyond their jobs: how many replicas, who may ask, what was used."""

from __future__ import annotations

import msgspec


class ServiceScaled(msgspec.Struct, frozen=True, tag="service-scaled"):
    """A service is to have so many replicas from now on. `why`: in words, with the numbers."""

    job_id: str
    target: int
    why: str


class ServiceRolledBack(msgspec.Struct, frozen=True, tag="service-rolled-back"):
    """A revision was tried and is no good: the update before this took it back. `to`: the revision whose
    replicas are as those of now. `why`: in words, with the numbers.
    """

    job_id: str
    revision: int
    to: int
    why: str


class KeyIssued(msgspec.Struct, frozen=True, tag="key-issued", omit_defaults=True):
    """Whoever has the secret of which this is the SHA-256 may ask a service.

    Attributes:
        project: whom its use is told of. user: who made it.
        requests_per_minute, concurrency: at one gateway; 0: no limit.
        expires_at: 0: it is good until it is revoked.
        budget: what it is charged counts against this one too; empty: none.
    """

    key_id: str
    job_id: str
    sha256: str
    name: str
    project: str
    user: str
    requests_per_minute: int = 0
    concurrency: int = 0
    expires_at: int = 0
    budget: str = ""


class KeyRevoked(msgspec.Struct, frozen=True, tag="key-revoked"):
    """A key is good for nothing any more. `job_id`: its service's."""

    key_id: str
    job_id: str


class KeyUse(msgspec.Struct, frozen=True, array_like=True):
    """What one key used of a service, written as an array.

    Attributes:
        key_id: empty: what no key asked for.
        busy_us: requests in hand, over the time.
        counted: of `requests`, those whose answer said its tokens. estimated: those counted otherwise.
    """

    key_id: str
    requests: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    busy_us: int = 0
    counted: int = 0
    estimated: int = 0


class ServiceMetered(msgspec.Struct, frozen=True, tag="service-metered"):
    """What keys used of a service in one minute, or a part of it, as one gateway counted. It makes no money:
    it says whom the replicas' cost of that minute was for.

    Attributes:
        gateway: who counted. seq: counted up by it, so that what is told twice is taken once.
        minute: its beginning.
        busy_us: requests in hand over the minute. capacity_us: what ready replicas could have had in hand.
    """

    job_id: str
    gateway: str
    seq: int
    minute: int
    busy_us: int
    capacity_us: int
    uses: tuple[KeyUse, ...]


class HourOfKeys(msgspec.Struct, frozen=True, array_like=True):
    """So much more keys were charged of an hour than was known, or less. `period_start`: of the budget."""

    hour: int
    period_start: int
    nanos: int


class KeysCharged(msgspec.Struct, frozen=True, tag="keys-charged"):
    """What keys were charged of a service counts against the budget that they name. It is their part of what
    the replicas were charged, and makes no money.
    """

    job_id: str
    budget: str
    hours: tuple[HourOfKeys, ...]


OfServices = ServiceScaled | ServiceRolledBack | KeyIssued | KeyRevoked | ServiceMetered | KeysCharged
