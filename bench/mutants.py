"""Would the tests notice a mistake? Random lines of the product, each changed once, and the tests of each.

Run     make judge-mutants, or
        python bench/mutants.py record FOLDER [TEST...]  which test runs which line (minutes, once); with
                                                         tests: these too, beside what was recorded before
        python bench/mutants.py try FOLDER [--lines 100] [--seed 1] [--within daemon/bursard]
        python bench/mutants.py again FOLDER TEST...   the survivors once more, in HEAD, with these tests
Prints  each survivor as a difference, and the share that was caught. A person says which survivors mean the
        same as the product (nothing could notice them); the others want a test of their kind.
Why     a line that no test can tell from a wrong one holds nothing.

Works on the commit that was recorded, in scratch copies; a line is changed once, at random by the seed. The
quickest tests of a line run first; one that fails without the change too proves nothing. What they let pass,
and lines that no test in its own process runs (launchers, supervisors, commands), is tried at the end with
the tests that start the processes of its room; of these one has to fail twice, since on a busy machine one
may fail by itself.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from random import Random

import coverage
import mutations
from mutations import Mutation

ROOT = Path(__file__).parents[1]
ROOMS = (
    "sdk/bursar",
    "policies/bursar_policies",
    "daemon/bursard",
    "agents/bursar_agent",
    "web/bursar_web",
    "gateway/bursar_gateway",
)
PURE = (
    "tests/unit",
    "tests/scenario",
    "tests/contract",
    "tests/access",
    "tests/property",
    "tests/sim",
    "tests/docs",
)
FOR_TESTS = re.compile(r"/testing\.py$|^agents/.*/(fake|recorded|recorded_mps)\.py$")
"""Doubles of the product, which nothing but tests uses: a test of them would hold nothing for anybody."""
FIRST_S, ALL_S = 40.0, 120.0
"""Recorded seconds of the tests that are tried first, and of all that are."""
DECLARED = ("tests/unit/test_numbers_are_told.py",)
"""Reads what importing runs, whoever has imported it before: no recording knows."""
TEST_S, RUN_S = 120, 300
"""What one test may take, since a change can make a loop endless, and what all of one mutant may."""
PROCESSES: dict[str, tuple[str, ...]] = {
    "agents/bursar_agent/runner": (
        "tests/integration/test_runner_process.py",
        "tests/integration/test_runner_warm.py",
        "tests/integration/test_runner_warned.py",
        "tests/integration/test_runner_pulse.py",
        "tests/integration/test_runner_secrets.py",
    ),
    "agents/bursar_agent/runner/outputs": ("tests/integration/test_runner_outputs.py",),
    "agents/bursar_agent/runner/pulse": (
        "tests/integration/test_runner_pulse.py",
        "tests/integration/test_runner_limits.py",
        "tests/integration/test_runner_process.py",
    ),
    "agents/bursar_agent/runner/secretfiles": ("tests/integration/test_runner_secrets.py",),
    "agents/bursar_agent/runner/scratch": (
        "tests/integration/test_runner_scratch.py",
        "tests/integration/test_runner_process.py",
    ),
    "agents/bursar_agent/publisher": ("tests/integration/test_agent_publisher.py",),
    "agents/bursar_agent/link/identity": (
        "tests/integration/test_agent_link.py",
        "tests/integration/test_tls.py",
    ),
    "agents/bursar_agent/steps": ("tests/acceptance/test_steps.py",),
    "agents/bursar_agent/probes": (),
    "agents/bursar_agent/spool": ("tests/integration/test_agent_spool_crash.py",),
    "agents/bursar_agent": (
        "tests/integration/test_agent_process.py",
        "tests/integration/test_agent_link.py",
    ),
    "sdk/bursar/local": (
        "tests/acceptance/test_broken_ground.py",
        "tests/acceptance/test_damaged_directory.py",
        "tests/acceptance/test_crashes.py",
    ),
    "sdk/bursar/steps": ("tests/acceptance/test_steps.py",),
    "sdk/bursar/jobfile": (),
    "sdk/bursar/schemas": ("tests/docs",),
    "daemon/bursard/ahead": ("tests/acceptance/test_ahead_crashes.py",),
    "daemon/bursard/telemetry": ("tests/integration/test_daemon_mqtt.py",),
    "daemon/bursard/backup": ("tests/integration/test_archive.py", "tests/acceptance/test_restore.py"),
    "daemon/bursard/store": ("tests/integration/test_store_crash.py", "tests/integration/test_archive.py"),
    "daemon/bursard/sim": ("tests/sim/test_sim_command.py", "tests/sim/test_whole_system.py"),
    "daemon/bursard/scheduler": (),
    "daemon/bursard/state": (),
    "daemon/bursard/ledger": (),
    "daemon/bursard/reports": (),
    "sdk/bursar/cli/backup": ("tests/acceptance/test_restore.py",),
    "sdk/bursar/cli/steps": ("tests/acceptance/test_steps.py",),
    "sdk/bursar/cli": ("tests/acceptance/test_daily_work.py", "tests/acceptance/test_bad_input.py"),
    "sdk/bursar/client": ("tests/docs/test_clients_generated.py", "tests/acceptance/test_daily_work.py"),
    "daemon/bursard": ("tests/integration/test_tls.py", "tests/acceptance/test_daily_work.py"),
    "": (),
}
"""Room: tests that see it from outside (by its processes, or as text), whose lines no recording sees."""


@dataclass
class Trial:
    """One mutant and what became of it: `caught`, `survived`, or `nothing runs it`."""

    file: str
    mutation: Mutation
    difference: list[str]
    tests: int = 0
    verdict: str = "nothing runs it"
    by: str = ""
    seconds: float = 0.0


@dataclass
class Covering:
    """Which test runs which line, and how long each takes."""

    folder: Path
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    """File -> line -> tests; the empty name stands for importing."""
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.folder.glob("durations-*.json"):
            self.seconds |= json.loads(path.read_text())
        for path in self.folder.glob("lines*"):
            data = coverage.CoverageData(str(path))
            data.read()
            for name in data.measured_files():
                seen = self.lines.setdefault(os.path.relpath(name, ROOT), {})
                for line, tests in data.contexts_by_lineno(name).items():
                    seen.setdefault(line, set()).update(tests)

    def tests_of(self, file: str, mutation: Mutation) -> list[str]:
        """Those that run it, quickest first; of what importing runs, those that run anything of the file, and
        then those of its room.
        """
        seen = self.lines.get(file, {})
        first, last = mutation.statement
        found = set(seen.get(mutation.line, ())) - {""}
        if not found:
            found = set().union(*(seen.get(line, set()) for line in range(first, last + 1))) - {""}
        # A function that importing calls, such as one that makes decorators, is nobody's either.
        if not found and (not mutation.scope or "" in seen.get(mutation.line, ())):
            found = set().union(*seen.values()) - {""}
            beside = self._of_the_room(file) - found  # what stands there is used by others
            return [*self._quickest_first(found), *self._quickest_first(beside)]
        return self._quickest_first(found)

    def _quickest_first(self, tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self.seconds.get(test, 0.0), test))

    def _of_the_room(self, file: str) -> set[str]:
        """Tests that run anything beside a file, such as one of declarations."""
        folder = str(Path(file).parent) + "/"
        beside = [lines for name, lines in self.lines.items() if name.startswith(folder)]
        return set().union(*(tests for lines in beside for tests in lines.values())) - {""}


def record(folder: Path, tests: Sequence[str] = ()) -> int:
    """Run every test that needs no process, or these, with its lines written down."""
    if not tests:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    rooms = [ROOT / Path(room).parent for room in ROOMS]
    paths = os.pathsep.join(map(str, (ROOT / "bench", *rooms)))
    env = os.environ | {"BURSAR_COVERING": str(folder), "PYTHONPATH": paths}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "covering", "-n", "2", *(tests or PURE)]
    code = subprocess.run(words, cwd=ROOT, env=env, check=False).returncode
    (folder / "commit").write_text(git("rev-parse", "HEAD"))
    return code


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def chosen(tree: Path, within: str, lines: int, seed: int) -> list[Trial]:
    """So many random lines of the product in `tree`, each with one random change."""
    random = Random(seed)
    found: list[tuple[str, str, list[Mutation]]] = []
    for path in sorted(each for room in ROOMS for each in (tree / room).rglob("*.py")):
        file = str(path.relative_to(tree))
        if "/v1/" in file or FOR_TESTS.search(file) or not file.startswith(within):
            continue
        source = path.read_text()
        made: dict[int, list[Mutation]] = {}
        for mutation in mutations.mutations(source):
            made.setdefault(mutation.line, []).append(mutation)
        found += [(file, source, each) for each in made.values()]
    trials: list[Trial] = []
    for file, source, choices in random.sample(found, len(found)):
        mutation = random.choice(choices)
        with contextlib.suppress(SyntaxError):
            ast.parse(mutation.applied(source))
            trials.append(Trial(file, mutation, list(mutations.difference(source, mutation))))
        if len(trials) == lines:
            break
    return trials


class Copy:
    """A scratch copy of one commit, in which one file at a time is wrong."""

    def __init__(self, commit: str, tests_of_now: bool) -> None:
        self._broken: dict[str, bool] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="bursar-mutant-"))
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", self.folder], input=archive, check=True)
        # Checked by content: a change within the same second, of the same length, is a change. To compile all
        # of it anew would be half of what a trial costs.
        compiled = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
        rooms = [self.folder / Path(room).parent for room in ROOMS]
        subprocess.run([sys.executable, *compiled, *rooms], check=True)
        if tests_of_now:  # new ones are tried on old survivors
            shutil.rmtree(self.folder / "tests")
            kept_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "tests", self.folder / "tests", ignore=kept_out)

    def tried(self, trial: Trial, tests: Sequence[str], tries: int = 1) -> tuple[bool, str]:
        """Whether any of these tests fails with the change, as often as it is tried, and which."""
        path = self.folder / trial.file
        source = path.read_text()
        left = list(tests)
        while True:
            path.write_text(trial.mutation.applied(source))
            try:
                code, said = self._run(left, tries)
            finally:
                path.write_text(source)
            if code is None:
                return False, "took too long, which a person should look at"
            if code == 0:
                return False, ""
            failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
            test = failed[-1].partition(" ")[2].partition(" - ")[0] if failed else ""
            if test in left and self._fails_anyway(test):
                left.remove(test)
                continue
            # 4: no such test; it may have a parameter made of what was changed, which is no proof.
            return code != 4 or "not found: " not in said, (
                failed or said.splitlines() or ["ended without a word"]
            )[-1][:160]

    def _fails_anyway(self, test: str) -> bool:
        """A test that fails without any change as well, which would catch everything."""
        if test not in self._broken:
            self._broken[test] = self._run([test], 1)[0] != 0
        return self._broken[test]

    def _run(self, tests: Sequence[str], tries: int) -> tuple[int | None, str]:
        """Exit code of pytest and what it said; no code when it took too long."""
        names = self.folder / "tests-to-run"
        names.write_text("\n".join(tests) + "\n")
        rooms = [self.folder / Path(room).parent for room in ROOMS]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, rooms)),
            "PYTHONDONTWRITEBYTECODE": "",
            "BURSAR_FUZZ_ROUNDS": "4",
        }
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:warnings",
            f"--timeout={TEST_S}",
            f"--reruns={tries - 1}",
            f"@{names}",
        ]
        process = subprocess.Popen(
            words, cwd=self.folder, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
        return process.returncode, said

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def judged(trial: Trial, copy: Copy, covering: Covering) -> Trial:
    """Try the tests of this line, quickest first, until one fails."""
    known = covering.tests_of(trial.file, trial.mutation)
    first: list[str] = []
    rest: list[str] = []
    spent = 0.0
    for test in known:
        spent += covering.seconds.get(test, 0.0)
        if spent < FIRST_S or not first:
            first.append(test)
        elif spent < ALL_S:
            rest.append(test)
    declared = [] if trial.mutation.scope else [DECLARED]
    return against(trial, copy, [*declared, *(group for group in (first, rest) if group)])


def in_processes(trial: Trial, copy: Copy) -> Trial:
    """Try the tests that start the processes of its room."""
    room = max((each for each in PROCESSES if trial.file.startswith(each)), key=len)
    return against(trial, copy, [PROCESSES[room]] if PROCESSES[room] else [], tries=2)


def against(trial: Trial, copy: Copy, groups: Sequence[Sequence[str]], tries: int = 1) -> Trial:
    """Try it with one group of tests after the other, until one catches it."""
    began = time.monotonic()
    if groups:
        trial.verdict = "survived"
    for group in groups:
        trial.tests += len(group)
        caught, trial.by = copy.tried(trial, group, tries)
        if caught:
            trial.verdict = "caught"
            break
    trial.seconds += time.monotonic() - began
    return trial


def shown(number: int, trial: Trial) -> None:
    line = f"{number:4} {trial.verdict:15} {trial.file}:{trial.mutation.line} {trial.mutation.kind}"
    print(f"{line} ({trial.tests} tests, {trial.seconds:.0f} s) {trial.by}", flush=True)


def run(folder: Path, choose: Callable[[Path], list[Trial]], workers: int, tests: Sequence[str] = ()) -> int:
    """Judge all that `choose` finds in a copy, and print the share that was caught."""
    commit = git("rev-parse", "HEAD") if tests else (folder / "commit").read_text().strip()
    copies: SimpleQueue[Copy] = SimpleQueue()
    made = [Copy(commit, bool(tests)) for _ in range(workers)]
    for each in made:
        copies.put(each)

    def one(way: Callable[[Trial, Copy], Trial], trial: Trial) -> Trial:
        copy = copies.get()
        try:
            return way(trial, copy)
        finally:
            copies.put(copy)

    if tests:
        ways: list[Callable[[Trial, Copy], Trial]] = [lambda trial, copy: against(trial, copy, [tests])]
    else:
        covering = Covering(folder)
        ways = [lambda trial, copy: judged(trial, copy, covering), in_processes]
    trials = choose(made[0].folder)
    report = folder / ("again.jsonl" if tests else "report.jsonl")
    try:
        with ThreadPoolExecutor(workers) as pool:
            for way in ways:  # tests of processes last, since one of them takes as long as twenty others
                open_still = [trial for trial in trials if trial.verdict != "caught"]
                tried = as_completed([pool.submit(one, way, trial) for trial in open_still])
                for number, trial in enumerate(map(Future.result, tried), 1):
                    shown(number, trial)
                    report.write_text("".join(json.dumps(asdict(each)) + "\n" for each in trials))
    finally:
        for each in made:
            each.remove()
    for trial in trials:
        if trial.verdict != "caught":
            place = f"{trial.file}:{trial.mutation.line}"
            print(f"{trial.verdict}: {place} {trial.mutation.kind}", *trial.difference, sep="\n    ")
    caught = sum(trial.verdict == "caught" for trial in trials)
    share = caught / max(len(trials), 1)
    print(f"caught {caught} of {len(trials)} mutants ({share:.0%}) of {commit[:10]}; {report}")
    return 0


def survivors(folder: Path, tree: Path) -> list[Trial]:
    """What was not caught, in the files of `tree`: its lines are looked for where they stand by now."""
    found = []
    for line in (folder / "report.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["verdict"] == "caught":
            continue
        source = (tree / row["file"]).read_text()
        old = "\n".join(each[2:] for each in row["difference"] if each.startswith("- ")) + "\n"
        new = "\n".join(each[2:] for each in row["difference"] if each.startswith("+ ")) + "\n"
        places = [match.start() for match in re.finditer(f"^{re.escape(old)}", source, re.MULTILINE)]
        if not places:
            print(f"changed since: {row['file']}:{row['mutation']['line']}")
            continue
        lines = {source.count("\n", 0, place) + 1: place for place in places}
        at = min(lines, key=lambda number: abs(number - row["mutation"]["line"]))
        kind, start = row["mutation"]["kind"], lines[at]
        change = Mutation(kind, at, start, start + len(old), new, (at, at), "")
        found.append(Trial(row["file"], change, row["difference"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("record", "try", "again"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("tests", nargs="*")
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", default="")
    parser.add_argument("--skip", type=int, default=0, help="so many of them were tried before")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    if asked.verb == "record":
        return record(asked.folder, asked.tests)

    def choose(tree: Path) -> list[Trial]:
        if asked.verb == "again":
            return survivors(asked.folder, tree)
        return chosen(tree, asked.within, asked.lines, asked.seed)[asked.skip :]

    return run(asked.folder, choose, asked.workers, asked.tests)


if __name__ == "__main__":
    sys.exit(main())
