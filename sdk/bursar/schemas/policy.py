"""Policy documents for editors: the envelope, and the spec of each kind that is built."""

from __future__ import annotations

from bursar.model import MARKETS
from bursar.model.check import IDLE_ACTIONS, SPOT_POLICIES
from bursar.schemas import forms
from bursar.schemas.cloud import cloud_pool, commitment
from bursar.schemas.forms import Schema

_ACTIONS = ("notify", "lower-priority", "spot-only", "hold-queue", "approval", "checkpoint-stop")
_WORD = r"^[^\s/=]"
_LABEL = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"


def policy_schema() -> Schema:
    """The schema of one policy document; a file may hold several."""
    kinds = {
        "Budget": _budget(),
        "CostModel": _cost_model(),
        "PlacementPolicy": _placement(),
        "PriceBook": _price_book(),
        "PriorityPolicy": _priority(),
        "Quota": _quota(),
        "Reservation": _reservation(),
        "CloudPool": cloud_pool(),
        "Commitment": commitment(),
        "SlurmNames": _slurm_names(),
        "AlertChannel": _alert_channel(),
        "IdlePolicy": _idle_policy(),
        "Attribution": _attribution(),
    }
    envelope = {
        "kind": forms.word("What it is.", tuple(kinds)),
        "name": forms.text("Its name; one document per kind and name is in force.", forms.TOKEN),
        "version": forms.whole("The version that was read; a stale one is refused.", 0),
        "effective_at": forms.text(
            "From when on; now without it. The past is never priced again. Of an Attribution a full hour,"
            " which may have passed.",
            forms.INSTANT,
        ),
        "spec": {"type": "object", "description": "By kind."},
    }
    about = "One policy document of Bursar, for `bursar policy apply`."
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Bursar policy document",
        **forms.mapping(about, envelope, ["kind", "name", "spec"]),
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}}, "then": {"properties": {"spec": spec}}}
            for kind, spec in kinds.items()
        ],
    }


def _scope(about: str) -> Schema:
    labels = forms.either(
        "`team=vision`, or a mapping of labels that must all be there.",
        {"type": "string", "pattern": _LABEL + "=.{1,128}$"},
        forms.pairs("", _LABEL + "$", minProperties=1),
    )
    return forms.mapping(
        about,
        {
            "project": forms.text("A project and all below it.", forms.PROJECT),
            "user": forms.text("A user.", _WORD, maxLength=128),
            "experiment": forms.text("An experiment.", _WORD, maxLength=128),
            "model": forms.text("A model.", _WORD, maxLength=128),
            "label": labels,
        },
        minProperties=1,
    )


def _attribution() -> Schema:
    name = forms.text("", r"^\S", maxLength=128)
    owner = forms.mapping(
        "",
        {
            "scope": _scope("Of whose jobs; all that is named must match. Left out: everybody's."),
            "team": name | {"description": "Their team."},
            "cost_center": name | {"description": "Their cost centre."},
        },
        minProperties=1,
    )
    shared = forms.mapping(
        "",
        {
            "kinds": forms.items(
                "What of the nodes' cost no job pays.", {"enum": list(_SHARED_KINDS)}, minItems=1
            ),
            "cost_center": name | {"description": "Or all that this cost centre has, among the others."},
            "by": forms.word(
                "As each cost centre's own cost is, the same for each that has one, or as `shares` says.",
                ("cost", "even", "shares"),
                "cost",
            ),
            "shares": forms.pairs("By cost centre, such as `60%`; together 100%.", r"^\S", minProperties=1),
        },
    )
    return forms.mapping(
        "Whose costs are: teams and cost centres, and who bears what is nobody's own. A site has one table.",
        {
            "owners": forms.items("The first that covers a job counts, for each name by itself.", owner),
            "shared": forms.items("What `report chargeback` divides.", shared),
            "reason": forms.text("Why; needed where `effective_at` has passed.", r"^\S", maxLength=500),
        },
        minProperties=1,
    )


_SHARED_KINDS = (
    "idle", "reserved", "keep-alive", "down", "unknown", "overhead", "variance", "absorption", "refund",
)  # fmt: skip


def _budget() -> Schema:
    threshold = forms.mapping(
        "",
        {
            "at": forms.text("Share of the limit, above 0%.", r"^\s*(?=[\d.]*[1-9])\d+(\.\d+)?\s*%\s*$"),
            "on": forms.word("Of what.", ("settled", "settled+held", "forecast"), "settled"),
            "do": forms.items("What is done then.", {"enum": list(_ACTIONS)}, minItems=1),
        },
        ["at", "do"],
    )
    return forms.mapping(
        "A limit on spending.",
        {
            "scope": _scope("Whose jobs it pays for; all that is named must match."),
            "limit": forms.money("Per period."),
            "period": forms.text(
                "When it renews; rolling-30d: always the last 30 days.",
                r"^\s*(day|week|month|quarter|year|one-time|rolling-[1-9][0-9]{0,2}d)\s*$",
                default="month",
                examples=["month", "rolling-30d"],
            ),
            "timezone": forms.text("In which the period begins.", r"^[A-Za-z]", default="UTC"),
            "enforcement": forms.word(
                "hard: never passed, jobs wait; soft: only what its thresholds do.", ("hard", "soft"), "hard"
            ),
            "hold": forms.word(
                "What a job sets aside when it starts.", ("worst-case", "expected", "lease"), "worst-case"
            ),
            "lease": forms.duration(
                "Of `hold: lease` and `expected`: for how long a job holds money at a time; from 10s to 7d.",
                default="15m",
            ),
            "carry_over": forms.text(
                "Of what a period leaves, what goes on into the next: `20%` of it, or all up to `500 USD`.",
                r"^\s*(\d+(\.\d+)?\s*%|\d{1,15}(\.\d{1,9})?\s*[A-Z]{3})\s*$",
            ),
            "counts_from": forms.text(
                "What was used before this full hour does not count.", r"^\s*\d{4}-\d{2}-\d{2}[Tt ]"
            ),
            "thresholds": forms.items("What happens on the way to the limit.", threshold),
        },
        ["scope", "limit"],
    )


def _idle_policy() -> Schema:
    return forms.mapping(
        "What becomes of jobs that hold what they do not use.",
        {
            "scope": _scope("Whose jobs; all that is named must match. Left out: everybody's."),
            "types": forms.items(
                "Of which types; both unless said.", {"enum": ["job", "interactive"]}, minItems=1
            ),
            "min_gpu_utilization": forms.whole(
                "Percent of multiprocessors at work, below which a GPU is idle.", 1, 100, default=5
            ),
            "min_cpu_utilization": forms.whole(
                "The same of the CPUs of a job without GPUs; unsaid, such jobs are not judged.", 1, 100
            ),
            "time_window": forms.duration("So long it is idle before it is acted on; from 1m to 7d."),
            "warn_after": forms.duration("So long before it is told; half of `time_window`."),
            "action": forms.word(
                "What is done: ended with its grace, told alone, ended and back in the queue (on hold, or"
                " not), or cancelled.",
                IDLE_ACTIONS,
                "stop",
            ),
            "detached": forms.duration(
                "So long nobody uses an interactive job before it is acted on; from 1m to 7d."
            ),
            "snooze": forms.duration("The most that its owner may put it off from now.", default="7d"),
            "snoozes": forms.whole("How often, for one job; unsaid: without a bound. 0: never.", 0, 1_000),
        },
    )


def _quota() -> Schema:
    count = forms.number("So many.", 0, 1_000_000)
    amounts = {
        "gpus": forms.either(
            "GPUs of any type, or by type: `{H100: 16}`.",
            count,
            forms.pairs("", r"^[A-Za-z]", minProperties=1),
        ),
        "cpus": forms.number("CPUs.", 0, 10_000_000),
        "memory": forms.text("Memory, such as 512GB."),
        "spend_rate": forms.money_per("h", "What its running jobs cost per hour.", positive=False),
    }
    return forms.mapping(
        "What the running jobs of a project or a user may hold at a time.",
        {
            "scope": forms.mapping(
                "Whose jobs count; one of them.",
                {
                    "project": forms.text("A project and all below it.", forms.PROJECT),
                    "user": forms.text("A user; `*`: each user by himself.", _WORD, maxLength=128),
                },
                minProperties=1,
                maxProperties=1,
            ),
            "guaranteed": forms.mapping(
                "Theirs whenever they ask for it; others may borrow what of it is idle.",
                amounts,
                minProperties=1,
            ),
            "max": forms.mapping(
                "Never more, with what others leave idle; what is not named has no ceiling.",
                amounts,
                minProperties=1,
            ),
        },
        ["scope"],
    )


def _reservation() -> Schema:
    name = forms.text("", forms.TOKEN)
    return forms.mapping(
        "Nodes that are kept for some, or for nobody, in a window of time.",
        {
            "nodes": forms.either(
                "The names of the nodes, or how many are to be chosen.",
                forms.items("", name, minItems=1),
                forms.whole("", 1, 10_000),
            ),
            "where": forms.pairs("Of which a number is chosen, as `constraints` of a job.", r"^[A-Za-z0-9]"),
            "gpu_type": forms.text("Of nodes with which GPUs a number is chosen."),
            "start": forms.text("Its first instant.", forms.INSTANT),
            "end": forms.text("When it is over; at most 366 days later.", forms.INSTANT),
            "duration": forms.duration("How long it lasts, in place of `end`."),
            "for": forms.mapping(
                "Whose jobs may use the nodes.",
                {
                    "projects": forms.items(
                        "Each with all below it.", forms.text("", forms.PROJECT), minItems=1
                    ),
                    "users": forms.items("By name.", forms.text("", _WORD, maxLength=128), minItems=1),
                },
                minProperties=1,
            ),
            "maintenance": forms.boolean("Nobody's job may use the nodes.", False),
            "running": forms.word(
                "What becomes of what runs there and may go on into the window: the reservation is refused,"
                " it goes on, or it is asked to end so early that its grace ends with the start.",
                ("refuse", "leave", "preempt"),
                "refuse",
            ),
            "reason": forms.text("For people.", maxLength=200),
        },
        ["nodes", "start"],
    )


def _weights(description: str) -> Schema:
    weight = forms.number("Weight.", 0, 1000)
    return forms.mapping(description, {"gpu": weight, "cpu": weight, "memory": weight}, minProperties=1)


def _tariff() -> Schema:
    """One price, or a list of hours and days with prices."""
    price = forms.money_per(
        "kWh", "Price of energy; or a list of hours and days with prices.", positive=False
    )
    entry = forms.mapping(
        "",
        {
            "hours": forms.text("Such as `7-21` or `0-6,22-24`; without it all."),
            "days": forms.text("Such as `mon-fri` or `sat,sun`; without it all."),
            "price": forms.money_per("kWh", "Of these hours.", positive=False),
        },
        ["price"],
    )
    return forms.either(
        "Price of energy: one, or a list by the hour of the week.", price, forms.items("", entry, maxItems=48)
    )


def _cost_model() -> Schema:
    percent = forms.PERCENT
    power = forms.mapping(
        "Energy.",
        {
            "max_watts": forms.whole("Of the whole node.", 1, 1_000_000),
            "load_factor": forms.number("Mean share of `max_watts`.", 0, 1),
            "pue": forms.number("Power usage effectiveness of the building.", 1, 10),
            "tariff": _tariff(),
            "timezone": forms.text("Of a tariff by the hour: whose clocks show it.", maxLength=64),
            "carbon": forms.text(
                "CO2e of a kWh of the grid, such as `381 g/kWh`; without it `x_CarbonGrams` is not known.",
                pattern=r"\d{1,4}(\.\d{1,3})? ?g/kWh",
            ),
        },
        ["max_watts", "tariff"],
    )
    staff = forms.mapping(
        "Who keeps the nodes running.",
        {
            "nodes_per_fte": forms.whole("Nodes one person keeps.", 1, 1_000_000),
            "salary": forms.money_per("y", "Of one person.", positive=False),
        },
        ["nodes_per_fte", "salary"],
    )
    device = forms.mapping(
        "",
        {
            "capex": forms.text("Purchase price of one device.", r"^\s*\d{1,12}(\.\d{1,9})?\s*[A-Z]{3}\s*$"),
            "max_watts": forms.whole("Of one device.", 0, 100_000),
        },
        ["capex"],
    )
    return forms.mapping(
        "What the nodes of an owned pool cost per hour.",
        {
            "pool": forms.text("Of which nodes.", forms.TOKEN),
            "node_capex": forms.money("Purchase price of a node without `gpus`."),
            "useful_life": forms.text("Straight line over it.", forms.DURATION_OR_YEARS, examples=["5y"]),
            "residual": forms.text("What it is worth at its end.", percent, default="0%"),
            "network": forms.text("Network, as a share of the purchase.", percent, default="0%"),
            "power": power,
            "colo": forms.money_per("kW-month", "Rent by power; needs `power`.", positive=False),
            "support": forms.text(
                "Share of the purchase price.", percent.replace("%", "%/y"), examples=["5%/y"]
            ),
            "staff": staff,
            "practical_capacity": forms.text(
                "Hours that can be sold, of all: jobs are charged the cost over these.",
                percent,
                default="80%",
            ),
            "component_weights": _weights("How a node's price splits."),
            "gpus": {
                "type": "object",
                "propertyNames": {"pattern": r"^[A-Za-z][A-Za-z0-9._-]{0,39}$"},
                "additionalProperties": device,
                "description": "By type (or `other`): what each device of a node adds.",
            },
        },
        ["pool", "node_capex", "useful_life"],
        dependencies={"colo": ["power"]},
    )


def _placement() -> Schema:
    scorers = {
        "fragmentation": "Of `pack`: GPUs that become useless to what is usually asked for.",
        "consolidation": "Of `pack`: nodes are filled in one order.",
        "starvation": "Of `pack`: GPUs are left without the CPUs that go with them.",
        "opened_devices": "Of `pack`: fractions go onto devices that others have begun.",
        "scarcity": "Of `pack`: GPUs that others ask for by their type are left to them.",
        "best_fit": "How full a node is then: `pack` likes full ones, `spread` empty ones.",
    }
    return forms.mapping(
        "Where jobs go among nodes that fit.",
        {
            "strategy": forms.word("Fill nodes, or spread over them.", ("pack", "spread")),
            "weights": forms.mapping(
                "By scorer: times what the strategy has of its own, which is 1.",
                {name: forms.number(about, 0, 100) for name, about in scorers.items()},
            ),
            "allocator": {
                "type": "object",
                "description": "Who decides, every round, how jobs run that may be moved or resized.",
                "required": ["name"],
                "properties": {
                    "name": forms.word(
                        "One that ships; packages may bring others.",
                        ("in-order", "relative-speed", "goodput"),
                    ),
                    "round": forms.duration("How often it is asked.", default="6m"),
                    "restart": forms.duration(
                        "What a job that it stops loses, beside unsaved work.", default="5m"
                    ),
                    "attained": forms.number("How much less counts who has had more.", 0, 4),
                    "horizon": forms.number(
                        "Of `relative-speed`: rounds in which a move must pay.", 1, 1_000
                    ),
                    "stay": forms.number("The least share of what a job has that a move must gain.", 0, 1),
                    "power": forms.number(
                        "Of `goodput`: below zero the first GPUs of a job count most, towards 1 those who use"
                        " many well get more.",
                        -4,
                        1,
                    ),
                    "waiting": forms.number(
                        "Of `goodput`: how much more than at its slowest size one that runs is worth than one"
                        " that waits.",
                        0,
                        100,
                    ),
                    "fair": forms.number(
                        "Which part of an equal share each job is sure of, whatever others say.", 0, 0.5
                    ),
                },
            },
        },
        ["strategy"],
    )


def _slurm_names() -> Schema:
    stands_for = forms.mapping(
        "",
        {
            "project": forms.text("Pays; else an account is the project of its name.", forms.PROJECT),
            "constraints": forms.pairs("Of nodes, as in a job file.", _LABEL + "$"),
            "gpu_type": forms.text(
                "Of the GPUs that are asked for without a type.", r"^[A-Za-z][A-Za-z0-9._-]{0,39}$"
            ),
            "priority": forms.either(
                "Where the script says none.",
                {"enum": ["low", "normal", "high"]},
                {"type": "integer", "minimum": 0, "maximum": 100},
            ),
            "time_limit": forms.duration("The longest; a script that names no time gets it."),
            "spot_policy": forms.word("Where the script says none.", SPOT_POLICIES),
        },
    )

    def names(description: str) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": r"^[A-Za-z0-9_*][A-Za-z0-9_.@*-]{0,127}$"},
            "additionalProperties": stands_for,
            "description": description,
        }

    return forms.mapping(
        "What names in `#SBATCH` lines stand for here; `*` in a name is any characters.",
        {
            "partitions": names("Of `--partition`; nodes' own partitions and pools need no line."),
            "qos": names("Of `--qos`; `low`, `normal` and `high` need no line."),
            "accounts": names("Of `--account`; projects of the same name need no line."),
        },
        minProperties=1,
    )


def _priority() -> Schema:
    factors = {
        "age": "How long it has waited.",
        "fair_share": "How far its project is below its share of what was spent.",
        "size": "How small a part of the cluster it takes.",
        "run_time": "How short its time limit is.",
        "budget": "How much is left of the scarcest of its budgets.",
        "qos": "Its priority, which stands above the other factors when it is not weighed.",
    }
    weights = {name: forms.number(about, 0, 1000) for name, about in factors.items()}
    return forms.mapping(
        "In which order waiting jobs are looked at.",
        {
            "weights": forms.mapping("By factor; the sum decides, more comes first.", weights),
            "max_wait": forms.duration("What has waited for so long comes before all else, oldest first."),
            "age_full": forms.duration("After so long `age` counts in full.", default="7d"),
            "age_power": forms.whole(
                "1: evenly; 2: half of `age_full` counts for a quarter.", 1, 4, default=1
            ),
            "share_days": forms.whole("How far `fair_share` looks back.", 1, 365, default=30),
            "shares": {
                "type": "object",
                "propertyNames": {"pattern": forms.PROJECT},
                "additionalProperties": {"type": "number", "minimum": 0.001, "maximum": 1000},
                "description": "By project, with all below it; others have 1 per top-level project.",
            },
            "preempt": forms.mapping(
                "Let the first job that waits for room have others stopped, where that is worth its cost.",
                {
                    "gap": forms.whole("At least so far below its priority theirs must be.", 1, 100),
                    "restart": forms.duration(
                        "What one that is stopped loses beside its unsaved work.", default="5m"
                    ),
                    "per_project": forms.whole(
                        "So many times within an hour for jobs of one top-level project and of all below.",
                        1,
                        1000,
                        default=60,
                    ),
                    "per_user": forms.whole(
                        "The same for jobs of one user, in all projects together. Default: `per_project`.",
                        1,
                        1000,
                    ),
                },
                required=("gap",),
            ),
            "short_jobs": forms.mapping(
                "Room that only short jobs may use; needs a `max_wait`.",
                {
                    "limit": forms.duration("Jobs of at most this time limit are short."),
                    "keep": forms.text(
                        "What part of CPUs, memory and GPUs the others must leave free, at most 90%.",
                        forms.PERCENT,
                        examples=["25%"],
                    ),
                },
                required=("limit", "keep"),
            ),
            "max_priority": forms.mapping(
                "The highest priority that may be asked for; operators may ask for any.",
                {
                    "submitter": forms.whole("By submitters.", 0, 100, default=50),
                    "project_admin": forms.whole(
                        "By project-admins in their projects, at least what submitters may; as a rule 75.",
                        0,
                        100,
                    ),
                    "projects": {
                        "type": "object",
                        "propertyNames": {"pattern": forms.PROJECT},
                        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 100},
                        "description": "By submitters of this project and all below it, instead.",
                    },
                },
            ),
            "promises": forms.mapping(
                "What bounds the promises of deadlines.",
                {
                    "horizon": forms.duration(
                        "A place that is promised begins at most so far ahead; at most 30d.", default="30d"
                    ),
                    "share": forms.text(
                        "What part of CPUs, memory and GPUs may be promised at a time.",
                        forms.PERCENT,
                        examples=["50%"],
                    ),
                    "per_user": forms.whole(
                        "So many promises of one user are open at a time; 0: none.", 0, 1000, default=200
                    ),
                    "user_share": forms.text(
                        "What part of what may be promised at a time one user's promises have while jobs of"
                        " others wait.",
                        forms.PERCENT,
                        examples=["50%"],
                    ),
                },
            ),
        },
    )


def _price_book() -> Schema:
    place = {
        "provider": forms.text("Of the machine.", forms.TOKEN),
        "region": forms.text("Of the machine; or a zone that has a price of its own.", forms.TOKEN),
        "market": forms.word("How it is sold.", MARKETS),
        "valid_from": forms.text("From when the price holds.", forms.INSTANT),
        "valid_until": forms.text("Until when.", forms.INSTANT),
        "source": forms.text("Where it was read.", maxLength=200),
    }
    row = forms.mapping(
        "",
        {
            **place,
            "instance_type": forms.text("Machine type.", forms.TOKEN),
            "price": forms.money_per("h", "Of the whole machine."),
            "cpus": forms.number("Of the machine.", 0, 100_000),
            "memory": forms.text("Of the machine.", forms.SIZE),
            "gpus": forms.text(
                "Type and count, such as H100:8.", r"^[A-Za-z][A-Za-z0-9._-]{0,39}:[1-9]\d{0,3}$"
            ),
            "gpu_memory": forms.text("Of each device.", forms.SIZE),
        },
        ["instance_type", "price"],
    )
    return forms.mapping(
        "What machines of a cloud cost.",
        {
            "source": forms.text("Where and when the prices were read.", maxLength=200),
            "currency": forms.text("Of every price.", r"^[A-Z]{3}$"),
            "defaults": forms.mapping("What rows need not repeat.", place),
            "component_weights": _weights("How a machine's price splits."),
            "prices": forms.items("The prices.", row, minItems=1),
        },
        ["source", "currency", "prices"],
    )


def _alert_channel() -> Schema:
    def file(description: str) -> Schema:
        return forms.text(description, forms.TOKEN)

    address = {"type": "string", "pattern": r"^[^\s@,;:<>()]{1,64}@[A-Za-z0-9.-]{1,190}$"}
    user = forms.text("Of `password_file`.", maxLength=128)
    password = file("File with its password.")
    webhook = forms.mapping(
        "POST of JSON.",
        {
            "url": forms.text("https, or http to this machine.", r"^https?://[^\s@]+$", maxLength=2_000),
            "url_file": file("File with the address, where that is secret."),
            "token_file": file("File with a bearer token."),
        },
    )
    smtp = forms.mapping(
        "A mail.",
        {
            "host": forms.text("The mail server.", r"^[A-Za-z0-9][A-Za-z0-9.:-]*$"),
            "port": forms.whole("587; 465 for `tls`.", 1, 65_535),
            "tls": forms.word(
                "`none` for a server on this machine alone.", ("starttls", "tls", "none"), "starttls"
            ),
            "from": {**address, "description": "Of the daemon."},
            "to": forms.items("Who gets it.", address, minItems=1, maxItems=50),
            "user": user,
            "password_file": password,
        },
        ["host", "from", "to"],
    )
    mqtt = forms.mapping(
        "JSON to a broker, QoS 1.",
        {
            "url": forms.text("mqtts, or mqtt to this machine.", r"^mqtts?://[^\s@/]+$", maxLength=500),
            "topic": forms.text("Without # and +.", r"^[^#+$][^#+]*$", maxLength=256),
            "user": user,
            "password_file": password,
        },
        ["url", "topic"],
    )
    names = {"type": "string", "pattern": r"^[A-Za-z0-9*][A-Za-z0-9._*-]{0,62}$"}
    projects = {"type": "string", "pattern": r"^[a-z0-9*][a-z0-9._*/-]{0,199}$"}
    return forms.mapping(
        "Whom thresholds with `notify` tell, by one of three ways.",
        {
            "webhook": webhook,
            "smtp": smtp,
            "mqtt": mqtt,
            "budgets": forms.items("Of which budgets; `*` is any characters.", names, maxItems=200),
            "anomalies": forms.items(
                "Of which projects it hears what costs more than its like; `*` is any characters.",
                projects,
                maxItems=200,
            ),
        },
    )
