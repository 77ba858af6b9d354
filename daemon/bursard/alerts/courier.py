"""The courier: hears of thresholds and anomalies that are durable, and tells the channels that want them.

Why     an event is told from when it is durable on, and once: what was heard before a restart is not told
        again, since the event stands in the log and `budget show` says what is in force. A channel that does
        not answer is tried `TRIES` times and then given up, aloud.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from bursar.errors import BursarError
from bursar.projects import is_within
from bursar_policies.specs import NOTIFY, AlertChannelSpec
from bursard.alerts.message import Told, alert_of, anomaly_alert_of
from bursard.alerts.ways import Secret, Undelivered, send
from bursard.events import AnomalyFound, Event, ThresholdCrossed
from bursard.state import State

log = logging.getLogger(__name__)

TRIES: Final = 5
FIRST_WAIT_S: Final = 2.0
"""Before the second try; each wait after it is four times as long: three minutes in all."""
UNDER_WAY_MAX: Final = 1_000
THREADS: Final = 4
_KIND: Final = "AlertChannel"
Send = Callable[[AlertChannelSpec, Told, Secret], None]


def secrets_in(folder: Path) -> Secret:
    """Reads secrets of alert channels: files of one directory, for this account alone."""

    def read(name: str) -> str:
        path = folder / name
        try:
            if path.stat().st_mode & 0o077:
                raise Undelivered(f"{path} can be read by others; chmod 0600 it")
            return path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise Undelivered(f"{path} cannot be read: {why}") from None

    return read


class Courier:
    """One for the daemon. `on_event` is a listener of the engine.

    Attributes:
        undelivered: by channel, why it could not be told last; what got through takes it away.
    """

    def __init__(
        self,
        state: State,
        secret: Secret,
        way: Send = send,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.undelivered: dict[str, str] = {}
        self._state = state
        self._secret = secret
        self._way = way
        self._sleep = sleep
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="alerts")
        self._under_way: set[asyncio.Task[None]] = set()

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Have a threshold, or an anomaly, told. Never blocks, never raises."""
        where = seq, at, self._state.cluster_id, self._state.currency
        alert: Told
        if isinstance(event, AnomalyFound):
            alert = anomaly_alert_of(event, *where)
        elif isinstance(event, ThresholdCrossed) and NOTIFY in event.do:
            alert = alert_of(event, *where)
        else:
            return
        log.warning(alert.text, extra={"about": alert.about})
        for (kind, name), document in self._state.policies.items():
            spec = document.spec
            if kind != _KIND or not isinstance(spec, AlertChannelSpec) or not _hears(spec, event):
                continue
            if len(self._under_way) >= UNDER_WAY_MAX:
                self._give_up(name, alert, f"{UNDER_WAY_MAX} others are under way")
                continue
            task = asyncio.get_running_loop().create_task(self._tell(name, spec, alert), name=f"alert-{name}")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _tell(self, name: str, spec: AlertChannelSpec, alert: Told) -> None:
        loop, wait_s, problem = asyncio.get_running_loop(), FIRST_WAIT_S, ""
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(wait_s)
                wait_s *= 4
            try:
                await loop.run_in_executor(self._pool, self._send, spec, alert)
            except Undelivered as error:
                problem = str(error)
            except (OSError, BursarError) as error:
                problem = f"{type(error).__name__}: {getattr(error, 'strerror', None) or 'no connection'}"
            except Exception as error:
                # A defect of a library: its text may quote what it was given.
                problem = type(error).__name__
            else:
                self.undelivered.pop(name, None)
                log.info("told", extra={"channel": name, "alert": alert.id})
                return
            self.undelivered[name] = problem
            log.info("not told yet", extra={"channel": name, "alert": alert.id, "why": problem})
        self._give_up(name, alert, problem)

    def _send(self, spec: AlertChannelSpec, alert: Told) -> None:
        """In a thread. What a library raises that is no `Exception` would end the daemon from here."""
        try:
            self._way(spec, alert, self._secret)
        except Exception:
            raise
        except BaseException as error:
            raise Undelivered(type(error).__name__) from error

    def _give_up(self, name: str, alert: Told, problem: str) -> None:
        self.undelivered[name] = problem
        log.error(
            "an alert could not be delivered",
            extra={"channel": name, "alert": alert.id, "about": alert.about, "why": problem},
        )

    async def idle(self) -> None:
        """Until nothing is under way: for tests, and a daemon that leaves."""
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def close(self) -> None:
        """Leave what is under way; nobody waits for it."""
        for task in self._under_way:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _hears(spec: AlertChannelSpec, event: AnomalyFound | ThresholdCrossed) -> bool:
    if isinstance(event, AnomalyFound):
        return any(_of(event.name, pattern) for pattern in spec.anomalies)
    if not spec.budgets:
        return not spec.anomalies
    return any(fnmatchcase(event.budget, pattern) for pattern in spec.budgets)


def _of(project: str, pattern: str) -> bool:
    """Is it one of these projects, or below one that is named?"""
    return fnmatchcase(project, pattern) or is_within(project, pattern)
