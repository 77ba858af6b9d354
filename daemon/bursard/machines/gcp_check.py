"""What must be right before machines of Google can be rented: asked, and never tried by renting one.

Why     a permission, an image or a subnet that is missing is found by its name before a job waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bursard.machines import gcp_words as words
from bursard.machines.gcp_calls import Calls
from bursard.machines.provider import Check, CloudError, Place, PoolTerms, setting, unknown

PERMISSIONS: Final = (
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.subnetworks.get",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.globalOperations.list",
    "compute.zoneOperations.list",
    "compute.machineTypes.list",
    "compute.regions.get",
    "compute.zones.list",
)


def zones_of(calls: Calls) -> list[str]:
    """Zones that are up, of all regions. Raises `CloudError`."""
    return [row.name for row in calls.rows("ZonesClient", {}) if row.status == "UP"]


def checked(calls: Calls, pools: Sequence[PoolTerms]) -> list[Check]:
    """The project, what its credentials may, and the image and subnet of each pool."""
    try:
        project = calls.project
        zones = zones_of(calls)
    except CloudError as error:
        remedy = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS and"
        return [unknown(error, "Google Cloud", f"{remedy} GOOGLE_CLOUD_PROJECT for bursard")]
    found = [Check("credentials", True, f"project {project}, {len(zones)} zones"), _granted(calls)]
    for pool in pools:
        found += _pool(calls, pool, zones)
    return found


def _granted(calls: Calls) -> Check:
    has = calls.permissions(list(PERMISSIONS))
    if has is None:
        says = "they could not be looked up: the Cloud Resource Manager API is not enabled, or not allowed"
        return Check("permissions", True, says)
    lacking = [one for one in PERMISSIONS if one not in has]
    says = f"lacks {', '.join(lacking)}" if lacking else f"all {len(has)} that are needed"
    return Check("permissions", not lacking, says, "grant the role of docs/clouds.md" if lacking else "")


def _pool(calls: Calls, pool: PoolTerms, zones: Sequence[str]) -> list[Check]:
    regions = sorted(pool.wanted.regions or {words.region_of(zone) for zone in zones})
    found = []
    for region in regions:
        place = Place(region=region)
        if not any(words.region_of(zone) == region for zone in zones):
            says = f"Google has no region {region} for this project"
            found.append(Check(f"pool {pool.name}: region", False, says, "mend `regions`"))
            continue
        for key, asks in (("image", _image), ("subnet", _subnet)):
            says = asks(calls, setting(pool.launch, key, place), region)
            remedy = f"mend launch.{key} of CloudPool {pool.name}" if says else ""
            where = f"pool {pool.name}: {key} in {region}"
            found.append(Check(where, not says, says or "is there", remedy))
    return found


def _image(calls: Calls, image: str, region: str) -> str:
    """What is wrong with an image; "" when nothing is."""
    parts = words.image_parts(image)
    if parts is None:
        return f"{image or 'none'} is not projects/PROJECT/global/images/family/NAME"
    project, name, family = parts
    method, field = ("get_from_family", "family") if family else ("get", "image")
    return _there(calls, "ImagesClient", method, {"project": project, field: name})


def _subnet(calls: Calls, subnet: str, region: str) -> str:
    if not subnet:
        return ""
    fields = {"region": region, "subnetwork": words.last(subnet)}
    if "projects/" in subnet:
        fields["project"] = subnet.partition("projects/")[2].partition("/")[0]
    return _there(calls, "SubnetworksClient", "get", fields)


def _there(calls: Calls, client: str, method: str, fields: dict[str, str]) -> str:
    try:
        calls.call(client, method, fields)
    except CloudError as error:
        return str(error)
    return ""
