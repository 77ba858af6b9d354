"""Telemetry and events through a real mosquitto; a job runs and is charged whether or not it is there."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bursar.client import WireClient
from bursar.model import JobSpec
from bursar.resources import ResourceRequest

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
DEADLINE_S = 120.0


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        threading.Event().wait(0.05)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    assert MOSQUITTO is not None, "mosquitto is needed: apt-get install mosquitto"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    yield port, process
    process.kill()
    process.wait()


@pytest.fixture
def system(tmp_path: Path, broker: tuple[int, subprocess.Popen[bytes]]) -> Iterator[WireClient]:
    address = f"unix://{tmp_path}/run/bursar.sock"
    log = (tmp_path / "log").open("wb")
    config = tmp_path / "bursard.toml"
    config.write_text(f'[telemetry.mqtt]\nurl = "mqtt://127.0.0.1:{broker[0]}"\n')
    daemon = [sys.executable, "-m", "bursard", "--config", str(config)]
    daemon += ["--state-dir", str(tmp_path / "daemon"), "--socket-dir", str(tmp_path / "run")]
    agent = [sys.executable, "-m", "bursar_agent", "--server", address, "--name", "n1"]
    agent += ["--state-dir", str(tmp_path / "agent"), "--simulate-gpus", "H100:2"]
    processes = [subprocess.Popen(argv, stdout=log, stderr=log) for argv in (daemon, agent)]
    client = WireClient(address, patience_s=DEADLINE_S)
    try:
        until(lambda: (tmp_path / "run" / "auth.sock").exists(), "the daemon listens")
        until(lambda: any(node.state == "up" for node in client.nodes()), "the node is up")
        yield client
    finally:
        client.close()
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(10)
        subprocess.run(
            [sys.executable, "-m", "bursar_agent", "--state-dir", str(tmp_path / "agent"), "--terminate-all"],
            check=True,
            capture_output=True,
        )
        log.close()


def test_samples_and_events_travel_through_the_broker_and_nothing_needs_it(
    system: WireClient, broker: tuple[int, subprocess.Popen[bytes]]
) -> None:
    """1. The node's samples reach `top`. 2. Events are published. 3. The broker is killed. 4. A job still
    runs and is charged, and samples still come."""
    port, process = broker
    until(lambda: len(system.node("n1").sample.gpus) == 2, "samples reach the daemon")
    assert all(gpu.simulated for gpu in system.node("n1").sample.gpus)

    heard: list[dict[str, object]] = []
    listener = subprocess.Popen(
        [sys.executable, "-c", LISTENER, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert listener.stdout is not None
    assert listener.stdout.readline() == "subscribed\n"
    spec = JobSpec(
        command=("/bin/true",),
        options=(ResourceRequest(cpu_milli=100),),
        name="heard",
        env=(("K", "canary-61f0"),),
    )
    system.wait([system.submit(spec).job.id], timeout_s=DEADLINE_S)
    for line in listener.stdout:
        heard.append(json.loads(line))
        if heard[-1]["topic"].endswith("/events/attempt-ended"):  # type: ignore[attr-defined]
            break
    listener.kill()
    listener.stdout.close()
    listener.wait()
    kinds = [str(item["topic"]).rpartition("/")[2] for item in heard]
    assert kinds[0] == "job-submitted"
    assert kinds[-1] == "attempt-ended"
    assert not any("canary-61f0" in str(item["payload"]) for item in heard)
    assert '"name":"heard"' in str(heard[0]["payload"])

    process.kill()
    process.wait()
    last = system.node("n1").sample.at
    until(lambda: system.node("n1").sample.at > last, "samples come over the node's own stream")
    again = system.submit(spec).job
    system.wait([again.id], timeout_s=DEADLINE_S)
    done = system.get(again.id)
    assert done.state == "SUCCEEDED"
    assert done.settled_nanos > 0


LISTENER = """
import asyncio, json, sys, aiomqtt
async def main():
    async with aiomqtt.Client("127.0.0.1", int(sys.argv[1])) as client:
        await client.subscribe("bursar/v1/+/events/#")
        print("subscribed", flush=True)
        async for message in client.messages:
            heard = {"topic": message.topic.value, "payload": message.payload.decode()}
            print(json.dumps(heard), flush=True)
asyncio.run(main())
"""
