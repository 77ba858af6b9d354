"""The public keys with which an identity provider signs, as its address tells them.

Owns    when they are fetched, how much of an answer is read, and how long they are believed.
Why     keys are changed: a token with a key that is not known is worth one look, and no more than one in a
        while, or a stranger's tokens would have us call the provider without end. Between looks nothing is
        asked, so that a provider that is away keeps nobody out who has a good token.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from joserfc.jwk import ECKey, RSAKey

from bursar.client.inall import opener
from bursar.client.logins import problem_of_address
from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import StoreUnavailable, Unauthenticated

log = logging.getLogger(__name__)

Key = RSAKey | ECKey
Fetch = Callable[[str], bytes]
"""The document at an address. Raises what its HTTP may raise, such as `OSError` and `ValueError`."""

DISCOVERY: Final = "/.well-known/openid-configuration"
FRESH_US: Final = HOUR_US
"""How long keys are used before they are looked up again."""
BELIEVED_US: Final = 24 * HOUR_US
"""How long keys are believed that could not be looked up again."""
AGAIN_US: Final = 10 * SECOND_US
"""At most one look in so long, however many tokens name keys that are not known."""
LOOK_S: Final = 15.0
TIMEOUT_S: Final = 5.0
DOCUMENT_BYTES_MAX: Final = 256 * 1024
KEYS_MAX: Final = 64
RSA_BITS_MIN: Final = 2_048
WAITERS_MAX: Final = 64
"""Calls that may wait for one look; others are told to come again."""
FAMILIES: Final[Mapping[str, type[Key]]] = {"RSA": RSAKey, "EC": ECKey}
"""Kinds of keys that are looked at: never one that would be a secret (`oct`)."""


class KeyUnknown(Unauthenticated):
    """A token names a key that the provider was not known to have, or is not signed with the one known."""


def fetcher(ca_file: Path) -> Fetch:
    """What fetches documents, trusting the system's authorities or those of a file."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file != Path() else None)
    # Through no proxy of the environment: what signs for everybody is asked for directly. And from the
    # address that was set, or not at all.
    made = opener(context, urllib.request.ProxyHandler({}))

    def fetch(url: str) -> bytes:
        with made.open(url, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(DOCUMENT_BYTES_MAX + 1)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise ValueError(f"{url} has more than {DOCUMENT_BYTES_MAX} bytes")
        return data

    return fetch


class Keys:
    """Those of one issuer. `now_us`: the daemon's boot clock."""

    def __init__(self, issuer: str, fetch: Fetch, now_us: Callable[[], int]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._now_us = now_us
        self._keys: dict[str, Key] = {}
        self._prints: dict[str, str] = {}
        """The thumbprint of each: a provider may give another key the same name."""
        self._learnt_at = 0
        self._looked_at = -AGAIN_US
        self._look: asyncio.Task[None] | None = None
        self._waiters = 0
        self.problem = "they were not looked up yet"

    def has(self, key_id: str) -> bool:
        """Is it one of those that are believed now?"""
        return key_id in self._keys and self._now_us() - self._learnt_at < BELIEVED_US

    def print_of(self, key_id: str) -> str:
        """The thumbprint (RFC 7638) of the key of this name; "" where none is believed now."""
        return self._prints[key_id] if self.has(key_id) else ""

    def of(self, key_id: str, algorithm: object) -> Key:
        """The key of this name. Raises `KeyUnknown`, also where it is not for this algorithm: the provider
        may have another of that name by now.
        """
        if not self.has(key_id):
            why = f" ({self.problem})" if self.problem else ""
            raise KeyUnknown(f"the token was signed with a key that is not known here{why}; `bursar login`")
        key = self._keys[key_id]
        if key.alg is not None and key.alg != algorithm:
            raise KeyUnknown(f"the token is signed by another algorithm than its key is for, {key.alg}")
        return key

    async def learn(self) -> None:
        """Look the keys up once, unless that was done just now; many who ask share one look."""
        if self._look is None:
            if self._now_us() - self._looked_at < AGAIN_US:
                return
            self._looked_at = self._now_us()
            self._look = asyncio.create_task(self._learn(), name="oidc-keys")
        if self._waiters >= WAITERS_MAX:
            return
        self._waiters += 1
        try:
            await asyncio.shield(self._look)
        finally:
            self._waiters -= 1

    async def run(self) -> None:
        """Look them up for ever: now, when they are no longer fresh, and soon again after a failure."""
        while True:
            if self.problem or self._now_us() - self._learnt_at >= FRESH_US:
                await self.learn()
            await asyncio.sleep(LOOK_S)

    async def _learn(self) -> None:
        try:
            keys = await asyncio.to_thread(look_up, self._issuer, self._fetch)
        except Exception as problem:  # nothing that a provider answers ends the task that looks
            if not self.problem:
                log.warning("the keys of the identity provider could not be looked up", exc_info=problem)
            self.problem = f"its provider does not tell its keys: {str(problem)[:200]}"
        else:
            self._keys, self._learnt_at, self.problem = keys, self._now_us(), ""
            self._prints = {name: key.thumbprint() for name, key in keys.items()}
        finally:
            self._look = None


def look_up(issuer: str, fetch: Fetch) -> dict[str, Key]:
    """The keys by name, through the issuer's own document. Raises what `Fetch` does, and `BursarError`."""
    document = _table(fetch(issuer.rstrip("/") + DISCOVERY))
    if document.get("issuer") != issuer:
        raise StoreUnavailable(f"its document says that it is {str(document.get('issuer'))[:200]!r}")
    where = document.get("jwks_uri")
    if not isinstance(where, str) or problem_of_address(where):
        raise StoreUnavailable("its document names no address of keys that can be trusted")
    listed = _table(fetch(where)).get("keys")
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise StoreUnavailable(f"its keys are no list of at most {KEYS_MAX}")
    found: dict[str, Key] = {}
    for each in listed:
        key = _usable(each)
        if key is not None and key.kid:
            found.setdefault(key.kid, key)
    if not found:
        raise StoreUnavailable("it has no key that a signature can be checked with")
    return found


def _usable(given: Any) -> Key | None:
    """One key, if it is public, for signatures, and strong enough; None: it is passed over."""
    if not isinstance(given, dict) or given.get("use", "sig") != "sig":
        return None
    family = FAMILIES.get(str(given.get("kty")))
    if family is None or (family is RSAKey and _bits(given.get("n")) < RSA_BITS_MIN):
        return None
    try:
        return family.import_key({name: value for name, value in given.items() if name != "key_ops"})
    except Exception:  # a curve that is not known is a KeyError: whatever it is, this key is none of ours
        return None


def _bits(number: Any) -> int:
    """How long a number of a key is; 0 of what is none."""
    try:
        return int.from_bytes(base64.urlsafe_b64decode(number + "==")).bit_length()
    except (TypeError, ValueError):
        return 0


def _table(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("its answer is no JSON object")
    return found
