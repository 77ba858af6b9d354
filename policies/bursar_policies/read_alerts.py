"""Alert channels from their YAML nodes: whom budgets tell, and how.

Owns    the form of `kind: AlertChannel`.
Why     a document is kept in the log for ever and shown to whoever may see policies, so nothing secret may
        stand in it: tokens, passwords and secret addresses are named as files of one directory of the
        daemon's machine, and an address that carries a password is refused.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

from bursar.yamlfile import Faults, Fields, Node, read_string
from bursar_policies.specs import NAME, AlertChannelSpec, MqttTarget, SmtpTarget, WebhookTarget

TARGETS: Final = ("webhook", "smtp", "mqtt")
TLS: Final = ("starttls", "tls", "none")
RECIPIENTS_MAX: Final = 50
BUDGETS_MAX: Final = 200
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_ADDRESS: Final = r"[^\s@,;:<>()\[\]\\\"\x00-\x20]{1,64}@[A-Za-z0-9.-]{1,190}"
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,252})"
_PATTERN: Final = r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,62}"
_PROJECTS: Final = r"[a-z0-9*][a-z0-9._*/-]{0,199}"
_BUDGETS: Final = ("the name of a budget", "budgets; use patterns such as nlp-*")
_SCOPES: Final = ("a project", "projects; use patterns such as nlp/*")
_TOPIC: Final = r"[^\x00-\x1f#+$][^\x00-\x1f#+]{0,255}"
_USER: Final = r"[^\x00-\x1f]{1,128}"


def read_alert_channel(node: Node, faults: Faults) -> AlertChannelSpec | None:
    """The spec of an AlertChannel, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, (*TARGETS, "budgets", "anomalies"))
    targets = {name: found for name in TARGETS if (found := fields.get(name)) is not None}
    if len(targets) != 1:
        some = "tells nobody" if not targets else f"tells by {' and '.join(targets)}"
        faults.add(node, f"{some}; give one of {', '.join(TARGETS)}")
    channel = AlertChannelSpec(
        _webhook(targets["webhook"], faults) if "webhook" in targets else None,
        _smtp(targets["smtp"], faults) if "smtp" in targets else None,
        _mqtt(targets["mqtt"], faults) if "mqtt" in targets else None,
        _patterns(fields, faults, "budgets", _PATTERN, *_BUDGETS),
        _patterns(fields, faults, "anomalies", _PROJECTS, *_SCOPES),
    )
    return None if len(faults.found) > before else channel


def _patterns(
    fields: Fields, faults: Faults, key: str, pattern: str, expected: str, many: str
) -> tuple[str, ...]:
    """Names, in which * is any characters. `many`: what there are too many of, and what to write instead."""
    nodes = fields.items(key)
    if len(nodes) > BUDGETS_MAX:
        faults.add(nodes[BUDGETS_MAX], f"names more than {BUDGETS_MAX} {many}")
        return ()
    expected = f"{expected}, in which * is any characters"
    return tuple(
        name for one in nodes if (name := read_string(one, faults, pattern=pattern, expected=expected))
    )


def _file(fields: Fields, key: str) -> str:
    """The name of a file in the daemon's directory of such secrets."""
    expected = "the name of a file in the daemon's directory of alert secrets, without a path"
    return fields.string(key, pattern=NAME, expected=expected) or ""


def _webhook(node: Node, faults: Faults) -> WebhookTarget:
    fields = Fields(node, faults, ("url", "url_file", "token_file"))
    url, url_file = fields.string("url", length_max=2_000) or "", _file(fields, "url_file")
    if ("url" in fields) == ("url_file" in fields):
        faults.add(node, "needs an address: url, or url_file where the address itself is secret")
    if url:
        fault = fault_of_url(url)
        where = fields.get("url")
        if fault and where is not None:
            faults.add(where, fault)
    return WebhookTarget(url, url_file, _file(fields, "token_file"))


def fault_of_url(url: str) -> str:
    """What is wrong with an address that alerts are posted to; empty: nothing."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        return "is not an address such as https://alerts.example.org/hook"
    if parts.username is not None or parts.password is not None:
        return "holds a user or a password, which would be kept in the log; put the address into url_file"
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        return "would be sent in clear over the network; use https"
    return ""


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if url.isprintable() and " " not in url else None


def _smtp(node: Node, faults: Faults) -> SmtpTarget:
    fields = Fields(node, faults, ("host", "port", "tls", "from", "to", "user", "password_file"))
    address = "an address such as ops@example.org"
    to = fields.items("to", required=True)
    recipients = tuple(
        name for one in to if (name := read_string(one, faults, pattern=_ADDRESS, expected=address))
    )
    if len(to) > RECIPIENTS_MAX:
        faults.add(to[RECIPIENTS_MAX], f"are more than {RECIPIENTS_MAX} addresses; use a mailing list")
    listed = fields.get("to")
    if listed is not None and not to and listed.kind == "sequence":
        faults.add(listed, "names nobody; give at least one address")
    host = fields.string("host", required=True, pattern=_HOST, expected="the name of a host") or ""
    tls = fields.enum("tls", TLS) or "starttls"
    user, password_file = _login(fields, node)
    if tls == "none" and host not in _LOOPBACK:
        faults.add(node, "tls: none is for a server on this machine alone; use starttls or tls")
    return SmtpTarget(
        host,
        fields.integer("port", minimum=1, maximum=65_535) or (465 if tls == "tls" else 587),
        fields.string("from", required=True, pattern=_ADDRESS, expected=address) or "",
        recipients,
        tls,
        user,
        password_file,
    )


def _login(fields: Fields, node: Node) -> tuple[str, str]:
    user = fields.string("user", pattern=_USER, expected="a user of at most 128 characters") or ""
    password_file = _file(fields, "password_file")
    if ("user" in fields) != ("password_file" in fields):
        fields.faults.add(node, "user and password_file belong together; give both or none")
    return user, password_file


def _mqtt(node: Node, faults: Faults) -> MqttTarget:
    fields = Fields(node, faults, ("url", "topic", "user", "password_file"))
    url = fields.string("url", required=True, length_max=500) or ""
    where = fields.get("url")
    if url and where is not None and (fault := _fault_of_broker(url)):
        faults.add(where, fault)
    topic = fields.string("topic", required=True, pattern=_TOPIC, expected="a topic without # and +") or ""
    user, password_file = _login(fields, node)
    return MqttTarget(url, topic, user, password_file)


def _fault_of_broker(url: str) -> str:
    parts = _split(url)
    if parts is None or parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path:
        return "is not an address such as mqtts://broker.example.org:8883"
    if parts.username is not None or parts.password is not None:
        return "holds a user or a password, which would be kept in the log; use user and password_file"
    if parts.scheme == "mqtt" and parts.hostname not in _LOOPBACK:
        return "would be sent in clear over the network; use mqtts"
    return ""
