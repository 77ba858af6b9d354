"""No answer is larger than a client takes, whatever legal things a site holds; what would be is refused."""

from __future__ import annotations

import pytest
from whole_site import Site, play

from bursar.client.link import RECEIVE_BYTES_MAX
from bursar.errors import AnswerTooLarge, by_reason
from bursar.model import ArraySpec, RetrySpec
from bursar.v1 import jobs_pb2, money_pb2, nodes_pb2, types_pb2
from bursard.services import interceptors, jobs, views
from bursard.state.decide import policies

MIB = 1 << 20
LABELS = tuple((f"k{number:02}" + "y" * 40, "v" * 256) for number in range(64))
"""19 kB, and legal."""
PROGRAM_LEFT_OUT = ["command", "script", "arguments", "setup", "env", "constraints"]


def test_a_client_takes_whatever_a_server_sends() -> None:
    assert RECEIVE_BYTES_MAX == interceptors.ANSWER_BYTES_MAX == 16 << 20
    assert by_reason("AnswerTooLarge") is AnswerTooLarge


@pytest.mark.parametrize("method", ["Jobs.Get", "Jobs.Watch"])
def test_an_answer_over_the_limit_is_refused_with_what_to_do(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        job = site.job("ann", "nlp", command=("x" * 200,), comment="y" * 200)
        asked = {
            "Jobs.Get": jobs_pb2.GetJobRequest(job=job),
            "Jobs.Watch": jobs_pb2.WatchJobsRequest(jobs=[job]),
        }[method]
        (_, answers) = await site.ask(method, asked, token=token, answers_max=1)
        size = answers[0].ByteSize()
        monkeypatch.setattr(interceptors, "ANSWER_BYTES_MAX", size)
        assert (await site.call(method, asked, token=token))[0] == "OK"
        monkeypatch.setattr(interceptors, "ANSWER_BYTES_MAX", size - 1)
        status, message = await site.call(method, asked, token=token)
        assert status == "RESOURCE_EXHAUSTED"
        assert message.startswith(f"the answer has {size} bytes, more than the {size - 1} of one message")
        assert "narrow it" in message

    play(story)
    assert [record for record in caplog.records if record.exc_info] == []


# ------------------------------------------------------------------ jobs


def test_a_page_ends_at_its_bytes_and_its_token_goes_on_behind_it() -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        made = [site.job("ann", "nlp", labels=LABELS) for _ in range(120)]
        seen: list[str] = []
        pages: list[int] = []
        after = ""
        while not pages or after:
            request = jobs_pb2.ListJobsRequest(page_size=1000, page_token=after)
            verdict, (page,) = await site.ask("Jobs.List", request, token=token)
            assert verdict[0] == "OK"
            assert page.ByteSize() <= MIB + 1000
            assert dict(page.jobs[0].spec.labels) == dict(LABELS)
            seen += [job.id for job in page.jobs]
            pages.append(len(page.jobs))
            after = page.next_page_token
        assert seen == made[::-1]
        assert len(pages) == 3

    play(story)


def test_a_page_holds_one_job_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        first, second = site.job("ann", "nlp"), site.job("ann", "nlp")
        monkeypatch.setattr(views, "ROWS_BYTES_MAX", 1)
        (_, (page,)) = await site.ask("Jobs.List", token=token)
        assert [job.id for job in page.jobs] == [second]
        request = jobs_pb2.ListJobsRequest(page_token=page.next_page_token)
        (_, (page,)) = await site.ask("Jobs.List", request, token=token)
        assert [job.id for job in page.jobs] == [first]
        assert page.next_page_token == ""

    play(story)


def test_rows_of_lists_and_watches_say_that_they_lack_the_program_and_get_has_it() -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        spec = {"script": "#!/bin/sh\n" + "x" * 60_000, "command": (), "setup": "s", "env": (("A", "b"),)}
        job = site.job("ann", "nlp", name="big", comment="why", labels=(("a", "b"),), **spec)
        (_, (page,)) = await site.ask("Jobs.List", token=token)
        watch = jobs_pb2.WatchJobsRequest(jobs=[job])
        (_, (watched,)) = await site.ask("Jobs.Watch", watch, token=token, answers_max=1)
        for row in (page.jobs[0], watched):
            assert (row.spec.script, row.spec.setup, dict(row.spec.env)) == ("", "", {})
            assert list(row.left_out) == PROGRAM_LEFT_OUT
            assert (row.spec.name, row.spec.comment, dict(row.spec.labels)) == ("big", "why", {"a": "b"})
            assert row.ByteSize() < 1000
        (_, (whole,)) = await site.ask("Jobs.Get", jobs_pb2.GetJobRequest(job=job), token=token)
        assert (whole.spec.script, whole.spec.setup) == (spec["script"], "s")
        assert dict(whole.spec.env) == {"A": "b"}
        assert list(whole.left_out) == []

    play(story)


def test_tasks_do_not_repeat_what_their_array_runs_nor_its_ranges() -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        array = ArraySpec(tuple(range(0, 2000, 2)) + tuple(range(2001, 6000, 3)))
        site.job("ann", "nlp", name="sweep", array=array, script="#!/bin/sh\n" + "x" * 64_000, command=())
        request = jobs_pb2.ListJobsRequest(tasks_of="sweep", page_size=500)
        (_, (page,)) = await site.ask("Jobs.List", request, token=token)
        assert [job.array_index for job in page.jobs] == list(range(0, 1000, 2))
        assert page.ByteSize() < MIB // 2
        (_, (page,)) = await site.ask("Jobs.List", token=token)
        (row,) = page.jobs
        assert row.array.size == len(array.indices)
        assert not row.spec.HasField("array")

    play(story)


def test_a_verb_answers_for_each_of_many_jobs_however_large_they_are() -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        made = [site.job("ann", "nlp", labels=LABELS, script="x" * 60_000, command=()) for _ in range(300)]
        request = jobs_pb2.CancelRequest(jobs=made)
        verdict, (answer,) = await site.ask("Jobs.Cancel", request, token=token)
        assert verdict[0] == "OK"
        assert [(job.id, job.state, job.spec.project) for job in answer.jobs] == [
            (job, "CANCELLED", "nlp") for job in made
        ]
        assert answer.ByteSize() < MIB

    play(story)


def test_what_a_verb_did_is_told_of_every_job_also_past_the_bytes_of_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        made = [site.job("ann", "nlp", name=f"n{number}") for number in range(3)]
        monkeypatch.setattr(jobs, "ROWS_BYTES_MAX", 1)
        (_, (answer,)) = await site.ask("Jobs.Hold", jobs_pb2.JobsRequest(jobs=made), token=token)
        first, *others = answer.jobs
        assert (first.spec.name, first.reason.code) == ("n0", "Held")
        assert list(first.left_out) == [
            *PROGRAM_LEFT_OUT, "labels", "depends_on", "secrets", "secret_files", "workdir", "comment",
            "output_file", "error_file", "image", "image_auth", "mounts", "attempts", "budgets"
        ]  # fmt: skip
        lacking = ["spec", "attempts", "budgets", "cost", "array"]
        assert others == [
            types_pb2.Job(
                id=job, number=number, user="ann", state="PENDING",
                reason=types_pb2.Reason(code="Held"), left_out=lacking,
            )
            for number, job in ((2, made[1]), (3, made[2]))
        ]  # fmt: skip

    play(story)


def test_a_row_names_the_first_budgets_and_counts_all() -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")
        text = "\n---\n".join(
            f"kind: Budget\nname: b{number:02}\nspec: {{scope: {{project: nlp}}, limit: 9 USD, period: year}}"
            for number in range(40)
        )
        source = money_pb2.PolicySource(name="b.yaml", text=text)
        await site.ask("Policies.Apply", money_pb2.ApplyRequest(sources=[source]), token=root)
        job = site.job("ann", "nlp")
        (_, (page,)) = await site.ask("Jobs.List", token=root)
        (_, (whole,)) = await site.ask("Jobs.Get", jobs_pb2.GetJobRequest(job=job), token=root)
        assert len(whole.budgets) == 40
        assert list(page.jobs[0].budgets) == list(whole.budgets)[:32]
        assert page.jobs[0].budgets_total == whole.budgets_total == 40

    play(story)


def test_a_row_has_the_newest_attempts_and_the_last_one_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        job = site.job("ann", "nlp", retry=RetrySpec(on=("start_failed",), max=5))
        for _ in range(3):
            site.fail_to_start(job, "no such program")
            site.clock.advance(3_600_000_000)
        for most, numbers in ((0, [3]), (1, [3]), (2, [2, 3]), (256, [1, 2, 3])):
            monkeypatch.setattr(views, "MEMBERS_IN_ROW", most)
            (_, (page,)) = await site.ask("Jobs.List", token=token)
            assert [attempt.number for attempt in page.jobs[0].attempts] == numbers

    play(story)


# ------------------------------------------------------------------ nodes


def test_lists_of_nodes_have_of_a_reading_what_is_really_there() -> None:
    async def story(site: Site) -> None:
        token = site.token("op", "operator")
        job = site.job("ann", "nlp")
        live = site.place(job).id
        sample = types_pb2.Sample(at=7, cpu_utilization_ratio=0.5, memory_used_bytes=3, power_watts=2.0)
        for number in range(20_000):
            sample.attempts.add(attempt_id=f"att_{number:030}", processes=1)
            sample.gpus.add(index=0)
        sample.attempts.add(attempt_id=live, processes=9)
        site.telemetry.add("n1", sample)
        wanted = types_pb2.Sample(at=7, cpu_utilization_ratio=0.5, memory_used_bytes=3, power_watts=2.0)
        wanted.attempts.add(attempt_id=live, processes=9)
        (_, (listed,)) = await site.ask("Nodes.List", token=token)
        (_, (top,)) = await site.ask("Nodes.Top", nodes_pb2.TopRequest(), token=token)
        assert listed.nodes[0].sample == top.nodes[0].sample == wanted
        (_, (whole,)) = await site.ask("Nodes.Get", nodes_pb2.NodeRequest(node="n1"), token=token)
        assert whole.sample == wanted

    play(story)


def test_top_counts_the_jobs_that_it_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        token = site.token("op", "operator")
        made = [site.job("ann", "nlp") for _ in range(3)]
        for job in made:
            site.place(job)
        monkeypatch.setattr(views, "ROWS_BYTES_MAX", 1)
        (_, (top,)) = await site.ask("Nodes.Top", nodes_pb2.TopRequest(), token=token)
        assert [job.id for job in top.jobs] == made[:1]
        assert top.jobs_total == 3
        assert list(top.jobs[0].left_out) == PROGRAM_LEFT_OUT

    play(story)


# ------------------------------------------------------------------ policies


def test_a_list_of_policies_leaves_their_texts_to_get() -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")
        text = (
            "kind: Budget\nname: b\nspec: {scope: {project: nlp}, limit: 9 USD, period: year}\n# "
            + "x" * 60_000
        )
        source = money_pb2.PolicySource(name="b.yaml", text=text)
        await site.ask("Policies.Apply", money_pb2.ApplyRequest(sources=[source]), token=root)
        (_, (whole,)) = await site.ask("Policies.Get", money_pb2.PolicyRequest(name="b"), token=root)
        (_, (listed,)) = await site.ask("Policies.List", token=root)
        assert whole.text.strip() == text
        whole.ClearField("text")
        assert list(listed.policies) == [whole]
        assert (whole.version, whole.applied_by) == (1, "root")

    play(story)


def test_a_site_has_so_many_documents_of_a_kind_and_can_still_change_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")

        async def send(verb: str, names: str, limit: int = 9) -> tuple[str, str]:
            text = "\n---\n".join(
                f"kind: Budget\nname: {name}\n"
                f"spec: {{scope: {{project: {name}}}, limit: {limit} USD, period: year}}"
                for name in names.split()
            )
            source = money_pb2.PolicySource(name="b.yaml", text=text)
            return await site.call(f"Policies.{verb}", money_pb2.ApplyRequest(sources=[source]), token=root)

        assert policies.OF_A_KIND_MAX == 2_000
        monkeypatch.setattr(policies, "OF_A_KIND_MAX", 3)
        assert (await send("Apply", "a b"))[0] == "OK"
        for verb in ("Check", "Apply"):
            status, message = await send(verb, "b c d")
            assert status == "INVALID_ARGUMENT"
            assert message == (
                "Budget: 2 are in force and 2 would be added, but a site has at most 3; remove some first"
                " (`bursar policy ls --kind Budget`, `bursar policy rm Budget/NAME`), or put several into one"
                " with a wider scope"
            )
        assert sorted(name for _, name in site.engine.state.policies) == ["a", "b"]
        assert (await send("Apply", "a b c", 10))[0] == "OK"
        monkeypatch.setattr(policies, "OF_A_KIND_MAX", 1)
        assert (await send("Apply", "a b c", 11))[0] == "OK"
        other = "kind: PlacementPolicy\nname: d\nspec: {strategy: pack}\n"
        source = money_pb2.PolicySource(name="d.yaml", text=other)
        request = money_pb2.ApplyRequest(sources=[source])
        assert (await site.call("Policies.Apply", request, token=root))[0] == "OK"

    play(story)
