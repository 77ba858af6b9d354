"""The address of an MQTT broker, which may have a password in it.

Why     daemon and agents read the same address; one reader keeps them at one meaning, and what it says of a
        wrong one never quotes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from bursar.errors import InvalidRequest

_FORM = "the broker's url must be mqtt://host:port or mqtts://host:port"
_NO_PORT = "the broker's url has no valid port (write / and @ of a password as %2F and %40)"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is, and as whom to come. `repr` hides who, and the password."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host}:{self.port})"


def read_broker(url: str) -> BrokerAddress:
    """An address as `BrokerAddress`; user and password are percent-decoded. Raises `InvalidRequest`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequest(_NO_PORT) from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise InvalidRequest(_FORM)
    if port == 0:
        raise InvalidRequest(_NO_PORT)
    if parts.path not in ("", "/") or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise InvalidRequest(f"{_FORM}, with nothing behind it")
    if parts.password and not parts.username:
        raise InvalidRequest("the broker's url has a password and no user")
    tls = parts.scheme == "mqtts"
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return BrokerAddress(parts.hostname, port or (8883 if tls else 1883), tls, username, password)
