"""The fake as a server over TLS: every request and answer is held against the library's own contract.

Why     the library sends its token over nothing else, and checks whom it talks to; so does this one, with an
        authority made for the purpose. What is said wrong is noted by name (`Cloud.violations`).
"""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from fake_azure.authority import write_authority
from fake_azure.cloud import SUBSCRIPTION, Cloud, Refused
from fake_azure.contract import METHODS, compute


class Server:
    """`cloud` is looked up at each request, so a test may put another one in its place."""

    def __init__(self) -> None:
        self.cloud: Cloud | None = None
        self.raw: bytes | None = None
        """Sent instead of every answer: what a provider says that has gone mad."""
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="azure-cloud-")
        folder = Path(self._folder.name)
        self.ca_file = str(folder / "ca.pem")
        write_authority(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self._http.daemon_threads = True
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """No more answers."""
        self._http.shutdown()
        self._http.server_close()
        self._folder.cleanup()

    def answer(self, verb: str, target: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        """Status and text of the answer to a request."""
        if self.raw is not None:
            return 200, self.raw
        assert self.cloud is not None
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        try:
            if urlsplit(target).path == "/api/retail/prices":
                return 200, json.dumps(self.cloud.retail(query, headers, self.url)).encode()
            if not (headers.get("Authorization") or "").startswith("Bearer "):
                raise Refused(401, "AuthenticationFailed", "Authentication failed.")
            given = json.loads(body) if body else None
            with self._lock:
                status, found = self._answer(self.cloud, verb, parts.path, query, given, headers)
        except Refused as error:
            said = {"error": {"code": error.code, "message": error.message}}
            return error.status, json.dumps(said).encode()
        return status, b"" if found is None else json.dumps(found).encode()

    def _answer(
        self, cloud: Cloud, verb: str, path: str, query: dict[str, str], given: Any, headers: Any
    ) -> tuple[int, Any]:
        if not path.lower().startswith(f"/subscriptions/{SUBSCRIPTION}"):
            raise Refused(404, "SubscriptionNotFound", "The subscription could not be found.")
        found = compute().find(verb, path)
        if found is None:
            status, answer = cloud.raw(verb, path, query)
            return status, self._paged(cloud, path, query, answer)
        method, names = found
        if wrong := compute().wrong_request(method, query, given):
            cloud.violations.append((method.name, wrong))
            raise Refused(400, "InvalidRequestContent", "; ".join(wrong))
        fresh = headers.get("If-None-Match") == "*"
        status, answer = cloud.answer(method.name, names, query, given, fresh)
        kind = METHODS[method.name]
        rows = answer if isinstance(answer, list) else [answer] if answer is not None else []
        if wrong := [text for row in rows if kind for text in compute().wrong(kind, row)]:
            cloud.violations.append((f"{method.name}, answer", wrong))
            raise Refused(500, "FakeIsWrong", "; ".join(wrong))
        return status, self._paged(cloud, path, query, answer)

    def _paged(self, cloud: Cloud, path: str, query: dict[str, str], answer: Any) -> Any:
        """Lists come in pages of few rows, so that who does not follow them is found out."""
        if not isinstance(answer, list):
            return answer
        start, size = int(query.get("$skiptoken") or 0), cloud.page
        page: dict[str, Any] = {"value": answer[start : start + size]}
        if start + size < len(answer):
            more = {**query, "$skiptoken": str(start + size)}
            words = "&".join(f"{quote(key)}={quote(value)}" for key, value in more.items())
            page["nextLink"] = f"{self.url}{path}?{words}"
        return page


class _Handler(BaseHTTPRequestHandler):
    fake: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, text = self.fake.answer(self.command, self.path, self.headers, body)
        self.send_response(status)
        if text:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _do
