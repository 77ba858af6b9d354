"""What services' calls take from whom: programs, projects of keys, and what gateways say was used."""

from __future__ import annotations

from typing import Any

from whole_site import Site, play

from bursar.clock import DAY_US, SECOND_US
from bursar.codec.spec import spec_to_wire
from bursar.model import ServiceSpec
from bursar.v1 import money_pb2, services_pb2
from bursard.events import ServiceMetered, decode
from bursard.store import EventFilter

MINUTE_US = 60 * SECOND_US


def service(site: Site, owner: str = "bob", project: str = "nlp", name: str = "chat", **fields: Any) -> str:
    return site.job(owner, project, name=name, time_limit_us=0, service=ServiceSpec(**fields))


async def new_key(site: Site, token: str, **more: Any) -> Any:
    request = services_pb2.NewKeyRequest(**({"service": "chat"} | more))
    (status, details), answers = await site.ask("Services.NewKey", request, token=token)
    return answers[0] if status == "OK" else (status, details)


def of_scope(name: str, scope: str) -> money_pb2.ApplyRequest:
    text = f"kind: Budget\nname: {name}\nspec: {{scope: {{{scope}}}, limit: 3 USD, period: month}}\n"
    return money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="b", text=text)])


async def sync(site: Site, *minutes: services_pb2.ServiceMinute, keys_tag: str = "") -> Any:
    request = services_pb2.SyncRequest(gateway="g", minutes=minutes, keys_tag=keys_tag)
    (status, details), answers = await site.ask("Services.Sync", request, token=site.token("g", "operator"))
    assert status == "OK", details
    return answers[0]


def minute(site: Site, job: str, seq: int, at: int, **uses: int) -> services_pb2.ServiceMinute:
    made = services_pb2.ServiceMinute(seq=seq, job_id=job, minute=at, busy_us=1, capacity_us=1)
    for key, requests in uses.items():
        made.uses.add(key_id=key, requests=requests)
    return made


async def metered(site: Site) -> list[ServiceMetered]:
    asked = EventFilter(kinds=("service-metered",))
    await site.engine.durable()
    rows = await site.engine.read(lambda views: views.events(0, 100, asked))
    return [event for row in rows if isinstance(event := decode(row.payload), ServiceMetered)]


def test_what_a_service_runs_is_its_owners_and_operators_to_change() -> None:
    async def story(site: Site) -> None:
        job = service(site)
        spec = spec_to_wire(site.engine.state.jobs[job].spec)
        spec.command[:] = ["id"]
        request = services_pb2.UpdateServiceRequest(service="chat", spec=spec)
        boss = site.token("pat", "project-admin", "nlp")
        status, details = await site.call("Services.Update", request, token=boss)
        assert (status, "change what a service runs in its owner's name" in details) == (
            "PERMISSION_DENIED",
            True,
        )
        scaled = services_pb2.ScaleServiceRequest(service="chat", replicas_min=2, replicas_max=2)
        assert (await site.call("Services.Scale", scaled, token=boss))[0] == "OK"
        assert site.engine.state.jobs[job].spec.command == ("true",)
        assert (await site.call("Services.Update", request, token=site.token("bob", "submitter", "nlp")))[
            0
        ] == "OK"
        assert site.engine.state.jobs[job].spec.command == ("id",)

    play(story)


def test_what_is_asked_with_a_key_is_told_of_a_project_where_its_maker_may_submit() -> None:
    async def story(site: Site) -> None:
        service(site)
        token = site.token("ann", "project-admin", "nlp")
        refused = await new_key(site, token, project="vision")
        assert refused[0] == "PERMISSION_DENIED"
        assert not site.engine.state.service_keys
        assert (await new_key(site, token, project="nlp/deep")).project == "nlp/deep"
        assert (await new_key(site, site.token("root", "admin"), project="vision")).project == "vision"

    play(story)


def test_a_service_that_is_not_there_is_told_as_a_service() -> None:
    async def story(site: Site) -> None:
        site.job("bob", "nlp", name="prep")
        said = {}
        for name in ("none", "prep"):
            request = services_pb2.ListServicesRequest(service=name)
            status, said[name] = await site.call("Services.List", request, token=site.token("root", "admin"))
            assert status == "NOT_FOUND"
        assert said["none"].startswith("there is no service 'none'; `bursar service ls` lists them")
        assert "is no service" in said["prep"]

    play(story)


def test_a_service_that_one_may_not_see_is_told_as_one_that_is_not_there() -> None:
    async def story(site: Site) -> None:
        service(site)
        token = site.token("eve", "submitter", "vision")
        told = [
            await site.call("Services.List", services_pb2.ListServicesRequest(service=name), token=token)
            for name in ("chat", "none")
        ]
        assert told[0] == (told[1][0], told[1][1].replace("none", "chat"))

    play(story)


def test_a_gateway_gets_the_keys_again_only_when_they_are_others() -> None:
    async def story(site: Site) -> None:
        service(site)
        root = site.token("root", "admin")
        first = await new_key(site, root)
        answer = await sync(site)
        assert [one.id for one in answer.keys] == [first.id]
        again = await sync(site, keys_tag=answer.keys_tag)
        assert (list(again.keys), again.keys_tag) == ([], answer.keys_tag)
        await site.call("Services.RevokeKey", services_pb2.RevokeKeyRequest(key=first.id), token=root)
        none = await sync(site, keys_tag=answer.keys_tag)
        assert (list(none.keys), none.keys_tag != answer.keys_tag) == ([], True)

    play(story)


def test_what_a_gateway_says_of_a_strange_key_is_told_of_none() -> None:
    async def story(site: Site) -> None:
        job, now = service(site), site.engine.now()
        root = site.token("root", "admin")
        ours, void = await new_key(site, root), await new_key(site, root)
        service(site, name="other")
        request = services_pb2.NewKeyRequest(service="other")
        _, [theirs] = await site.ask("Services.NewKey", request, token=root)
        await site.call("Services.RevokeKey", services_pb2.RevokeKeyRequest(key=void.id), token=root)
        told = minute(site, job, 1, now, **{ours.id: 1, void.id: 2, theirs.id: 3, "key_made_up": 4})
        assert (await sync(site, told)).acknowledged_seq == 1
        [event] = await metered(site)
        assert [(use.key_id, use.requests) for use in event.uses] == [
            (ours.id, 1),
            (void.id, 2),
            ("", 3),
            ("", 4),
        ]

    play(story)


def test_a_service_falls_back_on_one_of_its_owner_and_project_alone_and_its_keys_are_counted_there() -> None:
    async def story(site: Site) -> None:
        small = service(site, name="small")
        service(site, fallback="small")
        ours = await new_key(site, site.token("root", "admin"))
        routes = {one.name: one for one in (await sync(site)).routes}
        assert (routes["chat"].fallback, routes["small"].fallback) == ("small", "")
        await sync(site, minute(site, small, 1, site.engine.now(), **{ours.id: 1}))
        [event] = await metered(site)
        assert [use.key_id for use in event.uses] == [ours.id]

    async def of_others(site: Site) -> None:
        small = service(site, owner="eve", name="small")
        service(site, name="big", project="vision")
        for name, fallback in (("chat", "small"), ("talk", "big"), ("speak", "none")):
            service(site, name=name, fallback=fallback)
        ours = await new_key(site, site.token("root", "admin"))
        assert not any(one.fallback for one in (await sync(site)).routes)
        await sync(site, minute(site, small, 1, site.engine.now(), **{ours.id: 1}))
        [event] = await metered(site)
        assert [use.key_id for use in event.uses] == [""]

    play(story)
    play(of_others)


def test_a_minute_that_has_not_come_or_was_before_its_service_is_not_kept() -> None:
    async def story(site: Site) -> None:
        job, now = service(site), site.engine.now()
        told = [minute(site, job, n, at) for n, at in enumerate((now, now + DAY_US, now - DAY_US), start=1)]
        assert (await sync(site, *told)).acknowledged_seq == 3, "told again they would stop all others"
        assert [event.minute for event in await metered(site)] == [now - now % MINUTE_US]

    play(story)


BUDGETS = (
    "kind: Budget\nname: nlp-month\nspec: {scope: {project: nlp}, limit: 100 USD, period: month}\n---\n"
    "kind: Budget\nname: all-year\nspec: {scope: {user: zed}, limit: 100 USD, period: year}\n"
)


def test_a_key_names_a_budget_that_its_maker_sees_and_that_covers_its_project() -> None:
    async def story(site: Site) -> None:
        service(site, project="ml")
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="b", text=BUDGETS)])
        assert (await site.call("Policies.Apply", request, token=site.token("root", "admin")))[0] == "OK"
        boss = site.token("ann", "project-admin", "")
        made = await new_key(site, boss, project="nlp/deep", budget="nlp-month")
        assert (made.budget, made.project) == ("nlp-month", "nlp/deep")
        told = (await sync(site)).budgets
        assert [(one.name, one.left.nanos) for one in told] == [("nlp-month", str(100 * 10**9))]
        for given, why in (
            ({"budget": "nlp-month"}, "is of project nlp, and this key's project is ml"),
            ({"budget": "all-year"}, "is of user zed"),
            ({"budget": "none"}, "there is no budget 'none'"),
        ):
            _, details = await new_key(site, boss, **given)
            assert why in details
        for name, scope in (
            ("exp", "experiment: exp-42"),
            ("llm", "model: llama"),
            ("lab", "label: team=a"),
        ):
            await site.call("Policies.Apply", of_scope(name, scope), token=site.token("root", "admin"))
            _, details = await new_key(site, boss, budget=name)
            assert f"budget: {name} is of " in details, "what it does counts against another's"
            assert "service chat is not of that experiment or model, or has not those labels" in details
        site.job(
            "bob",
            "ml",
            name="llm",
            time_limit_us=0,
            service=ServiceSpec(),
            model="llama",
            experiment="exp-42",
        )
        for name in ("exp", "llm"):
            assert (await new_key(site, boss, budget=name, service="llm")).budget == name
        chief = site.token("cat", "project-admin", "ml")
        _, details = await new_key(site, chief, budget="nlp-month")
        assert "there is no budget 'nlp-month'" in details, "who may not see it is told no more than that"
        listed = services_pb2.KeysRequest(service="chat")
        _, [found] = await site.ask("Services.Keys", listed, token=chief)
        assert [key.budget for key in found.keys] == [""]

    play(story)
