"""Node secrets and removal as calls: what is listed, what is refused, and by which field."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.v1 import nodes_pb2 as pb

HOUR_US = 3_600_000_000


async def ask(site: Site, method: str, request: Any) -> tuple[tuple[str, str], Any]:
    verdict, answers = await site.ask(f"Nodes.{method}", request, token=site.token("root", "admin"))
    return verdict, answers[0] if answers else None


def test_secrets_are_listed_without_the_secret_and_revoked_one_by_one_or_all() -> None:
    async def story(site: Site) -> None:
        for node in ("n2", "n2", "n3"):
            await ask(site, "Token", pb.TokenRequest(node=node, ttl_us=HOUR_US))
        _, listed = await ask(site, "Tokens", pb.TokensRequest())
        assert [(one.node, one.state) for one in listed.tokens] == [("n2", "unused")] * 2 + [("n3", "unused")]
        assert listed.tokens[0].expires_at == site.engine.now() + HOUR_US
        first = listed.tokens[0].id
        _, revoked = await ask(site, "RevokeTokens", pb.RevokeTokensRequest(node="n2", id=first))
        assert [one.id for one in revoked.revoked] == [first]
        _, listed = await ask(site, "Tokens", pb.TokensRequest(node="n2"))
        assert len(listed.tokens) == 1
        await ask(site, "RevokeTokens", pb.RevokeTokensRequest(node="n2"))
        _, listed = await ask(site, "Tokens", pb.TokensRequest())
        assert [one.node for one in listed.tokens] == ["n3"]
        (status, details), _ = await ask(site, "RevokeTokens", pb.RevokeTokensRequest(node="n2"))
        assert status == "NOT_FOUND"
        assert "n2" in details

    play(story)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.TokenRequest(node="", ttl_us=HOUR_US), "node"),
        (pb.TokenRequest(node="a b", ttl_us=HOUR_US), "node"),
        (pb.TokenRequest(node="n" * 64, ttl_us=HOUR_US), "node"),
        (pb.TokenRequest(node="n2", ttl_us=0), "ttl"),
        (pb.TokenRequest(node="n2", ttl_us=7 * 24 * HOUR_US + 1), "ttl"),
        (pb.TokenRequest(node="n2", ttl_us=HOUR_US, valid_us=HOUR_US - 1), "expires"),
        (pb.TokenRequest(node="n2", ttl_us=HOUR_US, valid_us=3660 * 24 * HOUR_US + 1), "expires"),
    ],
)
def test_a_secret_that_cannot_be_is_refused_by_its_field(request_: pb.TokenRequest, field: str) -> None:
    async def story(site: Site) -> None:
        (status, details), _ = await ask(site, "Token", request_)
        assert (status, details.partition(":")[0]) == ("INVALID_ARGUMENT", field)

    play(story)


def test_a_node_in_contact_is_not_removed_and_one_that_is_not_there_is_not_found() -> None:
    async def story(site: Site) -> None:
        (status, details), _ = await ask(site, "Remove", pb.NodeRequest(node="n1"))
        assert status == "FAILED_PRECONDITION"
        assert "its agent is in contact" in details
        (status, _), _ = await ask(site, "Remove", pb.NodeRequest(node="n9"))
        assert status == "NOT_FOUND"

    play(story)
