"""What a column says to a program is what its name says, with the unit, in every table of every verb."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bursar.cli
from bursar.cli import (
    advice,
    budget,
    cloud,
    cluster,
    forecast,
    jobs,
    ledger,
    login,
    money,
    output,
    period,
    policy,
    prices,
    profile,
    reconcile,
    reserve,
    rights,
    services,
    submit,
    texts,
    web,
)
from bursar.cli.output import Column, Output, table_text
from bursar.clock import SystemClock
from bursar.codec import view
from bursar.codec.books import book_period
from bursar.model import EndCause, EndFacts, ReasonCode, sentence_of
from bursar.tables import wrapped
from bursar.v1 import access_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2, types_pb2

AT = 1_795_233_600_000_000
NARROW = Path(__file__).parents[1] / "golden/narrow.txt"
"""Every table on terminals of several widths: what is wrapped, cut and left out."""
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT")
_OF_TIME = re.compile(r"(_at|_end|_start|_from|_until|^at)$")


def filled(kind: type, **given: Any) -> Any:
    """A message with something in every field, messages within included."""
    message = kind(**given)
    for field in message.DESCRIPTOR.fields:
        if field.name in given or field.message_type is not None:
            continue
        is_time = field.type == field.TYPE_INT64 and _OF_TIME.search(field.name)
        value: Any = {
            field.CPPTYPE_STRING: field.name if field.type == field.TYPE_STRING else b"x",
            field.CPPTYPE_BOOL: True,
            field.CPPTYPE_DOUBLE: 0.5,
        }.get(field.cpp_type, AT if is_time else 1_500_000)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


def job(**fields: Any) -> types_pb2.Job:
    member = filled(types_pb2.Member)
    attempt = filled(types_pb2.Attempt, members=[member], started_at=AT, finished_at=AT + 1_250_000)
    return filled(
        types_pb2.Job,
        attempts=[attempt],
        currency="USD",
        spec=filled(types_pb2.JobSpec),
        started_at=AT,
        finished_at=AT + 1_250_000,
        **fields,
    )


def node() -> types_pb2.Node:
    device = filled(types_pb2.Device, index=0)
    free = types_pb2.DeviceShare(index=0, milli=500)
    return filled(types_pb2.Node, facts=filled(types_pb2.NodeFacts, devices=[device]), devices_free=[free])


_POINT = jobs_pb2.ProfilePoint(
    at=1, cpu_cores=1, memory_used_bytes=7, gpu_utilization_ratio=1, sm_ratio=0.5, tensor_ratio=0.25,
    gpu_memory_used_bytes=9, gpu_power_watts=300,
)  # fmt: skip
_POINTS = jobs_pb2.ProfileResponse(members=[jobs_pb2.ProfileMember(node="gpu-1", gpus=1, points=[_POINT])])
NODE_ROW = view.node(node())
BY = money.DIMENSIONS
RECONCILED = {
    "resource": "node-1", "hour_start": "2026-11-01T00:00:00Z", "state": "matched", "hours": 1,
    "estimate": {"amount": "1.000000000", "currency": "USD"}, "final": None,
    "variance": {"amount": "-1.000000000", "currency": "USD"},
}  # fmt: skip
EXPLAINED_JOB = jobs_pb2.ExplainResponse(budgets=[filled(jobs_pb2.BudgetAfter)])
EXPLAINED = filled(money_pb2.PriceExplanation)
ROWS: dict[str, tuple[tuple[Column, ...], dict[str, Any]]] = {
    "jobs.JOB_COLUMNS": (jobs.JOB_COLUMNS, view.job(job(state="RUNNING"))),
    "cluster.NODE_COLUMNS": (cluster.NODE_COLUMNS, NODE_ROW),
    "cluster.TOKEN_COLUMNS": (cluster.TOKEN_COLUMNS, view.known_token(filled(nodes_pb2.NodeToken))),
    "cluster.FINDING_COLUMNS": (
        cluster.FINDING_COLUMNS,
        {"check": "books tie", "ok": True, "message": "every hour of " + "each node " * 9, "remedy": ""},
    ),
    "cluster.PRICE_COLUMNS": (cluster.PRICE_COLUMNS, view.price(filled(money_pb2.Price))),
    "cluster.JOB_OFFER_COLUMNS": (cluster.JOB_OFFER_COLUMNS, view.price(filled(money_pb2.Price))),
    "cluster.TOP_COLUMNS": (cluster.TOP_COLUMNS, {**NODE_ROW, "sample": view.sample(types_pb2.Sample())}),
    "budget.BUDGET_COLUMNS": (budget.BUDGET_COLUMNS, view.budget(filled(money_pb2.Budget))),
    "budget.HISTORY_COLUMNS": (budget.HISTORY_COLUMNS, view.budget(filled(money_pb2.Budget))),
    "forecast.FORECAST_COLUMNS": (
        forecast.FORECAST_COLUMNS,
        forecast.forecast_row(
            view.budget(money_pb2.Budget(name="b", forecast=filled(money_pb2.BudgetForecast)))
        ),
    ),
    "advice.COLUMNS": (advice.COLUMNS, advice.row_of(advice.Finding("f", "e", 1, None, "a", "c"), "USD")),
    "web.URL_COLUMNS": (
        web.URL_COLUMNS,
        {"url": "http://h/login?link=w", "expires_at": "2026-11-28T15:44:02Z"},
    ),
    "profile.PROFILE_COLUMNS": (
        profile.PROFILE_COLUMNS,
        {**view.profile(_POINTS)["rows"][0], "at": "2026-11-28T15:44:00Z"},
    ),
    "profile.SUMMARY_COLUMNS": (profile.SUMMARY_COLUMNS, profile.summary(view.profile(_POINTS))[0]),
    "login.COLUMNS": (
        login.COLUMNS,
        {"server": "grpcs://h:7443", "user": "u", "role": "viewer", "ends_at": "2026-11-28T15:44:02Z"},
    ),
    "reserve.RESERVATION_COLUMNS": (
        reserve.RESERVATION_COLUMNS,
        view.reservation(filled(nodes_pb2.Reservation)),
    ),
    "cloud.MACHINE_COLUMNS": (cloud.MACHINE_COLUMNS, view.machine(filled(nodes_pb2.Machine))),
    "cloud.CHECK_COLUMNS": (cloud.CHECK_COLUMNS, view.cloud_check(filled(nodes_pb2.CloudCheck))),
    "prices.PRICE_HISTORY_COLUMNS": (prices.PRICE_HISTORY_COLUMNS, view.price(filled(money_pb2.Price))),
    "reconcile.RECONCILED_COLUMNS": (reconcile.RECONCILED_COLUMNS, RECONCILED),
    "prices.EXPLAIN_COLUMNS": (
        prices.EXPLAIN_COLUMNS,
        {"name": "n1", "means": "what jobs pay", **view.price_explanation(EXPLAINED)["rates"][0]},
    ),
    "money.cost_columns": (
        money.cost_columns(list(BY)),
        view.cost_row(filled(money_pb2.CostRow, keys=[f"a {name}" for name in BY]), BY, "USD"),
    ),
    "period.PERIOD_COLUMNS": (period.PERIOD_COLUMNS, book_period(filled(money_pb2.BookPeriod))),
    "ledger.RETAG_COLUMNS": (ledger.RETAG_COLUMNS, view.correction(filled(money_pb2.CorrectResponse))),
    "ledger.CORRECTION_COLUMNS": (
        ledger.CORRECTION_COLUMNS,
        view.correction(filled(money_pb2.CorrectResponse)),
    ),
    "policy.POLICY_COLUMNS": (policy.POLICY_COLUMNS, view.policy(filled(money_pb2.Policy))),
    "rights.GRANT_COLUMNS": (rights.GRANT_COLUMNS, view.grant(filled(access_pb2.RoleGrant))),
    "rights.SECRET_COLUMNS": (rights.SECRET_COLUMNS, view.secret(filled(access_pb2.Secret))),
    "services.SERVICE_COLUMNS": (
        services.SERVICE_COLUMNS,
        services.shown(view.service(filled(services_pb2.Service))),
    ),
    "services.REPLICA_COLUMNS": (
        services.REPLICA_COLUMNS,
        view.service(filled(services_pb2.Service, replicas=[filled(services_pb2.Replica)]))["replicas"][0],
    ),
    "services.KEY_COLUMNS": (services.KEY_COLUMNS, view.service_key(filled(services_pb2.ServiceKey))),
    "submit.PLAN_COLUMNS": (submit.PLAN_COLUMNS, view.plan(filled(jobs_pb2.PlanResponse))),
    "texts.ATTEMPT_COLUMNS": (
        texts.ATTEMPT_COLUMNS,
        {**view.attempt(filled(types_pb2.Attempt), "USD"), "where": "n1"},
    ),
    "texts.BUDGET_NOW": (texts.BUDGET_NOW, view.explain(EXPLAINED_JOB)["budgets"][0]),
}
LOCAL = {"backup", "misc", "local"}
"""Tables of what this machine says, not a server: their rows are made by the verbs themselves."""


def text_of(columns: tuple[Column, ...], name: str, row: dict[str, Any]) -> str:
    [column] = [one for one in columns if one.name == name]
    assert column.show is not None
    return column.show(row)


def test_why_a_job_ended_is_told_in_words_to_people_and_as_its_cause_to_programs() -> None:
    row = {**view.job(job(state="FAILED")), "array": None, "attempts": [{"end_cause": "start_failed"}]}
    assert text_of(jobs.JOB_COLUMNS, "why", row) == "start failed"
    [column] = [one for one in jobs.JOB_COLUMNS if one.name == "why"]
    assert column.of(row) == "start_failed"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"cause": EndCause.FAILED, "exit_code": 139, "signal": 11}, "SIGSEGV"),
        ({"cause": EndCause.FAILED, "exit_code": 139}, "SIGSEGV"),
        ({"cause": EndCause.FAILED, "exit_code": 163, "signal": 35}, "signal 35"),
        ({"cause": EndCause.FAILED, "exit_code": 127}, "command not found"),
        ({"cause": EndCause.FAILED, "exit_code": 126}, "not executable"),
        (
            {"cause": EndCause.FAILED, "exit_code": 126, "detail": "working directory /x"},
            "bad working directory",
        ),
        ({"cause": EndCause.FAILED, "exit_code": 3, "detail": "setup 1"}, "setup failed"),
        ({"cause": EndCause.FAILED, "exit_code": 3}, "exit code 3"),
        ({"cause": EndCause.FAILED}, "failed"),
        ({"cause": EndCause.START_FAILED, "detail": "no account a"}, "no account"),
        ({"cause": EndCause.START_FAILED, "detail": "x"}, "start failed"),
        ({"cause": EndCause.TIME_LIMIT, "exit_code": 143}, "time limit"),
    ],
)
def test_a_list_says_in_a_few_words_what_a_job_ended_of(end: dict[str, Any], words: str) -> None:
    facts = EndFacts(job="1", **end)
    code = facts.exit_code if facts.exit_code >= 0 else None
    told = {"cause": facts.cause.value, "exit_code": code, "message": sentence_of(facts)}
    attempts = [{"end_cause": facts.cause.value}]
    row = {**view.job(job(state="FAILED")), "array": None, "end": told, "attempts": attempts}
    assert text_of(jobs.JOB_COLUMNS, "why", row) == words
    [column] = [one for one in jobs.JOB_COLUMNS if one.name == "why"]
    assert column.of(row) == facts.cause.value


@pytest.mark.parametrize(
    ("kind", "pool", "text"), [("p5", "", "p5"), ("p5", "a", "p5"), ("", "dgx", "pool dgx"), ("", "", "-")]
)
def test_a_price_of_ones_own_machines_is_told_by_their_pool(kind: str, pool: str, text: str) -> None:
    row = view.price(filled(money_pb2.Price, instance_type=kind, pool=pool))
    assert text_of(cluster.PRICE_COLUMNS, "instance_type", row) == text


def tables() -> Iterator[str]:
    """Every table that the verbs have."""
    for module in pkgutil.iter_modules(bursar.cli.__path__):
        if module.name in LOCAL:
            continue
        found = vars(importlib.import_module(f"bursar.cli.{module.name}"))
        for name, value in found.items():
            own = isinstance(value, tuple) and value and all(isinstance(each, Column) for each in value)
            if own and not any(value is columns for columns, _ in ROWS.values()):
                yield f"{module.name}.{name}"


def test_every_table_is_held_by_these_tests() -> None:
    # Of events: tests/unit/test_cli_events.py.
    assert set(tables()) == {"cluster.EVENT_COLUMNS", "cluster.SENTENCE_COLUMNS"}


def cells(columns: tuple[Column, ...], row: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Any:
    output.emit([row], columns, Output(format="csv"))
    [found] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    return found


@pytest.mark.parametrize("table", ROWS)
def test_a_csv_cell_is_what_its_title_says(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    for title, cell in cells(*ROWS[table], capsys).items():
        about = f"{table}: {title} {cell}"
        assert bool(_INSTANT.match(cell)) == bool(_OF_TIME.search(title)), about
        if title.endswith(("_s", "_per_hour", "_per_gpu_hour", "cost")):
            float(cell)
        if title.endswith("_bytes"):
            int(cell)
        assert not cell.startswith(("{", "[")), about


@pytest.mark.parametrize("table", ROWS)
def test_picked_json_has_the_names_and_values_of_csv(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns, row = ROWS[table]
    titles = [title for title in cells(columns, row, capsys) if title != "currency"]
    names = tuple(column.name for column in columns)
    output.emit([row], columns, Output(format="json", columns=names))
    [picked] = json.loads(capsys.readouterr().out)
    assert [name for name in picked if name != "currency"] == titles


def test_elapsed_is_seconds_and_sorts_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    long = {**view.job(job(number=1, state="SUCCEEDED")), "elapsed_s": 1.25}
    short = {**long, "number": 2, "elapsed_s": 0}
    output.emit([long, short], jobs.JOB_COLUMNS, Output(format="csv", sort_by="elapsed"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["number"], row["elapsed_s"]) for row in rows] == [("2", "0.00"), ("1", "1.25")]


def test_a_list_and_show_tell_the_elapsed_time_of_the_job_and_of_each_attempt() -> None:
    row = {**view.job(job(number=1, state="SUCCEEDED")), "elapsed_s": 0.009}
    [attempt] = row["attempts"]
    row["attempts"] = [{**attempt, "elapsed_s": 0.007}]
    [elapsed] = [column for column in jobs.JOB_COLUMNS if column.name == "elapsed"]
    assert (elapsed.of(row), elapsed.show and elapsed.show(row)) == (0.009, "9ms")
    text = texts.job_text(row)
    assert re.search(r"^  elapsed +9ms$", text, re.MULTILINE)
    assert re.search(r"ELAPSED.*\n.* 7ms ", text)
    twice = texts.job_text({**row, "attempts": [attempt, attempt]})
    assert re.search(r"^  elapsed +9ms, all attempts together$", twice, re.MULTILINE)
    assert "elapsed  " not in texts.job_text({**row, "elapsed_s": None})


def test_a_job_that_has_not_begun_has_no_elapsed_time(capsys: pytest.CaptureFixture[str]) -> None:
    row = {**view.job(job(state="PENDING")), "started_at": None, "elapsed_s": None, "attempts": []}
    found = cells(jobs.JOB_COLUMNS, row, capsys)
    assert (found["elapsed_s"], found["where"]) == ("", "")


def test_a_column_keeps_one_number_of_decimals() -> None:
    amounts = ["1234.500000000", "0.001200000", "0.000000000"]
    rows = [{"cost": {"amount": amount, "currency": "USD"}} for amount in amounts]
    lines = table_text(rows, (Column("cost", right=True),), None).splitlines()
    assert [line.strip() for line in lines[1:]] == ["1,234.500000 USD", "0.001200 USD", "0.000000 USD"]
    cpus = table_text([{"cpus": 16}, {"cpus": 0.5}, {"cpus": None}], (Column("cpus"),), None)
    assert cpus.split() == ["CPUS", "16.0", "0.5", "-"]


def test_an_unknown_price_is_said_and_rates_are_per_hour() -> None:
    rows = [{"rate_per_hour": {"amount": "2.000000000", "currency": "USD"}}, {"rate_per_hour": None}]
    assert table_text(rows, (cluster.RATE,), None).split("\n")[1:] == ["2.00 USD/h", "   unknown"]


def test_every_table_makes_do_with_the_width_that_there_is_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written anew by `BURSAR_GOLDEN=write pytest -n0` of this file, and read before it is kept."""
    monkeypatch.setattr(SystemClock, "now", lambda self: AT + 5_000_000)
    found = []
    for name, (columns, row) in ROWS.items():
        found.append(f"=== {name}")
        for columns_max in (40, 50, 60, 70, 80, 90, 100, 115, 130, 150, 170, 250):
            lines = table_text([row], columns, columns_max).splitlines()
            found += [f"{columns_max:3} | {line.rstrip()}" for line in lines]
    if os.environ.get("BURSAR_GOLDEN") == "write":
        NARROW.write_text("\n".join(found) + "\n")
    assert found == NARROW.read_text().splitlines()


@pytest.mark.parametrize("columns_max", [40, 80])
@pytest.mark.parametrize("code", ReasonCode)
def test_a_narrow_table_of_jobs_never_cuts_or_drops_the_reason(columns_max: int, code: ReasonCode) -> None:
    row = view.job(job(number=123, state="PENDING"))
    row |= {
        "name": "a-name-that-is-much-too-long",
        "array": None,
        "reason": {"code": str(code)},
        "lineage": {},
    }
    head, line, *below = table_text([row], jobs.JOB_COLUMNS, columns_max).splitlines()
    assert max(map(len, (head, line, *below))) <= columns_max
    if "NAME" in head:
        at = head.index("NAME")
        names = [one[at:].split("  ")[0].strip() for one in (line, *below)]
        assert "".join(names) == row["name"]
    assert {"NUMBER", "STATE"} <= set(head.split())
    assert ("WHY" in head.split()) == bool(code)  # a column that says nothing makes room for one that does
    assert line.endswith(str(code))
    assert "NAME" in head or (columns_max == 40 and len(code) > 9)
    assert "job_" not in line


@pytest.mark.parametrize("columns_max", [40, 80])
def test_a_narrow_table_of_tasks_tells_them_apart(columns_max: int) -> None:
    rows = [
        view.job(job(number=12, parent_id="job_1", array_index=index, state="FAILED")) for index in (3, 999)
    ]
    shown = table_text(rows, jobs.JOB_COLUMNS, columns_max).splitlines()
    assert max(map(len, shown)) <= columns_max
    assert [line.split()[0] for line in shown if "FAILED" in line] == ["12[3]", "12[999]"]


@pytest.mark.parametrize("columns_max", [40, 80])
def test_a_narrow_table_of_nodes_keeps_name_state_and_reason(columns_max: int) -> None:
    row = {**NODE_ROW, "name": "n1", "state": "cordoned", "reason": "bad fan"}
    head, line = table_text([row], cluster.NODE_COLUMNS, columns_max).splitlines()
    assert len(line) <= columns_max
    assert (line.split()[:2], line[-7:]) == (["n1", "cordoned"], "bad fan")
    assert {"NAME", "STATE", "WHY"} <= set(head.split())


@pytest.mark.parametrize("columns_max", [40, 60, 80])
def test_a_narrow_table_of_prices_keeps_what_is_priced_and_the_terms(columns_max: int) -> None:
    row = {**view.price(filled(money_pb2.Price)), "provider": "azure", "region": "southcentralus"}
    row |= {"instance_type": "Standard_ND128isr_NDR_GB200_v6", "market": "committed-3y"}
    row["rate_per_hour"] = {"amount": "109.300000000", "currency": "USD"}
    head, *lines = table_text([row], cluster.PRICE_COLUMNS, columns_max).splitlines()
    assert {"INSTANCE", "MARKET", "PRICE"} <= set(head.split())
    assert all(len(line) <= columns_max for line in lines)
    at, end = head.index("INSTANCE"), head.index("MARKET")
    assert "".join(line[at:end].strip() for line in lines).removeprefix("TYPE") == row["instance_type"]


@pytest.mark.parametrize("columns_max", [40, 80])
def test_a_narrow_table_of_events_keeps_the_time_and_the_whole_sentence(columns_max: int) -> None:
    why = "its fan is broken and " + "very " * 20 + "loud"
    event = {"seq": 7, "at": "2026-11-21T04:00:00.5Z", "kind": "node-scheduling", "actor": "ann"}
    event |= {"subject": "node_1", "names": {"node_1": "gpu-07"}}
    event["data"] = {"node_id": "node_1", "mode": "drain", "reason": why}
    head, *lines = table_text([event], cluster.SENTENCE_COLUMNS, columns_max).splitlines()
    assert head.split()[-2:] == ["AT", "WHAT"]
    assert all(len(line) <= columns_max for line in lines)
    assert lines[0].partition("2026-11-21 04:00:00Z")[1]
    at = head.index("WHAT")
    assert " ".join(line[at:].strip() for line in lines) == f"ann set node gpu-07 to drain: {why}"
    assert not any(line[:at].strip() for line in lines[1:])


def test_text_is_broken_between_words_and_long_words_within() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("abcdefghij k", 4) == ["abcd", "efgh", "ij k"]
    assert wrapped("漢字漢字", 5) == ["漢字", "漢字"]
    assert wrapped("", 5) == [""]


def test_a_long_word_is_broken_behind_a_mark_of_its_second_half() -> None:
    assert wrapped("llama-70b-finetune", 12) == ["llama-70b-", "finetune"]
    assert wrapped("research/vision", 12) == ["research/", "vision"]
    assert wrapped("a-longwithoutany", 12) == ["a-longwithou", "tany"]


@pytest.mark.parametrize("columns_max", [80, 100, 120])
def test_a_long_name_keeps_cells_that_what_matters_less_would_take(columns_max: int) -> None:
    row = view.job(job(number=123, state="PENDING"))
    row |= {"name": "a-name-that-is-much-too-long", "array": None, "lineage": {}}
    row["reason"] = {"code": "WaitingForResources"}
    head, *lines = table_text([row], jobs.JOB_COLUMNS, columns_max).splitlines()
    assert "NAME" in head.split()
    assert len(lines) <= 3


def test_what_says_nothing_in_any_row_goes_before_what_does() -> None:
    columns = (Column("empty"), Column("name", drop=1), Column("always"))
    rows = [{"empty": None, "name": "n" * 10, "always": "a" * 10}]
    assert table_text(rows, columns, 22).splitlines()[0].split() == ["NAME", "ALWAYS"]
    assert table_text(rows, columns, 30).splitlines()[0].split() == ["EMPTY", "NAME", "ALWAYS"]


def test_into_a_pipe_every_id_is_whole() -> None:
    row = view.job(job(id="job_" + "7" * 16, state="RUNNING"))
    assert "job_" + "7" * 16 in table_text([row], jobs.JOB_COLUMNS, None)
