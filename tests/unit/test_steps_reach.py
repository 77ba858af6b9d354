"""A node's name that nothing resolves, where a step takes it for an address."""

from __future__ import annotations

import pytest

from bursar.steps import reach
from bursar.steps.request import Member, Refused, Request
from bursar.steps.slots import Slots

HERE = [Member(0, "local-1", "127.0.0.1"), Member(1, "local-11", "10.0.0.2")]


def nothing_but_addresses(name: str) -> bool:
    return name[0].isdigit()


def changed(*words: str) -> list[str]:
    request = Request(list(words), quiet=True)
    reach.with_addresses(request, {}, HERE, nothing_but_addresses)
    return request.argv


@pytest.mark.parametrize(
    ("given", "told"),
    [("local-1", "127.0.0.1"), ("local-11", "10.0.0.2"), ("127.0.0.1", "127.0.0.1"), ("else", "else")],
)
def test_tasks_find_an_address_in_master_addr(given: str, told: str) -> None:
    env = {"MASTER_ADDR": given, "OTHER": "local-1"}
    found = reach.with_addresses(Request(["x"]), env, HERE, nothing_but_addresses)
    assert found == {"MASTER_ADDR": told, "OTHER": "local-1"}
    assert env["MASTER_ADDR"] == given


def test_names_that_the_site_resolves_stay(capsys: pytest.CaptureFixture[str]) -> None:
    request = Request(["torchrun", "--rdzv_endpoint", "local-1:29500"])
    env = {"MASTER_ADDR": "local-1"}
    assert reach.with_addresses(request, env, HERE, lambda name: True) == env
    assert request.argv == ["torchrun", "--rdzv_endpoint", "local-1:29500"]
    assert capsys.readouterr().err == ""


def test_a_name_stays_where_its_address_resolves_no_better() -> None:
    env = {"MASTER_ADDR": "local-1"}
    assert reach.with_addresses(Request(["x"]), env, HERE, lambda name: False) == env


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["torchrun", "--rdzv_endpoint", "local-1:29500"],
            ["torchrun", "--rdzv_endpoint", "127.0.0.1:29500"],
        ),
        (["torchrun", "--rdzv_endpoint=local-11:29500"], ["torchrun", "--rdzv_endpoint=10.0.0.2:29500"]),
        (["torchrun", "--master_addr", "local-1", "a"], ["torchrun", "--master_addr", "127.0.0.1", "a"]),
        (["torchrun", "--master-addr=local-1"], ["torchrun", "--master-addr=127.0.0.1"]),
        (
            ["bash", "-c", 'x --main_process_ip "local-1" y'],
            ["bash", "-c", 'x --main_process_ip "127.0.0.1" y'],
        ),
        (["python", "--dist-url", "tcp://local-1:1234"], ["python", "--dist-url", "tcp://127.0.0.1:1234"]),
    ],
)
def test_tasks_get_an_address_where_the_command_means_one(words: list[str], told: list[str]) -> None:
    assert changed(*words) == told


@pytest.mark.parametrize(
    "words",
    [
        ["echo", "local-1"], ["mpirun", "-host", "local-1:2,local-11:2"], ["x", "--addr", "local-1.site"],
        ["x", "--addr", "my-local-1"], ["x", "my-local-1:2950"], ["x", "local-1:123456"],
        ["x", "root@local-1:2950"], ["x", "/data/local-1:2950"], ["x", "--addr-label", "local-1"],
        ["x", "--addr", "local-12"],
    ],
)  # fmt: skip
def test_other_words_with_a_name_stay_and_are_not_looked_up(words: list[str]) -> None:
    def never(name: str) -> bool:
        raise AssertionError(name)

    request = Request(list(words))
    reach.with_addresses(request, {}, HERE, never)
    assert request.argv == words


def test_a_changed_command_is_said_once_and_the_programs_of_ranks_change_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = Request(
        ["a", "local-1:2222", "local-1:3333"], program="srun", programs={1: ["b", "local-1:4444"]}
    )
    reach.with_addresses(request, {}, HERE, nothing_but_addresses)
    assert request.argv == ["a", "127.0.0.1:2222", "127.0.0.1:3333"]
    assert request.programs == {1: ["b", "127.0.0.1:4444"]}
    assert capsys.readouterr().err == "srun: local-1 does not resolve here; tasks get its address 127.0.0.1\n"


def test_a_lookup_says_whether_there_is_an_address() -> None:
    assert reach.resolves("127.0.0.1")
    assert not reach.resolves("a" * 64)
    assert not reach.resolves(".")


def test_a_step_with_cpus_of_its_own_heeds_addresses_and_exclusions(tmp_path: object) -> None:
    env = {"SLURM_TMPDIR": str(tmp_path), "SLURM_JOB_CPUS_PER_NODE": "2(x2)"}

    def nodes(**words: list[str]) -> list[str]:
        found = Slots(env).take(Request(["x"], tasks=1, exclusive=True, **words), HERE)  # type: ignore[arg-type]
        return [place.member.name for place in found]

    assert nodes(node=["10.0.0.2"]) == ["local-11"]
    assert nodes(exclude=["local-1"]) == ["local-11"]
    with pytest.raises(Refused, match=r"nowhere is no node of this job; these are: local-\[1,11\]"):
        nodes(node=["nowhere"])
