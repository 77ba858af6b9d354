"""Slurm's options mean what they mean in Slurm, or are refused; and so is what a script's body lacks."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from bursar.clock import SECOND_US, parse_instant
from bursar.errors import InvalidRequest
from bursar.jobfile import Caller, Notice, RunFlags, parse_job, parse_script
from bursar.jobfile.options import HONOURED, OPTIONS, REFUSED, find
from bursar.jobfile.site import Asks, Site, SiteNode
from bursar.jobfile.slurm import asks_of_site
from bursar.model import CheckpointSpec, Dependency, JobSpec, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.steps.times import parse_begin

CET = timezone(timedelta(hours=1))
NOW = datetime(2026, 11, 27, 14, 30, 15, tzinfo=CET)
NODE = SiteNode({"node": "n1", "pool": "local"}, 64_000, 2**38, 8, "A100", 5)
CALLER = Caller({"HF_TOKEN": "secret", "LR": "0.1"}, NOW, "login1", Site((NODE,)))


def read(
    *directives: str, body: str = "python train.py", flags: RunFlags | None = None
) -> tuple[JobSpec, tuple[Notice, ...]]:
    text = "\n".join(["#!/bin/bash", *(f"#SBATCH {one}" for one in directives), body, ""])
    return parse_script(text, "train.sh", "/home/u", flags=flags, caller=CALLER)


def refused(*directives: str, body: str = "true") -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(*directives, body=body)
    return caught.value.message


def env(*directives: str, flags: RunFlags | None = None) -> dict[str, str]:
    return dict(read(*directives, flags=flags)[0].env)


# ------------------------------------------------------------------ how options are written


@pytest.mark.parametrize(
    ("line", "name"),
    [("-o $HOME/x.log", "$HOME"), ("--chdir=${WORK}/a", "${WORK}"), ("--error=%x_%j.$USER", "$USER")],
)
def test_a_variable_in_a_directive_is_told_to_be_none(line: str, name: str) -> None:
    _, notes = parse_script(f"#!/bin/bash\n#SBATCH {line}\necho a\n", "s.sh", "/home/u")
    assert [str(note).split(" as it is")[0] for note in notes] == [
        f"s.sh:2: {line.split()[0].split('=')[0]} has {name}"
    ]


def test_aliases_and_unambiguous_beginnings_are_read() -> None:
    assert [option.name for option in find("tasks-per-node")] == ["ntasks-per-node"]
    assert [option.name for option in find("job-n")] == ["job-name"]
    assert [option.name for option in find("mem")] == ["mem"]
    assert [option.name for option in find("mem-per-c")] == ["mem-per-cpu"]
    assert len(find("mem-")) == 3
    assert [option.name for option in find("N")] == ["nodes"]
    assert find("nonsense") == find("") == find("Z") == []
    spec, _ = read("--tasks-per-node=2 --dep=afterok:7 --cpus-per-t=3")
    assert (spec.options[0].cpu_milli, spec.depends_on) == (6_000, (Dependency("7"),))


def test_every_option_says_what_becomes_of_it() -> None:
    assert all(option.text for option in OPTIONS.values())
    assert len({option.short for option in OPTIONS.values() if option.short}) == 32
    harmless = {name for name, option in OPTIONS.items() if option.fate not in (HONOURED, REFUSED)}
    assert not harmless & {"exclude", "nodelist", "constraint", "exclusive", "mem", "clusters", "reservation"}


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.fate == REFUSED])
def test_what_is_refused_is_refused_with_its_line(name: str) -> None:
    value = "" if OPTIONS[name].value == "no" else "=2026-12-01"
    assert refused(f"--{name}{value}").startswith(f"train.sh:2:9: --{name}: ")


@pytest.mark.parametrize(
    "name", [name for name, option in OPTIONS.items() if option.fate not in (HONOURED, REFUSED)]
)
def test_what_is_harmless_is_noted_and_never_refused(name: str) -> None:
    value = "" if OPTIONS[name].value == "no" else "=x"
    notices = read(f"--{name}{value}")[1]
    assert [(n.line, n.message.partition(":")[0]) for n in notices] == [(2, f"--{name} is not honoured")]


# ------------------------------------------------------------------ where it runs


def test_a_script_of_slurm_runs_once_unless_it_says_otherwise() -> None:
    assert read("--nodes=2")[0].launch == "once"
    assert read("--nodes=2", flags=RunFlags(launch="per-node"))[0].launch == "per-node"
    text = "#!/bin/bash\n#SBATCH --nodes=2\n#BURSAR --launch per-node\ntrue\n"
    assert parse_script(text, "a.sh", "/")[0].launch == "per-node"
    assert parse_script("#!/bin/bash\n#BURSAR --nodes 2\ntrue\n", "a.sh", "/")[0].launch == "per-node"


def test_nodes_by_name_are_wanted_or_not() -> None:
    assert read("--exclude=n1")[0].constraints == (("node", "!n1"),)
    spec, notices = read("-w gpu[1-2] -x gpu2,gpu7")
    assert (spec.nodes, spec.constraints, notices) == (2, (("node", "gpu1,gpu2,!gpu2,!gpu7"),), ())
    assert read("-w n1 -N 1")[0].nodes == 1


def test_a_range_of_nodes_is_one_and_the_tasks_of_all_are_told_with_each_start() -> None:
    spec, notices = read("-N 2-8 --ntasks-per-node=4")
    assert (spec.nodes, spec.max_nodes) == (2, 8)
    assert not any("taken" in notice.message for notice in notices)
    assert dict(spec.env)["SLURM_NTASKS_PER_NODE"] == "4"
    assert "SLURM_NTASKS" not in dict(spec.env)
    least, notices = read("-N 2-8 --use-min-nodes")
    assert (least.nodes, least.max_nodes, notices) == (2, 0, ())


@pytest.mark.parametrize("words", ["-N 2-8 -n 8 --ntasks-per-node=4", "-N 2-4 -G 8", "-N 2-4 -w n[1-2]"])
def test_a_range_of_nodes_is_its_least_where_something_is_said_of_all_together(words: str) -> None:
    spec, notices = read(words)
    assert (spec.nodes, spec.max_nodes) == (2, 0)
    assert "of all nodes together" in notices[0].message


def test_of_a_list_of_sizes_the_least_is_taken_and_that_is_said() -> None:
    for text, least in (("2,4", 2), ("4-8,3", 3), ("2-8:2", 2)):
        spec, notices = read(f"-N {text}")
        assert (spec.nodes, len(notices)) == (least, 1)
        assert f"{text} is taken as {least}" in notices[0].message
    assert read("--nodes=3-3") == (read("--nodes=3-3")[0], ())


@pytest.mark.parametrize(
    ("words", "nodes", "cpus", "tasks", "said"),
    [
        ("-n4 -N1-2 --ntasks-per-node=2", 2, 2, "4", "-N 1-2 is taken as 2, the least that 4 tasks fit on:"),
        ("-n9 -N2-8:3 --ntasks-per-node=2", 5, 2, "9", "-N 2-8:3 is taken as 5, the least that 9 tasks fit"),
        ("-n9 -N1,6,9 --ntasks-per-node=2", 6, 2, "9", "-N 1,6,9 is taken as 6, the least that 9 tasks fit"),
        ("-n4 -N2-4 --ntasks-per-node=2", 2, 2, "4", "-N 2-4 is taken as 2, the least of them:"),
        ("-N1 -n4 --ntasks-per-node=2", 1, 4, "4", "--ntasks-per-node 2 is not kept: 4 tasks share 1 node"),
        ("-N2 -n2 --ntasks-per-node=4", 2, 1, "2", ""),
        ("-N4 -n1", 1, 1, "1", "-N 4 is taken as 1: no node stays without a task"),
        ("-N2 -n3", 2, 2, "3", "-n gives 2 tasks' CPUs on each of 2 nodes;"),
        ("-w n[1-3] -n2", 3, 1, "3", ""),
    ],
)
def test_tasks_and_nodes_that_are_both_said_are_what_slurm_makes_of_them(
    words: str, nodes: int, cpus: int, tasks: str, said: str
) -> None:
    spec, notices = read(words)
    assert (spec.nodes, spec.options[0].cpu_milli) == (nodes, cpus * 1000)
    assert dict(spec.env)["SLURM_NTASKS"] == tasks
    assert bool(notices) == bool(said)
    assert not said or notices[0].message.startswith(said)


def test_a_range_of_nodes_that_its_tasks_do_not_fit_on_is_refused() -> None:
    assert refused("-N1-2 -n9 --ntasks-per-node=2") == (
        "train.sh:2:9: -N: 1-2 are too few for 9 tasks, 2 on each"
    )
    assert refused("-N4-2") == (
        "train.sh:2:9: -N: '4-2' is no range of nodes; the least comes first, as in 2-4"
    )


def test_features_are_labels_and_known_gpus_their_type() -> None:
    spec, notices = read("-C ib&fast --gres=gpu:2")
    assert spec.constraints == (("fast", "*"), ("ib", "*"))
    assert ["label ib" in n.message or "label fast" in n.message for n in notices] == [True, True]
    assert read("-C v100 --gres=gpu:2")[0].options[0].gpus == GpuRequest(2, ("V100",))
    spec, notices = read("--constraint=a100")
    assert (spec.options[0].gpus, spec.constraints) == (None, ())
    assert "asks for nodes that have a100" in notices[0].message


def test_an_account_may_name_the_gpus_it_is_for() -> None:
    spec, notices = read("-A abc@v100 --gres=gpu:4")
    assert (spec.project, spec.options[0].gpus) == ("abc", GpuRequest(4, ("V100",)))
    assert "V100 GPUs for the project abc" in notices[0].message
    assert read("-A abc@cpu") == (read("-A abc@cpu")[0], ())
    assert read("-A abc@cpu")[0].project == "abc"


def settled(nodes: tuple[SiteNode, ...] | None, *directives: str) -> tuple[JobSpec, str]:
    """The job at a site of these nodes, and what is said of it."""
    text = "\n".join(["#!/bin/bash", *(f"#SBATCH {one}" for one in directives), "true", ""])
    spec, notices = parse_script(text, "train.sh", "/home/u", caller=CALLER._replace(site=Site(nodes)))
    return spec, "\n".join(notice.message for notice in notices)


def at(name: str, cpus: int = 64, gpus: int = 8, **more: str | int) -> SiteNode:
    rate, up = int(more.pop("rate", 5)), bool(more.pop("up", 1))
    attributes = {"pool": "a", **{key: str(value) for key, value in more.items()}, "node": name}
    return SiteNode(attributes, cpus * 1000, cpus * 2**32, gpus, "A100" if gpus else "", rate, up)


@pytest.mark.parametrize(
    ("words", "nodes", "options"),
    [
        ("-n 6 -c 1", 2, ResourceRequest(None, 3_000)),
        ("-n 4", 1, ResourceRequest(None, 4_000)),
        ("-n 9 -x n9", 3, ResourceRequest(None, 3_000)),
        ("-n 5 -c 2 --mem-per-cpu=1G", 3, ResourceRequest(None, 4_000, 4 * 2**30)),
        ("-n 6 --mem=2G", 2, ResourceRequest(None, 3_000, 2 * 2**30)),
        ("-n 6 --gpus-per-task=1", 3, ResourceRequest(GpuRequest(2), 2_000)),
        ("-n 6 --gpus=4", 2, ResourceRequest(GpuRequest(2), 3_000)),
        ("-n 6 --gres=gpu:2", 2, ResourceRequest(GpuRequest(2), 3_000)),
        ("-n 100", 1, ResourceRequest(None, 100_000)),
        ("-n 6 -N 1", 1, ResourceRequest(None, 6_000)),
    ],
)
def test_tasks_without_a_number_of_nodes_take_as_many_as_they_need(
    words: str, nodes: int, options: ResourceRequest
) -> None:
    site = tuple(at(name, cpus=4, gpus=2) for name in ("n1", "n2", "n3"))
    spec, said = settled(site, words)
    assert (spec.nodes, spec.options) == (nodes, (options,))
    assert ("since no node has room for" in said) is (nodes > 1)
    assert "where no node has so many" not in said
    if nodes > 1:
        assert dict(spec.env)["SLURM_NTASKS"] == words.split()[1]
        assert dict(spec.env)["SLURM_NTASKS_PER_NODE"] == str(
            options.cpu_milli // (2000 if "-c 2" in words else 1000)
        )
    assert asks_of_site(f"#!/bin/bash\n#SBATCH {words}\n").nodes


def test_tasks_are_spread_within_the_range_of_nodes_that_is_said() -> None:
    site = tuple(at(f"n{index}", cpus=4) for index in range(4))
    for words, nodes, cpus in (
        ("-n 6 -N 1-2", 2, 3), ("-n 6 -N 1-4", 2, 3), ("-n 4 -N 1-2", 1, 4), ("-n 12 -N 1-2", 1, 12),
        ("-n 6 -N 1", 1, 6), ("-n 6 -N 2-4", 2, 3),
    ):  # fmt: skip
        spec, said = settled(site, words)
        assert (spec.nodes, spec.max_nodes, spec.options[0].cpu_milli) == (nodes, 0, cpus * 1000), words
        assert ("since no node has room for 6" in said) is (words in ("-n 6 -N 1-2", "-n 6 -N 1-4")), words
        assert dict(spec.env)["SLURM_NTASKS"] == words.split()[1]


def test_what_the_flags_say_of_nodes_is_not_spread() -> None:
    text = "#!/bin/bash\n#SBATCH --ntasks=6\ntrue\n"
    caller = CALLER._replace(site=Site((at("n1", cpus=4), at("n2", cpus=4))))
    spec, _ = parse_script(text, "-", "/home/u", caller=caller, flags=RunFlags(nodes="3"))
    assert (spec.nodes, spec.options[0].cpu_milli) == (3, 6_000)
    assert not asks_of_site("#!/bin/bash\n#SBATCH -n 1 --no-requeue\n").nodes


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5 << 20), ("5K", 5 << 10), ("5M", 5 << 20), ("5G", 5 << 30), ("5T", 5 << 40), ("5g", 5 << 30)],
)
def test_memory_is_in_binary_units_and_in_mebibytes_without_one(text: str, size: int) -> None:
    assert read(f"--mem={text}")[0].options[0].memory_bytes == size


def test_all_memory_of_a_node_becomes_what_it_has() -> None:
    spec, said = settled((at("n1"),), "--mem=0 -c 2")
    assert spec.options == (ResourceRequest(None, 2_000, 2**38),)
    assert said == "--mem holds 275GB of each node"
    assert settled((at("n1"),), "--mem-per-cpu=0")[0].options[0].memory_bytes == 2**38


def test_an_exclusive_job_holds_all_cpus_and_gpus_and_its_tasks_keep_their_size() -> None:
    spec, said = settled((at("n1"), at("n2")), "-N2 --exclusive -n 4 -c 3 --mem=4G --gres=gpu:1")
    assert spec.options == (ResourceRequest(GpuRequest(8, ("A100",)), 64_000, 2**32),)
    assert spec.constraints == ()
    assert said.endswith("--exclusive holds 64 CPUs, 8 GPUs (A100) of each node")
    assert dict(spec.env)["SLURM_CPUS_PER_TASK"] == "3"
    whole, _ = settled((at("n1", gpus=0),), "--exclusive --mem=0")
    assert whole.options == (ResourceRequest(None, 64_000, 2**38),)
    assert "SLURM_CPUS_PER_TASK" not in dict(whole.env)


def test_of_nodes_that_differ_those_of_one_size_are_taken_and_named() -> None:
    small = [at(f"s{index}", cpus=8, gpus=0, rate=1) for index in (1, 2)]
    large = [at("l1", rate=9), at("l2", rate=9), at("l3", rate=-1, cpus=32)]
    spec, said = settled((*small, *large), "-N2 --exclusive")
    assert (spec.options[0].cpu_milli, dict(spec.constraints)) == (8_000, {"node": "s1,s2"})
    assert said.endswith("of each node; nodes differ, and these are taken: s1,s2")
    assert dict(settled((*small, *large), "-N2 --exclusive --gres=gpu:2")[0].constraints) == {"node": "l1,l2"}
    alone = settled((*small, *large), "--exclusive -x l1,l2 -c 9")[0]
    assert (alone.options[0].cpu_milli, alone.constraints) == (32_000, (("node", "!l1,!l2"),))
    down = at("s1", cpus=8, gpus=0, rate=1, up=0)
    awake = settled((down, *large), "--exclusive")[0]
    assert (awake.options[0].cpu_milli, dict(awake.constraints)) == (64_000, {"node": "l1,l2"})
    assert settled((down,), "--exclusive")[0].options[0].cpu_milli == 8_000


LONG = tuple(f"node-{index:03}" for index in range(40))


@pytest.mark.parametrize(
    ("nodes", "words", "why"),
    [
        (None, "--exclusive", "what it stands for is known with the nodes of a cluster at hand alone"),
        ((), "--mem=0", "no node that is here now has what the job asks for"),
        ((at("n1"),), "--exclusive -c 65", "no node that is here now has what the job asks for"),
        ((at("n1"), at("n2", cpus=8)), "--exclusive -N2", "no 2 nodes of one size have what"),
        ((at("n1"),), "--exclusive=user", "'user' cannot be had; --exclusive alone shares with nobody"),
        ((*map(at, LONG), at("b", cpus=8, rate=9)), "--exclusive", "too many of one size would have to be"),
        ((at("n1"), at("n2", pool="b")), "-p gpu", "there is no partition 'gpu' here; these are: a, b"),
        ((at("n1", partition="x"),), "-p gpu", "there is no partition 'gpu' here; these are: a, x"),
        ((at("n1", partition="x"), at("n2", pool="b")), "-p x,b", "there is no partition 'x,b' here"),
    ],
)
def test_a_place_or_a_size_that_is_not_there_is_refused(
    nodes: tuple[SiteNode, ...] | None, words: str, why: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        settled(nodes, words)
    assert caught.value.message.startswith("train.sh:2:9: -")
    assert why in caught.value.message


def test_a_partition_is_a_label_of_nodes_or_a_pool() -> None:
    nodes = (at("n1", partition="gpu"), at("n2", partition="cpu"), at("n3", pool="b"))
    spec, said = settled(nodes, "--partition=gpu")
    assert (spec.constraints, said) == (
        (("partition", "gpu"),), "--partition asks for nodes whose partition is gpu",
    )  # fmt: skip
    assert settled(nodes, "-p cpu,gpu")[0].constraints == (("partition", "cpu,gpu"),)
    assert settled(nodes, "-p b")[0].constraints == (("pool", "b"),)
    assert dict(settled(nodes, "-p b")[0].env)["SLURM_JOB_PARTITION"] == "b"
    with pytest.raises(InvalidRequest, match="another line asks for nodes by their partition too"):
        settled(nodes, "-p gpu -C partition")


def test_one_of_several_types_of_gpu_is_enough() -> None:
    for words in ("-C a100|h100", "-C '(a100|H100)'", "--constraint=[a100|h100]", "-C 'ib&(a100|h100)'"):
        spec, _ = read(f"{words} --gres=gpu:2")
        assert spec.options[0].gpus == GpuRequest(2, ("A100", "H100")), words
    assert spec.constraints == (("ib", "*"),)
    assert read("-C a100|h100 --gres=gpu:h100:2")[0].options[0].gpus == GpuRequest(2, ("H100",))
    nodes = (at("n1"), at("n2", gpus=0), at("n3")._replace(gpu_type="H100"))
    spec, said = settled(nodes, "-C a100")
    assert (spec.options[0].gpus, spec.constraints) == (None, (("node", "n1"),))
    assert said == "-C asks for nodes that have a100, which now are n1"
    assert settled(nodes, "-C a100|h100")[0].constraints == (("node", "n1,n3"),)
    assert settled(nodes[:1], "-C a100")[0].constraints == ()
    assert asks_of_site("#!/bin/bash\n#SBATCH -C a100\ntrue\n").nodes
    with pytest.raises(InvalidRequest, match="may run on has the label or the type of GPU v100"):
        settled(nodes, "-C v100")
    assert "asks for v100, and another line for A100|H100; keep one" in refused(
        "-C a100|h100 --gres=gpu:v100:1"
    )
    assert "-C: asks for H100 GPUs and for A100; keep one" in refused("-C a100&h100 --gres=gpu:1")


def test_one_of_several_labels_is_enough() -> None:
    nodes = (at("n1", sky="1"), at("n2", cascade="1"), at("n3"), at("n4", sky="1", pool="b"))
    for words, names in (
        ("-C sky|cascade", "n1,n2,n4"),
        ("-C [sky|cascade]", "n1,n2,n4"),
        ("-p a -C sky|cascade", "n1,n2"),
        ("-x n1 -C sky|cascade", "n2,n4"),
        ("-C '(sky|cascade)&(sky|other)'", "n1,n4"),
    ):
        assert dict(settled(nodes, words)[0].constraints)["node"] == names, words
    plain = (at("n1", gpus=0), at("n2", gpus=0, cascade="1"), at("n3"))
    spec, said = settled(plain, "-C a100|cascade")
    assert (dict(spec.constraints), said) == (
        {"node": "n2,n3"}, "-C asks for nodes that have a100 or cascade, which now are n2,n3",
    )  # fmt: skip
    spec, said = settled(nodes[:2], "-C sky|cascade")
    assert (spec.constraints, said) == (
        (), "-C asks for nodes that have sky or cascade, as all have that it may run on",
    )  # fmt: skip
    assert asks_of_site("#!/bin/bash\n#SBATCH --constraint=a|b\n").nodes
    assert not asks_of_site("#!/bin/bash\n#SBATCH --constraint=a&b\necho | cat\n").nodes


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("-C x|y", "-C: no node that the job may run on has the label or the type of GPU x or y"),
        ("-C a|b&c", "'a|b' is not the name of a feature; features are joined by &, and by | where"),
        ("-C (a|b", "'(a|b' is not the name of a feature"),
        ("-C a|", "'a|' is not the name of a feature"),
        ("-C a*2&b*1", "'a*2' is not the name of a feature"),
        ("-N2 -C [a|b]", "-C: '[a|b]': name the one feature that all 2 nodes shall have"),
    ],
)
def test_features_that_cannot_be_asked_for_are_refused(words: str, why: str) -> None:
    assert why in refused(words)


def test_where_all_nodes_are_one_place_a_partition_changes_nothing() -> None:
    spec, said = settled((at("n1"), at("n2")), "-p gpu_p13")
    assert (spec.constraints, said) == (
        (),
        "-p is not honoured: all nodes are one place, the pool a; give nodes a label partition=NAME",
    )


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("-p gpu", "both"), ("-Jx -pgpu", "both"), ("--part=x", "both"), ("--exclusive", "nodes"),
        ("--exclus", "nodes"), ("--mem=0", "nodes"), ('--mem "0"', "nodes"), ("--mem=64G", ""),
        ("-N2 --time=1:00", ""), ("-Along", "names"), ("--account=x", "names"), ("--qos long", "names"),
        ("-q x", "names"), ("--exclusive -q x", "both"),
        ("-J a\nmodule load x", "nodes"), ("-J a\n( ml x )", "nodes"), ("-J ml\n# module\nmodules", ""),
    ],
)  # fmt: skip
def test_of_the_site_that_is_asked_for_which_a_script_may_speak_of(line: str, asks: str) -> None:
    found = asks_of_site(f"#!/bin/sh\n#SBATCH {line}\ntrue\n")
    assert found == Asks(asks in ("nodes", "both"), asks in ("names", "both"))


# ------------------------------------------------------------------ environment modules


def with_body(
    nodes: tuple[SiteNode, ...], body: str, *directives: str, shell: str = "bash"
) -> tuple[JobSpec, list[str]]:
    lines = [f"#!/bin/{shell}", *(f"#SBATCH {one}" for one in ("-J a", *directives)), body, ""]
    caller = CALLER._replace(site=Site(nodes))
    spec, notices = parse_script("\n".join(lines), "a.sh", "/home/u", caller=caller)
    return spec, [f"{notice.line} {notice.message}" for notice in notices]


LMOD = (at("n1", modules="lmod", pool="m"), at("n2", pool="b"))


def test_a_script_that_loads_modules_goes_where_they_are_and_that_is_said() -> None:
    for body, word in (("true\nmodule load cuda/12", "module"), ("set -e\nml cuda", "ml")):
        spec, notes = with_body(LMOD, body)
        assert (spec.constraints, notes) == ((("modules", "*"),), [f"4 {word} asks for nodes that have it"])
    spec, notes = with_body(LMOD, "module load a", "-p m")
    assert spec.constraints == (("modules", "*"), ("pool", "m"))
    spec, notes = with_body(LMOD, "module load a", "-C modules")
    assert notes[-1] == "4 module runs on nodes whose modules is *"
    assert spec.constraints == (("modules", "*"),)


@pytest.mark.parametrize(
    "body",
    [
        "command -v module && module load a", "module() { true; }\nmodule load a", "true # module load a",
        "echo 'module load a'", "python -m module", "if type module; then module load a; fi",
    ],
)  # fmt: skip
def test_a_script_that_minds_whether_there_are_modules_goes_anywhere(body: str) -> None:
    assert with_body((at("n1"),), body) == (with_body((at("n1"),), body)[0], [])
    assert with_body((at("n1"),), body)[0].constraints == ()


def test_a_script_that_says_what_to_do_without_modules_goes_anywhere_and_hears_of_it() -> None:
    for nodes in (LMOD, LMOD[1:]):
        spec, notes = with_body(nodes, "module load a 2>/dev/null || true")
        assert (spec.constraints, notes) == ((), ["3 module runs only where the node has it"])
    spec, notes = with_body(LMOD, "module purge || true\nmodule load a")
    assert (spec.constraints, notes) == ((("modules", "*"),), ["4 module asks for nodes that have it"])


def test_a_script_that_loads_modules_is_refused_where_no_node_that_it_may_run_on_has_them() -> None:
    for nodes, directives in ((LMOD[1:], ()), (LMOD, ("-p b",)), ((), ())):
        with pytest.raises(InvalidRequest) as caught:
            with_body(nodes, "true; module load cuda", *directives)
        line = 3 + len(directives)
        assert caught.value.message == (
            f"a.sh:{line}:7: module cannot run: no node that the job may run on has environment modules (the "
            "label `modules`, which agents give by themselves where modules or Lmod are installed); set PATH "
            "and the like in the script, or ask for `command -v module` first"
        )


def test_modules_are_for_bash_unless_the_script_reads_their_file_itself() -> None:
    with pytest.raises(
        InvalidRequest, match=r"a.sh:3:1: module cannot run: it is a function of bash; begin "
    ):
        with_body(LMOD, "module load a", shell="sh")
    for word in (".", "source"):
        body = f"{word} /etc/profile.d/modules.sh\nmodule load a"
        assert with_body(LMOD, body, shell="sh")[0].constraints == (("modules", "*"),)
    assert with_body(LMOD, "module load a", shell="python3")[0].constraints == ()


def test_where_the_nodes_are_not_known_it_is_said_that_modules_may_be_missing() -> None:
    text = "#!/bin/bash\n#SBATCH -J a\nmodule load a\nml b\n"
    _, notices = parse_script(text, "a.sh", "/")
    assert [(one.line, one.message) for one in notices] == [
        (3, "module runs only where the node has it"), (4, "ml runs only where the node has it"),
    ]  # fmt: skip


# ------------------------------------------------------------------ when it runs


def test_a_warning_before_the_limit() -> None:
    second = SECOND_US
    assert read("--signal=B:USR1@120")[0].checkpoint == CheckpointSpec(
        "USR1", 120 * second, 120 * second, True
    )
    assert read("--signal=12")[0].checkpoint == CheckpointSpec("USR2", 60 * second, 60 * second)


def test_what_it_waits_for() -> None:
    spec, _ = read("--job-name=chain --dependency=singleton,after:3:4_1,afterany:last")
    assert set(spec.depends_on) == {
        Dependency("3", "started"),
        Dependency("4[1]", "started"),
        Dependency("last", "finished"),
        Dependency("chain", "singleton"),
    }
    renamed, _ = read("--dependency=singleton", flags=RunFlags(name="mine"))
    assert renamed.depends_on == (Dependency("mine", "singleton"),)
    with pytest.raises(InvalidRequest, match="this one has none"):
        parse_script("#!/bin/sh\n#SBATCH -d singleton\ntrue\n", "-", "/")


def test_tasks_wait_for_those_of_another_array() -> None:
    assert read("-d aftercorr:12,afterany:4", "-a 0-3")[0].depends_on == (
        Dependency("12", "task-succeeded"),
        Dependency("4", "finished"),
    )


def test_a_task_is_waited_for_by_the_number_it_knows() -> None:
    assert read(f"-d afterok:{12 * 4_000_037 + 3}")[0].depends_on == (Dependency("12[3]"),)


def test_the_flags_of_a_submission_replace_what_a_script_waits_for() -> None:
    spec, _ = read("-d singleton", "-d afterok:3", flags=RunFlags(after=("9",)))
    assert spec.depends_on == (Dependency("9"),)


def test_a_job_that_must_not_be_requeued() -> None:
    assert read("--no-requeue")[0].retry == RetrySpec(never=True)
    assert read("--no-requeue", "--requeue")[0].retry == RetrySpec(("node_lost", "preempted"))


@pytest.mark.parametrize("text", ["[0-4]", "0-4", "[0-4]%2"])
def test_brackets_around_an_array(text: str) -> None:
    array = read(f"--array={text}")[0].array
    assert array is not None
    assert list(array.indices) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("now", "2026-11-27T14:30:15"),
        ("now+1hour", "2026-11-27T15:30:15"),
        ("now+90", "2026-11-27T14:31:45"),
        ("now + 2 days", "2026-11-29T14:30:15"),
        ("now+1week", "2026-12-04T14:30:15"),
        ("now+5min", "2026-11-27T14:35:15"),
        ("16:00", "2026-11-27T16:00:00"),
        ("10:00", "2026-11-28T10:00:00"),
        ("9:05:30 PM", "2026-11-27T21:05:30"),
        ("12am", None),
        ("12:00am", "2026-11-28T00:00:00"),
        ("midnight", "2026-11-28T00:00:00"),
        ("noon", "2026-11-28T12:00:00"),
        ("teatime", "2026-11-27T16:00:00"),
        ("tomorrow", "2026-11-28T14:30:15"),
        ("2027-01-02", "2027-01-02T00:00:00"),
        ("2027-01-02T03:04", "2027-01-02T03:04:00"),
        ("01/02/27", "2027-01-02T00:00:00"),
        ("01/02/27-03:04", "2027-01-02T03:04:00"),
        ("010227", "2027-01-02T00:00:00"),
        ("25:00", None),
        ("now+1fortnight", None),
        ("2027-13-01", None),
        ("soon", None),
    ],
)
def test_each_form_of_a_start(text: str, at: str | None) -> None:
    found = parse_begin(text, NOW)
    assert found == (None if at is None else datetime.fromisoformat(at).replace(tzinfo=CET))


def test_a_start_is_meant_in_the_time_zone_of_the_caller() -> None:
    assert read("--begin=16:00")[0].begin_after == parse_instant("2026-11-27T15:00:00Z")
    assert read("--begin=2027-01-02T03:00:00Z")[0].begin_after == parse_instant("2027-01-02T03:00:00Z")
    assert read("--begin=now")[0].begin_after == 0
    with pytest.raises(InvalidRequest, match="is not a time"):
        parse_script("#!/bin/sh\n#SBATCH --begin=now+1hour\ntrue\n", "a.sh", "/")


# ------------------------------------------------------------------ its environment


def test_what_only_the_submission_knows_goes_into_the_environment() -> None:
    found = env(
        "-n 7 --ntasks-per-node=4 -p gpu -q high --mem-per-cpu=2G --gpus-per-task=1 -D /data -d afterok:3"
    )
    assert found == {
        "SLURM_NTASKS": "7",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_JOB_QOS": "high",
        "SLURM_MEM_PER_CPU": "2048",
        "SLURM_GPUS_PER_TASK": "1",
        "SLURM_JOB_DEPENDENCY": "afterok:3",
        "SLURM_SUBMIT_DIR": "/home/u",
        "SLURM_SUBMIT_HOST": "login1",
        "SLURM_SUBMIT_SCRIPT": "/home/u/train.sh",
    }
    assert env("-t 1") == {"SLURM_SUBMIT_HOST": "login1", "SLURM_SUBMIT_SCRIPT": "/home/u/train.sh"}
    assert env("-n 4 -N 2", flags=RunFlags(nodes="4"))["SLURM_NTASKS"] == "4"
    assert env("-n 4 -N 2", flags=RunFlags(nodes="5"))["SLURM_NTASKS"] == "10"
    assert env("--ntasks-per-gpu=2 --gpus-per-node=4")["SLURM_NTASKS_PER_NODE"] == "8"


def test_variables_are_exported_by_name_and_by_value() -> None:
    spec, notices = read("--export=ALL,A=1,LR,MISSING")
    assert {name: value for name, value in spec.env if "_" not in name} == {"A": "1", "LR": "0.1"}
    assert [n.message.partition(" is not honoured")[0] for n in notices] == [
        "--export 'ALL'",
        "--export 'MISSING'",
    ]
    assert read("--export=NONE")[1] == ()


# ------------------------------------------------------------------ flags


def test_flags_stand_above_directives_of_either_kind() -> None:
    text = "#!/bin/bash\n#SBATCH --time=5 --gres=gpu:h100:4\n#BURSAR --env A=1 --env B=2\ntrue\n"
    flags = RunFlags(time_limit="2m", gpus="2", env=("A=9",), name="x", array="0-3")
    spec, _ = parse_script(text, "a.sh", "/", flags=flags)
    assert (spec.time_limit_us, spec.name) == (120 * SECOND_US, "x")
    assert spec.options[0].gpus == GpuRequest(2)
    assert spec.env == (("A", "9"), ("B", "2"))
    assert spec.array is not None


def test_flags_stand_above_a_job_file() -> None:
    text = "name: a\ntime_limit: 1h\nresources: {cpus: 2, memory: 1GB}\nenv: {A: '1'}\nrun: echo\n"
    spec = parse_job(text, "a.yaml", "/", RunFlags(time_limit="2m", cpus="4", env=("A=2", "B=3")))
    assert (spec.name, spec.time_limit_us, spec.options[0].cpu_milli) == ("a", 120 * SECOND_US, 4_000)
    assert (spec.options[0].memory_bytes, spec.env) == (10**9, (("A", "2"), ("B", "3")))
    with pytest.raises(InvalidRequest, match="--time-limit: "):
        parse_job(text, "a.yaml", "/", RunFlags(time_limit="soon"))


# ------------------------------------------------------------------ the body


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ("clear; sbcast a | tee log", "train.sh:2:8: sbcast cannot run"),
        ("salloc -N2", "train.sh:2:1: salloc cannot run"),
        ("echo $SLURM_FOO", "train.sh:2:6: $SLURM_FOO is not set by bursar; docs/from-slurm.md lists"),
        ("echo $SLURM_NODE_ID", "(did you mean $SLURM_NODEID?)"),
        ("echo $SLURM_ARRAY_TASK_ID", "is set in arrays alone; submit with --array"),
        ("echo $SLURM_GPUS_ON_NODE", "is set in jobs with GPUs alone"),
        ("echo $SLURM_MEM_PER_CPU", "is not set here"),
        ("echo ${SLURM_STEP_ID}", "is set in steps alone, for what srun starts"),
        ("echo $SLURM_JOB_UID", "use $(id -u)"),
        ("rm -rf $SLURM_SCRATCH/*", "if it may be missing write ${SLURM_SCRATCH:-}"),
    ],
)
def test_what_a_script_lacks_is_refused_with_its_line(body: str, fragment: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_script(f"#SBATCH -t 1\n{body}\n", "train.sh", "/")
    assert fragment in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        "echo $SLURM_JOB_ID $SLURM_SUBMIT_DIR ${SLURM_RESTART_COUNT}",
        "echo ${SLURM_FOO:-0}",
        "# srun $SLURM_FOO\ntrue",
        "echo 'srun $SLURM_FOO'",
        "command -v srun && srun x",
        "hosts=$(scontrol show hostnames)",
        "srun bash -c 'echo $SLURM_STEP_ID'",
        "trap 'rm -rf ${SLURM_TMPDIR}/*' EXIT",
        "export SLURM_HINT=multithread; echo $SLURM_HINT",
    ],
)
def test_what_it_does_not_lack_is_not(body: str) -> None:
    assert read("-t 1", body=body)[1] == ()


def test_what_is_asked_for_makes_its_variables() -> None:
    body = (
        "echo $SLURM_ARRAY_TASK_ID $SLURM_GPUS_ON_NODE $SLURM_MEM_PER_NODE $SLURM_GPUS_PER_TASK $SLURM_MINE"
    )
    flags = RunFlags(array="0-3", gpus="1", memory="1GB", env=("SLURM_MINE=1",))
    assert read("--gpus-per-task=1", body=body, flags=flags)[1] == ()


def test_a_script_without_directives_of_slurm_has_none_of_its_variables() -> None:
    with pytest.raises(InvalidRequest, match="add one, such as #SBATCH --job-name=NAME"):
        parse_script("#!/bin/bash\necho $SLURM_JOB_ID\n", "a.sh", "/")
    parse_script("#!/bin/bash\necho ${SLURM_JOB_ID:-none}\n", "a.sh", "/")


def test_a_script_in_python_is_read_as_python() -> None:
    head = "#!/usr/bin/env python3\n#SBATCH -t 1\nimport os\n"
    parse_script(
        f"{head}print(os.environ.get('SLURM_FOO'), '$SLURM_FOO', os.environ['SLURM_JOB_ID'])\n", "a", "/"
    )
    with pytest.raises(InvalidRequest, match=r"a:4:10: \$SLURM_FOO is not set"):
        parse_script(f"{head}print(os.environ['SLURM_FOO'])\n", "a", "/")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "srun --container-image=x python a.py",
            "--container-image cannot be done: steps in a container are not built; a job file has `image`",
        ),
        ("FOO=1 time srun -n $N --pty bash", "--pty cannot be done: a job has no terminal"),
        ("x=$(srun --frobnicate hostname)", "--frobnicate is not an option of srun here"),
        ("srun --mpi=pmix ./a.out", "--mpi=pmix is not there, so each process would be a world of its own"),
        ("srun -n 1 server : -n 3 client", "':' begins another program of the same step"),
    ],
)
def test_what_srun_would_refuse_is_refused_before_the_script_goes_on_without_it(body: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_script(f"#!/bin/bash\n#SBATCH -t 1\necho a\n{body}\n", "a.sh", "/w")
    assert "a.sh:4:" in caught.value.message
    assert f"srun cannot do this: {why}" in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        "srun $OPTIONS --pty bash",
        "srun --cpu_bind=v,cores --ntasks_per_node 2 -n$N --wait 60 $LAUNCHER --pty x",
        "srun bash -c ':'",
        "srun --mpi=$TYPE ./a.out",
        "srun --mpi=openmpi ./a.out",
        "srun parallel run ::: a b",
        "srun() { echo; }; srun --pty bash",
        "echo srun --pty bash",
        "srun -n 2 --multi-prog conf.txt",
    ],
)
def test_what_srun_may_well_do_is_not_refused(body: str) -> None:
    parse_script(f"#!/bin/bash\n#SBATCH -t 1\n{body}\n", "a.sh", "/w")


def test_a_variable_of_the_shell_that_the_script_reads_is_named_with_its_line() -> None:
    _, notices = read("-t 1", body="X=1\necho $LR $X ${HF_TOKEN:-none} $HOME $GONE\nmkdir -p $LR")
    assert [(one.line, one.message) for one in notices] == [
        (4, "$LR of your shell is not copied; give --env LR")
    ]
    assert read("-t 1 --export=LR", body="echo $LR")[1] == ()
    plain = "#!/bin/bash\n#BURSAR --name a\necho $LR\n"
    assert parse_script(plain, "a.sh", "/w", caller=CALLER)[1] == ()


# ------------------------------------------------------------------ a place in the queue


def test_a_qos_with_the_name_of_a_priority_is_that_priority_and_another_one_is_refused() -> None:
    for name, priority in (("low", 25), ("Normal", 50), ("high", 75)):
        spec, notes = read(f"--qos={name}")
        assert (spec.priority, notes) == (priority, ())
        assert dict(spec.env)["SLURM_JOB_QOS"] == name
    assert refused("-q gpu_prio") == (
        "train.sh:2:9: -q: there is no QOS 'gpu_prio' here; these are: high, low, normal (an administrator "
        "gives names a meaning with a policy of the kind SlurmNames; or leave the line out and write #BURSAR "
        "--priority low, normal or high)"
    )


def test_a_flag_for_the_priority_stands_above_the_qos() -> None:
    assert read("--qos=high", flags=RunFlags(priority="10"))[0].priority == 10
    assert read("--qos=high\n#BURSAR --priority low")[0].priority == 25


@pytest.mark.parametrize("words", ["afterok:", "afterany:12:", "after::12", "afterok: "])
def test_a_dependency_on_no_job_says_what_may_be_empty(words: str) -> None:
    said = refused(f"--dependency='{words}'")
    assert "names no job; an empty variable may stand where its number was to be" in said


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("[[ a = b ]] && true", "[["), ("source x", "source"), ("A=(1 2)", "an array"), ("cat <<< x", "<<<"),
        ("diff <(a) b", "<(...)"), ("function f { a; }", "function"), ("declare -A m", "declare"),
    ],
)  # fmt: skip
def test_what_only_bash_knows_is_noted_in_a_script_of_sh(body: str, what: str) -> None:
    text = f"#!/bin/sh\n#SBATCH -N1\ntrue\n{body}\n"
    _, notices = parse_script(text, "s.sh", "/w", caller=CALLER)
    (one,) = [one for one in notices if "begin with #!/bin/bash" in one.message]
    assert (one.line, one.message.partition(" is bash's")[0]) == (4, what)
    for first in ("#!/bin/bash", "#!/usr/bin/env bash", "#!/usr/bin/env -S bash -e"):
        _, notices = parse_script(text.replace("#!/bin/sh", first), "s.sh", "/w", caller=CALLER)
        assert not [one for one in notices if "begin with" in one.message]


def test_a_script_that_sh_can_run_is_not_noted() -> None:
    text = (
        "#!/bin/sh\n#SBATCH -N1\nf() { a; }\n[ a = b ]\n. x\necho $((1 + 2)) > o 2>&1\ncat <<E\n[[ x ]]\nE\n"
    )
    assert not [one for one in parse_script(text, "s.sh", "/w", caller=CALLER)[1] if "bash" in one.message]
