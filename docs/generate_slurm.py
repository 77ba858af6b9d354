"""Writes docs/from-slurm.md from the tables that scripts are read with.

Run     make docs  (python docs/generate_slurm.py); with --check it only says whether the page is true.
Why     what becomes of an option is decided in one table, and a page beside it would soon say something else.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bursar.jobfile.commands import MODULES
from bursar.jobfile.commands import NOTED as NOTED_COMMANDS
from bursar.jobfile.commands import REFUSED as REFUSED_COMMANDS
from bursar.jobfile.options import ALIASES, HONOURED, NOTED, OPTIONS
from bursar.jobfile.programs import HONOURED as HONOURED_PROGRAMS
from bursar.jobfile.variables import TABLE
from bursar.steps import modules, programs, srun

PAGE = Path(__file__).parent / "from-slurm.md"
HEAD = """# From Slurm

Written by `make docs` from the tables in `bursar/jobfile`; a test fails when they differ.

`bursar submit [flags] script.sh [words]` reads a script with `#SBATCH` lines as it is. The words behind it
are its `$1`, `$2`, …; flags of `bursar run` before it stand above the directives, `#BURSAR` lines above
`#SBATCH` lines.

| you type | here |
|---|---|
| `sbatch script.sh`, `sbatch --parsable` | `bursar submit script.sh`, `--parsable` |
| `squeue --me`, `scontrol show job 12` | `bursar ls`, `bursar show 12`; why it waits: `explain 12` |
| `scancel 12`, `scancel -u ann -t pending` | `bursar cancel 12`, `cancel --user ann --state pending` |
| `sinfo`, `sacct`, `sreport` | `bursar nodes`, `bursar ls --state all`, `bursar cost --by project` |
| `tail -f slurm-12.out` | `bursar logs -f 12`; a file too where the script has `--output` |
| `scontrol update nodename=n7 state=drain`, `state=resume` | `bursar node drain n7`, `node resume n7` |
| the same with `state=down`, of a machine that is off | `bursar node drain n7 --confirm-dead` |
| `srun --pty bash` | the same (`bursar slurm-shims`), or `bursar run --pty -- bash` ([attach](attach.md)) |
| `salloc -N 2` | the same: the shell is on the job's first node, where `srun` starts tasks on all |
| `sattach 12.0`, `ssh` to a node of the job | `bursar attach 12`, `attach --rank 3 12 -- nvidia-smi` |

A node that does not answer keeps its jobs, as nobody can tell a machine that is off from a cut cable: Slurm
takes it for down after `SlurmdTimeout`, here somebody says so with `--confirm-dead`,
and its jobs run elsewhere.

`-n 4` without `-N` is one node with four tasks' CPUs, where Slurm would spread the tasks over what is
free. Where no node has so many, `-N 2` (or more) spreads them here; what is submitted is told so.

What is the same: the script runs once, on the first node, and the other nodes of the job hold their place
(metered, ended with it). `#BURSAR --launch per-node` runs it on every node instead. What is not: your shell's
variables are not copied (as with `--export=NONE`; `--env NAME` copies one). A job's are, by the `sbatch` in
it, as `--export` says (`ALL` if nothing): but for those that each job has of its own, and secrets, which go
on by name. Output is kept by bursar, in a log with a cap. Where the script names files with `--output` or
`--error` it is there too: the job's own
user opens them, in the script's directory, before anything runs. A directory that does not exist, or is not
that user's to write into, fails the job with the file's name; a disk that is full later costs the log
nothing. Patterns are `%j %J %A %a %b %x %u %N %n %t %s %%`, with zeros as in `%4a`.

Options of `sbatch` stand above the script's, and below them variables of your shell such as `SBATCH_ACCOUNT`
and `SBATCH_PARTITION`. The script itself goes on as it is: a message about its ninth line says 9.

The blank behind `#SBATCH` may be left out. Words behind the script reach one of any interpreter: a shell's as
`$1`, another's as its `argv`. A script of another batch system alone (`#PBS`, `#BSUB`, `#$ -`) is refused by
line, with what to write.

A job that can never start as things are (`-N 3` where there are two nodes) is submitted, as in Slurm, and
`sbatch` says so on standard error with the reason.

Nothing in a directive is expanded, as in Slurm: a `$HOME` in one is told by line. `sbatch --wait` says the
number at once and ends with the exit code of the job, of an array with the highest of its tasks'.

Before anything is submitted a script is read as bash would read it, without running it: comments, strings,
functions, here-documents and `${NAME:-default}` are understood. What would go wrong in silence is refused
with its line. Then the shell of this machine that its `#!` line names (`bash`, `sh`) is asked with `-n`,
which runs nothing: a quote or an `if` that is never closed is refused with the line that it names, as is a
here-document whose mark stands between blanks and so swallows the rest. What stands below an `exit` or
`exec` of the script itself is not read.

Names such as `$SCRATCH`, `$LOCAL_SCRATCH` or `$PBS_JOBDIR` are set by the site or the system that a script
comes from, and are empty here: `rm -rf $LOCAL_SCRATCH/*` would be `rm -rf /*`. Where nothing sets the
variable that begins what `rm -r`, `find -delete`, `rsync --delete`, `chmod -R` or `chown -R` works on, or a
`cd` above one, a script or the `run` of a job file is refused with its line: set it above, or give it with
`--env SCRATCH=/data/ann`. Where a file that is read above (`source`, `module`, a login shell) or the image
may set it, it is told. `set -u`, `${SCRATCH:?}` and `[ -n "$SCRATCH" ]` guard it.

What a script leaves in the background with no `wait` is ended with it, and what fails before `| tee` ends
as `tee` does: both are told by line at submission, as is a `torchrun --nnodes` that would run on one node
of several, and a variable of another system (`$PBS_O_WORKDIR`). The end of a job says it again beside
`completed`: how many processes it had left in the background, and what its shell could not run, `line 4:
conda: command not found`. For that `show`, `explain`, `wait` and `--follow` read the first and the last 64
KiB of its log. Its state is as its exit code says.

`srun` starts steps on the nodes of the job ([steps](adr/0015-steps.md)), more tasks than CPUs too: up
to 8 for each CPU that the job holds on a node, and 64 in any case; beyond that they are refused.
Its tasks find the environment of
whoever calls it, `SLURM_PROCID` and its kin, and `RANK`, `LOCAL_RANK`, `WORLD_SIZE` unless the script has
set them. Steps share the job's CPUs; with `--exclusive` (or `--exact`) each waits until its own are free.
A step that names GPUs (`--gpus-per-task`, `--gpus`, `--gres`) has them for itself and waits until there are
enough; `--overlap` shares them. One that has `--gpus-per-task` from the script gets free ones where it can.
A program that PATH does not have may lie in the working directory (`srun a.out`). Variables such as
`SLURM_KILL_BAD_EXIT`, `SLURM_LABELIO`, `SLURM_WAIT` and `SLURM_EXPORT_ENV` stand for its options.
Standard input goes to every task, as in Slurm (`--input=0`: to the first alone, as with `bursar step`); what
the slowest has not read is held for it, 4 MiB of it on each node, and beyond that the others wait.
A node's name that nothing resolves becomes its address where tasks take it for one: `MASTER_ADDR`,
`--master_addr NAME`, `NAME:PORT`.
`--mpi=pmix` and `pmi2` are not there: `mpirun` starts its own daemons through steps. A program that is linked
with MPI and has several tasks is refused as it starts, with the `mpirun` line to write: each task would be a
world of its own (`--mpi=none` starts them so). What loads MPI by itself, as `mpi4py` does, is not seen. What
becomes of each of its options stands below; what it cannot do is refused with its line, or by name with exit
code 2.

`AllocCPUS` and the CPUs of `squeue` are whole CPUs, at least one a node. The `ExitCode` of a job at its
limit is the signal that ended it (`0:15`), where Slurm says `0:0` of the job and `0:15` of its batch step.

`squeue`, `sacct` and `sinfo` have Slurm's columns, filters and names of states (`TIMEOUT`, `OUT_OF_MEMORY`,
`NODE_FAIL`, `PREEMPTED` for ends of these causes), also with `--Format` and `--sort`; a column, a state or an
option that they do not have is refused by name. A partition is what `--partition` of the job said, else that
of its node: the label `partition`, or the pool. One that names none and waits is in `any`, and `-p` lets it
through. Of an array `squeue` has a line for each task that runs and one for those that wait, `12_[4-9%2]`
(`-r`: one for each), and `sacct` likewise; those that `%N` holds back wait for `JobArrayTaskLimit`.
`sacct` has a row `12.batch` for the script and one for each step, `12.0`,
also while its job runs, as its nodes told last: 16 of each node, those that run or failed before others, of
a script's first 16,384. `-j 12.0` asks for one alone, `-X` for none. `squeue -s` has those that run now, of
any job; `bursar show` has them all.
A job that ended well over a step that failed is `COMPLETED`, as in Slurm,
and `DerivedExitCode` has the step's; `show`, `explain` and `--follow` name it.
`sinfo` has a line for each value that it prints. `scontrol` knows
`show hostnames`, `show job`, `show node`, `show partition`, `update` (time limit, also by `+10:00` and
`-10:00`, name, comment, account, number of nodes; of a job that runs its owner may only lower the limit),
`getaddrs`, `requeue`, `hold`, `release`. Reasons are told
in Slurm's words where it has one: `Resources`, `Priority`, `JobHeldUser`, `AssocGrpBillingMinutes` for want
of budget; others, such as `PriceCapExceeded`, in ours. A number of which there is no job is Slurm's own
error of `squeue` and `scontrol`, exit code 1.

`--signal` reaches each process that has a handler for it, once: who sets one later is looked for until the
limit is there. In a script of `sh` (dash) that reads a profile, `. /etc/profile`, the profile may set PATH
anew, and Slurm's commands are not found then: begin it with `#!/bin/bash`, which puts them back.

A job that requeues itself within a minute of its start, again and again, waits 2, 4, 8 seconds and so on, 5
minutes at most, and says so in `explain` (`BeginTime`); the sixteenth time in a row it is put on hold
(`JobHoldMaxRequeue`) until somebody releases it. One that runs a while before it asks never waits, and is
put on hold each 1,000th time.

## Names of partitions, QOS and accounts

Such a name says where, when and on whose account something runs. What it stands for here is said by policies
of the kind `SlurmNames` ([keys](policies.md)), which `bursar policy apply` puts in force:

```yaml
kind: SlurmNames
name: old-cluster
spec:
  partitions:
    gpu: {constraints: {pool: dgx}, gpu_type: H100}
    debug: {time_limit: 30m, priority: high}
  qos:
    long: {time_limit: 7d, priority: low}
    "qos_*": {}                                    # is known, and changes nothing
  accounts:
    proj@v100: {project: research/proj, gpu_type: V100}
    "*@v100": {gpu_type: V100}                     # any other; its project is what stands before the @
```

`submit` and `plan` say by line what each name stood for, and which document says so. A name itself comes
before any pattern, and of patterns the longest. What a script, a `#BURSAR` line or a flag says stands above a
name; an account is before a QOS, a QOS before a partition, and of several time limits the least holds. Of
several partitions by comma (`-p a,b`) each may stand for nodes of one property alone, and a job runs on any
of them. Two names that ask for different nodes by one property are refused, and so is a job that asks for
more time than a name gives. Whoever may submit may read these names, but for those of projects that are
hidden from them.

Without a document: a partition is the label `partition` of nodes, or a pool, where there are several places;
a QOS is `low`, `normal` or `high`; an account is a project, and `name@v100` a project and a type of GPU. Any
other name is refused with its line and the names that there are.
"""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _options() -> list[str]:
    rows = ["## Options", ""]
    rows.append("A beginning is enough where it is the beginning of one option alone. Second names: ")
    rows[-1] += ", ".join(f"`--{alias}` (`--{name}`)" for alias, name in sorted(ALIASES.items())) + "."
    for fate, title in (
        (HONOURED, "Honoured"),
        (NOTED, "Noted by line, harmless"),
        ("refused", "Refused with the line"),
    ):
        rows += ["", f"### {title}", "", "| option | |", "|---|---|"]
        for option in sorted(OPTIONS.values()):
            if option.fate == fate:
                short = f"`-{option.short}`, " if option.short else ""
                rows.append(_row(f"{short}`--{option.name}`", option.text))
    return rows


def _variables() -> list[str]:
    rows = ["", "## Variables", ""]
    rows.append(
        "Reading one that is not set here is refused, unless the script minds that it may be missing."
    )
    rows += ["", "| variable | set | |", "|---|---|---|"]
    words = {
        "arrays": "in arrays",
        "gpus": "with GPUs",
        "asked": "where asked for",
        "restarts": "after a restart",
    }
    words |= {"steps": "in steps", "never": "never"}
    rows += [_row(f"`{one.name}`", words.get(one.when, one.when), one.meaning) for one in TABLE]
    return rows


def _commands() -> list[str]:
    rows = ["", "## Commands", "", "| command | |", "|---|---|"]
    rows += [_row(f"`{name}`", f"refused: {text}") for name, text in REFUSED_COMMANDS.items()]
    rows += [_row(f"`{name}`", f"honoured: {MODULES}") for name in modules.COMMANDS]
    rows += [_row(f"`{name}`", HONOURED_PROGRAMS) for name in programs.NAMES]
    rows += [_row(f"`{name}`", f"noted: {text}") for name, text in NOTED_COMMANDS.items()]
    return rows


def _srun() -> list[str]:
    rows = ["", "## Options of srun", "", "| | |", "|---|---|"]

    def names(fate: str) -> list[srun.Option]:
        return sorted(option for option in srun.TABLE if option.fate == fate)

    def shown(options: list[srun.Option]) -> str:
        return ", ".join(
            f"`-{one.short}` `--{one.name}`" if one.short else f"`--{one.name}`" for one in options
        )

    rows.append(_row("honoured", shown(names("done"))))
    rows.append(_row("taken, and nothing follows: it is the job's to say, or comfort", shown(names("idle"))))
    refused = names("refused")
    return rows + [
        _row(f"refused: {text}", shown([option for option in refused if option.text == text]))
        for text in sorted({option.text for option in refused})
    ]


def page() -> str:
    """The whole page."""
    return HEAD + "\n" + "\n".join([*_options(), *_srun(), *_variables(), *_commands()]) + "\n"


def main() -> int:
    """Write, or with --check compare: 1 when the page is out of date."""
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and PAGE.read_text() == page()
        if not same:
            print("docs/from-slurm.md is not what the tables say: run make docs", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
