"""What there is in a Compute Engine that is none: machines, operations, quotas, and what goes wrong.

Why     a provider is judged by what it does when a zone is out of stock, an answer is lost or a machine is
        taken back. Here all of that happens when a test says so, and time passes when it moves the clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from bursar.clock import SECOND_US

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = {
    "us-central1": ("us-central1-a", "us-central1-b"),
    "europe-west4": ("europe-west4-a",),
}
TYPES: dict[str, tuple[int, int, str, int]] = {
    "a2-highgpu-1g": (12, 87040, "nvidia-tesla-a100", 1),
    "a3-highgpu-8g": (208, 1916928, "nvidia-h100-80gb", 8),
    "g2-standard-8": (8, 32768, "nvidia-l4", 1),
    "c3-standard-8": (8, 32768, "", 0),
    "e2-micro": (2, 1024, "", 0),
}
"""vCPUs, MiB, type and number of accelerators."""
WITH_GPUS = ("a2-", "a3-", "a4-", "g2-")
ENDED = ("STOPPING", "STOPPED", "TERMINATED")
LIFETIME_LEAST_S, LIFETIME_MOST_S = 30, 120 * 86_400
Json = dict[str, Any]


class Refused(Exception):
    """An answer that is an error, as the service words it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass
class Fault:
    """What goes wrong with the next such call.

    `call`: a method such as `instances.insert`. `status`, `reason`: of the answer, or of the operation.
    `when`: `before` anything is done, `after` it is done; `late` or `at once`: the operation that it began
    fails, at its end or as soon as it has begun.
    """

    call: str
    status: int
    reason: str
    message: str
    when: str = "before"
    times: int = 1


@dataclass
class Operation:
    """Something that takes its time. `then`: what happens at its end; it is told whether it failed."""

    row: Json
    due: int
    then: Callable[[], None]
    error: tuple[str, str] | None = None


@dataclass
class Cloud:
    """One project. `now`: microseconds. `boot_us`: until a machine runs. `page`: rows of a list at once."""

    now: Callable[[], int]
    project: str = "research-1"
    base: str = "http://127.0.0.1"
    boot_us: int = 20 * SECOND_US
    ending_us: int = 10 * SECOND_US
    page: int = 2
    quotas: dict[tuple[str, str], float] = field(default_factory=lambda: {("us-central1", "CPUS"): 640.0})
    subnets: tuple[str, ...] = ("default",)
    images: tuple[str, ...] = ("bursar-node",)
    granted: set[str] | None = None
    unreachable: tuple[str, ...] = ()
    instances: dict[tuple[str, str], Json] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    requests: dict[str, Operation] = field(default_factory=dict)
    preempted: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    violations: list[tuple[str, list[str]]] = field(default_factory=list)
    made: int = 0
    created: list[str] = field(default_factory=list)
    """Names of all instances that ever were asked for."""

    def left(self) -> list[str]:
        """What is there and paid for."""
        return [name for _, name in self.instances]

    def fail(self, call: str, status: int, reason: str, message: str = "", **more: Any) -> None:
        """The next such call fails so; `more`: see `Fault`."""
        self.faults.append(Fault(call, status, reason, message or reason, **more))

    # --- what a call does

    def answer(self, method: str, names: Mapping[str, str], query: Mapping[str, str], body: Any) -> Json:
        """Of a method such as `compute.instances.insert`. Raises `Refused`."""
        name = method.removeprefix("compute.")
        self.calls.append(name)
        handler = getattr(self, "do_" + name.replace(".", "_"), None)
        if handler is None:
            raise Refused(501, "notImplemented", f"this fake does not know {method}")
        if names.get("project", self.project) != self.project:
            raise Refused(404, "notFound", f"The resource 'projects/{names['project']}' was not found")
        if names.get("zone", ZONES["europe-west4"][0]) not in sum(ZONES.values(), ()):
            raise Refused(400, "invalid", f"Invalid value for field 'zone': '{names['zone']}'. Unknown zone.")
        self.pass_time()
        if fault := self._fault(name, "before"):
            raise Refused(fault.status, fault.reason, fault.message)
        found: Json = handler(names, query, body)
        if fault := self._fault(name, "after"):
            raise Refused(fault.status, fault.reason, fault.message)
        return found

    def _fault(self, call: str, when: str) -> Fault | None:
        for fault in self.faults:
            if (fault.call, fault.when) == (call, when) and fault.times:
                fault.times -= 1
                return fault
        return None

    def pass_time(self) -> None:
        """Let happen what the clock has brought: operations end, lifetimes are over."""
        now = self.now()
        for operation in self.operations:
            row = operation.row
            if row["status"] == "DONE":
                continue
            row.update(status="RUNNING", progress=50)
            if now < operation.due:
                continue
            row.update(status="DONE", progress=100, endTime=stamp(operation.due))
            if operation.error is not None:
                code, message = operation.error
                row["error"] = {"errors": [{"code": code, "message": message}]}
                row.update(httpErrorStatusCode=503, httpErrorMessage="SERVICE UNAVAILABLE")
            operation.then()
        for (zone, name), one in list(self.instances.items()):
            seconds = int(one.get("scheduling", {}).get("maxRunDuration", {}).get("seconds", 0))
            over = seconds and one["status"] == "RUNNING"
            if over and now >= instant(one["lastStartTimestamp"]) + seconds * SECOND_US:
                self._end(zone, name, "compute.instances.automaticTermination")

    def do_instances_insert(self, names: Mapping[str, str], query: Mapping[str, str], body: Json) -> Json:
        request = query.get("requestId", "")
        if request in self.requests:
            return self.requests[request].row
        zone, name = names["zone"], body["name"]
        self._refuse(zone, name, body)
        row = {
            **json.loads(json.dumps(body)),
            "kind": "compute#instance",
            "id": self._number(),
            "zone": self._link("zones", zone),
            "selfLink": self._link("zones", zone, "instances", name),
            "status": "PROVISIONING",
            "creationTimestamp": stamp(self.now()),
        }
        at_once = self._fault("instances.insert", "at once")
        late = at_once or self._fault("instances.insert", "late")
        self.instances[zone, name] = row
        self.created.append(name)

        def then() -> None:
            if late is not None:
                self.instances.pop((zone, name), None)
            elif row["status"] not in ENDED:
                row.update(status="RUNNING", lastStartTimestamp=stamp(operation.due))

        error = (late.reason, late.message) if late is not None else None
        takes_us = 0 if at_once else self.boot_us
        operation = self._operation(zone, name, "insert", takes_us, then, error)
        if request:
            operation.row["clientOperationId"] = request
            self.requests[request] = operation
        self.pass_time()
        return operation.row

    def _refuse(self, zone: str, name: str, body: Json) -> None:
        """What the service checks before it begins."""
        if (zone, name) in self.instances:
            resource = f"projects/{self.project}/zones/{zone}/instances/{name}"
            raise Refused(409, "alreadyExists", f"The resource '{resource}' already exists")
        kind = body["machineType"].rpartition("/")[2]
        if kind not in TYPES:
            raise Refused(400, "invalid", f"Invalid value for field 'resource.machineType': '{kind}'.")
        for disk in body["disks"]:
            image = disk["initializeParams"]["sourceImage"].rpartition("/")[2]
            if image not in self.images:
                raise Refused(404, "notFound", f"The resource '{image}' was not found")
        for interface in body["networkInterfaces"]:
            subnet = interface.get("subnetwork", "default").rpartition("/")[2]
            if subnet not in self.subnets:
                raise Refused(404, "notFound", f"The resource '{subnet}' was not found")
        scheduling = body.get("scheduling", {})
        spot = scheduling.get("provisioningModel") == "SPOT"
        if spot and scheduling.get("automaticRestart", True):
            raise Refused(400, "invalid", "automaticRestart must be false when provisioningModel is SPOT.")
        if (spot or kind.startswith(WITH_GPUS)) and scheduling.get("onHostMaintenance") != "TERMINATE":
            raise Refused(400, "invalid", "Such instances do not support live migration.")
        seconds = int(scheduling.get("maxRunDuration", {}).get("seconds", LIFETIME_LEAST_S))
        if not LIFETIME_LEAST_S <= seconds <= LIFETIME_MOST_S:
            raise Refused(400, "invalid", "Max run duration must be from 30 seconds to 120 days.")
        if "maxRunDuration" in scheduling and "instanceTerminationAction" not in scheduling:
            raise Refused(400, "invalid", "instanceTerminationAction must be set with maxRunDuration.")

    def do_instances_get(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        return self._instance(names)

    def do_instances_aggregatedList(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> Json:
        rows = [
            (f"zones/{zone}", row)
            for (zone, _), row in sorted(self.instances.items())
            if matches(row, query.get("filter", ""))
        ]
        found = self._scopes("compute#instanceAggregatedList", "instances", rows, query)
        if self.unreachable:
            found["unreachables"] = [self._link("zones", zone) for zone in self.unreachable]
        return found

    def do_instances_delete(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        row = self._instance(names)
        zone, name = names["zone"], names["instance"]
        row["status"] = "STOPPING"

        def then() -> None:
            self.instances.pop((zone, name), None)

        return self._operation(zone, name, "delete", self.ending_us, then).row

    def do_globalOperations_aggregatedList(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> Json:
        rows = [("zones/" + one["zone"].rpartition("/")[2], one) for one in self._history(query)]
        return self._scopes("compute#operationAggregatedList", "operations", rows, query)

    def do_zoneOperations_list(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        rows = [one for one in self._history(query) if one["zone"].endswith("/" + names["zone"])]
        return self._page("compute#operationList", rows, query)

    def do_zones_list(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        rows = [
            {
                "kind": "compute#zone",
                "id": "1",
                "name": zone,
                "status": "UP",
                "region": self._link("regions", region),
            }
            for region, zones in ZONES.items()
            for zone in zones
        ]
        return self._page("compute#zoneList", rows, query)

    def do_machineTypes_list(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        rows = []
        for name, (cpus, mib, gpu, count) in sorted(TYPES.items()):
            row: Json = {"kind": "compute#machineType", "id": "1", "name": name, "zone": names["zone"]}
            row.update(guestCpus=cpus, memoryMb=mib, isSharedCpu=name.startswith("e2-micro"))
            if gpu:
                row["accelerators"] = [{"guestAcceleratorType": gpu, "guestAcceleratorCount": count}]
            rows.append(row)
        return self._page("compute#machineTypeList", rows, query)

    def do_regions_get(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        region = names["region"]
        if region not in ZONES:
            raise Refused(404, "notFound", f"The resource 'regions/{region}' was not found")
        rows = [
            {"metric": metric, "limit": limit, "usage": self._used(region, metric)}
            for (where, metric), limit in self.quotas.items()
            if where == region
        ]
        return {"kind": "compute#region", "id": "1", "name": region, "status": "UP", "quotas": rows}

    def _used(self, region: str, metric: str) -> float:
        spot, count = metric.startswith("PREEMPTIBLE_"), 0
        metric = metric.removeprefix("PREEMPTIBLE_")
        for (zone, _), row in self.instances.items():
            cpus, _, gpu, gpus = TYPES[row["machineType"].rpartition("/")[2]]
            if zone.startswith(region) and spot == (row["scheduling"]["provisioningModel"] == "SPOT"):
                own = gpu.replace("tesla-", "").replace("-", "_").upper() + "_GPUS"
                count += cpus if metric == "CPUS" else gpus if metric == own else 0
        return float(count)

    def do_projects_get(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        quota = {"metric": "GPUS_ALL_REGIONS", "limit": 16.0, "usage": 0.0}
        return {"kind": "compute#project", "id": "1", "name": self.project, "quotas": [quota]}

    def do_images_getFromFamily(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        return self._image(names["family"])

    def do_images_get(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        return self._image(names["image"])

    def _image(self, name: str) -> Json:
        if name not in self.images:
            raise Refused(404, "notFound", f"The resource 'images/{name}' was not found")
        return {"kind": "compute#image", "id": "1", "name": name, "status": "READY"}

    def do_subnetworks_get(self, names: Mapping[str, str], query: Mapping[str, str], body: None) -> Json:
        if names["subnetwork"] not in self.subnets:
            raise Refused(404, "notFound", f"The resource 'subnetworks/{names['subnetwork']}' was not found")
        return {"kind": "compute#subnetwork", "id": "1", "name": names["subnetwork"]}

    # --- what happens by itself

    def preempt(self, zone: str, name: str) -> None:
        """The service takes a machine back: it stops, and is gone when its end has passed."""
        self.preempted.add(name)
        self._end(zone, name, "compute.instances.preempted")

    def _end(self, zone: str, name: str, why: str) -> None:
        row = self.instances[zone, name]
        row["status"] = "STOPPING"

        def then() -> None:
            if row["scheduling"].get("instanceTerminationAction") == "DELETE":
                self.instances.pop((zone, name), None)
            else:
                row["status"] = "TERMINATED"

        self._operation(zone, name, why, self.ending_us, then)

    # --- inside

    def _instance(self, names: Mapping[str, str]) -> Json:
        found = self.instances.get((names["zone"], names["instance"]))
        if found is None:
            resource = f"projects/{self.project}/zones/{names['zone']}/instances/{names['instance']}"
            raise Refused(404, "notFound", f"The resource '{resource}' was not found")
        return found

    def _operation(
        self,
        zone: str,
        name: str,
        kind: str,
        takes_us: int,
        then: Callable[[], None],
        error: tuple[str, str] | None = None,
    ) -> Operation:
        number = self._number()
        row: Json = {
            "kind": "compute#operation",
            "id": number,
            "name": f"operation-{self.now()}-{number}",
            "zone": self._link("zones", zone),
            "operationType": kind,
            "targetLink": self._link("zones", zone, "instances", name),
            "targetId": "1",
            "status": "PENDING",
            "progress": 0,
            "user": "bursar@example.com",
            "insertTime": stamp(self.now()),
        }
        self.operations.append(operation := Operation(row, self.now() + takes_us, then, error))
        return operation

    def _history(self, query: Mapping[str, str]) -> list[Json]:
        rows = [one.row for one in self.operations if matches(one.row, query.get("filter", ""))]
        order = query.get("orderBy", "")
        if order not in ("", "creationTimestamp desc"):
            raise Refused(400, "invalid", f"Invalid value for field 'orderBy': '{order}'.")
        return sorted(rows, key=lambda row: int(row["id"]), reverse=bool(order))

    def _number(self) -> str:
        self.made += 1
        return str(self.made)

    def _link(self, *parts: str) -> str:
        return "/".join((f"{self.base}/compute/v1/projects/{self.project}", *parts))

    def _cut(self, rows: list[Any], query: Mapping[str, str]) -> tuple[list[Any], Json]:
        size, start = min(int(query.get("maxResults", 500)), self.page), int(query.get("pageToken") or 0)
        more = {"nextPageToken": str(start + size)} if start + size < len(rows) else {}
        return rows[start : start + size], more

    def _page(self, kind: str, rows: list[Json], query: Mapping[str, str]) -> Json:
        items, more = self._cut(rows, query)
        return {"kind": kind, "id": "1", "items": items, "selfLink": self.base, **more}

    def _scopes(self, kind: str, key: str, rows: list[tuple[str, Json]], query: Mapping[str, str]) -> Json:
        cut, more = self._cut(rows, query)
        nothing = {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results on this page."}
        items: Json = {f"zones/{zone}": {"warning": nothing} for zone in sum(ZONES.values(), ())}
        for scope, row in cut:
            items[scope] = {key: [*items[scope].get(key, ()), row]}
        return {"kind": kind, "id": "1", "items": items, "selfLink": self.base, **more}


_EXACT = re.compile(r'\(?([\w.-]+) = "([^"]*)"\)?')
_PATTERN = re.compile(r'([\w.-]+) eq "([^"]*)"')


def matches(row: Json, wanted: str) -> bool:
    """Does a row pass a filter? One regular expression, or exact values that must all be; else refused."""
    if not wanted:
        return True
    if pattern := _PATTERN.fullmatch(wanted):
        return re.fullmatch(pattern[2], _at(row, pattern[1])) is not None
    terms = wanted.split(" AND ")
    found = [_EXACT.fullmatch(term) for term in terms]
    if not all(found):
        raise Refused(400, "invalid", f"Invalid value for field 'filter': '{wanted}'. Invalid list filter.")
    return all(term is not None and _at(row, term[1]) == term[2] for term in found)


def _at(row: Json, path: str) -> str:
    head, _, rest = path.partition(".")
    value = row.get(head, {} if rest else "")
    return str(value.get(rest, "") if rest else value)


def stamp(at: int) -> str:
    """An instant as the service writes it: thousandths of a second, in California."""
    there = (EPOCH + timedelta(microseconds=at)) - timedelta(hours=8)
    return there.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "-08:00"


def instant(text: str) -> int:
    """Microseconds of such a text."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
