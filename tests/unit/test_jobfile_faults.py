"""Wrong job files: each says which line is wrong and what would be right."""

from __future__ import annotations

import pytest

from bursar.errors import InvalidRequest, NotBuilt
from bursar.jobfile import parse_job

NAMES = "".join(f"k{i}: 1\n" for i in range(80))

WRONG = [
    # the file as a whole
    ("", 1, "the file is empty"),
    ("# nothing\n", 1, "the file is empty"),
    ("just words", 1, "looks like a script, not a job file; begin it with `#!/bin/bash`, or run it:"),
    ("- run: x", 1, "expected a mapping"),
    ("run: x\n---\nrun: y", 3, "one job per file"),
    ("run: &a x", 1, "anchors"),
    ("setup: &a x\nrun: *a", 2, "aliases"),
    ("run: !!str x", 1, "tags"),
    ("run: x\nenv: !!python/object:os.system {}", 2, "tags"),
    ("run: x\nname: a\nname: b", 3, "given twice, first on line 2"),
    ("run: x\n<<: {a: b}", 2, "merge keys"),
    ("run: [x\nname: a", 2, "this is not YAML"),
    ("run: x\n\tname: y", 2, "this is not YAML"),
    (b"run: x\nname: \xff\xfe", 2, "not UTF-8"),
    (b"\x7fELF\x02\x01\x00\x00", 1, "control character"),
    ("run: " + "x" * 70_000, 1, "64 kB"),
    (NAMES, 1, "has 80 keys"),
    ("run: x\n? [a]\n: b", 2, "a key must be a plain word"),
    # what is not there
    ("name: a", 1, "nothing to run"),
    ("run: ''", 1, "is blank"),
    ("run:", 1, "has no value"),
    ("run: [a, b]", 1, "use the key command"),
    ("run: x\ncommand: [y]", 2, "stands beside run"),
    ("command: python train.py", 1, "expected a list"),
    ("command: []", 1, "is empty"),
    ("command: ['']", 1, "is blank"),
    ("command: [a, null]", 1, "has no value"),
    # names
    ("run: x\nnmae: a", 2, "did you mean 'name'?"),
    ("run: x\nprioritty: 3", 2, "did you mean 'priority'?"),
    ("run: x\ngpus: 8", 2, "it belongs under resources: {gpus: ...}"),
    ("run: x\nmax_cost: 5 USD", 2, "it belongs under budget"),
    ("run: x\nenvs: {A: b}", 2, "write env"),
    ("run: x\nmax_duration: 3h", 2, "write time_limit"),
    ("run: x\nnodes: 2\nnum_nodes: 3", 3, "another name of 'nodes'"),
    ("run: x\nname: my job", 2, "is not a job name"),
    ("run: x\nname: 123", 2, "read as an id"),
    ("run: x\nname: ''", 2, "is empty; give a name or leave the key out"),
    ("run: x\nexperiment: ''", 2, "is empty; give a name or leave the key out"),
    ("run: x\nmodel: ''", 2, "is empty; give a name or leave the key out"),
    ("run: x\nmodel_version: ''", 2, "is empty; give a name or leave the key out"),
    ("run: x\nproject: ''", 2, "it is empty"),
    ("run: x\nname: last", 2, "the newest job everywhere"),
    ("run: x\nname: " + "a" * 101, 2, "at most 100"),
    ("run: x\nexperiment: a b", 2, "is not a name for experiment"),
    ("run: x\nmodel: meta/llama", 2, "without spaces or slashes"),
    ("run: x\nlabels: {'a b': c}", 2, "is not a label name"),
    ("run: x\nlabels: [a]", 2, "expected a mapping"),
    ("run: x\nlabels: {a: [b]}", 2, "expected one value"),
    ("run: x\nproject: /nlp", 2, "starts or ends with /"),
    ("run: x\nproject: nlp/", 2, "starts or ends with /"),
    ("run: x\nproject: nlp//a", 2, "empty part"),
    ("run: x\nproject: nlp/../a", 2, "projects are not directories"),
    ("run: x\nproject: n l p", 2, "holds a space"),
    ("run: x\nproject: a/b/c/d/e/f/g/h/i", 2, "9 levels; at most 8"),
    ("run: x\nproject: nlp/-a", 2, "does not start with a letter"),
    ("run: x\nproject: nlp/ä", 2, "something else than letters"),
    # interactive
    ("type: interactive\narray: 0-3", 1, "interactive is one job: no array, and no service"),
    ("type: interactive\nlaunch: torchrun", 2, "torchrun starts a command; there is none"),
    ("run: x\nidle_policy: {detached: 30m}", 2, "is of a job that people attach to"),
    (
        "type: interactive\nidle_policy: {detached: 1s}",
        2,
        "is how long nobody may be attached, from 1m to 7d",
    ),
    # numbers
    ("run: x\npriority: 101", 2, "at most 100"),
    ("run: x\npriority: -1", 2, "at least 0"),
    ("run: x\npriority: hihg", 2, "did you mean 'high'?"),
    ("run: x\nnodes: 0", 2, "at least 1"),
    ("run: x\nnodes: -3", 2, "at least 1"),
    ("run: x\nnodes: 99999999", 2, "at most 10000"),
    ("run: x\nnodes: 1.5", 2, "whole number"),
    ("run: x\nnodes: 99999999999999999999999", 2, "has more digits than any number here"),
    ("run: x\nnodes: 2..", 2, "is no range of nodes; it has both ends, as in 2..8"),
    ("run: x\nnodes: 2-8", 2, "is no range of nodes; write 2..8"),
    ("run: x\nnodes: 2 .. 8", 2, "is no range of nodes; write 2..8"),
    ("run: x\nnodes: 0..3", 2, "is no range of nodes; a job has at least one node: write 1..3"),
    ("run: x\nresources: {gpus: H100x8}", 2, "'H100x8' has no type and count; write H100:8"),
    ("run: x\nresources: {gpus: H100x0}", 2, "'H100x0' has no type and count; write H100:1"),
    ("run: x\nnodes: 8..2", 2, "goes from 8 to 2; the most comes last"),
    ("run: x\nnodes: 4..4", 2, "goes from 4 to 4; the most comes last"),
    ("run: x\nnodes: 2..99999", 2, "at most 10000"),
    ("run: x\nthroughput: {H100: fast}", 2, "is not a number"),
    ("run: x\nthroughput: {H100: 0}", 2, "is not a speed from 0.000001 to 1000000"),
    ("run: x\nthroughput: {H100: 0.0000001}", 2, "a speed has at most 6 decimals"),
    ("run: x\nthroughput: {H100: 1, h100: 2}", 2, "says 'H100' twice"),
    ("run: x\nthroughput: {H100x200000: 1}", 2, "is of 200000 GPUs; at most 160000"),
    ("run: x\nthroughput: {'8': 1}", 2, "is not a GPU type"),
    ("run: x\nresources: {gpus: 'H100:8+'}", 2, "a range of GPUs has both, such as 2..8"),
    ("run: x\nresources: {gpus: 'H100:8..2'}", 2, "is no range of GPUs"),
    ("run: x\nresources: {gpus: 'H100:2-4'}", 2, "'2-4' is no range of GPUs; write 'H100:2..4'"),
    ("run: x\nresources: {gpus: 2-4}", 2, "'2-4' is no range of GPUs; write '2..4'"),
    ("run: x\nresources: {gpus: a..b}", 2, "its ends are numbers; write 'A100:2..4'"),
    ("run: x\nresources: {gpus: 'H100:a..b'}", 2, "its ends are numbers; write 'H100:2..4'"),
    ("run: x\nresources: {gpus: {type: H100, count: 2..32}}", 2, "at most 16 are on one node"),
    ("run: x\nresources: {any_of: [{gpus: 'H100:2..8'}, {gpus: 4}]}", 2, "write ordered, or the types"),
    ("run: x\npreemptible: yes", 2, "true or false"),
    # resources
    ("run: x\nresources:\n  gpu: 8", 3, "did you mean 'gpus'?"),
    ("run: x\nresources:\n  accelerators: H100:8", 3, "write gpus: H100:8"),
    ("run: x\nresources:\n  gpus: -1", 3, "a count of GPUs is 1 to 16"),
    ("run: x\nresources:\n  gpus: H100:99", 3, "use more nodes"),
    ("run: x\nresources:\n  gpus: H100:8:4", 3, "names two counts"),
    ("run: x\nresources:\n  gpus: H100:A100:4", 3, "H100|A100"),
    ("run: x\nresources:\n  gpus: H100:80GB:40GB", 3, "names two sizes"),
    ("run: x\nresources:\n  gpus: gpu:h100:8", 3, "leave 'gpu:' out"),
    ("run: x\nresources:\n  gpus: H100:1.5", 3, "not a share of one GPU"),
    ("run: x\nresources:\n  gpus: H100:0.0", 3, "not a share of one GPU"),
    ("run: x\nresources:\n  gpus: 'H100:'", 3, "is not a GPU type"),
    ("run: x\nresources:\n  gpus: H100:0", 3, "0 GPUs of a kind"),
    ("run: x\nresources:\n  gpus: {type: H100, count: 2, fraction: 0.5}", 3, "a share of one GPU"),
    ("run: x\nresources:\n  gpus: {typ: H100}", 3, "did you mean 'type'?"),
    ("run: x\nresources:\n  gpus: {type: []}", 3, "is empty"),
    ("run: x\nresources:\n  gpus: [H100, A100]", 3, "found a sequence"),
    ("run: x\nresources:\n  cpus: 0", 3, "a job needs some CPU"),
    ("run: x\nresources:\n  cpus: -4", 3, "a job needs some CPU"),
    ("run: x\nresources:\n  cpus: many", 3, "is not a number of CPUs"),
    ("run: x\nresources:\n  cpus: 999999", 3, "at most 10000 CPUs"),
    ("run: x\nresources:\n  cpus: 0.0001", 3, "at most 3 decimals"),
    ("run: x\nresources:\n  memory: 128", 3, "has no unit; write 128GB or 128GiB"),
    ("run: x\nresources:\n  memory: 12 bananas", 3, "is not a size"),
    ("run: x\nresources:\n  memory: 0GB", 3, "more than 0"),
    ("run: x\nresources:\n  memory: 900PB", 3, "at most 100 TB"),
    ("run: x\nresources:\n  memory: 1GB\n  mem: 2GB", 4, "another name of 'memory'"),
    ("run: x\nresources:\n  any_of: []", 3, "is empty"),
    ("run: x\nresources:\n  any_of: [{gpus: 1}]\n  ordered: [{gpus: 2}]", 4, "stands beside any_of"),
    ("run: x\nresources:\n  any_of:\n  - gpus: 1\n  - gups: 2", 5, "did you mean 'gpus'?"),
    ("run: x\nresources:\n  constraints: {zone: 'a b'}", 3, "is not a pattern"),
    ("run: x\nresources:\n  constraints: {zone: [a]}", 3, "one pattern"),
    ("run: x\nresources: H100:8", 2, "expected a mapping"),
    ("run: x\nspot_policy: sopt", 2, "did you mean 'spot'?"),
    # time and order
    ("run: x\ntime_limit: 24", 2, "is not a duration; write it as 90s, 15m, 24h or 7d"),
    ("run: x\ntime_limit: 02:00:00", 2, "'02:00:00' is not a duration; write it as 2h"),
    ("run: x\ntime_limit: 1:30:05", 2, "write it as 1h30m5s"),
    ("run: x\ntime_limit: 2 hours", 2, "'2 hours' is not a duration; write it as 2h"),
    ("run: x\ntime_limit: 45 Minutes", 2, "write it as 45m"),
    ("run: x\ntime_limit: 1:75:00", 2, "write it as 90s, 15m, 24h or 7d"),
    ("run: x\ntime_limit: 0s", 2, "at least 1s"),
    ("run: x\ntime_limit: -1h", 2, "is not a duration"),
    ("run: x\ntime_limit: 900d", 2, "at most 366d"),
    ("run: x\nbegin_after: tomorrow", 2, "is not a time"),
    ("run: x\nbegin_after: 1970-01-01T00:00:00Z", 2, "between the years"),
    ("run: x\ndepends_on: prep", 2, "expected a list"),
    ("run: x\ndepends_on:\n- {job: a, when: succeded}", 3, "did you mean 'succeeded'?"),
    ("run: x\ndepends_on:\n- {when: failed}", 3, "the key 'job' is missing"),
    ("run: x\ndepends_on: [a, a]", 2, "named twice"),
    ("run: x\ndepends_on: ['a b']", 2, "give its id, number or name"),
    ("run: x\narray: 9-0", 2, "runs backwards; write 0-9"),
    ("run: x\narray: 0-100000", 2, "more than 100000 tasks"),
    ("run: x\narray: 0-9:0", 2, "has step 0"),
    ("run: x\narray: 1-5,3", 2, "names a task twice"),
    ("run: x\narray: a-b", 2, "is not a range"),
    ("run: x\narray: 0-9%0", 2, "how many tasks may run at once"),
    ("run: x\narray: {range: 0-9%2, max_parallel: 3}", 2, "keep one"),
    ("run: x\narray: {max_parallel: 3}", 2, "the key 'range' is missing"),
    ("run: x\narray: 5000000", 2, "largest task index"),
    # money
    ("run: x\nbudget: {max_cost: 500}", 2, "write a number and a currency"),
    ("run: x\nbudget: {max_cost: 500 dollars}", 2, "write a number and a currency"),
    ("run: x\nbudget: {max_cost: 0 USD}", 2, "must be more than 0"),
    ("run: x\nbudget: {max_cost: -5 USD}", 2, "must be more than 0"),
    ("run: x\nbudget: {max_price: 40 USD}", 2, "is not money per h"),
    ("run: x\nbudget:\n  max_cost: 5 USD\n  max_price: 4 EUR/h", 4, "use one currency"),
    ("run: x\nbudget: {on_exceed: explode}", 2, "is not one of stop"),
    ("run: x\nbudget: 500 USD", 2, "expected a mapping"),
    # endings
    ("run: x\ncheckpoint: {signal: KILL}", 2, "cannot be caught"),
    ("run: x\ncheckpoint: {signal: USR3}", 2, "did you mean 'USR"),
    ("run: x\ncheckpoint: {grace: 5s}", 2, "needs checkpoint.signal"),
    ("run: x\ncheckpoint: {signal: USR1, grace: 3d}", 2, "at most 24h"),
    ("run: x\nretry: {max: 3}", 2, "say after what"),
    ("run: x\nretry: {on: [failure]}", 2, "say how often"),
    ("run: x\nretry: {on: [oom], max: 1}", 2, "did you mean 'out-of-memory'?"),
    ("run: x\nretry: {on: [preemtion]}", 2, "did you mean 'preemption'?"),
    ("run: x\nretry: {on: [failure], max: -1}", 2, "at least 0"),
    # the process
    ("run: x\nenv: {1A: b}", 2, "is not a variable name"),
    ("run: x\nenv: {BURSAR_JOB_ID: b}", 2, "is set by bursar itself"),
    ("run: x\nenv: {A: {b: c}}", 2, "expected one value"),
    ("run: x\nenv:\n  A:", 3, "has no value"),
    ("run: x\nenv: [A=b]", 2, "expected a mapping"),
    ("run: x\nworkdir: ~/x", 2, "~ is not expanded"),
    ("run: x\nworkdir: ''", 2, "is blank"),
    # services
    ("run: x\nport: 8000", 2, "write type: service"),
    ("run: x\nreplicas: 0..8", 2, "write type: service"),
    ("run: x\ntype: service", 1, "a service is found by its name"),
    ("run: x\ntype: service\nname: a\nport: 80", 4, "is 80; 1024 to 60000"),
    ("run: x\ntype: service\nname: a\nreplicas: 3..1", 4, "3..1 is empty"),
    ("run: x\ntype: service\nname: a\nreplicas: 0", 4, "is 0; 1 to 256"),
    ("run: x\ntype: service\nname: a\nreplicas: some", 4, "is no number of replicas"),
    ("run: x\ntype: service\nname: a\nreadiness_probe: {path: health}", 4, "is not a path"),
    ("run: x\ntype: service\nname: a\nupdate: {steps: [9, 5, 100]}", 4, "do not rise"),
    ("run: x\ntype: service\nname: a\nupdate: {max_errors: 7}", 4, "is not a percentage"),
    ("run: x\ntype: service\nname: a\nscaling: {target: 0}", 4, "is 0; 1 to 100000"),
    ("run: x\ntype: service\nname: a\nscaling: {panic_window: 2m}", 4, "is longer than window"),
    ("run: x\ntype: service\nname: a\ntimeouts: {qeue: 1s}", 4, "unknown key 'qeue'"),
    ("run: x\ntype: service\nname: a\ntime_limit: 1h", 4, "leave time_limit out"),
    ("run: x\ntype: service\nname: a\nretry: {on: [failure], max: 1}", 4, "leave retry out"),
    ("run: x\ntype: service\nname: a\narray: 0-3", 4, "a service says replicas"),
]

UNBUILT = [
    ("run: x\ntype: service\nname: a\nengine: b", 4, "the key engine"),
    ("run: x\ntype: service\nname: a\nspot: {extra: auto}", 4, "the key spot"),
    ("run: x\ntype: service\nname: a\nscaling: {metric: rps}", 4, "rps is part"),
    ("run: x\ntype: service\nname: a\nscaling: {prefer: cost}", 4, "the key scaling.prefer"),
    ("run: x\ntype: service\nname: a\nnodes: 2", 4, "a replica of several nodes"),
    ("run: x\nengine: x", 2, "the key engine"),
    ("run: x\ncheckpoint: {signal: USR1, interval: 30m}", 2, "a checkpoint interval"),
    ("run: x\nbudget: {max_cost: 5 USD, on_exceed: notify}", 2, "on_exceed: notify"),
    ("run: x\nbudget: {max_cost: 5 USD, on_exceed: hold}", 2, "on_exceed: hold"),
    ("run: x\nresources: {gpus: {type: H100, mig: 1g.10gb}}", 2, "a MIG slice"),
    ("run: x\nresources: {gpus: 'H100:1g.10gb'}", 2, "a MIG slice (1g.10gb)"),
    ("run: x\nresources: {cpus: 2..8}", 2, "a range of cpus"),
]


@pytest.mark.parametrize(("text", "line", "fragment"), WRONG)
def test_a_wrong_file_names_its_line_and_the_remedy(text: str | bytes, line: int, fragment: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(text, "job.yaml", "/home/u")
    assert [fault for fault in caught.value.faults if fault.line == line and fragment in fault.message], str(
        caught.value
    )
    assert all(
        f"job.yaml:{fault.line}:{fault.column}: " in caught.value.message for fault in caught.value.faults
    )
    assert not isinstance(caught.value, NotBuilt)
    assert len(caught.value.message) < 2000


@pytest.mark.parametrize(("text", "line", "fragment"), UNBUILT)
def test_what_is_not_built_is_refused_as_such_and_never_ignored(text: str, line: int, fragment: str) -> None:
    with pytest.raises(NotBuilt) as caught:
        parse_job(text, "job.yaml", "/home/u")
    (fault,) = caught.value.faults
    assert fault.line == line
    assert fragment in fault.message
    assert "part of the contract, not built yet" in fault.message


def test_all_faults_of_a_file_come_at_once_in_file_order() -> None:
    text = "nmae: a\nnodes: 0\nresources:\n  gpus: H100:99\n  cpus: -1\nbudget: {max_cost: 5}\n"
    text += "engine: a\nrun: x\n"
    with pytest.raises(InvalidRequest) as caught:
        parse_job(text, "job.yaml", "/home/u")
    assert [(fault.line, fault.field) for fault in caught.value.faults] == [
        (1, "nmae"),
        (2, "nodes"),
        (4, "resources.gpus"),
        (5, "resources.cpus"),
        (6, "budget.max_cost"),
        (7, "engine"),
    ]
    assert caught.value.faults[0].nearest == "name"
    assert caught.value.exit_code == 2


def test_one_mistake_beside_something_unbuilt_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job("run: x\nengine: a\nnodes: 0\n", "job.yaml", "/")
    assert not isinstance(caught.value, NotBuilt)


def test_a_relative_workdir_needs_a_directory_to_start_from() -> None:
    with pytest.raises(InvalidRequest, match="relative, here to nothing"):
        parse_job("run: x\nworkdir: sub", "job.yaml", "")


@pytest.mark.parametrize(
    ("text", "unbuilt"),
    [("run: x\nqqqq: 1\n", ("engine",)),
     ("run: x\nresources: {gpus: {qqqq: 1}}\n", ("mig",))],
)  # fmt: skip
def test_a_wrong_key_is_answered_with_what_can_be_used_now(text: str, unbuilt: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_job(text, "job.yaml", "/")
    said = error.value.message
    assert "unknown key 'qqqq'; known here: " in said
    assert [key for key in unbuilt if key in said] == []
    with pytest.raises(NotBuilt, match=unbuilt[0]):
        parse_job(text.replace("qqqq: 1", f"{unbuilt[0]}: x"), "job.yaml", "/")


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("run: x\nbudget: {on_exceed: explode}", "'explode' is not one of stop, checkpoint-stop"),
        ("run: x\ntype: batch", "'batch' is not one of job, service, interactive"),
    ],
)
def test_no_message_offers_a_word_that_is_not_built(text: str, listed: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_job(text, "job.yaml", "/")
    assert refused.value.message.endswith(listed)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("run: x\nenv: &e {A: b}\nresources: *e", ["2:6: anchors", "3:12: aliases"]),
        ("run: x\nretry: &r", ["2:8: anchors"]),
        ("run: x\nnodes: !!int '2'", ["2:8: tags"]),
        ("run: x\nresources:\n  <<: *b\n  memory: 1G", ["3:3: merge keys"]),
        ("run: x\n? *k\n: 1", ["2:3: aliases"]),
        ("run: x\n<<: {*k : 1}", ["2:1: merge keys", "2:6: aliases"]),
        ("command: [python, *x]", ["1:19: aliases"]),
        ("depends_on: [{<<: *d}]\nrun: x", ["1:15: merge keys"]),
        ("run: x\nnodes: &n two", ["2:8: anchors", "2:8: nodes"]),
    ],
)
def test_a_value_refused_for_how_it_is_written_has_no_second_fault(text: str, places: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job(text, "job.yaml", "/w")
    said = str(caught.value).splitlines()
    assert len(said) == len(places), said
    assert all(line.startswith(f"job.yaml:{place}") for line, place in zip(said, places, strict=True)), said
