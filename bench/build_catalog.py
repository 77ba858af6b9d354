"""Builds the cloud price books of `policies/catalog/` from the collected price tables.

Run     BURSAR_BENCH_DATA=<folder with prices/> python bench/build_catalog.py
Why     the shipped catalogue is curated: the machines people run models on, in a few regions, each
        price a fact with its date and source. The full tables stay outside; they are megabytes.

What is chosen, and what is not, is decided here and nowhere else:
- AWS us-east-1 is a list of 2026-07. Other regions: the P family from a snapshot of about 2026-01;
  the rest only from a list of 2025-03 that mixes in dedicated-tenancy prices, so a row is taken
  only when its ratio to us-east-1 is within 1 % of its family's and us-east-1 is unchanged since.
- AWS spot differs by availability zone: the median of the zones that have a spot market.
- GCP committed prices are monthly at 730 hours. Azure spot prices could not be had.
- Azure tables do not say what a size is, so the shapes below are from its documentation; sizes
  with a fraction of a GPU, and those whose shape we could not make sure of, are left out.
- Azure rows of some sizes have the licence of Windows in them (0.046 USD per vCPU more than their
  siblings): those are left out.
- A GPU type says nothing of its memory: `A100` with 40GB and with 80GB are told apart by
  `gpu_memory`, as in a job file (`A100:80GB:8`).
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("BURSAR_BENCH_DATA", ROOT.parent / "shared")) / "prices"
OUT = ROOT / "policies" / "catalog"
FILE_BYTES_MAX = 60_000

GPU_MEMORY_GB = {
    "T4": 16, "T4G": 16, "L4": 24, "L40S": 48, "A10": 24, "A10G": 24, "M60": 8, "V520": 8,
    "V620": 32, "V710": 28, "H200": 141, "B200": 180, "B300": 270, "GB200": 186, "MI300X": 192,
    "RTXPRO4500": 32, "RTXPRO6000": 96,
}  # fmt: skip
AWS_GPUS = {
    "T4": "T4", "T4g": "T4G", "A10G": "A10G", "L4": "L4", "L40S": "L40S", "V100": "V100",
    "RTX PRO 4500": "RTXPRO4500", "RTX PRO Server 6000": "RTXPRO6000", "A100": "A100",
    "H100": "H100", "H200": "H200", "B200": "B200", "B300": "B300", "Radeon Pro V520": "V520",
}  # fmt: skip
# vcpus, memory GiB, GPU, count, GPU memory GB: current tables no longer describe these.
AWS_OLD = {
    "p3.2xlarge": (8, 61, "V100", 1, 16),
    "p3.8xlarge": (32, 244, "V100", 4, 16),
    "p3.16xlarge": (64, 488, "V100", 8, 16),
    "g4ad.xlarge": (4, 16, "V520", 1, 8),
    "g4ad.2xlarge": (8, 32, "V520", 1, 8),
    "g4ad.4xlarge": (16, 64, "V520", 1, 8),
    "g4ad.8xlarge": (32, 128, "V520", 2, 8),
    "g4ad.16xlarge": (64, 256, "V520", 4, 8),
}
AZURE = {
    "Standard_NC4as_T4_v3": (4, 28, "T4", 1, 16),
    "Standard_NC8as_T4_v3": (8, 56, "T4", 1, 16),
    "Standard_NC16as_T4_v3": (16, 110, "T4", 1, 16),
    "Standard_NC64as_T4_v3": (64, 440, "T4", 4, 16),
    "Standard_NC12s_v3": (12, 224, "V100", 2, 16),
    "Standard_NC24s_v3": (24, 448, "V100", 4, 16),
    "Standard_NC24rs_v3": (24, 448, "V100", 4, 16),
    "Standard_ND40rs_v2": (40, 672, "V100", 8, 32),
    "Standard_NC24ads_A100_v4": (24, 220, "A100", 1, 80),
    "Standard_NC48ads_A100_v4": (48, 440, "A100", 2, 80),
    "Standard_NC96ads_A100_v4": (96, 880, "A100", 4, 80),
    "Standard_ND96asr_v4": (96, 900, "A100", 8, 40),
    "Standard_ND96amsr_A100_v4": (96, 1900, "A100", 8, 80),
    "Standard_NC40ads_H100_v5": (40, 320, "H100", 1, 94),
    "Standard_NC80adis_H100_v5": (80, 640, "H100", 2, 94),
    "Standard_NCC40ads_H100_v5": (40, 320, "H100", 1, 94),
    "Standard_ND96is_H100_v5": (96, 1900, "H100", 8, 80),
    "Standard_ND96isr_H100_v5": (96, 1900, "H100", 8, 80),
    "Standard_ND96isr_H200_v5": (96, 1850, "H200", 8, 141),
    "Standard_ND96isr_MI300X_v5": (96, 1850, "MI300X", 8, 192),
    "Standard_ND128isr_NDR_GB200_v6": (128, 900, "GB200", 4, 186),
    "Standard_NV36ads_A10_v5": (36, 440, "A10", 1, 24),
    "Standard_NV72ads_A10_v5": (72, 880, "A10", 2, 24),
    "Standard_NV12s_v3": (12, 112, "M60", 1, 8),
    "Standard_NV24s_v3": (24, 224, "M60", 2, 8),
    "Standard_NV48s_v3": (48, 448, "M60", 4, 8),
    "Standard_NG32ads_V620_v1": (32, 64, "V620", 1, 32),
    "Standard_NV24ads_V710_v5": (24, 160, "V710", 1, 28),
}
# Families of plain hosts and their GiB per vCPU.
AZURE_CPU = {"D{}s_v5": 4, "D{}as_v5": 4, "E{}s_v5": 8, "F{}s_v2": 2, "D{}s_v6": 4, "E{}s_v6": 8}
AZURE_SIZES = (2, 4, 8, 16, 32, 48, 64, 96)
AWS_CPU = re.compile(
    r"(?:m5|m6i|m6a|m7i|m7a|c5|c6i|c6a|c7i|c7a|r5|r6i|r7i)"
    r"\.(?:large|xlarge|2xlarge|4xlarge|8xlarge|16xlarge|24xlarge)|t3\.(?:medium|large|xlarge|2xlarge)"
)
AWS_GPU = re.compile(r"(?:p[3-9]|g[4-9]|gr[0-9])[a-z0-9-]*\.[a-z0-9]+")
GCP_CPU = re.compile(
    r"(?:e2|n2|n2d|n1)-(?:standard|highmem)-(?:2|4|8|16|32|64|96)|c3-standard-(?:4|8|22|44|88|176)"
    r"|c3d-standard-(?:4|8|16|30|60|90|180)|c4-standard-(?:2|4|8|16|32|48|96)|c2-standard-(?:8|16|30|60)"
)
GCP_GPUS = {"a100": ("A100", 40), "a100-80gb": ("A100", 80), "h100-80gb": ("H100", 80),
            "h100-80gb-mega": ("H100", 80), "l4": ("L4", 24)}  # fmt: skip
# The table leaves out what a G4 holds; smaller G4 sizes hold a fraction of a GPU.
GCP_G4 = {f"g4-standard-{48 * n}": n for n in (1, 2, 4, 8)}

Shape = tuple[int, Decimal, str, int, int]
"""vcpus, memory GiB, GPU type, count, memory GB of each."""


def rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of one collected table."""
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def price(value: Decimal) -> str:
    """A price of at most 9 places, without needless zeros."""
    text = f"{value.quantize(Decimal('1e-9'), rounding=ROUND_HALF_EVEN):f}"
    return f"{text.rstrip('0').rstrip('.')} USD/h"


def line(instance_type: str, amount: Decimal, shape: Shape | None) -> str:
    """One row of a price book."""
    parts = [f"instance_type: {instance_type}", f"price: {price(amount)}"]
    if shape is not None:
        cpus, memory_gib, gpu, count, gpu_gb = shape
        parts += [f"cpus: {cpus}", f"memory: {memory_gib.normalize():f}GiB"]
        if count:
            parts += [f"gpus: {gpu}:{count}", f"gpu_memory: {gpu_gb}GB"]
    return f"    - {{{', '.join(parts)}}}\n"


class Book:
    """One PriceBook document in the making."""

    def __init__(self, name: str, source: str, provider: str, region: str, market: str, day: str):
        self.name = name
        self.head = (
            f"kind: PriceBook\nname: {name}\nspec:\n  source: {source}\n  currency: USD\n"
            f"  defaults: {{provider: {provider}, region: {region}, market: {market}, "
            f"valid_from: {day}T00:00:00Z}}\n  prices:\n"
        )
        self.lines: list[str] = []

    def add(self, instance_type: str, amount: str | Decimal, shape: Shape | None) -> None:
        """Add a price; what is missing or zero in a table is not a price."""
        value = Decimal(amount or 0)
        if value > 0:
            self.lines.append(line(instance_type, value, shape))

    def text(self) -> str:
        """The document."""
        return self.head + "".join(self.lines)


def write(stem: str, comment: str, books: Iterable[Book]) -> None:
    """Write the books into as few files as the size limit allows."""
    head = "".join(f"# {text}\n" for text in comment.splitlines())
    files: list[str] = []
    for book in books:
        if not book.lines:
            continue
        body = book.text()
        if files and len(files[-1]) + len(body) + 4 < FILE_BYTES_MAX:
            files[-1] += f"---\n{body}"
        else:
            files.append(head + body)
    for number, text in enumerate(files):
        name = f"{stem}.yaml" if number == 0 else f"{stem}-{number + 1}.yaml"
        (OUT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(text)} bytes")


def aws_shapes() -> dict[str, Shape]:
    """What each AWS type is."""
    shapes: dict[str, Shape] = {}
    for row in rows("aws_instance_types_moto.csv.gz"):
        name = row["instance_type"]
        gpu, count, gpu_gb = "", 0, 0
        if AWS_GPU.fullmatch(name):
            gpu = AWS_GPUS.get(row["accelerator"], "")
            count = int(row["accel_count"] or 0)
            if not gpu or not count:
                continue
            gpu_gb = GPU_MEMORY_GB.get(gpu) or round(int(row["accel_mem_mib"]) / 1024)
        elif AWS_CPU.fullmatch(name) is None:
            continue
        memory = Decimal(row["memory_mib"]) / 1024
        shapes[name] = (int(row["vcpus"]), memory, gpu, count, gpu_gb)
    for name, (cpus, gib, gpu, count, gpu_gb) in AWS_OLD.items():
        shapes[name] = (cpus, Decimal(gib), gpu, count, gpu_gb)
    return shapes


def build_aws() -> None:
    """AWS: us-east-1, us-west-2, eu-central-1."""
    shapes = aws_shapes()
    listed = {
        row["instance_type"]: row["usd_per_hour"]
        for row in rows("aws_ondemand_karpenter.csv.gz")
        if row["region"] == "us-east-1"
    }
    zones = list(rows("aws_gpu_az_spot_skypilot_v8.csv.gz"))
    old = aws_trusted(listed)
    for region in ("us-east-1", "us-west-2", "eu-central-1"):
        demand = Book(
            f"aws-{region}",
            "AWS public price list, collected by karpenter-provider-aws, 2026-07-20"
            if region == "us-east-1"
            else "AWS public prices, collected by skypilot-catalog, about 2026-01 (day not known)",
            "aws", region, "on-demand", "2026-07-20" if region == "us-east-1" else "2026-01-01",
        )  # fmt: skip
        older = Book(
            f"aws-{region}-2025",
            "AWS public price list, collected by apache-libcloud, 2025-03-02 (older; checked "
            "against us-east-1)",
            "aws", region, "on-demand", "2025-03-02",
        )  # fmt: skip
        spot = Book(
            f"aws-{region}-spot",
            "AWS spot, median over zones, collected by skypilot-catalog, about 2026-01 "
            "(day not known)",
            "aws", region, "spot", "2026-01-01",
        )  # fmt: skip
        for name, shape in sorted(shapes.items()):
            here = [row for row in zones if (row["instance_type"], row["region"]) == (name, region)]
            fresh = [row["ondemand_usd_h"] for row in here if row["ondemand_usd_h"]]
            if region == "us-east-1":
                demand.add(name, listed.get(name, "0"), shape)
            elif fresh:
                demand.add(name, fresh[0], shape)
            else:
                older.add(name, old.get((name, region), "0"), shape)
            markets = sorted(Decimal(row["spot_usd_h"]) for row in here if row["spot_usd_h"])
            if markets:
                spot.add(name, statistics.median_high(markets), shape)
        write(f"aws-{region}", "Made by bench/build_catalog.py; edit that, not this.",
              (demand, older, spot))  # fmt: skip


def aws_trusted(listed: dict[str, str]) -> dict[tuple[str, str], str]:
    """Prices of the 2025 list that pass the two checks named above."""
    prices = {
        (row["instance_type"], row["region"]): Decimal(row["usd_per_hour"])
        for row in rows("aws_ondemand_regions_2025-03-02.csv.gz")
    }
    ratios: dict[tuple[str, str], dict[str, Decimal]] = {}
    for (name, region), amount in prices.items():
        base = Decimal(listed.get(name, "0"))
        if base:
            ratios.setdefault((name.split(".")[0], region), {})[name] = amount / base
    trusted: dict[tuple[str, str], str] = {}
    for (_, region), family in ratios.items():
        usual = statistics.median_low(family.values())
        for name, ratio in family.items():
            then, now = prices.get((name, "us-east-1")), Decimal(listed[name])
            unchanged = then is None or abs(then / now - 1) <= Decimal("0.01")
            if unchanged and abs(ratio / usual - 1) <= Decimal("0.01"):
                trusted[name, region] = str(prices[name, region])
    return trusted


def build_gcp() -> None:
    """GCP: us-central1, us-east4, europe-west4; on demand, spot and committed."""
    source = "GCP public prices, collected by Cyclenerd/google-cloud-pricing-cost-calculator, 2026-07-30"
    table = list(rows("gcp_prices_2026-07-30.csv.gz"))
    for region in ("us-central1", "us-east4", "europe-west4"):
        suffixes = {"on-demand": "", "spot": "-spot", "committed-1y": "-committed-1y",
                    "committed-3y": "-committed-3y"}  # fmt: skip
        books = {
            market: Book(f"gcp-{region}{suffix}", source, "gcp", region, market, "2026-07-30")
            for market, suffix in suffixes.items()
        }
        for row in sorted(table, key=lambda row: row["machine_type"]):
            name = row["machine_type"]
            if row["region"] != region or "." in row["vcpus"]:
                continue  # shared-core machines have parts of a CPU
            cpus, memory = int(row["vcpus"]), Decimal(row["ram_gib"])
            if row["gpu"]:
                kind, _, count = row["gpu"].rpartition("x")
                gpu, gpu_gb = GCP_GPUS[kind]
                shape = (cpus, memory, gpu, int(count), gpu_gb)
            elif name in GCP_G4:
                shape = (cpus, memory, "RTXPRO6000", GCP_G4[name], 96)
            elif GCP_CPU.fullmatch(name):
                shape = (cpus, memory, "", 0, 0)
            else:
                continue
            books["on-demand"].add(name, row["usd_hour"], shape)
            # The machine is described once; prices of other markets need not repeat it.
            books["spot"].add(name, row["usd_hour_spot"], None)
            for market, column in (("committed-1y", "usd_month_cud1y"),
                                   ("committed-3y", "usd_month_cud3y")):  # fmt: skip
                books[market].add(name, Decimal(row[column] or 0) / 730, None)
        write(f"gcp-{region}", "Made by bench/build_catalog.py; edit that, not this.",
              books.values())  # fmt: skip


def azure_windows(table: Mapping[tuple[str, str], str], region: str) -> set[str]:
    """Sizes whose listed price is not that of Linux: a family costs one price per vCPU in a region, and some
    rows have the licence of Windows in it. The lowest of a family is Linux; at least half of it must be.
    """
    found: set[str] = set()
    for family in AZURE_CPU:
        each = {
            name: Decimal(listed) / cpus
            for cpus in AZURE_SIZES
            if Decimal(listed := table.get((name := "Standard_" + family.format(cpus), region), "0") or 0)
        }
        dear = {name for name, per_cpu in each.items() if per_cpu > min(each.values()) * Decimal("1.02")}
        if 2 * len(dear) > len(each):
            raise SystemExit(f"{region}: prices of {family} do not agree: {each}")
        found |= dear
    return found


def build_azure() -> None:
    """Azure: eastus, eastus2, southcentralus, westeurope; on demand only, and Linux alone."""
    shapes: dict[str, Shape] = {
        name: (cpus, Decimal(gib), gpu, count, gpu_gb)
        for name, (cpus, gib, gpu, count, gpu_gb) in AZURE.items()
    }
    for family, per_cpu in AZURE_CPU.items():
        for cpus in AZURE_SIZES:
            if cpus > {"E": 48, "F": 64}.get(family[0], 96):
                continue  # the largest sizes do not follow the rule
            name = "Standard_" + family.format(cpus)
            shapes[name] = (cpus, Decimal(cpus * per_cpu), "", 0, 0)
    table = {
        (row["vm_size"], row["region"]): row["usd_per_hour"]
        for row in rows("azure_ondemand_2026-06-18.csv.gz")
    }
    for region in ("eastus", "eastus2", "southcentralus", "westeurope"):
        book = Book(
            f"azure-{region}",
            "Azure public prices, Linux, collected by karpenter-provider-azure, 2026-06-18",
            "azure", region, "on-demand", "2026-06-18",
        )  # fmt: skip
        windows = azure_windows(table, region)
        for name, shape in sorted(shapes.items()):
            if name not in windows:
                book.add(name, table.get((name, region), "0"), shape)
        comment = (
            "Made by bench/build_catalog.py; edit that, not this.\n"
            "Spot and reserved prices of Azure could not be had."
        )
        if windows:
            comment += f"\nLeft out, listed with Windows: {', '.join(sorted(windows))}."
        write(f"azure-{region}", comment, [book])


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for stale in [p for c in ("aws", "gcp", "azure") for p in OUT.glob(f"{c}-*.yaml")]:
        stale.unlink()
    build_aws()
    build_gcp()
    build_azure()
