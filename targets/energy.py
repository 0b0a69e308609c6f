"""Energy of kernels: operations and bytes by level of memory, each times what a published table says that one takes.

The table is Horowitz's (Computing's energy problem, ISSCC 2014), of 45 nm at 0.9 V, scaled to the chip's process. What
instructions, control, leakage and idle parts take is in no figure: the energies rank configurations and chips, they
are no measurements, and a chip takes more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.profile import Profile

STATUS = "uncalibrated"
PROCESS, MEMORY_ENERGY = "process_node", "memory_energy"

# Levels of memory: buffers of some 32 KiB beside the arithmetic, caches of some 1 MiB, memory.
NEAR, CACHE, MEMORY = "near", "cache", "memory"
Traffic = Mapping[str, float]  # level -> bytes

# Picojoules of one operation, of which a multiply-add has two: the mean of a multiplication and an addition.
# The addition after a product of int8 is one of 32 bits. bfloat16 is taken to be as fp16.
OPERATION: Mapping[torch.dtype, float] = MappingProxyType(
    {
        torch.float16: (1.1 + 0.4) / 2,
        torch.bfloat16: (1.1 + 0.4) / 2,
        torch.int8: (0.2 + 0.1) / 2,
        torch.uint8: (0.2 + 0.1) / 2,
    }
)
WIDEST = (3.7 + 0.9) / 2  # fp32, and whatever else there is
BYTE: Traffic = MappingProxyType({NEAR: 20 / 8, CACHE: 100 / 8})  # of 64 bits from caches of 32 KiB and 1 MiB

# Nanometres -> quadratic fit of the energy of a gate in volts, and the volts that are usual there: tables 5 and 2 of
# Stillmaker and Baas, Integration 58 (2017), for high performance. 45 nm stands at the voltage of Horowitz's table.
PROCESSES: Mapping[int, tuple[tuple[float, float, float], float]] = MappingProxyType(
    {
        45: ((1.018, -0.3107, 0.1539), 0.90),
        32: ((0.8367, -0.4341, 0.1701), 0.97),
        20: ((0.3730, -0.1582, 0.04104), 0.90),
        16: ((0.2958, -0.1241, 0.03024), 0.86),
        14: ((0.2363, -0.09675, 0.02239), 0.86),
        10: ((0.2068, -0.09311, 0.02375), 0.83),
        7: ((0.1776, -0.09097, 0.02447), 0.80),
    }
)


def process_factor(nanometres: float) -> float:
    """Energy of a gate over one at 45 nm. A process between two that were fitted counts as the coarser; one below 7 nm
    as 7 nm, the finest that the source has."""
    coarser = [process for process in PROCESSES if process >= nanometres]
    return _gate(min(coarser, default=max(PROCESSES))) / _gate(max(PROCESSES))


def _gate(process: int) -> float:
    (square, linear, constant), volts = PROCESSES[process]
    return square * volts**2 + linear * volts + constant


@dataclass(frozen=True)
class EnergyTable:
    """What a chip's operations and bytes take. Memory has its own process: its figure is not scaled."""

    profile: Profile

    @staticmethod
    def of(profile: Profile) -> EnergyTable | None:
        """None for a chip that doesn't say what a byte of its memory takes."""
        return EnergyTable(profile) if MEMORY_ENERGY in profile.figures else None

    @property
    def scaled(self) -> bool:
        """Whether the chip names its process; else the figures are those of 45 nm."""
        return PROCESS in self.profile.figures

    @cached_property
    def _factor(self) -> float:
        return process_factor(self.profile.figures[PROCESS].value) if self.scaled else 1.0

    @cached_property
    def _bytes(self) -> Traffic:
        """Picojoules of a byte at each level."""
        logic = {level: picojoules * self._factor for level, picojoules in BYTE.items()}
        return {**logic, MEMORY: self.profile.figures[MEMORY_ENERGY].value}

    def kernel_mj(self, kernel: Kernel, work: Work, traffic: Traffic) -> float:
        """Millijoules of a kernel that moves so many bytes at each level."""
        operation = OPERATION.get(kernel.multiplied, WIDEST) * self._factor
        moved = math.fsum(amount * self._bytes[level] for level, amount in traffic.items())
        return 1e-9 * (work.flops * operation + moved)
