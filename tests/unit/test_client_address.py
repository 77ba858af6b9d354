"""Where a client finds its server and its secret."""

import contextlib
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from bursar import errors
from bursar.client import address


def listen(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen()
    return made


def test_flag_comes_before_environment_before_pointer_before_default(tmp_path):
    env = {"HOME": str(tmp_path), "BURSAR_SERVER": "unix:///env.sock"}
    assert address.resolve("unix:///flag.sock", env).url == "unix:///flag.sock"
    assert address.resolve(None, env).url == "unix:///env.sock"
    del env["BURSAR_SERVER"]
    assert address.resolve(None, env).url == "unix:///run/bursar/bursar.sock"
    with listen(tmp_path / "run" / "bursar.sock"):
        address.note_cluster(f"unix://{tmp_path}/run/bursar.sock", "/state", env)
        assert address.resolve(None, env).url == f"unix://{tmp_path}/run/bursar.sock"
    assert address.resolve(None, env).origin == "default"


def test_newest_running_cluster_wins_and_dead_ones_are_passed_over(tmp_path):
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "x")}
    for name in ("a", "b", "c"):
        address.note_cluster(f"unix://{tmp_path}/{name}/bursar.sock", f"/{name}", env)
    with listen(tmp_path / "a" / "bursar.sock"), listen(tmp_path / "b" / "bursar.sock"):
        assert [c["state_dir"] for c in address.running_clusters(env)] == ["/b", "/a"]
        address.forget_cluster("/b", env)
        assert [c["state_dir"] for c in address.running_clusters(env)] == ["/a"]


def test_broken_pointer_is_passed_over(tmp_path):
    env = {"HOME": str(tmp_path)}
    path = address.pointer_paths(env)[0]
    path.parent.mkdir(parents=True)
    for text in ("", "{", "[1, {}]", '{"a": 1}', "\x00"):
        path.write_text(text)
        assert address.known_clusters(env) == []
    address.note_cluster("unix:///s", "/d", env)
    assert json.loads(path.read_text()) == [{"server": "unix:///s", "state_dir": "/d"}]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("localhost:7443", "unix:///path or grpcs://host:7443"),
        ("grpc://h:1", "without identity"),
        ("http://h:1", "without identity"),
        ("grpcs://host", "names no port"),
        ("grpcs://host:99999", "names no port"),
        ("unix:relative", "unix:///path"),
        ("", "unix:///path"),
    ],
)
def test_wrong_address_is_refused_with_the_right_form(url, hint):
    with pytest.raises(errors.InvalidRequest, match=r"is not|without|names") as raised:
        address.parse(url, "--server")
    assert hint in raised.value.message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("url", ["grpcs://s3cret@h:7443", "https://u:s3cret@h:1", "grpcs://s3cret@h"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(url):
    with pytest.raises(errors.InvalidRequest, match="nothing before its host") as raised:
        address.parse(url, "--server")
    assert "s3cret" not in raised.value.message
    assert address.parse("unix:///a@b", "x").socket == Path("/a@b")


@pytest.mark.parametrize("token", ["t\u00f6ken", "to\nken"])
def test_a_token_that_no_header_carries_is_refused_by_its_name(monkeypatch, token):
    from bursar.client import WireClient

    with pytest.raises(errors.Unauthenticated, match=r"^the token has characters that no token has"):
        WireClient("grpcs://localhost:7443", token=token)
    monkeypatch.setenv("BURSAR_TOKEN", token)
    with pytest.raises(errors.Unauthenticated, match=r"^BURSAR_TOKEN has characters"):
        WireClient("grpcs://localhost:7443")


def test_tls_address_is_read():
    assert address.parse("grpcs://h.example:7443", "x").target == "h.example:7443"


def test_token_file_that_others_can_read_is_refused(tmp_path):
    env = {"HOME": str(tmp_path)}
    assert address.read_token(env) == ""
    path = address.token_path(env)
    path.parent.mkdir(parents=True)
    path.write_text("secret\n")
    path.chmod(0o644)
    with pytest.raises(errors.Forbidden, match="chmod 600"):
        address.read_token(env)
    path.chmod(0o600)
    assert address.read_token(env) == "secret"
    assert address.read_token({**env, "BURSAR_TOKEN": "other"}) == "other"


def test_tls_without_a_token_is_refused_before_anything_is_sent(tmp_path, monkeypatch):
    from bursar.client import WireClient

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BURSAR_TOKEN", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(errors.Unauthenticated, match="BURSAR_TOKEN"):
        WireClient("grpcs://localhost:7443")


# ------------------------------------------------------------------ why nobody answers


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("BURSAR_SERVER", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def kept(directory):
    """As a keeper does: its lock, held until closed."""
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / address.KEEPER_LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def said():
    from bursar.client.link import unavailable

    return unavailable(address.resolve(None)).message


def test_a_daemon_that_restarts_is_the_server_though_its_socket_is_gone(home):
    url = f"unix://{home}/run/bursar.sock"
    address.note_cluster(url, f"{home}/state")
    with kept(home / "state"):
        assert address.resolve(None).url == url
        assert address.is_expected(address.resolve(None))
        assert said() == (
            f"no server at {url} (from bursar up): the daemon of {home}/state is restarting;"
            " call again in a few seconds"
        )


def test_a_cluster_that_died_is_told_from_one_that_restarts(home):
    address.note_cluster(f"unix://{home}/run/bursar.sock", f"{home}/state")
    kept(home / "state").close()
    assert not address.is_expected(address.resolve(None))
    assert said().endswith(
        f"the cluster in {home}/state has died, its keeper with it; `bursar up --state-dir {home}/state`"
        " goes on where it stopped"
    )


def test_a_cluster_that_was_stopped_is_told_from_none(home):
    assert "no cluster was started; start one with `bursar up`" in said()
    kept(address.state_home()).close()
    assert said().endswith("the cluster of `bursar up` was stopped; start it again with `bursar up`")


def test_on_a_machine_with_a_sites_unit_it_names_systemctl(home, monkeypatch):
    unit = home / "bursard.service"
    unit.touch()
    monkeypatch.setattr(address, "UNITS", (f"{home}/none", str(unit)))
    assert said().endswith(
        f"this machine has {unit}, and the daemon does not run: `systemctl status bursard` tells why,"
        " `systemctl start bursard` starts it; or name another server with --server"
    )
    address.note_cluster(f"unix://{home}/run/bursar.sock", f"{home}/state")
    (home / "state").mkdir()
    assert "has died" in said()  # of one's own cluster the unit says nothing


def test_a_named_server_that_restarts_is_known_by_its_address(home, monkeypatch):
    url = f"unix://{home}/run/bursar.sock"
    monkeypatch.setenv("BURSAR_SERVER", url)
    address.note_cluster(url, f"{home}/state")
    with kept(home / "state"):
        assert "is restarting" in said()


def test_the_first_call_waits_for_a_daemon_whose_keeper_lives(home):
    import threading

    from bursar.client import WireClient
    from bursar.client.fake import FakeServer

    fake = FakeServer(home / "run")
    address.note_cluster(fake.url, f"{home}/state")
    timer = threading.Timer(0.2, fake.__enter__)
    timer.start()
    try:
        with kept(home / "state"), WireClient(patience_s=30) as client:
            client.get("1")
        assert len(fake.calls("Jobs/Get")) == 1
    finally:
        timer.join()
        fake.__exit__()


def test_the_keeper_s_lock_has_one_name():
    from bursar.local import files

    assert address.KEEPER_LOCK == files.KEEPER_LOCK


def test_a_socket_that_may_not_be_opened_is_denied_and_one_that_is_absent_is_not(tmp_path, monkeypatch):
    with listen(tmp_path / "s"):
        monkeypatch.setattr(address.os, "access", lambda *_: False)
        assert address.denied(tmp_path / "s")
    assert not address.denied(tmp_path / "absent")


@pytest.mark.parametrize("comes_again", [False, True])
def test_a_socket_that_goes_between_two_looks_is_not_told_as_one_that_may_not_be_opened(
    tmp_path, monkeypatch, comes_again
):
    path, held = tmp_path / "s", contextlib.ExitStack()
    path.write_text("the daemon before")

    def restarts(*_: object) -> bool:
        path.rename(tmp_path / "gone")  # it keeps its inode, so that the next cannot have it
        if comes_again:
            held.enter_context(listen(path))
        return False

    monkeypatch.setattr(address.os, "access", restarts)
    with held:
        assert not address.denied(path)


@pytest.mark.parametrize(
    ("socket", "folder", "named"),
    [
        (1001, 0, "staff"),
        (0, 1001, "bursar"),  # root's own group is nobody's to join
        (1002, 1001, "staff"),  # a group without a name
        (None, 1001, "staff"),
        (1002, None, "bursar"),
    ],
)
def test_a_socket_of_another_group_is_named_with_it(socket, folder, named, monkeypatch):
    class Held(SimpleNamespace):
        def stat(self):
            if self.gid is None:
                raise FileNotFoundError(self.gid)
            return SimpleNamespace(st_gid=self.gid)

    monkeypatch.setattr(address.grp, "getgrgid", lambda gid: SimpleNamespace(gr_name={1001: "staff"}[gid]))
    assert address.group_of(Held(gid=socket, parent=Held(gid=folder))) == named


def test_the_command_that_starts_a_cluster_names_its_directory_unless_it_is_the_default_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/ada/state")
    assert address.up_command(Path("/home/ada/state/bursar")) == "`bursar up`"
    assert address.up_command("/data/a b", "--detach") == "`bursar up --state-dir '/data/a b' --detach`"
