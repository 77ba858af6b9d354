"""Grants hold from the next call on and survive a restart; secrets reach the job and nobody else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from whole_site import Site, play

from bursar.codec.launch import launch_from_bytes
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.model import JobState
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, types_pb2
from bursard.access.vault import TOTAL_MAX, VALUE_BYTES_MAX, Vault, open_vault
from bursard.doctor import Finding, check_secrets
from bursard.events import decode
from bursard.fleet.words import Assign
from bursard.keyfiles import private_file
from bursard.state import State, image
from bursard.state.rights import Grant, Role, SealedSecret
from bursard.state.tables import Applied

CANARY = "canary-9c2f"


def submit(project: str, *secrets: str) -> jobs_pb2.SubmitRequest:
    spec = types_pb2.JobSpec(project=project, command=["true"], secrets=secrets, time_limit_us=1_000_000)
    return jobs_pb2.SubmitRequest(spec=spec)


def grant(user: str, role: str, project: str = "") -> access_pb2.GrantRequest:
    return access_pb2.GrantRequest(user=user, role=role, project=project)


def set_secret(name: str, value: str, project: str = "") -> access_pb2.SetSecretRequest:
    return access_pb2.SetSecretRequest(name=name, project=project, value=value.encode())


async def good(site: Site, method: str, request: Any, token: str) -> Any:
    (status, details), answers = await site.ask(method, request, token=token)
    assert status == "OK", details
    return answers[0]


def replayed(site: Site) -> State:
    """The state that a restart would find: the log, replayed."""
    state = State()
    for row in site.store.events(0, 100_000):
        state.apply(decode(row.payload), row.at, Applied())
    return state


# ------------------------------------------------------------------ grants


def test_a_grant_holds_from_the_next_call_until_it_is_taken_away() -> None:
    async def story(site: Site) -> None:
        root, ana = site.token("root", "admin"), site.token("ana", "none")
        assert (await site.call("Jobs.Submit", submit("nlp"), token=ana))[0] == "PERMISSION_DENIED"
        answer = await good(site, "Access.Grant", grant("ana", "submitter", "NLP"), root)
        assert (answer.project, answer.change) == ("nlp", "created")
        again = await good(site, "Access.Grant", grant("ana", "submitter", "nlp"), root)
        assert again.change == "unchanged"
        await good(site, "Jobs.Submit", submit("nlp/deep"), ana)
        assert (await site.call("Jobs.Submit", submit("vision"), token=ana))[0] == "PERMISSION_DENIED"
        assert (await site.call("Jobs.Submit", submit("nlp-two"), token=ana))[0] == "PERMISSION_DENIED"
        assert (await good(site, "Access.Revoke", grant("ana", "submitter", "nlp"), root)).change == "removed"
        assert (await site.call("Jobs.Submit", submit("nlp"), token=ana))[0] == "PERMISSION_DENIED"
        status = (await site.call("Access.Revoke", grant("ana", "submitter", "nlp"), token=root))[0]
        assert status == "NOT_FOUND"

    play(story)


def test_grants_survive_a_restart_from_the_log_and_from_an_image() -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")
        await good(site, "Access.Grant", grant("ana", "submitter", "nlp"), root)
        await good(site, "Access.Grant", grant("ana", "viewer"), root)
        await good(site, "Access.Grant", grant("bob", "operator"), root)
        await good(site, "Access.Revoke", grant("bob", "operator"), root)
        await good(site, "Access.SetSecret", set_secret("K", CANARY, "nlp"), root)
        for state in (replayed(site), image.decode(image.encode(site.engine.state, site.engine.now()))):
            assert state.grants.of("ana") == (Grant(Role.SUBMITTER, "nlp"), Grant(Role.VIEWER))
            assert state.grants.of("bob") == ()
            assert site.vault.open(state.secrets["nlp", "K"]) == CANARY

    play(story)


def test_a_project_admin_gives_no_more_than_it_has_and_not_outside() -> None:
    async def story(site: Site) -> None:
        pat = site.token("pat", "project-admin", "nlp")
        await good(site, "Access.Grant", grant("ana", "project-admin", "nlp/deep"), pat)
        for role, project in [
            ("operator", "nlp"), ("admin", "nlp"), ("auditor", "nlp"), ("finance", "nlp"),
            ("viewer", "vision"), ("viewer", ""),
        ]:  # fmt: skip
            assert (await site.call("Access.Grant", grant("eve", role, project), token=pat))[0] == (
                "PERMISSION_DENIED"
            ), (role, project)
        shown = await good(site, "Access.Grants", access_pb2.GrantsRequest(), pat)
        assert [(one.user, one.role, one.project) for one in shown.grants] == [
            ("ana", "project-admin", "nlp/deep")
        ]

    play(story)


def test_grants_are_seen_where_one_may_see_them_and_by_user_and_project() -> None:
    async def story(site: Site) -> None:
        root, pat = site.token("root", "admin"), site.token("pat", "project-admin", "nlp")
        for user, project in (("ana", "nlp"), ("ana", "vision"), ("bob", "nlp/deep"), ("eve", "")):
            await good(site, "Access.Grant", grant(user, "viewer", project), root)

        async def seen(token: str, **asked: str) -> list[tuple[str, str]]:
            shown = await good(site, "Access.Grants", access_pb2.GrantsRequest(**asked), token)
            return sorted((one.user, one.project) for one in shown.grants)

        everything = [("ana", "nlp"), ("ana", "vision"), ("bob", "nlp/deep"), ("eve", "")]
        assert await seen(root) == everything
        assert await seen(pat) == [("ana", "nlp"), ("bob", "nlp/deep")]
        assert await seen(root, user="ana") == [("ana", "nlp"), ("ana", "vision")]
        assert await seen(pat, user="ana") == [("ana", "nlp")]
        assert await seen(root, project="nlp") == [("ana", "nlp"), ("bob", "nlp/deep")]
        assert await seen(root, user="bob", project="nlp") == [("bob", "nlp/deep")]
        assert await seen(pat, project="vision") == []

    play(story)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (grant("ana", "king"), "role"),
        (grant("node-1", "agent"), "role"),
        (grant("ana", "viewer", "a//b"), "project"),
        (grant("", "viewer"), "user"),
        (grant("a\nb", "viewer"), "user"),
    ],
)
def test_a_wrong_grant_is_refused_by_its_field(request_: Any, field: str) -> None:
    async def story(site: Site) -> None:
        status, details = await site.call("Access.Grant", request_, token=site.token("root", "admin"))
        assert (status, details.startswith(f"{field}: ")) == ("INVALID_ARGUMENT", True), details

    play(story)


# ------------------------------------------------------------------ secrets


class Agent:
    """A backend that keeps what it was ordered."""

    def __init__(self) -> None:
        self.orders: list[Assign] = []

    def assign(self, node_id: str, order: Assign) -> None:
        self.orders.append(order)


def with_agent(site: Site) -> Agent:
    agent = Agent()
    node = site.engine.state.node_by_name("n1")
    assert node is not None
    site.fleet._backends[node.id] = agent  # type: ignore[assignment]
    return agent


def test_a_job_is_given_the_nearest_secret_of_each_name() -> None:
    async def story(site: Site) -> None:
        root, agent = site.token("root", "admin"), with_agent(site)
        for name, value, project in [
            ("A", "of the site", ""), ("A", "of nlp", "nlp"), ("B", "b", ""), ("A", "of vision", "vision"),
        ]:  # fmt: skip
            await good(site, "Access.SetSecret", set_secret(name, value, project), root)
        for project, expected in [("nlp/deep", "of nlp"), ("nlp-two", "of the site")]:
            answer = await good(
                site, "Jobs.Submit", submit(project, "A", "B"), site.token("ann", "submitter")
            )
            site.place(answer.job.id)
            await site.engine.durable()
            env = dict(launch_from_bytes(agent.orders[-1].launch).env)
            assert (env["A"], env["B"]) == (expected, "b")

    play(story)


def test_an_unknown_secret_is_refused_at_submit_and_plan_with_what_to_do() -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")
        await good(site, "Access.SetSecret", set_secret("A", "x", "vision"), root)
        for method, request in [
            ("Jobs.Submit", submit("nlp", "A")),
            ("Jobs.Plan", jobs_pb2.PlanRequest(spec=submit("nlp", "A").spec)),
        ]:
            status, details = await site.call(method, request, token=root)
            assert status == "INVALID_ARGUMENT"
            assert "bursar secret set A --project nlp" in details

    play(story)


def test_an_update_to_a_project_without_the_secret_is_refused_as_a_submit_is() -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")
        await good(site, "Access.SetSecret", set_secret("A", "x", "vision"), root)
        job = (await good(site, "Jobs.Submit", submit("vision", "A"), root)).job
        status, details = await site.call(
            "Jobs.Update", jobs_pb2.UpdateRequest(job=job.id, project="nlp"), token=root
        )
        assert status == "INVALID_ARGUMENT"
        assert "project nlp has no secret A" in details
        within = jobs_pb2.UpdateRequest(job=job.id, project="vision/deep")
        assert (await good(site, "Jobs.Update", within, root)).spec.project == "vision/deep"

    play(story)


def test_a_secret_that_is_gone_when_the_job_would_start_is_a_start_that_failed() -> None:
    async def story(site: Site) -> None:
        root, agent = site.token("root", "admin"), with_agent(site)
        await good(site, "Access.SetSecret", set_secret("A", "x"), root)
        job_id = (await good(site, "Jobs.Submit", submit("nlp", "A"), root)).job.id
        await good(site, "Access.RemoveSecret", access_pb2.SecretRequest(name="A"), root)
        site.place(job_id)
        await site.engine.durable()
        job = await good(site, "Jobs.Get", jobs_pb2.GetJobRequest(job=job_id), root)
        assert (job.state, job.attempts[0].end_cause) == (JobState.FAILED, "start_failed")
        assert "bursar secret set A --project nlp" in job.reason.message
        assert agent.orders == []

    play(story)


def test_no_answer_no_event_no_image_and_no_log_line_holds_a_value(caplog: pytest.LogCaptureFixture) -> None:
    async def story(site: Site) -> None:
        root, said = site.token("root", "admin"), []
        with_agent(site)
        said.append(await good(site, "Access.SetSecret", set_secret("A", CANARY, "nlp"), root))
        job_id = (await good(site, "Jobs.Submit", submit("nlp", "A"), root)).job.id
        site.place(job_id)
        await site.engine.durable()
        for method, request in [
            ("Jobs.Get", jobs_pb2.GetJobRequest(job=job_id)),
            ("Jobs.Explain", jobs_pb2.ExplainRequest(job=job_id)),
            ("Access.Secrets", access_pb2.SecretsRequest()),
            ("Events.List", events_pb2.ListEventsRequest()),
        ]:
            said += (await site.ask(method, request, token=root))[1]
        assert not any(CANARY in str(one) for one in said)
        shown = [event for event in said if getattr(event, "kind", "") == "secret-set"]
        assert [event.json for event in shown] == ['{"type":"secret-set","project":"nlp","name":"A"}']
        rows = site.store.events(0, 1000)
        kept = b"".join(row.payload for row in rows) + image.encode(site.engine.state, 0)
        assert CANARY.encode() not in kept
        assert base64.b64encode(CANARY.encode())[:-2] not in kept
        # Even so, what the sealed text opens to is the value.
        assert site.vault.values(site.engine.state, site.engine.state.jobs[job_id].spec) == {"A": CANARY}

    play(story)
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "value", ["", "a\0b", "x" * (VALUE_BYTES_MAX + 1)], ids=["empty", "with NUL", "too long"]
)
def test_a_value_out_of_bounds_is_refused_without_being_repeated(value: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        Vault(bytes(32)).seal("nlp", "A", value)
    assert error.value.message.startswith(f"value: has {len(value)} bytes")


def test_the_longest_value_is_kept_and_all_of_a_job_have_a_limit() -> None:
    vault, state = Vault(bytes(32)), State()
    longest = "x" * VALUE_BYTES_MAX
    names = tuple(f"S{i}" for i in range(TOTAL_MAX // VALUE_BYTES_MAX))
    for name in (*names, "more"):
        sealed = vault.seal("", name, longest if name != "more" else "y")
        state.secrets["", name] = SealedSecret("", name, sealed, 0)
    spec = image_spec(names)
    assert vault.values(state, spec) == dict.fromkeys(names, longest)
    with pytest.raises(InvalidRequest, match="together"):
        vault.values(state, image_spec((*names, "more")))


def image_spec(names: tuple[str, ...]) -> Any:
    from bursar.model import JobSpec

    return JobSpec(project="nlp", command=("true",), secrets=names)


@pytest.mark.parametrize("name", ["1A", "", "a-b", "PATH", "LD_PRELOAD", "BURSAR_JOB_ID", "é"])
def test_a_name_that_is_no_variable_of_a_job_is_refused(name: str) -> None:
    async def story(site: Site) -> None:
        root = site.token("root", "admin")
        status, details = await site.call("Access.SetSecret", set_secret(name, "x"), token=root)
        assert (status, details.startswith("name: ")) == ("INVALID_ARGUMENT", True)
        status, details = await site.call("Jobs.Submit", submit("nlp", name), token=root)
        assert (status, "secrets[0]" in details) == ("INVALID_ARGUMENT", True)

    play(story)


# ------------------------------------------------------------------ the key


def test_the_key_is_made_once_for_the_owner_alone_and_opens_what_it_sealed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.secrets-key"
    sealed = open_vault(path).seal("nlp", "A", CANARY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_vault(path).open(SealedSecret("nlp", "A", sealed, 0)) == CANARY
    assert CANARY.encode() not in path.read_bytes()


@pytest.mark.parametrize(("project", "name"), [("nlp", "B"), ("vision", "A"), ("", "A")])
def test_a_sealed_text_is_of_its_project_and_name_alone(project: str, name: str) -> None:
    vault = Vault(bytes(32))
    sealed = vault.seal("nlp", "A", CANARY)
    assert vault.open(SealedSecret("nlp", "A", sealed, 0)) == CANARY
    with pytest.raises(StoreUnavailable, match="bursar secret set"):
        vault.open(SealedSecret(project, name, sealed, 0))


@pytest.mark.parametrize("sealed", ["", "1:", "1:!!", "2:" + "A" * 60, "1:" + "A" * 60])
def test_damaged_sealed_text_is_an_error_that_says_what_to_do(sealed: str) -> None:
    with pytest.raises(StoreUnavailable, match="bursar secret set A --project nlp`"):
        Vault(bytes(32)).open(SealedSecret("nlp", "A", sealed, 0))


def test_two_sealings_of_one_value_differ() -> None:
    vault = Vault(bytes(32))
    assert vault.seal("", "A", CANARY) != vault.seal("", "A", CANARY)


@pytest.mark.parametrize(
    "content",
    [b"", b"short\n", bytes(range(100)), base64.b64encode(bytes(31))],
    ids=["empty", "short", "noise", "a byte missing"],
)
def test_a_damaged_key_closes_the_vault_and_not_the_daemon(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="secrets_key_file"):
        open_vault(path).seal("", "A", "x")
    assert path.read_bytes() == content


def test_a_key_that_others_can_read_is_refused_and_a_credential_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "key"
    open_vault(path)
    path.chmod(0o640)
    with pytest.raises(InvalidRequest, match="chmod 0600"):
        open_vault(path)
    credential = tmp_path / "bursar-secrets-key"
    credential.write_bytes(base64.b64encode(bytes(32)))
    sealed = Vault(bytes(32)).seal("", "A", CANARY)
    assert open_vault(path, str(tmp_path)).open(SealedSecret("", "A", sealed, 0)) == CANARY


@pytest.mark.parametrize("what", ["a folder", "a link to nowhere"])
def test_a_key_that_is_no_file_closes_the_vault_and_stays_as_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "key"
    if what == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreUnavailable, match=f"the key file {path} is no file; bring back the file"):
        open_vault(path).seal("", "A", "x")
    assert path.is_dir() or path.is_symlink()


def test_a_key_that_may_not_be_read_says_so_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    open_vault(path)

    def shut(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", shut)
    monkeypatch.setattr("bursard.keyfiles.read_own", lambda path, most: shut(path))
    with pytest.raises(StoreUnavailable, match="cannot be read: Permission denied; chmod 0600 it"):
        open_vault(path).seal("", "A", "x")
    for setting in ("tokens_file", "tls_key_file"):
        with pytest.raises(InvalidRequest, match=f"{setting}: {path} cannot be read; chmod 0600 it"):
            private_file(setting, path)


def test_files_for_the_daemon_alone_are_read_or_refused_with_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "tls.key"
    with pytest.raises(InvalidRequest, match=r"tls_key_file: .*tls.key cannot be read: No such file"):
        private_file("tls_key_file", path)
    path.write_bytes(b"secret")
    path.chmod(0o640)
    with pytest.raises(InvalidRequest, match="can be read by others; chmod 0600 it"):
        private_file("tls_key_file", path)
    path.chmod(0o600)
    assert private_file("tls_key_file", path) == b"secret"


def test_doctor_says_which_secrets_cannot_be_opened() -> None:
    ours, other = Vault(bytes(32)), Vault(bytes(range(32)))
    state = State()
    assert check_secrets(state, Vault(None, "no key")) == Finding(
        "secrets", True, "all 0 sealed secrets can be opened"
    )
    for name, vault in (("A", ours), ("B", other), ("C", ours)):
        state.secrets["nlp", name] = SealedSecret("nlp", name, vault.seal("nlp", name, CANARY), 0)
    found = check_secrets(state, ours)
    assert (found.check, found.ok) == ("secrets", False)
    assert found.message.startswith("the secret B was sealed with another key")
    assert "secret A" not in found.message
    assert "bursar secret set NAME" in found.remedy
    found = check_secrets(state, Vault(None, "the key file /k is damaged"))
    assert found.message == "3 sealed secrets cannot be used: the key file /k is damaged"
    del state.secrets["nlp", "B"]
    assert check_secrets(state, ours).message == "all 2 sealed secrets can be opened"
