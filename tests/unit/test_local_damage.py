"""Every file of `bursar up` under every damage: read as damaged or as nothing, never trusted, never fatal."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.aside import Damaged, clear_for_file, found_aside, own_directory, set_aside
from bursar.errors import ServerUnavailable, StoreUnavailable
from bursar.local import books, files
from bursar.local.cluster import LocalCluster
from bursar.local.files import Desired, Kept
from bursar.local.processes import Process, noted
from bursar.local.waiting import Start
from bursar_agent.statedir import LogEnd, StateDir

Damage = Callable[[Path], None]


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


DAMAGES: dict[str, Damage] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40) and None,
    "other JSON": lambda path: path.write_text("[1, 2]") and None,
    "wrong types": lambda path: path.write_text('{"agents": "x", "processes": [], "keeper": 3}') and None,
    "hostile pids": lambda path: path.write_text(
        '{"processes": {"daemon": {"pid": -1, "start": 1e999}}, "children": [{"command": [1]}]}'
    ) and None,
    "deeply nested": lambda path: path.write_text("[" * 100_000) and None,
    "too large": lambda path: os.truncate(path, 9 << 20),
    "directory": to_directory,
}  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    """The files of a cluster of three agents with simulated GPUs, none of which runs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = LocalCluster(tmp_path / "state")
    with made.starting():
        made.prepare()
        desired = made.desire(3, "/policies", "H100:8")
        files.write_json(made.directory / files.DESIRED, desired.to_json())
        files.write_json(made.directory / files.CLUSTER, Kept(desired, Process(1, 2)).to_json())
        for child in desired.children[1:]:
            Path(child.state_dir).mkdir()
    return made


def wanted(cluster: LocalCluster) -> Desired:
    with cluster.starting():
        cluster.prepare()
        return cluster.desire(None, None, None)


def test_what_was_wanted_is_read_back(cluster: LocalCluster) -> None:
    again = wanted(cluster)
    assert again == files.read_desired(cluster.directory)
    assert (again.agents, again.policies, again.simulate_gpus) == (3, "/policies", "H100:8")
    assert files.read_kept(cluster.directory) == Kept(again, Process(1, 2))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", [files.DESIRED, files.CLUSTER])
def test_one_damaged_file_is_set_aside_and_the_other_one_knows(
    cluster: LocalCluster, name: str, damage: Damage
) -> None:
    before = wanted(cluster)
    damage(cluster.directory / name)
    assert wanted(cluster) == before
    aside = cluster.set_aside()
    assert [path.name.partition(".damaged-")[0] for path in aside] == [name]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_with_both_damaged_the_agents_are_found_on_disk(cluster: LocalCluster, damage: Damage) -> None:
    for name in (files.DESIRED, files.CLUSTER):
        damage(cluster.directory / name)
    assert cluster.agent_names() == ["local-1", "local-2", "local-3"]
    assert cluster.server == f"unix://{cluster.directory / 'run' / 'bursar.sock'}"
    again = wanted(cluster)
    assert again.agents == 3
    assert {path.name.partition(".damaged-")[0] for path in cluster.set_aside()} == {
        files.DESIRED,
        files.CLUSTER,
    }


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_notes_are_no_processes(cluster: LocalCluster, damage: Damage) -> None:
    """`down` and `status` ask the processes themselves; a cache that is damaged says nothing."""
    damage(cluster.directory / files.CLUSTER)
    assert cluster.kept().processes == {}
    assert cluster.processes() == {}
    assert cluster.keeper() is None


@pytest.mark.parametrize("name", ["agents", "logs", "run", "agents/local-2"])
def test_file_in_place_of_a_folder_is_set_aside(cluster: LocalCluster, name: str) -> None:
    folder = cluster.directory / name
    if folder.is_dir():
        folder.rename(tmp := folder.with_name("was"))
        assert tmp.is_dir()
    folder.write_text("x")
    wanted(cluster)
    if name != "agents/local-2":  # the agent itself makes its own
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(cluster.set_aside()) == 1


def test_lost_books_are_refused_with_the_command_that_begins_new_ones(cluster: LocalCluster) -> None:
    daemon = cluster.directory / "daemon"
    daemon.rmdir()
    daemon.write_text("x")
    with pytest.raises(StoreUnavailable) as refused:
        wanted(cluster)
    assert f"mv {daemon} {daemon}.damaged" in refused.value.message
    assert daemon.read_text() == "x"


@pytest.mark.parametrize("name", [files.UP_LOCK, files.KEEPER_LOCK])
@pytest.mark.parametrize("damage", [DAMAGES["noise"], DAMAGES["directory"]], ids=["noise", "directory"])
def test_damaged_lock_still_locks(cluster: LocalCluster, name: str, damage: Damage) -> None:
    path = cluster.directory / name
    path.touch()
    damage(path)
    held = files.lock(path)
    assert held is not None
    assert files.lock(path) is None
    os.close(held)


def test_nothing_is_ever_overwritten_by_setting_aside(tmp_path: Path) -> None:
    kept = []
    for number in range(3):
        (tmp_path / "a").write_text(str(number))
        kept.append(set_aside(tmp_path / "a"))
    assert [path.read_text() for path in kept] == ["0", "1", "2"]
    assert found_aside(tmp_path) == sorted(kept)


def test_unreadable_file_of_ours_is_set_aside_and_a_closed_folder_opened(tmp_path: Path) -> None:
    """For root every mode is readable: what is tested is the decision, on what `access` says."""
    (tmp_path / "folder").mkdir(mode=0o000)
    own_directory(tmp_path / "folder")
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    file = tmp_path / "file"
    file.write_text("x")
    file.chmod(0o000)
    clear_for_file(file)
    assert file.exists() == os.access(file, os.R_OK)


def test_link_to_a_folder_that_is_away_is_left_alone(tmp_path: Path) -> None:
    link = tmp_path / "agents"
    link.symlink_to(tmp_path / "unmounted")
    with pytest.raises(OSError, match="exists"):
        own_directory(link)
    assert link.is_symlink()


def test_up_names_the_link_that_leads_nowhere(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "s")
    cluster.prepare()
    logs = cluster.directory / "logs"
    logs.joinpath("keeper.log").unlink(missing_ok=True)
    logs.rmdir()
    logs.symlink_to(tmp_path / "unmounted")
    with pytest.raises(StoreUnavailable) as caught:
        cluster.prepare()
    assert caught.value.message == (
        f"{logs} is a link that leads nowhere: put back what it led to, or remove it: rm {logs}"
    )


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / files.DESIRED)
    with pytest.raises(Damaged):
        files.read_desired(tmp_path)


def test_full_disk_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.json, "dumps", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        files.write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_no_probe(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    before = sorted(cluster.directory.iterdir())
    with pytest.raises(StoreUnavailable, match="No space left on device; make room"):
        cluster.prepare()
    assert sorted(cluster.directory.iterdir()) == before


def test_damaged_says_why(tmp_path: Path) -> None:
    (tmp_path / files.DESIRED).write_text("{")
    with pytest.raises(Damaged, match="not JSON"):
        files.read_desired(tmp_path)
    (tmp_path / files.DESIRED).write_text('{"server": 1}')
    with pytest.raises(Damaged, match="server is missing or no str"):
        files.read_desired(tmp_path)


# --- books that are gone


def told(cluster: LocalCluster, what: str) -> None:
    agent = cluster.directory / "agents" / "local-2"
    if what == "an agent's log end":
        (agent / "log-end.json").write_text('{"cluster_id": "c", "seq": 812, "digest": ""}')
    elif what == "an agent's epoch":
        (agent / "agent.json").write_text('{"epoch": 4}')
    else:
        kept = Kept(files.read_desired(cluster.directory), served=True)
        files.write_json(cluster.directory / files.CLUSTER, kept.to_json())


SIGNS = {
    "an agent's log end": "agent local-2 was told of event 812",
    "an agent's epoch": r"agent local-2 obeyed a daemon \(epoch 4\)",
    "the keeper's note": "cluster.json says that a daemon has served",
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("folder", ["removed", "emptied", "with a file of no account"])
def test_a_folder_of_books_that_is_gone_is_no_first_start(
    cluster: LocalCluster, sign: str, folder: str
) -> None:
    daemon = cluster.directory / "daemon"
    told(cluster, sign)
    if folder == "removed":
        daemon.rmdir()
    elif folder != "emptied":
        (daemon / "bursard.lock").write_text("12\n")
    ways = (
        f"bursar restore FILE --state-dir {cluster.directory}`.*accept-loss --state-dir {cluster.directory}`"
    )
    with pytest.raises(StoreUnavailable, match=f"{SIGNS[sign]}.*{ways}"), cluster.starting():
        cluster.prepare()
    assert daemon.is_dir() is (folder != "removed")


@pytest.mark.parametrize(
    ("name", "content"), [("bursard.db", "x"), ("bursard.head", "x"), ("bursard.lock", "12\ncreated\n")]
)
def test_books_that_are_there_in_part_are_the_daemons_to_judge(
    cluster: LocalCluster, name: str, content: str
) -> None:
    told(cluster, "an agent's log end")
    (cluster.directory / "daemon" / name).write_text(content)
    assert wanted(cluster).agents == 3


def test_a_start_that_never_served_may_begin(cluster: LocalCluster) -> None:
    assert books.signs(cluster.directory) == books.Signs()
    assert wanted(cluster).agents == 3


def test_what_was_noted_of_a_daemon_that_served_is_kept_by_the_end(cluster: LocalCluster) -> None:
    told(cluster, "the keeper's note")
    again = files.read_kept(cluster.directory)
    assert again.served
    kept = again.to_json() | {"served": False, "ready": ["daemon"]}  # as the release before wrote it
    files.write_json(cluster.directory / files.CLUSTER, kept)
    assert files.read_kept(cluster.directory).served


def test_a_key_file_that_cannot_be_read_is_said_by_up(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = cluster.directory / "daemon.secrets-key"
    assert books.sealed(cluster.directory) == ""
    key.write_text("x")
    assert books.sealed(cluster.directory) == ""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert books.sealed(cluster.directory).endswith(f"{key} cannot be read; open it: chmod 0600 {key}")
    monkeypatch.undo()
    to_directory(key)
    assert books.sealed(cluster.directory) == (
        f"secrets stay sealed: {key} is no file; put the key file back in its place"
    )


# --- what `up` says of a start that failed


def waiting(cluster: LocalCluster, log: str, failures: int) -> str:
    """What is said of a daemon that left `log` and has ended so often."""
    desired = files.read_desired(cluster.directory)
    me = noted(os.getpid())
    kept = Kept(desired, me, failures={"daemon": failures})
    files.write_json(cluster.directory / files.CLUSTER, kept.to_json())
    (cluster.directory / "logs" / "daemon.log").write_text(log)
    try:
        Start(cluster, desired, print)._check()
    except ServerUnavailable as error:
        return error.message
    return ""


REFUSED = (
    '{"at": "2026-11-27T22:00:00Z", "level": "info", "event": "an image", "logger": "bursard"}\n'
    "bursard: DIR/daemon ends at event 2: it is an older one. `bursar audit accept-loss --state-dir DIR`\n"
)


def test_a_daemon_that_would_not_begin_is_quoted_at_its_first_end(cluster: LocalCluster) -> None:
    assert waiting(cluster, REFUSED, 0) == ""
    assert waiting(cluster, REFUSED, 1) == (
        "the cluster did not start: DIR/daemon ends at event 2: it is an older one."
        f" `bursar audit accept-loss --state-dir DIR`\n  so says {cluster.directory}/logs/daemon.log"
    )
    two = REFUSED + "  policies/b.yaml:2: no such key\n"
    assert "--state-dir DIR`\n  policies/b.yaml:2: no such key\n  so says " in waiting(cluster, two, 1)


def test_a_daemon_that_ends_without_a_word_is_told_by_its_log_in_words(cluster: LocalCluster) -> None:
    log = REFUSED + (
        '{"at": "2026-11-27T22:00:01Z", "level": "critical", "event": "it broke", "logger": "x", "n": 3}\n'
        "Traceback\n[1]\n"
    )
    assert waiting(cluster, log, 2) == ""
    said = waiting(cluster, log, 3)
    assert said.startswith("the cluster did not start: the daemon keeps failing; see ")
    assert said.endswith("\n  2026-11-27T22:00:01Z critical: it broke n=3\n  Traceback\n  [1]")
    assert "{" not in said


def test_a_note_of_an_agent_whose_digit_was_flipped_says_nothing_of_the_books(cluster: LocalCluster) -> None:
    state = StateDir(cluster.directory / "agents" / "local-2")
    state.remember_log_end(LogEnd("c", 812, b"h" * 32))
    state.close()
    path = cluster.directory / "agents" / "local-2" / "log-end.json"
    assert books.signs(cluster.directory) == books.Signs(812, "c", "agent local-2 was told of event 812")
    whole = path.read_text()
    for old, new in (('"seq":812', '"seq":912'), ('"c"', '"d"'), ('"digest":"', '"digest":"AAAA')):
        assert old in whole
        path.write_text(whole.replace(old, new))
        assert books.signs(cluster.directory) == books.Signs()
