"""The gateway speaks https itself: with files that belong together, and with new ones once they are there."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_site import ASK, Replica, Site, play

import bursar_gateway.__main__ as gateway
from bursar.pinned import make_pair
from bursar_gateway.tls import Certificate, address


def pair(folder: Path, name: str = "pair.pem") -> Path:
    return make_pair(folder / name).file


def shown(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_clients_are_answered_over_tls_and_by_a_new_certificate_once_it_is_whole(tmp_path: Path) -> None:
    async def story() -> None:
        file = pair(tmp_path)
        certificate = Certificate(file, file)
        async with Site(Replica()) as site:
            runner = web.ServerRunner(site.gateway.server(), shutdown_timeout=0)
            await runner.setup()
            port = await _free()
            door = await gateway.open_at(f"127.0.0.1:{port}", runner, certificate)
            assert door is not None
            try:
                trusting = ssl.create_default_context(cafile=str(file))
                trusting.check_hostname = False
                url = f"https://127.0.0.1:{port}/chat"
                async with aiohttp.ClientSession(headers=ASK) as client:
                    async with client.get(url, ssl=trusting) as answer:
                        assert answer.status == 200
                    with pytest.raises(aiohttp.ClientError):
                        await client.get(f"http://127.0.0.1:{port}/chat")
                first = await asyncio.to_thread(shown, port)
                assert not certificate.refresh(), "nothing is another"
                whole = file.read_bytes()
                file.write_bytes(whole[:100])
                assert not certificate.refresh()
                assert await asyncio.to_thread(shown, port) == first
                pair(tmp_path)
                assert certificate.refresh()
                assert await asyncio.to_thread(shown, port) != first
            finally:
                door.close()
                await runner.cleanup()

    play(story)


async def _free() -> int:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    return port


def test_tls_before_1_2_is_not_spoken(tmp_path: Path) -> None:
    file = pair(tmp_path)
    assert Certificate(file, file).context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(("flags", "why"), [
    (["--tls-cert", "{pair}"], "name both"),
    (["--tls-cert", "{pair}", "--tls-key", "{pair}", "--listen", "unix:/x", "--url", "u"], "leave it out"),
    (["--tls-cert", "{pair}", "--tls-key", "{open}"], "can be read by others; chmod 0600"),
    (["--tls-cert", "{pair}", "--tls-key", "{other}"], "are no certificate and its key in PEM"),
    (["--tls-cert", "{pair}", "--tls-key", "{none}"], "cannot be read"),
    (["--tls-cert", "{pair}", "--tls-key", "{pair}", "--listen", "0.0.0.0:8443"], "--url: name what"),
    (["--tls-cert", "{pair}", "--tls-key", "{pair}", "--listen", "8443"], "is not HOST:PORT"),
    (["--listen", "0.0.0.0:8443"], "is not 127.0.0.1:PORT"),
])  # fmt: skip
def test_what_cannot_be_served_is_refused_with_what_mends_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    why: str,
) -> None:
    monkeypatch.setattr(gateway.logging, "basicConfig", lambda **said: None)  # it is of the whole process
    monkeypatch.setattr(gateway, "bound_tracebacks", lambda: None)
    files = {"pair": pair(tmp_path), "other": pair(tmp_path, "other.pem"), "open": pair(tmp_path, "open.pem"),
             "none": tmp_path / "none.pem"}  # fmt: skip
    files["open"].chmod(0o644)
    given = [flag.format(**files) for flag in flags]
    assert gateway.main([*given, "--state-dir", str(tmp_path / "state")]) == 2
    assert why in capsys.readouterr().err


def test_any_address_may_be_named_with_a_certificate() -> None:
    assert address("[::1]:8443") == ("::1", 8443)
    assert address("gw.example.org:443") == ("gw.example.org", 443)
