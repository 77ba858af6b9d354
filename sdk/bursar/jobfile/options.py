"""The options of `#SBATCH` lines: which there are, how they are written, and what becomes of each.

Owns    the table that scripts are read with and docs/from-slurm.md is made of.
Rule    what changes what, where or when something runs is honoured or refused. What changes comfort alone is
        noted, with the line, and never refused.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HONOURED, NOTED, REFUSED = "honoured", "noted", "refused"


class SlurmOption(NamedTuple):
    """One option.

    Attributes:
        short: its letter, empty for none.
        value: `yes`, `no`, or `maybe` for one that may follow `=`.
        fate: honoured, noted or refused.
        text: honoured: what it becomes. Else a sentence that goes on from the option's name.
    """

    name: str
    short: str
    value: str
    fate: str
    text: str


def _honoured(name: str, text: str, short: str = "", value: str = "yes") -> SlurmOption:
    return SlurmOption(name, short, value, HONOURED, text)


def _noted(name: str, text: str, short: str = "", value: str = "yes") -> SlurmOption:
    return SlurmOption(name, short, value, NOTED, f"is not honoured: {text}")


def _refused(name: str, text: str, short: str = "", value: str = "yes") -> SlurmOption:
    return SlurmOption(name, short, value, REFUSED, text)


_BINDING = "bursar does not bind processes to cores; use numactl or your launcher"
_MAIL = "bursar sends no mail; watch with bursar wait or bursar events"
_TOPOLOGY = "use `constraints: {topology: same-rack}` of a job file"
_OWN = "what a job holds is its own"

_IMAGES = "a script that runs once is not run in a container; write `image` in a job file"
_NO_EQUAL = "not done by bursar; docs/containers.md says what a container has"
_OF_CONTAINERS: Final = {
    "yes": ("id", "image", "mounts", "workdir", "name", "save", "env"),
    "no": ("mount-home", "remap-root", "entrypoint", "entrypoint-log", "writable", "readonly"),
}
"""Of Slurm itself and of Pyxis, with a value or without; each without may have `no-` before it."""
_IN_JOB_FILES: Final = ("image", "mounts")
"""What a job file says with a key of its own."""

_TABLE: Final = (
    _honoured(
        "account",
        "what a policy says of it; else `project`, and of `name@v100` the type of its GPUs behind the `@`",
        "A",
    ),
    _honoured("array", "`array`; brackets are allowed", "a"),
    _honoured(
        "deadline",
        "`deadline`, in the time zone of your machine: it is accepted only with a promise that it is met",
    ),
    _honoured(
        "begin", "`begin_after`, in the time zone of your machine; `now+1hour`, `16:00`, `tomorrow`", "b"
    ),
    _honoured("chdir", "`workdir`", "D"),
    _honoured("comment", "`comment`"),
    _honoured(
        "constraint",
        "`F`, `F&G`, `F|G`, `F&(G|H)`: nodes with the label F; a known GPU type is the type of its GPUs",
        "C",
    ),
    _honoured("cpus-per-gpu", "`resources.cpus`: times the GPUs of a node"),
    _honoured("cpus-per-task", "`resources.cpus`: times the tasks of a node", "c"),
    _honoured(
        "dependency",
        "`depends_on`: afterok, afternotok, afterany, after, aftercorr, singleton; `:` and `,`",
        "d",
    ),
    _honoured(
        "error", "`error_file`: where standard error goes, beside the log; `%j`, `%A_%a` and others", "e"
    ),
    _honoured("exclude", "`resources.constraints.node`: none of these", "x"),
    _honoured("exclusive", "all CPUs and GPUs of nodes of one size, the cheapest that serve", value="maybe"),
    _honoured("export", "`NAME=VALUE` and `NAME` become `env`; your other variables are never copied"),
    _honoured(
        "gpu-bind", "GPUs that a task of `srun` sees: none, closest (all), single:N, per_task:N, map_gpu:N"
    ),
    _honoured("gpus", "`resources.gpus`, divided over the nodes", "G"),
    _honoured("gpus-per-node", "`resources.gpus`"),
    _honoured("gpus-per-task", "`resources.gpus`: times the tasks of a node"),
    _honoured("gres", "`gpu:TYPE:COUNT` is `resources.gpus`; other kinds are refused"),
    _honoured("hold", "`held: true`", "H", "no"),
    _honoured("input", "standard input is empty, as with `/dev/null`; another file is refused", "i"),
    _honoured("job-name", "`name`; other characters become `-`", "J"),
    _honoured("mem", "`resources.memory`, binary units, MiB without one; 0: all of the node's"),
    _honoured("mem-per-cpu", "`resources.memory`: times the CPUs of a node"),
    _honoured("mem-per-gpu", "`resources.memory`: times the GPUs of a node"),
    _honoured("mincpus", "`resources.cpus` is at least this"),
    _honoured("no-requeue", "`retry: {never: true}`", value="no"),
    _honoured("nodelist", "`resources.constraints.node`: these, as many as the job has nodes", "w"),
    _honoured(
        "nodes",
        "`nodes`, `2-8` too: as many of them as can start; of `2,4`, and beside `--ntasks`, `--gpus` or"
        " `--nodelist`, the least that the tasks fit on, with a note",
        "N",
    ),
    _honoured("ntasks", "tasks, which share the CPUs and set `nodes` with `--ntasks-per-node`", "n"),
    _honoured("ntasks-per-gpu", "tasks of a node: times its GPUs"),
    _honoured("ntasks-per-node", "tasks of a node, whose CPUs add up"),
    _honoured("open-mode", "`open_mode`; without it a first attempt truncates, and a requeued one appends"),
    _honoured(
        "output", "`output_file`: written by the job's user, beside the log; `%j`, `%A_%a` and others", "o"
    ),
    _honoured(
        "qos",
        "what a policy says of it; `low`, `normal` and `high` are a `priority`; another name is refused",
        "q",
    ),
    _honoured(
        "requeue", "what bursar does anyway: after a lost node or a preemption it runs again", value="no"
    ),
    _honoured(
        "partition",
        "what a policy says of it; else nodes with the label `partition` of that name, or of the pool; any "
        "where all nodes are one place",
        "p",
    ),
    _honoured("signal", "`checkpoint: {signal, before}`; with `B:` also `script_only`"),
    _honoured("time", "`time_limit`", "t"),
    _honoured("use-min-nodes", "of a range of nodes the least is taken", value="no"),
    _honoured("wckey", "`experiment`"),
    _noted("acctg-freq", "usage is always recorded"),
    _noted("contiguous", _TOPOLOGY, value="no"),
    _noted("core-spec", "no cores are set apart", "S"),
    _noted("cores-per-socket", _BINDING),
    _noted("cpu-bind", _BINDING),
    _noted("cpu-freq", "the clock of CPUs is left to the node"),
    _noted("delay-boot", "nodes are not booted for a job"),
    _noted("distribution", _BINDING, "m"),
    _noted("extra", "it is a comment of Slurm's own"),
    _noted("extra-node-info", _BINDING, "B"),
    _noted("get-user-env", "the environment is that of the account on the node", value="maybe"),
    _noted("gpu-freq", "the clock of GPUs is left to the node"),
    _noted("gres-flags", _BINDING),
    _noted("hint", _BINDING),
    _noted("ignore-pbs", "`#PBS` lines are never read", value="no"),
    _noted("kill-on-invalid-dep", "a job whose dependency can never be met ends CANCELLED"),
    _noted("mail-type", _MAIL),
    _noted("mail-user", _MAIL),
    _noted("mcs-label", "who may see a job follows from its project"),
    _noted("mem-bind", _BINDING),
    _noted("network", "the network is the node's"),
    _noted("nice", "use #BURSAR --priority 0 to 100", value="maybe"),
    _noted("no-kill", "a gang ends when one of its nodes is lost", "k", "maybe"),
    _noted("ntasks-per-core", _BINDING),
    _noted("ntasks-per-socket", _BINDING),
    _noted("overcommit", _OWN, "O", "no"),
    _noted("oversubscribe", _OWN, "s", "maybe"),
    _noted("parsable", "in a script; give bursar submit --parsable", value="no"),
    _noted("power", "power is the node's"),
    _noted("prefer", "a preference; --constraint is honoured"),
    _noted("priority", "Slurm's scale is another one; use #BURSAR --priority 0 to 100"),
    _noted("profile", "usage is always recorded; see bursar cost and bursar top"),
    _noted("propagate", "limits come from the node", value="maybe"),
    _noted("quiet", "in a script; give bursar submit -q", "Q", "no"),
    _noted("resv-ports", "no ports are kept free; take MASTER_PORT", value="maybe"),
    _noted("segment", _TOPOLOGY),
    _noted("sockets-per-node", _BINDING),
    _noted("spread-job", "members are on nodes of their own, and no further apart", value="no"),
    _noted("switches", _TOPOLOGY),
    _noted("thread-spec", "no threads are set apart"),
    _noted("threads-per-core", _BINDING),
    _noted("time-min", "the limit is --time"),
    _noted("tmp", "local disk is not counted"),
    _noted("tres-bind", _BINDING),
    _noted("verbose", "in a script", "v", "no"),
    _noted("wait", "in a script; give bursar submit --wait", "W", "no"),
    _noted("wait-all-nodes", "it is the rule: a gang starts on all nodes or on none"),
    _refused("batch", "names features of the first node; use --constraint for all of them"),
    _refused("bb", "there are no burst buffers; copy in the script"),
    _refused("bbf", "there are no burst buffers; copy in the script"),
    _refused("cluster-constraint", "a job goes to the server it is submitted to; use --server"),
    _refused("clusters", "a job goes to the server it is submitted to; use bursar submit --server", "M"),
    _refused("container", "OCI bundles are not taken; write a job file with `image`"),
    *(
        _refused(f"container-{name}", _IMAGES if name in _IN_JOB_FILES else _NO_EQUAL, value=value)
        for value in _OF_CONTAINERS
        for name in _OF_CONTAINERS[value]
    ),
    *(_refused(f"no-container-{name}", _NO_EQUAL, value="no") for name in _OF_CONTAINERS["no"]),
    _refused("export-file", "name the variables: --export=NAME=VALUE, or bursar submit --env NAME"),
    _refused("gid", "a job runs in the group of its account"),
    _refused("gpus-per-socket", "sockets are not known; use --gpus-per-node"),
    _refused("licenses", "licences are not counted; limit an array by %N, or use a Quota", "L"),
    _refused("nodefile", "name the nodes: --nodelist=n1,n2", "F"),
    _refused("reboot", "nodes are not rebooted for a job", value="no"),
    _refused(
        "reservation",
        "jobs that one is for use its nodes by themselves; leave the line out (`bursar reserve ls`)",
    ),
    _refused("stepmgr", "srun needs none here", value="no"),
    _refused("test-only", "would submit nothing; run bursar plan", value="no"),
    _refused("tres-per-task", "use --cpus-per-task, --gpus-per-task and --mem-per-cpu"),
    _refused("uid", "a job runs as who submits it"),
    _refused("wrap", "the script itself is the command; use bursar run -- CMD"),
)
OPTIONS: Final = {option.name: option for option in _TABLE}
ALIASES: Final = {
    "tasks-per-node": "ntasks-per-node",
    "workdir": "chdir",
    "share": "oversubscribe",
    "licences": "licenses",
}
"""Second names that Slurm has, or had; and it wrote `_` for `-`."""
OFFERED: Final = (
    *(option.name for option in _TABLE if option.fate != REFUSED),
    *(alias for alias, name in ALIASES.items() if OPTIONS[name].fate != REFUSED),
)
"""What may be suggested in the place of a wrong name: nothing that is refused in its turn."""
SHORT: Final = {option.short: option.name for option in _TABLE if option.short}


def find(word: str) -> list[SlurmOption]:
    """The options that a word (without its dashes) may mean: one, none, or several that begin so."""
    name = SHORT.get(word, "") if len(word) == 1 else ALIASES.get(word, word.replace("_", "-"))
    if name in OPTIONS:
        return [OPTIONS[name]]
    begun = {option for option in OPTIONS if name and option.startswith(name)}
    begun |= {whole for alias, whole in ALIASES.items() if name and alias.startswith(name)}
    return [OPTIONS[option] for option in sorted(begun)] if len(word) > 1 else []
