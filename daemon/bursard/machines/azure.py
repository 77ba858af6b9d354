"""The provider `azure`: virtual machines of Microsoft Azure.

Owns    what is asked of Azure for an order, and what its answers say of a machine and of what it leaves.
Why     an order that is accepted may still fail, and then leaves a machine that never ran; a machine that
        ends may leave its disk, its network card or its address, which are paid for. All of these are listed
        as machines to be ended, so nothing is paid for that nobody knows of.

Azure remembers nothing of a machine but in its log of activities, some minutes late; and it ends none by
itself: a machine that has an identity deletes itself when its time is over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursard.machines import azure_calls
from bursard.machines import azure_words as words
from bursard.machines.azure_calls import Calls, refusal
from bursard.machines.azure_check import checked
from bursard.machines.azure_prices import RetailPrices
from bursard.machines.errors import error_of, family_of
from bursard.machines.provider import (
    LATELY_US,
    MARKETS,
    Billing,
    Capabilities,
    Check,
    CloudError,
    CloudEvent,
    CostRow,
    Instance,
    InstanceState,
    Kind,
    MachineOffer,
    Needs,
    Order,
    Place,
    PoolTerms,
    PricePoint,
    Quota,
    Wanted,
    remember,
    setting,
)
from bursard.machines.userdata import script

log = logging.getLogger(__name__)

HEARD_US: Final = 600 * SECOND_US
"""So long the log is asked about a machine that is listed no more: it lags."""
SWEEP_US: Final = 60 * SECOND_US
"""So often what machines have left behind is looked for."""
SKUS_US: Final = HOUR_US
PARTS: Final = (
    "microsoft.compute/disks",
    "microsoft.network/networkinterfaces",
    "microsoft.network/publicipaddresses",
)


class AzureProvider:
    """See `Provider`. `prices`: what is asked for sizes."""

    name = "azure"
    capabilities = Capabilities(
        billing=Billing(least_us=SECOND_US),
        notice_us=30 * SECOND_US,
        own_lifetime=False,
        busy_us=5 * SECOND_US,  # two lists of the whole subscription, of which it bears some 90 a minute
    )

    def __init__(self, calls: Calls, needs: Needs, prices: RetailPrices) -> None:
        self._calls = calls
        self._needs = needs
        self._prices = prices
        self._offered: dict[Place, MachineOffer] = {}
        self._skus: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self._seen: set[str] = set()
        self._vanished: dict[str, int] = {}
        self._pasts: dict[str, words.Past] = {}
        self._ended: dict[str, None] = {}
        self._first = True
        self._swept: tuple[int, list[dict[str, Any]]] = (-SWEEP_US, [])

    def close(self) -> None:
        """Its connections."""
        self._calls.close()

    # --- making and ending

    def create(self, order: Order) -> str:
        """Ask for it, if there is none of that name. That its making fails is told by `poll`."""
        place = order.place
        group = setting(order.launch, "resource_group", place)
        name = words.name_of(order.cluster, order.machine_id)
        key = words.provider_id(group, name)
        if key.lower() in self._vanished or key in self._ended:
            # Its name is free again at Azure; an order is for one machine all the same.
            raise _ended(place)
        try:
            text = script(order, self.name, off_is_gone=False)
            if identity := setting(order.launch, "identity", place):
                text = words.with_own_end(text, order, self._calls.subscription, identity)
            self._calls.create(group, name, words.body_of(order, text), place)
        except CloudError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            return self._adopt(order, group, name, key)
        self._seen.add(key.lower())
        return key

    def _adopt(self, order: Order, group: str, name: str, key: str) -> str:
        """The machine that this order has made before. Raises the conflict when it has ended."""
        row = self._calls.machine(group, name)
        found = None if row is None else _whole(row)
        if found is None or found.state not in (InstanceState.PENDING, InstanceState.RUNNING):
            raise _ended(order.place)
        if (found.cluster, found.machine_id) != (order.cluster, order.machine_id):
            error = error_of("azure", "PreconditionFailed", f"{key} is somebody else's", order.place)
            error.maybe_created = False
            raise error
        return key

    def terminate(self, provider_id: str) -> bool:
        """Delete it, with its disk, network card and address; or one of these that was left behind."""
        if provider_id.startswith("/"):
            self._swept = (-SWEEP_US, [])
            return self._calls.remove(provider_id)
        group, name = words.parts_of(provider_id)
        if not group or self._calls.machine(group, name) is None:
            return True
        self._calls.delete(group, name)
        remember(self._ended, provider_id, None)
        self._seen.add(provider_id.lower())
        return False

    # --- looking

    def poll(self, provider_id: str) -> Instance:
        """One machine. Of one whose making failed, raises why."""
        found = self.query([provider_id])[provider_id]
        if found is None:
            raise error_of("azure", "ResourceNotFound", f"there is no machine {provider_id}")
        if found.state is InstanceState.FAILED:
            code, _, said = found.message.partition(": ")
            raise refusal(code, said, found.place)
        return found

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        """Some machines."""
        found: dict[str, Instance | None] = {}
        for key in provider_ids:
            group, name = words.parts_of(key)
            row = self._calls.machine(group, name) if group and not key.startswith("/") else None
            found[key] = None if row is None else _whole(row)
        return found

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        """Of the whole subscription: machines, what they left behind, and those that went lately."""
        rows = self._calls.machines()
        ours = [row for row in rows if words.is_ours(row, cluster)]
        views = self._views() if ours else {}
        listed = [words.instance_of(row, views.get(str(row["id"]).lower())) for row in ours]
        self._follow(cluster, {one.provider_id.lower() for one in listed})
        gone = [
            past.instance(key, cluster)
            for key, past in self._pasts.items()
            if past.gone_at > self._needs.now() - LATELY_US
        ]
        # A row without a name may be one of ours: such a list is none.
        names = {str(row["name"]).lower() for row in rows}
        return listed + [one for one in gone if one.machine_id] + self._left(cluster, names)

    def _views(self) -> dict[str, Any]:
        """By id in lower case, how each machine of the subscription runs."""
        rows = self._calls.machines(statuses=True)
        views = ((str(row.get("id", "")).lower(), row.get("properties")) for row in rows)
        return {key: said.get("instanceView") for key, said in views if isinstance(said, dict)}

    def _follow(self, cluster: str, listed: set[str]) -> None:
        """Note which machines are listed no more, and ask the log what became of them."""
        now, prefix = self._needs.now(), words.prefix_of(cluster)
        for key in self._seen - listed:
            if words.parts_of(key)[1].startswith(prefix):
                remember(self._vanished, key, now)
        self._seen = {key for key in self._seen if key not in self._vanished} | listed
        for key in listed:
            self._vanished.pop(key, None)
        open_ones = {
            key
            for key, at in self._vanished.items()
            if now - at < HEARD_US and not getattr(self._pasts.get(key), "interrupted", False)
        }
        if not self._first and not open_ones:
            return
        try:
            found = self._log(now - LATELY_US)
        except CloudError as error:
            log.warning("the log is not read", extra={"provider": self.name, "why": str(error)})
            return
        self._first = False
        for (group, name), past in found.items():
            key = words.provider_id(group, name)
            if name.startswith(prefix) and key not in listed:
                remember(self._pasts, key, past)

    def _log(self, since: int) -> dict[tuple[str, str], words.Past]:
        """Machines whose end the log tells, by resource group and name in lower case."""
        begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since)
        at = begin.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        query = {
            "api-version": azure_calls.ACTIVITIES,
            "$filter": f"eventTimestamp ge '{at}' and resourceProvider eq 'Microsoft.Compute'",
            "$select": "eventTimestamp,operationName,status,resourceId",
        }
        path = "/providers/Microsoft.Insights/eventtypes/management/values"
        return words.pasts_of(list(self._calls.rows(path, query)))

    def _left(self, cluster: str, names: set[str]) -> list[Instance]:
        """Disks, network cards and addresses whose machine is not there: each as one that nobody owns, so
        that it is ended when it has been seen for a while.
        """
        now, prefix = self._needs.now(), words.prefix_of(cluster)
        if abs(now - self._swept[0]) >= SWEEP_US:
            query = {
                "api-version": azure_calls.RESOURCES,
                "$filter": f"substringof('{prefix}', name)",
                "$expand": "createdTime",
            }
            self._swept = now, list(self._calls.rows("/resources", query))
        # What went with its machine since the last sweep was there then.
        went = {words.parts_of(key)[1] for key, at in self._vanished.items() if at >= self._swept[0]}
        return [
            Instance(
                provider_id=str(row["id"]),
                cluster=cluster,
                machine_id="",
                place=Place(region=str(row.get("location", ""))),
                state=InstanceState.FAILED,
                created_at=words.instant(row.get("createdTime")),
                message=f"left behind by its machine: {row['type']}",
            )
            for row in self._swept[1]
            if str(row.get("type", "")).lower() in PARTS
            and str(row["name"]).lower().startswith(prefix)
            and not any(str(row["name"]).lower().startswith(f"{name}-") for name in names | went)
        ]

    def events(self, since: int) -> list[CloudEvent]:
        """Machines that were taken back, as the log has them."""
        found = [
            CloudEvent(
                at=past.gone_at,
                provider_id=words.provider_id(group, name),
                kind="interrupted",
                message="it was taken back",
            )
            for (group, name), past in self._log(since).items()
            if past.interrupted and name.startswith("bursar-")
        ]
        return sorted((one for one in found if one.at >= since), key=lambda one: one.at)

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        """None: Azure says what it billed in an export of costs alone, which is not read."""
        return ()

    # --- what could be had

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        """Sizes of the wanted regions, in zones where there are any, that have a price."""
        found = []
        for region in wanted.regions:
            skus = self._sizes(region)
            self._prices.learn(region, [str(sku["name"]) for sku in skus if _of_interest(sku, wanted)])
            for sku in skus:
                size, spot = str(sku["name"]), words.capabilities_of(sku).get("LowPriorityCapable") == "True"
                for zone in words.zones_of(sku, region):
                    for market in MARKETS if spot else MARKETS[1:]:
                        place = Place(region, zone, family_of(size), size, market)
                        rate = self._prices.of(place)
                        offer = words.offer_of(sku, place, rate) if rate is not None else None
                        if offer is not None and wanted.includes(place, offer.gpu_type):
                            found.append(offer)
        for offer in found:
            self._offered[msgspec.structs.replace(offer.place, zone="")] = offer
        return found

    def _sizes(self, region: str) -> list[dict[str, Any]]:
        now, known = self._needs.now(), self._skus.get(region)
        if known is None or abs(now - known[0]) >= SKUS_US:
            query = {"api-version": azure_calls.SKUS, "$filter": f"location eq '{region}'"}
            rows = self._calls.rows("/providers/Microsoft.Compute/skus", query)
            sizes = [row for row in rows if row.get("resourceType") == "virtualMachines"]
            self._skus[region] = known = now, sizes
        return known[1]

    def prices(self, since: int) -> list[PricePoint]:
        """Of what was offered last: a price is one of a region."""
        found = [
            PricePoint(
                place=place,
                since=offer.as_of,
                rate_nanos_per_hour=offer.rate_nanos_per_hour,
                currency=offer.currency,
            )
            for place, offer in self._offered.items()
            if offer.as_of >= since
        ]
        return sorted(found, key=lambda one: one.since)

    def quotas(self, region: str) -> list[Quota]:
        """In vCPUs: of spot machines, of all others, and of families whose sizes are offered."""
        families = {str(sku.get("family", "")).lower(): str(sku["name"]) for sku in self._sizes(region)}
        scopes = {
            "lowprioritycores": Place(region=region, market="spot"),
            "cores": Place(region=region, market="on-demand"),
        } | {
            family: Place(region=region, family=family_of(size), market="on-demand")
            for family, size in families.items()
        }
        query = {"api-version": azure_calls.COMPUTE}
        path = f"/providers/Microsoft.Compute/locations/{region}/usages"
        found = []
        for row in self._calls.rows(path, query):
            name = str((row.get("name") or {}).get("value", ""))
            scope = scopes.get(name.lower())
            if scope is not None:
                limit, used = int(row.get("limit", 0)), int(row.get("currentValue", 0))
                found.append(Quota(scope=scope, limit=limit, used=used, name=name, unit="vCPUs"))
        return found

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        """The subscription, what its credentials may, and what each pool launches by."""
        return checked(self._calls, pools)


def open_provider(needs: Needs) -> AzureProvider:
    """As the environment says: what `DefaultAzureCredential` finds there, and AZURE_SUBSCRIPTION_ID.

    BURSAR_AZURE_ENDPOINT takes the place of https://management.azure.com, BURSAR_AZURE_PRICES that of
    https://prices.azure.com; BURSAR_AZURE_CA_FILE says by whom they are known.
    """
    endpoint, ca_file = (
        os.environ.get("BURSAR_AZURE_ENDPOINT", ""),
        os.environ.get("BURSAR_AZURE_CA_FILE", ""),
    )
    prices = RetailPrices(needs, os.environ.get("BURSAR_AZURE_PRICES", ""), ca_file)
    return AzureProvider(Calls(endpoint=endpoint, ca_file=ca_file), needs, prices)


def _of_interest(sku: Mapping[str, Any], wanted: Wanted) -> bool:
    """Could it be a machine that is wanted, whatever its zone and market?"""
    gpus = words.gpus_of(str(sku["name"]))
    anywhere = msgspec.structs.replace(wanted, regions=(), zones=(), markets=())
    return anywhere.includes(Place(instance_type=str(sku["name"])), gpus.type if gpus else "")


def _whole(row: Mapping[str, Any]) -> Instance:
    """A machine that was asked for with its view."""
    return words.instance_of(row, (row.get("properties") or {}).get("instanceView"))


def _ended(place: Place) -> CloudError:
    error = error_of("azure", "PreconditionFailed", "this order's machine has ended", place)
    error.maybe_created = False
    return error
