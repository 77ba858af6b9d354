"""One damaged document costs one job its details, and nobody else's list."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from bursar.errors import WrongState
from bursar.v1 import jobs_pb2 as pb
from bursard.services.views import DAMAGED

BYTE = "update jobs set document = cast(substr(document, 1, 30) || x'ff' || substr(document, 32) as blob)"
OTHER = "update jobs set document = (select document from jobs where number = 1)"


@pytest.mark.parametrize("damage", [BYTE, OTHER])
def test_a_damaged_document_is_listed_by_its_columns_and_named_when_shown(
    at_a_desk: Callable[..., None], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(desk: Any) -> None:
        for name in ("one", "two"):
            await desk.submit(name=name, project="nlp", labels=(("team", "a"),))
        desk.plan()
        desk.start_all()
        desk.end_all()
        await desk.engine.durable()
        with desk.store._reading():
            desk.store._connection.execute(f"{damage} where number = 2")
        with caplog.at_level(logging.ERROR):
            listed = (await desk.service.List(pb.ListJobsRequest(states=["all"]), None)).jobs
        assert [(job.number, job.state, job.spec.name, job.spec.project) for job in listed] == [
            (2, "SUCCEEDED", "two", "nlp"), (1, "SUCCEEDED", "one", "nlp"),
        ]  # fmt: skip
        assert [job.reason.message for job in listed] == [DAMAGED, ""]
        assert dict(listed[0].spec.labels) == {"team": "a"}
        assert listed[0].finished_at == listed[1].finished_at > 0
        assert "the document of an ended job is damaged" in caplog.text
        for ref in ("2", "two", listed[0].id):
            with pytest.raises(WrongState, match=rf"row {listed[0].id}.*bursar audit verify"):
                await desk.service.Get(pb.GetJobRequest(job=ref), None)
        whole = await desk.service.Get(pb.GetJobRequest(job="1"), None)
        assert whole.spec.name == "one"

    at_a_desk(play)
