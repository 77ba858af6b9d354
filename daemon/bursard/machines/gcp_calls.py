"""The calls of Google Compute Engine that Bursar makes, through Google's own library.

Owns    the library's clients, their time limits, the pages of lists, and errors as `CloudError`.
Why     the library repeats calls by itself, waits ten minutes for an answer and sends what follows an
        operation to the real service whatever endpoint it was given. Here each call is made once, to the
        endpoint that was given, and has 30 seconds.

The library takes 2 seconds of CPU and 140 MB to import: it is, at the first call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from google.protobuf import json_format

from bursard.machines.errors import TABLES, error_of
from bursard.machines.provider import CloudError, Kind, Place

CALL_S: Final = 30.0
PAGE: Final = 500
PAGES_MAX: Final = 1_000
MANAGER: Final = "https://cloudresourcemanager.googleapis.com"
_UNREADABLE: Final = (json_format.Error, ValueError, TypeError, AttributeError, StopIteration)
_BY_STATUS: Final = {
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    409: "alreadyExists",
    412: "invalid",
    429: "rateLimitExceeded",
}
"""Of an answer whose reason is in no table. What is not here may have made something."""


class Calls:
    """Of one project.

    Args:
        project: "": what the environment says (GOOGLE_CLOUD_PROJECT, or that of the credentials).
        endpoint: "": Google's own. credentials: None: what the environment says (Application Default
            Credentials).
    """

    def __init__(self, project: str = "", endpoint: str = "", credentials: Any = None) -> None:
        self._project = project
        self._endpoint = endpoint
        self._credentials = credentials
        self._sdk: Any = None
        self._clients: dict[str, Any] = {}

    @property
    def project(self) -> str:
        """Its id. Raises `CloudError` without one."""
        self._open()
        return self._project

    def _open(self) -> None:
        if self._sdk is not None:
            return
        try:
            sdk = importlib.import_module("google.cloud.compute_v1")
            auth = importlib.import_module("google.auth")
        except ImportError as error:
            raise CloudError(
                Kind.AUTH, "NoLibrary", f"{error.name} is not installed; pip install 'bursar[gcp]'"
            ) from None
        if self._credentials is None:
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            try:
                self._credentials, project = auth.default(scopes=scopes)
            except auth.exceptions.GoogleAuthError as error:
                raise error_of("gcp", "NoCredentials", _short(error)) from None
            self._project = self._project or project or ""
        if not self._project:
            raise error_of("gcp", "NoCredentials", "no project is named; set GOOGLE_CLOUD_PROJECT")
        self._sdk = sdk

    def _client(self, kind: str) -> Any:
        self._open()
        found = self._clients.get(kind)
        if found is None:
            options = {"api_endpoint": self._endpoint} if self._endpoint else None
            make = getattr(self._sdk, kind)
            self._clients[kind] = found = make(credentials=self._credentials, client_options=options)
        return found

    def close(self) -> None:
        """Its connections."""
        for client in self._clients.values():
            client.transport.close()
        self._clients.clear()

    def call(self, client: str, method: str, fields: Mapping[str, Any], place: Place | None = None) -> Any:
        """One call of a client such as `ZonesClient`, once. `fields`: of its request, beside the project.

        `place`: what was asked for when the call makes a machine. Raises `CloudError`.
        """
        return self._made(lambda: self._raw(client, method, fields), place)

    def _raw(self, client: str, method: str, fields: Mapping[str, Any]) -> Any:
        known = self._client(client)
        request = {"project": self._project, **fields}
        return getattr(known, method)(request=request, retry=None, timeout=CALL_S)

    def _first(self, client: str, method: str, fields: Mapping[str, Any]) -> Any:
        page = next(self._raw(client, method, fields).pages)
        # What the library cannot read of an answer it leaves out: an empty list must say that it is a list.
        if not page.kind.startswith("compute#"):
            raise error_of("gcp", "Nonsense", f"{client}: an answer that is no list")
        return page

    def rows(self, client: str, fields: Mapping[str, Any]) -> Iterator[Any]:
        """Everything that a client lists, page after page. Raises `CloudError`."""
        for page in self._pages(client, "list", fields):
            yield from page.items

    def scoped(self, client: str, key: str, fields: Mapping[str, Any]) -> Iterator[list[Any]]:
        """Everything that a client lists over all zones, as pages. `key`: the field of a zone with its rows.

        Raises `CloudError` where a zone does not answer: a list without it would say that it has nothing.
        """
        for page in self._pages(client, "aggregated_list", fields):
            yield self._made(partial(_whole, page, key))

    def _pages(self, client: str, method: str, fields: Mapping[str, Any]) -> Iterator[Any]:
        token = ""
        for _ in range(PAGES_MAX):
            asked = {"max_results": PAGE, **fields, "page_token": token}
            page = self._made(partial(self._first, client, method, asked))
            yield page
            before, token = token, page.next_page_token
            if not token:
                return
            if token == before:
                break
        raise error_of("gcp", "EndlessList", f"{client}: a list of pages that has no end")

    def permissions(self, wanted: list[str]) -> list[str] | None:
        """Which of these the credentials have in the project; None where that cannot be asked."""
        self._open()
        transport = importlib.import_module("google.auth.transport.requests")
        session = transport.AuthorizedSession(self._credentials)
        url = f"{self._endpoint or MANAGER}/v1/projects/{self._project}:testIamPermissions"
        try:
            answer = session.post(url, json={"permissions": wanted}, timeout=CALL_S)
            if answer.status_code != 200:
                return None
            found = answer.json().get("permissions", [])
        except (OSError, ValueError, AttributeError, transport.exceptions.GoogleAuthError):
            return None
        finally:
            session.close()
        return [one for one in wanted if one in found]

    def _made(self, work: Callable[[], Any], place: Place | None = None) -> Any:
        self._open()
        core = importlib.import_module("google.api_core.exceptions")
        auth = importlib.import_module("google.auth.exceptions")
        try:
            return work()
        except CloudError:
            raise
        except core.GoogleAPICallError as error:
            raise _refusal(error, place) from None
        except auth.TransportError as error:
            raise error_of("gcp", "Unreachable", _short(error), place) from None
        except auth.GoogleAuthError as error:
            raise error_of("gcp", "NoCredentials", _short(error), place) from None
        except OSError as error:  # all of `requests`, time limits included
            raise error_of("gcp", "Unreachable", _short(error), place) from None
        except _UNREADABLE as error:
            raise error_of("gcp", "Nonsense", f"an answer that cannot be read: {_short(error)}") from None


def _whole(page: Any, key: str) -> list[Any]:
    silent = [str(one) for one in page.unreachables]
    silent += [scope for scope, found in page.items.items() if found.warning.code == "UNREACHABLE"]
    if silent:
        where = ", ".join(one.rpartition("/")[2] for one in silent[:5])
        raise error_of("gcp", "Unreachable", f"no list of {where}")
    return [row for found in page.items.values() for row in getattr(found, key)]


def _refusal(error: Any, place: Place | None) -> CloudError:
    """What Google answered. Its reason is in the first row of `errors`; else its status says enough."""
    rows = [one for one in error.errors if isinstance(one, dict)]
    reason, status = str(rows[0].get("reason", "")) if rows else "", int(error.code or 0)
    code = reason if reason in TABLES["gcp"] else _BY_STATUS.get(status, reason or f"HTTP {status}")
    message = _short(error.message or error)
    return refusal(code, message if code == reason or not reason else f"{reason}: {message}", place)


def refusal(code: str, message: str, place: Place | None) -> CloudError:
    """The error of a code. A quota of GPUs of all regions is told by its message alone; one of nothing stays
    so until a person has asked for more.
    """
    quota = code in ("QUOTA_EXCEEDED", "quotaExceeded")
    error = error_of(
        "gcp", "GPUS_ALL_REGIONS" if quota and "GPUS_ALL_REGIONS" in message else code, message, place
    )
    if quota and ("Limit: 0.0" in message or "Limit: 0 " in message):
        error.ttl_us *= 6
    return error


def _short(error: object) -> str:
    return " ".join(str(error).split())[:500]
