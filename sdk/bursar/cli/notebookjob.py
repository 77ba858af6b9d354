"""What runs in a notebook's job: it starts Jupyter with a token of its own, and tells where it listens.

Why     it runs by the node's own python3, which need not have Bursar: the standard library alone, and 3.8.
        The token is made here and stands in two files of the job's private directory: in no argument, no
        variable of the environment, no log, and in nothing that the daemon is told.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from typing import IO, Any

FOLDER = os.environ.get("BURSAR_SESSION_DIR", "")
PROGRESS = os.environ.get("BURSAR_PROGRESS_FILE", "")
PROGRAMS = (("jupyter-lab", "lab"), ("jupyter-notebook", "tree"), ("jupyter-server", ""))
TRIES = 5


@functools.lru_cache(maxsize=1)
def token() -> str:
    """Its own, the same until it ends."""
    return secrets.token_urlsafe(32)


def found() -> tuple[list[str], str]:
    """The program, and the page of it that people open; exits with words where there is none."""
    named = os.environ.get("JUPYTER", "")
    if named:
        if shutil.which(named) is None:
            sys.exit(f"notebook: JUPYTER names {named}, which is not on {socket.gethostname()}")
        base = os.path.basename(named)
        return [named], next((page for name, page in PROGRAMS if name == base), "lab")
    for name, page in PROGRAMS:
        if shutil.which(name):
            return [name], page
    sys.exit(
        "notebook: no jupyter-lab, jupyter-notebook or jupyter-server is on the PATH of"
        f" {socket.gethostname()}; `python3 -m pip install jupyterlab` in the environment of the job, or"
        " name it: --env JUPYTER=PATH"
    )


def private(name: str, content: dict[str, Any]) -> str:
    """A file that nobody else reads, there as a whole or not at all."""
    path = os.path.join(FOLDER, name)
    made = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(made, "w") as file:
        json.dump(content, file)
    os.replace(path + ".new", path)
    return path


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    """Jupyter, with its settings from a file."""
    server = {
        "ip": "127.0.0.1",
        "port": port,
        "port_retries": 0,
        "open_browser": False,
        "root_dir": os.getcwd(),
        "allow_root": os.getuid() == 0,
    }
    settings = {"ServerApp": server, "IdentityProvider": {"token": token()}}
    config = private("notebook-settings.json", settings)
    return subprocess.Popen(
        [*command, "--config=" + config, "--no-browser"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def copy(stream: IO[bytes]) -> None:
    """Its output into the job's log, without the token wherever it says it."""
    for line in stream:
        sys.stdout.buffer.write(line.replace(token().encode(), b"..."))
        sys.stdout.buffer.flush()


def ask(port: int, path: str) -> Any:
    """What it answers; None: nothing."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": "token " + token()}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return json.loads(answer.read(1 << 20))
    except (OSError, ValueError):
        return None


def attended(port: int) -> bool:
    """Does a kernel of it work? True also where it does not say: what is not known is not idle."""
    kernels = ask(port, "/api/kernels")
    if not isinstance(kernels, list):
        return True
    return any(isinstance(one, dict) and one.get("execution_state") == "busy" for one in kernels)


def tell(used: bool) -> None:
    """Say by the progress file whether somebody uses it."""
    if PROGRESS:
        with open(PROGRESS + ".new", "w") as file:
            json.dump({"step": 0, "attended": used}, file)
        os.replace(PROGRESS + ".new", PROGRESS)


def serve(command: list[str], page: str) -> tuple[int, bool]:
    """One start, to its end: its exit code, and whether it ever listened."""
    port = free_port()
    child = start(command, port)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    assert child.stdout is not None
    reader = threading.Thread(target=copy, args=(child.stdout,), daemon=True)
    reader.start()
    listens, next_look = False, 0.0
    while child.poll() is None:
        time.sleep(0.2)
        if not listens:
            if ask(port, "/api/status") is not None:
                listens = True
                private("notebook.json", {"port": port, "token": token(), "page": page})
                print("the notebook listens", flush=True)
        elif time.monotonic() >= next_look:
            next_look = time.monotonic() + 10
            tell(attended(port))
    reader.join(2)
    return child.returncode, listens


def main() -> None:
    """To the end of Jupyter. A port that somebody took meanwhile is another one's."""
    if not FOLDER:
        sys.exit("notebook: this is no interactive job; `bursar notebook` makes one")
    command, page = found()
    for _ in range(TRIES):
        code, listened = serve(command, page)
        if listened or code in (0, -15):
            break
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
