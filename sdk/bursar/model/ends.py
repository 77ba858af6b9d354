"""What is said of an end: one sentence and one remedy for each cause. PURE.

Owns    the words for every way in which a job ends: cause, rank, exit code or signal, limit, and what to do.
Input   `EndFacts`, what is known of the end. Output: text for people, of one line.
Why     `show`, `wait`, `--follow` and `explain` say the same of the same end, and a person who reads it knows
        what to change. docs/errors.md is generated from the tables here.
"""

from __future__ import annotations

import re
import signal as signals
from typing import Final

import msgspec

from bursar.clock import format_duration
from bursar.model.job import EndCause
from bursar.model.steps import Steps, failures_of
from bursar.resources import format_size

SHELL_SIGNALS: Final = 128
"""A shell whose command was ended by signal N exits with this and N."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
WORKDIR: Final = "working directory"
"""How an agent begins to say that a member's directory is not there."""
NO_ACCOUNT: Final = "no account"
"""How it begins to say that its node does not know the job's user."""
OUTPUT_FILE: Final = "output file"
"""How it begins to say that a file for a member's output cannot be opened."""
SUPERVISOR_LOST: Final = "supervisor lost"
"""How an agent begins to say that what watched over a member was killed, and the member with it."""
UNASKED: Final = "ended as cancelled, which nobody asked the daemon for"
"""What its agent tells of a job that was ended on its node, past the daemon."""
RECORDS_REMOVED: Final = f"{SUPERVISOR_LOST}: its records on this node were removed"
"""The same, where it was killed since its directory was removed."""
BY: Final = "by "
"""How it begins to say who cancelled a job."""
IMAGE_DENIED: Final = "image access denied"
IMAGE_NOT_FOUND: Final = "image not found"
IMAGE_UNREACHABLE: Final = "image registry not reached"
IMAGE_DISK: Final = "image does not fit on the disk"
IMAGE: Final = "image not fetched"
"""How it begins to say what fetching a job's image failed of."""
_IMAGES: Final = {
    IMAGE_DENIED: "image_denied",
    IMAGE_NOT_FOUND: "image_not_found",
    IMAGE_UNREACHABLE: "image_unreachable",
    IMAGE_DISK: "image_disk",
}
_STARTS: Final = frozenset((EndCause.FAILED, EndCause.START_FAILED))
"""A directory that the job named is its own failure; one that only its account has is its node's."""
UNUSED: Final = "nobody used it"
"""How it begins to say that an idle policy ended what nobody was attached to."""
LEFT: Final = re.compile(r"(\d{1,9}) left in the background")
"""What an agent says of an end that was good: how many processes the script had not waited for."""
REQUEUED: Final = "requeued by request"
"""What is said of an attempt that somebody ended to run its job again."""
ORDERED: Final = frozenset((EndCause.CANCELLED, EndCause.PREEMPTED, EndCause.BUDGET, EndCause.IDLE))
"""Ends that nobody in the job caused: no rank is to blame."""


class EndFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the end of a job or of one task.

    Attributes:
        job: as people name it: `12` or `12[3]`.
        rank: of the member that ended first of those that did not complete; None: none did.
        members: of the gang.
        node: where that member ran.
        exit_code: as the job has it, 128 + N for signal N; -1: not known.
        signal: that ended the member's own process; 0: none.
        detail: what its agent or the daemon said; empty for whoever may not read it.
        time_limit_us: of the attempt. memory_bytes: what a member was granted; 0: not limited.
        max_rss_bytes: the most that a process of that member had.
        started: an attempt was made.
        steps: that its attempt started; None: none that are known.
    """

    job: str
    cause: EndCause
    rank: int | None = None
    members: int = 1
    node: str = ""
    exit_code: int = -1
    signal: int = 0
    detail: str = ""
    time_limit_us: int = 0
    memory_bytes: int = 0
    max_rss_bytes: int = 0
    started: bool = True
    steps: Steps | None = None


REMEDIES: Final = {
    "completed": "",
    "step_failed": "let the script end with a step that fails: `set -e`, with `set -o pipefail` where a step"
    " stands before a pipe, and `wait` for each that runs in the background; `bursar logs JOB` has what it"
    " printed",
    "out_of_memory": "ask for more with --memory (`resources.memory`), or use less: smaller batches, fewer"
    " workers; `retry: {on: [out-of-memory], max: 1}` tries it again",
    "time_limit": "give it longer with --time-limit, or let it save itself and go on:"
    " `checkpoint: {signal: USR1}` with `retry: {on: [time-limit], max: N}`",
    "budget": "raise --max-cost or the budget (`bursar budget ls` shows what is left and when it renews), or"
    " let it save itself first: `on_exceed: checkpoint-stop`",
    "node_lost": "submit it again, without `retry: {never: true}` it is tried again by itself; `bursar nodes`"
    " says how the node is now",
    "preempted": "submit it again; `preemptible: false` or a higher --priority keeps its place",
    "idle": "let it end when its work is done: what it holds costs the same whether it is used or not;"
    " `bursar snooze JOB 2h` puts the policy off before it acts",
    "cancelled": "",
    "never_started": "mend what it waited for, and submit it again",
    "start_failed": "`bursar node show NODE` says how that node is; `retry: {on: [start-failure], max: 2,"
    " avoid_same_node: true}` tries another",
    "image_denied": "keep what the registry wants with `bursar secret set NAME` (USER:PASSWORD, or the file"
    " of `docker login`), and name it in `secrets` and `image_auth`; or mend the image's name",
    "image_not_found": "mend the name or the tag in `image`; `docker manifest inspect NAME` says whether"
    " there is such an image",
    "image_unreachable": "see that NODE reaches the registry, or keep the image nearer by;"
    " `retry: {on: [image-failure], max: 2}` tries it again",
    "image_disk": "make room on NODE (`podman image prune`, `docker image prune`), or try another:"
    " `retry: {on: [image-failure], max: 2, avoid_same_node: true}`",
    "image_failed": "`retry: {on: [image-failure], max: 2}` tries it again; `podman pull NAME` on NODE says"
    " more",
    "no_account": "have the account made on NODE, or keep the job away from it:"
    " `constraints: {node: '!NODE'}` in `resources`",
    "workdir": "name a directory that the node has with --workdir, or make it there for the job's account",
    "output_file": "make its directory with `mkdir -p` before the job starts, where its account may write on"
    " that node, or name another file with --output-file",
    "not_found": "give its whole path, put its directory into PATH with --env, or install it in `setup`",
    "not_executable": "make it executable with `chmod +x`, or run it by its interpreter: `python FILE`,"
    " `bash FILE`",
    "setup": "mend the `setup` commands; `bursar logs JOB` has what they printed",
    "killed": "something outside the job killed it, most often the kernel for want of memory: ask for more"
    " with --memory, or look into the node's own log",
    "crash": "it crashed in native code: run it with `PYTHONFAULTHANDLER=1`, and see that its libraries fit"
    " the node's driver",
    "signal": "find who sent it: its own launcher, or somebody on the node; `bursar logs JOB` has its last"
    " words",
    "exit_code": "`bursar logs JOB` says why, if the program does",
    "supervisor_lost": "submit it again; `retry: {on: [failure], max: N}` does that by itself. What watches"
    " over a job is killed by hand, for want of memory, or by the job itself, with too wide a `kill`:"
    " NODE's own log may say",
    "unknown": "its agent could not tell how it ended; `bursar logs JOB` has its last words",
}
"""By kind of end (`kind_of`), one thing to do. JOB and NODE stand for names."""

SAID: Final = (
    (
        r"CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|HIP out of memory"
        r"|RESOURCE_EXHAUSTED: Out of memory",
        "it ran out of GPU memory: make batches smaller, spread the model over more GPUs, or ask for"
        " larger ones (`gpus: H100:80GB:1`)",
    ),
    (
        r"\bMemoryError\b|std::bad_alloc|Cannot allocate memory|java\.lang\.OutOfMemoryError",
        "it could not get the memory it wanted: ask for more with --memory, or use less: smaller batches,"
        " fewer workers",
    ),
    (r"No space left on device", "a disk was full: write elsewhere, or make room on it"),
    (
        r"ModuleNotFoundError: No module named",
        "a module of Python is not there: activate its environment in the script, or install it in `setup`",
    ),
    (
        r"notebook: no jupyter-lab, jupyter-notebook or jupyter-server",
        "Jupyter is missing there: `python3 -m pip install jupyterlab` in the environment of the job, or name"
        " the one to run, `bursar notebook --env JUPYTER=PATH`",
    ),
    (
        r"has detected an attempt to run as root",
        "Open MPI does not run as root unless it is told to: leave OMPI_ALLOW_RUN_AS_ROOT and"
        " OMPI_ALLOW_RUN_AS_ROOT_CONFIRM as Bursar sets them, or give it --allow-run-as-root",
    ),
    (
        r"mpirun was unable to (?:find|launch) the specified|could not find an executable:",
        "mpirun did not find the program: give its whole path, or load what has it, on every node of the job;"
        " a word before it that mpirun does not know is taken for the program too",
    ),
    (
        r"appears to have been direct launched using \"srun\"",
        "srun starts no MPI world: start the program with `mpirun -n TASKS PROGRAM`, which spans the nodes of"
        " the job",
    ),
    (
        r"gai error: -\d|Name or service not known|Temporary failure in name resolution"
        r"|nodename nor servname provided",
        "a name has no address there: if it is a node's, leave out the line that sets MASTER_ADDR to it, for"
        " Bursar has set it already; BURSAR_NODE_ADDRESSES has those of all nodes",
    ),
)
"""By what a program said last (a pattern), what it died of and what to do."""
_CRASHES = (signals.SIGSEGV, signals.SIGABRT, signals.SIGBUS, signals.SIGILL, signals.SIGFPE)


_LINE: Final = re.compile(r"no such command: \S+\s")
_OF_A_LINE: Final = (
    "a program of that name, blanks and all, is not there: write its words apart, `run -- python train.py`,"
    " or give a line of shell to a shell, `run -- bash -c 'a | b'`"
)
"""Of a whole line that was taken for a name, as it stood in quotes."""
_FILE: Final = re.compile(r"no such command: [^/\s]+\.(?:py|sh|bash|pl|R|jl)$")
_OF_NOBODY: Final = (
    "stay attached, or let its program say that it is used (`attended` in its progress file);"
    " `bursar snooze JOB 2h` puts the policy off before it acts, and `idle_policy: {detached: 4h}`, or"
    " `--idle 4h` of a notebook, gives it longer"
)
"""Of what an idle policy ended since nobody was there, whatever its devices did."""

_OF_LEFT: Final = "write `wait` as the script's last line, where their work is wanted"
_INTERPRETER: Final = re.compile(r"the interpreter \S+ of its first line is not there|the interpreter that ")
_OF_AN_INTERPRETER: Final = (
    "name one in the first line that the node has, such as `#!/bin/bash` or `#!/usr/bin/env python3`, or have"
    " it installed on NODE"
)
_OF_A_FILE: Final = "name what runs it, `python FILE` or `bash FILE`, or say where it is, `./FILE`"
"""Of a file that was named alone, as if it lay where programs do."""


def hint_of(last_lines: str) -> str:
    """What a program that failed by itself died of, as its last lines say; empty where they do not."""
    found = [(match.start(), text) for pattern, text in SAID for match in re.finditer(pattern, last_lines)]
    return max(found)[1] if found else ""


_SHELL_FAULT: Final = re.compile(
    r"^[^\n]{0,400}?: line (\d{1,7}): ([^\n]{1,400}?): "
    r"(command not found|No such file or directory|Permission denied"
    r"|cannot execute(?:: required file not found| binary file: Exec format error)?)$"
    r"|^[^\s:]{1,400}: (\d{1,7}): ([^\n]{1,400}?): (not found|Permission denied)$"
    r"|^[^\s:]{1,400}: (\d{1,7}): \.: (cannot open [^\n]{1,400})$",
    re.MULTILINE,
)
"""As bash and dash tell of a command or a file that is not there."""


def shell_faults(text: str) -> list[str]:
    """What a shell says in a log of what it could not run, each once: `line 4: conda: command not found`."""
    found: dict[str, None] = {}
    for match in _SHELL_FAULT.finditer(text):
        line, *words = [part for part in match.groups() if part is not None]
        found[f"line {line}: {': '.join(words)}"] = None
    return list(found)


_BEGINNINGS: Final = (
    WORKDIR,
    NO_ACCOUNT,
    OUTPUT_FILE,
    UNASKED,
    RECORDS_REMOVED,
    SUPERVISOR_LOST,
    "setup ",
    *_IMAGES,
)
_OF_RECORDS: Final = (
    "submit it again; its log went with the records. Find who removes files below the agent's state directory"
    " on NODE: somebody by hand, or what cleans up there"
)
"""Of a job whose directory on its node was removed while it ran."""
_OF_DOWN: Final = (
    "submit it again. `bursar down` while no daemon answers and `bursar-agent --terminate-all` end what runs"
    " on a node, and tell the daemon so"
)
"""Of a job that its node says was cancelled there. The daemon has the word of the node alone."""


def kind_of(end: EndFacts) -> str:
    """The key of `REMEDIES`: the cause, and of what failed by itself what it failed of."""
    if not end.started and end.cause is not EndCause.CANCELLED:
        return "never_started"
    if end.cause in _STARTS and end.detail.startswith(WORKDIR):
        return "workdir"
    if end.cause is EndCause.START_FAILED and end.detail.startswith(NO_ACCOUNT):
        return "no_account"
    if end.cause is EndCause.FAILED and end.detail.startswith(OUTPUT_FILE):
        return "output_file"
    if end.cause is EndCause.COMPLETED and failures_of(end.steps, ended_well=True):
        return "step_failed"
    if end.cause is EndCause.IMAGE_FAILED:
        return next((kind for words, kind in _IMAGES.items() if end.detail.startswith(words)), "image_failed")
    if end.cause is not EndCause.FAILED:
        return end.cause.value
    if end.detail.startswith(SUPERVISOR_LOST):
        return "supervisor_lost"
    if end.detail.startswith("setup "):
        return "setup"
    if end.exit_code == NOT_FOUND:
        return "not_found"
    if end.exit_code == NOT_EXECUTABLE:
        return "not_executable"
    number = signal_of(end)
    if number:
        return "killed" if number == signals.SIGKILL else "crash" if number in _CRASHES else "signal"
    return "unknown" if end.exit_code < 0 else "exit_code"


def beginning_of(detail: str) -> str:
    """The words of ours that what was said of an end begins with, which tell its kind; nothing of a job's."""
    return next((words for words in _BEGINNINGS if detail.startswith(words)), "")


def signal_of(end: EndFacts) -> int:
    """The signal that ended it, or its shell's command as the shell told; 0: none."""
    if end.signal:
        return end.signal
    told = end.exit_code - SHELL_SIGNALS
    return told if told in _NUMBERS else 0


_NUMBERS: Final = frozenset(int(one) for one in signals.valid_signals())


def signal_text(number: int) -> str:
    """`signal 9 (SIGKILL)`."""
    try:
        return f"signal {number} ({signals.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def phrase_of(end: EndFacts) -> str:
    """The end in a few words, equal for ends of one kind: what tasks are grouped by."""
    kind = kind_of(end)
    if kind in ("killed", "crash", "signal"):
        return signal_text(signal_of(end))
    if kind in ("exit_code", "not_found", "not_executable", "setup"):
        words = {
            "not_found": "command not found",
            "not_executable": "not executable",
            "setup": "setup failed",
        }
        return ", ".join(filter(None, (words.get(kind, ""), f"exit code {end.exit_code}")))
    return {"workdir": "no working directory", "output_file": "no output file", "unknown": "unknown end"}.get(
        kind, kind.replace("_", " ")
    )


def sentence_of(end: EndFacts) -> str:
    """One sentence: what ended it, which rank where, with what exit code or signal, at what limit; and which
    of its steps failed.
    """
    text = _sentence_of(end)
    failed = failures_of(end.steps, ended_well=end.cause is EndCause.COMPLETED)
    if not failed:
        return text
    return f"{text}, but {failed}" if end.cause is EndCause.COMPLETED else f"{text}; {failed}"


def _sentence_of(end: EndFacts) -> str:
    kind = kind_of(end)
    who = _who(end)
    detail = f": {end.detail}" if end.detail else ""
    if end.detail in (WORKDIR, NO_ACCOUNT, OUTPUT_FILE):  # what it went on with is not everybody's to see
        detail = ""
    match kind:
        case "completed" | "step_failed":
            return "completed" + ("" if end.members == 1 else f", all {end.members} ranks") + _left(end)
        case "never_started":
            return f"ended before it started{detail}"
        case "cancelled":
            if end.detail.startswith(BY):
                return f"cancelled {end.detail}" + ("" if end.started else ", before it started")
            return ("cancelled" if end.started else "cancelled before it started") + detail
        case "out_of_memory":
            return f"out of memory: {who} was killed by the kernel{_memory(end)}{_status(end)}"
        case "time_limit":
            limit = f" of {format_duration(end.time_limit_us)}" if end.time_limit_us else ""
            return f"time limit: {who} was stopped at its limit{limit}{_status(end)}"
        case "budget":
            return f"budget: it was stopped at what it may cost{detail}{_status(end)}"
        case "node_lost":
            return f"node lost: the node of {who} did not answer any more{detail}"
        case "preempted" if end.detail.startswith(REQUEUED):
            return "requeued: it was ended by request, to run again"
        case "preempted":
            return f"preempted: its place was given to others{detail}"
        case "idle":
            return f"idle: it was stopped by an idle policy{detail}"
        case "workdir":
            return f"bad working directory: {who} could not be started{detail}"
        case "no_account":
            return f"no account: {who} could not be started{detail}"
        case "output_file":
            return f"output file cannot be opened: {who} was not started{detail}"
        case "start_failed":
            return f"start failed: {who} could not be started{detail}"
        case "image_denied" | "image_not_found" | "image_unreachable" | "image_disk" | "image_failed":
            said = end.detail or "its image was not fetched"
            return f"{said[0].lower()}{said[1:]}; {who} did not start"
        case "supervisor_lost":
            return f"lost: {who} was killed, since what watched over it was{detail}"
        case "setup":
            return f"setup failed: {who} did not get to its command{_status(end)}"
        case "not_found":
            return f"command not found: {who}{_what(end, 'said that a command does not exist')}"
        case "not_executable":
            return f"not executable: {who}{_what(end, 'said that a command cannot be executed')}"
        case "killed" | "crash" | "signal":
            number = signal_of(end)
            if end.signal:
                return f"{signal_text(number)} ended {who}{detail}"
            return f"{signal_text(number)} ended a command of {who} (exit code {end.exit_code}){detail}"
        case "exit_code":
            return f"failed: {who} ended with exit code {end.exit_code}{detail}"
    return f"failed: {who} ended{detail or ', how is not known'}"


def remedy_of(end: EndFacts) -> str:
    """One thing to do, with the names of this job and node; empty where there is nothing to mend."""
    rank = f" --rank {end.rank}" if end.members > 1 and end.rank else ""
    job = f"'{end.job}'" if "[" in end.job else end.job
    kind = kind_of(end)
    text = REMEDIES[kind]
    if kind == "idle" and end.detail.startswith(UNUSED):
        text = _OF_NOBODY
    if end.detail.startswith(RECORDS_REMOVED):
        text = _OF_RECORDS
    if end.detail.startswith(UNASKED) and kind in ("killed", "crash", "signal", "exit_code", "unknown"):
        text = _OF_DOWN
    if kind == "not_found" and _LINE.match(end.detail):
        text = _OF_A_LINE
    elif kind == "not_found" and _FILE.match(end.detail):
        text = _OF_A_FILE
    if kind == "completed" and LEFT.fullmatch(end.detail):
        text = _OF_LEFT
    if kind == "not_found" and _INTERPRETER.search(end.detail):
        text = _OF_AN_INTERPRETER
    text = text.replace("logs JOB", f"logs {job}{rank}").replace("snooze JOB", f"snooze {job}")
    return text.replace("NODE", end.node) if end.node else text


def _left(end: EndFacts) -> str:
    found = LEFT.fullmatch(end.detail)
    if found is None:
        return ""
    words = "1 process that" if found[1] == "1" else f"{found[1]} processes that"
    return f"; {words} it had left in the background {'was' if found[1] == '1' else 'were'} ended with it"


def _who(end: EndFacts) -> str:
    where = f" on {end.node}" if end.node else ""
    if end.members == 1 or end.rank is None:
        return "the job" + where
    return f"rank {end.rank} of {end.members}{where}"


def _status(end: EndFacts) -> str:
    if end.signal:
        return f", by {signal_text(end.signal)}"
    return f" (exit code {end.exit_code})" if end.exit_code > 0 else ""


def _memory(end: EndFacts) -> str:
    limit = f" at its limit of {format_size(end.memory_bytes)}" if end.memory_bytes else ""
    used = f", after it had used {format_size(end.max_rss_bytes)}" if end.max_rss_bytes else ""
    return limit + used


def _what(end: EndFacts, otherwise: str) -> str:
    """Of a program that is not there: which, or that a shell below said so."""
    detail = end.detail.removeprefix("not executable: ")  # the sentence begins so
    return f" could not run, {detail}{_status(end)}" if detail else f" {otherwise}{_status(end)}"
