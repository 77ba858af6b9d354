"""What a simulation of a bit of everything says to the last digit, and what each wrong cell is called.

Why     a summary has some hundred figures, its files thirty columns, each with its bounds and its sentence.
        They stand in tests/golden/sims.txt; written anew by `BURSAR_GOLDEN=write pytest
        tests/sim/test_sims_as_they_were.py`, and read before they are kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.main import run as bursar
from bursar.errors import BursarError
from bursard.sim import rows

GOLDEN = Path(__file__).parents[1] / "golden/sims.txt"
NODES = """\
node_id,cpu_milli,memory_mib,gpus,gpu_type,gpu_memory_mib,pool,rack,price_per_hour,available_from_s,available_until_s
a1,16000,64000,4,A100,40960,a,r1,8.40,,
a2,16000,64000,4,A100,81920,a,r1,8.40,,7200
a3,16000,64000,4,A100,81920,a,r2,8.40,1800,
h1,32000,128000,8,H100,81920,h,r3,,,
c1,64000,256000,0,,,c,r4,1.25,,
"""
JOBS = """\
job_id,submit_s,duration_s,nodes,gpus,gpu_milli,gpu_type,cpu_milli,memory_mib,priority,project,user,experiment,\
deadline_s,time_limit_s,preemptible,max_cost,checkpoint_s,throughput
small,0,600,1,1,,,1000,1024,normal,nlp,ann,e1,900,,,,,
gang,10,3000,2,4,,A100,4000,2048,high,nlp,ann,e1,4000,,,,600,
lost,20,9000,1,4,,A100,4000,2048,low,nlp/a,bob,e2,20000,,1,,900,A100=1;H100=2.5
part,30,1200,1,1,300,,500,512,40,cv,cid,,,,,,,
half,40,1200,1,1,500,,500,512,40,cv,cid,,,,,,,
long,50,7200,1,2,,H100,2000,1024,normal,cv,cid,,,3600,,,,
dear,60,7200,1,8,,H100,2000,1024,low,cv,bob,,,,1,2.50,,
many,70,4000,1,8,,H100,2000,1024,100,nlp,ann,,,,0,,,
cpus,80,5000,1,0,,,60000,200000,normal,ops,eve,,,,,,,
next,90,100,1,0,,,60000,200000,normal,ops,eve,,120,,,,,
huge,100,100,1,9,,,1000,1024,normal,ops,eve,,,,,,,
wide,110,100,9,4,,A100,1000,1024,normal,ops,eve,,,,,,,
type,120,100,1,1,,V100|H100,1000,1024,normal,ops,eve,,,,,,,
ever,130,,1,1,,,1000,1024,normal,ops,dan,,,7000,,,,
poor,140,3600,1,4,,,1000,1024,normal,poor,dan,,,,,,,
never,150,360000,1,4,,,1000,1024,normal,poor,dan,,,,,,,
later,20000,60,1,1,,,1000,1024,normal,nlp,ann,,,,,,,
"""
POLICIES = """\
kind: CostModel
name: h
spec: {pool: h, node_capex: 250000 USD, useful_life: 4y, practical_capacity: 80%}
---
kind: Budget
name: poor
spec: {scope: {project: poor}, limit: 60 USD, period: day}
---
kind: Budget
name: cv
spec:
  scope: {project: cv}
  limit: 90 USD
  thresholds: [{at: 10%, do: [lower-priority]}, {at: 60%, do: [checkpoint-stop]}]
---
kind: PriorityPolicy
name: order
spec: {weights: {run_time: 1, fair_share: 2}, max_wait: 1h, preempt: {gap: 20, restart: 30s}}
"""
WRONG = (
    "-1", "0", "1.5", "0.5", "1e3", "1000000", "1000001", "99999999999999999999", "x", "x y", "1_0", "A100|",
    "A100=0", "A100=1;x", "A100=1000001", "true", "2", "3", "nan", "inf", "12.5", "low", "a" * 201, "\u2028",
)  # fmt: skip
LEAST_JOB = {"job_id": "j", "submit_s": "5", "gpus": "1"}
LEAST_NODE = {"node_id": "n", "cpu_milli": "4000", "memory_mib": "1000", "gpus": "2", "available_from_s": "3"}


class Desk:
    """Writes files, and runs the command on them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.files = ["--jobs", self.write("jobs.csv", JOBS), "--nodes", self.write("nodes.csv", NODES)]

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def __call__(self, *words: str) -> str:
        """Exit code, and all that was said."""
        code = bursar(["sim", *words])
        said = self.capsys.readouterr()
        return f"exit {code}\n{said.out}{said.err}".replace(str(self.folder), "F")


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def as_it_was(name: str, found: str) -> None:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    kept = dict(zip(parts[1::2], parts[2::2], strict=True))
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept[name] = found
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == kept.get(name), "see the head of this file"


def steady(said: str) -> str:
    """Without what is another each time: how long it took."""
    code, _, text = said.partition("\n")
    found = json.loads(text)
    found.pop("timing", None)
    return f"{code}\n{json.dumps(found, indent=1)}\n"


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("all", ()),
        ("until", ("--until", "5000")),
        ("dropped", ("--drop-unplaced",)),
        ("spread", ("--policy", "spread")),
        ("without policies", ()),
    ],
)
def test_a_simulation_of_everything_comes_out_as_it_did(
    name: str, flags: tuple[str, ...], desk: Desk
) -> None:
    desk.write("policies/p.yaml", POLICIES)
    if name != "without policies":
        flags += ("--policies", str(desk.folder / "policies"))
    said = desk(*desk.files, "-o", "json", "--out-jobs", str(desk.folder / "out.csv"), *flags)
    as_it_was(f"run {name}", steady(said) + (desk.folder / "out.csv").read_text())


def test_the_table_says_what_the_json_says(desk: Desk) -> None:
    desk.write("policies/p.yaml", POLICIES)
    as_it_was("table", desk(*desk.files, "--policies", str(desk.folder / "policies")))


def changed(row: Any, plain: Any) -> str:
    """What the cell made of its row."""
    fields = ((name, getattr(row, name)) for name in row.__struct_fields__)
    return ", ".join(f"{name}={value!r}"[:150] for name, value in fields if value != getattr(plain, name))


@pytest.mark.parametrize(
    ("flag", "columns", "least"),
    [("--jobs", rows.JOB_COLUMNS, LEAST_JOB), ("--nodes", rows.NODE_COLUMNS, LEAST_NODE)],
    ids=["jobs", "nodes"],
)
def test_each_wrong_cell_is_refused_in_its_own_words(
    flag: str, columns: tuple[str, ...], least: dict[str, str], desk: Desk
) -> None:
    found = []
    read: Callable[[str], list[Any]] = rows.read_jobs if flag == "--jobs" else rows.read_nodes
    plain = read(desk.write("cells.csv", f"{','.join(least)}\n{','.join(least.values())}\n"))[0]
    for column in columns:
        for wrong in WRONG:
            row = least | {column: f'"{wrong}"'}
            path = desk.write("cells.csv", f"{','.join(row)}\n{','.join(row.values())}\n")
            try:
                said = changed(read(path)[0], plain)
            except BursarError as problem:
                said = f"! {problem}"
            found.append(f"{column}={wrong[:30]}: {said}\n".replace(str(desk.folder), "F"))
    as_it_was(f"cells {flag}", "".join(found))


def test_what_the_command_line_cannot_mean_is_refused(desk: Desk) -> None:
    empty = desk.folder / "empty"
    empty.mkdir()
    desk.write("large/p.yaml", "#" * (20 << 20))
    desk.write("pool/p.yaml", "kind: CloudPool\nname: c\nspec: {provider: local, limits: {machines: 2}}\n")
    desk.write("two.csv", "job_id,submit_s\na,1\na,2\n")
    desk.write("twice.csv", "node_id,cpu_milli,memory_mib\na,1,1\na,2,2\n")
    desk.write("none.csv", "node_id,cpu_milli,memory_mib\n")
    desk.write("wrong.csv", "job_id,submit_s\n" + "".join(f"j{at},x\n" for at in range(30)))
    desk.write("empty.csv", "")
    folder, (_, jobs, _, nodes) = str(desk.folder), desk.files
    asked = [
        ["--jobs", jobs],
        ["--jobs", "-", "--nodes", "-"],
        [*desk.files, "--out-jobs", f"{folder}/none/x.csv"],
        [*desk.files, "--until", "-1"],
        [*desk.files, "--until", "x"],
        [*desk.files, "--policies", f"{folder}/none"],
        [*desk.files, "--policies", str(empty)],
        [*desk.files, "--policies", f"{folder}/large"],
        [*desk.files, "--policies", f"{folder}/pool"],
        [*desk.files, "--policy", "spred"],
        [*desk.files, "--policy", "q"],
        ["--jobs", f"{folder}/two.csv", "--nodes", nodes],
        ["--jobs", f"{folder}/wrong.csv", "--nodes", nodes],
        ["--jobs", f"{folder}/empty.csv", "--nodes", nodes],
        ["--jobs", f"{folder}/none.csv", "--nodes", nodes],
        ["--jobs", f"{folder}/absent.csv", "--nodes", nodes],
        ["--jobs", jobs, "--nodes", f"{folder}/twice.csv"],
        ["--jobs", jobs, "--nodes", f"{folder}/none.csv"],
        ["--replay", jobs],
        ["--replay", jobs, "--until", "5"],
        ["--replay", f"{folder}/absent"],
    ]
    said = [f"--- {' '.join(words)}\n".replace(folder, "F") + desk(*words) for words in asked]
    as_it_was("refused", "".join(said))
