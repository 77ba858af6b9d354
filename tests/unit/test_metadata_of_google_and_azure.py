"""An agent hears at Google's and Azure's metadata services that its machine is taken back, and how soon."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from metadata_service import MetadataService

from bursar.clock import SECOND_US, VirtualClock
from bursar_agent import stimuli as s
from bursar_agent.metadata import AWAY_S, LOOK_EVERY_S, Http, open_watch
from bursar_agent.metadata_azure import AzureSource
from bursar_agent.metadata_gcp import GcpSource
from bursar_agent.settings import load

BOOT_US = 1_000 * SECOND_US
"""Of a virtual clock that begins, at 2026-01-01T00:00:00Z."""
PREEMPTED = "/computeMetadata/v1/instance/preempted"
MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"


@pytest.fixture
def google() -> Iterator[MetadataService]:
    made = MetadataService("Metadata-Flavor", "Google")
    made.says = {PREEMPTED: "FALSE", MAINTENANCE: "NONE"}
    yield made
    made.close()


@pytest.fixture
def azure() -> Iterator[MetadataService]:
    made = MetadataService("Metadata", "true")
    made.says = {EVENTS: events(), NAME: "bursar-1"}
    yield made
    made.close()


def events(*rows: object) -> str:
    return json.dumps({"DocumentIncarnation": 1, "Events": rows})


def event(kind: str, **more: object) -> dict[str, object]:
    return {
        "EventId": "E1",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": ["BURSAR-1"],
        "EventStatus": "Scheduled",
        "NotBefore": "Thu, 01 Jan 2026 00:00:30 GMT",
        **more,
    }


def test_google_says_nothing_until_it_takes_the_machine_back_and_then_half_a_minute_is_left(
    google: MetadataService,
) -> None:
    clock = VirtualClock()
    source = GcpSource(Http(google.url), clock)
    assert source.look() is None
    google.says[PREEMPTED] = "TRUE"
    first = source.look()
    assert first == s.Noticed("Google takes this spot machine back", BOOT_US + 30 * SECOND_US, False)
    clock.advance(5 * SECOND_US)
    assert source.look() == first


def test_maintenance_that_ends_a_machine_is_advice_and_one_that_moves_it_is_nothing(
    google: MetadataService,
) -> None:
    source = GcpSource(Http(google.url), VirtualClock())
    google.says[MAINTENANCE] = "MIGRATE_ON_HOST_MAINTENANCE"
    assert source.look() is None
    google.says[MAINTENANCE] = "TERMINATE_ON_HOST_MAINTENANCE"
    found = source.look()
    assert found is not None
    assert found.advice
    google.says[PREEMPTED] = "TRUE"
    found = source.look()
    assert found is not None
    assert not found.advice


@pytest.mark.parametrize("text", ["", "true", "<html>log in</html>", None])
def test_a_word_that_is_neither_true_nor_false_takes_no_machine_of_google_back(
    google: MetadataService, text: str | None
) -> None:
    google.says = {} if text is None else {PREEMPTED: text}
    assert open_watch("gcp", google.url, VirtualClock()).look() == (None, AWAY_S)


def test_azure_says_when_it_takes_the_machine_back(azure: MetadataService) -> None:
    clock = VirtualClock()
    source = AzureSource(Http(azure.url), clock)
    assert source.look() is None
    azure.says[EVENTS] = events(event("Freeze"), event("Preempt", EventId="E2"))
    first = source.look()
    said = "Azure takes this spot machine back (Preempt)"
    assert first == s.Noticed(said, BOOT_US + 30 * SECOND_US, False)
    clock.advance(700_000)
    clock.step_wall(-5 * SECOND_US)
    assert source.look() == first
    assert azure.asked.count(NAME) == 1


def test_what_has_begun_or_names_no_instant_is_at_once(azure: MetadataService) -> None:
    source = AzureSource(Http(azure.url), VirtualClock())
    for number, before in enumerate(("", "soon", None, 7)):
        azure.says[EVENTS] = events(event("Preempt", EventId=number, NotBefore=before))
        found = source.look()
        assert found is not None
        assert (found.until_boot_us, found.advice) == (BOOT_US, False)


@pytest.mark.parametrize("kind", ["Reboot", "Redeploy", "Terminate"])
def test_another_event_of_azure_is_advice_and_a_preemption_goes_before_it(
    azure: MetadataService, kind: str
) -> None:
    source = AzureSource(Http(azure.url), VirtualClock())
    azure.says[EVENTS] = events(event(kind))
    found = source.look()
    assert found is not None
    assert found.advice
    azure.says[EVENTS] = events(event(kind), event("Preempt", EventId="E2"))
    found = source.look()
    assert found is not None
    assert not found.advice


def test_an_event_of_another_machine_is_none_of_this_one_and_one_of_nobody_is(azure: MetadataService) -> None:
    source = AzureSource(Http(azure.url), VirtualClock())
    azure.says[EVENTS] = events(event("Preempt", Resources=["bursar-2"]))
    assert source.look() is None
    azure.says[EVENTS] = events(event("Preempt", Resources=[]))
    assert source.look() is not None


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"Events": 7}', "{" * 5_000])
def test_an_answer_of_azure_that_is_no_list_of_events_takes_nothing_back(
    azure: MetadataService, text: str
) -> None:
    watch = open_watch("azure", azure.url, VirtualClock())
    azure.says[EVENTS] = text
    assert watch.look() == (None, AWAY_S)
    azure.says[EVENTS] = events("no event", 7)
    assert watch.look() == (None, LOOK_EVERY_S)


@pytest.mark.parametrize("provider", ["gcp", "azure"])
def test_an_agent_can_be_told_to_ask_either(provider: str) -> None:
    assert load(["--notices", provider], {}).settings.notices == provider
