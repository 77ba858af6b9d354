"""What a provider says is taken at a door: nonsense is no answer, and no word of it stops the books."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rented_site import Site

from bursard.machines.provider import TEXT_MAX, CloudError, Kind

BAD = "none \ud800 left\x00\x1b[2J\u202e"
Lie = Callable[[Any], Any]


def _raises(_: Any) -> Any:
    raise RuntimeError("boom")


def _one(**fields: Any) -> Lie:
    return lambda listed: [replace(one, **fields) for one in listed]


def _exits(_: Any) -> Any:
    raise SystemExit(3)


LISTS: dict[str, Lie] = {
    "nothing": lambda _: None,
    "a text": lambda _: "abc",
    "a number": lambda _: 7,
    "no machines": lambda _: [None],
    "a stream that breaks": lambda listed: (1 // 0 for _ in listed),
    "no answer at all": _raises,
    "the end of the process": _exits,
    "a name that is none": _one(provider_id=None),
    "a name with half a character": _one(provider_id="i-\ud800"),
    "a name as long as a book": _one(provider_id="i" * 1_000_000),
    "a tag that is none": _one(machine_id=None),
    "no state": _one(state="odd"),
    "paid for since a text": _one(billed_from="x"),
    "paid for since a fraction": _one(billed_from=1e300),
    "paid for since never": _one(billed_from=None),
    "no place": _one(place=None),
}


@pytest.mark.parametrize("said", LISTS)
def test_a_list_that_is_none_counts_as_one_that_never_came_and_is_asked_for_again(
    tmp_path: Path, said: str
) -> None:
    site = Site(tmp_path)
    site.large()
    site.pass_time(5)
    real = site.provider.list_owned
    site.provider.list_owned = lambda cluster, regions=(): LISTS[said](real(cluster, regions))
    site.pass_time(30)
    site.provider.list_owned = real
    site.pass_time(120)
    assert [machine.state.value for machine in site.machines] == ["up"]


@pytest.mark.parametrize("name", [None, 5, "", "i-\ud800", "a b", "i-\x1b[2J", "i" * 1_000_000])
def test_a_name_that_no_machine_can_have_leaves_it_to_the_list_what_was_made(
    tmp_path: Path, name: object
) -> None:
    site = Site(tmp_path)
    real = site.provider.create
    site.provider.create = lambda order: (real(order), name)[1]
    site.large()
    site.pass_time(120)
    assert [machine.state.value for machine in site.machines] == ["up"]


def test_words_of_a_refusal_are_kept_without_what_no_file_takes(tmp_path: Path) -> None:
    site = Site(tmp_path)

    def refuses(_: object) -> str:
        raise CloudError(Kind.CAPACITY, "No\ud800ne", BAD + "x" * 10_000)

    site.provider.create = refuses
    site.large()
    site.pass_time(5)
    gone = site.gone()
    assert gone, "the refusal ends the launch"
    assert gone[0].reason.startswith("No ne: none   left")
    assert gone[0].reason.isprintable()
    assert len(gone[0].reason) <= 2 * TEXT_MAX + 2
