"""Partitions, QOS and accounts of scripts stand for what a policy of the site says, or are refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from whole_site import Site as WholeSite
from whole_site import play

from bursar.clock import HOUR_US, SECOND_US
from bursar.codec.slurm_names import names_from_wire, names_to_wire
from bursar.errors import InvalidRequest, PolicyInvalid
from bursar.jobfile import Caller, RunFlags, parse_script
from bursar.jobfile.site import Site, SiteNode
from bursar.model import JobSpec
from bursar.model.slurm_names import SlurmName, SlurmNames, find
from bursar.resources import GpuRequest
from bursar.v1 import money_pb2, nodes_pb2
from bursar_policies.document import parse_documents
from bursar_policies.specs import SlurmNamesSpec

OLD = """\
kind: SlurmNames
name: old
spec:
  partitions:
    gpu: {constraints: {pool: dgx}, gpu_type: h100, spot_policy: on-demand, priority: 60}
    debug: {time_limit: 30m}
    small: {constraints: {pool: "s1,s2"}}
  qos:
    long: {priority: low, time_limit: 7d}
    "qos_*": {}
    "qos_gpu*": {priority: 70}
  accounts:
    "*@v100": {gpu_type: V100}
    abc@v100: {project: Research/ABC, gpu_type: V100, constraints: {rack: r1}}
"""


def spec_of(text: str) -> SlurmNamesSpec:
    [document] = parse_documents(text, "names.yaml")
    assert isinstance(document.spec, SlurmNamesSpec)
    return document.spec


def names_of(text: str) -> SlurmNames:
    spec = spec_of(text)
    return SlurmNames("old", spec.partitions, spec.qos, spec.accounts)


NAMES = names_of(OLD)
NODES = tuple(SiteNode({"node": f"n-{pool}", "pool": pool}, 64_000, 2**38) for pool in ("dgx", "s1", "b"))


def read(
    *directives: str, flags: RunFlags | None = None, names: tuple[SlurmNames, ...] = (NAMES,)
) -> tuple[JobSpec, list[str]]:
    text = "\n".join(["#!/bin/bash", *(f"#SBATCH {one}" for one in directives), "true", ""])
    caller = Caller({}, datetime(2026, 11, 27, tzinfo=UTC), "", Site(NODES, names))
    spec, notices = parse_script(text, "a.sh", "/w", flags=flags, caller=caller)
    return spec, [f"{notice.line} {notice.message}" for notice in notices]


def refused(*directives: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(*directives)
    return caught.value.message


# ------------------------------------------------------------------ the document


def test_a_document_gives_names_a_meaning_in_the_words_of_a_job_file() -> None:
    assert spec_of(OLD) == SlurmNamesSpec(
        partitions=(
            SlurmName("debug", time_limit_us=1800 * SECOND_US),
            SlurmName(
                "gpu",
                constraints=(("pool", "dgx"),),
                gpu_type="H100",
                priority=60,
                spot_policy="on-demand",
            ),
            SlurmName("small", constraints=(("pool", "s1,s2"),)),
        ),
        qos=(
            SlurmName("long", priority=25, time_limit_us=168 * HOUR_US),
            SlurmName("qos_*"),
            SlurmName("qos_gpu*", priority=70),
        ),
        accounts=(
            SlurmName("*@v100", gpu_type="V100"),
            SlurmName("abc@v100", "research/abc", (("rack", "r1"),), "V100"),
        ),
    )


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        ("{}", ["names.yaml:3:7: spec: names nothing; give at least one of partitions, qos, accounts"]),
        ("{qoses: {}}", ["names.yaml:3:8: spec.qoses: unknown key 'qoses'; did you mean 'qos'?"]),
        ("{qos: [a]}", ["names.yaml:3:13: spec.qos: expected a mapping"]),
        ("{qos: {a b: {}}}", ["names.yaml:3:14: spec.qos.a b: 'a b' is not a name of letters, digits"]),
        ("{qos: {a: 3}}", ["names.yaml:3:17: spec.qos.a: expected a mapping"]),
        ("{qos: {a: {prio: 3}}}", ["names.yaml:3:18: spec.qos.a.prio: unknown key 'prio'; did you mean"]),
        ("{qos: {a: {priority: 300}}}", ["names.yaml:3:28: spec.qos.a.priority: is 300"]),
        (
            "{qos: {a: {priority: hgh}}}",
            ["'hgh' is not low, normal, high or 0 to 100; did you mean 'high'?"],
        ),
        ("{qos: {a: {time_limit: 0s}}}", ["spec.qos.a: time_limit: is no time at all"]),
        ("{qos: {a: {time_limit: 900d}}}", ["names.yaml:3:30: spec.qos.a.time_limit: is 900 days; at most"]),
        ("{qos: {a: {spot_policy: spt}}}", ["spec.qos.a.spot_policy: 'spt' is not"]),
        ("{qos: {a: {gpu_type: 4}}}", ["spec.qos.a.gpu_type: '4'"]),
        ("{accounts: {a: {project: a//b}}}", ["names.yaml:3:32: spec.accounts.a.project: "]),
        (
            "{partitions: {a: {constraints: {'b c': x}}}}",
            ["spec.partitions.a.constraints.b c: 'b c' is not a"],
        ),
        ("{partitions: {a: {constraints: {pool: 'a b'}}}}", ["spec.partitions.a.constraints.pool: 'a b' is"]),
    ],
)
def test_each_fault_of_a_document_has_its_place(spec: str, faults: list[str]) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        spec_of(f"kind: SlurmNames\nname: old\nspec: {spec}\n")
    assert len(caught.value.faults) == len(faults), caught.value.message
    for fault in faults:
        assert fault in caught.value.message


def test_a_document_has_so_many_names() -> None:
    def text(count: int) -> str:
        names = "".join(f"    q{index}: {{}}\n" for index in range(count))
        return f"kind: SlurmNames\nname: a\nspec:\n  qos:\n{names}"

    assert len(spec_of(text(1000)).qos) == 1000
    with pytest.raises(PolicyInvalid, match="gives 1001 names a meaning; at most 1000 in one document"):
        spec_of(text(1001))


def test_names_survive_the_wire() -> None:
    assert names_from_wire([names_to_wire(NAMES)]) == (NAMES,)
    zero = SlurmNames("a", qos=(SlurmName("a", priority=0), SlurmName("b")))
    assert names_from_wire([names_to_wire(zero)]) == (zero,)


def test_the_name_itself_comes_before_patterns_and_the_longest_pattern_first() -> None:
    def found(option: str, text: str) -> str:
        one = find((NAMES,), option, text)
        return one[0].name if one is not None else ""

    assert found("account", "abc@v100") == "abc@v100"
    assert found("account", "xyz@v100") == "*@v100"
    assert found("qos", "qos_gpu-t3") == "qos_gpu*"
    assert found("qos", "qos_cpu") == "qos_*"
    assert found("qos", "debug") == found("partition", "GPU") == found("partition", "") == ""


# ------------------------------------------------------------------ scripts


def test_a_partition_becomes_what_it_stands_for_and_that_is_said() -> None:
    spec, notes = read("-p gpu", "--gres=gpu:2")
    assert spec.constraints == (("pool", "dgx"),)
    assert spec.options[0].gpus == GpuRequest(2, ("H100",))
    assert (spec.priority, spec.spot_policy) == (60, "on-demand")
    assert notes == [
        "2 -p stands for nodes whose pool is dgx, H100 GPUs, priority 60, spot policy on-demand "
        "(policy SlurmNames/old)"
    ]
    assert dict(spec.env)["SLURM_JOB_PARTITION"] == "gpu"


def test_what_the_script_or_a_flag_says_stands_above_a_name() -> None:
    spec, notes = read("-p gpu", "--gres=gpu:a100:1")
    assert spec.options[0].gpus == GpuRequest(1, ("A100",))
    assert notes == ["2 -p stands for nodes whose pool is dgx, priority 60, spot policy on-demand "
                     "(policy SlurmNames/old)"]  # fmt: skip
    spec, notes = read("-p gpu", flags=RunFlags(priority="10", spot=True))
    assert (spec.priority, spec.spot_policy) == (10, "spot")
    assert notes == ["2 -p stands for nodes whose pool is dgx (policy SlurmNames/old)"]
    assert read("-p gpu", "--qos=high")[0].priority == 75
    assert read("-A abc@v100", "-C a100", "--gres=gpu:1")[0].options[0].gpus == GpuRequest(1, ("A100",))


def test_a_qos_counts_before_a_partition() -> None:
    spec, notes = read("-p gpu", "-q long")
    assert spec.priority == 25
    assert notes == [
        "2 -p stands for nodes whose pool is dgx, spot policy on-demand (policy SlurmNames/old)",
        "3 -q stands for priority 25, at most 7d00h (policy SlurmNames/old)",
    ]
    assert dict(spec.env)["SLURM_JOB_QOS"] == "long"
    assert read("-q qos_cpu")[1] == ["2 -q stands for nothing more (policy SlurmNames/old)"]


def test_a_limit_is_the_longest_and_what_a_job_gets_that_names_none() -> None:
    half = 1800 * SECOND_US
    assert read("-p debug")[0].time_limit_us == half
    assert read("-p debug", "-t 10")[0].time_limit_us == 600 * SECOND_US
    assert read("-p debug", "-t 30")[0].time_limit_us == half
    assert read("-p debug", "-q long")[0].time_limit_us == half
    assert read("-p debug", "-t UNLIMITED")[0].time_limit_us == half
    assert refused("-p debug", "-t 31") == (
        "a.sh:2:9: -p: gives a job 30m00s at most (policy SlurmNames/old), and this one asks for 31m00s; "
        "ask for less, or name another"
    )
    with pytest.raises(InvalidRequest, match="and this one asks for 2h00m"):
        read("-p debug", flags=RunFlags(time_limit="2h"))


def test_an_account_becomes_a_project_and_a_type_of_gpu() -> None:
    spec, notes = read("-A abc@v100", "--gres=gpu:4")
    assert (spec.project, spec.options[0].gpus) == ("research/abc", GpuRequest(4, ("V100",)))
    assert spec.constraints == (("rack", "r1"),)
    assert notes == [
        "2 -A stands for project research/abc, nodes whose rack is r1, V100 GPUs (policy SlurmNames/old)"
    ]
    spec, notes = read("-A xyz@v100", "--gres=gpu:1", flags=RunFlags(project="mine"))
    assert (spec.project, spec.options[0].gpus) == ("mine", GpuRequest(1, ("V100",)))
    assert read("-A xyz@v100", "--gres=gpu:1")[0].project == "xyz"
    assert read("-A xyz")[0].project == "xyz"
    assert "'a100x' behind the @ is no type of GPU" in refused("-A xyz@a100x")


def test_several_partitions_are_nodes_of_any_of_them() -> None:
    spec, notes = read("-p small,b")
    assert spec.constraints == (("pool", "s1,s2,b"),)
    assert notes == ["2 -p stands for nodes whose pool is s1 or s2 or b (policy SlurmNames/old)"]
    for text in ("small,gpu", "small,nowhere", "debug,b"):
        assert refused(f"-p {text}") == (
            f"a.sh:2:9: -p: '{text}' names partitions that do not stand for nodes of one property alone; "
            "keep one"
        )


def test_two_words_for_one_property_are_refused() -> None:
    assert refused("-p gpu", "-C pool") == (
        "a.sh:2:9: -p: asks for nodes whose pool is dgx (policy SlurmNames/old), and another word for pool"
        " *; keep one"
    )
    rack = names_of("kind: SlurmNames\nname: x\nspec: {partitions: {r: {constraints: {rack: r1}}}}\n")
    assert read("-A abc@v100", "-p r", names=(NAMES, rack))[0].constraints == (("rack", "r1"),)


def test_a_name_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    assert refused("-q nope") == (
        "a.sh:2:9: -q: there is no QOS 'nope' here; these are: high, long, low, normal, qos_*, qos_gpu* (an "
        "administrator gives names a meaning with a policy of the kind SlurmNames; or leave the line out and "
        "write #BURSAR --priority low, normal or high)"
    )
    assert refused("-p nope") == (
        "a.sh:2:9: -p: there is no partition 'nope' here; these are: b, debug, dgx, gpu, s1, small (a "
        "partition is the label `partition` of nodes, or a pool; an administrator gives names a meaning with "
        "a policy of the kind SlurmNames)"
    )
    alone = Site((NODES[0],), (NAMES,))
    text = "#!/bin/sh\n#SBATCH -p nope\ntrue\n"
    with pytest.raises(InvalidRequest, match="no partition 'nope' here; these are: debug, dgx, gpu, small "):
        parse_script(text, "a.sh", "/w", caller=Caller({}, datetime(2026, 11, 27, tzinfo=UTC), "", alone))
    many = SlurmNames("m", qos=tuple(SlurmName(f"q{index:03}") for index in range(60)))
    with pytest.raises(InvalidRequest, match=r"normal, q000, .*, q036 and 23 more \(an administrator"):
        read("-q nope", names=(many,))


# ------------------------------------------------------------------ the daemon


async def apply(site: WholeSite, *texts: str, method: str = "Policies.Apply") -> tuple[str, str]:
    sources = [money_pb2.PolicySource(name=f"{index}.yaml", text=text) for index, text in enumerate(texts)]
    request = money_pb2.ApplyRequest(sources=sources)
    verdict, _ = await site.ask(method, request, token=site.token("oz", "admin"))
    return verdict


async def told(site: WholeSite, *who: str) -> list[Any]:
    request = nodes_pb2.SlurmNamesRequest()
    (status, details), [answer] = await site.ask("Nodes.SlurmNames", request, token=site.token(*who))
    assert status == "OK", details
    return [names_from_wire([each])[0] for each in answer.documents]


def test_who_submits_is_told_what_is_in_force_but_projects_that_it_may_not_see() -> None:
    async def story(site: WholeSite) -> None:
        assert await told(site, "ann", "submitter", "p") == []
        assert await apply(site, OLD) == ("OK", "")
        assert await told(site, "vic", "viewer", "") == [NAMES]
        assert await told(site, "ann", "submitter", "research") == [NAMES]
        [found] = await told(site, "ann", "submitter", "p")
        assert found.accounts == NAMES.accounts[:1]
        assert (found.partitions, found.qos) == (NAMES.partitions, NAMES.qos)
        request = money_pb2.PolicyRequest(kind="SlurmNames", name="old")
        await site.ask("Policies.Delete", request, token=site.token("oz", "admin"))
        assert await told(site, "vic", "viewer", "") == []

    play(story)


def test_a_name_has_one_meaning_over_all_documents() -> None:
    def named(name: str, spec: str) -> str:
        return f"kind: SlurmNames\nname: {name}\nspec: {spec}\n"

    async def story(site: WholeSite) -> None:
        assert await apply(site, named("a", "{qos: {x: {}}, partitions: {y: {}}}")) == ("OK", "")
        twice = (
            "INVALID_ARGUMENT",
            "0.yaml:1: SlurmNames b: the qos x has a meaning in SlurmNames a already; take it out of one of"
            " them",
        )
        for method in ("Policies.Check", "Policies.Apply"):
            assert await apply(site, named("b", "{qos: {x: {}}}"), method=method) == twice
        assert await apply(site, named("b", "{partitions: {x: {}}, qos: {y: {}}}")) == ("OK", "")
        moved = (named("a", "{qos: {z: {}}}"), named("b", "{qos: {x: {}}}"))
        assert await apply(site, *moved) == ("OK", "")
        assert await apply(site, *moved) == ("OK", "")
        more = [named(f"c{index}", f"{{qos: {{c{index}: {{}}}}}}") for index in range(7)]
        assert await apply(site, *more) == (
            "INVALID_ARGUMENT",
            "9 documents of SlurmNames would be in force; a site has at most 8; put several into one",
        )
        assert await apply(site, *more[:6]) == ("OK", "")
        assert site.engine.state.priced == []

    play(story)


def test_the_example_of_the_page_is_a_document() -> None:
    page = (Path(__file__).parents[2] / "docs/generate_slurm.py").read_text()
    found = re.search(r"```yaml\n(kind: SlurmNames\n.+?)```", page, re.DOTALL)
    assert found is not None
    assert find((names_of(found[1]),), "account", "proj@v100") is not None
