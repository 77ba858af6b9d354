"""The calls of Azure Resource Manager that Bursar makes, through Microsoft's own library.

Owns    the library's client, its credentials and time limits, the pages of lists, and errors as `CloudError`.
Why     the library repeats each call up to ten times, reads a list that is none as an empty one, and follows
        pages without an end. Here each call is made once and has 30 seconds, and a list says that it is one.

What another library would be needed for (network cards, resources, permissions, the log of activities) is
asked through the same pipeline, so the same token and the same checks hold.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from bursard.machines.errors import TABLES, error_of
from bursard.machines.provider import CloudError, Kind, Place

CALL_S: Final = 30
PAGES_MAX: Final = 1_000
COMPUTE: Final = "2024-07-01"
SKUS: Final = "2021-07-01"
RESOURCES: Final = "2021-04-01"
ACTIVITIES: Final = "2015-04-01"
PERMISSIONS: Final = "2022-04-01"
_VERSIONS: Final = {
    "microsoft.compute/disks": "2024-03-02",
    "microsoft.compute/images": COMPUTE,
    "microsoft.compute/galleries/images": "2023-07-03",
    "microsoft.compute/galleries/images/versions": "2023-07-03",
    "microsoft.network/networkinterfaces": "2023-09-01",
    "microsoft.network/publicipaddresses": "2023-09-01",
    "microsoft.network/networksecuritygroups": "2023-09-01",
    "microsoft.network/virtualnetworks/subnets": "2023-09-01",
    "microsoft.managedidentity/userassignedidentities": "2023-01-31",
}
"""In which a resource of a type is asked for."""
_BY_STATUS: Final = {
    400: "InvalidParameter",
    401: "AuthenticationFailed",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    412: "PreconditionFailed",
    429: "TooManyRequests",
}
"""Of an answer whose code is in no table. What is not here may have made something."""


def type_of(resource_id: str) -> str:
    """`microsoft.network/virtualnetworks/subnets` of the id of a subnet."""
    parts = resource_id.lower().rpartition("/providers/")[2].split("/")
    return "/".join([parts[0], *parts[1::2]])


class Calls:
    """Of one subscription.

    Args:
        subscription: "": what the environment says (AZURE_SUBSCRIPTION_ID).
        endpoint: "": Azure's own. ca_file: whom it is trusted by there; "": as everywhere.
        credentials: None: what the environment says (`DefaultAzureCredential`).
    """

    def __init__(
        self, subscription: str = "", endpoint: str = "", ca_file: str = "", credentials: Any = None
    ) -> None:
        self._subscription = subscription
        self._endpoint = endpoint
        self._ca_file = ca_file
        self._credentials = credentials
        self._client: Any = None

    @property
    def subscription(self) -> str:
        """Its id. Raises `CloudError` without one."""
        self._open()
        return self._subscription

    def _open(self) -> Any:
        if self._client is not None:
            return self._client
        try:
            compute = importlib.import_module("azure.mgmt.compute")
            identity = importlib.import_module("azure.identity")
        except ImportError as error:
            said = f"{error.name} is not installed; pip install 'bursar[azure]'"
            raise CloudError(Kind.AUTH, "NoLibrary", said) from None
        self._subscription = self._subscription or os.environ.get("AZURE_SUBSCRIPTION_ID", "")
        if not self._subscription:
            raise error_of("azure", "NoCredentials", "no subscription is named; set AZURE_SUBSCRIPTION_ID")
        if self._credentials is None:
            self._credentials = identity.DefaultAzureCredential()
        more: dict[str, Any] = {"base_url": self._endpoint} if self._endpoint else {}
        if self._ca_file:
            more["connection_verify"] = self._ca_file
        self._client = compute.ComputeManagementClient(
            self._credentials,
            self._subscription,
            credential_scopes=["https://management.azure.com/.default"],
            api_version=COMPUTE,
            retry_total=0,
            connection_timeout=CALL_S,
            read_timeout=CALL_S,
            logging_enable=False,
            **more,
        )
        return self._client

    def close(self) -> None:
        """Its connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # --- virtual machines

    def create(self, group: str, name: str, body: Mapping[str, Any], place: Place) -> None:
        """Begin to make one that is not there yet. Raises the conflict when it is."""
        absent = importlib.import_module("azure.core").MatchConditions.IfMissing

        def begin() -> None:
            machines = self._open().virtual_machines
            machines.begin_create_or_update(group, name, body, match_condition=absent, polling=False)

        self._made(begin, place)

    def delete(self, group: str, name: str) -> None:
        """Begin to delete one, with all that goes with it. Of what is not there: no error."""

        def begin() -> None:
            self._open().virtual_machines.begin_delete(group, name, force_deletion=True, polling=False)

        self._made(begin)

    def machine(self, group: str, name: str) -> dict[str, Any] | None:
        """One with its instance view; None: there is none."""
        path = f"/resourceGroups/{quote(group)}/providers/Microsoft.Compute/virtualMachines/{quote(name)}"
        return self.get(path, {"api-version": COMPUTE, "$expand": "instanceView"})

    def machines(self, statuses: bool = False) -> list[dict[str, Any]]:
        """All of the subscription; `statuses`: of each its instance view instead of what it is."""
        query = {"api-version": COMPUTE, **({"statusOnly": "true"} if statuses else {})}
        return list(self.rows("/providers/Microsoft.Compute/virtualMachines", query))

    # --- anything

    def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """What is at a path below the subscription; None: nothing is."""
        self._open()
        url = path if path.startswith("/subscriptions/") else f"/subscriptions/{self._subscription}{path}"
        found: dict[str, Any] | None = self._made(partial(self._json, "GET", url, query))
        return found

    def resource(self, resource_id: str) -> dict[str, Any] | None:
        """A resource by its id; None: there is none. Raises `CloudError`."""
        return self.get(resource_id, {"api-version": _VERSIONS.get(type_of(resource_id), RESOURCES)})

    def remove(self, resource_id: str) -> bool:
        """Delete a resource by its id. True: it is gone, or never was."""
        query = {"api-version": _VERSIONS.get(type_of(resource_id), RESOURCES)}
        return self._made(partial(self._json, "DELETE", resource_id, query)) is None

    def rows(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Everything that is listed at a path below the subscription, page after page."""
        self._open()
        url, asked = f"/subscriptions/{self._subscription}{path}", dict(query)
        for _ in range(PAGES_MAX):
            page = self._made(partial(self._json, "GET", url, asked))
            rows = page.get("value") if page is not None else None
            if page is None or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise error_of("azure", "Nonsense", f"{path}: an answer that is no list")
            yield from rows
            more = page.get("nextLink")
            if not more:
                return
            if more == url or not isinstance(more, str) or not self._own(more):
                break
            url, asked = more, {}
        raise error_of("azure", "EndlessList", f"{path}: a list of pages that has no end")

    def _own(self, url: str) -> bool:
        """Is a link one of the same service? Our token is sent to no other."""
        home = self._endpoint or "https://management.azure.com"
        return url.lower().startswith(home.lower().rstrip("/") + "/")

    def _json(self, verb: str, url: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """One call. None where nothing is at the URL, or of what has been deleted."""
        rest = importlib.import_module("azure.core.rest")
        answer = self._open().send_request(rest.HttpRequest(verb, url, params=dict(query)))
        if answer.status_code in (204, 404) or (verb == "DELETE" and answer.status_code == 200):
            if answer.status_code == 404 and not _about_a_thing(answer):
                raise error_of("azure", "Nonsense", f"HTTP 404 of no resource: {_short(answer.text())}")
            return None
        if answer.status_code >= 300:
            raise _refusal(answer.status_code, _body(answer).get("error"), answer.text(), None)
        if verb == "DELETE":
            return {}
        found = answer.json()
        if not isinstance(found, dict):
            raise error_of("azure", "Nonsense", "an answer that is no object")
        return found

    def _made(self, work: Callable[[], Any], place: Place | None = None) -> Any:
        self._open()
        core = importlib.import_module("azure.core.exceptions")
        try:
            return work()
        except CloudError:
            raise
        except (core.DecodeError, core.SerializationError, core.DeserializationError) as error:
            raise _nonsense(error, place) from None
        except core.ClientAuthenticationError as error:
            if error.status_code is None:  # no token was to be had
                raise error_of("azure", "NoCredentials", _short(error), place) from None
            raise _refusal(error.status_code, error.error, _short(error), place) from None
        except core.HttpResponseError as error:
            raise _refusal(int(error.status_code or 0), error.error, _short(error), place) from None
        except core.AzureError as error:  # nobody listens, no answer in time, a certificate nobody knows
            raise error_of("azure", "Unreachable", _short(error), place) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise _nonsense(error, place) from None


def public(url: str, query: Mapping[str, str], ca_file: str = "") -> str:
    """The text at an address that anybody may ask: no token is sent. Raises `CloudError`."""
    azure, rest = importlib.import_module("azure.core"), importlib.import_module("azure.core.rest")
    errors = importlib.import_module("azure.core.exceptions")
    more: dict[str, Any] = {"connection_verify": ca_file} if ca_file else {}
    try:
        with azure.PipelineClient(url, retry_total=0) as client:
            request = rest.HttpRequest("GET", url, params=dict(query))
            times = {"connection_timeout": CALL_S, "read_timeout": CALL_S}
            answer = client.send_request(request, **times, **more)
            if answer.status_code != 200:
                raise _refusal(answer.status_code, _body(answer).get("error"), answer.text(), None)
            return str(answer.text())
    except errors.AzureError as error:
        raise error_of("azure", "Unreachable", _short(error)) from None


def _nonsense(error: object, place: Place | None) -> CloudError:
    return error_of("azure", "Nonsense", f"an answer that cannot be read: {_short(error)}", place)


def _body(answer: Any) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _about_a_thing(answer: Any) -> bool:
    """A 404 that Azure itself has said: whoever stands before it says so of everything."""
    error = _body(answer).get("error")
    return isinstance(error, dict) and bool(error.get("code"))


def _refusal(status: int, error: Any, text: str, place: Place | None) -> CloudError:
    """What Azure answered: by its own code, for the same status has many meanings."""
    get = error.get if isinstance(error, dict) else lambda key, error=error: getattr(error, key, None)
    code, said = str(get("code") or ""), str(get("message") or "")
    known = code if code in TABLES["azure"] else _BY_STATUS.get(status, code or f"HTTP {status}")
    message = said or _short(text)
    return refusal(known, message if known == code or not code else f"{code}: {message}", place)


def refusal(code: str, message: str, place: Place | None) -> CloudError:
    """The error of a code. A quota of nothing stays so until a person has asked for more."""
    error = error_of("azure", code, _short(message), place)
    if error.kind is Kind.QUOTA and "Current Limit: 0" in message:
        error.ttl_us = max(error.ttl_us, 3_600_000_000)
    return error


def _short(error: object) -> str:
    return " ".join(str(error).split())[:500]
