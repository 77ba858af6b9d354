"""The metadata service of one machine, version 2: a session's token first, and it lapses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


class Imds:
    """Says what `says` has by path; 404 without. `broken`: every answer has this status instead.

    `now`: seconds, by which sessions lapse.
    """

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self.says: dict[str, str] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.broken = 0
        self._sessions: dict[str, float] = {}
        self._now = now
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_PUT(self) -> None:
                ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                good = self.path == "/latest/api/token" and ttl.isdigit() and 1 <= int(ttl) <= 21_600
                token = f"session-{len(service._sessions)}"
                if good:
                    service._sessions[token] = service._now() + int(ttl)
                self._answer(200 if good else 400, token if good else "")

            def do_GET(self) -> None:
                until = service._sessions.get(self.headers.get("X-aws-ec2-metadata-token", ""), -1.0)
                if until <= service._now():
                    return self._answer(401, "")
                text = service.says.get(self.path)
                return self._answer(404 if text is None else 200, text or "")

            def _answer(self, status: int, text: str) -> None:
                status = service.broken or status
                service.asked.append((self.command, self.path, status))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def interrupt(self, at: str, action: str = "terminate") -> None:
        """It is taken back at an instant such as 2026-01-01T00:02:00Z."""
        self.says[ACTION] = json.dumps({"action": action, "time": at})

    def rebalance(self, at: str) -> None:
        """It may be."""
        self.says[REBALANCE] = json.dumps({"noticeTime": at})

    def close(self) -> None:
        """No more."""
        self._server.shutdown()
        self._server.server_close()
