"""No answer is larger than a client takes, whatever legal things a site holds; what would be is refused."""

from __future__ import annotations

import pytest
from whole_site import Site, play

from bursar.client.link import RECEIVE_BYTES_MAX
from bursar.errors import AnswerTooLarge, by_reason
from bursar.v1 import jobs_pb2
from bursard.services import interceptors


def test_a_client_takes_whatever_a_server_sends() -> None:
    assert RECEIVE_BYTES_MAX == interceptors.ANSWER_BYTES_MAX == 16 << 20
    assert by_reason("AnswerTooLarge") is AnswerTooLarge


@pytest.mark.parametrize("method", ["Jobs.Get", "Jobs.Watch"])
def test_an_answer_over_the_limit_is_refused_with_what_to_do(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter", "nlp")
        job = site.job("ann", "nlp", command=("x" * 200,), comment="y" * 200)
        asked = {
            "Jobs.Get": jobs_pb2.GetJobRequest(job=job),
            "Jobs.Watch": jobs_pb2.WatchJobsRequest(jobs=[job]),
        }[method]
        (_, answers) = await site.ask(method, asked, token=token, answers_max=1)
        size = answers[0].ByteSize()
        monkeypatch.setattr(interceptors, "ANSWER_BYTES_MAX", size)
        assert (await site.call(method, asked, token=token))[0] == "OK"
        monkeypatch.setattr(interceptors, "ANSWER_BYTES_MAX", size - 1)
        status, message = await site.call(method, asked, token=token)
        assert status == "RESOURCE_EXHAUSTED"
        assert message.startswith(f"the answer has {size} bytes, more than the {size - 1} of one message")
        assert "narrow it" in message

    play(story)
    assert [record for record in caplog.records if record.exc_info] == []
