"""What there is in an Azure that is none: machines and their parts, sizes, quotas, and what goes wrong.

Why     a provider is judged by what it does when a size is out of stock, an answer is lost, a machine is
        taken back or a part of it is left behind. Here all of that happens when a test says so, and time
        passes when it moves the clock.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from bursar.clock import SECOND_US

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP = "ml"
HOME = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers"
SUBNET = f"{HOME}/Microsoft.Network/virtualNetworks/net/subnets/default"
FIREWALL = f"{HOME}/Microsoft.Network/networkSecurityGroups/closed"
IMAGE = f"{HOME}/Microsoft.Compute/galleries/bursar/images/node/versions/1.0.0"
MACHINE = "Microsoft.Compute/virtualMachines"
SIZES: dict[str, tuple[str, int, str, int, bool]] = {
    "Standard_NC4as_T4_v3": ("Standard NCASv3_T4 Family", 4, "28", 1, True),
    "Standard_NC24ads_A100_v4": ("StandardNCADSA100v4Family", 24, "220", 1, True),
    "Standard_ND96isr_H100_v5": ("standardNDSH100v5Family", 96, "1900", 8, False),
    "Standard_D4s_v5": ("standardDSv5Family", 4, "16", 0, True),
    "Standard_NV6ads_A10_v5": ("StandardNVADSA10v5Family", 6, "55", 1, True),
}
"""Family, vCPUs, GB, GPUs, and whether there are spot machines."""
CLOSED = {("eastus", "Standard_NC24ads_A100_v4"): ("3",)}
ZONES = {"eastus": ("1", "2", "3"), "northcentralus": ()}
Json = dict[str, Any]


class Refused(Exception):
    """An answer that is an error, as the service words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Fault:
    """What goes wrong with the next such call.

    `when`: `before` anything is done, `after` it is done, or `late`: the machine's making fails.
    """

    call: str
    status: int
    code: str
    message: str
    when: str = "before"


@dataclass
class Machine:
    """One virtual machine. `handed`: its user data. `due`: when what goes on ends, and `then` happens."""

    row: Json
    handed: str = ""
    power: str = ""
    failure: tuple[str, str] = ("", "")
    due: int = 0
    then: Callable[[], None] | None = None


@dataclass
class Cloud:
    """One subscription. `now`: microseconds. `boot_us`: until a machine runs. `page`: rows at once."""

    now: Callable[[], int]
    base: str = "https://127.0.0.1"
    boot_us: int = 20 * SECOND_US
    ending_us: int = 10 * SECOND_US
    page: int = 2
    granted: tuple[str, ...] = ("*",)
    there: tuple[str, ...] = (SUBNET, FIREWALL, IMAGE)
    quotas: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"cores": (0, 350), "lowPriorityCores": (0, 100)}
    )
    leaves: tuple[str, ...] = ()
    """Types of parts that do not go with their machine, though they should."""
    machines: dict[str, Machine] = field(default_factory=dict)
    """By id in lower case, as the service compares them."""
    parts: dict[str, Json] = field(default_factory=dict)
    activities: list[Json] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    violations: list[tuple[str, list[str]]] = field(default_factory=list)
    made: int = 0
    prices: list[Json] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    """Names of all machines that ever were asked for."""

    def left(self) -> list[str]:
        """What is there and paid for."""
        return [*self.machines, *self.parts]

    def fail(self, call: str, status: int, code: str, message: str = "", when: str = "before") -> None:
        """The next such call fails so; see `Fault`."""
        self.faults.append(Fault(call, status, code, message or code, when))

    def take_fault(self, call: str, when: str) -> Fault | None:
        """The next fault of a call, which is then over."""
        for fault in self.faults:
            if (fault.call, fault.when) == (call, when):
                self.faults.remove(fault)
                return fault
        return None

    def answer(
        self, name: str, names: Mapping[str, str], query: Mapping[str, str], body: Any, fresh: bool
    ) -> tuple[int, Any]:
        """Status and body of a method of the contract. `fresh`: only if there is none. Raises `Refused`."""
        self.calls.append(name)
        self.pass_time()
        self.strike(name, "before")
        handler = getattr(self, "do_" + name)
        found: tuple[int, Any] = handler(names, query, (body, fresh) if body is not None else None)
        self.strike(name, "after")
        return found

    def strike(self, call: str, when: str) -> None:
        """Raise the next fault of a call."""
        if fault := self.take_fault(call, when):
            raise Refused(fault.status, fault.code, fault.message)

    def pass_time(self) -> None:
        """Let happen what the clock has brought."""
        for machine in list(self.machines.values()):
            if machine.then is not None and self.now() >= machine.due:
                then, machine.then = machine.then, None
                then()

    # --- virtual machines

    def do_virtual_machines_create_or_update(
        self, names: Mapping[str, str], query: Mapping[str, str], given: tuple[Json, bool]
    ) -> tuple[int, Any]:
        body, fresh = given
        key = machine_id(names["resourceGroupName"], names["vmName"])
        if fresh and key.lower() in self.machines:
            raise Refused(412, "PreconditionFailed", "The resource already exists.")
        self._refuse(body)
        self.made += 1
        self.created.append(names["vmName"])
        row: Json = {**json.loads(json.dumps(body)), "id": key, "name": names["vmName"], "type": MACHINE}
        properties = row["properties"]
        handed = b64decode(properties["osProfile"].pop("customData", "")).decode()
        properties.update(provisioningState="Creating", timeCreated=stamp(self.now()), vmId=f"vm-{self.made}")
        machine = self.machines[key.lower()] = Machine(row, handed, "starting", due=self.now() + self.boot_us)
        machine.then = lambda: self._boot(machine)
        if late := self.take_fault("virtual_machines_create_or_update", "late"):
            machine.power, machine.failure = "", (late.code, late.message)
            machine.then = lambda: properties.update(provisioningState="Failed")
        self._make_parts(names["resourceGroupName"], row)
        self._note(key, "write", "Started")
        return 201, row

    def _refuse(self, body: Json) -> None:
        properties = body["properties"]
        size = properties["hardwareProfile"]["vmSize"]
        if size not in SIZES:
            raise Refused(400, "InvalidParameter", f"The value {size} provided for the VM size is not valid.")
        image = properties["storageProfile"]["imageReference"]
        if "id" in image and image["id"] not in self.there:
            raise Refused(404, "ResourceNotFound", f"The Resource '{image['id']}' was not found.")
        for card in properties["networkProfile"]["networkInterfaceConfigurations"]:
            for address in card["properties"]["ipConfigurations"]:
                if address["properties"]["subnet"]["id"] not in self.there:
                    raise Refused(400, "InvalidResourceReference", "The subnet was not found.")
        linux = properties["osProfile"]["linuxConfiguration"]
        if not all(one.get("keyData") for one in linux["ssh"]["publicKeys"]):
            raise Refused(400, "InvalidParameter", "Required parameter 'ssh.publicKeys.keyData' is missing.")
        if properties.get("evictionPolicy") and properties.get("priority") != "Spot":
            raise Refused(
                400, "BadRequest", "Eviction policy can be set only on Azure Spot Virtual Machines."
            )

    def _boot(self, machine: Machine) -> None:
        machine.power = "running"
        machine.row["properties"]["provisioningState"] = "Succeeded"

    def _make_parts(self, group: str, row: Json) -> None:
        """Disk, card and address, each with what happens to it when its machine goes."""
        home = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers"
        disk = row["properties"]["storageProfile"]["osDisk"]
        found = [("Microsoft.Compute/disks", disk["name"], disk.get("deleteOption"))]
        for card in row["properties"]["networkProfile"]["networkInterfaceConfigurations"]:
            given = card["properties"]
            kind = "Microsoft.Network/networkInterfaces"
            found.append((kind, f"{card['name']}-1a2b3c4d", given.get("deleteOption")))
            for address in given["ipConfigurations"]:
                public = address["properties"].get("publicIPAddressConfiguration")
                if public is not None:
                    kind, option = "Microsoft.Network/publicIPAddresses", public["properties"]["deleteOption"]
                    found.append((kind, f"{public['name']}-1a2b3c4d", option))
        for kind, name, option in found:
            part = {"id": f"{home}/{kind}/{name}", "name": name, "type": kind, "location": row["location"]}
            goes = option == "Delete" and kind not in self.leaves
            self.parts[part["id"].lower()] = {**part, "of": row["id"], "goes": goes}

    def do_virtual_machines_get(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        machine = self._machine(names)
        row: Json = json.loads(json.dumps(machine.row))
        if query.get("$expand", "").lower() == "instanceview":
            row["properties"]["instanceView"] = self._view(machine)
        return 200, row

    def do_virtual_machines_instance_view(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        return 200, self._view(self._machine(names))

    def do_virtual_machines_list(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        part = f"/resourceGroups/{names['resourceGroupName']}/".lower()
        return 200, [one.row for key, one in sorted(self.machines.items()) if part in key]

    def do_virtual_machines_list_all(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        machines = [one for _, one in sorted(self.machines.items())]
        if query.get("statusOnly") != "true":
            return 200, [one.row for one in machines]
        return 200, [
            {
                **{key: one.row[key] for key in ("id", "name", "location")},
                "properties": {"instanceView": self._view(one)},
            }
            for one in machines
        ]

    def do_virtual_machines_delete(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        try:
            machine = self._machine(names)
        except Refused:
            return 204, None
        self._end(machine, "delete")
        return 202, None

    def do_virtual_machines_simulate_eviction(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        self.evict(machine_id(names["resourceGroupName"], names["vmName"]))
        return 204, None

    def evict(self, key: str) -> None:
        """The service takes a spot machine back."""
        machine = self.machines[key.lower()]
        if machine.row["properties"].get("evictionPolicy") != "Delete":
            raise Refused(409, "OperationNotAllowed", "It is no spot machine that is deleted when evicted.")
        self._note(key, "evictSpotVM/action", "Succeeded")
        self._end(machine, "delete")

    def _end(self, machine: Machine, why: str) -> None:
        key, properties = machine.row["id"], machine.row["properties"]
        if properties["provisioningState"] == "Deleting":
            return

        def gone() -> None:
            self.machines.pop(key.lower(), None)
            self._note(key, why, "Succeeded")
            for name, part in list(self.parts.items()):
                if part["of"] == key and part["goes"]:
                    del self.parts[name]

        properties["provisioningState"], machine.power = "Deleting", "stopping"
        machine.due, machine.then = self.now() + self.ending_us, gone

    def _machine(self, names: Mapping[str, str]) -> Machine:
        key = machine_id(names["resourceGroupName"], names["vmName"])
        found = self.machines.get(key.lower())
        if found is None:
            raise Refused(
                404, "ResourceNotFound", f"The Resource '{MACHINE}/{names['vmName']}' was not found."
            )
        return found

    def _view(self, machine: Machine) -> Json:
        state = machine.row["properties"]["provisioningState"]
        code, said = machine.failure
        row: Json = {"code": f"ProvisioningState/{state.lower()}", "level": "Info", "displayStatus": state}
        if state == "Failed":
            row.update(code=f"ProvisioningState/failed/{code}", level="Error", message=said)
        rows = [row]
        if machine.power:
            rows.append({"code": f"PowerState/{machine.power}", "level": "Info", "displayStatus": "VM"})
        return {"statuses": rows}

    # --- sizes and quotas

    def do_resource_skus_list(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        wanted = re.fullmatch(r"location eq '(\w+)'", query.get("$filter", ""))
        rows = []
        for region, zones in ZONES.items():
            if wanted and wanted[1] != region:
                continue
            rows += [self._sku(name, region, zones) for name in sorted(SIZES)]
            rows.append({"resourceType": "disks", "name": "Premium_LRS", "locations": [region]})
        return 200, rows

    def _sku(self, name: str, region: str, zones: tuple[str, ...]) -> Json:
        family, cpus, memory, gpus, spot = SIZES[name]
        has = {"vCPUs": cpus, "MemoryGB": memory, "GPUs": gpus, "LowPriorityCapable": spot}
        closed = CLOSED.get((region, name), ())
        restriction = {
            "type": "Zone",
            "values": [region],
            "restrictionInfo": {"locations": [region], "zones": list(closed)},
            "reasonCode": "NotAvailableForSubscription",
        }
        return {
            "resourceType": "virtualMachines",
            "name": name,
            "family": family,
            "locations": [region],
            "locationInfo": [{"location": region, "zones": list(zones)}],
            "capabilities": [{"name": key, "value": str(value)} for key, value in has.items()],
            "restrictions": [restriction] if closed else [],
        }

    def do_usage_list(
        self, names: Mapping[str, str], query: Mapping[str, str], body: None
    ) -> tuple[int, Any]:
        if names["location"] not in ZONES:
            raise Refused(
                400, "NoRegisteredProviderFound", f"The location '{names['location']}' is not known."
            )
        return 200, [
            {
                "unit": "Count",
                "currentValue": used,
                "limit": limit,
                "name": {"value": name, "localizedValue": name},
            }
            for name, (used, limit) in sorted(self.quotas.items())
        ]

    # --- what is no business of the compute library

    def raw(self, verb: str, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        """Resources, permissions, and the log of activities. Raises `Refused`."""
        self.pass_time()
        lower = path.lower()
        if lower.endswith("/providers/microsoft.insights/eventtypes/management/values"):
            self.calls.append("activities")
            self.strike("activities", "before")
            return 200, [row for row in self.activities if row["eventTimestamp"] >= _since(query)]
        if lower.endswith("/providers/microsoft.authorization/permissions"):
            return 200, [{"actions": list(self.granted), "notActions": []}]
        if lower == f"/subscriptions/{SUBSCRIPTION}/resources":
            self.calls.append("resources")
            part = re.fullmatch(r"substringof\('([\w-]+)', name\)", query.get("$filter", ""))
            if part is None:
                raise Refused(400, "InvalidFilterInQueryString", "Invalid $filter.")
            rows = [*self.parts.values(), *(one.row for one in self.machines.values())]
            keys = ("id", "name", "type", "location")
            return 200, [{key: row[key] for key in keys} for row in rows if part[1] in row["name"]]
        if verb == "DELETE":
            return (202, None) if self.parts.pop(lower, None) else (204, None)
        group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}".lower()
        if lower in (group, *(one.lower() for one in self.there)):
            return 200, {"id": path, "name": path.rpartition("/")[2]}
        raise Refused(404, "ResourceNotFound", f"The Resource '{path}' was not found.")

    def retail(self, query: Mapping[str, str], headers: Mapping[str, str], base: str) -> Json:
        """A page of the public list of prices, which nobody should show a token to."""
        self.calls.append("retail")
        self.strike("retail", "before")
        if headers.get("Authorization"):
            self.violations.append(("retail", ["a token was sent to a public service"]))
        wanted = query["$filter"]
        currency = query["currencyCode"].strip("'")
        rows = [
            {**row, "currencyCode": currency}
            for row in self.prices
            if f"armRegionName eq '{row['armRegionName']}'" in wanted
            and f"armSkuName eq '{row['armSkuName']}'" in wanted
        ]
        start = int(query.get("$skip", 0))
        more = start + self.page < len(rows)
        link = urlencode({**query, "$skip": start + self.page})
        return {
            "BillingCurrency": currency,
            "Items": rows[start : start + self.page],
            "NextPageLink": f"{base}/api/retail/prices?{link}" if more else None,
            "Count": min(self.page, len(rows) - start),
        }

    def price(self, region: str, size: str, amount: float, **more: Any) -> None:
        """A row of that list: on demand, or with `meterName` that of something else."""
        self.prices.append(
            {
                "armRegionName": region,
                "armSkuName": size,
                "retailPrice": amount,
                "unitOfMeasure": "1 Hour",
                "type": "Consumption",
                "serviceName": "Virtual Machines",
                "productName": f"Virtual Machines {size} Series",
                "meterName": size.removeprefix("Standard_"),
                "effectiveStartDate": "2025-11-01T00:00:00Z",
                **more,
            }
        )

    def _note(self, key: str, operation: str, status: str) -> None:
        self.activities.append(
            {
                "eventTimestamp": stamp(self.now()),
                "resourceId": key,
                "operationName": {"value": f"{MACHINE}/{operation}"},
                "status": {"value": status},
            }
        )


def _since(query: Mapping[str, str]) -> str:
    match = re.search(r"eventTimestamp ge '([^']+)'", query.get("$filter", ""))
    if match is None:
        raise Refused(400, "BadRequest", "The filter needs a start time.")
    return match[1]


def machine_id(group: str, name: str) -> str:
    """The id of a machine."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{MACHINE}/{name}"


def stamp(at: int) -> str:
    """An instant as the service writes it: ten millionths of a second."""
    there = EPOCH + timedelta(microseconds=at)
    return there.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"
