"""What every verb that changes something asks the server for, with all its flags, and says of the answer.

Why     a flag that is taken and not sent, or sent as its neighbour, is seen by nobody until it should have
        acted. What is sent and printed stands in tests/golden/requests.txt; a change of it is one that people
        see. Written anew by `BURSAR_GOLDEN=write pytest tests/unit/test_cli_sends.py`, and read before it is
        kept.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import message_factory, text_format
from google.protobuf.message import Message
from wire_values import filled

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.clock import SystemClock
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

GOLDEN = Path(__file__).parents[1] / "golden/requests.txt"
NOW_US = 1_795_233_600_000_000
FLAGS = (
    "--name n --project a/b --experiment e --model m --model-version v --label k=v --nodes 2 --gpus H100:4"
    " --cpus 3 --memory 5GB --time-limit 15m --priority high --max-price 40USD/h --comment c"
)
OBJECTS = (
    "prices explain n", "ledger correct 3 --to 50% --reason r", "budget transfer b c 5USD --reason r",
    "node rm n", "node token n", "grant ana admin", "policy rm b",
)  # fmt: skip
COMMANDS = (
    *(f"{words} -o json" for words in OBJECTS),
    f"run -q {FLAGS} --max-cost 500USD --env A=b --secret S --secret F:file --workdir / --array 0-9%3"
    " --after 7 --spot --max-cost-per task --launch per-node --output-file o-%N --error-file f-%N"
    " --open-mode append --idempotency-key i -- echo hi",
    "run -q --launch torchrun --tasks-per-node 2 -- train.py",
    "run --parsable -- true",
    "reserve new name-1475 --nodes b,a --start 2h --duration 4h --maintenance --reason r --preempt",
    "reserve new name-1475 --count 4 --where pool=p --where zone=z-* --gpu-type H100 --end 2027-01-01"
    " --project a/b --user u --ignore-running",
    "reserve new name --count 4 --nodes a --duration 1h --maintenance",
    "reserve new name --count 4 --maintenance",
    "reserve new name --count 4 --duration 4 --maintenance",
    "reserve new name --count 4 --duration 1h --maintenance",
    "reserve new name --count 4 --duration 1h --preempt --ignore-running",
    "reserve new name --count 4 --duration 1h --where pool",
    "reserve show name-1475",
    "reserve show other",
    "reserve ls -o json",
    "reserve cancel name",
    "run --wait -- true",
    "run --follow -- true",
    "submit -q job.yaml",
    "submit -q job.sh one two",
    "plan job.yaml",
    "ls --state pending,running --project a/b --user u --experiment e --model m --label k=v --since 2d"
    " --limit 3 --name n",
    "ls --tasks 3",
    "ls --state all -q",
    "show 3",
    "logs 3 --rank 1 --attempt 2 -n 4 --since 10m --timestamps",
    "logs 3 --rank all",
    "wait 3 4 --timeout 5m --queue",
    "cancel 1 2 --grace 30s --reason r",
    "cancel --name n --user u --project a/b --state pending --yes --reason r",
    "hold 1 2",
    "release 1 2",
    "requeue 1 2",
    f"update 1 {FLAGS} --max-cost 500USD --spot-policy spot",
    "update 1 --gpus 0",
    "nodes --pool p",
    "node cordon n --reason r",
    "node drain n --reason r --stop --confirm-dead",
    "node drain n",
    "node resume n --reason r",
    "node rm n",
    "node rm n -q",
    "node token n --ttl 10m --expires 90d",
    "node token n -q",
    "node token n --list",
    "node token list",
    "node token n --revoke --id i",
    "node token n --revoke",
    "node token rm",
    "node token n --list --revoke",
    "node token",
    "node token n --id i",
    "offers --gpus H100:8 --provider aws --region r --market spot --limit 7",
    "events --job 3 --node n --kind job-held --kind job-released --tail 4",
    "events --after 5 --since 2h",
    "doctor --full",
    "cost --by project,user --period 2026-10 --timezone Asia/Kolkata --project a --user u --experiment e"
    " --model m --depth 2 --top 3 --percent --compare previous --idle",
    "cost 3",
    "cost --since 7d --until 1d",
    "budget grant b 5USD --reason r --idempotency-key k",
    "budget grant b 5USD --reason r --take-back",
    "budget transfer b c 5USD --reason r --idempotency-key k",
    "ledger retag 9 --project a/b --user u --model m --model-version v --label k=v --label x= --reason r",
    "ledger retag 9 --experiment= --since 2026-10-01 --until 2026-10-02 --reason r --dry-run",
    "ledger correct 3 --to 12.50USD --since 2026-10-01 --until 2026-10-02 --reason r",
    "ledger correct 3 --to 50% --reason r --dry-run",
    "period close 2026-10 --force",
    "period close 2026-10 --dry-run",
    "period ls",
    "period show 2026-10",
    "advise 3",
    "prices apply prices.yaml",
    "prices import prices.csv --provider aws --market spot --column region=where --source list",
    "prices import prices.csv --provider aws --market spot --column regio=where",
    "prices import prices.csv --provider aws --market spot --region r --skip-unpriced --valid-from 2026-01-01"
    " --currency EUR --dry-run",
    "prices history --limit 3 --market spot --instance-type i --region r --provider aws",
    "prices ls --limit 3 --market spot --instance-type i --region r --provider aws",
    "prices explain n",
    "report chargeback --period 2026-10",
    "report commitments --period 2026-10 --timezone Asia/Kolkata",
    "report budgets --period 2026-10 --timezone Asia/Kolkata --project a",
    "report focus --period 2026-10 --focus-version 1.2 --project a",
    "whatif --period 2026-10 --prices prices.yaml --prices prices.yaml --by model --project a"
    " --timezone Asia/Kolkata --output json",
    "report idle --period 2026-10 --timezone Asia/Kolkata",
    "report models --period 2026-10 --timezone Asia/Kolkata --project a --output csv",
    "report statement --period 2026-10 --project a",
    "report statement --period 2026-10 --by cost-center,label:team -o html",
    "report utilization --period 2026-10-21 --timezone Asia/Kolkata",
    "report waste --period 2026-10 --timezone Asia/Kolkata --project a",
    "report focus --out f.xls",
    "policy apply prices.yaml",
    "policy apply prices.yaml prices.yaml -q",
    "policy check prices.yaml",
    "policy check .",
    "policy check empty",
    "policy diff prices.yaml",
    "policy show Budget/b",
    "policy rm Budget/b",
    "policy rm b --kind Budget",
    "grant ana submitter --project a/b",
    "grant add ana admin",
    "grant ls --user u --project a/b",
    "grant rm ana submitter --project a/b",
    "grant rm ana submitter -q",
    "secret set S --project a/b",
    "secret ls --project a/b",
    "secret rm S --project a/b",
    "secret rm S",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    with FakeServer(tmp_path_factory.mktemp("requests") / "run") as made:
        made.answers = dict(answers())
        made.answers["Jobs/Submit"].job.id = "job_1"
        made.answers["Jobs/Logs"][0].ClearField("trouble")
        made.answers["Access/Grant"].change = "created"
        del made.answers["Money/Periods"].periods[1:]
        ended = types_pb2.Job(id="job_1", number=3, state="SUCCEEDED")
        made.answers |= {"Jobs/Get": ended, "Jobs/Watch": [ended]}
        yield made


def answers() -> Iterator[tuple[str, Any]]:
    """Each method's answer, in which every value is its own."""
    for file in (access_pb2, jobs_pb2, nodes_pb2, money_pb2, events_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                answer = filled(message_factory.GetMessageClass(method.output_type)(), "one")
                if "next_page_token" in answer.DESCRIPTOR.fields_by_name:
                    answer.ClearField("next_page_token")
                yield f"{service.name}/{method.name}", [answer] if method.server_streaming else answer


@pytest.fixture
def fake(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.chdir(tmp_path)
    for name, value in (("TZ", "UTC"), ("COLUMNS", "200"), ("NO_COLOR", "1"), ("BURSAR_SERVER", server.url)):
        monkeypatch.setenv(name, value)
    time.tzset()
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW_US)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from the pipe\n")))
    (tmp_path / "empty").mkdir()
    (tmp_path / "job.yaml").write_text("name: y\nresources: {cpus: 2}\nrun: echo hi\n")
    (tmp_path / "job.sh").write_text("#!/bin/sh\n#BURSAR --cpus 2\necho $1\n")
    (tmp_path / "prices.csv").write_text("instance_type,price,where\na,1.5,us\nb,0.25,eu\n")
    (tmp_path / "prices.yaml").write_text("kind: Budget\nname: b\n")
    server.requests.clear()
    return server


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text(), flags=re.MULTILINE) if GOLDEN.exists() else [""]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def told(name: str, request: Message) -> str:
    text = text_format.MessageToString(request, as_one_line=True, print_unknown_fields=False)
    return f"{name} {text}".rstrip()


@pytest.mark.parametrize("words", COMMANDS)
def test_what_a_command_asks_for_is_what_it_asked_for(
    words: str, fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(words.split())
    said = capsys.readouterr()
    asked = "".join(told(*request) + "\n" for request in fake.requests)
    found = f"{asked}exit code {code}\n{said.out}{said.err}".rstrip("\n") + "\n"
    found = found.replace(fake.url, "SERVER").replace(str(Path.cwd()), "HERE")
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {words: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == sections()[words], "see the head of this file"
