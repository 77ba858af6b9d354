"""Between boto3 and us: clients, what their errors mean, and instances as they are listed.

Why     boto3 hides what costs money: it asks again by itself, so that one order may be several calls, and it
        raises errors of a dozen kinds of which some say that a machine may have been made. Here a call is one
        request, and every error is a `CloudError`.

boto3 is imported at the first call, in the provider's own thread: it takes half a second and 30 MB.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bursard.machines.errors import error_of, family_of
from bursard.machines.provider import CloudError, Instance, InstanceState, Place

Answer = Mapping[str, Any]
Client = Any
"""A boto3 client: its methods take and return plain values, and are made from AWS's own descriptions."""

TAG_CLUSTER: Final = "bursar-cluster"
TAG_MACHINE: Final = "bursar-machine"
CONNECT_S: Final = 5
READ_S: Final = 30
PAGES_MAX: Final = 1_000
"""Of one answer; a provider that never stops answering is one that answers nonsense."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENDED: Final = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
_STATES: Final = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "shutting-down": InstanceState.ENDING,
    "stopping": InstanceState.ENDING,
    "stopped": InstanceState.ENDING,
    "terminated": InstanceState.GONE,
}
_INTERRUPTED: Final = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")
_NEVER_RAN: Final = (
    "Server.InsufficientInstanceCapacity",
    "Server.InternalError",
    "Client.InternalError",
    "Client.InvalidSnapshot.NotFound",
    "Client.VolumeLimitExceeded",
)
"""Why an instance that was promised went from pending to terminated: it is not billed."""
_NO_CREDENTIALS: Final = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "ProfileNotFound",
    "ConfigNotFound",
)


class Clients:
    """By service and region. `make`: another way to make one, for fakes."""

    def __init__(self, make: Callable[[str, str], Client] | None = None) -> None:
        self._make = make or _made
        self._clients: dict[tuple[str, str], Client] = {}

    def of(self, service: str, region: str) -> Client:
        """One client. Raises `CloudError`."""
        key = service, region
        if key not in self._clients:
            self._clients[key] = asked(lambda: self._make(service, region))
        return self._clients[key]


def _made(service: str, region: str) -> Client:
    """By the default chain of credentials. One call is one request: whoever asks knows when to ask again."""
    import boto3
    from botocore.config import Config

    # Below warnings they log whole requests, with the token that is in user data.
    for name in ("boto3", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # `max_attempts` would count from zero; a config is not shared, botocore writes into it.
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        user_agent_extra="bursar",
    )
    return boto3.client(service, region_name=region, config=config)


def asked(work: Callable[[], Any], place: Place | None = None) -> Any:
    """What a call answers. Raises `CloudError`; `place`: what was asked for, when a machine was."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return work()
    except ClientError as error:
        said = error.response.get("Error", {})
        code = str(said.get("Code") or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        raise error_of("aws", code, str(said.get("Message", ""))[:500], place) from None
    except BotoCoreError as error:
        raise error_of("aws", _code_of(error), str(error)[:500], place) from None


def _code_of(error: Exception) -> str:
    name = type(error).__name__
    if name in _NO_CREDENTIALS:
        return "NoCredentials"
    if name in ("ParamValidationError", "NoRegionError", "InvalidRegionError", "UnknownRegionError"):
        return "InvalidParameter"
    return name


def paged(call: Callable[..., Answer], key: str, token: str = "NextToken", **more: Any) -> Iterator[Answer]:
    """Every row of an answer of several pages. Raises `CloudError`, also in the middle."""
    following: dict[str, Any] = {}
    for _ in range(PAGES_MAX):
        answer = asked(lambda: call(**more, **following))  # noqa: B023 - called at once
        yield from answer.get(key) or ()
        if not (next_token := answer.get(token)):
            return
        if following.get(token) == next_token:
            break
        following = {token: next_token}
    raise error_of("aws", "EndlessAnswer", f"{key} has no end")


def equals(name: str, *values: str) -> Mapping[str, Any]:
    """A filter."""
    return {"Name": name, "Values": list(values)}


def instances(client: Client, filters: Sequence[Answer], page: int) -> Iterator[Answer]:
    """Those of a region, of every state."""
    for reservation in paged(
        client.describe_instances, "Reservations", Filters=list(filters), MaxResults=page
    ):
        yield from reservation.get("Instances") or ()


def micros(when: datetime) -> int:
    """An instant that knows its zone."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def instance_of(row: Answer, region: str, first_gone: Callable[[str], int]) -> Instance:
    """One instance. `first_gone`: when it was first seen to be gone, where AWS does not say when it ended."""
    tags = {tag["Key"]: tag["Value"] for tag in row.get("Tags") or ()}
    state = _STATES.get(row["State"]["Name"], InstanceState.RUNNING)
    why, launched = row.get("StateReason") or {}, micros(row["LaunchTime"])
    code, provider_id = str(why.get("Code", "")), f"{region}/{row['InstanceId']}"
    ran = state is not InstanceState.PENDING and code not in _NEVER_RAN
    until = 0
    if state is InstanceState.GONE and ran:
        until = max(_ended_at(row) or first_gone(provider_id), launched)
    message = str(why.get("Message") or code)
    if row["State"]["Name"] in ("stopping", "stopped"):
        message = f"it was stopped: {message}"
    kind = row["InstanceType"]
    return Instance(
        provider_id=provider_id,
        cluster=tags.get(TAG_CLUSTER, ""),
        machine_id=tags.get(TAG_MACHINE, ""),
        place=Place(
            region=region,
            zone=row["Placement"]["AvailabilityZone"],
            family=family_of(kind),
            instance_type=kind,
            market="spot" if row.get("InstanceLifecycle") == "spot" else "on-demand",
        ),
        state=state,
        created_at=launched,
        billed_from=launched if ran else 0,
        billed_until=until,
        interrupted=code in _INTERRUPTED,
        message=message[:500],
    )


def failure_of(row: Answer, place: Place) -> CloudError | None:
    """The error that the making of an instance met after it had been promised."""
    code = str((row.get("StateReason") or {}).get("Code", ""))
    if code not in _NEVER_RAN:
        return None
    return error_of("aws", code.partition(".")[2], str(row["StateReason"].get("Message", ""))[:500], place)


def _ended_at(row: Answer) -> int:
    """As AWS says it, to the second; 0: it does not."""
    found = _ENDED.search(str(row.get("StateTransitionReason") or ""))
    if found is None:
        return 0
    return micros(datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC))
