"""A real small language model behind OpenAI's shape: characters, learned from the documentation around it.

Learned for LEARN_S seconds by the first replica there is, and kept in the file MODEL for those after it.

    curl $URL/v1/chat/completions -H "Authorization: Bearer bsk_..." \
      -d '{"messages": [{"role": "user", "content": "A budget "}], "max_tokens": 80, "stream": true}'
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, CONTEXT, BATCH = 64, 64, 32
BODY_MAX = 64 << 10
TOKENS_MAX = 256
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
DOCS = Path(__file__).resolve().parents[2]


def encoded(text: str) -> list[int]:
    """Characters as numbers; what is not known is a space."""
    return [max(CHARACTERS.find(one), 0) if one in CHARACTERS else 1 for one in text]


class Characters(nn.Module):
    """What comes next, by what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), WIDTH)
        self.cell = nn.GRU(WIDTH, 2 * WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(2 * WIDTH, len(CHARACTERS))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores of the next character at each place, and what is remembered."""
        seen, state = self.cell(self.embed(tokens), state)
        return self.head(seen), state

    @torch.no_grad()
    def write(self, prompt: str, most: int) -> Iterator[str]:
        """One character after another."""
        tokens = torch.tensor([encoded(prompt)[-CONTEXT:] or [0]])
        state: Tensor | None = None
        for _ in range(most):
            scores, state = self(tokens, state)
            tokens = torch.multinomial(torch.softmax(scores[:, -1] / 0.6, -1), 1)
            yield CHARACTERS[int(tokens)]


def learn(text: str, seconds: float) -> Characters:
    """Learn from a text for so long."""
    torch.manual_seed(0)
    model, data = Characters(), torch.tensor(encoded(text))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,)).tolist()
        rows = torch.stack([data[at : at + CONTEXT + 1] for at in starts])
        scores, _ = model(rows[:, :-1])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def prose(folder: Path) -> str:
    """The sentences of the documentation, without its tables and examples."""
    lines = [line for one in sorted(folder.glob("*.md")) for line in one.read_text("utf-8").splitlines()]
    return "\n".join(line for line in lines if line[:1].isalpha())


def model_of(path: Path, seconds: float) -> Characters:
    """The model in a file; where there is none, one that is learned now, and kept there."""
    made = Characters()
    if path.is_file():
        made.load_state_dict(torch.load(path, weights_only=True))
        return made.eval()
    made = learn(prose(DOCS), seconds)
    fresh = path.with_suffix(f".{os.getpid()}")
    torch.save(made.state_dict(), fresh)
    fresh.replace(path)
    return made


def server(port: int, model: Characters) -> ThreadingHTTPServer:
    """What answers on the loopback, in the shape of OpenAI's chat."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """`/health`, and nothing else."""
            self._whole(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            """One answer, whole or as a stream of events."""
            try:
                size = min(int(self.headers.get("Content-Length", "0")), BODY_MAX)
                asked = json.loads(self.rfile.read(size))
                prompt = "\n".join(str(one["content"]) for one in asked["messages"])
                most = min(int(asked.get("max_tokens", 64)), TOKENS_MAX)
            except (ValueError, KeyError, TypeError):
                self._whole(400, {"error": {"type": "invalid_request_error", "message": "send messages"}})
                return
            words = model.write(prompt, most)
            if not asked.get("stream"):
                text = "".join(words)
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": "length"}
                self._whole(200, {"choices": [choice], "usage": usage(prompt, len(text))})
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            written = 0
            for word in words:
                self._event({"choices": [{"index": 0, "delta": {"content": word}}]})
                written += 1
            if (asked.get("stream_options") or {}).get("include_usage"):
                self._event({"choices": [], "usage": usage(prompt, written)})
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

        def _event(self, document: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")

        def _whole(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing of a request is written down."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def usage(prompt: str, written: int) -> dict[str, int]:
    """Here a character is a token."""
    return {"prompt_tokens": len(prompt), "completion_tokens": written, "total_tokens": len(prompt) + written}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = model_of(Path(os.environ.get("MODEL", "model.pt")), float(os.environ.get("LEARN_S", "20")))
    server(int(os.environ["BURSAR_PORT"]), found).serve_forever()
