"""Requests through a gateway to replicas of this process: held, routed, streamed, counted, cut off."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gateway_site import USAGE, Replica, S, Site, play, until
from yarl import URL

from bursar.tracebacks import TRACEBACKS_MAX, Tracebacks
from bursar_gateway import http
from bursar_gateway.core import Key, Refusal, Route


def test_a_request_reaches_a_replica_without_its_key_and_comes_back_counted() -> None:
    async def story() -> None:
        async with Site(Replica()) as site:
            headers = {"Connection": "x-mine", "x-mine": "1", "x-kept": "2", "Accept-Encoding": "gzip"}
            url = URL(site.url + "/v1/chat/completions?a=%2F", encoded=True)
            async with site.client.post(url, data=b"{}", headers=headers) as r:
                assert (r.status, await r.json()) == (200, {"usage": USAGE})
                assert r.headers["x-bursar-replica"] == "att_0"
                assert "x-hop" not in r.headers
                assert r.headers["x-own"] == "2"
            [(method, path, got, body)] = site.replicas[0].asked
            assert (method, path, body) == ("POST", "/v1/chat/completions?a=%2F", b"{}")
            assert got["Accept-Encoding"] == "identity"
            assert got["x-kept"] == "2"
            assert not {"Authorization", "x-mine"} & set(got)
            used = site.used()
            assert (used.requests, used.failed, used.tokens_in, used.tokens_out, used.counted) == (
                1,
                0,
                7,
                3,
                1,
            )
            assert not site.core.outstanding

    play(story)


def test_no_key_opens_nothing_and_no_replica_hears_of_it() -> None:
    async def story() -> None:
        async with Site(Replica()) as site:
            async with site.client.get(site.url, headers={"Authorization": "Bearer no"}) as r:
                assert (r.status, (await r.json())["error"]["code"]) == (401, "invalid_api_key")
            assert site.replicas[0].asked == []

    play(story)


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", "malformed"),
        ("\x16\x03\x01\x02\r\n\r\n", "malformed"),
        ("GET /chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: b\r\n\r\n", "malformed"),
        ("GET /chat HTTP/1.1\r\nHost: a\r\nx-api-key: a\r\nX-API-Key: a\r\n\r\n", "malformed"),
    ],
)
def test_what_is_no_request_or_has_two_keys_is_refused_as_all_else_is(head: str, code: str) -> None:
    async def story() -> None:
        async with Site(Replica()) as site:
            reader, writer = await asyncio.open_connection(*site.address)
            writer.write(head.encode("latin-1"))
            status = await reader.readline()
            assert status.split()[1] == b"400"
            while (line := await reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split()[1])
            error = json.loads(await reader.readexactly(size))["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", code)
            assert site.replicas[0].asked == []
            writer.close()

    play(story)


def test_a_hundred_requests_at_zero_wait_together_for_the_first_replica() -> None:
    """G3, the gateway's part: the daemon is woken, and each of them is answered."""

    async def story() -> None:
        replica = Replica()
        async with Site(target=100) as site:
            asks = [asyncio.create_task(site.client.get(site.url)) for _ in range(100)]
            line = site.core.line(site.core.routes["chat"])
            await until(lambda: line.many == 100)
            assert site.woken
            site.learn({"att_9": await replica.open()})
            answers = await asyncio.gather(*asks)
            assert {one.status for one in answers} == {200}
            assert len(replica.asked) == 100
            await replica.close()

    play(story)


def test_who_waits_too_long_is_told_why() -> None:
    async def story() -> None:
        async with Site(cold_us=1) as site:
            site.learn({}, cold_us=1, waits="waits for a GPU")
            async with site.client.get(site.url) as r:
                assert (r.status, r.headers["Retry-After"]) == (503, "5")
                assert (await r.json())["error"]["message"].endswith("waits for a GPU")
            assert site.core.line(site.core.routes["chat"]).many == 0

    play(story)


def test_without_money_it_is_429_and_not_to_be_retried() -> None:
    async def story() -> None:
        async with Site() as site:
            site.learn({}, refused={"code": "BudgetExhausted", "message": "m", "budget": "b"})
            async with site.client.get(site.url) as r:
                assert (r.status, r.headers["x-should-retry"]) == (429, "false")
                assert (await r.json())["error"]["type"] == "insufficient_quota"

    play(story)


def test_a_stream_comes_piece_by_piece_and_is_counted_without_the_event_we_asked_for() -> None:
    async def story() -> None:
        go = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            made = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await made.prepare(request)
            await made.write(b'data: {"choices": [{"delta": {}}]}\n\n')
            await go.wait()
            await made.write(b'data: {"choices": [], "usage": ' + json.dumps(USAGE).encode() + b"}\n\n")
            await made.write(b"data: [DONE]\n\n")
            return made

        async with Site(Replica(answer)) as site:
            async with site.client.post(site.url + "/v1/chat/completions", json={"stream": True}) as r:
                assert await r.content.readany() == b'data: {"choices": [{"delta": {}}]}\n\n'
                go.set()
                assert await r.content.read() == b"data: [DONE]\n\n"
            assert json.loads(site.replicas[0].asked[0][3])["stream_options"] == {"include_usage": True}
            await until(lambda: not site.core.outstanding)
            assert (site.used().tokens_out, site.used().counted) == (3, 1)

    play(story)


def test_a_client_that_goes_ends_the_replicas_work_and_pays_for_what_came() -> None:
    """G7."""

    async def story() -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            made = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await made.prepare(request)
            await made.write(b'data: {"choices": [{"delta": {}}]}\n\n' * 4)
            await asyncio.Event().wait()
            raise AssertionError

        async with Site(Replica(answer)) as site:
            r = await site.client.post(site.url + "/v1/chat/completions", json={"stream": True})
            await r.content.readany()
            r.close()
            await site.replicas[0].cut.wait()
            await until(lambda: not site.core.outstanding)
            used = site.used()
            assert (used.requests, used.tokens_out, used.estimated, used.counted) == (1, 4, 1, 0)
            assert used.tokens_in > 0

    play(story)


def test_a_replica_that_is_gone_costs_no_request_that_may_be_asked_twice() -> None:
    """G1, the gateway's part."""

    async def story() -> None:
        async with Site(Replica(), Replica()) as site:
            await site.replicas[0].close()
            for _ in range(10):
                async with site.client.post(site.url, data=b"{}") as r:
                    assert (r.status, r.headers["x-bursar-replica"]) == (200, "att_1")
            assert not site.core.outstanding

    play(story)


@pytest.mark.parametrize(("method", "asks"), [("GET", 3), ("POST", 1)])
def test_only_what_may_be_asked_twice_is(method: str, asks: int) -> None:
    async def story() -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=503)

        replicas = [Replica(answer) for _ in range(4)]
        async with Site(*replicas) as site:
            async with site.client.request(method, site.url) as r:
                assert r.status == 503
            assert sum(len(one.asked) for one in replicas) == asks

    play(story)


def test_a_body_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_BYTES_MAX", 1000)

    async def many() -> Any:
        for _ in range(3):
            yield b"x" * 500

    async def story() -> None:
        async with Site(Replica()) as site:
            for body in (b"x" * 1001, many()):
                async with site.client.post(site.url, data=body) as r:
                    assert r.status == 413
            assert site.replicas[0].asked == []

    play(story)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /chat HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /chat HTTP/1.1\r\n" + b"".join(b"x%d: 1\r\n" % n for n in range(500)) + b"\r\n",
        b"\x16\x03\x01\x00\x00 no http\r\n\r\n",
    ],
)
def test_what_is_no_request_is_400_and_reaches_nobody(raw: bytes) -> None:
    async def story() -> None:
        async with Site(Replica()) as site:
            reader, writer = await asyncio.open_connection(*site.address)
            writer.write(raw)
            assert (await reader.readline()).split()[1] == b"400"
            writer.close()
            assert site.replicas[0].asked == []

    play(story)


def test_a_client_that_does_not_go_on_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADERS_S", 0.01)

    async def story() -> None:
        async with Site(Replica()) as site:
            reader, writer = await asyncio.open_connection(*site.address)
            writer.write(b"GET /chat HTTP/1.1\r\nHost: a\r\nx-slow")
            assert await reader.read() == b""
            writer.close()

    play(story)


def test_of_too_many_connections_the_one_goes_that_has_owed_a_request_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 3)
    held, go = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.BaseRequest) -> web.StreamResponse:
        held.set()
        await go.wait()
        return web.json_response({})

    async def story() -> None:
        async with Site(Replica(slowly)) as site:
            busy = await asyncio.open_connection(*site.address)
            busy[1].write(b"GET /chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer bsk_a\r\n\r\n")
            await held.wait()
            idle = [await asyncio.open_connection(*site.address) for _ in range(8)]
            for reader, _ in idle[:-2]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            last = await asyncio.open_connection(*site.address)
            last[1].write(b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in await last[0].readline(), "whoever comes with a request gets in"
            go.set()
            assert b"200 OK" in await busy[0].readline(), "and nobody is cut who is being answered"
            for _, writer in (busy, last, *idle):
                writer.close()

    play(story)


def test_an_answer_that_breaks_off_is_cut_and_never_gone_on_with_by_another() -> None:
    async def half(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse()
        made.content_length = http.SMALL_BYTES_MAX + 1
        await made.prepare(request)
        await made.write(b"a" * 100)
        assert request.transport is not None
        request.transport.close()
        return made

    async def story() -> None:
        async with Site(Replica(half), Replica(half)) as site:
            async with site.client.get(site.url + "/file") as r:
                with pytest.raises(aiohttp.ClientError):
                    await r.read()
            assert sum(len(one.asked) for one in site.replicas) == 1
            await until(lambda: not site.core.outstanding)
            assert site.used().failed == 1

    play(story)


def test_a_small_answer_that_breaks_off_is_asked_of_another_before_anything_went_back() -> None:
    async def half(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse()
        made.content_length = 400
        await made.prepare(request)
        await made.write(b"a" * 100)
        assert request.transport is not None
        request.transport.close()
        return made

    async def story() -> None:
        async with Site(Replica(half), Replica(), queue_us=S) as site:
            site.core.take("att_1")  # so that the other one is asked first
            async with site.client.get(site.url + "/file") as r:
                assert (r.status, await r.json()) == (200, {"usage": USAGE})
            assert [len(one.asked) for one in site.replicas] == [1, 1]
            async with site.client.post(site.url + "/file") as r:
                assert r.status == 200

    play(story)


def test_an_answer_says_what_it_cost_and_what_its_budgets_have_left() -> None:
    """But for a stream, whose head goes before that is known."""

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse(headers={"x-bursar-cost": "0 USD"})
        await made.prepare(request)
        await made.write(b"x")
        return made

    async def story() -> None:
        money: dict[str, Any] = {"currency": "USD", "budget_left": -1_500_000_000}
        hour = 3_600_000_000 * 8 * 1_000_000_000  # a dollar for each microsecond in hand
        async with Site(Replica(), rates={"att_0": hour}, **money) as site:
            r = await site.client.post(site.url + "/v1/chat/completions", data=b"{}")
            cost, _, currency = r.headers["x-bursar-cost"].partition(" ")
            assert (currency, r.headers["x-bursar-budget-left"]) == ("USD", "-1.500000000 USD")
            assert 0 < float(cost) < 20_000_000
        async with Site(Replica(stream), rates={"att_0": hour}) as site:
            r = await site.client.get(site.url + "/any")
            assert await r.read() == b"x"
            assert not {"x-bursar-cost", "x-bursar-budget-left"} & set(r.headers)

    play(story)


def test_who_gives_up_in_the_moment_of_its_turn_gives_it_back() -> None:
    async def story() -> None:
        async with Site(Replica(), queue_us=1, target=1) as site:
            route = site.core.routes["chat"]
            for _ in range(2):
                site.core.take("att_0")
            turn = asyncio.create_task(site.gateway._turn(route, Key(id="key_1", job_id="job_1"), 0, []))
            await until(lambda: bool(turn.cancelling()))
            site.core.give(route, "att_0", site.clock)
            assert isinstance(await turn, Refusal)
            assert site.core.outstanding == {"att_0": 1}

    play(story)


def test_a_compressed_body_goes_on_as_it_came() -> None:
    async def story() -> None:
        async with Site(Replica()) as site:
            headers = {"Content-Encoding": "gzip"}
            async with site.client.post(site.url, data=gzip.compress(b"hello"), headers=headers) as r:
                assert r.status == 200
            assert site.replicas[0].asked[0][3] == b"hello"  # the replica took it apart, and alone did

    play(story)


def test_bodies_of_all_requests_together_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODIES_BYTES_MAX", 100)

    async def story() -> None:
        async with Site(Replica()) as site:
            for size, status in ((80, 200), (101, 503), (100, 200)):
                async with site.client.post(site.url, data=b"a" * size) as r:
                    assert r.status == status
            assert [len(body) for *_, body in site.replicas[0].asked] == [80, 100]

    play(story)


def test_who_connects_and_says_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADERS_S", 0.01)

    async def story() -> None:
        async with Site(Replica()) as site:
            reader, writer = await asyncio.open_connection(*site.address)
            assert await reader.read() == b""
            writer.close()

    play(story)


def test_a_reader_that_does_not_read_holds_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_S", 0.01)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse()
        await made.prepare(request)
        while True:
            await made.write(b"a" * 65_536)

    async def story() -> None:
        async with Site(Replica(answer)) as site:
            _, writer = await asyncio.open_connection(*site.address, limit=1024)
            writer.write(b"GET /chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer bsk_a\r\n\r\n")
            await until(lambda: bool(site.core.outstanding))
            await site.replicas[0].cut.wait()
            await until(lambda: not site.core.outstanding)
            writer.close()

    play(story)


def test_a_whole_answer_that_nobody_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_S", 0.01)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"text": "a" * (3 << 20)})

    async def story() -> None:
        async with Site(Replica(answer)) as site:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.connect(site.address)
            _, writer = await asyncio.open_connection(sock=made, limit=1024)
            server = site.runner.server
            assert server is not None
            writer.write(b"GET /chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer bsk_a\r\n\r\n")
            await until(lambda: bool(server.connections))
            await until(lambda: bool(site.replicas[0].asked))
            await until(lambda: not server.connections)
            writer.close()

    play(story)


def test_a_request_whose_replica_went_away_is_before_those_that_never_had_one() -> None:
    async def story() -> None:
        gone = Replica()
        async with Site(gone, target=1) as site:
            await gone.close()
            other = Replica()
            route = site.core.routes["chat"]
            site.core.take("att_0")
            ask = asyncio.create_task(site.client.get(site.url, headers={"x-first": "1"}))
            await until(lambda: site.core._ejected.get("att_0", 0) > 0)
            later = [asyncio.create_task(site.client.get(site.url)) for _ in range(3)]
            await until(lambda: site.core.line(route).many == 4)
            site.learn({"att_9": await other.open()})
            for one in (ask, *later):
                assert (await one).status == 200
            assert "x-first" in other.asked[0][2]
            await other.close()

    play(story)


def test_who_waits_already_when_money_ends_is_told_so_at_once() -> None:
    """G10, for requests from zero: the daemon learns only by them that a replica cannot be paid for."""

    async def story() -> None:
        async with Site() as site:
            asks = [asyncio.create_task(site.client.get(site.url)) for _ in range(3)]
            line = site.core.line(site.core.routes["chat"])
            await until(lambda: line.many == 3)
            site.learn({}, refused={"code": "BudgetExhausted", "message": "m", "budget": "b"})
            for one in asks:
                assert (await one).status == 429
            assert (line.many, site.core._waiting_bytes) == (0, 0)
            replica = Replica()
            site.learn({"att_9": await replica.open()})
            async with site.client.get(site.url) as r:
                assert r.status == 200, "it is admitted as soon as the daemon has said that there is money"
            await replica.close()

    play(story)


def test_requests_that_cannot_be_read_write_few_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    """Of the second request of a connection on, aiohttp logs each with its traceback."""
    caplog.handler.addFilter(told := Tracebacks(lambda: 0.0))

    async def story() -> None:
        async with Site(Replica()) as site:
            for _ in range(3 * TRACEBACKS_MAX):
                reader, writer = await asyncio.open_connection(*site.address)
                writer.write(b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                assert b"200 OK" in await reader.readline()
                writer.write(b"\0\0\0 no request\r\n\r\n")
                assert b"400 Bad Request" in await reader.read()
                writer.close()

    try:
        play(story)
    finally:
        caplog.handler.removeFilter(told)
    assert len([one for one in caplog.records if one.exc_info]) == TRACEBACKS_MAX


def test_where_its_money_is_at_an_end_another_service_answers_says_so_and_is_counted() -> None:
    async def story() -> None:
        async with Site(Replica(), fallback="small") as site:
            key = Key(id="key_1", job_id="job_1")
            times = {"queue_us": S, "cold_us": S, "first_byte_us": S, "idle_us": S, "total_us": 9 * S}
            spent = {"code": "BudgetExhausted", "message": "no money"}
            chat = Route(
                job_id="job_1", name="chat", api="openai", target=8, replicas={}, fallback="small",
                refused=spent, **times,
            )  # fmt: skip
            small = Route(job_id="job_2", name="small", api="openai", target=8, replicas=site.ports, **times)
            site.core.learn([chat, small], {hashlib.sha256(b"bsk_a").hexdigest(): key}, site.clock)
            r = await site.client.post(site.url + "/v1/chat/completions", data=b"{}")
            assert (r.status, r.headers["x-bursar-degraded"]) == (200, "small")
            r = await site.client.post(
                site.url.replace("/chat", "/small") + "/v1/chat/completions", data=b"{}"
            )
            assert r.status == 404, "the key itself opens no other service"
            site.meter.roll(site.clock)
            (minute,) = [one for one in site.meter.kept().open if one.uses]
            assert minute.job_id == "job_2"
            assert minute.uses["key_1"].tokens_in == USAGE["prompt_tokens"]

    play(story)


def test_units_are_counted_where_the_answer_says_them_and_are_unknown_where_it_does_not() -> None:
    async def story() -> None:
        async with Site(Replica(), api="http", units="/usage/prompt_tokens") as site:
            await site.client.post(site.url + "/predict", data=b"{}")
            used = site.used()
            assert (used.tokens_in, used.tokens_out, used.counted, used.estimated) == (0, 7, 1, 0)
        async with Site(Replica(), api="http", units="/other") as site:
            await site.client.post(site.url + "/predict", data=b"a long text")
            used = site.used()
            assert (used.tokens_in, used.tokens_out, used.counted, used.estimated) == (0, 0, 0, 1)

    play(story)


def test_requests_of_one_session_find_the_replica_that_had_the_last() -> None:
    async def story() -> None:
        async with Site(Replica(), Replica(), Replica(), session_header="x-session-id") as site:
            for person in range(12):
                asked = [
                    await site.client.get(site.url + "/", headers={"X-Session-Id": str(person)})
                    for _ in range(3)
                ]
                assert len({one.headers["x-bursar-replica"] for one in asked}) == 1
            assert sum(1 for one in site.replicas if one.asked) > 1

    play(story)
