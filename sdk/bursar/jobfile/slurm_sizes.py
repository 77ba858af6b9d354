"""What `#SBATCH` options ask of nodes: how many, with what in them, and which.

Owns    tasks, nodes, GPUs, CPUs, memory and node lists. Output: values in the job tree.
Why     Slurm counts by job, task, GPU or node; here resources are of a node. `--gpus` counts the whole job,
        `--mem=4G` is 4 GiB, and a feature is a label.
"""

from __future__ import annotations

import re
from typing import Final

from bursar.jobfile.flags import FlagFaults, FlagNode, Place, Tree
from bursar.jobfile.variables import expand_hosts
from bursar.model.check import quote
from bursar.words import plural

GPU_TYPES: Final = frozenset((
    "K80", "P4", "P40", "P100", "V100", "V100S", "T4", "RTX6000", "A10", "A16", "A30", "A40", "A100", "A800",
    "L4", "L40", "L40S", "H100", "H200", "H800", "GH200", "B100", "B200", "GB200", "MI100", "MI210", "MI250",
    "MI250X", "MI300A", "MI300X",
))  # fmt: skip
"""Types that sites name in `--account` and `--constraint` as well as in `--gres`."""
_LOCAL_DISK: Final = frozenset(
    ("lscratch", "localtmp", "tmpspace", "tmpdir", "scratch", "nvme", "ssd", "disk")
)
_UNIT = {"": 1024**2, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_MEM = re.compile(r"(\d{1,12})([KMGT]?)B?", re.ASCII | re.IGNORECASE)
_GRES_GPU = re.compile(
    r"gpu(?::([A-Za-z][A-Za-z0-9._-]*|\d+g\.\d+gb))?(?:[:=](\d{1,6}))?(?:\(.*\))?", re.ASCII
)
_TYPED_COUNT = re.compile(r"(?:([A-Za-z][A-Za-z0-9._-]*|\d+g\.\d+gb):)?(\d{1,6})", re.ASCII)
_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)
_EITHER = re.compile(r"[^&,()\[\]]+\|[^&,()\[\]]+", re.ASCII)
_IN_ALL: Final = ("ntasks", "gpus", "nodelist", "use-min-nodes")
"""With one of these a range of nodes is not kept: they say something of all nodes together."""
_NODES = re.compile(r"\d{1,6}(?:-\d{1,6}(?::\d{1,6})?)?(?:,\d{1,6}(?:-\d{1,6})?)*", re.ASCII)


class Option:
    """One option as found: its long name, its value, and where it stands as it was written."""

    __slots__ = ("name", "place", "value")

    def __init__(self, name: str, value: str, place: Place) -> None:
        self.name, self.value, self.place = name, value, place


class Sizes:
    """Reads the options that count; `notes` takes what is said by line.

    Attributes:
        tasks: in all, as `--ntasks` says; 0: it does not. tasks_per_node: at least 1.
        all_memory: the option that asks for all memory of a node.
        alternatives: features, at least one of them a label, of which one is enough; all of these lists.
        site_is_known: nodes are at hand, to be asked once all is read. may_spread: of tasks it is not said on
            how many nodes they are, or that one may do; at most on most_nodes, if not 0.
        usual_kind: of GPUs whose type no line says.
        words: for Slurm's variables of the same content, `SLURM_MEM_PER_CPU`.
    """

    def __init__(self, options: dict[str, Option], tree: Tree, faults: FlagFaults) -> None:
        self.options = options
        self.tree = tree
        self.faults = faults
        self.notes: list[tuple[int, str]] = []
        self.words: dict[str, str] = {}
        self.tasks = 0
        self.tasks_per_node = 1
        self.all_memory: Option | None = None
        self._nodes = 1
        self._gpus = 0
        self._kinds: list[str] = []
        self._of_constraint: list[str] = []
        self.alternatives: list[list[str]] = []
        self.usual_kind = ""
        self.site_is_known = False
        self.may_spread = False
        self.most_nodes = 0

    def note(self, option: Option, sentence: str) -> None:
        """Say something at an option."""
        self.notes.append((option.place.line, f"{option.place.flag} {sentence}"))

    def fault(self, option: Option, message: str) -> None:
        """Refuse an option."""
        self.faults.add(FlagNode("scalar", option.place), message)

    def read(self) -> None:
        """Everything that counts."""
        self._read_nodes()
        self._read_lists()
        self._read_kind()
        found = self._find_gpus()
        self._read_tasks(found)
        self._read_gpus(found)
        cpus = self._read_cpus()
        self._read_memory(cpus)

    def _number(self, name: str) -> int | None:
        option = self.options.get(name)
        if option is None:
            return None
        if re.fullmatch(r"\d{1,6}", option.value, re.ASCII) is None or int(option.value) == 0:
            self.fault(option, f"{quote(option.value)} is not a whole number from 1 to 999999")
            return None
        return int(option.value)

    # -------------------------------------------------------------- nodes

    def _read_nodes(self) -> None:
        option = self.options.get("nodes")
        if option is None:
            return
        text = option.value
        if _NODES.fullmatch(text) is not None and not text.isdigit():
            text = self._one_of(option)
        self.tree.put(("nodes",), text, option.place)
        first = text.partition("..")[0]
        self._nodes = int(first) if re.fullmatch(r"[1-9]\d{0,5}", first, re.ASCII) else 1

    def _one_of(self, option: Option) -> str:
        """`1..4` of `1-4`; of `2,4`, of `2-8:2`, and where something is said of all nodes together, the least
        that its tasks fit on.
        """
        both = re.fullmatch(r"([1-9]\d{0,5})-([1-9]\d{0,5})", option.value, re.ASCII)
        if both is not None and int(both[1]) < int(both[2]) and self.options.keys().isdisjoint(_IN_ALL):
            return f"{both[1]}..{both[2]}"
        spans: list[range] = []
        for part in option.value.split(","):
            first, last, step = ([*re.split(r"[-:]", part), "", ""])[:3]
            spans.append(range(int(first), int(last or first) + 1, int(step or 1) or 1))
        if not all(spans):
            self.fault(
                option, f"{quote(option.value)} is no range of nodes; the least comes first, as in 2-4"
            )
            return "1"
        tasks, each = (self._digits(name) for name in ("ntasks", "ntasks-per-node"))
        needed = -(-tasks // each) if tasks and each else 1
        above = (span[max(-((span.start - needed) // span.step), 0) :] for span in spans)
        fitting = [span[0] for span in above if span]
        if not fitting:
            self.fault(option, f"{option.value} are too few for {tasks} tasks, {each} on each")
            return str(needed)
        if both is not None and min(fitting) == 1 and tasks and not each and "nodelist" not in self.options:
            self.most_nodes = int(both[2])  # of how many nodes they are is said with the tasks
        elif len(spans) > 1 or len(spans[0]) > 1:
            least = min(span.start for span in spans)
            why = f"the least that {tasks} tasks fit on" if needed > least else "the least of them"
            said = next(
                (f"--{name} is of all nodes together" for name in _IN_ALL if name in self.options), ""
            )
            said = said or "a gang has one size, or one range of sizes"
            if "use-min-nodes" not in self.options:
                self.note(option, f"{option.value} is taken as {min(fitting)}, {why}: {said}")
        return str(min(fitting))

    def _digits(self, name: str) -> int:
        text = self.options[name].value if name in self.options else ""
        return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else 0

    def _read_lists(self) -> None:
        wanted, unwanted = self._hosts("nodelist"), self._hosts("exclude")
        parts = [*wanted, *(f"!{name}" for name in unwanted)]
        if not parts:
            return
        option = self.options["nodelist" if wanted else "exclude"]
        if wanted and "nodes" not in self.options and "ntasks-per-node" not in self.options:
            self._nodes = len(wanted)
            self.tree.put(("nodes",), str(len(wanted)), option.place)
        elif wanted and len(wanted) != self._nodes:
            self.fault(
                option,
                f"names {plural(len(wanted), 'node')} for a job of {self._nodes}; name as many as it has",
            )
        self.tree.put(("resources", "constraints", "node"), ",".join(parts), option.place)

    def _hosts(self, name: str) -> list[str]:
        option = self.options.get(name)
        if option is None:
            return []
        try:
            names = expand_hosts(option.value)
        except ValueError:
            names = []
        if not names or any(_FEATURE.fullmatch(one) is None or "/" in one for one in names):
            self.fault(option, f"{quote(option.value)} is not a list of nodes, such as n1,n[3-5]")
            return []
        return names

    def _read_kind(self) -> None:
        """Features: a label of nodes, or a type of GPU; several of which one is enough."""
        option = self.options.get("constraint")
        if option is None:
            return
        for group in self._feature_groups(option):
            kinds = [feature.upper() for feature in group if feature.upper() in GPU_TYPES]
            if len(kinds) == len(group):
                self._add_kinds(option, kinds)
                self._of_constraint = group
            elif len(group) > 1:
                self.alternatives.append(group)
            else:
                self.tree.put(("resources", "constraints", group[0]), "*", option.place)
                self.note(option, f"asks for nodes that have the label {group[0]}")

    def _feature_groups(self, option: Option) -> list[list[str]]:
        """`a&(b|c)` as [[a], [b, c]]; of each one must be there."""
        text = option.value.strip("\"' ")
        parts = [text] if _EITHER.fullmatch(text) else re.split(r"[&,]", text)
        groups = [self._feature_group(option, part.strip(), len(parts) == 1) for part in parts]
        return groups if all(groups) else []

    def _feature_group(self, option: Option, part: str, alone: bool) -> list[str]:
        """`b`, `(b|c)`, `[b|c]`, and where it is `alone` `b|c`; empty where it is none of them."""
        marks = part[:1] + part[-1:]
        enclosed = marks in ("()", "[]")
        found = [one.strip() for one in (part[1:-1] if enclosed else part).split("|")]
        if any(_FEATURE.fullmatch(one) is None for one in found) or not (
            enclosed or alone or len(found) == 1
        ):
            self.fault(
                option,
                f"{quote(part)} is not the name of a feature; features are joined by &, and by | where "
                "one of several is enough, as in 'ib&(a100|h100)'",
            )
            return []
        if marks == "[]" and len(found) > 1 and self._nodes > 1:
            self.fault(option, f"{quote(part)}: name the one feature that all {self._nodes} nodes shall have")
            return []
        return found

    def _add_kinds(self, option: Option, kinds: list[str]) -> None:
        if self._kinds and set(kinds) != set(self._kinds):
            self.fault(option, f"asks for {'|'.join(kinds)} GPUs and for {'|'.join(self._kinds)}; keep one")
        self._kinds = kinds

    def account_kind(self, option: Option, kind: str) -> None:
        """The part of an account behind its @, such as v100."""
        if kind.upper() in GPU_TYPES:
            self._kinds = [kind.upper()]
            self.note(
                option, f"is read as {kind.upper()} GPUs for the project {option.value.partition('@')[0]}"
            )
        elif kind.lower() != "cpu":
            self.fault(
                option,
                f"{quote(option.value)}: {quote(kind)} behind the @ is no type of GPU that is known here; "
                "write the project alone, and the type in --gres=gpu:TYPE:COUNT",
            )

    # -------------------------------------------------------------- tasks

    def _read_tasks(self, found: tuple[Option, str, int] | None) -> None:
        tasks, per_node = self._number("ntasks"), self._number("ntasks-per-node")
        per_gpu = self._number("ntasks-per-gpu")
        if per_gpu is not None and found is not None and per_node is None:
            of_job = found[0].name == "gpus"
            per_node = per_gpu * max(found[2] // self._nodes if of_job else found[2], 1)
        self.tasks = tasks or 0
        if per_node is not None:
            self.tasks_per_node = per_node
        if tasks is not None and (per_node is None or not {"nodes", "nodelist"}.isdisjoint(self.options)):
            self._fit(tasks, per_node)
        elif tasks is not None and per_node is not None:
            self._nodes = -(-tasks // per_node)
            self.tree.put(("nodes",), str(self._nodes), self.options["ntasks"].place)
        option = self.options.get("ntasks-per-node") or self.options.get("ntasks")
        if option is not None and self.tasks_per_node > 1:
            self.may_spread = (
                option.name == "ntasks"
                and self._nodes == 1
                and (self.most_nodes > 1 or {"nodes", "nodelist"}.isdisjoint(self.options))
            )
            if not (self.may_spread and self.site_is_known):
                alone = "; where no node has so many, -N 2 spreads them, as Slurm would"
                self.note_tasks(option, self._nodes, "", alone if self.may_spread else "")

    def note_tasks(self, option: Option, nodes: int, why: str = "", more: str = "") -> None:
        """Say what the tasks make of the nodes, and that they are not started by themselves."""
        self.note(
            option,
            f"gives {self.tasks_per_node} tasks' CPUs on each of {plural(nodes, 'node')}{why}; the"
            f" script itself runs once, on the first node, and starts them{more}",
        )

    def _fit(self, tasks: int, per_node: int | None) -> None:
        """So many tasks on so many nodes, as Slurm has it where both are said."""
        option = self.options.get("nodes")
        if option is not None and tasks < self._nodes and "nodelist" not in self.options:
            self.note(option, f"{self._nodes} is taken as {tasks}: no node stays without a task")
            self._nodes = tasks
            self.tree.put(("nodes",), str(tasks), option.place)
        self.tasks_per_node = -(-tasks // self._nodes)
        if per_node is not None and self.tasks_per_node > per_node and "ntasks-per-node" in self.options:
            where = plural(self._nodes, "node")
            self.note(self.options["ntasks-per-node"], f"{per_node} is not kept: {tasks} tasks share {where}")

    # -------------------------------------------------------------- GPUs

    def _find_gpus(self) -> tuple[Option, str, int] | None:
        order = ("gpus-per-node", "gres", "gpus-per-task", "gpus")
        found: list[tuple[Option, str, int]] = []
        for name in order:
            option = self.options.get(name)
            if option is not None:
                read = self._gres(option) if name == "gres" else self._typed(option)
                if read is not None:
                    found.append((option, *read))
        for other, _, _ in found[1:]:
            if other.name == "gpus-per-task":
                self.words["SLURM_GPUS_PER_TASK"] = other.value
            else:
                self.note(other, f"is not read beside {found[0][0].place.flag}")
        return found[0] if found else None

    def _read_gpus(self, found: tuple[Option, str, int] | None) -> None:
        if found is None:
            if self._of_constraint:  # nodes that have such GPUs, of which the job wants none
                self.alternatives.append(self._of_constraint)
            return
        option, kind, count = found
        if option.name == "gpus-per-task":
            self.words["SLURM_GPUS_PER_TASK"] = option.value
            count *= self.tasks_per_node
        if option.name == "gpus":
            if count % self._nodes:
                self.fault(
                    option, f"{count} do not divide over {plural(self._nodes, 'node')}; use --gpus-per-node"
                )
                return
            count //= self._nodes
        self._gpus = count
        if self._kinds and kind and kind.upper() not in self._kinds:
            self.fault(option, f"asks for {kind}, and another line for {'|'.join(self._kinds)}; keep one")
            return
        kind = kind or "|".join(self._kinds) or self.usual_kind
        text = f"{kind}:{count}" if kind and count else str(count)
        self.tree.put(("resources", "gpus"), text, option.place)

    def _gres(self, option: Option) -> tuple[str, int] | None:
        found: list[tuple[str, int]] = []
        for part in option.value.split(","):
            name = re.split(r"[:=]", part.removeprefix("gres/").removeprefix("gres:"))[0]
            match = _GRES_GPU.fullmatch(part.removeprefix("gres/").removeprefix("gres:"))
            if match is not None:
                found.append((match.group(1) or "", int(match.group(2) or 1)))
            elif name == "gpu":
                self.fault(option, f"{quote(part)} is not of the form gpu:TYPE:COUNT")
            elif name.lower() in _LOCAL_DISK:
                self.note(
                    option, f"{quote(part)} is not honoured: local disk is not counted; TMPDIR is private"
                )
            elif name and part not in ("none", "0") and not part.endswith(":0"):
                self.fault(option, f"{quote(part)} cannot be had: only gpu is counted; name nodes by a label")
        if len(found) > 1:
            self.fault(option, "names GPUs twice; a node of the job has GPUs of one type")
            return None
        return found[0] if found else None

    def _typed(self, option: Option) -> tuple[str, int] | None:
        match = _TYPED_COUNT.fullmatch(option.value)
        if match is None:
            self.fault(option, f"{quote(option.value)} is not of the form COUNT or TYPE:COUNT")
            return None
        return match.group(1) or "", int(match.group(2))

    # -------------------------------------------------------------- CPUs and memory

    def _read_cpus(self) -> int:
        per_task, per_gpu = self._number("cpus-per-task"), self._number("cpus-per-gpu")
        least = self._number("mincpus") or 0
        order = ("cpus-per-task", "cpus-per-gpu", "ntasks-per-node", "ntasks", "ntasks-per-gpu", "mincpus")
        given = [name for name in order if name in self.options]
        if not given:
            return 1
        cpus = per_gpu * self._gpus if per_gpu and self._gpus else (per_task or 1) * self.tasks_per_node
        cpus = max(cpus, least)
        self.tree.put(("resources", "cpus"), str(cpus), self.options[given[0]].place)
        return cpus

    def _read_memory(self, cpus: int) -> None:
        factors = {"mem": 1, "mem-per-cpu": cpus, "mem-per-gpu": max(self._gpus, 1)}
        given = [name for name in factors if name in self.options]
        if not given:
            return
        option = self.options[given[0]]
        match = _MEM.fullmatch(option.value)
        if match is None:
            self.fault(option, f"{quote(option.value)} is not a size, such as 4G (GiB) or 4000 (MiB)")
            return
        size = int(match.group(1)) * _UNIT[match.group(2).upper()]
        if size == 0:
            self.all_memory = option
        else:
            self.tree.put(("resources", "memory"), f"{size * factors[option.name]}B", option.place)
        if option.name != "mem":
            self.words[f"SLURM_{option.name.replace('-', '_').upper()}"] = str(size // 1024**2)
        for other in given[1:]:
            self.note(self.options[other], f"is not read beside {option.place.flag}")
