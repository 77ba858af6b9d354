"""The install guide names files, settings and programs that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from bursar_agent import settings as agent_settings
from bursard import settings as daemon_settings

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/install.md"
TOML = re.findall(r"(?ms)^```toml\n# (/etc/bursar/\S+)\n(.*?)^```", GUIDE.read_text())


def blocks(name: str) -> list[str]:
    found = [text for path, text in TOML if path == f"/etc/bursar/{name}"]
    assert found, name
    return found


def test_agent_settings_in_the_guide_are_accepted(tmp_path: Path) -> None:
    for text in blocks("agent.toml"):
        path = tmp_path / "agent.toml"
        path.write_text(text)
        wanted = tomllib.loads(text)
        loaded = agent_settings.load(["--config", str(path)], {})
        assert loaded.settings.name == wanted["name"]


def test_daemon_settings_in_the_guide_are_accepted(tmp_path: Path) -> None:
    for text in blocks("bursard.toml"):
        path = tmp_path / "bursard.toml"
        path.write_text(text)
        loaded = daemon_settings.load(["--config", str(path)], {})
        assert loaded.settings.run_as_submitter


def test_commands_name_files_of_the_checkout() -> None:
    text = GUIDE.read_text()
    named = set(re.findall(r"(?<![\w/])(?:systemd|policies)/[\w./-]+\w", text))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("unit", ["bursard.service", "bursar-agent.service"])
def test_units_start_what_the_guide_installs(unit: str) -> None:
    (start,) = re.findall(r"(?m)^ExecStart=(\S+) --config (\S+)$", (ROOT / "systemd" / unit).read_text())
    guide = GUIDE.read_text()
    assert start[0].startswith("/opt/bursar/bin/")
    assert "python3 -m venv /opt/bursar" in guide
    assert start[1] in {path for path, _ in TOML}


def test_verbs_in_the_guide_exist() -> None:
    from bursar.cli.main import VERBS

    used = set(re.findall(r"(?m)^[$#] bursar (\w+)", GUIDE.read_text()))
    assert used
    assert used <= set(VERBS)


SHELL = re.findall(r"(?ms)^```bash\n(.*?)^```", GUIDE.read_text())


def shell_block(word: str) -> str:
    [found] = [text for text in SHELL if word in text]
    return found


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=120, env=environ
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: the guide's authority is NOT tried")
def test_the_authority_of_the_guide_signs_a_certificate_that_clients_believe(tmp_path: Path) -> None:
    """The commands as they stand, then a TLS handshake that checks the name."""
    done = run(shell_block("openssl req -x509"), tmp_path)
    assert done.returncode == 0, done.stderr
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "bursar.pem", tmp_path / "bursar.key")
    believing = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    believing.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does from 3.13 on
    ours, theirs = socket.socketpair()
    greeted: list[bytes] = []

    def serve() -> None:
        with serving.wrap_socket(theirs, server_side=True) as end:
            greeted.append(end.recv(5))

    thread = threading.Thread(target=serve)
    thread.start()
    with believing.wrap_socket(ours, server_hostname="bursar.example.com") as end:
        end.sendall(b"hello")
        thread.join(30)
    assert greeted == [b"hello"]


def test_the_client_of_the_guide_finds_its_token_and_says_so(tmp_path: Path) -> None:
    """The commands as they stand; then `bursar config` in the same shell."""
    (tmp_path / "token.txt").write_text("user_secret\n")
    (tmp_path / "ca.pem").write_text("x")
    show = f"{sys.executable} -m bursar.cli.main config -o json"
    done = run(shell_block("BURSAR_CA_FILE=") + show, tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["server"] == "grpcs://bursar.example.com:7443"
    assert (row["token_present"], row["token"]) == (True, str(tmp_path / ".config/bursar/token"))
    assert row["ca_file"] == str(tmp_path / ".config/bursar/ca.pem")


def test_the_tokens_of_the_guide_are_read_again_when_the_daemon_is_told() -> None:
    assert "ExecReload=/bin/kill -HUP $MAINPID" in (ROOT / "systemd/bursard.service").read_text()
    assert "tokens_file" in "".join(text for path, text in TOML if path.endswith("bursard.toml"))


def test_limits_of_jobs_are_delegated_by_the_unit_as_it_is_shipped() -> None:
    unit = (ROOT / "systemd/bursar-agent.service").read_text()
    assert re.search(r"(?m)^Delegate=yes$", unit)
    assert re.search(r"(?m)^DelegateSubgroup=agent$", unit)
