"""Every verb ends with the contract's exit code when it cannot go on, and says what would be right."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bursar import errors
from bursar.cli.groups import NearChoice, NearGroup
from bursar.cli.main import cli, run
from bursar.client import address
from bursar.client.fake import FakeServer

JOB = "run: 'true'\n"
POLICY = "kind: Quota\nname: q\nspec:\n  scope: {project: a}\n  max: {gpus: 1}\n"
WORDS = {
    "submit": ["job.yaml"],
    "run": ["--", "true"],
    "plan": ["job.yaml"],
    "show": ["9"],
    "logs": ["9"],
    "advise": ["9"],
    "explain": ["9"],
    "wait": ["9"],
    "cancel": ["9"],
    "attach": ["9", "true"],
    "port-forward": ["9", ":8888"],
    "notebook": ["9"],
    "hold": ["9"],
    "snooze": ["9", "2h"],
    "release": ["9"],
    "requeue": ["9"],
    "update": ["9", "--priority", "1"],
    "reserve new": ["n", "--count", "1", "--duration", "1h", "--maintenance"],
    "reserve show": ["n"],
    "reserve cancel": ["n"],
    "cloud show": ["n"],
    "cloud release": ["n"],
    "cloud terminate": ["n"],
    "node show": ["n"],
    "node drain": ["n"],
    "node cordon": ["n"],
    "node resume": ["n"],
    "node rm": ["n"],
    "node calibrate": ["n"],
    "node token": ["n"],
    "budget show": ["b"],
    "prices apply": ["policy.yaml"],
    "prices import": ["prices.csv", "--provider", "aws", "--region", "r", "--market", "spot"],
    "report focus": ["--period", "2026-11"],
    "report anomalies": ["--period", "2026-11"],
    "report energy": ["--period", "2026-11"],
    "report bills": ["--period", "2026-11"],
    "report waste": ["--period", "2026-11"],
    "whatif": ["--prices", "policy.yaml"],
    "report idle": ["--period", "2026-11"],
    "report models": ["--period", "2026-11"],
    "report utilization": ["--period", "2026-11"],
    "report quotas": ["--period", "2026-11"],
    "report budgets": ["--period", "2026-11"],
    "report chargeback": ["--period", "2026-11"],
    "report commitments": ["--period", "2026-11"],
    "report reconcile": ["bill.csv", "--period", "2026-11"],
    "report statement": ["--period", "2026-11"],
    "policy apply": ["policy.yaml"],
    "policy check": ["policy.yaml"],
    "policy show": ["Quota/q"],
    "policy rm": ["Quota/q"],
    "policy diff": ["policy.yaml"],
    "grant rm": ["u", "viewer"],
    "grant add": ["u", "viewer"],
    "service show": ["s"],
    "service url": ["s"],
    "service logs": ["s"],
    "service scale": ["s", "2"],
    "service update": ["service.yaml"],
    "service rollback": ["s"],
    "key new": ["--service", "s"],
    "key revoke": ["k"],
    "secret rm": ["S"],
    "secret set": ["S"],
    "prices explain": ["n1"],
    "period close": ["2026-10"],
    "period show": ["2026-10"],
    "ledger correct": ["9", "--to", "80%", "--reason", "r"],
    "ledger retag": ["9", "--project", "p", "--reason", "r"],
    "budget grant": ["b", "5 USD", "--reason", "r"],
    "budget transfer": ["b", "c", "5", "USD", "--reason", "r"],
    "budget approve": ["b", "--reason", "r"],
    "budget history": ["b"],
}
"""What a verb needs beside its name."""
CONNECTED = (
    *WORDS, "ls", "top", "nodes", "offers", "events", "doctor", "cost", "budget ls", "forecast", "prices ls",
    "cloud ls", "cloud check", "reserve ls",
    "service ls", "key ls",
    "prices history", "policy ls", "grant ls", "secret ls", "audit verify", "period ls",
)  # fmt: skip
CHANGING = (
    "submit", "run", "cancel", "attach", "port-forward", "notebook", "hold", "release", "requeue", "update",
    "snooze",
    "node drain", "node cordon",
    "node calibrate",
    "cloud release", "cloud terminate", "budget approve", "reserve new", "reserve cancel",
    "node resume", "node rm", "node token", "prices apply", "prices import", "policy apply", "policy rm",
    "grant add", "grant rm", "secret set", "secret rm", "ledger correct", "ledger retag",
    "budget grant", "budget transfer",
    "period close", "service scale", "service update", "service rollback", "key new", "key revoke",
)  # fmt: skip
"""Verbs that refuse while it is in doubt which cluster is meant."""
ABOUT_ONE = [verb for verb in WORDS if WORDS[verb][0] in ("9", "n", "b", "Quota/q", "u", "S")]
"""Verbs about one thing that may not be there."""


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        whole = f"{above} {name}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command, whole)
        else:
            yield whole, command


VERBS = dict(leaves(cli))
CHOICES = [
    (verb, parameter.opts[0], list(parameter.type.choices))
    for verb, command in VERBS.items()
    for parameter in command.params
    if isinstance(parameter.type, click.Choice) and isinstance(parameter, click.Option)
]


def words(verb: str) -> list[str]:
    return [*verb.split(), *WORDS.get(verb, [])]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bursar.cli.common.PATIENCE_S", 0.0)
    monkeypatch.setenv("BURSAR_SERVER", f"unix://{tmp_path}/run/bursar.sock")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hush")))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "service.yaml").write_text("type: service\nname: s\nrun: serve\n")
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "prices.csv").write_text("instance_type,price\na,1\n")
    return tmp_path


def test_these_are_verbs() -> None:
    assert set(CONNECTED) <= set(VERBS)


@pytest.mark.parametrize("verb", CONNECTED)
def test_without_a_server_it_is_5_with_what_to_do(verb: str, folder: Path, capsys: Any) -> None:
    assert run(words(verb)) == 5
    assert "start one with `bursar up`" in capsys.readouterr().err


@pytest.mark.parametrize("verb", CONNECTED)
def test_without_permission_it_is_3_with_the_group(
    verb: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Path.stat

    def stat(path: Path, **how: Any) -> Any:
        if path.suffix == ".sock" or path.name == "run":
            raise PermissionError(13, "Permission denied", str(path))
        return found(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    assert run(words(verb)) == 3
    assert "join group bursar" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ABOUT_ONE)
def test_of_what_is_not_there_it_is_4(verb: str, folder: Path, capsys: Any) -> None:
    missing = errors.NotFound("there is no such thing")

    class Empty(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return missing

    with FakeServer(folder / "run") as server:
        server.answers = Empty()
        assert run(words(verb)) == 4
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [verb for verb in WORDS if "yaml" in WORDS[verb][0]])
def test_of_a_missing_file_it_is_2_with_its_name(verb: str, folder: Path, capsys: Any) -> None:
    assert run([*verb.split(), "absent.yaml"]) == 2
    assert "absent.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_of_an_unknown_flag_it_is_2_with_the_nearest_one(verb: str, folder: Path, capsys: Any) -> None:
    flags = [o for p in VERBS[verb].params if isinstance(p, click.Option) for o in p.opts if len(o) > 5]
    if not flags or VERBS[verb].context_settings.get("ignore_unknown_options"):
        pytest.skip("it takes any words, or has no flag")
    assert run([*verb.split(), f"{flags[0]}x"]) == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["run", "--tme", "5", "--", "true"], "; did you mean '--time-limit'?"),
        (["run", "--limit", "5", "--", "true"], "; did you mean '--time-limit'?"),
        (["run", "--gpu-count", "5", "--", "true"], "; did you mean '--gpus' or '--mount'?"),
        (["run", "--zzz", "--", "true"], ""),
    ],
)
def test_a_flag_is_near_another_by_a_word_of_its_name(line: list[str], hint: str, capsys: Any) -> None:
    assert run(line) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: there is no option {line[1]!r}{hint}"


@pytest.mark.parametrize(
    ("line", "said", "command"),
    [
        (["cost", "--by"], "--by needs a value: project, user, ", "bursar cost"),
        (["cloud", "ls", "-o"], "-o needs a value: Form of the output", "bursar cloud ls"),
        (["--server"], "--server needs a value: unix:///path or ", "bursar"),
        (["submit", "--yes=3", "x"], "--yes takes no value", "bursar submit"),
    ],
)
def test_a_flag_without_its_value_says_what_it_takes(
    line: list[str], said: str, command: str, capsys: Any
) -> None:
    assert run(line) == 2
    first, then = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {said}")
    assert then == f"`{command} --help` tells how it is used."


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("period: 'x' is no period", "--period: 'x' is no period"),
        ("kinds: no event is of kind 'x'", "--kind: no event is of kind 'x'"),
        ("role: 'x' is not one of viewer", "ROLE: 'x' is not one of viewer"),
        ("period", "period"),
        ("kindes: x", "kindes: x"),
        ("there is no node 'period: x'", "there is no node 'period: x'"),
    ],
)
def test_a_field_of_the_server_is_called_what_it_is_called_in_the_command(said: str, typed: str) -> None:
    @click.command()
    @click.argument("role")
    @click.option("-p", "--period")
    @click.option("--kind")
    def verb(**_: str) -> None:
        raise errors.InvalidRequest(said)

    group = NearGroup("bursar", commands=[verb])
    with pytest.raises(errors.InvalidRequest) as refused:
        group.main(["verb", "r"], standalone_mode=False)
    assert refused.value.message == typed


@pytest.mark.parametrize(("verb", "flag", "known"), CHOICES)
def test_of_a_wrong_word_it_is_2_with_the_nearest_one(
    verb: str, flag: str, known: list[str], folder: Path, capsys: Any
) -> None:
    assert run([*verb.split(), flag, f"{known[0]}x"]) == 2
    assert f"did you mean {known[0]!r}?" in capsys.readouterr().err


def test_every_choice_knows_the_nearest_word() -> None:
    kinds = [type(p.type) for command in VERBS.values() for p in command.params]
    assert not [kind for kind in kinds if issubclass(kind, click.Choice) and kind is not NearChoice]


@pytest.mark.parametrize(
    ("line", "near"),
    [
        (["ls", "--state", "runing"], "running"),
        (["ls", "--sort-by", "elapsd"], "elapsed"),
        (["ls", "--columns", "stat"], "state"),
        (["cost", "--by", "experimnt"], "experiment"),
        (["nods"], "nodes"),
        (["budget", "shw"], "show"),
    ],
)
def test_of_any_wrong_name_the_nearest_is_said(line: list[str], near: str, folder: Path, capsys: Any) -> None:
    from bursar.v1 import jobs_pb2, types_pb2

    with FakeServer(folder / "run") as server:
        server.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[types_pb2.Job(id="job_1")])
        assert run(line) == 2
    assert f"did you mean {near!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("absent/f.csv", "'absent/f.csv' cannot be written: No such file or directory"),
        ("job.yaml/f.csv", "'job.yaml/f.csv' cannot be written: Not a directory"),
        ("folder.csv", "'folder.csv' is a directory; name a file in it"),
        (f"{'n' * 300}.csv", "cannot be written: File name too long"),
    ],
)
def test_an_output_file_that_cannot_be_is_named_as_the_user_did(
    out: str, why: str, folder: Path, capsys: Any
) -> None:
    (folder / "folder.csv").mkdir()
    before = sorted(folder.rglob("*"))
    with FakeServer(folder / "run"):
        assert run(["report", "focus", "--period", "2026-11", "--out", out]) == 2
    err = capsys.readouterr().err
    assert why in err
    assert ".part" not in err
    assert [path for path in sorted(folder.rglob("*")) if path.name != "run"] == before


def test_a_full_disk_is_1_and_names_the_user_s_file(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    from bursar.cli.files import write_whole

    with pytest.raises(OSError, match="No space left on device") as failed:
        write_whole("f.csv", [b"x"])
    assert failed.value.filename == "f.csv"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ls --since 99999999999d", "--since: '99999999999d' is longer than any duration"),
        (f"ls --since {'9' * 5000}d", "--since: a duration: at most 100 characters"),
        ("ls --since 100000d", "--since: '100000d' lies before 1970"),
        ("ls --since 1969-12-31", "--since: '1969-12-31' lies before 1970"),
        ("events --since 99999999999d", "--since: "),
        ("cost --until 99999999999d", "--until: "),
        ("events --after 99999999999999999999", "--after"),
        ("events --tail 99999999999999999999", "--tail"),
        ("logs --attempt 99999999999 last", "--attempt"),
        ("logs --rank 99999999999 last", "--rank: "),
        ("ls --limit 99999999999999999999", "--limit"),
        ("policy show Quota/q --version 99999999999999999999", "--version"),
    ],
)
def test_a_number_that_no_message_can_carry_is_2_and_names_the_flag(
    line: str, said: str, folder: Path, capsys: Any
) -> None:
    with FakeServer(folder / "run"):
        assert run(line.split()) == 2
    assert said in capsys.readouterr().err


def test_every_number_on_the_command_line_has_a_largest() -> None:
    open_ended = [
        f"{verb} {parameter.opts[0]}"
        for verb, command in VERBS.items()
        for parameter in command.params
        if isinstance(parameter.type, click.types.IntParamType)
        and getattr(parameter.type, "max", None) is None
    ]
    assert open_ended == []


@pytest.fixture
def two(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeServer]]:
    """Two clusters of `bursar up`, and none of them named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "BURSAR_SERVER"):
        monkeypatch.delenv(name, raising=False)
    with FakeServer(tmp_path / "a") as first, FakeServer(tmp_path / "b") as second:
        for each, place in ((first, "/first"), (second, "/second")):
            address.note_cluster(each.url, place)
        yield [first, second]


@pytest.mark.parametrize("verb", CHANGING)
def test_nothing_is_changed_while_two_clusters_run_and_none_is_named(
    verb: str, two: list[FakeServer], capsys: Any
) -> None:
    assert run(words(verb)) == 2
    first, second = (each.url for each in two)
    assert capsys.readouterr().err == (
        "error: 2 clusters run here; say which one, by --server or BURSAR_SERVER:\n"
        f"  --server {second}   of /second\n  --server {first}   of /first\n"
    )
    assert [each.requests for each in two] == [[], []]


READING = [verb for verb in CONNECTED if verb not in CHANGING]


ONLY_READ = [*READING, "submit --dry-run job.yaml", "run --dry-run -- true", "node token ls"]


@pytest.mark.parametrize("line", ONLY_READ)
def test_what_only_reads_goes_on_with_the_newest_cluster_and_says_so(
    line: str, two: list[FakeServer], capsys: Any
) -> None:
    run(words(line) if line in WORDS else line.split())
    assert capsys.readouterr().err.startswith("note: 2 clusters run here; this is the newest, /second (")
    assert two[0].requests == []


def test_every_verb_of_a_server_either_reads_or_refuses_in_doubt() -> None:
    """A verb that is new stands in one of the two tables; a login is to a server named by its host."""
    asked = {v for v, command in VERBS.items() if any("--server" in each.opts for each in command.params)}
    assert asked == {*READING, *CHANGING, "login", "logout"}


@pytest.mark.parametrize("origin", ["BURSAR_SERVER", "--server"])
def test_an_address_that_nobody_serves_is_told_with_who_named_it(
    origin: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"unix://{tmp_path}/nowhere.sock"
    monkeypatch.setenv("BURSAR_SERVER", url if origin == "BURSAR_SERVER" else "unix:///other.sock")
    given = ["--server", url] if origin == "--server" else []
    for verb in (["status"], ["nodes"]):
        assert run([*given, *verb]) == 5
        assert f"no server at {url} (from {origin}): " in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_takes_nothing_and_breaks_nothing(
    closed: str, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "bursar.cli.main", "--server", f"unix://{tmp_path}/none", "ls"]
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *words]
    done = subprocess.run(shell, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (5, "")
    said = f"error: no server at unix://{tmp_path}/none "
    assert done.stderr == "" if "2>&-" in closed else done.stderr.startswith(said)
