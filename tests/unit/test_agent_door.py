"""What opens the daemon's door to an agent: a node's token from a file, or the kernel's word on a socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar_agent.link import identity
from bursar_agent.link.identity import Door

REMOTE = "grpcs://h:7443"


def token_file(folder: Path, text: str = " node_secret\n", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def told(door: Door) -> tuple[tuple[str, str], ...]:
    return asyncio.run(door.metadata())


def test_a_nodes_token_is_said_as_a_bearer_without_what_stands_around_it(tmp_path: Path) -> None:
    for server in (REMOTE, f"unix://{tmp_path}/s"):
        door = Door(server, token_file(tmp_path))
        door.check()
        assert told(door) == (("authorization", "Bearer node_secret"),)


@pytest.mark.parametrize("server", [REMOTE, "unix:///s"])
@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("x", 0o640, "can be read by others; chmod 600"),
        ("x", 0o601, "can be read by others; chmod 600"),
        ("  \n", 0o600, "holds no token"),
        ("to\x07ken", 0o600, "holds no token"),
        ("tökén", 0o600, "holds no token"),
    ],
)
def test_a_file_that_holds_no_secret_token_is_refused_before_anything_is_called(
    tmp_path: Path, server: str, text: str, mode: int, said: str
) -> None:
    door = Door(server, token_file(tmp_path, text, mode))
    for call in (door.check, lambda: told(door)):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.message.startswith(f"token file {tmp_path}/token ")
        assert said in caught.value.message


@pytest.mark.parametrize("server", [REMOTE, "unix:///s"])
def test_a_token_file_that_is_not_there_is_named(tmp_path: Path, server: str) -> None:
    with pytest.raises(InvalidRequest, match=f"token file {tmp_path}/none: .*No such file"):
        Door(server, tmp_path / "none").check()


def test_over_the_network_a_token_is_needed_and_a_certificate_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="token file"):
        Door(REMOTE).check()
    with pytest.raises(InvalidRequest, match=f"certificate authority {tmp_path}/ca does not exist"):
        Door(REMOTE, token_file(tmp_path), tmp_path / "ca").check()
    (tmp_path / "ca").write_text("pem")
    Door(REMOTE, token_file(tmp_path), tmp_path / "ca").check()


def test_a_path_of_a_socket_is_as_long_as_the_kernel_allows() -> None:
    Door("unix:///" + "s" * 106).check()
    for path in ("/" + "s" * 107, "/" + "ß" * 54):
        with pytest.raises(InvalidRequest, match="longer than the 107 bytes the kernel allows"):
            Door(f"unix://{path}").check()


async def _asked(answer: bytes | None) -> tuple[tuple[str, str], ...] | BursarError:
    """What a door makes of an `auth.sock` that says this; None: it says nothing."""
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        hung_up = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if answer is not None:
                writer.write(answer)
                writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
            hung_up.set()

        async with await asyncio.start_unix_server(serve, f"{folder}/auth.sock"):
            try:
                found: tuple[tuple[str, str], ...] | BursarError = await Door(f"unix://{folder}/s").metadata()
            except BursarError as error:
                error.message = error.message.replace(folder, "DIR")
                found = error
            await asyncio.wait_for(hung_up.wait(), 60)
            return found


def test_on_a_socket_the_daemon_gives_a_token_for_what_the_kernel_says() -> None:
    assert asyncio.run(_asked(b'{"token": "short"}\n')) == (("authorization", "Bearer short"),)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"error": "uid 7 is no agent"}\n', "DIR/auth.sock: uid 7 is no agent"),
        (b"{}\n", "DIR/auth.sock gave no token"),
        (b"", "DIR/auth.sock gave no token"),
        (b"[]\n", "DIR/auth.sock gave no token"),
        (b"\xff\n", "DIR/auth.sock gave no token"),
        (None, "DIR/auth.sock does not answer"),
    ],
)
def test_a_daemon_that_gives_no_token_is_asked_again_later(
    answer: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        monkeypatch.setattr(identity, "_AUTH_TIMEOUT_S", 0.0)
    found = asyncio.run(_asked(answer))
    assert isinstance(found, ServerUnavailable)
    assert found.message == said


def test_a_daemon_that_is_not_there_is_asked_for() -> None:
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        with pytest.raises(ServerUnavailable) as caught:
            told(Door(f"unix://{folder}/s"))
        assert caught.value.message == (f"{folder}/auth.sock: No such file or directory; is bursard running?")


def test_a_channel_is_made_for_each_kind_of_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []

    def record(kind: str) -> Callable[..., None]:
        return lambda *words, **_: made.append((kind, *words))

    monkeypatch.setattr(identity.grpc, "ssl_channel_credentials", lambda root_certificates: root_certificates)
    monkeypatch.setattr(identity.grpc.aio, "insecure_channel", record("plain"))
    monkeypatch.setattr(identity.grpc.aio, "secure_channel", record("tls"))
    (tmp_path / "ca").write_bytes(b"pem")
    for door in (Door("unix:///s"), Door(REMOTE), Door(REMOTE, ca_file=tmp_path / "ca")):
        door.channel()
    assert made == [("plain", "unix:///s"), ("tls", "h:7443", None), ("tls", "h:7443", b"pem")]
