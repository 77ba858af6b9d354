"""`bursar doctor`: every invariant that can be checked from inside, as findings with a remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import msgspec

from bursar.clock import HOUR_US, SECOND_US, format_instant
from bursar.errors import StoreUnavailable
from bursar.local.guard import Seen
from bursar.local.heartbeat import BEAT_LATE_S
from bursar.model import JobState
from bursar.model.ranges import contains, count
from bursar.money import format_nanos
from bursar.words import plural
from bursard import audit
from bursard.access.vault import Vault
from bursard.events import AttemptEnded, decode
from bursard.events.codec import schema_of
from bursard.events.public import unnamed
from bursard.events.upgrade import FIRST
from bursard.fleet.clocks import Clocks
from bursard.serving.board import GONE_US, Gateway
from bursard.state import ArrayRecord, AttemptRecord, JobRecord, State
from bursard.state.arrays import size_of
from bursard.state.decide import overdue
from bursard.state.trouble import of_token
from bursard.steady import SteadyClock
from bursard.store import EventFilter, Log, Views, verify

ENDS_LOOKED_AT = 10_000
"""Newest events searched for second ends unless all are asked for."""
ENDS_AT_ONCE = 1_000
_IMAGES = "snapshots: "
"""How an audit begins what it says of images."""
_ENDS = EventFilter(kinds=("job-ended", "attempt-ended"))
JOBS_AT_ONCE = 1_000
"""Jobs between two places at which others may have their turn."""


class Finding(msgspec.Struct, frozen=True):
    """One check and how it came out.

    `public`: the message for who may not see every project; empty when it is the same.
    """

    check: str
    ok: bool
    message: str
    remedy: str = ""
    public: str = ""

    def for_one(self, sees_all: bool) -> Finding:
        """As somebody may read it who sees every project, or does not."""
        return self if sees_all or not self.public else msgspec.structs.replace(self, message=self.public)


def _anybody(job: JobRecord) -> bool:
    return True


def check_state(
    state: State, sees: Callable[[JobRecord], bool] = _anybody, now: int | None = None
) -> list[Finding]:
    """What memory can tell: nodes, devices, attempts, holds, budgets, policies.

    Args:
        sees: may the reader see this job? now: what is effective later is told by it; None: nobody asks.
    """
    parts = check_state_in_parts(state, sees, now)
    while True:
        try:
            next(parts)
        except StopIteration as end:
            found: list[Finding] = end.value
            return found


def check_state_in_parts(
    state: State, sees: Callable[[JobRecord], bool] = _anybody, now: int | None = None
) -> Generator[None, None, list[Finding]]:
    """The same, which yields wherever the state may change before it goes on: jobs may be many."""
    findings = [_nodes(state, now)]
    yield
    for check in (_limits, _prices, _devices, _attempts):
        findings.append(check(state))
        yield
    findings.append(_overdue(state, sees))
    findings.append((yield from _jobs(state)))
    findings.append(_ledger(state))
    yield
    findings += (_budgets(state), _policies(state, now))
    return findings


def check_clock(clock: object, clocks: Clocks | None = None, state: State | None = None) -> Finding:
    """Is the time that the daemon goes by that of the machine's clock, and of the nodes'?

    Args:
        clocks: what nodes say. state: for its nodes, and for money that is dated later than now.
    """
    doubt = clock.doubt() if isinstance(clock, SteadyClock) else None
    nodes = state.nodes if state is not None else {}
    if doubt is not None:
        when = (
            f"at the latest in {-(-doubt.believed_in_us // HOUR_US)} h" if doubt.believed_in_us else "never"
        )
        same, asked = clocks.agreeing(doubt.wall - doubt.steady) if clocks is not None else (0, 0)
        witnesses = f"; {same} of {plural(asked, 'node')} say what the machine's clock says" if asked else ""
        return Finding(
            "clock",
            False,
            f"the machine's clock says {format_instant(doubt.wall)}, but by the log it is"
            f" {format_instant(doubt.steady)}: the daemon goes by the log; the clock is believed {when}"
            f"{witnesses}",
            "set the machine's clock; or, if it is right: `bursar audit trust-clock --state-dir DIR`",
        )
    if problems := clocks.problems(nodes) if clocks is not None else []:
        remedy = "set the clock that is wrong (NTP): of those nodes, or of the daemon's machine"
        found = finding("clock", problems, "", remedy, names_work=False)
        return msgspec.structs.replace(found, public=unnamed(found.message))
    fine = "the clock and the log agree on the time"
    early = _booked_ahead(state, clock.now()) if state is not None and isinstance(clock, SteadyClock) else []
    if state is not None and isinstance(clock, SteadyClock) and clock.now() < state.closed.until:
        fine += (
            f"; {state.closed.all[-1].name} was closed by a clock that was ahead: what is used until"
            f" {format_instant(state.closed.until)} counts from then on, in reports and budgets"
        )
    counted = (
        f"; what was booked while it was ahead counts later in {plural(len(early), 'budget')}"
        if early
        else ""
    )
    return Finding("clock", True, "; ".join([fine, *early[:3]]), public=fine + counted)


def _booked_ahead(state: State, now: int) -> list[str]:
    """What budgets settled in periods that have not begun."""
    found = []
    for name in sorted(state.budgets.records):
        for start in sorted(state.ledger.periods_of(name)):
            settled = state.ledger.settled(name, start) if start > now else 0
            if settled:
                found.append(
                    f"budget {name}: {format_nanos(settled)} {state.currency} were booked while the clock was"
                    f" ahead, and count in the period from {format_instant(start)}"
                )
    return found


def check_secrets(state: State, vault: Vault) -> Finding:
    """Can what jobs name be opened? Every job that names one that cannot be fails at its start."""
    return finding(
        "secrets",
        vault.problems(list(state.secrets.values())),
        f"all {len(state.secrets)} sealed secrets can be opened",
        "bring the key file back (it lies outside the state directory and its backups), or set the secrets"
        " again: `bursar secret set NAME`",
    )


def check_gateways(known: Iterable[Gateway], state: State, now: int) -> Finding:
    """Do the gateways that were there in the last hour, and since bursard began, still ask?"""
    gateways = [one for one in known if now - one.at < HOUR_US]
    lost = [one for one in gateways if now - one.at >= GONE_US]
    serves = any(job.spec.service is not None and not job.state.terminal for job in state.jobs.values())
    said = [
        f"the gateway {one.url or one.name} has not asked for {(now - one.at) // SECOND_US} s: its requests"
        " reach no replica, or are not counted"
        for one in lost
        if serves
    ]
    live = len(gateways) - len(lost)
    fine = (
        f"{plural(live, 'gateway')} asked for services within {GONE_US // SECOND_US} s"
        if live
        else "no gateway asks for services"
    )
    return finding(
        "gateways",
        said,
        fine if live else "no gateway asks for services",
        "start it again (`bursar up --gateway HOST:PORT`, or its unit), its log says why it went; one that"
        " was taken away for good is forgotten after an hour",
        names_work=False,
    )


def check_keeper(seen: Seen) -> Finding:
    """Is there a keeper of `bursar up`, and does it look around?"""
    lacking = [] if seen.is_there else ["no keeper runs, so nobody starts a daemon or agent again that dies"]
    late = seen.is_there and seen.silent_s > BEAT_LATE_S
    hangs = [f"the keeper has shown no life for {seen.silent_s:.0f} s"] if late else []
    return finding(
        "keeper",
        lacking + hangs,
        f"the keeper looked around {max(seen.silent_s, 0):.0f} s ago",
        "daemon and agents start another within some seconds; if it stays so, `bursar up` does:"
        " logs/keeper.log in the state directory says why",
        names_work=False,
    )


def check_planning(failing: str, left_out: Sequence[str], allocator_wrong: str = "") -> Finding:
    """Does the scheduler answer, and for everybody?

    Args:
        failing: what the newest plan failed with; "" when it did not. left_out: jobs it could not compute.
        allocator_wrong: why the allocator in force decides nothing; "" when it does.
    """
    if failing:
        return Finding(
            "scheduling",
            False,
            f"nothing is planned: {failing}",
            "see the daemon's log, and report it",
            "nothing is planned",
        )
    problems = [f"the place of {job_id} cannot be computed" for job_id in left_out]
    if allocator_wrong:
        remedy = "mend its package, or `bursar policy apply` a PlacementPolicy with another allocator"
        return finding("scheduling", [allocator_wrong, *problems], "", remedy)
    remedy = "`bursar explain JOB` says why; `bursar nodes` shows a node that reports what cannot be"
    return finding("scheduling", problems, "the newest plan covers every job that waits", remedy)


def check_store(store: Log, full: bool) -> list[Finding]:
    """What the disk can tell: the chain, the sums, the space; `full`: every row against the log, too."""
    problems = store.verify(full)
    images = list[Finding]()
    if full:
        rows = _rows(store)
        wrong = [row for row in rows if row.startswith(_IMAGES)]
        problems += [row for row in rows if row not in wrong]
        images = [
            finding(
                "images",
                wrong,
                "every image of the state says what the log says",
                "nothing is lost: the log has all of it. Restart bursard: it throws away an image that is"
                " damaged. For one that can be read and says something else, stop it first, and"
                " `bursar audit accept-loss --state-dir DIR` throws that away",
            )
        ]
    mend = "free some space: below 64 MiB new work is refused"
    try:
        free = store.free_bytes()
        short = [f"only {free // 1_000_000} MB are free"] if free < 1_000_000_000 else []
    except StoreUnavailable as problem:
        free, short = 0, [problem.message]
        mend = "put the directory back; until then new work is refused"
    return [
        finding(
            "log" if full else "log (newest part; --full for all)",
            problems,
            f"hash chain and double entry hold up to event {store.last_seq}"
            + (", and every row follows from it" if full else ""),
            "stop the daemon, keep the directory as it is, and restore a backup:"
            " `bursar restore FILE --state-dir DIR`",
        ),
        *images,
        finding(
            "disk",
            short,
            f"{free // 1_000_000_000} GB are free",
            mend,
            names_work=False,
        ),
    ]


def _rows(store: Log) -> list[str]:
    try:
        with store.picture() as picture:
            return [*audit.problems_of(picture), *verify.limited(picture.extras())]
    except StoreUnavailable as error:
        return [error.message]


def check_ends(views: Views, last_seq: int, full: bool) -> Finding:
    """Does everything end once (J5)? `last_seq`: the newest event."""
    after = 0 if full else max(last_seq - ENDS_LOOKED_AT, 0)
    return finding(
        "ends (J5)" if full else "ends (J5; newest part)",
        second_ends(views, after),
        f"no job and no attempt of events {after + 1} to {last_seq} ended twice",
        "report this as a defect; the first end is the one that counts",
    )


def second_ends(views: Views, after: int) -> list[str]:
    """Jobs and attempts that end more than once in the log (J5); the first schema may, its daemon did so."""
    ended: set[str] = set()
    problems = []
    while rows := views.events(after, ENDS_AT_ONCE, _ENDS):
        after = rows[-1].seq
        for row in rows:
            event = decode(row.payload)
            about = event.attempt_id if isinstance(event, AttemptEnded) else getattr(event, "job_id", "")
            if about in ended and schema_of(row.payload) > FIRST:
                problems.append(f"J5: {about} ends once more with event {row.seq}")
            ended.add(about)
    return problems


def finding(check: str, problems: list[str], fine: str, remedy: str, *, names_work: bool = True) -> Finding:
    """A check and what it found wrong.

    `names_work`: its problems may name jobs, budgets or secrets, so they are counted for who may not see
    every project.
    """
    if not problems:
        return Finding(check, True, fine)
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    counted = f"{plural(len(problems), 'problem')}; `bursar doctor` of an operator says which"
    message = "; ".join(problems[:3]) + more
    return Finding(check, False, message, remedy, counted if names_work else "")


def _nodes(state: State, now: int | None = None) -> Finding:
    problems = []
    for node in state.nodes.values():
        if not node.connected:
            token = of_token(state, node, now) if now is not None else ""
            problems.append(f"{node.facts.name} is out of contact" + (f": {token}" if token else ""))
    problems += [
        f"{node.facts.name} is quarantined: {node.reason}"
        for node in state.nodes.values()
        if node.mode == "quarantine"
    ]
    problems += [
        f"{node.facts.name} can start nothing: {node.trouble}"
        for node in state.nodes.values()
        if node.trouble
    ]
    if not state.nodes:
        problems = ["no node has ever connected"]
    remedy = (
        "start bursar-agent there; its jobs, if any, go on meanwhile. One that is gone for good:"
        " `bursar node rm NODE`. A quarantined node gets no new work"
        " until `bursar node resume NODE`. One that can start nothing takes work again by itself once what it"
        " names is mended there"
    )
    fine = f"all {len(state.nodes)} are in contact"
    found = finding("nodes", problems, fine, remedy, names_work=False)
    return msgspec.structs.replace(found, public=unnamed(found.message))


def _limits(state: State) -> Finding:
    """What jobs are held to. It breaks no invariant where they are not, but nobody shall be surprised."""
    short = {
        node.facts.name: [name for name in node.facts.needed_limits if name not in node.facts.limits]
        for node in state.nodes.values()
    }
    trusted = [f"{name} ({', '.join(missing)})" for name, missing in sorted(short.items()) if missing]
    if not trusted:
        return Finding("limits", True, f"what jobs ask for holds on all of {plural(len(short), 'node')}")
    more = f" and {len(trusted) - 3} more" if len(trusted) > 3 else ""
    where = f"{', '.join(trusted[:3])}{more}"
    if any("gpu" in missing for missing in short.values()):
        where += "; gpu: fractions of devices share them in time there, and their memory is not limited"
    return Finding("limits", True, f"nothing is broken, but jobs can exceed what they asked for on {where}")


def _prices(state: State) -> Finding:
    unpriced = [node.facts.name for node in state.nodes.values() if not node.price_id]
    return finding(
        "prices",
        [f"{name} has no price now: what runs there costs an unknown amount" for name in unpriced],
        f"none of {plural(len(state.nodes), 'node')} is without a price now",
        "apply a CostModel for its pool or a PriceBook for its machine type",
        names_work=False,
    )


def _devices(state: State) -> Finding:
    problems = []
    for node in state.nodes.values():
        cpu = memory = 0
        devices: dict[int, int] = {}
        for attempt_id in node.live:
            attempt = state.attempts.get(attempt_id)
            if attempt is None:
                problems.append(f"{node.facts.name} holds {attempt_id}, which is not live")
                continue
            if attempt.after:
                continue
            for member in attempt.live():
                if member.alloc.node_id == node.id:
                    cpu += member.alloc.cpu_milli
                    memory += member.alloc.memory_bytes
                    for share in member.alloc.devices:
                        devices[share.index] = devices.get(share.index, 0) + share.milli
        if any(milli > 1000 for milli in devices.values()):
            problems.append(f"R1: a device of {node.facts.name} is held more than whole")
        if cpu + int(state.cluster.cpu_free[node.row]) != node.facts.cpu_milli:
            problems.append(f"R1: CPUs of {node.facts.name} do not add up")
        if memory + int(state.cluster.memory_free[node.row]) != node.facts.memory_bytes:
            problems.append(f"R1: memory of {node.facts.name} does not add up")
    return finding("resources (R1)", problems, "nothing is held twice", "report this as a defect")


def _attempts(state: State) -> Finding:
    problems = []
    for attempt in state.attempts.values():
        job = state.jobs.get(attempt.job_id)
        if job is None or job.attempt is not attempt:
            problems.append(f"J4: {attempt.id} is live but not the live attempt of its job")
        if attempt.after and not _is_promised(state, attempt):
            problems.append(
                f"R1: {attempt.id} waits for the share of {attempt.after}, which cannot be its own"
            )
    waiting = sum(bool(attempt.after) for attempt in state.attempts.values())
    if waiting != len(state.behind):
        promised = plural(len(state.behind), "share")
        problems.append(f"R1: {plural(waiting, 'waiting attempt')}, {promised} promised")
    return finding("attempts (J4)", problems, f"{len(state.attempts)} live, one per job", "report this")


def _overdue(state: State, sees: Callable[[JobRecord], bool]) -> Finding:
    """Does every node in contact do what it was told?"""
    problems, names = [], []
    for attempt in state.attempts.values():
        job = state.jobs[attempt.job_id]
        called = f"job {job.display}" if sees(job) else "another job"
        for rank, message in sorted(attempt.overdue.items()):
            problems.append(f"rank {rank} of {called}: {message}")
            names.append(attempt.members[rank].node)
    return finding(
        "overdue",
        problems,
        "what was to start has started, and what was to end has ended",
        overdue.remedy(names[0]) if names else "",
        names_work=False,
    )


def _is_promised(state: State, attempt: AttemptRecord) -> bool:
    """Is what it waits for live, of the same share, and promised to it?"""
    other = state.attempts.get(attempt.after)
    return (
        other is not None
        and state.behind.get(other.id) == attempt.id
        and [one.alloc for one in other.members] == [one.alloc for one in attempt.members]
        and other.members[0].report is None
    )


def _jobs(state: State) -> Generator[None, None, Finding]:
    """Are jobs, arrays, the queue and the counts four views of one thing?"""
    problems = list[str]()
    for number, job in enumerate(list(state.jobs.values())):
        if number % JOBS_AT_ONCE == 0:
            yield
        if state.jobs.get(job.id) is job:  # else it has been forgotten meanwhile
            problems += _job(state, job)
    counts, users = yield from _counted(state)
    for one in JobState:
        if not one.terminal and state.counts.get(one, 0) != counts[one.value]:
            problems.append(
                f"{one.value}: {plural(counts[one.value], 'job')}, {state.counts.get(one, 0)} are counted"
            )
    for user, many in sorted(users.items()):
        if state.shares.of(user).pending != many:
            problems.append(
                f"{user}: {plural(many, 'job')} pending, {state.shares.of(user).pending} are counted"
            )
    return finding("jobs", problems, f"{len(state.jobs)} records tie to the queue", "report this as a defect")


def _job(state: State, job: JobRecord) -> Iterator[str]:
    """What is wrong with one record."""
    waits = job.state is JobState.PENDING
    if (not waits or job.held or job.waiting_on) and job.id in state.pending:
        yield f"job {job.display} is in the queue, but may not start"
    if job.waiting_on and not job.state.terminal:
        lost = [one for one in job.waiting_on if state.job(one) is None and state.just_met(one) is None]
        if lost and job.id not in state.doomed:
            yield f"job {job.display} waits for {lost[0]}, which is over"
    if job.array is not None:
        yield from _array(state, job, job.array)
    elif job.parent_id and job.parent_id not in state.jobs:
        yield f"task {job.display} has no array"


def _counted(state: State) -> Generator[None, None, tuple[Counter[str], Counter[str]]]:
    """Jobs by state, and those that wait by user, all at one moment: counted bit by bit while nothing
    happens, and at once when something did.
    """
    version, jobs = state.version, list(state.jobs.values())
    counts, users = Counter[str](), Counter[str]()
    for start in range(0, len(jobs), JOBS_AT_ONCE):
        _count(jobs[start : start + JOBS_AT_ONCE], counts, users)
        yield
        if state.version != version:
            counts, users = Counter[str](), Counter[str]()
            _count(list(state.jobs.values()), counts, users)
            break
    return counts, users


def _count(jobs: Sequence[JobRecord], counts: Counter[str], users: Counter[str]) -> None:
    single = Counter((job.state, job.user) for job in jobs if job.array is None and not job.parent_id)
    for (state, user), many in single.items():
        counts[state.value] += many
        users[user] += many if state is JobState.PENDING else 0
    for job in jobs:
        if job.array is not None:
            counts.update(job.array.counts)
            users[job.user] += job.array.counts.get(JobState.PENDING.value, 0)


def _array(state: State, job: JobRecord, array: ArrayRecord) -> Iterator[str]:
    tasks = state.tasks[job.id].values()
    alone = (task for task in tasks if not contains(array.unopened, task.array_index))
    pending = count(array.unopened) + sum(task.state is JobState.PENDING for task in alone)
    counted = array.counts.get(JobState.PENDING.value, 0)
    if sum(array.counts.values()) != size_of(job):
        yield f"array {job.display} counts {plural(sum(array.counts.values()), 'task')} of {size_of(job)}"
    if pending != counted:
        yield f"array {job.display} has {plural(pending, 'pending task')}, {counted} are counted"
    for other in array.follows:
        if other not in state.jobs or job.id not in state.followers.get(other, ()):
            yield f"the tasks of array {job.display} follow those of {other}, which does not know it"
    if array.lost and job.id not in state.doomed:
        yield f"array {job.display} has tasks that can never start, and nobody is to end them"
    taken = sum(task.has_slot and not task.state.terminal for task in tasks)
    if array.max_parallel and array.open_slots + taken != array.max_parallel:
        slots = f"{array.open_slots} free and {taken} taken of {array.max_parallel} slots"
        yield f"array {job.display} has {slots}"


def _ledger(state: State) -> Finding:
    return finding(
        "ledger (L1, B3)",
        state.ledger.violations(),
        "every balance ties to the nano",
        "report this as a defect; the log has all that is needed to find it",
    )


def _budgets(state: State) -> Finding:
    problems = []
    rooms = state.budgets.rooms(state.ledger)
    hard = [name for name, record in state.budgets.records.items() if record.hard]
    for name in hard:
        room = rooms[name]
        if room.room_nanos < 0:
            problems.append(f"B1: {name} is over its limit by {-room.room_nanos} nanos")
    for name, record in state.budgets.records.items():
        postings = state.budgets.postings.of(name, record.period_start)
        listed, given = sum(one.nanos for one in postings), state.ledger.given(name, record.period_start)
        if listed != given:
            problems.append(f"B7: {name} was given {given} nanos, its postings say {listed}")
    for array_id, money in state.array_money.items():
        array = state.jobs.get(array_id)
        if array is None:
            problems.append(f"B4: the money of {array_id} is kept, and the array is gone")
            continue
        if array.spec.caps_array and money.committed_nanos > array.spec.max_cost_nanos:
            over = money.committed_nanos - array.spec.max_cost_nanos
            problems.append(f"B4: array {array.display} is over its max_cost by {over} nanos")
    told = f"settled + held is within {plural(len(hard), 'hard budget')}"
    soft = len(state.budgets.records) - len(hard)
    if soft:
        told += f"; {plural(soft, 'soft one')} may be passed and {'is' if soft == 1 else 'are'} not checked"
    return finding("budgets (B1, B7)", problems, told, "raise the limit")


def _policies(state: State, now: int | None) -> Finding:
    later = sorted(
        (one.effective_at, f"{one.kind} {one.name} from {format_instant(one.effective_at)} on")
        for one in state.policies.values()
        if now is not None and one.effective_at > now
    )
    dated = "; ".join(["", *(told for _, told in later[:3])]).replace("; ", "; effective later: ", 1)
    more = f" (and {len(later) - 3} more)" if len(later) > 3 else ""
    return finding(
        "policies",
        [
            f"{one.kind} {one.name} is not in force: this version cannot read it ({one.problem})"
            for one in state.policies.values()
            if one.spec is None
        ],
        f"this version can read all {plural(len(state.policies), 'document')}{dated}{more}",
        "write it anew as this version reads it, and apply it: `bursar policy show NAME`, `policy apply`",
    )
