"""CO2e of attempts: each hour by what the grid was then, and with the charge to whom that is for."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

from money_daemon import Daemon, in_a_daemon

from bursar.clock import HOUR_US
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import PriceTable
from bursar_policies.regions import grams_of
from bursard.events import RoleGranted
from bursard.reports.carbon import Carbon
from bursard.store import ChargeRow, ScratchStore

MODEL = (
    "kind: CostModel\nname: m\nspec: {{pool: p, node_capex: 9000 USD, useful_life: 5y,"
    " power: {{max_watts: 900, tariff: 1 USD/kWh{more}}}}}\n"
)
KWH = 3_600_000_000
"""Millijoules."""


async def focus(daemon: Daemon) -> list[dict[str, str]]:
    text, _ = await daemon.report(kind="focus", format="csv")
    return list(csv.DictReader(io.StringIO(text.decode())))


async def grams(daemon: Daemon) -> dict[str, Decimal]:
    """By project, of all rows that say any."""
    found: dict[str, Decimal] = {}
    for row in await focus(daemon):
        if row["x_CarbonGrams"]:
            project = row["x_Project"]
            found[project] = found.get(project, Decimal()) + Decimal(row["x_CarbonGrams"])
    return found


async def energy(daemon: Daemon) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for row in await focus(daemon):
        if row["x_EnergyKWh"]:
            project = row["x_Project"]
            found[project] = found.get(project, Decimal()) + Decimal(row["x_EnergyKWh"])
    return found


async def worked(daemon: Daemon, *models: str) -> str:
    """A job of one hour under each model, one after the other; 3 kWh in all."""
    await daemon.apply(MODEL.format(more=models[0]))
    daemon.node("a")
    job_id = daemon.submit(project="research/vision")
    for model in models:
        await daemon.apply(MODEL.format(more=model))
        daemon.clock.advance(HOUR_US)
        daemon.meter()
    daemon.finish(job_id, energy_millijoules=3 * KWH)
    await daemon.engine.durable()
    return job_id


def test_an_attempt_over_a_change_of_the_grid_counts_each_hour_by_what_was_in_force_in_it() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon, ", carbon: 100 g/kWh", ", carbon: 100 g/kWh", ", pue: 2, carbon: 200 g/kWh")
        (told,) = (await grams(daemon)).values()
        # Two hours of three at 100 g, one at 400 g: 200 g for each kWh.
        assert abs(told - 600) < Decimal("0.001")

    in_a_daemon(story)


def test_an_attempt_of_which_nobody_says_one_hour_has_no_figure() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon, "", ", carbon: 100 g/kWh")
        assert await grams(daemon) == {}

    in_a_daemon(story)


def test_energy_and_carbon_go_with_a_retag_and_stay_with_a_corrected_amount() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon, ", carbon: 100 g/kWh", ", carbon: 100 g/kWh")
        assert await energy(daemon) == {"research/vision": Decimal(3)}
        whole = (await grams(daemon))["research/vision"]
        half = pb.CorrectRequest(job="1", reason="agreed", to_ppm=500_000)
        await daemon.money.Correct(half, None)
        assert await energy(daemon) == {"research/vision": Decimal(3)}
        daemon.engine.commit([RoleGranted("bob", "submitter", "ops")], "ann")
        moved = pb.CorrectRequest(job="1", reason="wrong label")
        moved.retag.project = "ops"
        await daemon.money.Correct(moved, None)
        await daemon.engine.durable()
        assert await energy(daemon) == {"research/vision": 0, "ops": Decimal(3)}
        assert await grams(daemon) == {"research/vision": 0, "ops": whole}
        assert daemon.store.verify() == []

    in_a_daemon(story)


def test_a_machine_of_a_cloud_has_the_grid_of_its_region() -> None:
    assert grams_of("aws", "eu-central-1") == grams_of("aws", "eu-central-1a") is not None
    assert grams_of("gcp", "us-central1-a") == grams_of("gcp", "us-central1") is not None
    assert (grams_of("aws", "eu-north-1") or 0) * 5 < (grams_of("aws", "ap-south-1") or 0)
    assert grams_of("local", "home") is grams_of("aws", "") is grams_of("", "eu-north-1") is None
    blank = ChargeRow(1, "usage", "n", "n", "cloud", "a", "j", 1, 0, 0, 1, 1, *([0] * 4), "", *([""] * 6), 0)
    carbon = Carbon(ScratchStore(), PriceTable())
    for market in ("spot", "on-demand"):
        priced = blank._replace(price_id=f"book/aws@3#aws/eu-central-1/p5.48xlarge/{market}/2026-07-13")
        assert carbon.of(priced) == grams_of("aws", "eu-central-1")
    for unknown in ("", "costmodel/rack-a@3", "book/x@1#local/home/cpu.small/spot/0"):
        assert carbon.of(blank._replace(price_id=unknown)) is None
