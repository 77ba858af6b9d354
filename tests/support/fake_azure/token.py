"""Credentials that anybody has: Microsoft's library sends their token as it would send a true one."""

from __future__ import annotations

from typing import Any

from azure.core.credentials import AccessToken

FOREVER_S = 4_000_000_000


class StubCredential:
    """`asked`: for which scopes a token was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def get_token(self, *scopes: str, **more: Any) -> AccessToken:
        self.asked |= set(scopes)
        return AccessToken("stub", FOREVER_S)
