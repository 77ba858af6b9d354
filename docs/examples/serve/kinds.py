"""A real small model in ONNX behind plain HTTP: of what kind a file is, by its bytes (magika, 3 MB).

pip install magika
curl $URL/kind -H "Authorization: Bearer bsk_..." --data-binary @some.file
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from magika import Magika

BODY_MAX = 1 << 20


def server(port: int) -> ThreadingHTTPServer:
    """What answers on the loopback."""
    model = Magika()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """`/health`, and nothing else."""
            self._answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            """What these bytes are, and how sure that is; and how many, which the gateway counts."""
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal() and len(length) < 10) or int(length) > BODY_MAX:
                self.close_connection = True  # what follows is not read
                self._answer(413, {"error": f"send a file of at most {BODY_MAX} bytes, with its length"})
                return
            data = self.rfile.read(int(length))
            found = model.identify_bytes(data)
            told = {"kind": str(found.output.label), "probability": round(float(found.score), 4)}
            self._answer(200, {**told, "usage": {"bytes": len(data)}})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing of a request is written down."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(int(os.environ["BURSAR_PORT"])).serve_forever()
