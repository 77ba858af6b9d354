"""The network door of a real daemon: TLS and a token, or nothing.

The certificate is made with the `openssl` command for 127.0.0.1; everything else is what an operator does:
`bursar config new-token`, a tokens file, `bursar node token`, an agent with `--token-file`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bursar.client.link import UNIX_OPTIONS
from bursar.v1 import access_pb2, agents_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2

DEADLINE_S = 120.0
FILES = (access_pb2, agents_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2)
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def until(holds: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        threading.Event().wait(0.05)
    return found


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed one for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "openssl is needed: apt-get install openssl"
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bursard"
    words += " -addext subjectAltName=IP:127.0.0.1"
    argv = [openssl, *words.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(argv, check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def bursar(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR")}
    return subprocess.run(
        [sys.executable, "-m", "bursar.cli.main", *words],
        env=env | environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


class Daemon:
    """One bursard with both doors, and the secrets of two users."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert, self.key = certificate(folder)
        self.port = free_port()
        self.server = f"grpcs://127.0.0.1:{self.port}"
        self.unix = f"unix://{folder}/run/bursar.sock"
        self.secrets: dict[str, str] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        lines = ""
        for user, role in (("ana", "submitter"), ("vic", "viewer")):
            made = json.loads(
                bursar("config", "new-token", "--user", user, "--role", role, "-o", "json").stdout
            )
            self.secrets[user] = made["token"]
            lines += made["toml"]
        tokens = private(folder / "tokens.toml", lines)
        self.argv = [
            "--state-dir", str(folder / "daemon"), "--socket-dir", str(folder / "run"),
            "--listen", f"127.0.0.1:{self.port}", "--tls-cert-file", str(self.cert),
            "--tls-key-file", str(self.key), "--tokens-file", str(tokens),
        ]  # fmt: skip

    def start(self) -> None:
        log = (self.folder / "bursard.log").open("wb")
        self.processes.append(
            subprocess.Popen([sys.executable, "-m", "bursard", *self.argv], stdout=log, stderr=log)
        )
        log.close()
        until((self.folder / "run" / "auth.sock").exists, "the daemon listens")

    def call(self, user: str, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line over TLS, with the secret of `user`, or with that word as the secret."""
        secret = self.secrets.get(user, user)
        return bursar(*words, BURSAR_SERVER=self.server, BURSAR_CA_FILE=str(self.cert), BURSAR_TOKEN=secret)

    def node_token(self, name: str) -> Path:
        """As an administrator on the daemon's machine."""
        done = bursar("node", "token", name, "-o", "json", BURSAR_SERVER=self.unix)
        assert done.returncode == 0, done.stderr
        return private(self.folder / f"token-{name}", json.loads(done.stdout)["token"])

    def agent_argv(self, name: str, token: Path, *more: str) -> list[str]:
        argv = [sys.executable, "-m", "bursar_agent", "--server", self.server, "--name", name]
        argv += ["--state-dir", str(self.folder / f"agent-{name}")]
        return [*argv, "--token-file", str(token), "--ca-file", str(self.cert), *more]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(15)

    def secure_channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.cert.read_bytes())
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials)

    def unix_channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.unix, options=UNIX_OPTIONS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = Daemon(tmp_path_factory.mktemp("tls"))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def code_of(channel: grpc.Channel, method: MethodDescriptor, *metadata: tuple[str, str]) -> grpc.StatusCode:
    """How the server answers one empty call."""
    service = method.containing_service
    assert service is not None
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    words = ("unary", "stream")
    call = getattr(channel, f"{words[method.client_streaming]}_{words[method.server_streaming]}")(
        f"/{service.full_name}/{method.name}", request.SerializeToString, response.FromString
    )
    argument: Any = iter([request()]) if method.client_streaming else request()
    try:
        answer = call(argument, metadata=metadata, timeout=120)
        if method.server_streaming:
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    except StopIteration:
        pass
    return grpc.StatusCode.OK


def test_every_method_is_among_those_walked() -> None:
    """The list is taken from the contract itself, so that a new service cannot be forgotten."""
    folder = Path(__file__).parents[2] / "proto" / "bursar" / "v1"
    text = "".join(path.read_text() for path in folder.glob("*.proto"))
    assert len(METHODS) == text.count("\n  rpc ") > 25


@pytest.mark.parametrize("door", ["tls", "unix"])
@pytest.mark.parametrize(
    ("authorization", "name"),
    [(None, "no token"), ("Bearer nonsense", "a wrong one"), ("Basic YTpi", "another scheme")],
)
def test_without_a_good_token_no_method_answers(
    daemon: Daemon, door: str, authorization: str | None, name: str
) -> None:
    metadata = () if authorization is None else (("authorization", authorization),)
    with daemon.secure_channel() if door == "tls" else daemon.unix_channel() as channel:
        found = {method.full_name: code_of(channel, method, *metadata) for method in METHODS}
    assert set(found.values()) == {grpc.StatusCode.UNAUTHENTICATED}, found


def test_health_alone_answers_everybody(daemon: Daemon) -> None:
    for channel in (daemon.secure_channel(), daemon.unix_channel()):
        with channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_users_token_opens_tls_with_that_users_role(daemon: Daemon) -> None:
    submitted = daemon.call("ana", "run", "--name", "over-tls", "-o", "json", "--", "true")
    assert submitted.returncode == 0, submitted.stderr
    seen = daemon.call("vic", "ls", "-o", "json")
    assert seen.returncode == 0, seen.stderr
    assert [(job["name"], job["user"]) for job in json.loads(seen.stdout)] == [("over-tls", "ana")]
    refused = daemon.call("vic", "run", "--", "true")
    assert refused.returncode == 3
    assert "submitter" in refused.stderr


def test_a_wrong_token_and_none_exit_3_and_say_what_to_do(daemon: Daemon, tmp_path: Path) -> None:
    wrong = daemon.call("user_wrong", "ls")
    assert (wrong.returncode, wrong.stdout) == (3, "")
    assert "token" in wrong.stderr
    nothing = bursar(
        "ls", BURSAR_SERVER=daemon.server, BURSAR_CA_FILE=str(daemon.cert), XDG_CONFIG_HOME=str(tmp_path)
    )
    assert nothing.returncode == 3
    assert "BURSAR_TOKEN" in nothing.stderr


def test_a_certificate_nobody_vouches_for_is_not_trusted(daemon: Daemon) -> None:
    done = bursar("ls", BURSAR_SERVER=daemon.server, BURSAR_TOKEN=daemon.secrets["ana"])
    assert done.returncode == 5
    assert "BURSAR_CA_FILE" in done.stderr


def test_an_agent_joins_with_its_own_token_and_under_no_other_name(daemon: Daemon) -> None:
    token = daemon.node_token("far-1")
    foreign = subprocess.run(daemon.agent_argv("far-2", token), capture_output=True, text=True, timeout=120)
    assert foreign.returncode == 2
    assert "this token is for node far-1, not far-2" in foreign.stderr
    process = subprocess.Popen(daemon.agent_argv("far-1", token), stderr=subprocess.DEVNULL)
    try:
        until(
            lambda: (
                [n["name"] for n in json.loads(daemon.call("vic", "nodes", "-o", "json").stdout)] == ["far-1"]
            ),
            "the node is there, and it alone",
        )
        done = daemon.call("ana", "run", "--follow", "--time-limit", "1m", "--", "echo", "came over TLS")
        assert "came over TLS" in done.stdout, done.stderr
    finally:
        process.terminate()
        process.wait(15)
        argv = daemon.agent_argv("far-1", token, "--terminate-all")
        subprocess.run(argv, check=True, capture_output=True)


def test_a_used_node_token_outlives_its_term_for_its_own_agent_and_serves_no_other(
    daemon: Daemon, tmp_path: Path
) -> None:
    """1. A node enrols with its secret. 2. Another directory with the same secret is turned away, though
    the first agent is gone. 3. The first comes back with it."""
    token = daemon.node_token("far-5")
    argv = daemon.agent_argv("far-5", token)

    def state_of_node() -> str:
        nodes = json.loads(daemon.call("vic", "nodes", "-o", "json").stdout)
        return next((n["state"] for n in nodes if n["name"] == "far-5"), "")

    for _ in range(2):
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            until(lambda: state_of_node() == "up", "the node is up")
        finally:
            process.terminate()
            process.wait(15)
        thief = [*argv, "--state-dir", str(tmp_path / "thief")]
        done = subprocess.run(thief, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert "already used by another agent" in done.stderr
    subprocess.run([*argv, "--terminate-all"], check=True, capture_output=True)


def test_a_nodes_token_is_no_users_token(daemon: Daemon) -> None:
    token = daemon.node_token("far-3").read_text()
    done = daemon.call(token, "ls")
    assert done.returncode == 3
    assert "agent" in done.stderr


def test_a_users_token_does_not_let_an_agent_in(daemon: Daemon, tmp_path: Path) -> None:
    token = private(tmp_path / "token", daemon.secrets["ana"])
    done = subprocess.run(daemon.agent_argv("far-4", token), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "may not connect as an agent" in done.stderr


def test_the_port_says_nothing_to_a_caller_without_tls(daemon: Daemon) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{daemon.port}") as channel:
        token = ("authorization", f"Bearer {daemon.secrets['ana']}")
        assert code_of(channel, METHODS[0], token) is grpc.StatusCode.UNAVAILABLE
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=120) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert b"bursar" not in sock.recv(4096)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda argv: argv[: argv.index("--tls-cert-file")], "tls_cert_file"),
        (lambda argv: [word for word in argv if word not in ("--tls-key-file", argv[9])], "tls_key_file"),
    ],
)
def test_a_daemon_without_a_certificate_does_not_listen_on_tcp(
    daemon: Daemon, change: Callable[[list[str]], list[str]], word: str
) -> None:
    argv = [sys.executable, "-m", "bursard", *change(daemon.argv), "--check-config"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert word in done.stderr


@pytest.mark.parametrize("name", ["key.pem", "tokens.toml"])
def test_a_secret_that_others_can_read_stops_the_daemon(tmp_path: Path, name: str) -> None:
    made = Daemon(tmp_path)
    (tmp_path / name).chmod(0o640)
    argv = [sys.executable, "-m", "bursard", *made.argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "chmod 0600" in done.stderr
    assert name in done.stderr


def test_addresses_without_tls_are_refused_by_both_callers(daemon: Daemon) -> None:
    plain = daemon.server.replace("grpcs", "grpc")
    assert bursar("ls", BURSAR_SERVER=plain, BURSAR_TOKEN="x").returncode == 2
    argv = [sys.executable, "-m", "bursar_agent", "--server", plain, "--check-config"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "grpcs://" in done.stderr
