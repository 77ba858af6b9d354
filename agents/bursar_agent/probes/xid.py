"""Critical events of devices (Xid), waited for in a thread of their own.

Owns    one event set and its thread, which ends with `close`.
Why     an Xid says why a job died (79: the device fell off the bus; 48: an ECC error that cannot be
        corrected) at the moment it happens, and no counter repeats it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)

WAIT_MS = 1000
"""So long may `close` take."""

_TIMEOUT = 10
"""NVML_ERROR_TIMEOUT: nothing happened, which is good."""


class XidWatch:
    """Watches those of `handles` that offer the event; says nothing of the others."""

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._last: dict[int, int] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._events = nvml.nvmlEventSetCreate()
            for index, handle in enumerate(handles):
                if self._register(handle):
                    self._last[index] = 0
        except Exception as problem:
            log.debug("no events", extra={"problem": str(problem)})
            return
        if self._last:
            self._thread = threading.Thread(target=self._watch, name="xid", daemon=True)
            self._thread.start()

    def last(self, index: int) -> int | None:
        """The last Xid of a device; 0: none came; None: it is not watched."""
        return self._last.get(index)

    def close(self) -> None:
        """Stop watching; returns once the thread has ended, or after twice its wait."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2 * WAIT_MS / 1000)

    def _register(self, handle: Any) -> bool:
        try:
            offered = self._nvml.nvmlDeviceGetSupportedEventTypes(handle)
            wanted = self._nvml.nvmlEventTypeXidCriticalError
            if not offered & wanted:
                return False
            self._nvml.nvmlDeviceRegisterEvents(handle, wanted, self._events)
        except Exception:
            return False
        return True

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, WAIT_MS)
            except Exception as problem:
                if getattr(problem, "value", None) == _TIMEOUT:
                    continue
                log.error("events are no longer watched", extra={"problem": str(problem)})
                self._last.clear()
                return
            self._take(event)

    def _take(self, event: Any) -> None:
        number = int(event.eventData)
        index = self._index(event.device)
        log.error("device event", extra={"xid": number, "gpu": "unknown" if index is None else index})
        if index is not None:
            self._last[index] = number

    def _index(self, device: Any) -> int | None:
        try:
            uuid = self._nvml.nvmlDeviceGetUUID(device)
            found = [self._nvml.nvmlDeviceGetUUID(handle) == uuid for handle in self._handles]
        except Exception:  # it fell off the bus; with one device there is no doubt
            return 0 if len(self._handles) == 1 else None
        return found.index(True) if True in found else None
