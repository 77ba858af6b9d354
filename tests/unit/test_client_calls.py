"""What a client does with identity, errors, pages, streams and lost servers, against a fake server."""

import asyncio
import contextlib
import gc
import socket
import threading
import time

import pytest

from bursar import errors
from bursar.client import AsyncWireClient, WireClient, address, link
from bursar.client.fake import FakeServer
from bursar.model import JobSpec
from bursar.v1 import events_pb2, jobs_pb2, types_pb2


@pytest.fixture
def fake(tmp_path):
    with FakeServer(tmp_path / "run") as server:
        yield server


@pytest.fixture
def client(fake):
    with WireClient(fake.url) as made:
        yield made


def test_identity_is_fetched_once_and_sent_with_every_call(fake, client):
    fake.answers["Jobs/Get"] = types_pb2.Job(id="job_1")
    assert client.get("1").id == "job_1"
    assert client.get("last").id == "job_1"
    assert fake.tokens_given == 1
    assert [request.job for request in fake.calls("Jobs/Get")] == ["1", "last"]


def test_token_is_renewed_before_it_runs_out(fake, client):
    fake.expires_s = 0.0
    client.get("1")
    client.get("1")
    assert fake.tokens_given == 2


@pytest.mark.parametrize(("expires_s", "fetches"), [(300.0, 1), (0.0, 3)])
def test_async_client_leaves_its_loop_only_to_fetch_a_token(fake, monkeypatch, expires_s, fetches):
    fake.expires_s = expires_s
    left = []
    to_thread = asyncio.to_thread

    async def counted(work):
        left.append(work)
        return await to_thread(work)

    async def story():
        async with AsyncWireClient(fake.url) as client:
            for _ in range(3):
                await client.get("1")

    monkeypatch.setattr(asyncio, "to_thread", counted)
    asyncio.run(story())
    assert (len(left), fake.tokens_given) == (fetches, fetches)
    assert len(fake.calls("Jobs/Get")) == 3


def test_call_is_repeated_once_after_the_daemon_forgot_the_token(fake, client):
    client.get("1")
    fake.forget_tokens()
    client.get("1")
    assert len(fake.calls("Jobs/Get")) == 2


@pytest.mark.parametrize("call", ["submit_many", "watch"])
def test_a_stream_to_a_daemon_that_was_started_again_has_a_new_token(fake, client, call):
    def answers():
        if call == "submit_many":
            return list(client.submit_many([JobSpec(command=("true",))]))
        return list(client.watch(["1"]))

    fake.answers["Jobs/Watch"] = [types_pb2.Job(id="job_1")]
    assert len(answers()) == 1
    fake.__exit__()
    fake.forget_tokens()
    fake.__enter__()
    found, deadline = [], time.monotonic() + 120
    while not found:  # the channel takes a moment to find the new socket
        with contextlib.suppress(errors.ServerUnavailable):
            found = answers()
        assert time.monotonic() < deadline
    assert len(found) == 1
    assert fake.tokens_given == 3  # the first, what the restart forgot, and one for all calls since


def test_a_stream_that_began_as_the_daemon_was_started_again_is_one_to_repeat(fake, client):
    assert len(list(client.submit_many([JobSpec(command=("true",))]))) == 1
    fake.forget_tokens()  # behind the token's back: the socket is the same
    with pytest.raises(errors.ServerUnavailable, match=r"was started again as this call began.*call again"):
        list(client.submit_many([JobSpec(command=("true",))]))
    assert len(fake.calls("Jobs/SubmitMany")) == 1
    assert len(list(client.submit_many([JobSpec(command=("true",))]))) == 1


def test_a_token_of_the_caller_that_is_not_known_stays_unauthenticated(fake):
    with (
        WireClient(fake.url, token="mine") as made,
        pytest.raises(errors.Unauthenticated),
    ):
        list(made.watch(["1"]))


def test_a_stream_that_ends_in_the_middle_for_want_of_rights_says_so(fake, client):
    def one_and_no_more(request):
        yield types_pb2.Job(id="job_1")
        raise errors.Unauthenticated("your token has ended")

    fake.answers["Jobs/Watch"] = one_and_no_more
    with pytest.raises(errors.Unauthenticated, match="your token has ended"):
        list(client.watch(["1"]))


@pytest.mark.parametrize(
    "error",
    [
        errors.BudgetExceeded("too dear", {"limit": "5 USD", "needed": "7 USD"}),
        errors.NotFound("no job 9"),
        errors.KeyConflict("another body"),
        errors.PolicyInvalid("line 3"),
        errors.NotBuilt("later"),
        errors.WrongState("it has ended"),
        errors.RateLimited("slower"),
        errors.StaleVersion("changed"),
        errors.Forbidden("not yours"),
        errors.StoreUnavailable("disk full"),
    ],
    ids=lambda error: error.reason,
)
def test_refusal_comes_back_as_its_own_class_with_facts(fake, client, error):
    fake.answers["Jobs/Get"] = error
    with pytest.raises(type(error)) as raised:
        client.get("9")
    assert raised.value.message == error.message
    assert raised.value.facts == error.facts
    assert raised.value.exit_code == error.exit_code


def test_unknown_reason_falls_back_on_the_status(fake, client):
    class Newer(errors.NotFound):
        reason = "FromTheFuture"

    fake.answers["Jobs/Get"] = Newer("gone")
    del Newer
    gc.collect()  # by_reason walks living subclasses
    fake.answers["Jobs/Get"].__class__.reason = "FromTheFuture"
    with pytest.raises(errors.BursarError) as raised:
        client.get("9")
    assert raised.value.exit_code == 4


def test_missing_server_is_unavailable_with_a_remedy(tmp_path):
    with (
        WireClient(f"unix://{tmp_path}/nobody.sock") as client,
        pytest.raises(errors.ServerUnavailable) as raised,
    ):
        client.get("1")
    assert "bursar up" in raised.value.message
    assert "no such socket" in raised.value.message
    assert raised.value.exit_code == 5


def test_list_fetches_page_after_page_until_the_limit(fake, client):
    def page(request):
        start = int(request.page_token or 0)
        jobs = [types_pb2.Job(number=i) for i in range(start, start + request.page_size)]
        return jobs_pb2.ListJobsResponse(jobs=jobs, next_page_token=str(start + request.page_size))

    fake.answers["Jobs/List"] = page
    numbers = [job.number for job in client.list(limit=1200, project="nlp")]
    assert numbers == list(range(1200))
    assert [request.page_size for request in fake.calls("Jobs/List")] == [500, 500, 200]
    assert {request.project for request in fake.calls("Jobs/List")} == {"nlp"}


def test_list_ends_with_the_last_page(fake, client):
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[types_pb2.Job(number=1)])
    assert [job.number for job in client.list()] == [1]


def test_submit_many_answers_in_order_and_carries_keys(fake, client):
    numbers = iter(range(100))
    fake.answers["Jobs/SubmitMany"] = lambda request: jobs_pb2.SubmitResponse(
        job=types_pb2.Job(number=next(numbers), id=request.idempotency_key)
    )
    specs = [(JobSpec(name=f"j{i}", command=("true",)), f"k{i}") for i in range(5)]
    answers = list(client.submit_many(specs))
    assert [answer.job.id for answer in answers] == ["k0", "k1", "k2", "k3", "k4"]
    assert all(request.terse for request in fake.calls("Jobs/SubmitMany"))


def test_submit_with_a_key_outlives_a_restart_of_the_server(tmp_path):
    """1. The server is gone. 2. It comes back. 3. The same submit goes through."""
    import threading

    fake = FakeServer(tmp_path / "run")
    fake.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=types_pb2.Job(id="job_1"))
    timer = threading.Timer(0.3, fake.__enter__)
    timer.start()
    try:
        with WireClient(fake.url) as client:
            answer = client.submit(JobSpec(command=("true",)), idempotency_key="k")
        assert answer.job.id == "job_1"
    finally:
        timer.join()
        fake.__exit__()


def test_first_call_waits_for_a_socket_whose_daemon_restarts(tmp_path):
    """1. A killed daemon left its socket. 2. The next one listens. 3. The waiting call goes through."""
    import threading

    fake = FakeServer(tmp_path / "run")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(fake.socket))

    def restart():
        fake.socket.unlink()
        fake.__enter__()

    with WireClient(fake.url) as hasty, pytest.raises(errors.ServerUnavailable):
        hasty.get("1")
    timer = threading.Timer(0.2, restart)
    timer.start()
    try:
        with WireClient(fake.url, patience_s=10) as client:
            client.get("1")
        assert len(fake.calls("Jobs/Get")) == 1
    finally:
        timer.join()
        fake.__exit__()


def test_too_long_a_key_is_refused_before_it_is_sent(fake, client):
    with pytest.raises(errors.InvalidRequest, match="200"):
        client.submit(JobSpec(command=("true",)), idempotency_key="k" * 201)
    assert not fake.requests


def test_request_beyond_a_megabyte_is_refused_as_too_large(client):
    with pytest.raises(errors.InvalidRequest, match="too large"):
        client.apply_policies([("a.yaml", "#" * 2_000_000)])


def test_wait_returns_the_last_state_of_each_job(fake, client):
    fake.answers["Jobs/Watch"] = [
        types_pb2.Job(id="a", state="RUNNING"),
        types_pb2.Job(id="b", state="FAILED"),
        types_pb2.Job(id="a", state="SUCCEEDED"),
    ]
    seen = []
    ended = client.wait(["1", "2"], seen=lambda job: seen.append((job.id, job.state)))
    assert {job.id: job.state for job in ended.values()} == {"a": "SUCCEEDED", "b": "FAILED"}
    assert seen == [("a", "RUNNING"), ("b", "FAILED"), ("a", "SUCCEEDED")]


def test_wait_goes_on_when_the_watch_breaks(fake, client):
    """1. The watch ends early, as at a restart. 2. A second one, by id, sees the end."""
    rounds = iter(
        [
            [types_pb2.Job(id="a", state="RUNNING")],
            [types_pb2.Job(id="a", state="SUCCEEDED")],
        ]
    )
    fake.answers["Jobs/Watch"] = lambda request: next(rounds)
    assert client.wait(["last"])["a"].state == "SUCCEEDED"
    assert [list(r.jobs) for r in fake.calls("Jobs/Watch")] == [["last"], ["a"]]


def test_wait_takes_more_jobs_than_one_watch_names(fake, client):
    fake.answers["Jobs/Watch"] = lambda r: [types_pb2.Job(id=j, state="SUCCEEDED") for j in r.jobs]
    assert len(client.wait([str(i) for i in range(2500)])) == 2500
    assert [len(r.jobs) for r in fake.calls("Jobs/Watch")] == [1000, 1000, 500]


def test_wait_ends_at_its_timeout(fake, client):
    done = threading.Event()

    def never(_):
        yield types_pb2.Job(id="a", number=7, state="RUNNING")
        done.wait()

    fake.answers["Jobs/Watch"] = never
    with pytest.raises(TimeoutError, match="job 7 has not ended in the time given: it is RUNNING"):
        client.wait(["a"], timeout_s=0.2)
    done.set()


@pytest.mark.parametrize("timeout_s", [0, -1, 1e-9])
def test_wait_that_has_no_time_asks_once(timeout_s, fake, client):
    done = threading.Event()
    states = {"1": "SUCCEEDED", "2": "FAILED", "3": "RUNNING", "4": "PENDING"}
    fake.answers["Jobs/Watch"] = lambda _: done.wait(20) and []
    fake.answers["Jobs/Get"] = lambda request: types_pb2.Job(
        id=f"job_{request.job}", number=int(request.job), state=states[request.job]
    )
    seen = []
    ended = client.wait(["1", "2"], timeout_s=timeout_s, seen=lambda job: seen.append(job.number))
    assert {job.number: job.state for job in ended.values()} == {1: "SUCCEEDED", 2: "FAILED"}
    assert seen == [1, 2]
    with pytest.raises(TimeoutError, match=r"2 of 3 jobs have not ended .*: 3 RUNNING, 4 PENDING$"):
        client.wait(["1", "3", "4"], timeout_s=timeout_s)
    done.set()


def test_a_long_wait_in_vain_names_a_few_tasks():
    tasks = [types_pb2.Job(number=9, parent_id="job_p", array_index=i, state="RUNNING") for i in range(7)]
    assert str(link.not_ended(tasks)).endswith(
        "7 of 7 jobs have not ended in the time given: "
        "9[0] RUNNING, 9[1] RUNNING, 9[2] RUNNING, 9[3] RUNNING, 9[4] RUNNING, ..."
    )


def test_wait_for_an_unknown_job_fails_at_once(fake, client):
    fake.answers["Jobs/Watch"] = errors.NotFound("no job 9")
    with pytest.raises(errors.NotFound):
        client.wait(["9"])


def test_long_socket_path_is_reached(tmp_path, monkeypatch):
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    short = tmp_path / "s"
    short.symlink_to(folder)
    with FakeServer(short) as fake:
        url = f"unix://{folder}/bursar.sock"
        assert len(url) > 120
        with WireClient(url) as client:
            client.get("1")
        assert fake.tokens_given == 1
        assert address.probe(folder / "bursar.sock")


def test_async_client_calls_streams_and_maps_errors(fake):
    fake.answers["Jobs/Watch"] = [types_pb2.Job(id="a", state="RUNNING")]
    fake.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=types_pb2.Job(id="job_1"))
    fake.answers["Jobs/Explain"] = errors.NotFound("no job")
    fake.answers["Events/Server"] = events_pb2.ServerResponse(ready=True)
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[types_pb2.Job(number=1)])

    async def use():
        async with AsyncWireClient(fake.url) as client:
            assert (await client.submit(JobSpec(command=("true",)))).job.id == "job_1"
            assert [job.id async for job in client.watch(["a"])] == ["a"]
            assert [job.number async for job in client.list()] == [1]
            assert (await client.server()).ready
            with pytest.raises(errors.NotFound):
                await client.explain("9")

    asyncio.run(use())


def test_async_client_waits_and_waits_for_a_restarting_daemon_as_the_other_does(fake):
    rounds = iter([[types_pb2.Job(id="a", state="RUNNING")], [types_pb2.Job(id="a", state="FAILED")]])
    fake.answers["Jobs/Watch"] = lambda request: next(rounds)

    async def use():
        async with AsyncWireClient(fake.url, patience_s=10) as client:
            return await client.wait(["last"])

    assert asyncio.run(use())["a"].state == "FAILED"
    assert [list(r.jobs) for r in fake.calls("Jobs/Watch")] == [["last"], ["a"]]


def test_a_user_whom_the_daemon_gives_no_token_is_told_why_and_may_ask_again(fake, monkeypatch):
    """Who has no role is not told that a token is lacking, but what to ask an administrator for."""
    said = "nobody has no role here; ask an administrator for `bursar grant`"
    real, answers = link.json.loads, [{"error": said}]
    monkeypatch.setattr(link.json, "loads", lambda data: answers.pop() if answers else real(data))
    with WireClient(fake.url) as made:
        with pytest.raises(errors.Unauthenticated) as refused:
            made.nodes()
        assert refused.value.message == said
        assert fake.requests == []
        assert made.nodes() == []
