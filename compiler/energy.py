"""Energy as a counter of the machine tells it, where it has one that this user may read.

`targets/energy.py` estimates; this measures, of the whole processor or board with all else that runs on it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
SECONDS = 2.0  # of repeated calls: counters advance about once a millisecond


class Counter(Protocol):
    def read(self) -> float:
        """Millijoules since some moment."""

    def between(self, before: float, after: float) -> float:
        """Millijoules from one reading to a later one."""


@dataclass(frozen=True)
class Rapl:
    """The zones of the processor's packages (https://docs.kernel.org/power/powercap/powercap.html)."""

    packages: tuple[Path, ...]

    def read(self) -> float:
        return sum(_microjoules(package / "energy_uj") for package in self.packages) / 1e3

    def between(self, before: float, after: float) -> float:
        """A package's counter that passed its end starts anew; none does so twice in a few seconds."""
        turn = max(_microjoules(package / "max_energy_range_uj") for package in self.packages) / 1e3
        return after - before if after >= before else after - before + turn


@dataclass(frozen=True)
class Nvml:
    """The board's counter, of Volta GPUs and later (NVML API Reference, nvmlDeviceGetTotalEnergyConsumption)."""

    library: ctypes.CDLL
    device: ctypes.c_void_p

    def read(self) -> float:
        total = ctypes.c_ulonglong()
        if self.library.nvmlDeviceGetTotalEnergyConsumption(self.device, ctypes.byref(total)):
            raise OSError("NVML's energy counter could be read before and can't be read any more.")
        return float(total.value)

    def between(self, before: float, after: float) -> float:
        return after - before


def find_counter(family: str, powercap: Path = POWERCAP) -> Counter | None:
    """What counts the energy of this machine's chip of a family; None if nothing does, or not for this user."""
    finders: dict[str, Callable[[], Counter | None]] = {"cpu": lambda: _rapl(powercap), "gpu": _nvml}
    return finders[family]() if family in finders else None


def measured_mj(counter: Counter, call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Millijoules of one call in the mean of many."""
    call()
    before, calls, end = counter.read(), 0, time.perf_counter() + seconds
    while time.perf_counter() < end or not calls:
        call()
        calls += 1
    return counter.between(before, counter.read()) / calls


def _rapl(powercap: Path) -> Rapl | None:
    packages = tuple(_readable(sorted(powercap.glob("intel-rapl:*"))))
    return Rapl(packages) if packages else None


def _readable(zones: Iterable[Path]) -> Iterable[Path]:
    """Whole packages, not the parts that are counted in them; most systems let only their administrator read these."""
    for zone in zones:
        try:
            if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package"):
                _microjoules(zone / "energy_uj")
                yield zone
        except OSError:
            continue


def _microjoules(file: Path) -> int:
    return int(file.read_text())


def _nvml() -> Nvml | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    device, total = ctypes.c_void_p(), ctypes.c_ulonglong()
    asked = (
        library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)),
        library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(total)),
    )
    return None if any(asked) else Nvml(library, device)
