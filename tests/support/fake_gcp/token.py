"""Credentials that anybody has: Google's library sends their token as it would send a true one."""

from __future__ import annotations

from google.auth.credentials import Credentials


class StubCredentials(Credentials):
    """`refreshed`: how often a new token was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.refreshed = 0

    def refresh(self, request: object) -> None:
        self.refreshed += 1
        self.token = f"stub-{self.refreshed}"
