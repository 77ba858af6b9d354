"""What policy documents say, as frozen values: budgets, quotas, reservations, costs, prices, order, names.

Owns    the types alone; `read_budget`, `read_prices`, `read_names` make them from YAML, `compile` uses them.
Why     `msgspec.json` writes and reads every one of them (the spec is a tagged union), so the log
        can hold a document as it was applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from bursar.clock import DAY_US, HOUR_US, SECOND_US, Instant
from bursar.model.slurm_names import SlurmName
from bursar.money import Money, format_nanos
from bursar.projects import is_within

STRATEGIES: Final = ("pack", "spread")
"""Placement strategies a PlacementPolicy may name."""
BUILT_KINDS: Final = (
    "Budget", "CloudPool", "CostModel", "PriceBook", "PlacementPolicy", "PriorityPolicy", "Quota",
    "Reservation", "SlurmNames", "AlertChannel", "Commitment", "IdlePolicy", "Attribution",
)  # fmt: skip
PLANNED_KINDS: Final[tuple[str, ...]] = ()
PPM: Final = 1_000_000
"""Parts per million in a whole: thresholds compare integers, never ratios."""

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


class Scope(msgspec.Struct, frozen=True):
    """What a budget covers. Each part that is set must match; at least one is set.

    Attributes:
        project: a subtree, lower case: `research` covers `research/vision`.
        labels: (key, value) pairs, sorted by key.
    """

    project: str = ""
    user: str = ""
    experiment: str = ""
    model: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def covers(self, project: str, user: str, experiment: str, model: str, labels: Mapping[str, str]) -> bool:
        """Does work with these marks count against the budget?"""
        return (
            is_within(project, self.project)
            and (not self.user or self.user == user)
            and (not self.experiment or self.experiment == experiment)
            and (not self.model or self.model == model)
            and all(labels.get(key) == value for key, value in self.labels)
        )

    def __str__(self) -> str:
        """Readable form, such as `project research, label team=vision`."""
        parts = [
            f"{key} {value}"
            for key in ("project", "user", "experiment", "model")
            if (value := getattr(self, key))
        ]
        return ", ".join([*parts, *(f"label {key}={value}" for key, value in self.labels)])


HOLDS: Final = ("worst-case", "expected", "lease")
"""What a start holds of a budget, the most careful first."""
LEASE_US: Final = 15 * 60 * SECOND_US
"""Of a lease whose document does not say how long it is."""
LEASE_MIN_US: Final = 10 * SECOND_US
LEASE_MAX_US: Final = 7 * DAY_US

FORECAST: Final = "forecast"
ON: Final = ("settled", "settled+held", FORECAST)
"""What of a budget a threshold is on."""
NOTIFY: Final = "notify"
ACTIONS: Final = (NOTIFY, "lower-priority", "spot-only", "hold-queue", "approval", "checkpoint-stop")
"""What a threshold may do. All but the first last: they are *stages* of their budget from then on."""
STOPPING: Final = ("checkpoint-stop", "hold-queue", "approval")
"""Those under which nothing more starts, the gravest first."""


class Threshold(msgspec.Struct, frozen=True):
    """Something to do when spend reaches a share of the limit.

    Attributes:
        at_ppm: share in parts per million; reached when `spend * PPM >= limit * at_ppm`.
        on: of `ON`, what counts as spend; `forecast`: the most that half of what may happen until the end of
            the period does not pass.
        do: of `ACTIONS`, each once.
    """

    at_ppm: int
    on: str = "settled"
    do: tuple[str, ...] = ("notify",)


class CarryOver(msgspec.Struct, frozen=True):
    """What of the rest of a period goes on into the next one: a share of it, or all up to an amount.

    Attributes:
        ppm: share in parts per million, of the rest. limit: the most, or None for no bound.
    """

    ppm: int = PPM
    limit: Money | None = None

    def of(self, rest_nanos: int) -> int:
        """What is carried of a rest, rounded down; nothing of less than nothing."""
        share = max(rest_nanos, 0) * self.ppm // PPM
        return share if self.limit is None else min(share, self.limit.nanos)

    def __str__(self) -> str:
        """As the document says it."""
        if self.limit is None:
            return f"{Decimal(self.ppm) / 10_000:f} % of what was left"
        amount = format_nanos(self.limit.nanos).rstrip("0").rstrip(".")
        return f"at most {amount} {self.limit.currency}"


class BudgetSpec(msgspec.Struct, frozen=True, tag="Budget"):
    """A limit on spend in a period.

    Attributes:
        limit: more than 0.
        period: one of `PERIODS` or a rolling one such as `rolling-30d`, in `timezone` (IANA name).
        enforcement: `hard` is never passed; `soft` has thresholds only.
        hold: `worst-case`: a job starts only when its whole time limit can be paid; `lease`: when its next
            `lease_us` can; `expected`: when what runs like it took can.
        thresholds: by rising share.
        carry_over: of what is left at the end of a period, so much goes on into the next one; None: nothing.
        counts_from: what was used before does not count, a full hour; 0: all of its first period does.
        lease_us: for how long a lease pays; 0 without leases.
    """

    scope: Scope
    limit: Money
    period: str = "month"
    timezone: str = "UTC"
    enforcement: str = "hard"
    hold: str = "worst-case"
    thresholds: tuple[Threshold, ...] = ()
    counts_from: int = 0
    carry_over: CarryOver | None = None
    lease_us: int = 0

    @property
    def staged(self) -> bool:
        """Does it ever do more than tell?"""
        return any(action != NOTIFY for threshold in self.thresholds for action in threshold.do)


class Weights(msgspec.Struct, frozen=True):
    """How a machine's price splits into components; only their proportions matter."""

    gpu: Decimal
    cpu: Decimal
    memory: Decimal


class Power(msgspec.Struct, frozen=True):
    """Energy of one node: `max_watts * load_factor * pue * tariff`, tariff per kWh.

    Attributes:
        tariff: of a tariff by the hour, the mean of a week.
        carbon: grams of CO2e per kWh of the grid there; None: not known.
        hours: nanos per kWh by hour of the week, Monday from 00:00 on first, as the clocks of `timezone` show
            it; empty: the tariff is the same at all times.
    """

    max_watts: int
    load_factor: Decimal
    pue: Decimal
    tariff: Money
    carbon: Decimal | None = None
    hours: tuple[int, ...] = ()
    timezone: str = "UTC"


class DeviceCost(msgspec.Struct, frozen=True):
    """What one GPU adds to a node: its purchase price and its share of the node's watts."""

    gpu_type: str
    capex: Money
    max_watts: int = 0


class CostModelSpec(msgspec.Struct, frozen=True, tag="CostModel"):
    """The cost of owning the nodes of one pool. Ratios are of 1 (`10%` is 0.1).

    Attributes:
        node_capex: purchase price of a node, without what `gpus` adds per device.
        useful_life_us: straight-line life, in years of 8760 hours.
        residual: share of (capex + network) that is left at the end.
        network: share of capex that cabling and switches add.
        colo: rent per kW and month of `power.max_watts`, or None in an own room.
        support: share of capex per year.
        nodes_per_fte, salary: staff; 0 and None when nobody is counted.
        practical_capacity: share of the hours that can be sold; the standard rate divides by it.
        component_weights: None to take the GPUs' share of the capex, or the default.
        gpus: per device type, `other` for the rest; for pools whose nodes differ in GPUs.
    """

    pool: str
    node_capex: Money
    useful_life_us: int
    residual: Decimal = Decimal(0)
    network: Decimal = Decimal(0)
    power: Power | None = None
    colo: Money | None = None
    support: Decimal = Decimal(0)
    nodes_per_fte: int = 0
    salary: Money | None = None
    practical_capacity: Decimal = Decimal("0.8")
    component_weights: Weights | None = None
    gpus: tuple[DeviceCost, ...] = ()


class PriceRow(msgspec.Struct, frozen=True):
    """One price: a dated fact about one machine type in one market.

    Attributes:
        region: or a zone that has a price of its own, such as a spot machine's: it goes before its region's.
        rate_nanos_per_hour: of the whole machine, > 0.
        valid_from: since when; 0 since ever. valid_until: exclusive; 0 for no end.
        gpu_type: canonical, upper case; empty without GPUs. gpu_memory_bytes: of each.
        source: where the price is from, when it differs from the book's source.
    """

    provider: str
    region: str
    instance_type: str
    market: str
    rate_nanos_per_hour: int
    valid_from: int = 0
    valid_until: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu_type: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    source: str = ""


class PriceBookSpec(msgspec.Struct, frozen=True, tag="PriceBook"):
    """Prices of cloud machines, all in one currency."""

    source: str
    currency: str
    prices: tuple[PriceRow, ...]
    component_weights: Weights | None = None


class AllocatorSpec(msgspec.Struct, frozen=True):
    """Who decides about jobs that may be moved or resized, all of them together.

    Attributes:
        name: of `bursar_policies.allocators`.
        round_us: how often. restart_us: what a job that is stopped loses, beside work that is not saved.
        weights: (name, weight) pairs, sorted by name; what is not there is as the allocator declares it.
    """

    name: str
    round_us: int = 360 * SECOND_US
    restart_us: int = 300 * SECOND_US
    weights: tuple[tuple[str, Decimal], ...] = ()


class PlacementPolicySpec(msgspec.Struct, frozen=True, tag="PlacementPolicy"):
    """Where jobs go among the nodes that fit.

    Attributes:
        weights: (scorer, times what the strategy has of its own) pairs, sorted by scorer.
        allocator: None: no job is moved for another to run better.
    """

    strategy: str = "pack"
    weights: tuple[tuple[str, Decimal], ...] = ()
    allocator: AllocatorSpec | None = None


FACTORS: Final = ("age", "fair_share", "size", "run_time", "deadline", "budget", "qos")
"""What a PriorityPolicy may weigh."""
ASKED_MAX: Final = 50
"""The highest priority that a submitter may ask for where no policy says: `normal`."""
ADMIN_ASKED_MAX: Final = 75
"""The same of a project-admin: `high`."""
PREEMPT_MAX: Final = 60
"""How often within an hour jobs of a project have others stopped, where the policy does not say."""
PROMISE_HORIZON_US: Final = 30 * DAY_US
PROMISE_USER_MAX: Final = 200
PROMISES_MAX: Final = 1_000
"""What promises of deadlines are bounded by where no PriorityPolicy says more."""


class PriorityPolicySpec(msgspec.Struct, frozen=True, tag="PriorityPolicy"):
    """In which order waiting jobs are looked at.

    Attributes:
        weights: (factor, thousandths) pairs, sorted by factor; each more than 0.
        max_wait_us: what waits for longer comes before all else, oldest first; 0: never.
        age_full_us: after so long a job's age counts in full. age_power: 1, evenly until then; 2, as the
            square, so that half of it counts for a quarter; at most 4.
        share_days: fair share looks back on so many days.
        shares: (project, thousandths) pairs, sorted; others have one share per top-level project.
        kept_ppm: what part of the cluster's CPUs, memory and GPUs is kept for jobs of at most
            `short_limit_us`; 0: none. Only with a `max_wait_us`, past which a job need not leave it.
        preempt_gap: a job may have others stopped whose priority is at least so much below its own; 0: none.
        restart_us: what a stopped job loses beside its work since its last checkpoint.
        preempt_max: so many times within an hour jobs of one top-level project have others stopped.
        preempt_user_max: the same of the jobs of one user, whatever their projects; 0: as `preempt_max`.
        promise_horizon_us: a place that is promised begins at most so far ahead.
        promise_share_ppm: what part of the cluster's CPUs, memory and GPUs may be promised at a time.
        promise_user_max: so many promises of one user are open at a time.
        promise_user_ppm: what part of what may be promised at a time those of one user have while jobs of
            others wait.
        asked_max: the highest priority that a submitter may ask for. admin_asked_max: that a project-admin
            may, in his projects. Operators may ask for any.
        asked_in: (project, priority) pairs, sorted: what submitters may ask for there instead, and in all
            below; the innermost counts.
    """

    weights: tuple[tuple[str, int], ...] = ()
    max_wait_us: int = 0
    age_full_us: int = 7 * DAY_US
    age_power: int = 1
    share_days: int = 30
    shares: tuple[tuple[str, int], ...] = ()
    short_limit_us: int = 0
    kept_ppm: int = 0
    preempt_gap: int = 0
    restart_us: int = 0
    promise_horizon_us: int = PROMISE_HORIZON_US
    promise_share_ppm: int = PPM
    promise_user_max: int = PROMISE_USER_MAX
    promise_user_ppm: int = PPM
    preempt_max: int = PREEMPT_MAX
    preempt_user_max: int = 0
    asked_max: int = ASKED_MAX
    admin_asked_max: int = ADMIN_ASKED_MAX
    asked_in: tuple[tuple[str, int], ...] = ()

    @property
    def bounds_promises(self) -> bool:
        """Does it bound them otherwise than every site does?"""
        mine = self.promise_horizon_us, self.promise_share_ppm, self.promise_user_max, self.promise_user_ppm
        return mine != (PROMISE_HORIZON_US, PPM, PROMISE_USER_MAX, PPM)


EACH: Final = "*"
"""As the user of a Quota: each user by himself."""
RUNNING: Final = ("refuse", "leave", "preempt")
"""What becomes of attempts that run on nodes to be reserved and may go on into the window: the reservation is
refused, they go on, or they are asked to end so early that their grace ends with its start."""
GPUS: Final = "gpus"
SPEND_RATE: Final = "spend_rate"
RESOURCES: Final = ("cpus", "memory", GPUS, SPEND_RATE)
"""What a Quota counts; GPUs of one type as `gpus/H100` too."""
Amounts = tuple[tuple[str, int], ...]
"""(resource, amount) pairs by rising resource: CPUs and GPUs in thousandths, memory in bytes, the spend rate
in nanos per hour."""


class QuotaSpec(msgspec.Struct, frozen=True, tag="Quota"):
    """What the running jobs of a project and all below it, or of a user, may hold at a time.

    Attributes:
        project, user: the scope; one of them is set. Projects are lower case; the user may be `EACH`.
        guaranteed: theirs whenever they ask for it: what others borrowed of it is taken back.
        max: never more, with what others leave idle; what is not named has no ceiling.
        currency: of the spend rates; empty without any.
    """

    project: str = ""
    user: str = ""
    guaranteed: Amounts = ()
    max: Amounts = ()
    currency: str = ""

    def covers(self, user: str, project: str) -> bool:
        """Does work of this user and project count?"""
        return self.user == user if self.user else is_within(project, self.project)

    @property
    def scope(self) -> str:
        """Readable form: `project nlp` or `user ann`."""
        return f"user {self.user}" if self.user else f"project {self.project}"


class ReservationSpec(msgspec.Struct, frozen=True, tag="Reservation"):
    """Nodes that are kept for somebody, or for nobody, in a window of time.

    Attributes:
        nodes: their names, rising; of a document that gives a number, those that were chosen.
        starts_at, ends_at: the window, microseconds.
        projects, users: whose jobs may use them, lower case; both empty: nobody's, as for maintenance.
        running: what becomes of what runs there and may go on into it: `RUNNING`.
        count, where, gpu_type: how many are to be chosen, and of which, as constraints say it; 0: none.
        reason: for people.
    """

    nodes: tuple[str, ...]
    starts_at: int
    ends_at: int
    projects: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    running: str = "refuse"
    count: int = 0
    where: tuple[tuple[str, str], ...] = ()
    gpu_type: str = ""
    reason: str = ""

    @property
    def maintenance(self) -> bool:
        """May nobody use them?"""
        return not (self.projects or self.users)

    def lets(self, user: str, project: str) -> bool:
        """May jobs of this user in this project use its nodes?"""
        return user in self.users or any(is_within(project.lower(), one) for one in self.projects)

    @property
    def whose(self) -> str:
        """Readable form: `project nlp, user ann`, or `nobody (maintenance)`."""
        named = [*(f"project {one}" for one in self.projects), *(f"user {one}" for one in self.users)]
        return ", ".join(named) or "nobody (maintenance)"


class SlurmNamesSpec(msgspec.Struct, frozen=True, tag="SlurmNames"):
    """What partitions, QOS and accounts of `#SBATCH` scripts stand for here; each by rising name."""

    partitions: tuple[SlurmName, ...] = ()
    qos: tuple[SlurmName, ...] = ()
    accounts: tuple[SlurmName, ...] = ()


class LaunchSetting(msgspec.Struct, frozen=True):
    """One thing that a provider is told when it makes a machine, such as its image.

    Attributes:
        where: the region or zone that it is of; empty: everywhere that has none of its own.
    """

    key: str
    text: str
    where: str = ""


class CloudPoolSpec(msgspec.Struct, frozen=True, tag="CloudPool"):
    """Machines that may be rented for jobs that no node has room for.

    Attributes:
        regions, zones, gpus, instance_types, markets: which; empty: all. Types are shell patterns.
        machines: at once. spend_rate: of all of them together, per hour; None: no bound.
        per_job_machines: at once for one job; 0: as many as `machines`. per_user_machines: for all jobs of
            one user. per_project_machines: for those of one top-level project and of all below it.
        keep_alive_us: idle for so long, a machine is given back.
        max_lifetime_us: then it is drained and given back, whatever runs there.
        boot_timeout_us: one whose agent has not said hello by then is given back.
        launch: what its provider is told beside that; which keys there are, is the provider's.
    """

    provider: str
    machines: int
    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    instance_types: tuple[str, ...] = ()
    markets: tuple[str, ...] = ()
    spend_rate: Money | None = None
    keep_alive_us: int = 300 * SECOND_US
    max_lifetime_us: int = 3 * DAY_US
    boot_timeout_us: int = 900 * SECOND_US
    launch: tuple[LaunchSetting, ...] = ()
    per_job_machines: int = 0
    per_user_machines: int = 0
    per_project_machines: int = 0


class PlanRate(msgspec.Struct, frozen=True):
    """What a plan asks for an hour of a machine type, in place of the list price."""

    instance_type: str
    rate_nanos_per_hour: int


class CommitmentSpec(msgspec.Struct, frozen=True, tag="Commitment"):
    """What a site has promised a provider to pay for each hour of a term, whether it is used or not.

    Attributes:
        of_type: `reservation`, `savings-plan` or `committed-use`.
        quantity: so many machines of `instance_type` in `region`; 0: it promises money, not machines.
        hourly_nanos: of all of it together, paid for each hour. upfront_nanos: paid once, and spread over the
            hours of the term; of machines alone.
        rates: of a promise of money, by instance type; what has none is not covered.
        family, region: of a plan that covers one family of types in one region alone; empty: all.
        start, end: full hours, `[start, end)`.
    """

    provider: str
    of_type: str
    currency: str
    start: int
    end: int
    hourly_nanos: int = 0
    upfront_nanos: int = 0
    region: str = ""
    family: str = ""
    instance_type: str = ""
    quantity: int = 0
    rates: tuple[PlanRate, ...] = ()

    @property
    def hours(self) -> int:
        """Of its term."""
        return (self.end - self.start) // HOUR_US

    def fee_nanos(self, hour: int) -> int:
        """What the hour that begins at an instant costs; all hours together exactly what was promised."""
        if not self.start <= hour < self.end:
            return 0
        number, whole = (hour - self.start) // HOUR_US, self.hours
        upfront = self.upfront_nanos
        return self.hourly_nanos + upfront * (number + 1) // whole - upfront * number // whole


class WebhookTarget(msgspec.Struct, frozen=True):
    """POST of JSON. `url`, or what is in `url_file`; `token_file`: of a bearer token. Files are names in the
    daemon's directory of alert secrets.
    """

    url: str = ""
    url_file: str = ""
    token_file: str = ""


class SmtpTarget(msgspec.Struct, frozen=True):
    """A mail. `tls`: starttls | tls | none."""

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    tls: str = "starttls"
    user: str = ""
    password_file: str = ""


class MqttTarget(msgspec.Struct, frozen=True):
    """A message of JSON to a broker, delivered at least once."""

    url: str
    topic: str
    user: str = ""
    password_file: str = ""


class AlertChannelSpec(msgspec.Struct, frozen=True, tag="AlertChannel"):
    """Whom the thresholds of budgets tell, by one of three ways.

    Attributes:
        budgets: names, in which `*` is any characters; empty: all budgets, or none beside `anomalies`.
        anomalies: of which projects, and those below them, it is told what costs more than its like.
    """

    webhook: WebhookTarget | None = None
    smtp: SmtpTarget | None = None
    mqtt: MqttTarget | None = None
    budgets: tuple[str, ...] = ()
    anomalies: tuple[str, ...] = ()


IDLE_TYPES: Final = ("job", "interactive")
"""Types of jobs that an IdlePolicy may be about; a service waits for requests, and scales by them."""


class IdlePolicySpec(msgspec.Struct, frozen=True, tag="IdlePolicy"):
    """What becomes of jobs that hold what they do not use.

    Attributes:
        scope: whose; nothing set: everybody's. types: of `IDLE_TYPES`.
        below_percent: of multiprocessors at work, below which a GPU is idle.
        cpu_below_percent: the same of the CPUs of a job without GPUs; 0: such jobs are not judged.
        window_us: so long it is idle before it is acted on; 0: it is judged by `detached_us` alone.
        warn_after_us: so long before it is told.
        action: notify | stop | hold | requeue | cancel.
        detached_us: so long nobody uses an interactive job before it is acted on; 0: for ever.
        snooze_us: the most that its owner puts it off from now. snoozes: how often for one job; None: no
            bound.
    """

    scope: Scope = Scope()
    types: tuple[str, ...] = IDLE_TYPES
    below_percent: int = 5
    cpu_below_percent: int = 0
    window_us: int = 0
    warn_after_us: int = 0
    action: str = "stop"
    detached_us: int = 0
    snooze_us: int = 7 * DAY_US
    snoozes: int | None = None


class OwnerRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose the costs of some jobs are. `scope`: nothing set: everybody's. An empty name says nothing."""

    scope: Scope = Scope()
    team: str = ""
    cost_center: str = ""


SHARED_KINDS: Final = (
    "idle", "reserved", "keep-alive", "down", "unknown", "overhead", "variance", "absorption", "refund",
)  # fmt: skip
"""Kinds of charges that no job pays."""
SHARED_BY: Final = ("cost", "even", "shares")
"""As each cost centre's own cost is; the same for each that has some; as the document says."""


class SharedRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who bears what is nobody's own: either kinds of charges, or all that one cost centre has.

    Attributes:
        kinds: of `SHARED_KINDS`. cost_center: whose costs are divided among the others.
        by: of `SHARED_BY`. shares: (cost centre, millionths), one million together.
    """

    kinds: tuple[str, ...] = ()
    cost_center: str = ""
    by: str = "cost"
    shares: tuple[tuple[str, int], ...] = ()


class AttributionSpec(msgspec.Struct, frozen=True, tag="Attribution"):
    """Which team and cost centre costs are for, and who bears what is nobody's own.

    Attributes:
        owners: of the first that covers a job and names a team, that is its team; the same of cost centres.
        reason: why, for those who read what it moved.
    """

    owners: tuple[OwnerRule, ...] = ()
    shared: tuple[SharedRule, ...] = ()
    reason: str = ""


Spec = (
    AttributionSpec
    | BudgetSpec
    | CloudPoolSpec
    | CommitmentSpec
    | CostModelSpec
    | PriceBookSpec
    | PlacementPolicySpec
    | PriorityPolicySpec
    | QuotaSpec
    | ReservationSpec
    | SlurmNamesSpec
    | AlertChannelSpec
    | IdlePolicySpec
)
Pricing = CostModelSpec | PriceBookSpec
"""Documents that say what a machine costs, each of whose versions is kept for its time."""


class Document(msgspec.Struct, frozen=True):
    """One policy document.

    Attributes:
        version: the version the author read, for optimistic concurrency; None when not given.
        effective_at: from when it holds; None for "from when it is applied".
        text: its YAML. source, line: where it stood.
    """

    kind: str
    name: str
    spec: Spec
    version: int | None = None
    effective_at: Instant | None = None
    text: str = ""
    source: str = ""
    line: int = 0
