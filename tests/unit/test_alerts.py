"""What thresholds tell people: by which channels, how often, and what that costs the daemon: nothing."""

from __future__ import annotations

import asyncio
import logging
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.errors import PolicyInvalid
from bursar_policies.document import parse_documents
from bursar_policies.specs import AlertChannelSpec, MqttTarget, SmtpTarget, WebhookTarget
from bursard.alerts import ways
from bursard.alerts.courier import TRIES, Courier, secrets_in
from bursard.alerts.message import Alert, alert_of
from bursard.alerts.ways import Undelivered
from bursard.events import PolicyApplied, PolicyDocument, ThresholdCrossed
from bursard.fleet.testing import World

USD = 10**9
CROSSED = ThresholdCrossed(
    "nlp-month", 0, 800_000, "settled", 81 * USD, 5 * USD, 100 * USD, ("notify", "hold-queue")
)
TEXT = (
    "Budget nlp-month passed 80 % of its limit 100.00 USD on settled: 81.00 settled, 5.00 held. From now on:"
    " hold-queue."
)
ALERT = alert_of(CROSSED, 7, 1_795_233_600_000_000, "c1", "USD")


def channel(body: str) -> AlertChannelSpec:
    spec = parse_documents(f"kind: AlertChannel\nname: ops\nspec:\n{body}", "a.yaml")[0].spec
    assert isinstance(spec, AlertChannelSpec)
    return spec


def test_a_channel_is_read_with_its_defaults() -> None:
    hook = channel("  webhook: {url: 'https://h.example.org/x', token_file: hook}\n  budgets: ['nlp-*']\n")
    assert hook == AlertChannelSpec(
        webhook=WebhookTarget("https://h.example.org/x", "", "hook"), budgets=("nlp-*",)
    )
    mail = channel("  smtp: {host: mail.example.org, from: b@example.org, to: [ann@example.org]}\n")
    assert mail.smtp == SmtpTarget("mail.example.org", 587, "b@example.org", ("ann@example.org",))
    secure = channel("  smtp: {host: m, from: b@e.org, to: [a@e.org], tls: tls, user: u, password_file: p}\n")
    assert secure.smtp == SmtpTarget("m", 465, "b@e.org", ("a@e.org",), "tls", "u", "p")
    broker = channel("  mqtt: {url: 'mqtts://broker.example.org', topic: site/alerts}\n")
    assert broker.mqtt == MqttTarget("mqtts://broker.example.org", "site/alerts")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("  budgets: [x]\n", "tells nobody; give one of webhook, smtp, mqtt"),
        (
            "  webhook: {url: 'https://e.org'}\n  mqtt: {url: 'mqtts://e.org', topic: t}\n",
            "tells by webhook and mqtt; give one of",
        ),
        ("  webhook: {token_file: t}\n", "needs an address: url, or url_file"),
        ("  webhook: {url: 'http://e.org/x'}\n", "in clear over the network; use https"),
        ("  webhook: {url: 'https://u:p@e.org/x'}\n", "a password, which would be kept in the log"),
        ("  webhook: {url: 'ftp://e.org'}\n", "is not an address such as https://"),
        ("  webhook: {url_file: ../../etc/shadow}\n", "the name of a file in the daemon's directory"),
        ("  webhook: {urll: 'https://e.org'}\n", "urll"),
        ("  smtp: {host: m, from: b@e.org, to: []}\n", "names nobody"),
        ("  smtp: {host: m, from: b, to: [a@e.org]}\n", "an address such as ops@example.org"),
        ('  smtp: {host: m, from: b@e.org, to: ["a@e.org\\nBcc: x@y.org"]}\n', "holds a line break"),
        ("  smtp: {host: m, from: b@e.org, to: [a@e.org], tls: none}\n", "on this machine alone"),
        (
            "  smtp: {host: m, from: b@e.org, to: [a@e.org], user: u}\n",
            "user and password_file belong together",
        ),
        ("  smtp: {host: m, port: 0, from: b@e.org, to: [a@e.org]}\n", "is 0; at least 1"),
        ("  mqtt: {url: 'mqtt://e.org', topic: t}\n", "in clear over the network; use mqtts"),
        ("  mqtt: {url: 'mqtts://u:p@e.org', topic: t}\n", "use user and password_file"),
        ("  mqtt: {url: 'mqtts://e.org', topic: 'a/#'}\n", "a topic without # and +"),
        ("  webhook: {url: 'https://e.org'}\n  budgets: [a b]\n", "the name of a budget"),
    ],
)
def test_a_wrong_channel_is_refused_with_its_place(body: str, said: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        channel(body)
    assert any(said in fault.message for fault in caught.value.faults)
    assert all(fault.line >= 4 for fault in caught.value.faults)


# --- the courier


class Post:
    """A way that keeps what it was given, and fails as often as it is told."""

    def __init__(self, fails: int = 0, error: BaseException | None = None) -> None:
        self.told: list[str] = []
        self.threads: set[int] = set()
        self.fails, self.error = fails, error or Undelivered("it was closed")

    def __call__(self, spec: AlertChannelSpec, alert: Alert, secret: Callable[[str], str]) -> None:
        self.threads.add(threading.get_ident())
        self.told.append(alert.id)
        if len(self.told) <= self.fails:
            raise self.error


def courier(post: Post, waited: list[float], *bodies: str) -> Courier:
    world = World()
    documents = tuple(
        PolicyDocument("AlertChannel", f"c{number}", 1, 0, "", spec=channel(body))
        for number, body in enumerate(bodies)
    )
    world.engine.commit([PolicyApplied(documents)], "test")

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    return Courier(world.state, lambda name: "secret", post, sleep)


HOOK = "  webhook: {url: 'https://e.org/secret-path'}\n"


def hear(one: Courier, *events: Any) -> None:
    async def story() -> None:
        for seq, event in enumerate(events):
            one.on_event(seq, event, 0, "bursard")
        await one.idle()
        one.close()

    asyncio.run(story())


def test_channels_that_hear_of_a_budget_are_told_once_and_in_another_thread() -> None:
    post, waited = Post(), list[float]()
    one = courier(post, waited, HOOK, HOOK + "  budgets: [audio, 'nlp-*']\n", HOOK + "  budgets: [nlp]\n")
    quiet = msgspec.structs.replace(CROSSED, do=("hold-queue",))
    hear(one, CROSSED, quiet, PolicyApplied(()))
    assert (post.told, waited, one.undelivered) == (["c/0", "c/0"], [], {})
    assert threading.get_ident() not in post.threads


def test_what_fails_is_tried_again_with_growing_waits_and_then_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    post, waited = Post(fails=2), list[float]()
    hear(one := courier(post, waited, HOOK), CROSSED)
    assert (len(post.told), waited, one.undelivered) == (3, [2.0, 8.0], {})
    post, waited = Post(fails=100), []
    caplog.set_level(logging.INFO)
    hear(one := courier(post, waited, HOOK), CROSSED)
    assert (len(post.told), waited) == (TRIES, [2.0, 8.0, 32.0, 128.0])
    assert one.undelivered == {"c0": "it was closed"}
    assert "an alert could not be delivered" in caplog.text


def test_no_text_of_a_library_is_told_since_it_may_quote_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for error, said in (
        (ValueError("https://e.org/secret-path"), "ValueError"),
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError: refused"),
        (OSError("https://e.org/secret-path"), "OSError: no connection"),
        (SystemExit("https://e.org/secret-path"), "SystemExit"),
    ):
        hear(one := courier(Post(fails=100, error=error), [], HOOK), CROSSED)
        assert one.undelivered == {"c0": said}
    assert "secret-path" not in caplog.text


def test_a_secret_is_in_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    read = secrets_in(tmp_path)
    with pytest.raises(Undelivered, match="cannot be read: No such file or directory"):
        read("hook")
    (tmp_path / "hook").write_text("s3cret\n")
    (tmp_path / "hook").chmod(0o640)
    with pytest.raises(Undelivered, match="can be read by others; chmod 0600 it"):
        read("hook")
    (tmp_path / "hook").chmod(0o600)
    assert read("hook") == "s3cret"


# --- the ways out


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_gets_json_with_its_token_and_leads_nowhere_else() -> None:
    got: list[tuple[str, str | None, bytes]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Authorization"], body))
            self.send_response(302 if self.path == "/moved" else 204)
            if self.path == "/moved":
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Hook)) as port:
        base = f"http://127.0.0.1:{port}"
        ways.send(AlertChannelSpec(webhook=WebhookTarget("", "address", "token")), ALERT,
                  {"address": f"{base}/hook", "token": "t0ken"}.__getitem__)  # fmt: skip
        with pytest.raises(Undelivered, match="the webhook answered 302"):
            ways.post(WebhookTarget(f"{base}/moved"), ALERT, str)
    [(path, token, body), (moved, none, _)] = got
    assert (path, token, moved, none) == ("/hook", "Bearer t0ken", "/moved", None)
    assert msgspec.json.decode(body) == {
        "id": "c1/7", "cluster": "c1", "at": ALERT.at, "budget": "nlp-month", "percent": "80",
        "on": "settled", "limit": "100.000000000", "settled": "81.000000000", "held": "5.000000000",
        "currency": "USD", "do": ["notify", "hold-queue"], "text": TEXT,
    }  # fmt: skip
    with pytest.raises(Undelivered, match="the address in address would be sent in clear"):
        ways.post(WebhookTarget("", "address"), ALERT, lambda name: "http://e.org/x")


def test_a_mail_says_it_in_its_subject_and_a_refusal_is_told_by_its_code() -> None:
    lines: list[str] = []

    class Mail(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            data = False
            for raw in self.rfile:
                line = raw.decode().rstrip("\r\n")
                lines.append(line)
                if data:
                    data = line != "."
                    answer = b"" if data else b"250 taken\r\n"
                else:
                    data = line.upper() == "DATA"
                    refused = line.upper().startswith("RCPT TO:<NOBODY@")
                    answer = b"354 go on\r\n" if data else b"550 no\r\n" if refused else b"250 yes\r\n"
                self.wfile.write(answer)
                if line.upper() == "QUIT":
                    return

    with serving(socketserver.TCPServer(("127.0.0.1", 0), Mail)) as port:
        target = SmtpTarget("127.0.0.1", port, "b@example.org", ("ann@example.org",), "none")
        ways.send(AlertChannelSpec(smtp=target), ALERT, str)
        with pytest.raises(Undelivered, match="the mail was refused: SMTPRecipientsRefused"):
            ways.mail(msgspec.structs.replace(target, to=("nobody@example.org",)), ALERT, str)
    assert "Subject: [bursar] budget nlp-month passed 80 %" in lines
    assert "To: ann@example.org" in lines
    assert any(line.startswith("Budget nlp-month passed 80 % of its limit") for line in lines)


@pytest.mark.parametrize("taken", [True, False])
def test_a_broker_gets_json_and_is_waited_for(monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    import paho.mqtt.client as paho

    done: list[Any] = []

    class Sent:
        def wait_for_publish(self, seconds: float) -> None:
            done.append(("waited", seconds))

        def is_published(self) -> bool:
            return taken

    class Client:
        def __init__(self, version: Any) -> None:
            self.connect_timeout = 0.0

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **more: done.append((name, *args, *more.values())) or Sent()

    monkeypatch.setattr(paho, "Client", Client)
    target = MqttTarget("mqtts://broker.example.org", "site/alerts", "bursar", "broker")
    spec = AlertChannelSpec(mqtt=target)
    if taken:
        ways.send(spec, ALERT, lambda name: f"of {name}")
    else:
        with pytest.raises(Undelivered, match="the broker did not take it within 10 s"):
            ways.send(spec, ALERT, lambda name: f"of {name}")
    assert done == [
        ("tls_set",),
        ("username_pw_set", "bursar", "of broker"),
        ("connect", "broker.example.org", 8883),
        ("loop_start",),
        ("publish", "site/alerts", ALERT.json(), 1),
        ("waited", 10.0),
        ("disconnect",),
        ("loop_stop",),
    ]
