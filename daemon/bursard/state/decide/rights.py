"""Decisions about grants and secrets: bounds, what would change nothing, what is not there."""

from __future__ import annotations

from typing import Final

from bursar import users
from bursar.errors import InvalidRequest, NotFound, RateLimited
from bursar.model import JobSpec
from bursar.model.check import quote, secret_name_problem
from bursar.projects import problem_of
from bursard.events import Event, RoleGranted, RoleRevoked, SecretRemoved, SecretSet
from bursard.state.rights import Grant, Role, SealedSecret
from bursard.state.tables import Tables

GRANTS_OF_ONE_MAX: Final = 100
GRANTS_MAX: Final = 100_000
SECRETS_MAX: Final = 10_000


def read_grant(role: str, project: str) -> Grant:
    """A grant as asked for. Raises `InvalidRequest` naming the field."""
    roles = [one.value for one in Role if one is not Role.AGENT]
    if role not in roles:
        more = "; a node gets its right with `bursar node token`" if role == Role.AGENT else ""
        raise InvalidRequest(f"role: {quote(role)} is not one of {', '.join(roles)}{more}", {"field": "role"})
    return Grant(Role(role), read_project(project))


def read_project(project: str) -> str:
    """A project in lower case, or the whole site. Raises `InvalidRequest`."""
    problem = problem_of(project) if project else ""
    if problem:
        raise InvalidRequest(
            f"project: {quote(project)} is not a project path: {problem}; write nlp/finetune",
            {"field": "project"},
        )
    return project.lower()


def grant(state: Tables, user: str, given: Grant) -> list[Event]:
    """A user holds a role; nothing when it does already."""
    if wrong := users.problem_of(user):
        raise InvalidRequest(f"user: {quote(user)} {wrong}", {"field": "user"})
    held = state.grants.of(user)
    if given in held:
        return []
    if len(held) >= GRANTS_OF_ONE_MAX or len(state.grants) >= GRANTS_MAX:
        raise RateLimited(
            f"{user} holds {len(held)} grants, there are {len(state.grants)}; at most {GRANTS_OF_ONE_MAX} of"
            f" one user and {GRANTS_MAX} in all: grant a project higher up instead"
        )
    return [RoleGranted(user, given.role.value, given.project)]


def revoke(state: Tables, user: str, given: Grant) -> list[Event]:
    """A user holds it no more. Raises `NotFound` when it was not granted."""
    if given not in state.grants.of(user):
        of = f" of {given.project}" if given.project else ""
        raise NotFound(
            f"{quote(user)} was not granted {given.role.value}{of}; `bursar grant ls` lists grants. A role of"
            " the tokens file or of local_role is taken away there"
        )
    return [RoleRevoked(user, given.role.value, given.project)]


def set_secret(state: Tables, project: str, name: str, sealed: str) -> list[Event]:
    """A secret has a new value."""
    problem = secret_name_problem(name)
    if problem:
        raise InvalidRequest(f"name: {problem}", {"field": "name"})
    if (project, name) not in state.secrets and len(state.secrets) >= SECRETS_MAX:
        raise RateLimited(f"there are {SECRETS_MAX} secrets, the most kept; `bursar secret rm` removes one")
    return [SecretSet(project, name, sealed)]


def remove_secret(state: Tables, project: str, name: str) -> list[Event]:
    """No job is given it any more. Raises `NotFound`."""
    if (project, name) not in state.secrets:
        of = f"project {project}" if project else "the site"
        raise NotFound(f"{of} has no secret {quote(name)}; `bursar secret ls` lists them")
    return [SecretRemoved(project, name)]


def secrets_of(state: Tables, spec: JobSpec) -> list[SealedSecret]:
    """What a job's secrets are: each of the nearest project that has it, else of the site.

    Raises:
        InvalidRequest: no project on the way up has one of that name.
    """
    found = []
    for name in spec.secrets:
        project = spec.project
        while (project, name) not in state.secrets and project:
            project = project.rpartition("/")[0]
        secret = state.secrets.get((project, name))
        if secret is None:
            raise InvalidRequest(
                f"secrets: project {spec.project} has no secret {name}; `bursar secret set {name} --project"
                f" {spec.project}` makes it, `bursar secret ls` lists what there is",
                {"field": "secrets", "secret": name},
            )
        found.append(secret)
    return found
