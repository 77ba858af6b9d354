"""The ways out: a webhook, a mail, a message to a broker. Each call blocks, for a bounded time.

Why     libraries that everybody has (`urllib`, `smtplib`, paho under aiomqtt) are used as they are, in a
        thread of the courier's. What goes wrong is an `OSError` or `Undelivered` whose text holds no secret.
"""

from __future__ import annotations

import contextlib
import smtplib
import ssl
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, Final
from urllib.parse import urlsplit

from bursar_policies.read_alerts import fault_of_url
from bursar_policies.specs import AlertChannelSpec, MqttTarget, SmtpTarget, WebhookTarget
from bursard.alerts.message import Told

TIMEOUT_S: Final = 10.0
Secret = Callable[[str], str]
"""What is in a file of the daemon's directory of alert secrets."""


class Undelivered(Exception):
    """An alert that did not get through, and why, without anything secret."""


def send(spec: AlertChannelSpec, alert: Told, secret: Secret) -> None:
    """Tell one channel. Raises `Undelivered` or `OSError`."""
    if spec.webhook is not None:
        post(spec.webhook, alert, secret)
    elif spec.smtp is not None:
        mail(spec.smtp, alert, secret)
    elif spec.mqtt is not None:
        publish(spec.mqtt, alert, secret)


class _Stays(urllib.request.HTTPRedirectHandler):
    """Where an address leads elsewhere, neither the alert nor the token goes there."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None."""
        return


def post(target: WebhookTarget, alert: Told, secret: Secret) -> None:
    """POST it as JSON."""
    url = target.url or secret(target.url_file)
    if fault := fault_of_url(url):
        raise Undelivered(f"the address in {target.url_file or 'url'} {fault}")
    headers = {"Content-Type": "application/json", "User-Agent": "bursard", "X-Bursar-Alert": alert.id}
    if target.token_file:
        headers["Authorization"] = f"Bearer {secret(target.token_file)}"
    request = urllib.request.Request(url, alert.json(), headers, method="POST")
    try:
        with urllib.request.build_opener(_Stays).open(request, timeout=TIMEOUT_S):
            return
    except urllib.request.HTTPError as error:
        raise Undelivered(f"the webhook answered {error.code}") from None


def mail(target: SmtpTarget, alert: Told, secret: Secret) -> None:
    """Send it as a mail, over TLS unless the server is on this machine and is to get it in clear."""
    message = EmailMessage()
    message["Subject"] = f"[bursar] {alert.subject}"
    message["From"], message["To"] = target.sender, ", ".join(target.to)
    message["Message-ID"] = f"<{alert.id.replace('/', '.')}@bursar>"
    message.set_content(f"{alert.text}\n\ncluster {alert.cluster}, {alert.at}\n")
    context = ssl.create_default_context()
    try:
        server = _connect(target, context)
        with contextlib.closing(server):
            if target.tls == "starttls":
                server.starttls(context=context)
            if target.user:
                server.login(target.user, secret(target.password_file))
            server.send_message(message)
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()  # it has the mail, whatever it says now
    except smtplib.SMTPResponseException as error:
        raise Undelivered(f"the mail server answered {error.smtp_code}") from None
    except smtplib.SMTPException as error:
        raise Undelivered(f"the mail was refused: {type(error).__name__}") from None


def _connect(target: SmtpTarget, context: ssl.SSLContext) -> smtplib.SMTP:
    if target.tls == "tls":
        return smtplib.SMTP_SSL(target.host, target.port, timeout=TIMEOUT_S, context=context)
    return smtplib.SMTP(target.host, target.port, timeout=TIMEOUT_S)


def publish(target: MqttTarget, alert: Told, secret: Secret) -> None:
    """Publish it as JSON, and wait until the broker has it."""
    import paho.mqtt.client as paho  # of aiomqtt; slow to import, and most sites have no such channel
    from paho.mqtt.enums import CallbackAPIVersion

    parts = urlsplit(target.url)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect_timeout = TIMEOUT_S
    if parts.scheme == "mqtts":
        client.tls_set()
    if target.user:
        client.username_pw_set(target.user, secret(target.password_file))
    client.connect(str(parts.hostname), parts.port or (8883 if parts.scheme == "mqtts" else 1883))
    client.loop_start()
    try:
        sent = client.publish(target.topic, alert.json(), qos=1)
        sent.wait_for_publish(TIMEOUT_S)
        if not sent.is_published():
            raise Undelivered(f"the broker did not take it within {TIMEOUT_S:g} s")
    except (RuntimeError, ValueError) as error:
        raise Undelivered(f"the broker did not take it: {type(error).__name__}") from None
    finally:
        client.disconnect()
        client.loop_stop()
