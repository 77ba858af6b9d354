"""Secrets of nodes and sessions, by forms: shown once, ended by whom they are of, and by nobody else."""

from __future__ import annotations

import json
import re

from browser import Browser, Tags, play
from whole_site import Site

from bursar.v1 import nodes_pb2


async def known(site: Site) -> list[str]:
    _, [wire] = await site.ask("Nodes.Tokens", nodes_pb2.TokensRequest(), token=site.token("root", "admin"))
    return [one.node for one in wire.tokens]


def test_a_secret_of_a_node_is_shown_once_and_voided_after_it_was_asked() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("root", "admin"))
        assert Tags((await browser.get("/admin/enrol")).text).faults == []
        word = await browser.form_token()
        for node, hours, said in (
            ("", "1", "node: give the name"), ("n7", "0", "hours:"), ("n7", "169", "hours:"),
            ("n7", "x", "hours:"), ("<script>", "1", "node"),
        ):  # fmt: skip
            refused = await browser.post("/admin/enrol", node=node, hours=hours, form_token=word)
            assert (refused.status, said in refused.text) == (400, True), (node, hours, refused.text)
        assert await known(site) == []
        made = await browser.post("/admin/enrol", node="n7", hours="2", form_token=word)
        assert (made.status, made.headers["cache-control"]) == (200, "no-store")
        [secret] = re.findall(r"<pre[^>]*>([^<]+)</pre>", made.text)
        assert len(secret) > 20
        assert await known(site) == ["n7"]
        page = (await browser.get("/admin")).text
        assert secret not in page
        assert 'href="/admin/secrets/n7/revoke"' in page
        asked = (await browser.get("/admin/secrets/n7/revoke")).text
        assert Tags(asked).faults == []
        assert await known(site) == ["n7"]
        [id] = re.findall(r'name="id" value="([^"]+)"', asked)
        gone = await browser.post("/admin/secrets/n7/revoke", id=id, form_token=word)
        assert (gone.status, gone.headers["location"]) == (303, "/admin")
        assert await known(site) == []

    play(story)


def test_who_may_not_let_nodes_in_is_refused() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("root", "admin"))
        word = await browser.form_token()
        await browser.post("/admin/enrol", node="n7", hours="1", form_token=word)
        await browser.log_in(site.token("vic", "viewer"))
        word = await browser.form_token()
        assert (await browser.post("/admin/enrol", node="n8", hours="1", form_token=word)).status == 403
        assert (await browser.post("/admin/secrets/n7/revoke", form_token=word)).status == 403
        assert (await browser.post("/admin/enrol", node="n8", hours="1")).status == 403
        assert await known(site) == ["n7"]

    play(story)


def test_everybody_sees_and_ends_their_own_sessions_and_an_administrator_any() -> None:
    async def story(site: Site, browser: Browser) -> None:
        async def cookie(user: str, role: str) -> str:
            browser.cookie = ""
            await browser.log_in(site.token(user, role))
            return browser.cookie

        async def rows() -> list[dict[str, object]]:
            found: list[dict[str, object]] = json.loads((await browser.get("/sessions.json")).text)
            return found

        home, office = await cookie("ann", "submitter"), await cookie("ann", "submitter")
        bob, root = await cookie("bob", "submitter"), await cookie("root", "admin")
        browser.cookie = bob
        [own] = await rows()
        assert (own["user"], own["own"]) == ("bob", True)
        browser.cookie = home
        found = await rows()
        assert [(row["user"], row["own"]) for row in found] == [("ann", True), ("ann", False)]
        assert Tags((await browser.get("/sessions")).text).faults == []
        word = await browser.form_token()
        other = await browser.post(f"/sessions/{own['id']}/end", form_token=word)
        assert other.status == 404
        assert (await browser.post(f"/sessions/{found[1]['id']}/end")).status == 403
        ended = await browser.post(f"/sessions/{found[1]['id']}/end", form_token=word)
        assert (ended.status, ended.headers["location"]) == (303, "/sessions")
        browser.cookie = office
        assert (await browser.get("/jobs")).status == 303
        browser.cookie = root
        assert [row["user"] for row in await rows()] == ["ann", "bob", "root"]
        for text in ((await browser.get("/sessions")).text, (await browser.get("/sessions.csv")).text):
            assert all(each.partition("=")[2] not in text for each in (home, bob, root))
        await browser.post(f"/sessions/{own['id']}/end", form_token=await browser.form_token())
        mine = next(row for row in await rows() if row["own"])
        last = await browser.post(f"/sessions/{mine['id']}/end", form_token=await browser.form_token())
        assert last.headers["location"] == "/login"
        for gone in (bob, root):
            browser.cookie = gone
            assert (await browser.get("/jobs")).status == 303

    play(story)
