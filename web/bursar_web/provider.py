"""Logging in by the site's identity provider: OpenID Connect's code flow with PKCE, by Authlib.

Owns    what is kept of a login between the two ways (state, nonce, proof), and the exchange of its code.
Why     the daemon checks the token that comes of it, as it checks everybody's, so that a page knows no more
        of who somebody is than a call does. What is checked here is what the daemon cannot know: that the
        answer belongs to the question that this very browser was sent away with.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from bursar.client import logins
from bursar.clock import HOUR_US, SECOND_US, Clock
from bursar.errors import InvalidRequest, RateLimited, ServerUnavailable, Unauthenticated

AWAY_US: Final = 600 * SECOND_US
"""How long somebody may take at the provider."""
AWAY_MAX: Final = 1_000
FRESH_US: Final = HOUR_US
"""How long the provider's document is used before it is read again."""
TIMEOUT_S: Final = 10.0
LIFE_S_MAX: Final = 10 * 365 * 86_400
WORD_CHARS_MAX: Final = 200


class Client(NamedTuple):
    """What these pages are at the provider. secret: "" of a public client."""

    issuer: str
    client_id: str
    secret: str = ""


class Away(NamedTuple):
    """A login on its way. next: where to go on. back: the address that it comes back to."""

    nonce: str
    proof: str
    next: str
    back: str
    since: int


class Given(NamedTuple):
    """What came of a login. refresh: "" where it cannot be had again. life_us: how long the token is good."""

    token: str
    refresh: str
    life_us: int


class Provider:
    """The provider of a site, as these pages use it."""

    def __init__(self, client: Client, clock: Clock, secret: Callable[[], str]) -> None:
        self._client = client
        self._clock = clock
        self._secret = secret
        self._away: dict[str, Away] = {}
        self._found: logins.Provider | None = None
        self._trusted = functools.cache(logins.trusted)
        self._found_at = 0

    @property
    def name(self) -> str:
        """What people call it: the host of its address."""
        return urlsplit(self._client.issuer).hostname or self._client.issuer

    async def send_away(self, next: str, back: str) -> tuple[str, str]:
        """(state, address): where a browser logs in. Raises `ServerUnavailable`, `RateLimited`."""
        found, now = await self._known(), self._clock.boot_us()
        self._away = {key: one for key, one in self._away.items() if now - one.since < AWAY_US}
        if len(self._away) >= AWAY_MAX:
            raise RateLimited(f"{AWAY_MAX} logins are on their way; come again in a while")
        state, nonce, proof = self._secret(), self._secret(), self._secret() + self._secret()
        self._away[state] = Away(nonce, proof, next, back, now)
        async with self._asking(back, found.scopes) as client:
            address, _ = client.create_authorization_url(
                found.authorize, state=state, nonce=nonce, code_verifier=proof
            )
        return state, str(address)

    async def come_back(self, state: str, own_state: str, code: str, issuer: str) -> tuple[Given, str]:
        """(what was given, where to go on). `own_state`: of the browser that was sent away.

        Raises `InvalidRequest`: it is no answer to what this browser asked; `Unauthenticated`;
        `ServerUnavailable`.
        """
        away = self.take(state, own_state)
        if issuer and issuer != self._client.issuer:
            raise InvalidRequest("that answer is of another identity provider")
        found = await self._known()
        form = {"code": code, "code_verifier": away.proof, "grant_type": "authorization_code"}
        given = await self._exchange(found, away.back, form, "")
        said = claims_of(given.token).get("nonce")
        if not isinstance(said, str) or said != away.nonce:
            raise Unauthenticated("the provider's token answers another login (nonce); begin again")
        return given, away.next

    def take(self, state: str, own_state: str) -> Away:
        """The login that this browser has begun, once. Raises `InvalidRequest`: it has begun none such."""
        away = self._away.get(state)
        known = away is not None and hmac.compare_digest(state.encode(), own_state.encode())
        if away is None or not known or self._clock.boot_us() - away.since >= AWAY_US:
            raise InvalidRequest("that login was not begun in this browser, or too long ago; begin again")
        del self._away[state]
        return away

    async def again(self, refresh: str) -> Given:
        """A new token for one that is about to end. Raises `Unauthenticated`, `ServerUnavailable`."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh}
        return await self._exchange(await self._known(), "", form, refresh)

    async def leave(self, back: str) -> str:
        """Where a browser logs out of the provider too; "" where it has no such page."""
        found = await self._known()
        asked = {"client_id": self._client.client_id, "post_logout_redirect_uri": back}
        return f"{found.leave}?{urlencode(asked)}" if found.leave else ""

    async def _exchange(self, found: logins.Provider, back: str, form: dict[str, str], refresh: str) -> Given:
        async with self._asking(back, found.scopes) as client:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    told = await client.fetch_token(found.token, **form)
            except OAuthError as problem:
                word = str(problem.error)[:WORD_CHARS_MAX]
                raise Unauthenticated(f"the provider gives no token: {word}") from None
            except Exception as problem:  # what a provider answers is whatever it is
                raise ServerUnavailable(f"{self.name} cannot be asked: {type(problem).__name__}") from None
        token = told.get("id_token")
        claims = claims_of(token)
        ends, began = claims.get("exp"), claims.get("iat")
        if not isinstance(token, str) or not isinstance(ends, int | float) or claims.get("aud") is None:
            raise Unauthenticated(f"{self.name} gave no ID token; may these pages ask for the scope openid?")
        if self._client.client_id not in (claims["aud"], *_listed(claims["aud"])):
            raise Unauthenticated(f"{self.name} gave a token that is another program's")
        if not token.isascii() or not token.isprintable():
            raise Unauthenticated(f"{self.name} gave a token that cannot travel")
        life_s = ends - began if isinstance(began, int | float) else 0
        life_s = (
            min(max(life_s, 0), LIFE_S_MAX) if life_s == life_s else 0
        )  # a number that is none is not itself
        return Given(token, str(told.get("refresh_token") or refresh), int(life_s) * SECOND_US)

    async def _known(self) -> logins.Provider:
        now = self._clock.boot_us()
        if self._found is None or now - self._found_at >= FRESH_US:
            found = await asyncio.to_thread(logins.discover, self._client.issuer)
            if not found.authorize or not found.token:
                raise InvalidRequest(f"{self.name} has no login for browsers")
            self._found, self._found_at = found, now
        return self._found

    def _asking(self, back: str, scopes: tuple[str, ...]) -> Any:
        return AsyncOAuth2Client(
            self._client.client_id,
            self._client.secret or None,
            redirect_uri=back or None,
            scope=" ".join(scopes),
            code_challenge_method="S256",
            verify=self._trusted(),
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
        )


def claims_of(token: Any) -> dict[str, Any]:
    """What a token says, unchecked: the daemon checks it. Empty of what is none."""
    try:
        body = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, IndexError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(audience: Any) -> list[Any]:
    return audience if isinstance(audience, list) else []
