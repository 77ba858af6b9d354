"""Every verb of the contract exists, says what it does, and shows one example."""

import re
import subprocess
import sys

import click
import pytest

from bursar.cli.main import SECTIONS, VERBS, cli, run

CONTRACT = (
    "submit",
    "run",
    "plan",
    "convert",
    "ls",
    "show",
    "logs",
    "explain",
    "advise",
    "wait",
    "cancel",
    "hold",
    "snooze",
    "release",
    "requeue",
    "attach",
    "port-forward",
    "notebook",
    "step",
    "slurm-shims",
    "grant",
    "secret",
    "service",
    "key",
    "update",
    "top",
    "nodes",
    "node",
    "reserve",
    "cloud",
    "offers",
    "events",
    "doctor",
    "cost",
    "budget",
    "forecast",
    "ledger",
    "period",
    "prices",
    "report",
    "whatif",
    "policy",
    "up",
    "down",
    "status",
    "web",
    "sim",
    "backup",
    "restore",
    "archive",
    "audit",
    "login",
    "logout",
    "config",
    "schema",
    "completion",
    "version",
)
BELOW = {
    "grant": "add ls rm",
    "secret": "set ls rm",
    "service": "ls show url logs scale update rollback",
    "key": "new ls revoke",
    "reserve": "new ls show cancel",
    "cloud": "ls show check release terminate",
    "node": "show drain resume cordon token rm calibrate",
    "budget": "ls show grant transfer approve history",
    "ledger": "correct retag",
    "period": "close ls show",
    "prices": "ls apply history explain import",
    "report": "anomalies bills statement focus waste idle models quotas utilization budgets chargeback"
    " commitments energy reconcile",
    "policy": "apply check ls show rm diff",
    "web": "url",
    "config": "new-token",
    "backup": "drill",
    "audit": "verify accept-loss trust-clock",
}


def commands():
    """(words, command) of every verb, groups and what is below them."""
    found = []
    for name in VERBS:
        command = cli.get_command(None, name)
        found.append(((name,), command))
        if isinstance(command, click.Group):
            found += [((name, sub), command.commands[sub]) for sub in command.commands]
    return found


def test_every_verb_of_the_contract_is_there():
    assert set(CONTRACT) == set(VERBS)
    for name, below in BELOW.items():
        assert set(below.split()) == set(cli.get_command(None, name).commands)


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: str(value)[:40])
def test_help_has_a_sentence_and_one_example_of_this_verb(words, command):
    text = command.help
    assert text, words
    assert text.count("Example: ") == 1
    example = text.partition("Example: ")[2].strip()
    assert "bursar " + " ".join(words) in example
    assert re.match(r"[A-Z][^.]*\.", text.replace("\n", " ")), "it opens with a sentence"


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: str(value)[:40])
def test_example_is_a_command_line_that_parses(words, command, monkeypatch):
    """The options of the example exist: click reads them, and nothing runs."""
    import shlex

    if words in (("sim",), ("completion",)):
        return
    example = re.sub(r"\s+", " ", command.help.partition("Example: ")[2]).strip()
    found = shlex.split(example)[len(words) + 1 :]
    if isinstance(command, click.Group):
        sub = command.get_command(None, found[0])
        assert sub is not None
        command, found = sub, found[1:]
    command.make_context(" ".join(words), found)


def test_help_of_each_option_is_there():
    for words, command in commands():
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (words, option.name)


def test_root_help_lists_every_verb_once(capsys):
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for section, verbs in SECTIONS.items():
        assert f"{section}:" in lines
        for name, verb in verbs.items():
            assert sum(line.split()[:1] == [name] for line in lines) == 1
            assert verb.help in "\n".join(lines)


def processor_s(*words):
    """CPU time of one Python process."""
    probe = (
        "import resource, subprocess, sys;"
        "subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_help_costs_little_processor_time():
    """Contract section 1: `bursar --help` within 0.3 s. Python itself says how slow a machine is."""
    bare_s = processor_s("-c", "pass")
    tries = (processor_s("-m", "bursar.cli.main", "--help") for _ in range(3))
    assert any(used_s < max(0.3, 12 * bare_s) for used_s in tries)
