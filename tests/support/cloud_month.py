"""A month of machines on demand with prices of a provider, with jobs on some of their hours."""

from __future__ import annotations

from money_daemon import Daemon

from bursar.clock import HOUR_US
from bursar.model import Device, NodeFacts
from bursard.state.decide import nodes

BOOK = """kind: PriceBook
name: aws
spec:
  source: test
  currency: USD
  prices:
    - {provider: aws, region: r, instance_type: p5.x, market: on-demand, price: 7.000000001 USD/h}
    - {provider: aws, region: r, instance_type: p5.x, market: spot, price: 2 USD/h}
    - {provider: aws, region: r, instance_type: g6.x, market: on-demand, price: 3 USD/h}
"""
RESERVED = """kind: Commitment
name: reserved
spec:
  provider: aws
  type: reservation
  region: r
  instance_type: p5.x
  quantity: 1
  upfront: 2000.000000007 USD
  hourly: 1 USD/h
  start: 2026-11-01T00:00:00Z
  end: 2026-12-01T00:00:00Z
"""


def machine(daemon: Daemon, name: str, instance_type: str, market: str = "on-demand") -> None:
    devices = tuple(Device(at, f"{name}{at}", "H100", 80 << 30, simulated=True) for at in range(2))
    facts = NodeFacts(
        name=name, cpu_milli=8_000, memory_bytes=64 << 30, devices=devices, pool="cloud", provider="aws",
        region="r", instance_type=instance_type, market=market,
    )  # fmt: skip
    events = nodes.hello(
        daemon.engine.state, daemon.engine.ids, daemon.engine.prices, facts=facts, boot_id="b",
        boot_us=daemon.clock.boot_us(), now=daemon.engine.now(),
    )  # fmt: skip
    daemon.engine.commit(events, f"node:{name}")


async def month(daemon: Daemon, *documents: str) -> None:
    """Machines of two types, with jobs on some of their hours; then one of the market spot."""
    await daemon.apply(BOOK, *documents)
    for name, what in (("a", "p5.x"), ("b", "p5.x"), ("c", "g6.x")):
        machine(daemon, name, what)
    daemon.clock.advance(HOUR_US // 3)
    for project in ("x", "y", "x"):
        daemon.run(hours=1, project=project)
    machine(daemon, "s", "p5.x", "spot")
    daemon.clock.advance(2 * HOUR_US)
    daemon.meter()
