"""A provider's word, at its metadata service, that it is about to take this machine back.

Owns    how each cloud says so, and how it is asked.
Why     a spot machine has between half a minute and two of notice; whoever hears it at once can still write a
        checkpoint. Every cloud says it at an address that only the machine itself can reach.

A look that fails says nothing: a machine whose metadata service is away is not one that is taken back.
"""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from bursar.clock import SECOND_US, Clock
from bursar_agent import metadata_azure, metadata_gcp
from bursar_agent import stimuli as s

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
AWAY_S: Final = 5.0
"""A service that does not answer is left alone for so long."""
TIMEOUT_S: Final = 1.0
BYTES_MAX: Final = 4_096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Answer(NamedTuple):
    """Of a request: `text` is empty but for 200."""

    status: int
    text: str


class Source(Protocol):
    """One cloud's metadata service."""

    def look(self) -> s.Noticed | None:
        """What it says now; None: nothing. Raises `OSError` when it does not answer as such a one does."""


class Http:
    """Requests to one address, each with a connection of its own, and never through a proxy.

    `url`: `http://HOST[:PORT]`.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._timeout_s = timeout_s

    def ask(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """One answer. Raises `OSError`, also of what is no HTTP."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request(method, path, headers=dict(headers))
            found = connection.getresponse()
            data = found.read(BYTES_MAX)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"no answer: {type(error).__name__}") from error
        finally:
            connection.close()
        return Answer(found.status, data.decode("utf-8", "replace") if found.status == 200 else "")


class AwsSource:
    """EC2's, version 2: every request shows a session's token.

    `spot/instance-action` is a notice of two minutes. A rebalance recommendation is advice: often nothing
    follows.
    """

    _TTL_S = 21_600
    _ACTION = "/latest/meta-data/spot/instance-action"
    _REBALANCE = "/latest/meta-data/events/recommendations/rebalance"

    def __init__(self, http: Http, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._token = ""
        self._said: tuple[str, s.Noticed] | None = None

    def look(self) -> s.Noticed | None:
        """The interruption where there is one, else the advice."""
        if text := self._get(self._ACTION):
            return self._once(text, self._interruption)
        if text := self._get(self._REBALANCE):
            return self._once(text, self._advice)
        return None

    def _interruption(self, text: str) -> s.Noticed:
        """One that cannot be read is one of at once: something is said, and it is never said in vain."""
        try:
            found = json.loads(text)
            action, until = str(found["action"]), self._boot(str(found["time"]))
        except metadata_azure.UNREADABLE:
            return s.Noticed("EC2 takes this machine back, in words that cannot be read", self._now(), False)
        return s.Noticed(f"EC2 takes this spot machine back ({action[:32]})", until, False)

    def _advice(self, text: str) -> s.Noticed:
        try:
            at = self._boot(str(json.loads(text)["noticeTime"]))
        except metadata_azure.UNREADABLE:
            at = self._now()
        return s.Noticed("EC2 says that this spot machine may be taken back soon", at, True)

    def _once(self, text: str, read: Callable[[str], s.Noticed]) -> s.Noticed:
        """The same text is the same notice, however the clocks have drifted meanwhile."""
        if self._said is None or self._said[0] != text:
            self._said = text, read(text)
        return self._said[1]

    def _get(self, path: str) -> str:
        if not self._token:
            self._token = self._session()
        found = self._http.ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if found.status == 401:
            self._token = self._session()
            found = self._http.ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if found.status not in (200, 404):
            raise OSError(f"{path} is answered with {found.status}")
        return found.text

    def _session(self) -> str:
        asked = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._TTL_S)}
        found = self._http.ask("PUT", "/latest/api/token", asked)
        token = found.text.strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise OSError(f"no session: {found.status}")
        return token

    def _boot(self, text: str) -> int:
        """An instant as AWS writes it, on the boot clock, to the second. Raises `ValueError`."""
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        wall = (when - _EPOCH) // timedelta(microseconds=1)
        return _whole(wall - self._clock.now() + self._clock.boot_us())

    def _now(self) -> int:
        return _whole(self._clock.boot_us())


class Service(NamedTuple):
    """Where a provider's service is, unless a setting says otherwise, and who asks it."""

    url: str
    open: Callable[[Http, Clock], Source]


SOURCES: Final[Mapping[str, Service]] = {
    "aws": Service("http://169.254.169.254", AwsSource),
    "azure": Service(metadata_azure.URL, metadata_azure.AzureSource),
    "gcp": Service(metadata_gcp.URL, metadata_gcp.GcpSource),
}
"""By provider."""


class Watch:
    """Looks at a provider's metadata service; what goes wrong there is said once, until it is right again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._away = False

    def look(self) -> tuple[s.Noticed | None, float]:
        """(what it says, after how many seconds to look again)."""
        try:
            found = self._source.look()
        except Exception as error:  # an agent that ended of it would take its jobs' notice with it
            if not self._away:
                log.warning("the metadata service does not answer", extra={"error": str(error)})
            self._away = True
            return None, AWAY_S
        if self._away:
            log.info("the metadata service answers again")
        self._away = False
        return found, LOOK_EVERY_S


def open_watch(provider: str, url: str, clock: Clock) -> Watch:
    """That of a provider in `SOURCES`. `url`: where its service is; empty: where it always is."""
    service = SOURCES[provider]
    return Watch(service.open(Http(url or service.url), clock))


def _whole(boot_us: int) -> int:
    return max((boot_us + SECOND_US // 2) // SECOND_US * SECOND_US, 0)
