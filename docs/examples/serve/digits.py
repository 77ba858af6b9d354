"""A real small model behind plain HTTP: handwritten digits, learned when the replica starts (a second).

curl $URL/predict -H "Authorization: Bearer bsk_..." -d '{"pixels": [0, 0, 5, ...]}'     64 numbers, 0 to 16
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

BODY_MAX = 64 << 10


def learned() -> Any:
    """The model."""
    digits = load_digits()
    return LogisticRegression(max_iter=200).fit(digits.data / 16, digits.target)


def server(port: int) -> ThreadingHTTPServer:
    """What answers on the loopback."""
    model = learned()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """`/health`, and nothing else."""
            self._answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            """Which digit these pixels are, and how sure that is."""
            try:
                size = min(int(self.headers.get("Content-Length", "0")), BODY_MAX)
                pixels = [float(one) for one in json.loads(self.rfile.read(size))["pixels"]]
                odds = model.predict_proba([[one / 16 for one in pixels]])[0]
            except (ValueError, KeyError, TypeError):
                self._answer(400, {"error": 'send {"pixels": [64 numbers, 0 to 16]}'})
                return
            digit = int(odds.argmax())
            self._answer(200, {"digit": digit, "probability": round(float(odds[digit]), 4)})

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
