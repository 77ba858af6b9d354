"""The fake as a server: every request and every answer is held against Google's own document.

Why     the official clients, and whoever judges them, speak HTTP; what they say wrong, and what the fake says
        wrong, is noted by name (`Cloud.violations`), so that a test can demand that there was nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fake_gcp.cloud import Cloud, Refused
from fake_gcp.contract import compute_engine

SERVICE = "/compute/v1/"
PERMISSIONS = ":testIamPermissions"


class Server:
    """`cloud` is looked up at each request, so a test may put another one in its place."""

    def __init__(self) -> None:
        self.cloud: Cloud | None = None
        self.raw: bytes | None = None
        """Sent instead of every answer: what a provider says that has gone mad."""
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more answers."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, verb: str, target: str, token: str, body: bytes) -> tuple[int, bytes]:
        """Status and text of the answer to a request."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        assert self.cloud is not None
        if self.raw is not None:
            return 200, self.raw
        try:
            if not token.startswith("Bearer "):
                raise Refused(401, "authError", "Request is missing required authentication credential.")
            with self._lock:
                return 200, json.dumps(self._answer(self.cloud, verb, parts.path, query, body)).encode()
        except Refused as error:
            row = {"message": error.message, "domain": "global", "reason": error.reason}
            said = {"error": {"code": error.status, "message": error.message, "errors": [row]}}
            return error.status, json.dumps(said).encode()

    def _answer(self, cloud: Cloud, verb: str, path: str, query: dict[str, str], body: bytes) -> Any:
        try:
            given = json.loads(body) if body else None
        except ValueError:
            raise Refused(400, "parseError", "Parse Error") from None
        if path.endswith(PERMISSIONS):
            asked = list((given or {}).get("permissions", ()))
            return {"permissions": [one for one in asked if cloud.granted is None or one in cloud.granted]}
        contract = compute_engine()
        found = contract.find(verb, path.removeprefix(SERVICE)) if path.startswith(SERVICE) else None
        if found is None:
            raise Refused(404, "notFound", f"there is no method {verb} {path}")
        method, names = found
        query.pop("$alt", None)
        if wrong := contract.wrong_request(method, query, given):
            cloud.violations.append((method.id, wrong))
            raise Refused(400, "invalid", "; ".join(wrong))
        answer = cloud.answer(method.id, names, query, given)
        if wrong := contract.wrong(method.response, answer):
            cloud.violations.append((f"{method.id}, answer", wrong))
            raise Refused(500, "fakeIsWrong", "; ".join(wrong))
        return answer


class _Handler(BaseHTTPRequestHandler):
    fake: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, text = self.fake.answer(
            self.command, self.path, self.headers.get("Authorization") or "", body
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _do


@contextmanager
def running() -> Iterator[Server]:
    """A server for as long as the block lasts."""
    server = Server()
    try:
        yield server
    finally:
        server.close()
