"""The pages of services and of administration: as much of each part as its reader may see, and no more."""

from __future__ import annotations

import json

import pytest
from browser import Browser, Tags, play
from whole_site import Site

from bursar.cli.rights import GRANT_COLUMNS
from bursar.clock import HOUR_US
from bursar.codec import view
from bursar.model import ServiceSpec
from bursar.resources import ResourceRequest
from bursar.v1 import access_pb2, money_pb2, nodes_pb2, services_pb2


async def furnish(site: Site) -> str:
    """A service with a replica and a key, a grant, and a secret of a node; who is admin."""
    root = site.token("root", "admin")
    site.job("bob", "nlp", name="chat", time_limit_us=0, service=ServiceSpec())
    asked = (
        ("Access.Grant", access_pb2.GrantRequest(user="zoe", role="viewer", project="nlp")),
        ("Access.SetSecret", access_pb2.SetSecretRequest(name="HF_TOKEN", project="nlp", value=b"hush-hush")),
        ("Nodes.Token", nodes_pb2.TokenRequest(node="n7", ttl_us=HOUR_US)),
        ("Services.NewKey", services_pb2.NewKeyRequest(service="chat", name="team-a")),
    )
    for method, request in asked:
        assert (await site.call(method, request, token=root))[0] == "OK", method
    return root


def test_an_administrator_sees_all_of_it_and_no_secret() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(await furnish(site))
        page = (await browser.get("/admin")).text
        assert Tags(page).faults == []
        for word in (
            "zoe",
            "HF_TOKEN",
            "n7",
            "/admin?show=doctor",
            "bursar grant ls",
            "bursar node token --list",
        ):
            assert word in page, word
        assert "every balance ties to the nano" not in page  # it walks all there is, for whoever asks for it
        assert "every balance ties to the nano" in (await browser.get("/admin?show=doctor")).text
        assert "Not shown" not in page
        assert "hush-hush" not in page
        assert 'aria-current="page">Admin' in page

    play(story)


@pytest.mark.parametrize(("role", "project", "sees"), [
    ("viewer", "", "doctor"), ("submitter", "nlp", "doctor secrets"), ("auditor", "", "doctor grants"),
    ("project-admin", "nlp", "doctor grants secrets"), ("operator", "", "doctor grants secrets"),
    ("admin", "", "doctor grants tokens secrets"),
])  # fmt: skip
def test_each_part_is_for_whom_its_call_is_and_says_so_to_others(role: str, project: str, sees: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        await furnish(site)
        await browser.log_in(site.token("kim", role, project))
        page = await browser.get("/admin")
        assert page.status == 200
        for part, word in (("grants", "zoe"), ("tokens", ">n7<"), ("secrets", "HF_TOKEN")):
            seen = part in sees.split()
            assert (word in page.text) == seen, part
            assert (await browser.get(f"/admin.json?show={part}")).status == (200 if seen else 403), part
        assert page.text.count("Not shown: ") == 4 - len(sees.split())
        assert "Not shown" not in (await browser.get("/admin?show=doctor")).text

    play(story)


def test_files_of_the_page_are_what_the_command_prints() -> None:
    async def story(site: Site, browser: Browser) -> None:
        root = await furnish(site)
        await browser.log_in(root)
        _, answers = await site.ask("Access.Grants", token=root)
        rows = [view.grant(one) for one in answers[0].grants]
        assert json.loads((await browser.get("/admin.json?show=grants")).text) == rows
        lines = (await browser.get("/admin.csv?show=grants")).text.splitlines()
        assert lines == [",".join(column.title or column.name for column in GRANT_COLUMNS), "zoe,viewer,nlp"]
        checks = [row["check"] for row in json.loads((await browser.get("/admin.json?show=doctor")).text)]
        assert "ledger" in " ".join(checks)
        assert json.loads((await browser.get("/admin.json")).text) == rows
        assert "HF_TOKEN" not in (await browser.get("/admin?show=grants")).text
        assert (await browser.get("/admin?show=passwords")).status == 400
        assert (await browser.get("/admin?all=1")).status == 400

    play(story)


def test_services_are_listed_and_one_has_its_replicas_keys_and_cost() -> None:
    async def story(site: Site, browser: Browser) -> None:
        root = await furnish(site)
        await browser.log_in(root)
        listed = (await browser.get("/services")).text
        assert 'href="/services/chat"' in listed
        assert "No such" not in listed
        page = (await browser.get("/services/chat")).text
        assert Tags(page).faults == []
        for word in ("team-a", "No gateway tells of its requests", "Replicas", "Cost by key", "unknown"):
            assert word in page, word
        assert "bursar service show chat" in page
        assert "Tokens read" not in page  # nobody tells of them: that is unknown, not 0
        request = services_pb2.ListServicesRequest(service="chat")
        _, answers = await site.ask("Services.List", request, token=root)
        row = view.service(answers[0].services[0])
        told = json.loads((await browser.get("/services/chat.json")).text)
        counted = {"requests", "tokens_in", "tokens_out", "cost"}  # of one that is asked for alone
        assert {name: told[name] for name in row if name not in counted} == {
            name: value for name, value in row.items() if name not in counted
        }
        lines = (await browser.get("/services.csv")).text.splitlines()
        assert (len(lines), lines[1].startswith("chat,")) == (2, True)
        assert (await browser.get("/services/none")).status == 404

    play(story)


def test_what_a_service_cost_is_on_its_page_to_the_nano() -> None:
    async def story(site: Site, browser: Browser) -> None:
        root = await furnish(site)
        await browser.log_in(root)
        price = "kind: CostModel\nname: own\nspec: {pool: p, node_capex: 100003 USD, useful_life: 5y}\n"
        source = money_pb2.PolicySource(name="p.yaml", text=price)
        request = money_pb2.ApplyRequest(sources=[source])
        assert (await site.call("Policies.Apply", request, token=root))[0] == "OK"
        job = next(iter(site.engine.state.jobs))
        site.end(site.place(f"{job}.0"))
        asked = money_pb2.CostRequest(by=["service", "key"], job=job)
        _, answers = await site.ask("Money.Cost", asked, token=root)
        total = view.cost(answers[0], ["service", "key"])["total"]["cost"]
        assert float(total["amount"]) > 0
        page = (await browser.get("/services/chat")).text
        assert f'Together <strong><data value="{total["amount"]}"' in page

    play(story)


def test_who_may_not_see_a_service_has_no_page_of_it_and_who_may_not_see_keys_none_of_them() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await furnish(site)
        await browser.log_in(site.token("kim", "viewer", "vision"))
        assert "chat" not in (await browser.get("/services")).text
        assert (await browser.get("/services/chat")).status == 404
        await browser.log_in(site.token("eva", "viewer", "nlp"))
        page = (await browser.get("/services/chat")).text
        assert "Not shown: eva (viewer of nlp) may not" in page
        assert "<caption>Keys" not in page

    play(story)


def test_a_service_that_nobody_asks_anything_of_does_not_wait_on_the_first_page() -> None:
    async def story(site: Site, browser: Browser) -> None:
        idle = ServiceSpec(replicas_min=0, replicas_max=2)
        site.job("bob", "nlp", name="nobody-asks", time_limit_us=0, service=idle)
        site.job("bob", "nlp", name="does-wait", options=(ResourceRequest(None, 1 << 40, 1 << 30),))
        await browser.log_in(site.token("ann", "admin"))
        waits = (await browser.get("/")).text.split("<caption>What waits, and why")[1]
        waits = waits.split("</section>")[0]
        assert "does-wait" in waits
        assert "nobody-asks" not in waits

    play(story)
