"""Events for people are sentences without metering; for programs they are whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from bursar.cli.happenings import METERING, SENTENCES, sentence
from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import events_pb2
from bursard.events import Event

AT = 1_795_233_600_000_000

NAMES = {"job_1": "7", "att_1": "attempt 1 of job 7", "node_0": "rack-1"}


def told(kind: str, actor: str = "ann", subject: str = "", **data: Any) -> str:
    event = {"kind": kind, "actor": actor, "subject": subject, "names": NAMES, "data": {"type": kind, **data}}
    return sentence(event)


def test_every_kind_of_event_has_its_sentence() -> None:
    assert set(SENTENCES) == {kind.__struct_config__.tag for kind in get_args(Event)}
    for kind in SENTENCES:
        assert "{" not in told(kind)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            told("job-submitted", job_id="job_1", number=7, user="ann", spec={"name": "t", "project": "nlp"}),
            "ann submitted job 7 't' to nlp",
        ),
        (
            told("job-submitted", job_id="job_1", number=7, user="ann", spec={}),
            "ann submitted job 7 to default",
        ),
        (
            told(
                "attempt-placed", job_id="job_1", attempt_id="att_1", why="cheapest",
                members=[{"node_id": f"node_{n}"} for n in range(6)],
            ),
            "attempt 1 of job 7 was placed on node_1, node_2, node_3, node_4 and 2 more nodes, cheapest",
        ),
        (
            told("member-ended", attempt_id="att_1", rank=2, report={"cause": "failed", "exit_code": 3}),
            "rank 2 of attempt 1 of job 7 ended: failed, exit code 3",
        ),
        (
            told("member-ended", attempt_id="a", report={"cause": "x", "signal": 9, "held_us": 61_000_000}),
            "rank 0 of attempt a ended: x, signal 9, after 1m01s",
        ),
        (
            told("attempt-ended", attempt_id="a", cause="failed", exit_code=3),
            "attempt a ended: failed (exit code 3)",
        ),
        (
            told(
                "attempt-ended", attempt_id="a", cause="failed", exit_code=126,
                message="working directory /x",
            ),
            "attempt a ended: bad working directory: the job could not be started: working directory /x",
        ),
        (
            told("attempt-ended", attempt_id="a", cause="failed", exit_code=126, message="working directory"),
            "attempt a ended: no working directory",
        ),
        (
            told("attempt-ended", attempt_id="a", cause="failed", exit_code=139, requeue=True),
            "attempt a ended: signal 11 (SIGSEGV); the job goes back to the queue",
        ),
        (
            told(
                "member-ended", attempt_id="a", rank=1,
                report={"cause": "failed", "exit_code": 126, "message": "working directory /x: not there"},
            ),
            "rank 1 of attempt a ended: no working directory",
        ),
        (
            told("member-ended", attempt_id="a", report={"cause": "failed", "exit_code": 139, "signal": 11}),
            "rank 0 of attempt a ended: signal 11 (SIGSEGV)",
        ),
        (
            told("member-started", attempt_id="a"),
            "rank 0 of attempt a was over before it was seen to run",
        ),
        (
            told("attempt-ended", attempt_id="a", cause="node_lost", requeue=True),
            "attempt a ended: node_lost; the job goes back to the queue",
        ),
        (told("job-ended", job_id="j", state="FAILED", message="no"), "job j ended FAILED: no"),
        (told("node-scheduling", actor="oz", node_id="n", mode="drain"), "oz set node n to drain"),
        (told("role-granted", actor="r", user="u", role="viewer"), "r made u viewer of the whole site"),
        (
            told("threshold-crossed", budget="b", at_ppm=800_000, on="settled", settled_nanos=8 * 10**9),
            "budget b passed 80 % of its limit (settled 8.000000000)",
        ),
        *(
            (
                told(
                    "threshold-crossed",
                    budget="b",
                    at_ppm=500_000,
                    on=on,
                    settled_nanos=5 * 10**9,
                    held_nanos=7,
                ),
                f"budget b passed 50 % of its limit ({on} {reached})",
            )
            for on, reached in (("settled", "5.000000000"), ("settled+held", "5.000000007"))
        ),
        (
            told("budget-granted", actor="fin", budget="b", nanos=5 * 10**9, reason="paper"),
            "fin granted 5.000000000 to budget b: paper",
        ),
        (
            told("budget-granted", actor="fin", budget="b", nanos=-(10**9), reason="typing error"),
            "fin took back 1.000000000 from budget b: typing error",
        ),
        (
            told("budget-transferred", actor="fin", budget="b", to="c", nanos=10**9, reason="agreed"),
            "fin transferred 1.000000000 from budget b to c: agreed",
        ),
        *(
            (
                told("rest-carried", budget="b", nanos=nanos, reason="20 % of what was left"),
                f"2.000000000 of budget b {went} its next period: 20 % of what was left",
            )
            for nanos, went in ((2 * 10**9, "went on into"), (-2 * 10**9, "came back from"))
        ),
        (
            told("policy-applied", documents=[{"kind": "Quota", "name": f"q{n}"} for n in range(6)]),
            "ann applied Quota q0, Quota q1, Quota q2, Quota q3, Quota q4 and 1 more",
        ),
        (told("a-newer-kind", subject="s", x=1), 'a-newer-kind s {"type": "a-newer-kind", "x": 1}'),
    ],
)  # fmt: skip
def test_it_says_what_happened_to_whom(said: str, expected: str) -> None:
    assert said == expected


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers["Events/List"] = [
            events_pb2.Event(
                seq=seq, at=AT, kind=kind, actor="ann", subject="s", json=json.dumps({"job_id": f"j{seq}"})
            )
            for seq, kind in enumerate([*["job-held", METERING] * 3, "job-held"], 1)
        ]
        yield server


def test_people_read_sentences_without_metering(fake: FakeServer, capsys: Any) -> None:
    assert run(["events", "--tail", "2"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["SEQ", "AT", "WHAT"]
    assert [line.split("Z  ")[1] for line in lines] == ["ann put job j5 on hold", "ann put job j7 on hold"]


def test_metering_is_shown_to_who_asks_for_it(fake: FakeServer, capsys: Any) -> None:
    assert run(["events", "--kind", METERING]) == 0
    assert "was metered" in capsys.readouterr().out
    [request] = fake.calls("Events/List")
    assert (list(request.kinds), request.tail) == ([METERING], 50)


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "yaml"])
def test_programs_have_every_event(fake: FakeServer, form: str, capsys: Any) -> None:
    assert run(["events", "-o", form]) == 0
    assert capsys.readouterr().out.count(METERING) == 3
    assert fake.calls("Events/List")[0].tail == 50


def test_following_says_sentences_as_they_come(fake: FakeServer, capsys: Any) -> None:
    assert run(["events", "-f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "1 2026-11-21 04:00:00Z ann put job j1 on hold"
