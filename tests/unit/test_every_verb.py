"""What each verb that asks a server asks it for, and shows of answers that say all, half and nothing.

Why     verbs come faster than tests name their flags and lines. Those that the lists of `test_cli_sends.py`
        and `test_cli_golden.py` do not name are walked here, and a verb that stands nowhere is told. What is
        sent and printed stands in tests/golden/verbs.txt; a change of it is one that people see. Written anew
        by `BURSAR_GOLDEN=write pytest -n0 tests/unit/test_every_verb.py`, and read before it is kept.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from google.protobuf import message_factory, text_format
from google.protobuf.message import Message
from wire_values import filled

from bursar.cli.main import cli, run
from bursar.client.fake import FakeServer
from bursar.clock import SystemClock
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2, types_pb2

GOLDEN = Path(__file__).parents[1] / "golden/verbs.txt"
FILES = (access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2)
NOW_US = 1_795_233_600_000_000
FLAGS = (
    "--name n --project a/b --experiment e --model m --model-version v --label k=v --nodes 2"
    " --gpus H100:4 --cpus 3 --memory 5GB --time-limit 15m --deadline 2027-01-01"
    " --deadline-policy best-effort --priority high --max-cost 500USD --max-cost-per task"
    " --max-price 40USD/h --env A=b --secret S --workdir / --array 0-9%3 --after 7 --spot --comment c"
    " --launch per-node --output-file o-%N --error-file f-%N --open-mode append"
)
COMMANDS = (
    f"submit job.yaml {FLAGS}", f"submit job.yaml {FLAGS} --dry-run", "submit job.yaml --parsable",
    "submit job.yaml --idempotency-key i -q", "submit job.sh --wait", f"plan job.yaml {FLAGS}",
    "plan job.sh", "run --queue -- true", "run --yes -- true",
    "run --dry-run --deadline 2027-01-01 -- true", "service ls", "service ls --project a", "service show s",
    "service url s", "service scale s 3", "service scale s 0..8", "service scale s x",
    "service update s service.yaml", "service update s job.yaml", "service rollback s",
    "service rollback s 2", "service logs s --slot 1 --lines 3", "service logs s --lines 3", "key ls",
    "key ls --service s", "key new --service s --name n --rpm 5 --concurrency 2 --valid 30d",
    "key new --service s --name n --project a/b --budget b", "key new --service s --name n --valid 0s",
    "key revoke k", "cloud ls", "cloud show m", "cloud check", "cloud release m --reason r",
    "cloud terminate m --reason r", "cloud terminate m", "budget approve b --until 2027-01-01 --reason r",
    "budget approve b --amount 5USD --reason r --idempotency-key k", "budget approve b --reason r",
    "budget history b", "forecast", "forecast b", "report anomalies", "report energy", "report quotas",
    "report anomalies --period 2026-10 --timezone Europe/Berlin --project a -o json",
    "report quotas --period 2026-10 --timezone Europe/Berlin --project a -o json",
    "report quotas --out there.csv", "report reconcile bill.csv --cost cost",
    "report reconcile bill.csv --period 2026-10 --keep", "report bills --period 2026-10",
    "convert sky.yaml",
    "convert sky.yaml --out there.yaml", "attach 1", "attach 1 --rank 1 -- true", "port-forward 1 :8080",
    "show 1 --profile", "show 1 --attempt 1", "offers --sort price", "offers --sort x",
    "doctor --save-snapshot", "policy show b --kind Budget --version 1", "policy ls --kind Budget",
    "policy rm b --kind Budget", "grant add ana viewer --project a", "update 1 --idle-snooze 1h",
    "snooze 1 2h",
    "reserve ls", "period ls", "period show 2026-10", "node calibrate n", "logs 1 --tail 3", "advise 1",
    "whatif job.yaml",
)  # fmt: skip
FORMS = ("", " -o json", " -o csv", " -o yaml")
ELSEWHERE = {
    "top": "shown for ever", "login": "a provider's", "logout": "a provider's", "step": "of srun",
    "notebook": "opens ports",
    "sim": "no server", "up": "processes", "down": "processes", "status": "processes",
    "web url": "processes", "schema": "no server", "restore": "files", "archive": "files",
    "backup": "files", "backup drill": "files", "slurm-shims": "files", "audit accept-loss": "files",
    "audit trust-clock": "files", "audit verify": "files", "version": "no server",
    "config new-token": "no server", "completion": "no server",
}  # fmt: skip
"""Verbs that ask no server, or not for an answer, which tests of their own hold."""
ANSWERS: dict[str, Callable[[Message], Message]] = {
    "all": lambda message: filled(message, "one"),
    "other": lambda message: and_empties(filled(message, "other")),
    "nothing": lambda message: message,
}
TEXTS = {
    "job.yaml": "name: y\nresources: {cpus: 2}\nrun: echo hi\n",
    "job.sh": "#!/bin/sh\n#BURSAR --cpus 2\necho $1\n",
    "service.yaml": "name: s\ntype: service\nport: 80\nreplicas: 1..3\nrun: serve\n",
    "sky.yaml": "num_nodes: 2\nresources: {accelerators: A100:2, use_spot: true}\nrun: a\n",
    "bill.csv": "resource,cost\ni-1,3.5\n",
}


def and_empties(message: Message) -> Message:
    """One more of each list, which says nothing."""
    for field in message.DESCRIPTOR.fields:
        held = getattr(message, field.name)
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in held if field.is_repeated else [held] if message.HasField(field.name) else ():
            and_empties(each)
        if field.is_repeated:
            held.add()
    return message


def answers(how: str) -> Iterator[tuple[str, Any]]:
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                answer = ANSWERS[how](message_factory.GetMessageClass(method.output_type)())
                if "next_page_token" in answer.DESCRIPTOR.fields_by_name:
                    answer.ClearField("next_page_token")
                yield f"{service.name}/{method.name}", [answer] if method.server_streaming else answer


@pytest.fixture(scope="module", params=ANSWERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    with FakeServer(tmp_path_factory.mktemp("verbs") / "run") as made:
        made.answers = dict(answers(request.param))
        made.answers["Jobs/Submit"].job.id = "job_1"
        if request.param != "nothing":
            made.answers["Jobs/Logs"][0].ClearField("trouble")
        for name in ("Jobs/Get", "Jobs/Submit"):
            job = made.answers[name].job if name == "Jobs/Submit" else made.answers[name]
            job.state = "RUNNING" if request.param == "other" else "SUCCEEDED"
        made.answers["Jobs/Watch"] = [types_pb2.Job(id="job_1", number=3, state="SUCCEEDED")]
        made.how = request.param  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def fake(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.chdir(tmp_path)
    for name, value in (("TZ", "UTC"), ("COLUMNS", "240"), ("NO_COLOR", "1"), ("BURSAR_SERVER", server.url)):
        monkeypatch.setenv(name, value)
    time.tzset()
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW_US)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return server


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text(), flags=re.MULTILINE) if GOLDEN.exists() else [""]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def asked(name: str, request: Message) -> str:
    text = text_format.MessageToString(request, as_one_line=True, print_unknown_fields=False)
    return f"{name} {text}".rstrip()


@pytest.mark.parametrize("words", COMMANDS)
def test_what_a_verb_asks_for_and_shows_is_what_it_did(
    words: str, fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found, last = "", ""
    whole = fake.how == "all" and " -o " not in words and " -- " not in words  # type: ignore[attr-defined]
    for form in FORMS if whole else ("",):
        fake.requests.clear()
        code = run([*words.split(), *form.split()])
        said = capsys.readouterr()
        sent = "".join(asked(*request) + "\n" for request in fake.requests)
        same = sent == last and form != ""
        found += (
            f"---{form}\n{'' if same else sent}exit code {code}\n{said.out}{said.err}".rstrip("\n") + "\n"
        )
        last = sent
    for name in sorted(set(os.listdir()) - set(TEXTS)):
        found += f"wrote {name}\n{Path(name).read_text()}".rstrip("\n") + "\n"
    found = found.replace(fake.url, "SERVER").replace(str(Path.cwd()), "HERE")
    key = f"{fake.how}: {words}"  # type: ignore[attr-defined]
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {key: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found.splitlines() == sections()[key].splitlines(), "see the head of this file"


def verbs(group: click.Group, before: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_is_walked_somewhere() -> None:
    sends, shows = beside("test_cli_sends"), beside("test_cli_golden")
    walked = [*COMMANDS, *sends.COMMANDS, *shows.SHOWN, *shows.LISTS]
    known = [verb for verb in verbs(cli) if any(f"{one} ".startswith(f"{verb} ") for one in walked)]
    assert [verb for verb in verbs(cli) if verb not in known and verb not in ELSEWHERE] == []
