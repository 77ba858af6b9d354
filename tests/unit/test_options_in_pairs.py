"""What two options of Slurm mean together, where that is not what each means alone.

Why     most of what is decided about `#SBATCH` and `srun` is decided by two options at once: tasks and GPUs,
        memory and CPUs, nodes and their names. Nobody names all pairs. Each is asked for; those that mean
        something of their own, or are refused, stand in tests/golden/pairs.txt. Written anew by
        `BURSAR_GOLDEN=write pytest -n0 tests/unit/test_options_in_pairs.py`, and read before it is kept.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

GOLDEN = Path(__file__).parents[1] / "golden/pairs.txt"
SCRIPT = "#!/bin/bash\n#SBATCH {}\nsrun true\n"
OPTIONS = (
    "--array=0-3", "--begin=now+1hour", "--constraint=F", "--constraint=H100", "--cpus-per-gpu=3",
    "--cpus-per-task=5", "--dependency=afterok:7", "--dependency=aftercorr:7", "--exclude=n[1-3]",
    "--exclusive", "--export=NONE", "--export=A,Z=1", "--gpu-bind=single:1", "--gpu-bind=per_task:1",
    "--gpus=4", "--gpus=H100:4", "--gpus-per-node=2", "--gpus-per-task=1", "--gpus-per-task=a100:1",
    "--gres=gpu:2", "--hold", "--job-name=x", "--mem=4G", "--mem=0", "--mem-per-cpu=2G",
    "--mem-per-gpu=10G", "--mincpus=9", "--no-requeue", "--requeue", "--nodelist=n[1-2]", "--nodelist=n1",
    "--nodes=2", "--nodes=2-4", "--ntasks=8", "--ntasks=7", "--ntasks-per-gpu=2", "--ntasks-per-node=4",
    "--open-mode=append", "--output=o-%j", "--output=o-%A_%a", "--error=e", "--qos=high",
    "--signal=B:USR1@120", "--time=90", "--time-min=10", "--overcommit", "--account=a", "--partition=local",
)  # fmt: skip
STEPS = (
    "--nodes=1", "--nodes=2", "--ntasks=1", "--ntasks=3", "--ntasks=4", "--ntasks-per-node=2",
    "--cpus-per-task=3", "--gpus=2", "--gpus-per-node=1", "--gpus-per-task=1", "--ntasks-per-gpu=1",
    "--gpu-bind=single:1", "--gpu-bind=none", "--nodelist=n1", "--exclude=n2", "--distribution=cyclic",
    "--exclusive", "--overlap", "--mem=1G", "--mem-per-cpu=1G", "--export=NONE", "--export=A,Z=1",
    "--output=o-%t", "--error=e-%t", "--input=0", "--input=none", "--label", "--open-mode=append",
    "--time=1", "--wait=5", "--kill-on-bad-exit=1", "--chdir=/x", "--job-name=x", "--unbuffered", "--pty",
    "--mpi=pmi2", "--relative=1", "--immediate=3", "--multi-prog", "--no-kill", "--quiet", "--verbose",
    "--test-only", "--het-group=1",
)  # fmt: skip


def beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


varied = beside("test_files_varied")


def of_their_own(read: Callable[[str], Iterator[str]], form: str, words: tuple[str, ...]) -> Iterator[str]:
    """Pairs that mean more, less or something else than both by themselves."""

    def asked(text: str) -> list[str]:
        return list(varied.outcome(read, form.format(text)))

    plain = Counter(asked(""))
    alone = {one: Counter(asked(one)) for one in words}
    for one, other in itertools.combinations(words, 2):
        found = asked(f"{one} {other}")
        both = (alone[one] - plain) + (alone[other] - plain)
        without = (plain - alone[one]) | (plain - alone[other])
        refused = [line for line in found if line.startswith("! ")]
        told = refused or varied.told(list((plain - without + both).elements()), found)
        if told and not any(line.startswith("! ") for line in (*alone[one], *alone[other])):
            yield f"--- {one} {other}"
            yield from sorted(told)


@pytest.mark.parametrize("name", ["#SBATCH", "srun"])
def test_two_options_together_mean_what_they_meant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    if name == "srun":
        found = list(of_their_own(varied.step, "{}", STEPS))
    else:
        found = list(of_their_own(varied.script, SCRIPT, OPTIONS))
    kept = GOLDEN.read_text() if GOLDEN.exists() else ""
    sections = {part.partition("\n")[0]: f"=== {part}" for part in kept.split("=== ")[1:]}
    if os.environ.get("BURSAR_GOLDEN") == "write":
        sections[name] = "\n".join([f"=== {name}", *found]) + "\n"
        GOLDEN.write_text("".join(sections[each] for each in sorted(sections)))
    assert [f"=== {name}", *found] == sections[name].splitlines(), "see the head of this file"
