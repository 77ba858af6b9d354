"""The Access service: grants and secrets."""

from __future__ import annotations

import asyncio
from typing import Any

from bursar.errors import InvalidRequest
from bursar.projects import is_within
from bursar.v1 import access_pb2 as pb
from bursar.v1 import access_pb2_grpc
from bursard.access.authorize import Action, allowed, authorize
from bursard.access.identity import caller
from bursard.access.vault import Vault
from bursard.engine import Engine
from bursard.services.pushback import after_room
from bursard.state import rights
from bursard.state.decide import rights as decide
from bursard.state.rights import Role

_OF_PROJECTS = frozenset({Role.VIEWER, Role.SUBMITTER, Role.PROJECT_ADMIN})
"""What a project-admin may give: no more than it is."""


class AccessService(access_pb2_grpc.AccessServicer):
    """Who may do what, and the secrets jobs are given. No answer holds a value."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self.engine = engine
        self.vault = vault

    @after_room
    async def Grant(self, request: pb.GrantRequest, context: Any) -> pb.RoleGrant:
        """Give a role."""
        given = decide.read_grant(request.role, request.project)
        actor = self._may_give(given)
        events = decide.grant(self.engine.state, request.user, given)
        await self.engine.durable(self.engine.commit(events, actor))
        return _grant(request.user, given, "created" if events else "unchanged")

    @after_room
    async def Revoke(self, request: pb.GrantRequest, context: Any) -> pb.RoleGrant:
        """Take a role away."""
        given = decide.read_grant(request.role, request.project)
        actor = self._may_give(given)
        events = decide.revoke(self.engine.state, request.user, given)
        await self.engine.durable(self.engine.commit(events, actor))
        return _grant(request.user, given, "removed")

    def _may_give(self, given: rights.Grant) -> str:
        action = Action.GRANT if given.role in _OF_PROJECTS else Action.GRANT_SITE
        return authorize(action, given.project if action is Action.GRANT else "").name

    async def Grants(self, request: pb.GrantsRequest, context: Any) -> pb.GrantsResponse:
        """Grants of the projects whose grants the caller may see."""
        root, identity = decide.read_project(request.project), caller()
        await self.engine.durable()
        return pb.GrantsResponse(
            grants=[
                _grant(user, grant)
                for user, grant in self.engine.state.grants
                if request.user in ("", user)
                and is_within(grant.project, root)
                and allowed(identity, Action.SEE_GRANTS, grant.project)
            ]
        )

    @after_room
    async def SetSecret(self, request: pb.SetSecretRequest, context: Any) -> pb.Secret:
        """Seal a value. It leaves this function sealed, or not at all."""
        project = decide.read_project(request.project)
        actor = authorize(Action.SET_SECRETS, project).name
        try:
            value = request.value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("value: is not UTF-8 text; encode it, as with base64") from None
        state = self.engine.state
        sealed = await asyncio.to_thread(self.vault.seal, project, request.name, value)
        existed = (project, request.name) in state.secrets
        events = decide.set_secret(state, project, request.name, sealed)
        await self.engine.durable(self.engine.commit(events, actor))
        return self._secret(project, request.name, "changed" if existed else "created")

    @after_room
    async def RemoveSecret(self, request: pb.SecretRequest, context: Any) -> pb.Secret:
        """Forget a secret."""
        project = decide.read_project(request.project)
        actor = authorize(Action.SET_SECRETS, project).name
        events = decide.remove_secret(self.engine.state, project, request.name)
        answer = self._secret(project, request.name, "removed")
        await self.engine.durable(self.engine.commit(events, actor))
        return answer

    async def Secrets(self, request: pb.SecretsRequest, context: Any) -> pb.SecretsResponse:
        """Names of the secrets of projects the caller may submit to: what a job file can name."""
        root, identity = decide.read_project(request.project), caller()
        await self.engine.durable()
        keys = sorted(self.engine.state.secrets)
        return pb.SecretsResponse(
            secrets=[
                self._secret(project, name)
                for project, name in keys
                if is_within(project, root) and allowed(identity, Action.SUBMIT, project)
            ]
        )

    def _secret(self, project: str, name: str, change: str = "") -> pb.Secret:
        set_at = self.engine.state.secrets[project, name].set_at
        return pb.Secret(name=name, project=project, set_at=set_at, change=change)


def _grant(user: str, grant: rights.Grant, change: str = "") -> pb.RoleGrant:
    return pb.RoleGrant(user=user, role=grant.role.value, project=grant.project, change=change)
