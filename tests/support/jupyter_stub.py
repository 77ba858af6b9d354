"""A stand-in for Jupyter: settings from `--config`, a token of each request, a kernel as a file says.

It is written out as an executable, so it needs the standard library alone, and does all that a real one might
do wrong: it writes its arguments and its token to its output.
"""

import http.server
import json
import os
import sys
from typing import Any

if __name__ == "__main__":
    [_settings] = [word.partition("=")[2] for word in sys.argv if word.startswith("--config=")]
    with open(_settings) as _file:
        SETTINGS: dict[str, Any] = json.load(_file)
    TOKEN = SETTINGS["IdentityProvider"]["token"]
    STATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel")

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers who has the token."""

        def do_GET(self) -> None:
            """Kernels, or anything else."""
            known = self.headers.get("Authorization") == f"token {TOKEN}" or f"token={TOKEN}" in self.path
            with open(STATE) as file:
                kernels = [{"execution_state": file.read().strip()}]
            body = json.dumps(kernels if self.path.startswith("/api/kernels") else {"page": "yes"}).encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """As badly as it can be done."""
            print(self.path, TOKEN, flush=True)

    print("arguments", sys.argv, "token", TOKEN, flush=True)
    http.server.ThreadingHTTPServer(("127.0.0.1", SETTINGS["ServerApp"]["port"]), Handler).serve_forever()
