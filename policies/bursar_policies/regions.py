"""What a kWh of the grid stands for in regions of clouds: tenths of a gram of CO2e, without the building.

Source  the mix of the country in 2022 or 2023 (Our World in Data, CC BY, as codecarbon 3.3.2 has it), of the
        state in the United States (eGRID 2023), and Google's own figures for its regions. Which country a
        region is in is our own mapping. Yearly means of a grid: what a provider buys is in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final


def grams_of(provider: str, region: str) -> Fraction | None:
    """Grams of CO2e for a kWh in a region of `aws`, `azure` or `gcp`, or a zone of one; None: not known."""
    known = _TENTHS.get(provider, {})
    for name in (region, region[:-1].removesuffix("-")):
        if name in known:
            return Fraction(known[name], 10)
    return None


def _read(text: str) -> Mapping[str, int]:
    pairs = (word.partition("=") for word in text.split())
    return {region: int(tenths) for region, _, tenths in pairs}


_TENTHS: Final[Mapping[str, Mapping[str, int]]] = {
    "aws": _read(
        """
        af-south-1=7077 ap-east-1=6995 ap-east-2=6424 ap-northeast-1=4854 ap-northeast-2=4306
        ap-northeast-3=4854 ap-south-1=7134 ap-south-2=7134 ap-southeast-1=4708 ap-southeast-2=5487
        ap-southeast-3=6759 ap-southeast-4=5487 ap-southeast-5=6058 ap-southeast-7=5496
        ca-central-1=1700 ca-west-1=1700 eu-central-1=3809 eu-central-2=348 eu-north-1=407
        eu-south-1=3307 eu-south-2=1741 eu-west-1=2908 eu-west-2=2376 eu-west-3=560 il-central-1=5829
        me-central-1=5611 me-south-1=9046 mx-central-1=5072 sa-east-1=983 us-east-1=2448 us-east-2=4846
        us-gov-east-1=4846 us-gov-west-1=1655 us-west-1=1791 us-west-2=1655
        """
    ),
    "azure": _read(
        """
        australiacentral=5487 australiacentral2=5487 australiaeast=5487 australiasoutheast=5487
        austriaeast=1108 brazilsouth=983 brazilsoutheast=983 canadacentral=1700 canadaeast=1700
        centralindia=7134 centralus=2876 chilecentral=2911 eastasia=6995 eastus=2448 eastus2=2448
        francecentral=560 francesouth=560 germanynorth=3809 germanywestcentral=3809
        indonesiacentral=6759 israelcentral=5829 italynorth=3307 japaneast=4854 japanwest=4854
        jioindiacentral=7134 jioindiawest=7134 koreacentral=4306 koreasouth=4306 malaysiawest=6058
        mexicocentral=5072 newzealandnorth=1128 northcentralus=2152 northeurope=2908 norwayeast=301
        norwaywest=301 polandcentral=6619 qatarcentral=6025 southafricanorth=7077 southafricawest=7077
        southcentralus=3498 southeastasia=4708 southindia=7134 spaincentral=1741 swedencentral=407
        swedensouth=407 switzerlandnorth=348 switzerlandwest=348 uaecentral=5611 uaenorth=5611
        uksouth=2376 ukwest=2376 westcentralus=8316 westeurope=2676 westindia=7134 westus=1791
        westus2=1209 westus3=3126
        """
    ),
    "gcp": _read(
        """
        africa-south1=6460 asia-east1=4510 asia-east2=3600 asia-northeast1=4590 asia-northeast2=3850
        asia-northeast3=3780 asia-south1=6480 asia-south2=5290 asia-southeast1=3690 asia-southeast2=5800
        australia-southeast1=5010 australia-southeast2=4560 europe-central2=7230 europe-north1=460
        europe-southwest1=1310 europe-west1=1220 europe-west10=3450 europe-west12=2490 europe-west2=1360
        europe-west3=3450 europe-west4=2360 europe-west6=590 europe-west8=2490 europe-west9=340
        me-cenrtal1=5750 me-central2=5690 me-west1=4630 northamerica-northeast1=20
        northamerica-northeast2=470 southamerica-east1=560 southamerica-west1=1380 us-central1=4300
        us-east1=5600 us-east4=3220 us-east5=3220 us-south1=3210 us-west1=940 us-west2=1980
        us-west3=5880 us-west4=3730
        """
    ),
}
