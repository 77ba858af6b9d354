"""Damaged state directories: a cluster comes up with all it had, or says what mends it, and that mends it.

Run     make judge-damage, or python bench/damage.py [--cases 100] [--seed 1] [--only NUMBER]
Prints  what each case damaged and how it ended. Exit code 1 when one neither came up nor was mended by the
        way out that it named, lost a job without saying so, or showed a traceback.
Why     what is read again after a crash, a full disk or a careless hand is never what was written.

Two templates are made once: a cluster that was stopped in order, and one whose every process was killed while
jobs ran. A case copies one back, damages one to three of its files, folders or sockets, and starts it. What
is damaged is a function of the seed and the number of the case.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from cluster import TERMINAL, Cluster, processes  # type: ignore[import-not-found]

BUDGET = """kind: Budget
name: b
spec: {scope: {project: p}, limit: 5 USD, period: month, enforcement: hard}
"""


# --- ways to damage what lies at a path; a directory is emptied, replaced or removed


def truncated(path: Path, random: Random) -> None:
    os.truncate(path, random.randint(0, path.stat().st_size))


def emptied(path: Path, random: Random) -> None:
    os.truncate(path, 0)


def noise(path: Path, random: Random) -> None:
    path.write_bytes(random.randbytes(random.choice((1, 100, 5000, max(path.stat().st_size, 1)))))


def noise_inside(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    at = random.randrange(len(data) + 1)
    data[at : at + 64] = random.randbytes(64)
    path.write_bytes(data)


def bit_flipped(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(data)


def zeroed(path: Path, random: Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def longer(path: Path, random: Random) -> None:
    with path.open("ab") as stream:
        stream.write(random.randbytes(500))


def other_json(path: Path, random: Random) -> None:
    path.write_text(random.choice(("[]", "null", "{}", '{"version": 99}', "1e999", '{"a": ' * 2000)))


def removed(path: Path, random: Random) -> None:
    path.unlink()


def directory_instead(path: Path, random: Random) -> None:
    path.unlink()
    path.mkdir()
    if random.random() < 0.5:
        (path / "x").write_text("x")


def link_to_nowhere(path: Path, random: Random) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere" / "at all")


FILE_DAMAGES: tuple[Callable[[Path, Random], None], ...] = (
    truncated, emptied, noise, noise_inside, bit_flipped, zeroed, longer, other_json, removed,
    directory_instead, link_to_nowhere,
)  # fmt: skip


def folder_removed(path: Path, random: Random) -> None:
    shutil.rmtree(path)


def folder_emptied(path: Path, random: Random) -> None:
    shutil.rmtree(path)
    path.mkdir()


def file_instead(path: Path, random: Random) -> None:
    shutil.rmtree(path)
    path.write_bytes(random.randbytes(100))


FOLDER_DAMAGES = (folder_removed, folder_emptied, file_instead)


class Case:
    """One damaged directory, and what became of it."""

    def __init__(self, bench: Bench, number: int, seed: int) -> None:
        self.bench, self.cluster, self.number = bench, bench.cluster, number
        self.random = Random(f"{seed} {number}")
        self.template = self.random.choice(sorted(bench.templates))
        self.done: list[str] = []
        self.wrong: list[str] = []
        self.verdict = ""

    def run(self) -> None:
        self.bench.put_back(self.template)
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self._damage()
        try:
            self._start()
        except AssertionError as error:
            self.wrong.append(str(error)[:1500])
        finally:
            self._stop()

    def _damage(self) -> None:
        state, random = self.cluster.state, self.random
        # A file of the books as often as one of the other rooms, however many those have.
        rooms: dict[str, list[Path]] = {}
        for path in sorted(state.rglob("*")):
            rooms.setdefault(path.relative_to(state).parts[0], []).append(path)
        path = random.choice(rooms[random.choice(sorted(rooms))])
        name = str(path.relative_to(state))
        if path.is_dir() and not path.is_symlink():
            how = random.choice(FOLDER_DAMAGES)
            how(path, random)
            self.done.append(f"{name}: {how.__name__}")
        elif path.is_file() and random.random() < 0.12:
            other = random.choice([each for each in sorted(state.rglob("*")) if each.is_file()])
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
            self.done.append(f"{name} swapped with {other.relative_to(state)}")
        else:
            if not path.is_file():
                path.unlink()
                path.write_bytes(b"")
            how = random.choice(FILE_DAMAGES)
            how(path, random)
            self.done.append(f"{name}: {how.__name__}")

    def _start(self) -> None:
        refusal = self.bench.up()
        if not refusal:
            self.verdict = "came up"
            self._whole()
            return
        self.verdict = "refused"
        assert "Traceback" not in refusal, refusal
        for tries in range(3):
            way = self._way_out(refusal)
            assert way, f"it refuses and names no way out: {refusal}"
            self.verdict += f", {way}"
            refusal = self.bench.up()
            if not refusal:
                break
            assert tries < 2, f"after {self.verdict} it still refuses: {refusal}"
        self._works()

    def _way_out(self, refusal: str) -> str:
        """Do what it says, as a person would; what was done, or nothing."""
        state = self.cluster.state
        ways: list[tuple[str, Callable[[], object]]] = []
        if "accept-loss" in refusal:
            words = ("audit", "accept-loss", "--yes", "--state-dir", str(state))
            ways.append(("accept-loss", lambda: self.cluster.run(*words)))
        if "bursar restore" in refusal:
            ways.append(("restored", self._restore))
        here = rf"{re.escape(str(state))}[^\s:;,`')]*"
        for old, new in re.findall(rf"mv ({here}) ({here})", refusal):
            ways.append(("new books", lambda old=old, new=new: Path(old).rename(new)))  # type: ignore[misc]
        for named in re.findall(
            rf"(?:bursard?|error|the cluster did not start): ({here}) [^\n]*remove it", refusal
        ):
            path = Path(named)
            ways.append((f"removed {path}", lambda path=path: remove(path)))  # type: ignore[misc]
        if not ways:
            return ""
        name, way = self.random.choice(ways)
        way()
        return name

    def _restore(self) -> None:
        daemon = self.cluster.state / "daemon"
        if os.path.lexists(daemon):
            daemon.rename(self.cluster.state / f"daemon.before-{time.monotonic_ns()}")
        self.cluster.run("restore", str(self.bench.backup), "--state-dir", str(self.cluster.state))

    def _works(self) -> None:
        """A new job runs, the node is up, and the books hold."""
        self.cluster.ready()
        job = self.cluster.job("--cpus", "0.1", "--", "sh", "-c", "exit 4")
        assert self.cluster.ended(job)["exit_code"] == 4
        if sealed := self._sealed():  # a key that is gone opens nothing, and says what to do
            assert re.search(r"secret.*(key file|secrets_key_file)", sealed), sealed
            self.verdict += ", its secrets stay sealed"
        for words in (("doctor", "--full"), ("audit", "verify")):
            done = self.cluster.run(*words, code=None)
            broken = [line for line in done.stdout.splitlines() if " BROKEN " in line]
            if "stay sealed" in self.verdict and all(line.startswith("secrets ") for line in broken):
                continue  # that is what they have to say
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    def _sealed(self) -> str:
        """What is said where a job gets no secret; empty where it does."""
        if "new books" in self.verdict or "accept-loss" in self.verdict:
            done = self.cluster.run("secret", "set", "S", stdin="value\n", code=None)
            if done.returncode:
                return str(done.stderr)
        job = self.cluster.job("--cpus", "0.1", "--secret", "S", "--", "sh", "-c", 'test "$S" = value')
        found = self.cluster.ended(job)
        return json.dumps(found) if found["exit_code"] != 0 else ""

    def _whole(self) -> None:
        """Nothing is lost: each job is known, and one that had ended is as it was."""
        self._works()
        now = self.bench.jobs()
        for id, (state, settled) in self.bench.before[self.template].items():
            assert id in now, f"{id} ({state}) is gone, and nothing was said"
            if state in TERMINAL:
                assert now[id] == (state, settled), f"{id} was {state}, {settled} and is {now[id]}"

    def _stop(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            done = self.cluster.run("down", "--state-dir", str(self.cluster.state), code=None)
            if "Traceback" in done.stderr:
                self.wrong.append(done.stderr)
        left = processes(str(self.cluster.state))
        if left and self.verdict == "came up":
            self.wrong.append(
                f"`down` left {[Path(f'/proc/{pid}/cmdline').read_bytes()[:120] for pid in left]}"
            )
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for log in (
            (self.cluster.state / "logs").glob("*.log") if (self.cluster.state / "logs").is_dir() else ()
        ):
            with contextlib.suppress(OSError):
                text = log.read_bytes().decode("utf-8", "replace")
                if "Traceback (most recent" in text:
                    self.wrong.append(f"{log.name}: {text[text.index('Traceback') :][:1500]}")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Bench:
    """One place for a state directory, and what it looked like before any damage."""

    def __init__(self) -> None:
        self.cluster = Cluster(1)
        self.templates: dict[str, Path] = {}
        self.before: dict[str, dict[str, tuple[str, str]]] = {}
        self.backup = self.cluster.home / "backup.tar"

    def up(self) -> str:
        """Why it does not start; empty when it does."""
        words = ("up", "--agents", "1", "--state-dir", str(self.cluster.state), "--detach")
        done = self.cluster.run(*words, code=None)
        return "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"

    def jobs(self) -> dict[str, tuple[str, str]]:
        rows: list[Any] = self.cluster.ask("ls", "--state", "all", "--limit", "1000")
        return {row["id"]: (row["state"], row["cost"]["settled"]["amount"]) for row in rows}

    def make_templates(self) -> None:
        cluster = self.cluster
        cluster.up()
        cluster.ready(60)
        cluster.apply(BUDGET)
        cluster.run("secret", "set", "S", stdin="value\n")
        few = ("--cpus", "0.1", "--project", "p", "--time-limit", "1m")
        ended = [
            cluster.job(*few, "--", "sh", "-c", "exit 3"),
            cluster.job(*few, "--array", "0-3", "--", "true"),
            cluster.job(*few, "--secret", "S", "--", "sh", "-c", "echo $S"),
        ]
        cluster.run("wait", "-q", *ended, "--timeout", "60", code=None)
        cluster.run("backup", "--out", str(self.backup), "--state-dir", str(cluster.state))
        long = cluster.job(*few, "--", "sleep", "600")
        cluster.until_state(long, "RUNNING")
        cluster.job(*few, "--after", long, "--", "true")
        self.before["killed"] = self.jobs()
        for pid in processes(str(cluster.state)):
            os.kill(pid, signal.SIGKILL)
        for child in processes("sleep 600"):
            with contextlib.suppress(OSError):
                if str(cluster.home).encode() in Path(f"/proc/{child}/environ").read_bytes():
                    os.kill(child, signal.SIGKILL)
        self._keep("killed")
        cluster.up()
        cluster.ready(60)
        cluster.run("cancel", "-q", long, code=None)
        cluster.run("wait", "-q", long, "--timeout", "60", code=None)
        self.before["stopped"] = self.jobs()
        cluster.down()
        self._keep("stopped")

    def _keep(self, name: str) -> None:
        kept = self.cluster.home / f"template-{name}"
        subprocess.run(["cp", "-a", str(self.cluster.state), str(kept)], check=True)
        key = self.cluster.state.with_name(f"{self.cluster.state.name}.secrets-key")
        if key.exists():
            shutil.copy2(key, kept.with_name(f"{kept.name}.secrets-key"))
        self.templates[name] = kept

    def put_back(self, name: str) -> None:
        """The state directory as it was; what was set aside or restored before is gone."""
        remove(self.cluster.state)
        subprocess.run(["cp", "-a", str(self.templates[name]), str(self.cluster.state)], check=True)


def cases(bench: Bench, asked: argparse.Namespace) -> Iterator[Case]:
    for number in [asked.only] if asked.only >= 0 else range(asked.cases):
        case = Case(bench, number, asked.seed)
        case.run()
        yield case


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, default=-1)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended with it
    bench, verdicts, wrong = Bench(), Counter[str](), 0
    try:
        bench.make_templates()
        for case in cases(bench, asked):
            wrong += bool(case.wrong)
            verdicts["wrong" if case.wrong else re.sub(r"removed \S+", "removed", case.verdict)] += 1
            print(f"{case.number:4} {case.template:8} {'; '.join(case.done)} -> {case.verdict}", flush=True)
            print("".join(f"     WRONG {each}\n" for each in case.wrong), end="", flush=True)
    finally:
        bench.cluster.remove()
    print(f"{verdicts.total()} directories, seed {asked.seed}: {dict(verdicts)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
