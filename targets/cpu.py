"""What kernels cost on a CPU: the cycles of the tiles that codegen emits, the bytes that they stream, a launch each.

Every kernel has amounts of a few terms (`matmul_cycle_time`, `pool_byte_time`, ...), each multiplied by the calibrated
coefficient of that name (`amounts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import FLOPS, Work
from chipfit.targets.amounts import COLD, CYCLES, PARTS, ROUNDED, Cpu, amounts, part_of, shape_of
from chipfit.targets.energy import CACHE, MEMORY, NEAR, Traffic
from chipfit.targets.kernel_model import Cold, Interval, interval_around
from chipfit.targets.products import products
from chipfit.targets.profile import Profile
from chipfit.targets.storage import Storage
from chipfit.targets.tile import lanes
from chipfit.targets.tiles import candidates

# How far computing and streaming overlap: 1 not at all, infinity fully. Seen with prefetched weight panels on AVX-512.
OVERLAP = 3.0

CALL, INPUT = "call_time", "input_byte_time"  # terms of no kernel: a call of the library, a byte of its inputs

CACHED = "cached_weights"  # the figure that says how many bytes of weights the caches hold from call to call

# Cycles of a vector's exponential, two operations each: the 19 of codegen's polynomial. The other functions are alike.
FUNCTION_CYCLES = 9.5

Number = TypeVar("Number", float, np.ndarray)


def terms_of(figures: Mapping[str, object]) -> tuple[str, ...]:
    """The coefficients among figures or rules: those that are times."""
    return tuple(name for name in figures if name.endswith("_time"))


def is_calibrated(profile: Profile) -> bool:
    return profile.family == "cpu" and bool(terms_of(profile.figures))


def derived_seconds(profile: Profile) -> Mapping[str, float]:
    """The coefficients of a CPU that nobody timed, from its peak and bandwidth: a bound from below on each term.

    The tile model's cycle starts two multiply-adds of a vector on each core; at the peak that takes this long. Threads
    share the bandwidth. Launches and calls, for which there is no figure, take no time.
    """
    cpu = shape_of(profile)
    cycle = 4 * lanes(cpu) * cpu.threads / profile.si("fp32_peak")
    byte = cpu.threads / profile.si("memory_bandwidth")
    found = {f"{kind}_cycle_time": cycle for kind in (*CYCLES, "winograd", *ROUNDED)}
    found |= {f"{kind}_byte_time": byte for kind in (*FLOPS, "attention", "filter", "patch", "result")}
    return {**found, "function_cycle_time": FUNCTION_CYCLES * cycle}


@dataclass(frozen=True)
class CpuModel:
    """The model of one CPU: calibrated if its profile holds measured coefficients, else with derived ones.

    `from_memory`: weights are read from there, as no cache holds them.
    """

    profile: Profile
    from_memory: bool = False

    @property
    def status(self) -> str:
        return "calibrated" if is_calibrated(self.profile) else "uncalibrated"

    @property
    def granularity(self) -> int:
        return lanes(self._shape)

    @cached_property
    def cold(self) -> Cold | None:
        if not is_calibrated(self.profile) or CACHED not in self.profile.figures:
            return None
        return Cold(replace(self, from_memory=True), self.profile.si(CACHED))

    @cached_property
    def storage(self) -> Storage:
        return Storage(self._shape)

    def call_ms(self, input_bytes: int) -> float:
        return 1e3 * (self._seconds(CALL) + input_bytes * self._seconds(INPUT))

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        parts = dict.fromkeys(PARTS, 0.0)
        for term, amount in amounts(kernel, work, self._shape).items():
            if term != COLD or self.from_memory:
                parts[part_of(term)] += amount * self._seconds(term)
        body = kernel_seconds(0.0, parts["compute"], parts["memory"])
        limit = "compute" if parts["compute"] > parts["memory"] else "memory"
        return {"launch": 1e3 * parts["launch"], limit: 1e3 * body}

    def traffic(self, kernel: Kernel, work: Work) -> Traffic:
        """Products load their factors from the first-level cache, as often as the largest register tile has to."""
        moved = work.bytes_read + work.bytes_written
        operands = sum(product.operations for product in products(kernel, work)) / 2 * self._loads
        return {MEMORY: moved, CACHE: moved, NEAR: max(moved, operands)}

    def interval(self, latency_ms: float) -> Interval | None:
        return interval_around(self.profile, latency_ms)

    @cached_property
    def _shape(self) -> Cpu:
        return shape_of(self.profile)

    @cached_property
    def _loads(self) -> float:
        """Bytes loaded for a multiply-add."""
        tiles = candidates(self._shape, self._shape.registers, self._shape.registers)
        return 4 * min(1 / rows + 1 / (vectors * lanes(self._shape)) for rows, vectors in tiles)

    @cached_property
    def _coefficients(self) -> Mapping[str, float]:
        if not is_calibrated(self.profile):
            return derived_seconds(self.profile)
        return {term: self.profile.si(term) for term in terms_of(self.profile.figures)}

    def _seconds(self, term: str) -> float:
        return self._coefficients.get(term, 0.0)


def kernel_seconds(launch: Number, compute: Number, memory: Number) -> Number:
    """The time of a kernel whose streaming partly hides behind its computing."""
    body: Number = (compute**OVERLAP + memory**OVERLAP) ** (1 / OVERLAP)
    total: Number = launch + body
    return total


MODEL = CpuModel
