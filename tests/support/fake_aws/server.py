"""The server: moto's, behind a front that adds services moto has not, and errors that a test asks for."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs

import boto3
from botocore.config import Config
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from fake_aws.ec2 import patched
from fake_aws.world import Fault, World

ACCOUNT = "123456789012"
IMAGE = "ami-03cf127a"
_NAMESPACE = b'/doc/2016-11-15">'


class FakeAws:
    """One server for a process. `world` is replaced by each test; what ran before is forgotten."""

    def __init__(self) -> None:
        self.world = World(now=lambda: 0)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._open = ExitStack()
        self._open.enter_context(patched(lambda: self.world))
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", 0, self._app, threaded=True, request_handler=_Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def new_world(self, now: Callable[[], int]) -> World:
        """An account in which nothing runs."""
        for backend in ec2_backends[ACCOUNT].values():
            backend.reservations.clear()
        self.world = World(now=now)
        return self.world

    def client(self, service: str, region: str) -> Any:
        """A client of it, as the provider's own are, with credentials that are none."""
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="AKIAFAKE",
            aws_secret_access_key="fake-secret-key",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )

    def take_back(self, instance: str) -> None:
        """EC2 takes a spot machine back."""
        for backend in ec2_backends[ACCOUNT].values():
            for one in backend.all_instances():
                if one.id == instance:
                    world = self.world
                    world.ended.setdefault(instance, world.now())
                    one._reason = f"Server.spotInstanceTermination ({world.date():%Y-%m-%d %H:%M:%S} GMT)"
                    code = "Server.SpotInstanceTermination"
                    one.state_reason = StateReason(f"{code}: Spot instance termination", code)

    def close(self) -> None:
        """No more."""
        self._server.shutdown()
        self._server.server_close()
        self._open.close()

    # --- the front

    def _app(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes] | list[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        service, action, said = _asked_of(environ, body)
        world = self.world
        world.asked.append((action, said))
        if action in world.refused:
            code = "UnauthorizedOperation" if service == "ec2" else "AccessDeniedException"
            return _refused(start, service, Fault(action, code, 403))
        if (fault := world.take(action, after=False)) is not None:
            return _refused(start, service, fault)
        if service in _JSON:
            return _said(start, 200, _JSON[service](world, action, json.loads(body or b"{}")))
        environ["wsgi.input"] = _Again(body)
        answered: list[tuple[str, list[tuple[str, str]]]] = []
        data = b"".join(self._moto(environ, lambda status, head, _=None: answered.append((status, head))))
        if (fault := world.take(action, after=True)) is not None:
            return _refused(start, service, fault)
        # EC2 ends its namespace with a slash; moto does not, and one client goes by it.
        data = data.replace(_NAMESPACE, _NAMESPACE.replace(b'15"', b'15/"')) if service == "ec2" else data
        status, head = answered[-1]
        kept = [(key, value) for key, value in head if key.lower() != "content-length"]
        start(status, [*kept, ("Content-Length", str(len(data)))])
        return [data]


class _Again:
    """A body that was read, to be read again."""

    def __init__(self, data: bytes) -> None:
        import io

        self._stream = io.BytesIO(data)
        self.read, self.readline = self._stream.read, self._stream.readline


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing."""


def _asked_of(environ: dict[str, Any], body: bytes) -> tuple[str, str, str]:
    """(service, action, what was said without user data)."""
    credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition(",")[0]
    parts = credential.split("/")
    service = parts[3] if len(parts) > 3 else ""
    if target := environ.get("HTTP_X_AMZ_TARGET", ""):
        return service, target.rpartition(".")[2], body.decode()
    query = parse_qs(body.decode())
    action = query.pop("Action", [environ.get("PATH_INFO", "")])[0]
    query.pop("UserData", None)
    return service, action, json.dumps(query, sort_keys=True)


def _refused(start: Callable[..., Any], service: str, fault: Fault) -> list[bytes]:
    if service == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{fault.code}</Code><Message>the fake says</Message></Error>"
            "</Errors><RequestID>fake</RequestID></Response>"
        )
        return _sent(start, fault.status, text.encode(), "text/xml")
    if service == "sts":
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{fault.code}</Code>"
            "<Message>the fake says</Message></Error><RequestId>fake</RequestId></ErrorResponse>"
        )
        return _sent(start, fault.status, text.encode(), "text/xml")
    return _said(start, fault.status, {"__type": fault.code, "message": "the fake says"})


def _said(start: Callable[..., Any], status: int, answer: Any) -> list[bytes]:
    return _sent(start, status, json.dumps(answer).encode(), "application/x-amz-json-1.1")


def _sent(start: Callable[..., Any], status: int, data: bytes, kind: str) -> list[bytes]:
    start(f"{status} X", [("Content-Type", kind), ("Content-Length", str(len(data)))])
    return [data]


# --- services that moto has not


def _pricing(world: World, action: str, asked: dict[str, Any]) -> dict[str, Any]:
    filters = {one["Field"]: one["Value"] for one in asked.get("Filters", ())}
    found = [
        _product(world, region, kind, price)
        for (region, kind), price in sorted(world.on_demand.items())
        if filters.get("regionCode", region) == region and filters.get("instanceType", kind) == kind
    ]
    return _page(found, "PriceList", asked)


def _product(world: World, region: str, kind: str, price: str) -> str:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price}0000"}}
    term = {"effectiveDate": "2025-07-01T00:00:00Z", "priceDimensions": {"a.b.c": dimension}}
    attributes = {"instanceType": kind, "regionCode": region, "operatingSystem": "Linux"}
    return json.dumps(
        {"product": {"attributes": attributes, "sku": "SKU"}, "terms": {"OnDemand": {"a.b": term}}}
    )


def _quotas(world: World, action: str, asked: dict[str, Any]) -> dict[str, Any]:
    rows = [{"QuotaName": name, "Value": value} for name, value in sorted(world.quotas.items())]
    return _page(rows, "Quotas", asked)


def _page(rows: list[Any], key: str, asked: dict[str, Any]) -> dict[str, Any]:
    first, count = int(asked.get("NextToken") or 0), int(asked.get("MaxResults") or 100)
    answer: dict[str, Any] = {key: rows[first : first + count]}
    if first + count < len(rows):
        answer["NextToken"] = str(first + count)
    return answer


_JSON: dict[str, Callable[[World, str, dict[str, Any]], dict[str, Any]]] = {
    "pricing": _pricing,
    "servicequotas": _quotas,
}
_OPEN: list[FakeAws] = []


def open_aws() -> FakeAws:
    """The one of this process: moto's data take seconds to read."""
    if not _OPEN:
        _OPEN.append(FakeAws())
    return _OPEN[0]


__all__ = ["IMAGE", "FakeAws", "open_aws"]
