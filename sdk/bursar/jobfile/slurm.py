"""What `#SBATCH` options mean here.

Owns    the translation of what they say of names, times, order and endings; `slurm_sizes` has what they ask
        of nodes, `options` the table of all of them.
Output  values in the job tree, notes (line, sentence), and words for Slurm's variables.
Why     the words are Slurm's, with Slurm's meaning. An option that would change what is run, where or when is
        a fault when it cannot be kept; one that changes comfort is a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from bursar.errors import InvalidRequest
from bursar.jobfile.exported import Exported
from bursar.jobfile.flags import FlagFaults, Place, Tree, job_name_from
from bursar.jobfile.options import HONOURED, NOTED, OPTIONS, REFUSED
from bursar.jobfile.sections import PRIORITIES
from bursar.jobfile.site import Asks, Site, SiteNode, in_partition, places, whole_nodes, with_features
from bursar.jobfile.slurm_names import MENDS, Meaning, in_partitions, listed, with_meaning
from bursar.jobfile.slurm_sizes import Option, Sizes
from bursar.jobfile.spread import By, Counted, spread
from bursar.jobfile.variables import job_of
from bursar.model import JobSpec
from bursar.model.check import quote
from bursar.model.slurm_names import find, known
from bursar.steps import programs
from bursar.steps.patterns import of_an_array_task
from bursar.steps.request import Refused, Request
from bursar.steps.srun import bind
from bursar.steps.times import parse_begin, parse_slurm_time

_SBATCH = re.compile(r"^#SBATCH(?=[\s-]|$)", re.MULTILINE)
_OF_NODES = re.compile(
    r"^#SBATCH(?=[\s-]).*(?:-p|--part?|--exclus|--mem\W*0|(?:-C|--con).*(?:\||[A-Za-z]\d)|(?:-n|--ntasks)\W*(?:[2-9]|1\d))"
    rf"|^[^#\n]*\b(?:module|ml|{'|'.join(programs.NAMES)})\b",
    re.MULTILINE,
)
_OF_NAMES = re.compile(r"^#SBATCH(?=[\s-]).*(?:-[pqA]|--part?|--qo|--acco)", re.MULTILINE)
_SIGNAL = re.compile(r"(?:([RB]{1,2}):)?([A-Za-z0-9]{1,12})(?:@(\d{1,6}))?", re.ASCII)
_SIGNAL_NUMBERS = {
    "1": "HUP",
    "2": "INT",
    "3": "QUIT",
    "10": "USR1",
    "12": "USR2",
    "15": "TERM",
    "18": "CONT",
}
_WARNING_S: Final = 60
"""Before the limit, where --signal names no time: as in Slurm."""
_DEPENDENCY = {
    "afterok": "succeeded",
    "afternotok": "failed",
    "afterany": "finished",
    "after": "started",
    "aftercorr": "task-succeeded",
}
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*\}?", re.ASCII)
_ID = re.compile(r"(\d{1,15})(?:_(\d{1,7}))?", re.ASCII)


def is_slurm_script(script: str) -> bool:
    """Does it carry an `#SBATCH` line, so that its commands may read Slurm's variables?"""
    return "#SBATCH" in script and _SBATCH.search(script) is not None


def asks_of_site(script: str) -> Asks:
    """May it name partitions, QOS or accounts, or say what only nodes can tell?"""
    return Asks(_OF_NODES.search(script) is not None, _OF_NAMES.search(script) is not None)


class SlurmOptions(Sizes):
    """All `#SBATCH` options of a script; the last of each name counts, as in Slurm.

    Args:
        environ: the variables of the caller's shell, for `--export=NAME`; None where there is none.
        now: the caller's moment and time zone, for `--begin`; None where there is none.
        site: None where nothing is known of one.
        exported: what `--export=ALL` copies, which is the default: None of a person's shell.

    Attributes:
        singleton: asks to wait for all earlier jobs of its name, which is known only when all is read.
        inherits: secrets of the job that submits this one, but for those that it names itself.
    """

    def __init__(
        self,
        options: list[Option],
        tree: Tree,
        faults: FlagFaults,
        environ: Mapping[str, str] | None = None,
        now: datetime | None = None,
        site: Site | None = None,
        exported: Exported | None = None,
    ) -> None:
        super().__init__({option.name: option for option in options}, tree, faults)
        self._environ = environ
        self._now = now
        self._site = site
        self._exported = exported
        self.site_is_known = site is not None and bool(site.nodes)
        self.singleton: Option | None = None
        self.inherits: tuple[str, ...] = ()

    def convert(self) -> list[tuple[int, str]]:
        """Fill the tree; returns the notes."""
        for option in self.options.values():
            known = OPTIONS[option.name]
            if known.fate == NOTED:
                self.note(option, known.text)
            elif known.fate == REFUSED:
                self.fault(option, known.text)
            if known.fate == HONOURED and (found := _VARIABLE.search(option.value or "")):
                self.note(
                    option,
                    f"has {found[0]} as it is: no variable is known where directives are read, as in Slurm; "
                    "write what it stands for, or give the option as you submit",
                )
        for name, path in (("comment", "comment"), ("wckey", "experiment")):
            self._copy(name, path)
        self._copy("chdir", "workdir")
        self._usual_kind()
        self._account()
        self._array()
        self._job_name()
        self.read()
        self._time()
        self._dependencies()
        self._signal()
        self._requeue()
        self._begin()
        self._export()
        self._gpu_bind()
        self._outputs()
        self._qos()
        for name in ("partition", "qos"):
            if name in self.options:
                self.words[f"SLURM_JOB_{name.upper()}"] = self.options[name].value
        return self.notes

    def _copy(self, name: str, key: str) -> None:
        option = self.options.get(name)
        if option is not None:
            self.tree.put((key,), option.value, option.place)

    def _meaning(self, name: str) -> Meaning | None:
        """What a policy says of the name that an option holds."""
        option = self.options.get(name)
        found = find(self._site.names, name, option.value) if option is not None and self._site else None
        return Meaning(*found) if found is not None else None

    def _usual_kind(self) -> None:
        for name in ("partition", "qos", "account"):
            meaning = self._meaning(name)
            if meaning is not None and meaning.name.gpu_type:
                self.usual_kind = meaning.name.gpu_type

    def _account(self) -> None:
        option, meaning = self.options.get("account"), self._meaning("account")
        if option is None:
            return
        project, mark, kind = option.value.partition("@")
        if mark and meaning is None:
            self.account_kind(option, kind)
        own = meaning.name.project if meaning is not None else ""
        self.tree.put(("project",), own or project, option.place)

    def _array(self) -> None:
        option = self.options.get("array")
        if option is not None:
            self.tree.put(("array",), re.sub(r"[\[\]]", "", option.value), option.place)

    def _job_name(self) -> None:
        option = self.options.get("job-name")
        if option is None:
            return
        name = job_name_from(option.value)
        if not name:
            self.fault(option, f"{quote(option.value)} holds no letter or digit; give a name such as train")
            return
        if name != option.value:
            self.note(option, f"{quote(option.value)} becomes {name}; a name has no spaces or signs")
        self.tree.put(("name",), name, option.place)

    # -------------------------------------------------------------- the site

    def settle(self, spec: JobSpec) -> JobSpec:
        """The job in the place and of the size that its words stand for at the site; with notes and faults.

        `spec`: as all else is read, flags too.
        """
        taken = {key for key in ("priority", "spot_policy", "time_limit") if (key,) in self.tree}
        for name in ("account", "qos"):
            if (meaning := self._meaning(name)) is not None:
                spec = self._with_meaning(self.options[name], spec, meaning, taken)
        partition, exclusive = self.options.get("partition"), self.options.get("exclusive")
        if partition is not None:
            spec = self._in_partition(partition, spec, taken)
        for group in self.alternatives:
            any_of = partial(with_features, spec, group)
            spec = self._at_site(self.options["constraint"], any_of, spec)
        if exclusive is not None and exclusive.value not in ("", "exclusive"):
            self.fault(
                exclusive, f"{quote(exclusive.value)} cannot be had; --exclusive alone shares with nobody"
            )
            return spec
        option = exclusive or self.all_memory
        if option is None:
            return self._spread(spec)
        if exclusive is not None and "cpus-per-task" in self.options:
            self.words["SLURM_CPUS_PER_TASK"] = self.options["cpus-per-task"].value
        whole = partial(whole_nodes, everything=exclusive is not None, memory=self.all_memory is not None)
        return self._at_site(option, lambda nodes: whole(spec, nodes), spec)

    def _spread(self, spec: JobSpec) -> JobSpec:
        """Tasks without a number of nodes, over several where no node has room for all."""
        nodes = self._site.nodes if self._site is not None else None
        if not nodes or not self.may_spread:
            return spec
        has = self.options.keys()
        of_gpus: By = "task" if "gpus-per-task" in has else "job"
        if has & {"gpus-per-node", "gres"}:
            of_gpus = "node"
        of_memory: By = "task" if "mem-per-cpu" in has else "gpu" if "mem-per-gpu" in has else "node"
        by = Counted("gpu" if "cpus-per-gpu" in has else "task", of_memory, of_gpus)
        each = 0
        if spec.nodes == 1:
            spec, each = spread(spec, nodes, self.tasks, by, self.most_nodes)
        self.tasks_per_node = each or self.tasks_per_node
        why = f", since no node has room for {self.tasks}" if each else ""
        self.note_tasks(self.options["ntasks"], spec.nodes, why)
        return spec

    def _in_partition(self, option: Option, spec: JobSpec, taken: set[str]) -> JobSpec:
        text, names = option.value, self._site.names if self._site is not None else ()
        meaning = self._meaning("partition")
        if meaning is not None:
            return self._with_meaning(option, spec, meaning, taken)
        parts = [(part.strip(), find(names, "partition", part.strip())) for part in text.split(",")]
        first = next((found for _, found in parts if found is not None), None)
        if first is None:
            others = [*known(names, "partition")]
            return self._at_site(option, lambda nodes: in_partition(spec, text, nodes, others), spec)

        def any_of(nodes: Sequence[SiteNode]) -> tuple[JobSpec, str]:
            joined = in_partitions(text, [(name, found and found[0]) for name, found in parts], places(nodes))
            return with_meaning(spec, Meaning(joined, first[1]), taken)

        return self._at_site(option, any_of, spec)

    def _with_meaning(self, option: Option, spec: JobSpec, meaning: Meaning, taken: set[str]) -> JobSpec:
        return self._told(option, lambda: with_meaning(spec, meaning, taken), spec)

    def _at_site(
        self, option: Option, ask: Callable[[Sequence[SiteNode]], tuple[JobSpec, str]], spec: JobSpec
    ) -> JobSpec:
        nodes = self._site.nodes if self._site is not None else None
        if nodes is None:
            self.fault(option, "what it stands for is known with the nodes of a cluster at hand alone")
            return spec
        return self._told(option, lambda: ask(nodes), spec)

    def _told(self, option: Option, ask: Callable[[], tuple[JobSpec, str]], spec: JobSpec) -> JobSpec:
        """The job that comes of it with a note; or a fault, and the job as it was."""
        try:
            settled, said = ask()
        except InvalidRequest as problem:
            self.fault(option, problem.message)
            return spec
        self.note(option, said)
        return settled

    # -------------------------------------------------------------- time, order, endings

    def _time(self) -> None:
        option = self.options.get("time")
        if option is None:
            return
        if option.value.upper() in ("UNLIMITED", "INFINITE", "0"):
            self.note(option, "sets no limit; the default limit of the server holds")
            return
        seconds = parse_slurm_time(option.value)
        if seconds is None:
            self.fault(
                option, f"{quote(option.value)} is not a Slurm time: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM[:SS]"
            )
        elif seconds == 0:
            self.fault(option, f"{quote(option.value)} is no time at all; give at least 1 minute")
        else:
            self.tree.put(("time_limit",), f"{seconds}s", option.place)

    def _dependencies(self) -> None:
        option = self.options.get("dependency")
        if option is None:
            return
        self.words["SLURM_JOB_DEPENDENCY"] = option.value
        if "?" in option.value:
            self.fault(option, "'?' (any of them) is not supported; all dependencies are waited for")
            return
        for part in option.value.split(","):
            kind, _, ids = part.strip().partition(":")
            if kind.lower() == "singleton" and not ids:
                self.singleton = option
                continue
            when = _DEPENDENCY.get(kind.lower())
            if when is not None and not all(one.strip() for one in ids.split(":")):
                self.fault(
                    option,
                    f"{quote(part)} names no job; an empty variable may stand where its number was to be "
                    "(`sbatch --parsable` prints it)",
                )
                continue
            if when is None:
                listed = ", ".join(f"{word}:ID" for word in _DEPENDENCY)
                self.fault(option, f"{quote(part)} is not supported; use {listed} or singleton")
                continue
            for text in ids.split(":"):
                self._depend(option, text.strip(), when)

    def _depend(self, option: Option, text: str, when: str) -> None:
        if "+" in text:
            self.fault(
                option, f"{quote(text)}: a delay after a start is not supported; use --begin in the job"
            )
            return
        match = _ID.fullmatch(text)
        if match is None:
            self.tree.depend(text, when, option.place)
            return
        number, index = job_of(int(match.group(1)))
        task = match.group(2) or (str(index) if index >= 0 else "")
        self.tree.depend(f"{number}[{task}]" if task else str(number), when, option.place)

    def _signal(self) -> None:
        option = self.options.get("signal")
        if option is None:
            return
        match = _SIGNAL.fullmatch(option.value)
        if match is None:
            self.fault(option, f"{quote(option.value)} is not of the form [B:]SIGNAL[@SECONDS]")
            return
        word = match.group(2)
        seconds = int(match.group(3) or _WARNING_S) or 1
        self.tree.put(("checkpoint", "signal"), _SIGNAL_NUMBERS.get(word, word), option.place)
        for key in ("grace", "before"):
            self.tree.put(("checkpoint", key), f"{seconds}s", option.place)
        if "B" in (match.group(1) or ""):
            self.tree.put(("checkpoint", "script_only"), "true", option.place)

    def _requeue(self) -> None:
        requeue, never = self.options.get("requeue"), self.options.get("no-requeue")
        if "hold" in self.options:
            self.tree.put(("held",), "true", self.options["hold"].place)
        if never is not None and (requeue is None or requeue.place.line < never.place.line):
            self.tree.put(("retry", "never"), "true", never.place)
        elif requeue is not None:
            self.tree.put_words(("retry", "on"), ("node-failure", "preemption"), requeue.place)

    def _begin(self) -> None:
        self._moment("begin", "begin_after")
        self._moment("deadline", "deadline")

    def _moment(self, name: str, key: str) -> None:
        option = self.options.get(name)
        if option is None:
            return
        now = self._now or datetime.fromtimestamp(0, UTC)
        at = parse_begin(option.value, now)
        if at is None or (self._now is None and not re.match(r"\d{4}-", option.value)):
            self.fault(
                option,
                f"{quote(option.value)} is not a time: now+1hour, 16:00, tomorrow, 2026-10-01, "
                "2026-10-01T08:00:00",
            )
        elif at > now or name == "deadline":
            self.tree.put((key,), at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), option.place)

    def _qos(self) -> None:
        option = self.options.get("qos")
        if option is None or self._meaning("qos") is not None:
            return
        if option.value.lower() in PRIORITIES:
            self.tree.put(("priority",), option.value.lower(), option.place)
            return
        names = listed(self._site.names if self._site is not None else (), "qos", tuple(PRIORITIES))
        self.fault(
            option,
            f"there is no QOS {quote(option.value)} here; these are: {names} ({MENDS}; or leave the line out "
            "and write #BURSAR --priority low, normal or high)",
        )

    def _outputs(self) -> None:
        """Files that the output goes to; nothing is read but what the script itself reads."""
        fed = self.options.get("input")
        if fed is not None and fed.value not in ("/dev/null", "none"):
            self.fault(fed, f"standard input is empty; begin the script with `exec < {fed.value}`")
        mode = self.options.get("open-mode")
        files = [option for name in ("output", "error") if (option := self.options.get(name)) is not None]
        for option in files:
            self.tree.put((f"{option.name}_file",), option.value, option.place)
            if "array" in self.options and option.value != "/dev/null" and not of_an_array_task(option.value):
                self.note(option, "is one file for all tasks of the array; %a in its name gives each its own")
        if mode is None:
            return
        word = {"a": "append", "t": "truncate"}.get(mode.value[:1].lower())
        if word is None:
            self.fault(mode, f"{quote(mode.value)} is not append or truncate")
        elif files:
            self.tree.put(("open_mode",), word, mode.place)
        else:
            self.note(
                mode, "says how --output is opened, which is not there; the log is kept of every attempt"
            )

    def _gpu_bind(self) -> None:
        option = self.options.get("gpu-bind")
        if option is None:
            return
        try:
            bind(Request([]), option.value)
        except Refused as refused:
            self.fault(option, str(refused).removeprefix("--gpu-bind "))
        else:
            self.words["SLURM_GPU_BIND"] = option.value

    def _export(self) -> None:
        option = self.options.get("export")
        parts = option.value.split(",") if option is not None else ["ALL"]
        if self._exported is not None and "ALL" in map(str.upper, parts):
            place = option.place if option is not None else Place("--export", 1, 1)
            for name, value in sorted(self._exported.env.items()):
                self.tree.put(("env", name), value, place)
            self.inherits = self._exported.secrets
            parts = [part for part in parts if part.upper() != "ALL"]
        if option is None:
            return
        for part in parts:
            name, mark, value = part.partition("=")
            if mark:
                self.tree.put(("env", name), value, option.place)
            elif name.upper() in ("NONE", "NIL", ""):
                continue
            elif self._environ is not None and name in self._environ:
                self.tree.put(("env", name), self._environ[name], option.place)
            else:
                self.note(
                    option,
                    f"{quote(name)} is not honoured: the submitting shell's variables are not copied; "
                    "write NAME=VALUE",
                )
