"""An identity provider on this machine: discovery, keys, code with PKCE, device flow and refresh, over HTTP.

Whoever comes to its login page is let in as `claims`; a device waits until `approved`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT, WEB, WEB_SECRET = "bursar-cli", "bursar-web", "secret-of-web"


@functools.cache
def first_key() -> RSAKey:
    """Made once: it takes a quarter of a second."""
    return RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256", "use": "sig"})


class Provider:
    """What it tells and gives. `now`: seconds of its own clock."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.key: Any = first_key()
        self.public: list[dict[str, Any]] = [self.key.as_dict(private=False)]
        self.claims: dict[str, Any] = {
            "sub": "7f3", "email": "ann@example.org", "email_verified": True, "groups": ["nlp-team"],
        }  # fmt: skip
        self.approved = False
        self.pending = "authorization_pending"
        self.refreshes = True
        self.life_s = 600
        self.nonce: str | None = None
        self.asked: Counter[str] = Counter()
        self.forms: list[dict[str, str]] = []
        self._codes: dict[str, dict[str, str]] = {}
        self.issuer = ""
        self.document: dict[str, Any] = {}

    def rotate(self, kid: str) -> None:
        """From now on it signs with another key, of another kind, and tells both."""
        self.key = ECKey.generate_key("P-256", {"kid": kid, "alg": "ES256", "use": "sig"})
        self.public.append(self.key.as_dict(private=False))

    def token(self, head: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """A token as it makes them; a claim that is None is left out, and so with the head's words."""
        key = key or self.key
        now = self.now()
        said = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + self.life_s, **self.claims}
        said |= claims
        top = {"alg": key.alg or "RS256", "kid": key.kid, "typ": "JWT"} | (head or {})
        kept = {name: value for name, value in top.items() if value is not None}
        body = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, body, key, algorithms=[kept["alg"]])

    def answer(self, path: str, query: dict[str, str], form: dict[str, str]) -> tuple[int, Any]:
        """(status, document, or an address to go on to)."""
        self.asked[path] += 1
        if form:
            self.forms.append(form)
        if path == "/.well-known/openid-configuration":
            return 200, self.document
        if path == "/keys":
            return 200, {"keys": self.public}
        if path == "/authorize":
            code = f"code-{len(self._codes)}"
            self._codes[code] = query
            return 302, f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
        if path == "/device":
            return 200, {
                "device_code": "d1", "user_code": "WDJB-MJHT", "interval": 0, "expires_in": 600,
                "verification_uri": f"{self.issuer}/activate",
            }  # fmt: skip
        if path == "/token":
            return self._grant(form)
        if path == "/revoke":
            return 200, {}
        return 404, {"error": "no such page"}

    def _grant(self, form: dict[str, str]) -> tuple[int, Any]:
        more: dict[str, Any] = {"aud": self.claims.get("aud", form.get("client_id", CLIENT))}
        kind = form.get("grant_type")
        if kind == "authorization_code":
            asked = self._codes.pop(form.get("code", ""), None)
            proof = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if asked is None or asked["code_challenge"] != base64.urlsafe_b64encode(proof).decode().rstrip(
                "="
            ):
                return 400, {"error": "invalid_grant"}
            more["nonce"] = self.nonce or asked.get("nonce")
            if asked["redirect_uri"] != form.get("redirect_uri"):
                return 400, {"error": "invalid_grant"}
        elif kind == "refresh_token" and not (self.refreshes and form.get("refresh_token") == "r1"):
            return 400, {"error": "invalid_grant"}
        elif kind == "urn:ietf:params:oauth:grant-type:device_code" and not self.approved:
            return 400, {"error": self.pending}
        return 200, {
            "id_token": self.token(**more), "access_token": "opaque", "refresh_token": "r1",
            "token_type": "Bearer", "expires_in": self.life_s,
        }  # fmt: skip


@contextmanager
def provider(now: Callable[[], int]) -> Iterator[Provider]:
    """One that answers until the end of the block."""
    made = Provider(now)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            form = _flat(self.rfile.read(length).decode())
            if (basic := self.headers.get("authorization", "")).startswith("Basic "):
                form["client_id"], form["client_secret"] = (
                    base64.b64decode(basic.removeprefix("Basic ")).decode().split(":")
                )
            status, told = made.answer(parts.path, _flat(parts.query), form)
            data = b"" if status == 302 else told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if status == 302:
                self.send_header("location", told)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        made.issuer = f"http://127.0.0.1:{server.server_port}"
        made.document = {
            "issuer": made.issuer,
            "jwks_uri": f"{made.issuer}/keys",
            "authorization_endpoint": f"{made.issuer}/authorize",
            "token_endpoint": f"{made.issuer}/token",
            "device_authorization_endpoint": f"{made.issuer}/device",
            "end_session_endpoint": f"{made.issuer}/logout",
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _flat(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text).items()}
