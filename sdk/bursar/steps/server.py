"""Makes hosts on a member for steps that were asked for on other nodes.

Owns    the connection to the agent over which steps are announced. Started by the member's supervisor.
Why     tasks must be below the supervisor, with the job's account and limits; the supervisor does nothing but
        start this, and only where a step comes from elsewhere.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from typing import Final

from bursar.steps import bridge, forward, host, kernel, names

IDLE_S: Final = 60.0
_RETRY_S: Final = 0.5
CHANNELS_MAX: Final = 1024
PORTS: Final = "ports"
"""What is asked for, from outside of the job alone, in place of a program."""


def main() -> None:
    """Serve until nothing was asked for a while, or the supervisor is gone."""
    kernel.die_with_parent(signal.SIGKILL)
    directory = os.environ[names.DIRECTORY]
    known: set[int] = set()
    idle_since = time.monotonic()
    while True:
        try:
            agent = bridge.connect(directory)
        except bridge.NoAgent:
            time.sleep(_RETRY_S)
            if _reap() == 0 and time.monotonic() - idle_since > IDLE_S:
                return
            continue
        agent.send(bridge.SERVE)
        if _serve(directory, agent, known):
            return
        agent.close()
        idle_since = time.monotonic()


def _serve(directory: str, agent: socket.socket, known: set[int]) -> bool:
    """Take announcements; True after a while without any, False when the agent is gone."""
    poll = select.poll()
    poll.register(agent, select.POLLIN)
    while True:
        came = poll.poll(IDLE_S * 1000)
        if _reap() == 0 and not came:
            return True
        if not came:
            continue
        try:
            message = agent.recv(bridge.MESSAGE_BYTES_MAX)
        except BlockingIOError:
            continue
        except OSError:
            return False
        if not message:
            return False
        if message[:1] == bridge.OPEN:
            told = json.loads(message[1:])
            if told["channel"] not in known:
                known.add(told["channel"])
                _fork(directory, told, agent)


def _fork(directory: str, told: dict[str, object], agent: socket.socket) -> None:
    if os.fork() != 0:
        return
    code = 1
    try:
        kernel.die_with_parent(0)  # steps that run go on without the server
        agent.close()
        stream = forward.fork_forwarder() if told.get("kind") == PORTS else host.fork_host()
        bridge.keep_only((stream.fileno(),))
        bridge.Bridge(directory, stream, told, opens=False).run()
        code = 0
    except BaseException as problem:
        os.write(2, f"step: {problem!r}\n".encode())
    finally:
        os._exit(code)


def _reap() -> int:
    """Collect ended children; how many are left is not known, so 1 for any, 0 for none."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return 1
        except ChildProcessError:
            return 0
