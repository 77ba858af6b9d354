"""The verbs for nodes, money and policies against a fake server: what they send, print and exit with."""

import json
import sys
from itertools import chain, pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs_server import AT, make_job

from bursar import errors
from bursar.cli import report
from bursar.cli.main import run
from bursar.cli.pricefile import Book
from bursar.cli.prices import IMPORT_BYTES, _portions
from bursar.v1 import events_pb2, money_pb2, nodes_pb2, types_pb2

# ------------------------------------------------------------------ cluster, money, policy


def test_nodes_mark_simulated_devices(fake, capsys):
    device = types_pb2.Device(index=0, type="H100", uuid="SIM-0", simulated=True)
    node = types_pb2.Node(
        id="node_1",
        state="up",
        rate_nanos_per_hour=-1,
        facts=types_pb2.NodeFacts(name="local-1", cpu_milli=2000, devices=[device]),
        devices_free=[types_pb2.DeviceShare(index=0, milli=500)],
    )
    fake.answers["Nodes/List"] = nodes_pb2.ListNodesResponse(nodes=[node])
    fake.answers["Nodes/Get"] = node
    assert run(["nodes"]) == 0
    text = capsys.readouterr().out
    assert "0.5/1 H100 (simulated)" in text
    assert "unknown" in text
    assert run(["nodes", "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["rate_per_hour"] is None
    assert row["simulated"] is True
    assert row["gpus_free"] == 0.5
    assert run(["node", "show", "local-1"]) == 0


def test_drain_sends_what_the_operator_vouches_for(fake, capsys):
    assert run(["node", "drain", "a", "--reason", "fan", "--stop", "--confirm-dead"]) == 0
    request = fake.calls("Nodes/Drain")[0]
    assert (request.node, request.reason, request.stop, request.confirm_dead) == ("a", "fan", True, True)


def test_cost_rows_carry_their_keys_and_a_total(fake, capsys):
    row = money_pb2.CostRow(keys=["nlp", "anna"], nanos=1_000_000_001, unknown_us=5_000_000)
    fake.answers["Money/Cost"] = money_pb2.CostResponse(rows=[row], total=row, currency="USD")
    assert run(["cost", "--by", "project,user", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["project"] == "nlp"
    assert document["rows"][0]["user"] == "anna"
    assert document["total"]["cost"] == {"amount": "1.000000001", "currency": "USD"}
    assert document["total"]["unknown_price_s"] == 5
    assert run(["cost", "--by", "project,user"]) == 0
    assert "5s at an unknown price" in capsys.readouterr().out
    assert list(fake.calls("Money/Cost")[0].by) == ["project", "user"]


def test_budget_shows_what_is_available(fake, capsys):
    fake.answers["Money/Budgets"] = money_pb2.BudgetsResponse(
        budgets=[
            money_pb2.Budget(
                id="bud_1",
                name="nlp",
                period="month",
                enforcement="hard",
                limit_nanos=5 * 10**9,
                settled_nanos=1,
                held_nanos=10**9,
                currency="USD",
                period_start=AT,
            )
        ]
    )
    assert run(["budget", "ls", "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["available"]["amount"] == "3.999999999"
    assert row["period_end"] is None
    assert run(["budget", "show", "nlp"]) == 0
    fake.answers["Money/Budgets"] = money_pb2.BudgetsResponse()
    assert run(["budget", "show", "nlp"]) == 4


def test_report_is_written_whole_or_not_at_all(fake, capsys, tmp_path):
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=d) for d in (b"a,b\n", b"1,2\n")]
    assert run(["report", "focus", "--period", "2026-11", "--out", "f.csv"]) == 0
    assert (tmp_path / "f.csv").read_bytes() == b"a,b\n1,2\n"
    request = fake.calls("Money/Report")[0]
    assert (request.kind, request.format, request.focus_version) == ("focus", "csv", "1.4")

    def breaks(_):
        yield money_pb2.ReportChunk(data=b"a")
        raise errors.NotBuilt("that version")

    fake.answers["Money/Report"] = breaks
    assert run(["report", "focus", "--period", "2026-11", "--out", "g.csv"]) == 2
    assert sorted(p.name for p in tmp_path.glob("*.csv*")) == ["f.csv"]
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("name", "form"), [("s.html", "html"), ("s.json", "json"), ("s.csv", "csv"), ("s.txt", "text")]
)
def test_a_statement_is_asked_for_in_the_form_that_its_file_is_named_for(fake, tmp_path, name, form):
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=b"it")]
    assert run(["report", "statement", "--period", "2026-11", "--by", "user,label:team", "--out", name]) == 0
    assert (tmp_path / name).read_bytes() == b"it"
    request = fake.calls("Money/Report")[0]
    assert (request.kind, request.format, request.by) == ("statement", form, "user,label:team")


def test_a_statement_as_pdf_is_the_page_printed_here_and_fetches_nothing(fake, monkeypatch, tmp_path):
    made = []

    class Page:
        def __init__(self, string, url_fetcher):
            with pytest.raises(ValueError, match="nothing is fetched"):
                url_fetcher("http://169.254.169.254/", 1)
            made.append(string)

        def write_pdf(self, pdf_identifier):
            return b"%PDF " + pdf_identifier

    monkeypatch.setitem(sys.modules, "weasyprint", SimpleNamespace(HTML=Page))
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=d) for d in (b"<p>a", b"b</p>")]
    for name in ("a.pdf", "b.pdf"):
        assert run(["report", "statement", "--period", "2026-11", "--out", name]) == 0
    assert made == ["<p>ab</p>"] * 2
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert [request.format for request in fake.calls("Money/Report")] == ["html", "html"]


def test_a_statement_as_pdf_without_the_extra_says_what_installs_it(fake, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    assert run(["report", "statement", "--period", "2026-11", "--out", "s.pdf"]) == 1
    assert "pip install 'bursar[pdf]'" in capsys.readouterr().err
    assert fake.calls("Money/Report") == []
    assert not (tmp_path / "s.pdf").exists()


def test_policy_apply_sends_each_file_of_a_folder(fake, capsys, tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a.yaml", "b.yml", "c.txt"):
        (tmp_path / "p" / name).write_text(f"kind: Budget # {name}\n")
    fake.answers["Policies/Apply"] = money_pb2.ApplyResponse(
        policies=[money_pb2.Policy(kind="Budget", name="x", version=1, change="created")]
    )
    assert run(["policy", "apply", "p", "-q"]) == 0
    assert capsys.readouterr().out == "x\n"
    assert [s.name for s in fake.calls("Policies/Apply")[0].sources] == ["p/a.yaml", "p/b.yml"]
    (tmp_path / "empty").mkdir()
    assert run(["policy", "apply", "empty"]) == 2


@pytest.mark.parametrize("regions", [257, 600])
def test_a_table_of_very_many_small_books_is_imported_in_as_many_calls_as_the_daemon_takes(
    fake, tmp_path, regions
) -> None:
    names = [f"region-{number:04d}" for number in range(regions)]
    lines = [f"aws,{name},t,spot,1" for name in names]
    (tmp_path / "p.csv").write_text("\n".join(["provider,region,instance_type,market,price", *lines]))
    assert run(["prices", "import", str(tmp_path / "p.csv")]) == 0
    calls = [[book.text for book in request.sources] for request in fake.calls("Policies/Apply")]
    assert max(len(books) for books in calls) <= 256
    assert all(name in text for text, name in zip(chain(*calls), names, strict=True))


@given(st.lists(st.integers(1, 1_200_000), max_size=12))
def test_the_books_of_one_call_fit_into_a_message_and_none_is_left_out(sizes):
    books = [Book(str(number), "x" * size, 1) for number, size in enumerate(sizes)]
    parts = list(_portions(books))
    assert [book.name for part in parts for book in part] == [book.name for book in books]
    for part in parts:
        assert len(part) <= 1 or sum(len(book.text) for book in part) <= IMPORT_BYTES
    for before, after in pairwise(parts):
        assert sum(len(book.text) for book in (*before, after[0])) > IMPORT_BYTES


def test_policy_diff_exits_1_only_when_something_changes(fake, capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("kind: Budget\nname: x\nlimit: 2\n")
    text = "kind: Budget\nname: x\nlimit: 2\n"
    fresh = money_pb2.Policy(kind="Budget", name="x", change="changed", text=text)
    fake.answers["Policies/Check"] = money_pb2.ApplyResponse(policies=[fresh])
    fake.answers["Policies/Get"] = money_pb2.Policy(text="kind: Budget\nname: x\nlimit: 1\n")
    assert run(["policy", "diff", "a.yaml"]) == 1
    text = capsys.readouterr().out
    assert "-limit: 1" in text
    assert "+limit: 2" in text
    fresh.change = "unchanged"
    fake.answers["Policies/Check"] = money_pb2.ApplyResponse(policies=[fresh])
    assert run(["policy", "diff", "a.yaml"]) == 0
    fake.answers["Policies/Check"] = errors.PolicyInvalid("a.yaml:3: limit: no currency")
    assert run(["policy", "check", "a.yaml"]) == 2


def test_doctor_exits_1_when_an_invariant_is_broken(fake, capsys):
    good = events_pb2.Finding(check="L1", ok=True, message="sums to zero")
    fake.answers["Events/Doctor"] = events_pb2.DoctorResponse(findings=[good])
    assert run(["doctor"]) == 0
    bad = events_pb2.Finding(check="B1", message="passed by 1", remedy="tell us")
    fake.answers["Events/Doctor"] = events_pb2.DoctorResponse(findings=[good, bad])
    assert run(["doctor", "-o", "json"]) == 1
    shown = capsys.readouterr()
    assert [row["ok"] for row in json.loads(shown.out[shown.out.index("[") :])] == [True, False]
    assert "tell us" in shown.err


def test_events_follow_prints_each_as_it_comes(fake, capsys):
    fake.answers["Events/List"] = [
        events_pb2.Event(seq=1, at=AT, kind="JobSubmitted", subject="job_1", json='{"a": 1}'),
        events_pb2.Event(seq=2, at=AT, kind="JobEnded", subject="job_1", json="not json\x1b"),
    ]
    assert run(["events", "-f", "-o", "jsonl"]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2]
    assert run(["events", "-f", "--job", "1"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_top_prints_once_into_a_pipe(fake, capsys):
    fake.answers["Nodes/Top"] = [
        nodes_pb2.TopResponse(jobs=[make_job(state="RUNNING")]),
        nodes_pb2.TopResponse(),
    ]
    assert run(["top"]) == 0
    assert capsys.readouterr().out.count("live job") == 1
    assert not fake.calls("Nodes/Top")[0].follow


def test_top_says_when_more_jobs_are_live_than_it_shows(fake, capsys):
    job = make_job(state="RUNNING")
    for total, said in ((1, "1 live job\n"), (7, "1 live job of 7\n")):
        fake.answers["Nodes/Top"] = [nodes_pb2.TopResponse(jobs=[job], jobs_total=total)]
        assert run(["top"]) == 0
        assert capsys.readouterr().out.startswith(f"0 nodes, {said}")


@pytest.mark.parametrize("words", [
    ["offers", "--gpus", "H100:8"], ["prices", "ls"], ["prices", "history"], ["policy", "ls"],
    ["nodes"], ["ls"], ["budget", "ls"], ["events"], ["cost"], ["doctor"], ["config"], ["version"],
], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "yaml"])
def test_every_listing_speaks_every_format_also_when_empty(fake, capsys, words, form):
    assert run([*words, "-o", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        json.loads(out)


@pytest.mark.parametrize("kind", ["statement", "focus", "waste"])
def test_a_report_without_a_period_is_of_this_month_and_says_so(fake, capsys, monkeypatch, kind):
    monkeypatch.setattr(report, "now", lambda: 1_795_233_600_000_000)
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=b"x")]
    assert run(["report", kind]) == 0
    assert fake.calls("Money/Report")[0].period == "2026-11"
    assert capsys.readouterr().err == "--period 2026-11, which has not ended\n"
