"""`/metrics`: who may read it, that it says what the commands say, what a scrape costs; boards and alerts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import Browser, server_of
from inhabited import POLICIES, inhabit
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from whole_site import START, Site

from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US, VirtualClock
from bursar.codec import view
from bursar.v1 import money_pb2, types_pb2
from bursar_web.__main__ import _scraped_with, scrape_secret
from bursar_web.families import Families
from bursar_web.pages import metrics

MONITORING = Path(__file__).parents[2] / "packaging/monitoring"
CONTRACT = {
    "bursar_jobs": {"state", "project"},
    "bursar_job_cost_usd_total": {"project", "experiment", "model"},
    "bursar_budget_limit_usd": {"budget"},
    "bursar_budget_settled_usd": {"budget"},
    "bursar_budget_held_usd": {"budget"},
    "bursar_node_gpu_utilization_ratio": {"node", "gpu"},
    "bursar_gpu_idle_cost_usd_total": {"pool", "cause"},
    "bursar_scheduler_cycle_seconds_bucket": {"le"},
    "bursar_scheduler_pending_jobs": {"reason"},
    "bursar_ledger_entries_total": set(),
}
LIVE = ("PENDING", "STARTING", "RUNNING", "STOPPING")
Samples = dict[str, dict[tuple[str, ...], float]]
UNMEASURED = {"bursar_node_gpu_utilization_ratio", "bursar_gpu_idle_cost_usd_total"}
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}
Story = Callable[[Site, Browser], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                source = money_pb2.PolicySource(name="all.yaml", text=POLICIES)
                root = site.token("root", "admin")
                await site.ask("Policies.Apply", money_pb2.ApplyRequest(sources=[source]), token=root)
                inhabit(site)
                browser = Browser(site)
                browser.clock.advance(START)
                async with browser.app.router.lifespan_context(browser.app):
                    await story(site, browser)

    asyncio.run(main())


def amount(row: dict[str, Any], name: str) -> float:
    return float(row[name]["amount"])


async def scrape(browser: Browser, token: str) -> Samples:
    answer = await browser.ask("GET", "/metrics", {"authorization": f"Bearer {token}"})
    assert answer.status == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.type != "unknown", family.name
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()))
            rows = found.setdefault(sample.name, {})
            assert labels not in rows, sample
            rows[labels] = sample.value
            expected = CONTRACT.get(sample.name)
            assert expected is None or set(sample.labels) == expected, sample
    return found


def test_figures_are_what_the_commands_say() -> None:
    async def story(site: Site, browser: Browser) -> None:
        token = site.token("root", "admin")
        found = await scrape(browser, token)
        # Of readings and of idle time there are none here: the next test has them.
        assert set(CONTRACT) - set(found) == {
            "bursar_node_gpu_utilization_ratio",
            "bursar_gpu_idle_cost_usd_total",
        }
        assert set(found["bursar_scrape_ok"].values()) == {1.0}
        async with AsyncWireClient(server_of(site), token) as client:
            by = ["project", "experiment", "model"]
            cost = view.cost(await client.cost(by=by), by)
            budgets = [view.budget(each) for each in await client.budgets()]
            live = [
                view.job(each)
                async for each in client.list(states=["PENDING", "STARTING", "RUNNING", "STOPPING"])
            ]
        assert found["bursar_job_cost_usd_total"] == {
            (row["experiment"] or "", row["model"] or "", row["project"]): pytest.approx(
                float(row["cost"]["amount"])
            )
            for row in cost["rows"]
        }
        for name in ("limit", "settled", "held"):
            assert found[f"bursar_budget_{name}_usd"] == {
                (row["name"],): pytest.approx(amount(row, name)) for row in budgets
            }
        single = [row for row in live if row["array"] is None]
        tasks = sum(
            count for row in live if row["array"] for state, count in row["array"]["counts"].items()
            if state in LIVE
        )  # fmt: skip
        assert sum(found["bursar_jobs"].values()) == len(single) + tasks
        waiting = sum(count for (_, state), count in found["bursar_jobs"].items() if state == "PENDING")
        assert sum(found["bursar_scheduler_pending_jobs"].values()) == waiting
        held = [row["name"] for row in live if row["reason"] and row["reason"]["code"] == "Held"]
        assert found["bursar_scheduler_pending_jobs"]["Held",] == len(held) > 0
        assert found["bursar_ledger_entries_total"][()] > 0
        assert found["bursar_node_gpus"]["g1", "p"] == 4.0
        assert found["bursar_node_gpus_free"]["g1", "p"] == 1.5

    play(story)


def test_readings_of_gpus_and_what_nobody_held_are_told_in_the_currency_of_the_books() -> None:
    gpus = [types_pb2.GpuSample(index=1, utilization_ratio=0.25), types_pb2.GpuSample(index=2)]
    node = types_pb2.Node(
        facts=types_pb2.NodeFacts(name="n", pool="p"), state="silent", last_seen_at=3_000_000
    )
    node.sample.gpus.extend(gpus)
    idle = {
        ("p", "idle", "metered"): Decimal("1.25"),
        ("p", "idle", "late"): Decimal("0.25"),
        ("p", "idle", "correction"): Decimal("-0.5"),
        ("p", "usage", "metered"): Decimal(9),
        ("q", "down", "metered"): Decimal(2),
    }
    parts: dict[str, Any] = dict.fromkeys(("server", "budgets", "prices", "cost"))
    registry = CollectorRegistry()
    registry.register(Families({**parts, "nodes": [node], "idle": idle}, "EUR", 0.0, 5_000_000))
    lines = generate_latest(registry).decode().splitlines()
    told = [line for line in lines if line[0] != "#" and not line.startswith("bursar_scrape_ok")]
    assert told == [
        'bursar_node_up{node="n",pool="p",state="silent"} 0.0',
        'bursar_node_last_seen_seconds{node="n"} 2.0',
        'bursar_node_gpus{node="n",pool="p"} 0.0',
        'bursar_node_gpus_free{node="n",pool="p"} 0.0',
        'bursar_node_gpu_utilization_ratio{gpu="1",node="n"} 0.25',
        'bursar_gpu_idle_cost_eur_total{cause="idle",pool="p"} 1.5',
        'bursar_gpu_idle_cost_eur_total{cause="down",pool="q"} 2.0',
        'bursar_gpu_idle_cost_corrections_eur{cause="idle",pool="p"} -0.5',
    ]


def test_what_jobs_were_charged_never_falls_and_corrections_stand_beside_it() -> None:
    """A credit is booked: the counter stays, so that `rate` does not take it for a restart."""

    def told(cost: dict[tuple[str, ...], Decimal]) -> list[str]:
        parts: dict[str, Any] = dict.fromkeys(("server", "budgets", "nodes", "prices", "idle"))
        registry = CollectorRegistry()
        registry.register(Families({**parts, "cost": cost}, "USD", 0.0, 5_000_000))
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if line.startswith("bursar_job_cost")]

    charged = {("a", "e", "m", "metered"): Decimal(10), ("a", "e", "m", "late"): Decimal(1)}
    labels = '{experiment="e",model="m",project="a"}'
    assert told(charged) == [f"bursar_job_cost_usd_total{labels} 11.0"]
    assert told({**charged, ("a", "e", "m", "correction"): Decimal(-3)}) == [
        f"bursar_job_cost_usd_total{labels} 11.0",
        f"bursar_job_cost_corrections_usd{labels} -3.0",
    ]


def test_who_may_read_what() -> None:
    async def story(site: Site, browser: Browser) -> None:
        plain = await browser.get("/metrics")
        assert (plain.status, plain.headers["www-authenticate"]) == (401, "Bearer")
        assert "Bearer TOKEN" in plain.text
        for given in ("Bearer wrong", "Basic x", "Bearer"):
            assert (await browser.ask("GET", "/metrics", {"authorization": given})).status == 401
        viewer = await scrape(browser, site.token("vic", "viewer"))
        assert viewer["bursar_scrape_ok"]["idle",] == 0.0
        assert "bursar_gpu_idle_cost_usd_total" not in viewer
        below = await scrape(browser, site.token("eve", "viewer", "nlp/a"))
        assert {project for project, _ in below["bursar_jobs"]} == {"nlp/a"}
        assert {key[2] for key in below["bursar_job_cost_usd_total"]} <= {"nlp/a"}
        await browser.log_in(site.token("root", "admin"))
        assert (await browser.get("/metrics")).status == 200
        site.authority.replace(())
        browser.clock.advance(metrics.FRESH_US)
        refused = await browser.ask("GET", "/metrics", {"authorization": "Bearer vic:viewer:"})
        assert refused.status == 401

    play(story)


def test_a_scrape_asks_for_two_days_of_charges_and_once_in_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []
    cost = AsyncWireClient.cost

    async def counting(self: AsyncWireClient, **filters: Any) -> money_pb2.CostResponse:
        asked.append((filters.get("since", 0), filters.get("until", 0)))
        return await cost(self, **filters)

    monkeypatch.setattr(AsyncWireClient, "cost", counting)

    async def story(site: Site, browser: Browser) -> None:
        token = site.token("root", "admin")
        before = await scrape(browser, token)
        yesterday = START - START % DAY_US - DAY_US
        assert sorted(asked) == [(0, yesterday)] * 2 + [(yesterday, 0)] * 2
        asked.clear()
        browser.clock.advance(metrics.FRESH_US - 1)
        assert await scrape(browser, token) == before
        assert asked == []
        browser.clock.advance(1)
        again = await scrape(browser, token)
        assert again["bursar_job_cost_usd_total"] == before["bursar_job_cost_usd_total"]
        assert asked == [(yesterday, 0)] * 2
        asked.clear()
        browser.clock.advance(DAY_US)
        later = await scrape(browser, token)
        assert later["bursar_job_cost_usd_total"] == before["bursar_job_cost_usd_total"]
        assert sorted(asked) == [(0, yesterday + DAY_US)] * 2 + [(yesterday + DAY_US, 0)] * 2

    play(story)


def test_what_is_remembered_of_scrapers_has_a_bound() -> None:
    async def main() -> None:
        page = metrics.Metrics("unix:///none", VirtualClock(0), "own")
        first = await page._scraper("0")
        for number in range(1, metrics.SCRAPERS_MAX):
            await page._scraper(str(number))
        assert await page._scraper("0") is first
        await page._scraper("more")
        assert len(page._scrapers) == metrics.SCRAPERS_MAX
        assert await page._scraper("0") is first
        await page.close()
        assert page._scrapers == {}

    asyncio.run(main())


def test_the_secret_of_a_local_cluster_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    secret = scrape_secret(tmp_path / "web")
    assert len(secret) > 40
    assert scrape_secret(tmp_path / "web") == secret
    assert (tmp_path / "web/metrics-token").stat().st_mode & 0o777 == 0o600


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def to_zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(bytes(range(128, 256)) * 8),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, 20),
        lambda path: os.truncate(path, 20 << 30),
        to_pipe,
        to_directory,
        to_zeros,
    ],
    ids=["noise", "emptied", "cut short", "too large", "a pipe", "a directory", "zeros for ever"],
)
def test_a_secret_that_was_damaged_lies_aside_and_another_is_made(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "web"
    before = scrape_secret(folder)
    damage(folder / "metrics-token")
    made = scrape_secret(folder)
    assert len(made) > 40
    assert made != before
    assert scrape_secret(folder) == made
    assert len(list(folder.glob("metrics-token.damaged-*"))) == 1


def test_pages_are_served_without_a_secret_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "web").symlink_to("nowhere")
    assert _scraped_with(tmp_path / "web") == ""
    assert "/metrics is served without the token" in capsys.readouterr().err


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every board and alert."""
    for path in sorted(MONITORING.glob("grafana-*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((MONITORING / "prometheus-alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_boards_and_alerts_ask_for_what_is_there() -> None:
    async def story(site: Site, browser: Browser) -> None:
        text = (
            await browser.ask("GET", "/metrics", {"authorization": f"Bearer {site.token('root', 'admin')}"})
        ).text
        known: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(
                family.type, ("",)
            )
            labels = {name for sample in family.samples for name in sample.labels}
            known |= {family.name + suffix: labels for suffix in suffixes}
        for where, expression in expressions():
            used = re.findall(r"\bbursar_\w+", expression)
            assert used or where == "BursarDown", where
            assert set(used) <= set(known), where
            assert expression.count("(") == expression.count(")"), where

    play(story)


@pytest.mark.parametrize("name", ["cluster", "queue", "money", "scheduler"])
def test_a_board_is_one_that_grafana_takes(name: str) -> None:
    board = json.loads((MONITORING / f"grafana-{name}.json").read_text())
    assert board["uid"] == f"bursar-{name}"
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["type"] in ("timeseries", "stat")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == ["A", "B"][: len(panel["targets"])]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_alerts_have_what_prometheus_asks_of_a_rule() -> None:
    [group] = yaml.safe_load((MONITORING / "prometheus-alerts.yml").read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
