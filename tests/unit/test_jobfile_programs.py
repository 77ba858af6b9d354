"""Scripts that call programs of environments: placed where these are, refused where no node has them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bursar.errors import InvalidRequest
from bursar.jobfile.script import Caller, parse_script
from bursar.jobfile.site import Site, SiteNode
from bursar.jobfile.slurm import asks_of_site
from bursar.model import JobSpec
from bursar.model.constraints import matches
from bursar.steps import programs

HEAD = "#!/bin/bash\n#SBATCH -N1\n"


def node(name: str, has: str | None, **more: str) -> SiteNode:
    told = {} if has is None else {label: programs.value_of(has.split()) for label in programs.LABELS}
    return SiteNode({"node": name, "pool": "p", **told, **more}, 8_000, 1 << 34)


def read(body: str, *nodes: SiteNode, head: str = HEAD) -> tuple[JobSpec, list[str]]:
    site = Site(nodes if nodes else None)
    caller = Caller({}, datetime(2026, 11, 29, tzinfo=UTC), "login", site)
    spec, notices = parse_script(head + body, "s.sh", "/w", caller=caller)
    return spec, [f"{one.line}: {one.message}" for one in notices]


def asks(spec: JobSpec) -> str | None:
    return dict(spec.constraints).get(programs.LABEL)


def test_what_no_node_has_is_refused_with_its_line_and_what_helps() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read("cd x\napptainer exec img.sif train\n", node("n1", "ssh"), node("n2", ""))
    (fault,) = caught.value.faults  # type: ignore[attr-defined]
    assert (fault.line, fault.column) == (4, 1)
    assert fault.message.startswith("apptainer cannot run: no node that the job may run on has it")
    assert "--env PATH" in fault.message
    for name, helps in (
        ("ssh", "srun -N1 -n1 -w NODE"),
        ("pdsh", "srun --ntasks-per-node=1"),
        ("parallel", "srun"),
    ):
        with pytest.raises(InvalidRequest, match=helps):
            read(f"{name} n2 hostname\n", node("n1", "conda"))


def test_a_job_goes_where_it_is_and_is_told_so() -> None:
    spec, said = read("julia a.jl\nssh n2 true\n", node("n1", "julia ssh"), node("n2", "conda"))
    assert asks(spec) == "*(julia)*(ssh)*"
    assert said == ["3: julia asks for nodes that have it", "4: ssh asks for nodes that have it"]
    assert matches(asks(spec) or "", programs.value_of(["conda", "julia", "ssh"]))
    assert not matches(asks(spec) or "", programs.value_of(["conda", "ssh"]))
    spec, said = read("julia a.jl\n", node("n1", "julia"), node("n2", "julia"))
    assert (asks(spec), said) == (None, [])
    with pytest.raises(InvalidRequest, match=r"no node that the job may run on has all of julia, ssh"):
        read("julia a.jl\nssh n2 true\n", node("n1", "julia"), node("n2", "ssh"))


def test_where_nodes_do_not_tell_it_is_noted() -> None:
    for nodes in ((), (node("n1", None),), (node("n1", "julia"), node("n2", None))):
        spec, said = read("conda run -n x a\n", *nodes)
        assert (asks(spec), said) == (None, ["3: conda runs only where the node has it"])


@pytest.mark.parametrize(
    "body",
    [
        "command -v julia || exit 1\njulia a\n",
        "which julia\njulia a\n",
        "export PATH=$HOME/bin:$PATH\njulia a\n",
        "PATH=/opt/julia/bin:$PATH\njulia a\n",
        "source ~/env.sh\njulia a\n",
        ". ~/.bashrc\njulia a\n",
        "module load julia\njulia a\n",
        "curl -fsSL https://install.julialang.org | sh\njulia a\n",
        'julia() { /opt/julia/bin/julia "$@"; }\njulia a\n',
        'eval "$(/opt/conda/bin/conda shell.bash hook)"\nconda activate x\n',
        "# julia a\necho 'julia a'\n/opt/julia/bin/julia a\n~/julia/bin/julia a\n",
        "timeout 10 python train.py julia\nxargs grep julia\n",
        "cat <<E\njulia a\nE\n",
        "python --env conda\nsbatch parallel.sh\n",
    ],
)
def test_a_script_that_would_run_is_neither_refused_nor_moved(body: str) -> None:
    spec, said = read(body, node("n1", "", modules="lmod"))
    assert asks(spec) is None
    assert not [one for one in said if "julia" in one or "conda" in one]


@pytest.mark.parametrize(
    "body",
    [
        "if [ -x /x ]; then\n  julia a\nfi\n",
        "case $1 in\n a) julia a;;\nesac\n",
        "run() {\n  julia a\n}\n",
        '[ -n "$X" ] && julia a\n',
        "julia a || true\n",
    ],
)
def test_what_may_not_run_is_noted(body: str) -> None:
    spec, said = read(body, node("n1", ""))
    assert asks(spec) is None
    assert [one.partition(": ")[2] for one in said] == ["julia is on no node that the job may run on"]


def test_a_path_of_its_own_or_a_login_shell_may_bring_it() -> None:
    for head in (HEAD + "#SBATCH --export=PATH=/opt/julia/bin\n", HEAD.replace("bash", "bash -l")):
        assert read("julia a\n", node("n1", ""), head=head)[1] == []


def test_an_environment_of_conda_that_cannot_be_activated_is_noted() -> None:
    _, said = read("conda activate x\n", node("n1", "conda"))
    assert [one for one in said if "conda.sh" in one] == [
        "3: conda activate works in a script only below `source .../etc/profile.d/conda.sh` or"
        ' `eval "$(conda shell.bash hook)"`'
    ]
    _, said = read("source /opt/conda/etc/profile.d/conda.sh\nconda activate x\n", node("n1", "conda"))
    assert said == []


def test_a_script_that_names_one_asks_for_the_nodes() -> None:
    assert asks_of_site(HEAD + "apptainer exec a b\n").nodes
    assert not asks_of_site(HEAD + "# apptainer exec a b\npython a\n").nodes


def test_an_agent_tells_what_is_on_its_path(tmp_path: Path) -> None:
    for name, mode in (("conda", 0o755), ("ssh", 0o644), ("other", 0o755)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "julia").mkdir()
    env = {"PATH": f"relative:{tmp_path}/none:{tmp_path}"}
    assert programs.label_of(env) == {"programs": "(conda)", "tools": "()"}
    assert programs.label_of({"PATH": "/nowhere"}) == {"programs": "()", "tools": "()"}
    assert all(len(programs.value_of(names)) <= 200 for names in programs.LABELS.values())
    assert programs.pattern_of(["ssh", "conda"]) == "*(conda)*(ssh)*"


@pytest.mark.parametrize("name", programs.NAMES)
def test_each_program_that_no_node_has_is_refused_by_its_line(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(f"cd x\n{name} run python train.py\n", node("n1", "true"), node("n2", ""))
    (fault,) = caught.value.faults  # type: ignore[attr-defined]
    assert (fault.line, fault.message.split(":")[0]) == (4, f"{name} cannot run")


def test_an_agent_from_before_a_label_is_not_said_to_lack_what_it_tells_of() -> None:
    older = SiteNode({"node": "n1", "pool": "p", programs.LABEL: "(conda)"}, 8_000, 1 << 34)
    spec, said = read("uv run a.py\n", older)
    assert (dict(spec.constraints), said) == ({}, ["3: uv runs only where the node has it"])
    nodes = node("n1", "aws conda"), node("n2", "conda"), node("n3", "aws")
    spec, said = read("aws s3 ls\nconda run b\n", *nodes)
    assert dict(spec.constraints) == {"programs": "*(conda)*", "tools": "*(aws)*"}


@pytest.mark.parametrize(
    "line", ["pip install uv", "python3 -m pip install uv", "pipx install uv", "source env/bin/activate"]
)
def test_what_a_script_brings_itself_is_not_refused(line: str) -> None:
    spec, said = read(f"{line}\nuv run a.py\n", node("n1", ""))
    assert (dict(spec.constraints), said) == ({}, [])
