"""What a test makes true of the fake: the time, prices, quotas, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass
class Fault:
    """The next call of `action` is answered with an error. `after`: once it was done."""

    action: str
    code: str
    status: int = 400
    after: bool = False


@dataclass
class World:
    """One account. `now`: microseconds; prices in dollars an hour."""

    now: Callable[[], int]
    on_demand: dict[tuple[str, str], str] = field(default_factory=dict)
    """By (region, type)."""
    spot: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=dict)
    """By (zone, type): since when, and what."""
    quotas: dict[str, float] = field(default_factory=dict)
    """By name, in vCPUs."""
    refused: set[str] = field(default_factory=set)
    """Actions that the caller may not take."""
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Every call: its action, and all that was said but user data."""
    user_data: dict[str, str] = field(default_factory=dict)
    """By instance."""
    tokens: dict[tuple[str, str, str], tuple[str, Any, str]] = field(default_factory=dict)
    """By (region, zone, token): the digest of what was asked, the answer, the instance."""
    ended: dict[str, int] = field(default_factory=dict)
    """By instance, when it was ended."""
    boot_us: int = 20_000_000
    """So long a machine is pending."""
    ending_us: int = 10_000_000
    born: dict[str, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fail(self, action: str, code: str, *, status: int = 400, after: bool = False) -> None:
        """The next such call fails so."""
        self.faults.append(Fault(action, code, status, after))

    def take(self, action: str, *, after: bool) -> Fault | None:
        """A fault that happens now."""
        for fault in self.faults:
            if fault.action == action and fault.after is after:
                self.faults.remove(fault)
                return fault
        return None

    def calls(self, action: str) -> int:
        """How often it was asked."""
        return sum(name == action for name, _ in self.asked)

    def date(self, us: int | None = None) -> datetime:
        """An instant as AWS writes it."""
        return datetime.fromtimestamp((self.now() if us is None else us) / 1_000_000, UTC)
