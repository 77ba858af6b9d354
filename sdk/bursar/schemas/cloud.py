"""The form of `kind: CloudPool`, for editors and the page of policies."""

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
        },
        ["machines"],
    )
    return forms.mapping(
        "Machines that are rented for jobs that no node has room for, and given back when they are idle.",
        {
            "provider": forms.word("Whose machines.", ("local",)),
            "regions": forms.items("Regions; all when left out.", name, minItems=1),
            "zones": forms.items("Zones; all when left out.", name, minItems=1),
            "offers": offers,
            "limits": limits,
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
