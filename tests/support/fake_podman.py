#!/usr/bin/env python3
"""A program that behaves as podman does, as far as an agent asks it: containers are processes here.

Its state lies beside it, in `state/`: images and containers as JSON, `calls` with every command line, and
what a test wants of it: `pull` (a list of [exit code, words on standard error]; the last one stands for all
further ones), `gate` (a pull waits while this is there), `fails` (by command, words to fail with), `probe`
(a trial fails unless its command line has these words), `namespaces` (each container has its own).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path(os.path.abspath(__file__)).parent / "state"
DIGEST = "sha256:" + "5" * 64
VALUED = frozenset(
    {
        "--name", "--label", "--log-driver", "--network", "--pull", "--workdir", "--user", "--userns",
        "--cap-drop", "--security-opt", "--group-add", "--ulimit", "--memory", "--memory-swap", "--cpus",
        "--pids-limit", "--device", "--gpus", "--ipc", "--shm-size", "--mount", "--env-file", "--entrypoint",
    }
)  # fmt: skip
PLAIN = ("--init", "--cgroups=disabled", "--rm", "--rootfs")


def said(name: str) -> Any:
    try:
        return json.loads((STATE / name).read_text())
    except (OSError, ValueError):
        return None


def keep(name: str, value: object) -> None:
    path = STATE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


def file_of(kind: str, name: str) -> str:
    return f"{kind}/{name.replace('/', '%')}"


def fail(text: str, code: int = 125) -> int:
    print(f"Error: {text}", file=sys.stderr)
    return code


def options(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    found: dict[str, list[str]] = {}
    while words and words[0].startswith("--"):
        word = words.pop(0)
        if word in PLAIN:
            found[word] = []
        elif word in VALUED:
            found.setdefault(word, []).append(words.pop(0))
        else:
            raise SystemExit(fail(f"unknown flag: {word}"))
    return found, words


def pull(image: str) -> int:
    while (STATE / "gate").exists():
        time.sleep(0.01)
    wanted = said("pull") or [[0, ""]]
    code, words = wanted[0]
    if len(wanted) > 1:
        keep("pull", wanted[1:])
    if code:
        return fail(words, code)
    keep(
        file_of("images", image),
        {"Id": "7" * 64, "Digest": DIGEST, "RepoDigests": [f"{image}@{DIGEST}"], "Config": {"Env": []}},
    )
    return 0


def look(image: str) -> int:
    found = said(file_of("images", image))
    if found is None:
        return fail(f"{image}: image not known")
    print(json.dumps([found]))
    return 0


def create(words: list[str]) -> int:
    found, rest = options(words)
    name, command = found["--name"][0], rest[1:]
    if said(file_of("containers", name)) is not None:
        return fail(f'the container name "{name}" is already in use')
    env = {"PATH": os.environ["PATH"]}
    for line in Path(found["--env-file"][0]).read_text().splitlines():
        key, _, value = line.partition("=")
        env[key] = value
    keep(
        file_of("containers", name),
        {"argv": command, "env": env, "options": found, "image": rest[0], "state": {"Status": "created"}},
    )
    print("c" * 64)
    return 0


def init(name: str) -> int:
    kept = said(file_of("containers", name))
    program = kept["argv"][0]
    if shutil.which(program, path=kept["env"]["PATH"]) is None:
        return fail(f"runc create failed: exec: {program!r}: stat {program}: no such file or directory")
    return 0


def start(name: str) -> int:
    kept = said(file_of("containers", name))
    if kept is None:
        return fail(f"no container with name or ID {name!r} found: no such container")
    mounts = [dict(part.split("=", 1) for part in one.split(",")) for one in kept["options"]["--mount"]]
    # What a container has at its own places lies elsewhere here: its processes are told where.
    places = {one["dst"]: one["src"] for one in mounts}
    targets = "|".join(re.escape(one) for one in sorted(places, key=len, reverse=True))

    def inside(text: str) -> str:
        return re.sub(rf"(?<![\w./-])(?:{targets})(?![\w.-])", lambda match: places[match[0]], text)

    argv = [inside(word) for word in kept["argv"]]
    env = {key: inside(value) for key, value in kept["env"].items()}
    own = ["unshare", "--pid", "--fork", "--kill-child"] if said("namespaces") else []
    try:
        running = subprocess.Popen([*own, *argv], env=env, cwd=kept["options"]["--workdir"][0])
    except OSError as problem:
        return fail(f"exec: {argv[0]!r}: {problem.strerror}")
    kept["state"] = {"Status": "running", "Pid": running.pid, "StartedAt": "2026-11-29T00:00:00Z"}
    keep(file_of("containers", name), kept)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    code = running.wait()
    code = 128 - code if code < 0 else code
    kept["state"] = {**kept["state"], "Status": "exited", "Pid": 0, "ExitCode": code}
    if said(file_of("containers", name)) is not None:
        keep(file_of("containers", name), kept)
    return code


def remove(name: str) -> int:
    kept = said(file_of("containers", name))
    if kept is None:
        return 0
    if kept["state"].get("Pid"):
        with contextlib.suppress(OSError):
            os.kill(kept["state"]["Pid"], signal.SIGKILL)
    (STATE / file_of("containers", name)).unlink()
    return 0


def main(words: list[str]) -> int:
    STATE.mkdir(exist_ok=True)
    with open(STATE / "calls", "a") as file:
        file.write(json.dumps({"argv": words, "env": dict(os.environ)}) + "\n")
    if words == ["--version"]:
        print("podman version 4.9.3")
        return 0
    line = list(words)
    while words and words[0].startswith("--runtime"):
        words.pop(0)
    verb = words.pop(0)
    failing = (said("fails") or {}).get(verb)
    if failing:
        return fail(failing)
    if verb == "pull":
        return pull(words[-1])
    if verb == "image":
        return look(words[-1])
    if verb == "run":
        wanted = said("probe") or []
        return 0 if all(word in line for word in wanted) else fail("crun: hybrid cgroups")
    if verb == "create":
        return create(words)
    if verb == "init":
        return init(words[-1])
    if verb == "start":
        return start(words[-1])
    if verb == "inspect":
        kept = said(file_of("containers", words[-1]))
        print(json.dumps([{"State": kept["state"]}]) if kept else "[]")
        return 0 if kept else 125
    if verb == "rm":
        return remove(words[-1])
    return fail(f"unknown command {verb!r}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
