"""Telling systemd that we are ready and alive.

Owns    one datagram to NOTIFY_SOCKET. Why: a library for a single sendto would be one more dependency.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Silent where systemd did not start us."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ means the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_us = int(watchdog) if watchdog.isdigit() and ours else 0

    def send(self, text: str) -> None:
        """`READY=1`, `WATCHDOG=1`, `STOPPING=1`. Never blocks, never fails."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(text.encode(), self._address)
        except OSError:
            pass
