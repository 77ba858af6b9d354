"""The columns of each FOCUS version, in order, and the type of each.

Why     a reader of version 1.2 finds exactly the columns of 1.2; ours follow after all of FOCUS'.
"""

from __future__ import annotations

from typing import Final

from bursar.errors import InvalidRequest

_V1_0: Final = frozenset(
    [
        "AvailabilityZone",
        "BilledCost",
        "BillingAccountId",
        "BillingAccountName",
        "BillingCurrency",
        "BillingPeriodEnd",
        "BillingPeriodStart",
        "ChargeCategory",
        "ChargeClass",
        "ChargeDescription",
        "ChargeFrequency",
        "ChargePeriodEnd",
        "ChargePeriodStart",
        "CommitmentDiscountCategory",
        "CommitmentDiscountId",
        "CommitmentDiscountName",
        "CommitmentDiscountStatus",
        "CommitmentDiscountType",
        "ConsumedQuantity",
        "ConsumedUnit",
        "ContractedCost",
        "ContractedUnitPrice",
        "EffectiveCost",
        "InvoiceIssuerName",
        "ListCost",
        "ListUnitPrice",
        "PricingCategory",
        "PricingQuantity",
        "PricingUnit",
        "ProviderName",
        "PublisherName",
        "RegionId",
        "RegionName",
        "ResourceId",
        "ResourceName",
        "ResourceType",
        "ServiceCategory",
        "ServiceName",
        "SkuId",
        "SkuPriceId",
        "SubAccountId",
        "SubAccountName",
        "Tags",
    ]
)
_V1_2: Final = _V1_0 | frozenset(
    [
        "BillingAccountType",
        "CapacityReservationId",
        "CapacityReservationStatus",
        "CommitmentDiscountQuantity",
        "CommitmentDiscountUnit",
        "InvoiceId",
        "PricingCurrency",
        "PricingCurrencyContractedUnitPrice",
        "PricingCurrencyEffectiveCost",
        "PricingCurrencyListUnitPrice",
        "ServiceSubcategory",
        "SkuMeter",
        "SkuPriceDetails",
        "SubAccountType",
    ]
)
_V1_4: Final = _V1_2 - {"ProviderName", "PublisherName"} | frozenset(
    [
        "AllocatedMethodDetails",
        "AllocatedMethodId",
        "AllocatedResourceId",
        "AllocatedResourceName",
        "AllocatedTags",
        "CommitmentProgramEligibilityDetails",
        "ContractApplied",
        "HostProviderName",
        "InvoiceDetailId",
        "ServiceProviderName",
    ]
)
_VERSIONS: Final = {"1.4": _V1_4, "1.2": _V1_2, "1.0": _V1_0}

OWN_COLUMNS: Final = (
    "x_JobId",
    "x_AttemptId",
    "x_Experiment",
    "x_Model",
    "x_ModelVersion",
    "x_Project",
    "x_User",
    "x_WasteCategory",
    "x_MeterConfidence",
    "x_PriceBookId",
    "x_EnergyKWh",
    "x_CarbonGrams",
    "x_Simulated",
    "x_Gpus",
    "x_GpuHours",
    "x_Late",
    "x_Corrects",
    "x_EnergySource",
    "x_Team",
    "x_CostCenter",
)
"""Ours, after all of FOCUS'. Energy is of an attempt's GPUs, with its last hour; carbon
of that by the hours of the attempt, with its building (PUE), by the cost model of its pool, where that says
what a kWh stands for; of a cloud's machine by the grid of its region alone.
`x_Corrects`: the event that posted the charge which a row is about. `x_EnergySource`: measured,
by counters, all of it; modelled, some of it is not; simulated, of devices that do not exist; unknown.
`x_Team`, `x_CostCenter`: whose it is by the table of the site, or by labels (docs/attribution.md)."""

DEFAULT_VERSION: Final = "1.4"

QUANTITY_PLACES: Final = 15
PRICE_PLACES: Final = 12

SCALES: Final = {
    "BilledCost": 9,
    "EffectiveCost": 9,
    "PricingCurrencyEffectiveCost": 9,
    "ListCost": PRICE_PLACES + QUANTITY_PLACES,
    "ContractedCost": PRICE_PLACES + QUANTITY_PLACES,
    "ListUnitPrice": PRICE_PLACES,
    "ContractedUnitPrice": PRICE_PLACES,
    "PricingCurrencyListUnitPrice": PRICE_PLACES,
    "PricingCurrencyContractedUnitPrice": PRICE_PLACES,
    "PricingQuantity": QUANTITY_PLACES,
    "ConsumedQuantity": QUANTITY_PLACES,
    "CommitmentDiscountQuantity": QUANTITY_PLACES,
    "x_Gpus": 3,
    "x_GpuHours": QUANTITY_PLACES,
    "x_EnergyKWh": 9,
    "x_CarbonGrams": 9,
}
"""Decimal columns and their places."""
INSTANTS: Final = frozenset(
    {"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"}
)


def focus_columns(version: str = DEFAULT_VERSION) -> tuple[str, ...]:
    """FOCUS columns by name, then ours. Raises `InvalidRequest` for a version that is not written."""
    found = _VERSIONS.get(version or DEFAULT_VERSION)
    if found is None:
        known = ", ".join(_VERSIONS)
        raise InvalidRequest(f"FOCUS {version[:20]!r} is not written; known: {known}")
    return (*sorted(found), *OWN_COLUMNS)
