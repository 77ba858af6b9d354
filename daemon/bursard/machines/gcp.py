"""The provider `gcp`: machines of Google Compute Engine.

Owns    what is asked of Google for an order, and what its answers say of a machine.
Why     an order is told again by its token for about an hour, and by the instance's name for as long as it
        is there; what has ended is known by its operations alone. A stock-out is no answer to the order: it
        comes as the error of an operation, when the order has long been accepted.

Every instance carries a longest life after which Google deletes it by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursard.machines import gcp_words as words
from bursard.machines.errors import error_of
from bursard.machines.gcp_calls import Calls, refusal
from bursard.machines.gcp_check import checked, zones_of
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
)
from bursard.machines.userdata import script

log = logging.getLogger(__name__)

CATALOGUE_US: Final = HOUR_US
"""So long the machine types of a zone are believed."""


class GcpProvider:
    """See `Provider`. Google says no prices without an account for billing: those of the books count."""

    name = "gcp"
    capabilities = Capabilities(
        billing=Billing(least_us=60 * SECOND_US, interrupted_free_us=60 * SECOND_US),
        notice_us=30 * SECOND_US,
        own_lifetime=True,
        busy_us=2 * SECOND_US,
    )

    def __init__(self, calls: Calls, needs: Needs) -> None:
        self._calls = calls
        self._needs = needs
        self._offered: dict[Place, MachineOffer] = {}
        self._places: dict[str, Place] = {}
        self._pasts: dict[str, words.Past] = {}
        self._refused: dict[str, None] = {}
        self._types: dict[str, tuple[int, list[Any]]] = {}

    def close(self) -> None:
        """Its connections."""
        self._calls.close()

    # --- making and ending

    def create(self, order: Order) -> str:
        """Ask for it. What Google says after it has accepted the order is told by `poll`."""
        place = order.place
        has_gpus = place.instance_type.partition("-")[0] in words.GPU_FAMILIES
        fields = {
            "zone": place.zone,
            "request_id": words.request_of(order),
            "instance_resource": words.body_of(order, has_gpus, script(order, self.name, off_is_gone=True)),
        }
        name = words.name_of(order.cluster, order.machine_id)
        key = words.provider_id(place.zone, name)
        try:
            operation = self._calls.call("InstancesClient", "insert_unary", fields, place)
        except CloudError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            return self._adopt(order, key)
        if not operation.name:
            raise error_of("gcp", "Nonsense", "an answer to an order that is no operation", place)
        remember(self._places, key, place)
        if _done(operation):
            for one in operation.error.errors:
                remember(self._refused, key, None)
                raise refusal(one.code, one.message, place)
            return self._adopt(order, key)
        return key

    def _adopt(self, order: Order, key: str) -> str:
        """The machine that this order has made before. Raises the conflict when it has ended."""
        found = self.query([key])[key]
        if found is None or found.state not in (InstanceState.PENDING, InstanceState.RUNNING):
            error = error_of("gcp", "alreadyExists", "this order's machine has ended", order.place)
        elif (found.cluster, found.machine_id) != (order.cluster, order.machine_id):
            error = error_of("gcp", "alreadyExists", f"{key} is somebody else's", order.place)
        else:
            return key
        error.maybe_created = False
        raise error

    def terminate(self, provider_id: str) -> bool:
        """Delete it with its disk; it is listed until that is done."""
        zone, name = words.parts_of(provider_id)
        if not zone:
            return True
        try:
            self._calls.call("InstancesClient", "delete_unary", {"zone": zone, "instance": name})
        except CloudError as error:
            if error.kind is Kind.MISSING:
                return True
            raise
        return False

    # --- looking

    def poll(self, provider_id: str) -> Instance:
        """One machine. Of one that was never made, raises why."""
        found = self._look(provider_id)
        if isinstance(found, Instance):
            return found
        if found is not None and found.code:
            raise refusal(found.code, found.said, self._places.get(provider_id))
        if found is not None:
            return found.instance("")
        raise error_of("gcp", "notFound", f"there is no machine {provider_id}")

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        """Some machines; of those that are gone what their operations say."""
        found = {key: self._look(key) for key in provider_ids}
        return {key: one.instance("") if isinstance(one, words.Past) else one for key, one in found.items()}

    def _look(self, provider_id: str) -> Instance | words.Past | None:
        zone, name = words.parts_of(provider_id)
        if not zone:
            return None
        try:
            row = self._calls.call("InstancesClient", "get", {"zone": zone, "instance": name})
        except CloudError as error:
            if error.kind is not Kind.MISSING:
                raise
        else:
            return words.instance_of(row)
        wanted = {"zone": zone, "filter": f'targetLink eq ".*/instances/{name}"'}
        pasts = words.pasts_of(list(self._calls.rows("ZoneOperationsClient", wanted)))
        return pasts[0] if pasts else None

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        """Of every zone, with one call for all. Those of the last hour that are gone, by their operations."""
        wanted = {"filter": f'labels.{words.CLUSTER_LABEL} = "{cluster}"'}
        pages = self._calls.scoped("InstancesClient", "instances", wanted)
        listed = [words.instance_of(row) for page in pages for row in page]
        there = {one.provider_id for one in listed}
        gone = [self._whole(past) for past in words.pasts_of(self._operations(cluster))]
        known = there | self._refused.keys()
        found = [past.instance(cluster) for past in gone]
        return listed + [one for one in found if one.provider_id not in known and one.machine_id]

    def _operations(self, cluster: str) -> list[Any]:
        """What happened lately to instances of a cluster, the newest first.

        The list of what is there is whole without it: where it may not be asked for, nothing is said of what
        is gone.
        """
        try:
            return self._history(f"{words.prefix_of(cluster)}.*", self._needs.now() - LATELY_US)
        except CloudError as error:
            if error.kind not in (Kind.AUTH, Kind.INVALID):
                raise
            log.warning("operations are not listed", extra={"provider": self.name, "why": str(error)})
            return []

    def _history(self, names: str, since: int) -> list[Any]:
        """Operations of instances whose whole name a pattern matches.

        Rows of a page are in order within their zone only: the first page that is too old as a whole is the
        last one.
        """
        wanted = {"filter": f'targetLink eq ".*/instances/{names}"', "order_by": "creationTimestamp desc"}
        found = list[Any]()
        for page in self._calls.scoped("GlobalOperationsClient", "operations", wanted):
            new = [one for one in page if words.instant(one.insert_time) >= since]
            found += new
            if page and not new:
                break
        return found

    def _whole(self, past: words.Past) -> words.Past:
        """One whose making was too long ago to be listed with its end: asked for by name, once."""
        key = words.provider_id(past.zone, past.name)
        if past.created_at:
            return past
        if key not in self._pasts:
            found = self._look(key)
            remember(self._pasts, key, found if isinstance(found, words.Past) else past)
        return self._pasts[key]

    def events(self, since: int) -> list[CloudEvent]:
        """Machines that were taken back, and those that were never made."""
        found = [
            CloudEvent(
                at=past.gone_at,
                provider_id=words.provider_id(past.zone, past.name),
                kind="interrupted" if past.interrupted else "failed",
                message=past.said,
            )
            for past in words.pasts_of(self._history("bursar-.*", since))
            if past.interrupted or past.code
        ]
        return sorted((one for one in found if one.at >= since), key=lambda one: one.at)

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        """None: Google says what it billed in an export to BigQuery alone, which is not read."""
        return ()

    # --- what could be had

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        """Machine types of the wanted zones that have a price; of others nothing can be said."""
        found = []
        for zone in self._zones(wanted):
            region = words.region_of(zone)
            for row in self._types_of(zone):
                for market in MARKETS:
                    family = row.name.partition("-")[0]
                    place = Place(region, zone, family, row.name, market)
                    price = self._needs.rate(place)
                    offer = words.offer_of(row, place, price) if price is not None else None
                    if offer is not None and wanted.includes(place, offer.gpu_type):
                        found.append(offer)
        for offer in found:
            self._offered[msgspec.structs.replace(offer.place, zone="")] = offer
        return found

    def _zones(self, wanted: Wanted) -> list[str]:
        return [
            zone
            for zone in zones_of(self._calls)
            if (not wanted.regions or words.region_of(zone) in wanted.regions)
            and (not wanted.zones or zone in wanted.zones)
        ]

    def _types_of(self, zone: str) -> list[Any]:
        now = self._needs.now()
        known = self._types.get(zone)
        if known is None or abs(now - known[0]) >= CATALOGUE_US:
            self._types[zone] = known = now, list(self._calls.rows("MachineTypesClient", {"zone": zone}))
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
        """In GPUs of a family, and in vCPUs of all."""
        rows = self._calls.call("RegionsClient", "get", {"region": region}).quotas
        found = []
        for row in rows:
            metric = row.metric.removeprefix("PREEMPTIBLE_")
            if metric not in words.QUOTAS:
                continue
            market = "spot" if row.metric != metric else "on-demand"
            scope = Place(region=region, family=words.QUOTAS[metric], market=market)
            unit = "vCPUs" if metric == "CPUS" else "GPUs"
            used = int(row.usage)
            found.append(Quota(scope=scope, limit=int(row.limit), used=used, name=row.metric, unit=unit))
        return found

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        """The project, what its credentials may, and the image and subnet of each pool."""
        return checked(self._calls, pools)


def open_provider(needs: Needs) -> GcpProvider:
    """As the environment says: Application Default Credentials and GOOGLE_CLOUD_PROJECT.

    BURSAR_GCP_ENDPOINT takes the place of https://compute.googleapis.com.
    """
    return GcpProvider(Calls(endpoint=os.environ.get("BURSAR_GCP_ENDPOINT", "")), needs)


def _done(operation: Any) -> bool:
    return bool(operation.end_time)
