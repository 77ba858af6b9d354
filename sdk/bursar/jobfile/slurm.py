"""What `#SBATCH` options mean here.

Owns    the table of Slurm's options and their translation: sizes per node, times, dependencies.
Output  values in the job tree, and notes (line, sentence) for what cannot be honoured.
Why     the words are Slurm's, with Slurm's meaning: `--gpus` counts the whole job there, `--mem=4G`
        is 4 GiB, `--time=30` is minutes. An option that would change what is run or when is a
        fault when it cannot be kept; one that changes comfort is a note.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bursar.jobfile.flags import FlagFaults, FlagNode, Place, Tree, job_name_from
from bursar.model.check import quote

SHORT: Final = {
    "J": "job-name", "N": "nodes", "n": "ntasks", "c": "cpus-per-task", "t": "time", "A": "account",
    "a": "array", "d": "dependency", "o": "output", "e": "error", "p": "partition", "q": "qos",
    "G": "gpus", "D": "chdir", "b": "begin", "H": "hold", "C": "constraint", "w": "nodelist",
    "x": "exclude", "L": "licenses", "i": "input", "m": "distribution", "s": "oversubscribe",
    "O": "overcommit", "W": "wait", "v": "verbose", "Q": "quiet", "k": "no-kill", "M": "clusters",
}  # fmt: skip
VALUED: Final = (
    "job-name", "nodes", "ntasks", "ntasks-per-node", "gres", "gpus", "gpus-per-node", "gpus-per-task",
    "cpus-per-task", "cpus-per-gpu", "mem", "mem-per-cpu", "mem-per-gpu", "time", "account", "array",
    "dependency", "signal", "comment", "chdir", "begin", "deadline", "wckey", "export",
)  # fmt: skip
BARE: Final = ("requeue", "no-requeue", "hold")
SET_VARIABLES: Final = (
    "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_JOB_NAME", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_NODEID",
    "SLURM_PROCID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
)  # fmt: skip
"""What a script with `#SBATCH` lines finds in its environment; the last two in arrays only."""
_SBATCH = re.compile(r"^#SBATCH(?:\s|$)", re.MULTILINE)

_HARDWARE = "is not honoured; name the hardware by --gpus TYPE:N, or a node by resources.constraints"
_BINDING = "is not honoured: bursar does not bind processes to cores; use numactl or your launcher"
_MAIL = "is not honoured: bursar sends no mail; watch with bursar wait or bursar events"
NOTICED: Final = {
    "output": "is not honoured: bursar keeps the output itself; read it with bursar logs",
    "error": "is not honoured: standard error is kept with the output; read it with bursar logs",
    "partition": "is not honoured: there are no partitions; name a pool by resources.constraints",
    "qos": "is not honoured: there is no QOS; use #BURSAR --priority low, normal or high",
    "mail-type": _MAIL,
    "mail-user": _MAIL,
    "constraint": _HARDWARE,
    "nodelist": _HARDWARE,
    "exclude": _HARDWARE,
    "reservation": "is not honoured: there are no reservations",
    "licenses": "is not honoured: licences are not counted",
    "priority": "is not honoured: Slurm's scale is another one; use #BURSAR --priority 0 to 100",
    "open-mode": "is not honoured: each attempt has its own log",
    "input": "is not honoured: standard input is empty; read the file in the script",
    "cpu-bind": _BINDING,
    "gpu-bind": _BINDING,
    "mem-bind": _BINDING,
    "hint": _BINDING,
    "distribution": _BINDING,
    "threads-per-core": _BINDING,
    "cores-per-socket": _BINDING,
    "sockets-per-node": _BINDING,
    "ntasks-per-core": _BINDING,
    "ntasks-per-socket": _BINDING,
    "ntasks-per-gpu": _BINDING,
    "switches": "is not honoured: topology is not used yet",
    "tmp": "is not honoured: local disk is not counted",
    "time-min": "is not honoured: the limit is --time",
    "clusters": "is not honoured: the job goes to the server it is submitted to",
    "profile": "is not honoured: usage is always recorded; see bursar cost and bursar top",
    "propagate": "is not honoured: limits come from the node",
    "kill-on-invalid-dep": "is not honoured: bursar explain says when a dependency can never be met",
    "wait-all-nodes": "is not needed: a gang starts on all nodes or on none",
}
"""Options with a value that only lead to a note."""
NOTICED_BARE: Final = {
    "exclusive": "is not honoured: a node may be shared; ask for all its GPUs and CPUs",
    "nice": "is not honoured; use #BURSAR --priority 0 to 100",
    "oversubscribe": "is not honoured: what a job holds is its own",
    "overcommit": "is not honoured: what a job holds is its own",
    "contiguous": "is not honoured: topology is not used yet",
    "spread-job": "is not honoured: topology is not used yet",
    "no-kill": "is not honoured: a gang ends when one of its nodes is lost",
    "wait": "is not honoured in a script; give bursar submit --wait",
    "verbose": "is not honoured in a script",
    "quiet": "is not honoured in a script; give bursar submit -q",
    "parsable": "is not honoured in a script; give bursar submit -o json",
}
"""The same without a value, or with one after `=`."""

_UNIT = {"": 1024**2, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_MEM = re.compile(r"(\d{1,12})([KMGT]?)B?", re.ASCII | re.IGNORECASE)
_DAYS = re.compile(r"(\d{1,5})-(\d{1,4})(?::(\d{1,4})(?::(\d{1,4}))?)?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,7})(?::(\d{1,4})(?::(\d{1,4}))?)?", re.ASCII)
_SIGNAL = re.compile(r"(?:([RB]{1,2}):)?([A-Za-z0-9]{1,12})(?:@(\d{1,6}))?", re.ASCII)
_SIGNAL_NUMBERS = {"1": "HUP", "2": "INT", "3": "QUIT", "10": "USR1", "12": "USR2", "15": "TERM"}
_DEPENDENCY = {"afterok": "succeeded", "afternotok": "failed", "afterany": "finished"}
_ID = re.compile(r"(\d{1,12})(?:_(\d{1,7}))?", re.ASCII)
_GRES_GPU = re.compile(r"gpu(?::([A-Za-z][A-Za-z0-9._-]*|\d+g\.\d+gb))?(?::(\d{1,6}))?(?:\(.*\))?", re.ASCII)
_TYPED_COUNT = re.compile(r"(?:([A-Za-z][A-Za-z0-9._-]*|\d+g\.\d+gb):)?(\d{1,6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Option:
    """One option as found: its long name, its value, and where it stands as it was written."""

    name: str
    value: str
    place: Place


def is_slurm_script(script: str) -> bool:
    """Does it carry an `#SBATCH` line, so that its commands may read Slurm's variables?"""
    return "#SBATCH" in script and _SBATCH.search(script) is not None


def parse_slurm_time(text: str) -> int | None:
    """Seconds of a Slurm time (`MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM[:SS]`); None if it is none."""
    match = _DAYS.fullmatch(text)
    if match is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    first, second, third = match.groups()
    if third is not None:
        return (int(first) * 60 + int(second)) * 60 + int(third)
    return int(first) * 60 + int(second or 0)


class SlurmOptions:
    """All `#SBATCH` options of a script; the last of each name counts, as in Slurm."""

    def __init__(self, options: list[Option], tree: Tree, faults: FlagFaults) -> None:
        self._options = {option.name: option for option in options}
        self._tree = tree
        self._faults = faults
        self._notes: list[tuple[int, str]] = []
        self._nodes = 1
        self._tasks_per_node = 1
        self._gpus = 0

    def convert(self) -> list[tuple[int, str]]:
        """Fill the tree; returns the notes."""
        for option in self._options.values():
            sentence = NOTICED.get(option.name) or NOTICED_BARE.get(option.name)
            if sentence:
                self._note(option, sentence)
        for name, path in (("comment", "comment"), ("array", "array"), ("wckey", "experiment")):
            self._copy(name, path)
        for name, path in (("account", "project"), ("chdir", "workdir"), ("deadline", "deadline")):
            self._copy(name, path)
        self._job_name()
        self._count()
        self._read_gpus()
        cpus = self._cpus()
        self._memory(cpus)
        self._time()
        self._dependencies()
        self._signal()
        self._requeue()
        self._begin()
        self._export()
        return self._notes

    def _note(self, option: Option, sentence: str) -> None:
        self._notes.append((option.place.line, f"{option.place.flag} {sentence}"))

    def _fault(self, option: Option, message: str) -> None:
        self._faults.add(FlagNode("scalar", option.place), message)

    def _copy(self, name: str, key: str) -> None:
        option = self._options.get(name)
        if option is not None:
            self._tree.put((key,), option.value, option.place)

    def _number(self, name: str) -> int | None:
        option = self._options.get(name)
        if option is None:
            return None
        if re.fullmatch(r"\d{1,6}", option.value, re.ASCII) is None or int(option.value) == 0:
            self._fault(option, f"{quote(option.value)} is not a whole number from 1 to 999999")
            return None
        return int(option.value)

    def _job_name(self) -> None:
        option = self._options.get("job-name")
        if option is None:
            return
        name = job_name_from(option.value)
        if not name:
            self._fault(option, f"{quote(option.value)} holds no letter or digit; give a name such as train")
            return
        if name != option.value:
            self._note(option, f"{quote(option.value)} becomes {name}; a name has no spaces or signs")
        self._tree.put(("name",), name, option.place)

    # -------------------------------------------------------------- sizes

    def _count(self) -> None:
        nodes = self._options.get("nodes")
        if nodes is not None:
            low, _, high = nodes.value.partition("-")
            text = low if low == high else nodes.value
            self._tree.put(("nodes",), text, nodes.place)
            self._nodes = int(text) if re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII) else 1
        tasks, per_node = self._number("ntasks"), self._number("ntasks-per-node")
        if per_node is not None:
            self._tasks_per_node = per_node
            if tasks is not None and nodes is None:
                self._nodes = -(-tasks // per_node)
                self._tree.put(("nodes",), str(self._nodes), self._options["ntasks"].place)
        elif tasks is not None:
            self._tasks_per_node = -(-tasks // self._nodes)
        option = self._options.get("ntasks-per-node") or self._options.get("ntasks")
        if option is None:
            return
        if self._tasks_per_node > 1:
            self._note(
                option,
                f"gives {self._tasks_per_node} tasks' CPUs on each of {self._nodes} node(s); the script runs "
                "once per node and starts the tasks itself (torchrun, mpirun)",
            )

    def _read_gpus(self) -> None:
        order = ("gpus-per-node", "gres", "gpus-per-task", "gpus")
        sources = [name for name in order if name in self._options]
        found: list[tuple[Option, str, int]] = []
        for name in sources:
            read = self._gres(self._options[name]) if name == "gres" else self._typed(self._options[name])
            if read is not None:
                found.append((self._options[name], *read))
        if not found:
            return
        option, kind, count = found[0]
        for other, _, _ in found[1:]:
            self._note(other, f"is not read beside {option.place.flag}")
        if option.name == "gpus-per-task":
            count *= self._tasks_per_node
        if option.name == "gpus":
            if count % self._nodes:
                self._fault(option, f"{count} do not divide over {self._nodes} nodes; use --gpus-per-node")
                return
            count //= self._nodes
        self._gpus = count
        text = f"{kind}:{count}" if kind and count else str(count)
        self._tree.put(("resources", "gpus"), text, option.place)

    def _gres(self, option: Option) -> tuple[str, int] | None:
        found: list[tuple[str, int]] = []
        for part in option.value.split(","):
            name = part.partition(":")[0]
            match = _GRES_GPU.fullmatch(part.removeprefix("gres/"))
            if match is not None:
                found.append((match.group(1) or "", int(match.group(2) or 1)))
            elif name == "gpu":
                self._fault(option, f"{quote(part)} is not of the form gpu:TYPE:COUNT")
            elif name and part not in ("none", "0"):
                self._note(option, f"{quote(part)} is not honoured: only gpu is counted")
        if len(found) > 1:
            self._fault(option, "names GPUs twice; a node of the job has GPUs of one type")
            return None
        return found[0] if found else None

    def _typed(self, option: Option) -> tuple[str, int] | None:
        match = _TYPED_COUNT.fullmatch(option.value)
        if match is None:
            self._fault(option, f"{quote(option.value)} is not of the form COUNT or TYPE:COUNT")
            return None
        return match.group(1) or "", int(match.group(2))

    def _cpus(self) -> int:
        per_task, per_gpu = self._number("cpus-per-task"), self._number("cpus-per-gpu")
        order = ("cpus-per-task", "cpus-per-gpu", "ntasks-per-node", "ntasks")
        given = [name for name in order if name in self._options]
        if not given:
            return 1
        cpus = per_gpu * self._gpus if per_gpu and self._gpus else (per_task or 1) * self._tasks_per_node
        self._tree.put(("resources", "cpus"), str(cpus), self._options[given[0]].place)
        return cpus

    def _memory(self, cpus: int) -> None:
        factors = {"mem": 1, "mem-per-cpu": cpus, "mem-per-gpu": max(self._gpus, 1)}
        given = [name for name in factors if name in self._options]
        if not given:
            return
        option = self._options[given[0]]
        match = _MEM.fullmatch(option.value)
        if match is None:
            self._fault(option, f"{quote(option.value)} is not a size, such as 4G (GiB) or 4000 (MiB)")
            return
        size = int(match.group(1)) * _UNIT[match.group(2).upper()] * factors[option.name]
        if size == 0:
            self._fault(option, "0 means all memory of a node to Slurm; write the size that is needed")
        else:
            self._tree.put(("resources", "memory"), f"{size}B", option.place)
        for other in given[1:]:
            self._note(self._options[other], f"is not read beside {option.place.flag}")

    # -------------------------------------------------------------- time, order, endings

    def _time(self) -> None:
        option = self._options.get("time")
        if option is None:
            return
        if option.value.upper() in ("UNLIMITED", "INFINITE", "0"):
            self._note(option, "sets no limit; the default limit of the server holds")
            return
        seconds = parse_slurm_time(option.value)
        if seconds is None:
            self._fault(
                option, f"{quote(option.value)} is not a Slurm time: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM[:SS]"
            )
        elif seconds == 0:
            self._fault(option, f"{quote(option.value)} is no time at all; give at least 1 minute")
        else:
            self._tree.put(("time_limit",), f"{seconds}s", option.place)

    def _dependencies(self) -> None:
        option = self._options.get("dependency")
        if option is None:
            return
        if "?" in option.value:
            self._fault(option, "'?' (any of them) is not supported; all dependencies are waited for")
            return
        for part in option.value.split(","):
            kind, _, ids = part.partition(":")
            when = _DEPENDENCY.get(kind.strip().lower())
            if when is None or not ids:
                listed = ", ".join(f"{word}:ID" for word in _DEPENDENCY)
                self._fault(option, f"{quote(part)} is not supported; use {listed}")
                continue
            for text in ids.split(":"):
                match = _ID.fullmatch(text.strip())
                if match is None:
                    self._tree.depend(text.strip(), when, option.place)
                else:
                    task = f"[{match.group(2)}]" if match.group(2) else ""
                    self._tree.depend(f"{match.group(1)}{task}", when, option.place)

    def _signal(self) -> None:
        option = self._options.get("signal")
        if option is None:
            return
        match = _SIGNAL.fullmatch(option.value)
        if match is None:
            self._fault(option, f"{quote(option.value)} is not of the form [B:]SIGNAL[@SECONDS]")
            return
        name = _SIGNAL_NUMBERS.get(match.group(2), match.group(2))
        self._tree.put(("checkpoint", "signal"), name, option.place)
        self._tree.put(("checkpoint", "grace"), f"{int(match.group(3) or 60)}s", option.place)

    def _requeue(self) -> None:
        requeue, never = self._options.get("requeue"), self._options.get("no-requeue")
        if "hold" in self._options:
            self._tree.put(("held",), "true", self._options["hold"].place)
        if never is not None and (requeue is None or requeue.place.line < never.place.line):
            self._note(never, "is not honoured: a job whose node is lost or taken goes back to the queue")
        elif requeue is not None:
            self._tree.put_words(("retry", "on"), ("node-failure", "preemption"), requeue.place)

    def _begin(self) -> None:
        option = self._options.get("begin")
        if option is None:
            return
        if re.match(r"\d{4}-\d\d-\d\d", option.value, re.ASCII) is None:
            self._fault(option, f"{quote(option.value)}: give an absolute time, such as 2026-10-01T08:00:00Z")
            return
        if not re.search(r"(?:Z|[+-]\d\d:?\d\d)$", option.value):
            self._note(option, "is read as UTC, not as local time")
        self._tree.put(("begin_after",), option.value, option.place)

    def _export(self) -> None:
        option = self._options.get("export")
        if option is None:
            return
        for part in option.value.split(","):
            name, mark, value = part.partition("=")
            if mark:
                self._tree.put(("env", name), value, option.place)
            elif name.upper() not in ("NONE", "NIL"):
                self._note(
                    option,
                    f"{quote(name)} is not honoured: the submitting shell's variables are not copied; "
                    "write NAME=VALUE",
                )
