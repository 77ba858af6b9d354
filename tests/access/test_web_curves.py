"""Curves of a job on its page, in its files and in the terminal: the same numbers, gaps as gaps."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tempfile
from collections.abc import Awaitable, Callable

import pytest
from browser import Browser, Tags, server_of
from inhabited import ONE_GPU, POLICIES, add_node, begin, end, failed
from whole_site import Site

from bursar import pictures
from bursar.cli.main import run
from bursar.cli.profile import METRICS, WIDTH, curve
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.model import EndCause
from bursar.pictures import Curve
from bursar.v1 import money_pb2, types_pb2

Story = Callable[[Site, Browser, str], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                source = money_pb2.PolicySource(name="all.yaml", text=POLICIES)
                request = money_pb2.ApplyRequest(sources=[source])
                assert (await site.call("Policies.Apply", request, token=site.token("root", "admin")))[
                    0
                ] == "OK"
                browser = Browser(site)
                browser.app.state.clock = site.clock
                async with browser.app.router.lifespan_context(browser.app):
                    await browser.log_in(site.token("root", "admin"))
                    await story(site, browser, gang(site))

    asyncio.run(main())


def gang(site: Site) -> str:
    """A job of two members that was heard of for two minutes, with half a minute of silence."""
    for name in ("g1", "g2"):
        add_node(site, name, 4)
    job = site.job("ann", "nlp", name="gang", nodes=2, options=ONE_GPU)
    attempt = begin(site, job)
    for second in range(0, 120, 10):
        site.clock.advance(10 * SECOND_US)
        if 40 <= second < 70:
            continue
        for member in attempt.members:
            rank = member.alloc.rank
            sample = types_pb2.Sample(at=site.engine.now())
            for index in range(4):
                sample.gpus.add(index=index, sm_ratio=0.25 + rank / 2, tensor_ratio=0.5, power_watts=300)
            sample.attempts.add(
                attempt_id=attempt.id, rank=rank, cpu_utilization_ratio=1.5, memory_used_bytes=1 << 30
            )
            site.telemetry.add(member.node, sample)
    return job


def test_members_stand_side_by_side_in_a_picture_of_each_metric() -> None:
    async def story(site: Site, browser: Browser, job: str) -> None:
        page = (await browser.get(f"/jobs/{job}/profile")).text
        assert Tags(page).faults == []
        for word in (
            "GPU multiprocessors at work", "GPU tensor cores at work", "GPU power", "CPUs at work",
            "Memory used", "Cost by hour", "rank 0 on g", "rank 1 on g", "300 W",
            "50 % on average of 2 members",
        ):  # fmt: skip
            assert word in page, word
        assert "GPU busy with anything" not in page.partition("<table>")[0]
        of_sm = page.partition("GPU multiprocessors")[2].partition("</figure>")[0]
        assert of_sm.count('<polyline class="c0"') == of_sm.count('<polyline class="c1"') == 2
        assert f"bursar show {job} --profile" in page
        assert f'href="/jobs/{job}/profile"' in (await browser.get(f"/jobs/{job}")).text

    play(story)


def test_files_of_the_page_are_the_command_to_the_last_digit(capsys: pytest.CaptureFixture[str]) -> None:
    async def story(site: Site, browser: Browser, job: str) -> None:
        async def said(form: str) -> str:
            words = ["show", job, "--profile", "-o", form, "--server", server_of(site)]
            assert await asyncio.to_thread(run, words) == 0
            return capsys.readouterr().out

        site.authority._local_role = None
        token = site.token("root", "admin")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bursar.client.link._exchange", lambda _: (token, 300.0))
            found = json.loads((await browser.get(f"/jobs/{job}/profile.json")).text)
            assert json.loads(await said("json")) == found
            lines = (await browser.get(f"/jobs/{job}/profile.csv")).text
            assert list(csv.DictReader(io.StringIO(await said("csv")))) == list(
                csv.DictReader(io.StringIO(lines))
            )
            text = await said("table")
        assert (found["members_total"], len(found["rows"]), found["step_s"]) == (2, 10, 20)
        assert {row["sm_ratio"] for row in found["rows"]} == {0.25, 0.75}
        assert {row["gpu_utilization_ratio"] for row in found["rows"]} == {None}
        assert "GPU multiprocessors at work" in text
        assert "75 %" in text

    play(story)


def test_cost_by_hour_beside_the_curves_is_what_the_command_says_to_the_nano() -> None:
    async def story(site: Site, browser: Browser, job: str) -> None:
        token = site.token("root", "admin")
        attempt = site.engine.state.jobs[job].attempt
        end(site, attempt, *[failed(cause=EndCause.COMPLETED)] * 2)
        request = money_pb2.CostRequest(by=["hour"], job=job)
        _, answers = await site.ask("Money.Cost", request, token=token)
        [row] = view.cost(answers[0], ["hour"])["rows"]
        page = (await browser.get(f"/jobs/{job}/profile")).text
        for part in ("gpu", "cpu", "memory"):
            amount = row[f"{part}_cost"]["amount"]
            assert f"{part}: {amount.rstrip('0')}" in page, (part, amount)

    play(story)


def test_nothing_used_is_told_as_nothing_and_not_as_unknown() -> None:
    of_memory = next(metric for metric in METRICS if metric.field == "gpu_memory_used_bytes")
    assert (of_memory.text(0.0), of_memory.text(2.0**30)) == ("0", "1.07GB")


def test_an_attempt_is_chosen_by_its_number_and_what_was_not_kept_is_said() -> None:
    async def story(site: Site, browser: Browser, job: str) -> None:
        assert "Attempt 1" in (await browser.get(f"/jobs/{job}/profile?attempt=1")).text
        for number in ("x", "-1", "4294967296", "9" * 99):
            assert (await browser.get(f"/jobs/{job}/profile?attempt={number}")).status == 400, number
        gone = await browser.get(f"/jobs/{job}/profile?attempt=7")
        assert (gone.status, "has no attempt 7; it has attempts 1 to 1" in gone.text) == (404, True)
        waits = site.job("ann", "nlp", name="waits")
        assert "No curve is kept" in (await browser.get(f"/jobs/{waits}/profile")).text

    play(story)


def test_who_may_not_see_a_job_sees_none_of_its_curves() -> None:
    async def story(site: Site, browser: Browser, job: str) -> None:
        await browser.log_in(site.token("kim", "viewer", "vision"))
        for form in ("", ".json", ".csv"):
            assert (await browser.get(f"/jobs/{job}/profile{form}")).status == 404

    play(story)


def test_an_attempt_without_profile_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "7", "--attempt", "2", "--server", "unix:///tmp/none/bursar.sock"]) == 2
    assert "--attempt: is for --profile" in capsys.readouterr().err


def test_a_line_is_level_over_each_span_and_broken_where_nothing_was_heard() -> None:
    made = pictures.curves(
        [Curve("a", ((0, 0.0), (10, 1.0), (20, None), (30, 1.0), (50, 0.5)))],
        0,
        60,
        10,
        1.0,
        ("1", "0"),
        ["x"],
    )
    drawn = [line.points for line in made.lines if line.look == "c0"]
    assert drawn == [
        "170.0,219.0 308.3,219.0 308.3,1.0 446.7,1.0", "585.0,1.0 723.3,1.0", "861.7,110.0 1000.0,110.0",
    ]  # fmt: skip


def test_the_tenth_curve_and_those_after_look_alike_and_are_counted() -> None:
    made = pictures.curves([Curve(f"{n}", ((0, 1.0),)) for n in range(12)], 0, 10, 10, 1.0, ("1", "0"), [])
    assert [line.look for line in made.lines[10:]] == ["others"] * 3
    assert made.keys[-1].name == "3 more"


@pytest.mark.parametrize(("values", "top", "text"), [
    ((0.0, 0.5, 1.0), 1.0, "▁▅█"), ((None, 2.0), 4.0, " ▅"), ((), 1.0, ""), ((3.0,), 0.0, "▁"),
])  # fmt: skip
def test_a_curve_in_a_terminal_is_blocks(values: tuple[float | None, ...], top: float, text: str) -> None:
    assert curve(values, top) == text


def test_a_long_curve_is_means_that_fit() -> None:
    assert len(curve([1.0] * 10_000, 1.0)) <= WIDTH
    assert curve([0.0, 1.0] * WIDTH, 1.0) == "▅" * WIDTH


def test_the_page_of_nodes_has_what_gpus_were_held_for_and_what_they_did() -> None:
    async def story(site: Site, browser: Browser, job: str) -> None:
        page = (await browser.get("/nodes")).text
        assert Tags(page).faults == []
        drawn = page.partition("GPUs at work, by node")[2].partition("</figure>")[0]
        assert "50 % of what was heard of 24 hours of 2 nodes" in drawn
        assert "g1 01:00: 25 %" in drawn or "g1 01:00: 75 %" in drawn
        assert "g1 00:00: not known" in drawn

    play(story)
