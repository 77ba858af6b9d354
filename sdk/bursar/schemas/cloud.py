"""The forms of `kind: CloudPool` and `kind: Commitment`, for editors and the page of policies."""

from __future__ import annotations

from bursar.model import MARKETS
from bursar.schemas import forms
from bursar.schemas.forms import Schema


def cloud_pool() -> Schema:
    """Machines that may be rented."""
    name = forms.text("", forms.TOKEN)
    pattern = forms.text("", r"^[A-Za-z0-9*?\[]")
    offers = forms.mapping(
        "Which machines; what is left out is not asked for.",
        {
            "gpus": forms.items("Types of GPU.", name, minItems=1),
            "instance_types": forms.items("Patterns, such as `g6.*`.", pattern, minItems=1),
            "markets": forms.items("Markets.", {"enum": list(MARKETS[:2])}, minItems=1),
        },
    )
    limits = forms.mapping(
        "What bounds the spending; needed, since a pool spends by itself.",
        {
            "machines": forms.whole(
                "At once, those that come and go among them; 0: none are rented.", 0, 1000
            ),
            "spend_rate": forms.money_per("h", "Of all of them together."),
            "per_job_machines": forms.whole(
                "At once for one job: a gang that lacks more is given none. Default: as many as `machines`.",
                1,
                1000,
            ),
            "per_user_machines": forms.whole(
                "At once for all jobs of one user. Default: as many as `machines`.", 1, 1000
            ),
            "per_project_machines": forms.whole(
                "At once for jobs of one top-level project and of all below it. Default: as many as"
                " `machines`.",
                1,
                1000,
            ),
        },
        ["machines"],
    )
    launch = forms.mapping(
        "How machines are made; not of `local`. One text for a key, or one for each region or zone that needs"
        " its own: `{us-east-1: ..., us-east-2: ...}`.",
        {
            "server": _launched(
                "Where its agent finds bursard: `grpcs://bursar.example:7443`. Needed by each cloud."
            ),
            "ca_file": _launched(
                "Certificate authority of that server: a path on the machine. Default: its own."
            ),
            "bootstrap": _launched(
                "A shell script of root's, run before the agent is started: it installs that."
            ),
            "image": _launched(
                "Needed. aws: `ami-...`, or `resolve:ssm:/...`, a public parameter, the same in each region."
                " gcp: `projects/P/global/images/family/NAME`. azure: an id, or"
                " `PUBLISHER:OFFER:SKU:VERSION`."
            ),
            "subnet": _launched(
                "aws: `subnet-...`, of each zone. Default: the zone's default subnet. gcp: its name, of each"
                " region. Default: that of the network `default`. azure: its id, of each region; needed."
            ),
            "security_group": _launched("aws: `sg-...`, azure: an id. Default: that of the network."),
            "resource_group": _launched("azure: where machines and their parts are made. Needed."),
            "ssh_key": _launched("azure: a public key; it makes no machine without one. Needed."),
            "identity": _launched("azure: the id of what the machine itself is there. Default: nobody."),
            "instance_profile": _launched("aws: what the machine itself may do there. Default: nothing."),
            "key_name": _launched("aws: a key pair to log in with. Default: none."),
            "service_account": _launched("gcp: what the machine itself may do there. Default: nothing."),
            "network_tags": _launched("gcp: tags by which rules of a firewall know it, with commas."),
            "external_ip": _launched("gcp, azure: `ephemeral`, an address of its own (default), or `none`."),
            "disk_type": _launched("Of the root disk. Default: gcp `pd-balanced`, azure `StandardSSD_LRS`."),
            "disk": _launched("Size of the root disk, such as `200GiB`. Default: the image's."),
        },
    )
    return forms.mapping(
        "Machines that are rented for jobs that no node has room for, and given back when they are idle.",
        {
            "provider": forms.word("Whose machines.", ("local", "aws", "azure", "gcp")),
            "regions": forms.items("Regions; needed but of `local`, whose are all.", name, minItems=1),
            "zones": forms.items("Zones; all when left out.", name, minItems=1),
            "offers": offers,
            "limits": limits,
            "launch": launch,
            "keep_alive": forms.duration("Idle for so long, a machine is given back.", default="5m"),
            "max_lifetime": forms.duration(
                "From 10m to 30d: then it takes no new work, what runs is stopped with its grace and queued"
                " again, and it is given back.",
                default="3d",
            ),
            "boot_timeout": forms.duration(
                "One whose agent has not said hello so long after it was asked for is given back.",
                default="15m",
            ),
        },
        ["provider", "limits"],
    )


def _launched(description: str) -> Schema:
    """A key of `launch`."""
    text = forms.text("")
    return forms.either(description, text, forms.pairs("", forms.TOKEN))


def commitment() -> Schema:
    """What is paid for whether it is used or not."""
    token = forms.text("", forms.TOKEN)
    rate = forms.mapping(
        "The plan's own rate of a machine type.",
        {
            "instance_type": forms.text("Of the provider.", forms.TOKEN),
            "rate": forms.money_per("h", "Of one machine, in place of the list price."),
        },
        ["instance_type", "rate"],
    )
    return forms.mapping(
        "What was promised to a provider for each hour of a term: `report commitments` and the rows of"
        " `report focus` tell what was used of it and what was not. It covers machines on demand, never spot,"
        " in the order of each provider; what jobs pay does not change by it. What the provider is paid is"
        " in `report focus` as `Purchase`, without a billed cost, since another one sends that invoice. Each"
        " hour is told by the document that was in force in it: a changed or removed one changes no hour of"
        " before. The first of a name counts from its `start`, but in no month that was published when it was"
        " applied: that was closed, or ended more than a day before. Upfront is a `Purchase` once, in the"
        " hour of `start`, as the document of that hour has it. Where a later document has another `upfront`,"
        " or another term, where one is removed before its `end`, and where the first counts from a later"
        " hour than `start`, that is not what `Used` and `Unused` add up to over the term.",
        {
            "provider": forms.word("To whom.", ("aws", "azure", "gcp")),
            "type": forms.word(
                "`reservation` and `savings-plan` of aws and azure, `committed-use` of gcp: of machines where"
                " it has no `rates`.",
                ("reservation", "savings-plan", "committed-use"),
            ),
            "region": token | {"description": "Of machines; and of a plan of one family."},
            "family": token | {"description": "Of a plan that covers `c5.*` in one region alone: `c5`."},
            "instance_type": token | {"description": "Of machines: which."},
            "quantity": forms.whole("Of machines: how many.", 1, 100_000),
            "hourly": forms.money_per("h", "Paid for each hour, for all of it; of a plan what is promised."),
            "upfront": forms.money("Of machines: paid once, and spread over the hours of the term."),
            "start": forms.text("From when on, a full hour.", forms.INSTANT),
            "end": forms.text("Until when, a full hour; at most ten years later.", forms.INSTANT),
            "rates": forms.items("Of a plan: what it covers, and at which rates.", rate, minItems=1),
        },
        ["provider", "type", "start", "end"],
    )
