"""Small promises of small parts: a second closing, the widest number, what is not told, the second sample."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bursar.client.address import SOCKET_PATH_MAX, reachable
from bursar_agent.probes import machine
from bursar_agent.probes.gpm import METRICS, Gpm
from bursar_agent.probes.readings import Activity
from bursard.store import legs

WIDE = 1 << 63


def test_a_name_for_a_long_path_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("d" * SOCKET_PATH_MAX)
    folder.mkdir()
    made = reachable(folder / "sock")
    with made as short:
        fd = int(short.split("/")[4])
        assert short == f"/proc/self/fd/{fd}/sock"
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closed.append)
        made.close()
    assert closed == []


@pytest.mark.parametrize("length", [SOCKET_PATH_MAX - 1, SOCKET_PATH_MAX])
def test_a_path_that_fits_is_its_own_name(length: int) -> None:
    path = Path("/" + "a" * (length - 1))
    with reachable(path) as short:
        assert short == str(path)


@pytest.mark.parametrize(
    ("nanos", "kept"),
    [
        (0, 0),
        (WIDE - 1, WIDE - 1),
        (-WIDE, -WIDE),
        (WIDE, str(WIDE)),
        (-WIDE - 1, str(-WIDE - 1)),
    ],
)
def test_an_amount_is_kept_as_a_number_as_long_as_64_bits_hold_it(nanos: int, kept: int | str) -> None:
    packed = legs.pack([("site/idle", nanos), ("job/job_1", 5)], {"site/idle": 3}, "job_1")
    assert msgspec.msgpack.decode(packed) == [3, kept, 0, 5]
    assert legs.unpack(packed, {3: "site/idle"}, "job_1") == (("site/idle", nanos), ("job/job_1", 5))


def test_an_account_of_another_job_is_named_whole() -> None:
    packed = legs.pack([("job/job_2", 1)], {}, "job_1")
    assert msgspec.msgpack.decode(packed) == ["job/job_2", 1]
    assert legs.unpack(packed, {}, "job_1") == (("job/job_2", 1),)
    assert msgspec.msgpack.decode(legs.pack([("job/job_2", 1)], {})) == ["job/job_2", 1]


def test_memory_that_is_not_told_is_none(tmp_path: Path) -> None:
    """1. No total is no memory, whatever the groups allow. 2. The roots are the kernel's."""
    (tmp_path / "meminfo").write_text("MemFree: 5 kB\nHugePages_Total: 7\n")
    assert machine.memory_bytes(tmp_path, tmp_path / "none") == 0
    assert machine.meminfo(tmp_path) == {"MemFree": 5120, "HugePages_Total": 7}
    assert (str(machine.PROC), str(machine.CGROUP)) == ("/proc", "/sys/fs/cgroup")


class Nvml:
    """Three samples of one device: what is asked for is which two are compared."""

    NVML_GPM_METRICS_GET_VERSION = 4

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.compared: list[tuple[str, str]] = []
        self.fails = False
        self.made = 0

    def nvmlGpmQueryDeviceSupport(self, handle: Any) -> Any:
        return SimpleNamespace(isSupportedDevice=1)

    def nvmlGpmSampleAlloc(self) -> str:
        self.made += 1
        return f"sample-{self.made}"

    def nvmlGpmSampleGet(self, handle: Any, sample: str) -> None:
        if self.fails:
            raise RuntimeError("driver")
        self.taken.append(sample)

    def c_nvmlGpmMetricsGet_t(self) -> Any:
        return SimpleNamespace(metrics=[SimpleNamespace(value=0.0, nvmlReturn=0) for _ in range(16)])

    def nvmlGpmMetricsGet(self, wanted: Any) -> None:
        assert (wanted.version, wanted.numMetrics) == (4, len(METRICS))
        self.compared.append((wanted.sample1, wanted.sample2))
        for place, metric in enumerate(wanted.metrics[: len(METRICS)]):
            assert metric.metricId == list(METRICS.values())[place]
            metric.value = 10.0 * (place + 1)


def test_each_look_compares_the_last_sample_with_a_new_one() -> None:
    nvml = Nvml()
    device = Gpm(nvml, "gpu")
    assert device.activity() == Activity()
    found = [device.activity(), device.activity()]
    assert nvml.taken == ["sample-2", "sample-1", "sample-2"]
    assert nvml.compared == [("sample-2", "sample-1"), ("sample-1", "sample-2")]
    assert [getattr(found[0], name) for name in METRICS] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_after_a_failure_nothing_is_told_until_there_are_two_samples_again() -> None:
    nvml = Nvml()
    device = Gpm(nvml, "gpu")
    device.activity()
    nvml.fails = True
    assert device.activity() == Activity()
    nvml.fails = False
    assert device.activity() == Activity()
    assert nvml.compared == []
    assert device.activity() != Activity()
