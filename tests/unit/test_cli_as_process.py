"""The program as a shell sees it: closed pipes, interrupts, what it loads, which cluster it means."""

import ast
import os
import subprocess
import sys

import pytest
from verbs_server import make_job

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import jobs_pb2, nodes_pb2


def test_reader_that_goes_away_is_no_error(fake):
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[make_job()] * 400)
    command = f"{sys.executable} -m bursar.cli.main ls | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("NUMBER")


def test_interrupt_exits_130(fake, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bursar.client.sync.WireClient.get", lambda *_: interrupted(_))
    assert run(["show", "1"]) == 130


HEAVY = (
    "asyncio", "asyncio.events", "ssl", "grpc", "grpc.aio", "google.protobuf", "msgspec", "yaml",
    "yaml.reader", "google.protobuf.internal.python_message", "google.protobuf.text_format", "pickle", "bz2",
    "bursar.jobfile", "bursar.jobfile.flags", "bursar.jobfile.slurm",
    "bursar.codec.spec", "bursar.model.check",
    *(f"bursar.v1.{name}_pb2" for name in ("access", "events", "money", "nodes")),
)  # fmt: skip
"""What costs a command milliseconds of processor time each; gRPC brings asyncio and ssl unless put off."""

WIRE = {"grpc", "google.protobuf", "msgspec"}
JOB = WIRE | {"bursar.codec.spec", "bursar.model.check", "bursar.jobfile"}


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("--help", set()),
        ("version", {"msgspec"}),
        ("status --state-dir /nonexistent -o json", {"msgspec"}),
        ("ls", WIRE),
        ("logs 1", WIRE),
        ("wait 1", WIRE),
        ("nodes", WIRE | {"bursar.v1.nodes_pb2"}),
        ("cost", WIRE | {"bursar.v1.money_pb2"}),
        ("submit -q -", JOB | {"yaml", "yaml.reader"}),
        ("run -q -- true", JOB | {"bursar.jobfile.flags"}),
    ],
)
def test_command_loads_no_more_than_it_uses(fake, words, needed):
    """Not timed: machines differ, modules do not. One that waits for its first use is not loaded."""
    probe = (
        "import sys; from bursar.cli import start\ntry:\n start.main()\nexcept SystemExit: pass\n"
        f"print([n for n in {HEAVY!r} if type(sys.modules.get(n)).__name__ == 'module'])"
    )
    command = [sys.executable, "-c", probe, *words.split()]
    job = "# as #sbatch would have it\nrun: 'true'\n"
    done = subprocess.run(command, input=job, capture_output=True, text=True, check=True, env=os.environ)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert loaded - needed == set()


def test_with_two_clusters_here_a_verb_says_which_one_it_means(fake, tmp_path, monkeypatch, capsys):
    from bursar.client import address

    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    fake.answers["Nodes/List"] = nodes_pb2.ListNodesResponse()
    with FakeServer(tmp_path / "other") as other:
        other.answers["Nodes/List"] = nodes_pb2.ListNodesResponse()
        address.note_cluster(fake.url, "/first")
        address.note_cluster(other.url, "/second")
        assert run(["nodes", "-o", "json"]) == 0
        assert capsys.readouterr().err == "", "BURSAR_SERVER names one"
        monkeypatch.delenv("BURSAR_SERVER")
        assert run(["nodes", "-o", "json", "--server", fake.url]) == 0
        assert capsys.readouterr().err == ""
        assert run(["nodes", "-o", "json"]) == 0
        said = capsys.readouterr().err
        assert said.startswith("note: 2 clusters run here; this is the newest, /second (--server or ")
    assert run(["nodes", "-o", "json"]) == 0
    assert capsys.readouterr().err == "", "one of them is gone"


def test_where_there_are_no_nodes_it_says_who_brings_them_at_a_site_too(fake, capsys):
    fake.answers["Nodes/List"] = nodes_pb2.ListNodesResponse()
    assert run(["nodes"]) == 0
    assert "no nodes: each bursar-agent that joins is one; `bursar up` brings its own" in "".join(
        capsys.readouterr()
    )
