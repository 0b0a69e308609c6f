"""What kernels cost on a CPU: the cycles of the tiles that codegen emits, the bytes that they stream, a launch each.

Every kernel has amounts of a few terms (`matmul_cycle_time`, `pool_byte_time`, ...), each multiplied by the calibrated
coefficient of that name. The staircase of the chip lies in the amounts: tails of tiles, channels padded to vectors,
blocks that don't divide by the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from chipfit.ir.kernels import Kernel, Work
from chipfit.targets.profile import Profile
from chipfit.targets.tiles import Tile, matmul_tile

# An FMA's latency and how many a core starts a cycle, as vector loads: Intel Golden Cove, Arm Cortex-A76 and most
# other wide cores (uops.info; Arm Cortex-A76 Software Optimization Guide). They shape the steps; the height is fitted.
FMA_LATENCY, FMA_PORTS, LOAD_PORTS = 4, 2, 2

# How far computing and streaming overlap: 1 not at all, infinity fully. Seen with prefetched weight panels on AVX-512.
OVERLAP = 3.0

PARTS = ("launch", "compute", "memory")
CALL = "call_time"  # the term that belongs to a call of the library, not to a kernel

Amounts = Mapping[str, float]
Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True, slots=True)
class Cpu:
    """What the tile picker asks about a CPU."""

    vector_bits: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    threads: int


def shape_of(profile: Profile) -> Cpu:
    names = ("vector_bits", "vector_registers", "l1_size", "l2_size", "cores")
    return Cpu(*(int(profile.si(name)) for name in names))


def terms_of(figures: Mapping[str, object]) -> tuple[str, ...]:
    """The coefficients among figures or rules: those that are times."""
    return tuple(name for name in figures if name.endswith("_time"))


def is_calibrated(profile: Profile) -> bool:
    return profile.family == "cpu" and bool(terms_of(profile.figures))


@dataclass(frozen=True)
class CpuModel:
    """The calibrated model of one CPU."""

    profile: Profile
    status: str = "calibrated"

    @property
    def call_ms(self) -> float:
        return 1e3 * self._seconds(CALL)

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        parts = dict.fromkeys(PARTS, 0.0)
        for term, amount in amounts(kernel.kind, work, shape_of(self.profile)).items():
            parts[part_of(term)] += amount * self._seconds(term)
        body = kernel_seconds(0.0, parts["compute"], parts["memory"])
        limit = "compute" if parts["compute"] > parts["memory"] else "memory"
        return {"launch": 1e3 * parts["launch"], limit: 1e3 * body}

    def interval(self, latency_ms: float) -> tuple[float, float]:
        factor = self.profile.si("interval_factor")
        return latency_ms / factor, latency_ms * factor

    def _seconds(self, term: str) -> float:
        return self.profile.si(term) if term in self.profile.figures else 0.0


def part_of(term: str) -> str:
    """The part of a kernel's time that a term belongs to, empty for the call's."""
    return {"launch": "launch", "cycle": "compute", "byte": "memory"}.get(term.split("_")[-2], "")


def kernel_seconds(launch: Number, compute: Number, memory: Number) -> Number:
    """The time of a kernel whose streaming partly hides behind its computing."""
    return launch + (compute**OVERLAP + memory**OVERLAP) ** (1 / OVERLAP)


def amounts(kind: str, work: Work, cpu: Cpu) -> Amounts:
    """How much of each term one kernel of that kind needs; a view needs nothing."""
    moved = (work.bytes_read + work.bytes_written) / cpu.threads
    if not moved and not work.flops:
        return {}
    tiled = TILED.get(kind)
    cycles = {f"{kind}_cycle_time": tiled(work.dims, cpu)} if tiled else {}
    return {"launch_time": 1.0, f"{kind}_byte_time": moved, **cycles}


def tile_cycles(rows: int, vectors: int) -> float:
    """Cycles of one step along k of a register tile: bound by FMA ports, FMA latency, or loads of its operands."""
    return max(rows * vectors / FMA_PORTS, float(FMA_LATENCY), (rows + vectors) / LOAD_PORTS)


def _split(size: int, step: int) -> tuple[int, int]:
    """Whole steps in a size, and the rest."""
    return divmod(size, step)


def _column_cycles(rows: int, tile: Tile, vectors: int) -> float:
    """Cycles, a step of k, of all rows under one panel that is `vectors` wide."""
    whole, tail = divmod(rows, tile.mr)
    return whole * tile_cycles(tile.mr, vectors) + (tile_cycles(tail, vectors) if tail else 0.0)


def blocked_cycles(rows: int, columns: int, k: int, batch: int, tile: Tile) -> float:
    """Cycles of the busiest thread over `batch` products of (rows, k) and (k, columns), tiled and shared out."""
    whole, rest = divmod(columns, tile.nr)
    full = tile.nr // tile.lanes
    last = math.ceil(rest / tile.lanes)
    if tile.order == "columns":
        blocks = batch * (whole + bool(rest))
        share = math.ceil(blocks / tile.threads)
        narrow = share * batch * bool(rest) / blocks  # narrower last panels among the busiest thread's
        wide = share - narrow
        return k * (
            wide * _column_cycles(rows, tile, full) + narrow * (_column_cycles(rows, tile, last) if rest else 0.0)
        )
    share = math.ceil(batch * math.ceil(rows / tile.mr) / tile.threads)
    tallest = min(rows, tile.mr)
    row_block = whole * tile_cycles(tallest, full) + (tile_cycles(tallest, last) if rest else 0.0)
    return k * share * row_block


def _matmul_cycles(dims: Mapping[str, int], cpu: Cpu) -> float:
    m, n, k = (dims[name] for name in ("m", "n", "k"))
    return blocked_cycles(m, n, k, dims["batch"], matmul_tile(cpu, m, n, k))


TILED: Mapping[str, Callable[[Mapping[str, int], Cpu], float]] = MappingProxyType({"matmul": _matmul_cycles})
