"""A notebook with the real Jupyter: opened with its token, a kernel that works, and what is told of it.

Run     python bench/notebook_check.py /path/to/jupyter-server      (any of jupyter-lab, -notebook, -server;
        `pip install jupyter-server ipykernel` in an environment of its own is enough)
Prints  what was asked and answered, and whether the token is anywhere that it must not be. Exit code 1: it
        is, or something did not answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import bursar

BURSAR = Path(sys.executable).parent / "bursar"


def ask(url: str, path: str, token: str, data: dict[str, Any] | None = None) -> Any:
    """What it answers, as JSON; its status where it refuses."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url + path, body, {"Authorization": f"token {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code


def until(what: str, probe: Any, limit_s: float = 60) -> Any:
    """The first answer that is true."""
    stop = time.monotonic() + limit_s
    while time.monotonic() < stop:
        if found := probe():
            return found
        time.sleep(0.5)
    sys.exit(f"FAILED: {what} did not come in {limit_s:.0f} s")


def main() -> int:
    """All of it."""
    jupyter = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="bn", dir="/tmp") as home:
        state = f"{home}/s"
        env = {**os.environ, "BURSAR_SERVER": f"unix://{state}/run/bursar.sock", "HOME": home}
        subprocess.run([BURSAR, "up", "--state-dir", state, "--detach"], env=env, check=True)
        try:
            return walk(jupyter, env, state)
        finally:
            subprocess.run([BURSAR, "down", "--state-dir", state], env=env, check=False)


def walk(jupyter: str, env: dict[str, str], state: str) -> int:
    """One notebook."""
    words = ["notebook", "--detach", "--env", f"JUPYTER={jupyter}", "--time-limit", "10m"]
    begun = time.monotonic()
    subprocess.run([BURSAR, *words], env=env, check=True)
    print(f"listens after {time.monotonic() - begun:.1f} s")
    with (
        subprocess.Popen(
            [BURSAR, "notebook", "1", "--port", "0"], env=env, stdout=subprocess.PIPE, text=True
        ) as opened,
        bursar.Client(env["BURSAR_SERVER"]) as client,
    ):
        assert opened.stdout is not None
        address = opened.stdout.readline().strip()
        token = address.partition("token=")[2]
        url = "/".join(address.split("/")[:3])
        print("without the token:", ask(url, "/api/kernels", "wrong"))
        print("status:", ask(url, "/api/status", token))
        kernel = ask(url, "/api/kernels", token, {"name": "python3"})
        print("kernel:", kernel["execution_state"])

        def attended() -> Any:
            shown = client.execute("1", ["sh", "-c", 'cat "$BURSAR_PROGRESS_FILE"'])
            return shown.stdout.decode() if shown.exit_code == 0 else ""

        print("told:", until("its progress file", attended))
        everywhere = [path for path in Path(state).rglob("*") if path.is_file()]
        leaks = [str(path) for path in everywhere if token.encode() in path.read_bytes()]
        processes = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        leaks += [line.decode(errors="replace") for line in processes if token.encode() in line]
        leaks += ["its log"] if token in client.logs_text("1") else []
        print("the token stands in:", leaks or "nothing that it must not")
        client.cancel("1")
        print("ended:", client.wait("1").state)
        opened.terminate()
    return int(bool(leaks))


if __name__ == "__main__":
    sys.exit(main())
