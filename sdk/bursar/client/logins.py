"""Logins by a site's identity provider: got by the device flow, kept in one file, refreshed before they end.

Owns    `~/.config/bursar/logins.json` (mode 0600) and what is said to the provider (OAuth 2.0, RFC 8628).
Why     a token that was given to one server is another's to misuse: each is kept for the address for which it
        was got, and sent nowhere else. A refresh takes a lock, since many providers give each refresh token
        once, and two commands at a time would end each other's login.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from bursar.client.address import token_path
from bursar.clock import SECOND_US, SystemClock
from bursar.errors import BursarError, Forbidden, InvalidRequest, ServerUnavailable, Unauthenticated

if TYPE_CHECKING:
    import ssl

FILE_NAME: Final = "logins.json"
ANSWER_BYTES_MAX: Final = 256 * 1024
TIMEOUT_S: Final = 10.0
HERE: Final = ("127.0.0.1", "::1", "localhost")
"""This machine, to which nobody stands between."""
SOON_S: Final = 60
"""A token that ends sooner is refreshed first."""
WAIT_S_MAX: Final = 1_800
"""How long a login is waited for, whatever the provider says."""
ENDS_S_MAX: Final = 253_370_764_800
"""The year 9999: a token that says a later one ends then."""
POLL_S: Final = 5.0
POLL_S_MAX: Final = 60.0
SCOPES: Final = ("openid", "email", "profile", "groups", "offline_access")
DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
TOKEN_CHARS_MAX: Final = 7_000
"""What travels with a call."""

Words = dict[str, str]


class Provider(NamedTuple):
    """Where things are asked of an identity provider; "" where it has no such address.

    Attributes:
        authorize, leave: where a browser goes to log in, and to log out.
        token, device, revoke: where programs ask. scopes: those of ours that it has.
    """

    issuer: str
    token: str
    device: str
    revoke: str
    authorize: str
    leave: str
    scopes: tuple[str, ...]


class Started(NamedTuple):
    """A login that waits for its person. address: where they type `code`; `whole` has it in it, or is ""."""

    address: str
    code: str
    whole: str
    device_code: str
    interval_s: float
    ends_s: float


def wall_s() -> float:
    """Seconds of the wall clock, by which tokens end."""
    return SystemClock().now() / SECOND_US


# ------------------------------------------------------------------ the file


def path(env: Mapping[str, str] | None = None) -> Path:
    """Where logins are kept: beside the token file."""
    return token_path(env).with_name(FILE_NAME)


def known(server: str, env: Mapping[str, str] | None = None) -> bool:
    """Is there a login for this `host:port`?"""
    return server in _read(path(env))


def token(server: str, now_s: Callable[[], float] = wall_s) -> tuple[str, float]:
    """A token that is good for a while, and for how many seconds. It is refreshed where it has to be.

    Raises `Unauthenticated`: there is none, or it has ended; `ServerUnavailable`: the provider is away.
    """
    kept = _read(path()).get(server)
    if kept is None:
        raise Unauthenticated(f"no login for {server}; run `bursar login --server grpcs://{server}`")
    left_s = _ends_s(kept["id_token"]) - now_s()
    if left_s > SOON_S:
        return kept["id_token"], left_s
    if not kept.get("refresh_token"):
        if left_s > 0:
            return kept["id_token"], left_s
        raise _ended(server)
    with _locked():
        kept = _read(path()).get(server, kept)
        left_s = _ends_s(kept["id_token"]) - now_s()
        if left_s <= SOON_S:
            kept = _refreshed(server, kept)
            left_s = _ends_s(kept["id_token"]) - now_s()
            _write({**_read(path()), server: kept})
    return kept["id_token"], left_s


def keep(server: str, login: Words) -> None:
    """Keep a login, in place of any before."""
    with _locked():
        _write({**_read(path()), server: login})


def forget(server: str) -> bool:
    """Drop a login, and tell its provider where that can be told; False: there was none."""
    if not known(server):
        return False
    with _locked():
        kept = _read(path())
        gone = kept.pop(server, None)
        _write(kept)
    if gone and gone.get("revoke") and gone.get("refresh_token"):
        with contextlib.suppress(BursarError):
            _post(gone["revoke"], {"token": gone["refresh_token"], "client_id": gone["client_id"]})
    return gone is not None


def _read(where: Path) -> dict[str, Words]:
    try:
        with where.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(ANSWER_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Forbidden(f"the logins in {where} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise Forbidden(
            f"{where} has mode {mode:04o}, so others can read it; `bursar logout`, and log in again"
        )
    try:
        found = json.loads(data)
        return {
            str(server): {str(name): str(value) for name, value in login.items()}
            for server, login in found.items()
            if isinstance(login, dict) and "id_token" in login
        }
    except (ValueError, AttributeError, RecursionError):
        return {}


def _write(logins: dict[str, Words]) -> None:
    where = path()
    fd, name = tempfile.mkstemp(dir=where.parent, prefix=f".{FILE_NAME}.")  # made with mode 0600
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(logins, file, indent=1)
        Path(name).replace(where)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    where = path().with_suffix(".lock")
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(where, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# ------------------------------------------------------------------ the provider


def discover(issuer: str) -> Provider:
    """What a provider says of itself. Raises `ServerUnavailable`, `InvalidRequest`."""
    found = _answer(issuer.rstrip("/") + "/.well-known/openid-configuration", None)[1]
    if found.get("issuer") != issuer:
        raise InvalidRequest(f"the provider at {issuer} calls itself {str(found.get('issuer'))[:200]!r}")
    listed = found.get("scopes_supported")
    offered = listed if isinstance(listed, list) else SCOPES
    addresses = [
        str(found.get(name) or "")
        for name in (
            "token_endpoint", "device_authorization_endpoint", "revocation_endpoint",
            "authorization_endpoint", "end_session_endpoint",
        )
    ]  # fmt: skip
    for address in addresses:
        if address:
            _check(address)
    scopes = tuple(scope for scope in SCOPES if scope in offered or scope == "openid")
    token, device, revoke, authorize, leave = addresses
    return Provider(issuer, token, device, revoke, authorize, leave, scopes)


def start(provider: Provider, client_id: str, now_s: float) -> Started:
    """Ask for a login of a person who has a browser somewhere. Raises `InvalidRequest`: it has none such."""
    if not provider.device or not provider.token:
        raise InvalidRequest(f"{provider.issuer} has no login for devices; use a token of `bursar config`")
    status, told = _answer(provider.device, {"client_id": client_id, "scope": " ".join(provider.scopes)})
    try:
        if status != 200:
            raise ValueError(_word(told))
        made = Started(
            str(told["verification_uri"]),
            str(told["user_code"]),
            str(told.get("verification_uri_complete") or ""),
            str(told["device_code"]),
            min(max(_number(told.get("interval", POLL_S)), 0.0), POLL_S_MAX),
            now_s + min(_number(told["expires_in"]), WAIT_S_MAX),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise InvalidRequest(f"{provider.issuer} starts no login of {client_id}: {problem}") from None
    return made


def finish(
    provider: Provider,
    client_id: str,
    started: Started,
    now_s: Callable[[], float] = wall_s,
    sleep: Callable[[float], None] = time.sleep,
) -> Words:
    """Wait until the person has logged in; what `keep` takes. Raises `Unauthenticated`."""
    form = {"grant_type": DEVICE, "device_code": started.device_code, "client_id": client_id}
    wait_s = started.interval_s
    while now_s() < started.ends_s:
        sleep(wait_s)
        status, told = _answer(provider.token, form)
        if status == 200:
            return _login(provider.issuer, told, client_id, provider.token, provider.revoke, "")
        if (word := _word(told)) == "slow_down":
            wait_s = min(wait_s + POLL_S, POLL_S_MAX)
        elif word != "authorization_pending":
            raise Unauthenticated(f"the login was not given: {word}")
    raise Unauthenticated("nobody logged in in time; run `bursar login` again")


def _refreshed(server: str, kept: Words) -> Words:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": kept["refresh_token"],
        "client_id": kept["client_id"],
    }
    status, told = _answer(kept["token"], form)
    if status != 200:
        raise _ended(server)
    return _login(
        kept["issuer"], told, kept["client_id"], kept["token"], kept.get("revoke", ""), kept["refresh_token"]
    )


def _login(issuer: str, told: Any, client_id: str, address: str, revoke: str, refresh: str) -> Words:
    token = told.get("id_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not _ends_s(token):
        raise Unauthenticated(
            f"{issuer} gave no ID token; does the client {client_id} have the scope openid?"
        )
    if len(token) > TOKEN_CHARS_MAX:
        raise Unauthenticated(
            f"the ID token has {len(token)} characters, more than the {TOKEN_CHARS_MAX} that travel with a"
            " call; have the provider put fewer groups into it"
        )
    return {
        "issuer": issuer,
        "client_id": client_id,
        "token": address,
        "revoke": revoke,
        "id_token": token,
        "refresh_token": str(told.get("refresh_token") or refresh),
    }


def _ended(server: str) -> Unauthenticated:
    return Unauthenticated(f"the login for {server} has ended; `bursar login --server grpcs://{server}`")


def _ends_s(token: str) -> float:
    """When it ends, as it says itself: the server checks it. 0 of what says nothing."""
    try:
        body = token.split(".")[1]
        found = _number(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"])
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        return 0.0
    return min(found, ENDS_S_MAX)


def _number(given: Any) -> float:
    """Raises `ValueError`, `TypeError` for what is no number of this world."""
    try:
        found = float(given)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError("a number is none")
    return found


def _word(told: Mapping[str, Any]) -> str:
    return str(told.get("error", "no reason"))[:80]


def _check(address: str) -> None:
    """Raises `InvalidRequest` for an address at which others could listen."""
    if problem := problem_of_address(address):
        raise InvalidRequest(f"{address[:200]!r} {problem}")


def problem_of_address(address: str) -> str:
    """What is wrong with an address of a provider; empty when nothing is."""
    try:
        parts = urlsplit(address)
        plain = parts.hostname and parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:
        plain = ""
    if not plain:
        return "is no plain address, such as https://id.example.org/realms/ml"
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in HERE):
        return "is not https: whoever stands between could sign for everybody"
    return ""


def trusted() -> ssl.SSLContext:
    """Whom a provider's certificate may be of: authorities of the system, and that of BURSAR_CA_FILE."""
    import ssl

    context = ssl.create_default_context()
    if os.environ.get("BURSAR_CA_FILE"):
        context.load_verify_locations(os.environ["BURSAR_CA_FILE"])
    return context


def _post(address: str, form: Words) -> int:
    return _answer(address, form)[0]


def _answer(address: str, form: Words | None) -> tuple[int, dict[str, Any]]:
    """(status, JSON object) of a GET, or of a form. Raises `ServerUnavailable`."""
    import http.client  # a tenth of what a command takes, for those alone that log in
    import urllib.request

    from bursar.client.inall import opener

    _check(address)
    context = trusted()
    head = {"Accept": "application/json", "User-Agent": "bursar"}
    try:
        data = urlencode(form).encode() if form is not None else None
        request = urllib.request.Request(address, data, head)
        try:
            answer = opener(context).open(request, timeout=TIMEOUT_S)
        except urllib.request.HTTPError as error:
            answer = error
        with answer:
            text = answer.read(ANSWER_BYTES_MAX + 1)
        if len(text) > ANSWER_BYTES_MAX:
            raise ValueError("too long an answer")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as problem:
        raise ServerUnavailable(f"the identity provider at {address} cannot be asked: {problem}") from None
    return answer.status, found
