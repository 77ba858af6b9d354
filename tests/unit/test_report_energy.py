"""The report of energy: rows that add up to what attempts told, and what is not known said as such."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from money_daemon import Daemon, in_a_daemon

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursard.reports.energy import Sourced, live_sources
from bursard.store import ChargeFilter

MODEL = (
    "kind: CostModel\nname: m\nspec: {pool: p, node_capex: 9000 USD, useful_life: 5y,"
    " power: {max_watts: 900, tariff: 1 USD/kWh, carbon: 100 g/kWh}}\n"
)
KWH = 3_600_000_000


async def asked(daemon: Daemon, **more: str) -> Any:
    text, _ = await daemon.report(kind="energy", format="json", **more)
    return json.loads(text)


async def worked(daemon: Daemon) -> None:
    """Two projects that told energy, and a job that told none."""
    await daemon.apply(MODEL)
    daemon.node("a", gpus=4)
    for project, energy, source in (
        ("vision", 3 * KWH + 1, "measured"), ("nlp", KWH + 7, "modelled"), ("nlp", 0, ""),
    ):  # fmt: skip
        job_id = daemon.submit(project=project)
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        daemon.finish(job_id, energy_millijoules=energy, source=source)
    await daemon.engine.durable()


def test_joules_and_kwh_of_the_rows_add_up_to_the_total_whatever_they_are_by() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        for by in ("", "project", "user,month", "model,pool,project"):
            found = await asked(daemon, by=by)
            joules = [round(row["energy_joules"] * 1000) for row in found["rows"]]
            assert sum(joules) == round(found["total"]["energy_joules"] * 1000) == 4 * KWH + 8
            kwh = [round(row["energy_kwh"] * 10**9) for row in found["rows"]]
            assert sum(kwh) == round(found["total"]["energy_kwh"] * 10**9)

    in_a_daemon(story)


def test_an_attempt_that_told_no_energy_is_counted_and_is_no_zero() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        rows = {row["project"]: row for row in (await asked(daemon))["rows"]}
        assert (rows["nlp"]["attempts"], rows["nlp"]["untold"]) == (2, 1)
        assert (rows["vision"]["attempts"], rows["vision"]["untold"]) == (1, 0)
        assert rows["vision"]["not_measured_percent"] == 0
        assert rows["nlp"]["not_measured_percent"] == 100
        assert abs(rows["vision"]["carbon_grams"] - 300) < 0.001

    in_a_daemon(story)


def test_energy_and_carbon_are_those_of_the_focus_export() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        text, _ = await daemon.report(kind="focus", format="csv")
        lines = [*csv.DictReader(io.StringIO(text.decode()))]
        total = (await asked(daemon))["total"]
        for ours, theirs in (("energy_kwh", "x_EnergyKWh"), ("carbon_grams", "x_CarbonGrams")):
            summed = sum(Decimal(line[theirs] or 0) for line in lines)
            assert abs(Decimal(str(total[ours])) - summed) <= len(lines) * Decimal("0.000000001")

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"by": "node"}, "by: 'node' is not known; known: project, user"),
        ({"by": "user,user"}, "by: names one twice"),
        ({"timezone": "Europe/Berlin"}, "timezone: the months of energy are of UTC"),
    ],
)
def test_energy_that_cannot_be_told_so_is_refused(more: dict[str, str], message: str) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match=message):
            await asked(daemon, **more)

    in_a_daemon(story)


def test_the_focus_export_says_of_each_energy_whether_it_was_measured() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        text, _ = await daemon.report(kind="focus", format="csv")
        told = {
            (line["x_Project"], line["x_EnergySource"])
            for line in csv.DictReader(io.StringIO(text.decode()))
            if line["x_EnergyKWh"]
        }
        assert told == {("vision", "measured"), ("nlp", "modelled")}
        none = [line for line in csv.DictReader(io.StringIO(text.decode())) if not line["x_EnergyKWh"]]
        assert {line["x_EnergySource"] for line in none} == {""}

    in_a_daemon(story)


def test_of_a_job_that_is_not_in_memory_its_document_says_it() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        for live in (live_sources(daemon.engine.state.jobs.values()), {}):
            sourced = Sourced(daemon.engine.views, live)
            rows = [row for row in daemon.store.charges(ChargeFilter()) if row.energy_millijoules]
            assert sorted(sourced.of(row) for row in rows) == ["measured", "modelled"]
        stranger = rows[0]._replace(job_id="job_none", attempt_id="att_none")
        assert sourced.of(stranger) == "unknown"

    in_a_daemon(story)


def test_energy_that_no_attempt_told_is_not_known_and_not_0() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(MODEL)
        daemon.node("a", gpus=4)
        daemon.run(project="vision")
        document = await asked(daemon)
        (row,) = document["rows"]
        told = ("energy_kwh", "energy_joules", "energy_cost", "carbon_grams")
        for one in (row, document["total"]):
            assert (one["attempts"], one["untold"]) == (1, 1)
            assert [one[name] for name in told] == [None] * 4
            assert one["gpu_hours"] > 1

    in_a_daemon(story)
