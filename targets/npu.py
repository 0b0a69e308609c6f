"""What kernels cost on an NPU of the Ascend kind: cubes fed through L1 and L0, vector cores through their buffers.

A cube multiplies blocks of 16 x 16 x 16, or of int8 16 x 32 x 16 (Huawei's DaVinci, Hot Chips 31), so every size of a
product counts as the next multiple of that. Each buffer holds two tiles at a time, one that is filled while the other
is used. Cubes and vector cores work at the same time. Nothing here ever ran on an NPU: `uncalibrated`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.energy import CACHE, MEMORY, NEAR, Traffic
from chipfit.targets.products import Product, beside, padded, products, rounded_source
from chipfit.targets.profile import Profile

BLOCK = 16  # rows and columns of what a cube multiplies at once
STEP = 32  # bytes of its depth
SIDES = (16, 32, 64, 128, 256, 512)  # of tiles
SPLITS = (1, 2, 4, 8, 16)  # parts that a long sum is cut into where there are fewer tiles than cubes
HALF, SUM = 2, 4  # bytes of a number in L1 and L0 at most, and of one in the accumulators
ROUNDING = 2  # operations on a number that is rounded to int8: its product with the steps, and the rounding
GRAIN = 32  # bytes that rows in a vector core's buffer are multiples of (Huawei's AscendNPU-IR, device specifications)
CUBE, L1, L2, DRAM, VECTOR, UB, LAUNCH = "cube", "l1", "l2", "dram", "vector", "ub", "launch"


@dataclass(frozen=True, slots=True)
class Npu:
    """Sizes in bytes; operations and bytes a second of one core, and of the memory that all share."""

    cubes: int
    cube: float
    cube_int8: float
    l0a_size: float
    l0b_size: float
    l0c_size: float
    l1_size: float
    l1: float
    l2_read: float
    l2_write: float
    dram: float
    vectors: int
    vector: float  # bytes of operands
    ub: float
    ub_size: float


def npu_of(profile: Profile) -> Npu:
    si, clock = profile.si, profile.si("clock")
    cubes = int(si("cube_cores"))

    def peak(name: str) -> float:
        return si(name) * si("matrix_efficiency") / cubes

    def rate(path: str) -> float:
        return clock * si(f"{path}_bytes_per_cycle")

    return Npu(
        cubes=cubes,
        cube=peak("fp16_peak"),
        cube_int8=peak("int8_peak" if "int8_peak" in profile.figures else "fp16_peak"),
        l0a_size=si("l0a_size"),
        l0b_size=si("l0b_size"),
        l0c_size=si("l0c_size"),
        l1_size=si("l1_size"),
        l1=rate("l1"),
        l2_read=rate("l2_read"),
        l2_write=rate("l2_write"),
        dram=si("memory_bandwidth") * si("memory_efficiency"),
        vectors=int(si("vector_cores")),
        vector=rate("vector"),
        ub=rate("ub"),
        ub_size=si("ub_size"),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds that a product keeps the busiest cube and its paths busy, and bytes that all cubes move."""

    seconds: Mapping[str, float]
    l1_bytes: float
    l2_bytes: float
    dram_bytes: float

    @property
    def longest(self) -> float:
        return max(self.seconds.values())


@dataclass(frozen=True)
class NpuModel:
    """Each kernel takes a launch and the longest of what its units and its paths do at the same time.

    A graph in fp32 is multiplied in fp16: the cube has no figure for anything else but int8, and where it has none for
    that it counts as fast as fp16. What a convolution of int8 reads the vector cores round.
    """

    profile: Profile
    status: str = "uncalibrated"
    granularity: int = BLOCK
    cold: None = None
    storage: None = None

    @cached_property
    def npu(self) -> Npu:
        return npu_of(self.profile)

    def call_ms(self, input_bytes: int) -> float:
        """Nothing: inputs are taken to lie in the chip's memory."""
        return 0.0

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        if not work.bytes_written:
            return {LAUNCH: 0.0}
        plans, unit = self._plans(kernel, work), "cube" if products(kernel, work) else "vector"
        spent = self._vector_seconds(kernel, work)
        for plan in plans:
            spent = {path: spent.get(path, 0.0) + plan.seconds.get(path, 0.0) for path in (*spent, *plan.seconds)}
        if not plans:
            spent[DRAM] = (work.bytes_read + work.bytes_written) / self.npu.dram
        limit = max(spent, key=lambda path: spent[path])
        return {LAUNCH: 1e3 * self.profile.si(f"{unit}_launch_time"), limit: 1e3 * spent[limit]}

    def traffic(self, kernel: Kernel, work: Work) -> Traffic:
        moved, plans = work.bytes_read + work.bytes_written, self._plans(kernel, work)
        near, cache, memory = (
            math.fsum(getattr(plan, name) for plan in plans) for name in ("l1_bytes", "l2_bytes", "dram_bytes")
        )
        return {NEAR: max(near, moved), CACHE: max(cache, moved), MEMORY: max(memory, moved)}

    def interval(self, latency_ms: float) -> None:
        return None

    def _plans(self, kernel: Kernel, work: Work) -> list[Plan]:
        """Of each product; what a kernel reads from memory and writes there counts with its first."""
        items = kernel.multiplied.itemsize, kernel.anchor.outputs[0].type.dtype.itemsize
        moved = work.bytes_read + work.bytes_written
        found = products(kernel, work, STEP // width_of(items[0]))
        return [product_plan(self.npu, one, items, 0 if index else moved) for index, one in enumerate(found)]

    def _vector_seconds(self, kernel: Kernel, work: Work) -> dict[str, float]:
        """Of what is in no product. A row that is longer than half of a buffer passes through it twice."""
        found = products(kernel, work)
        item = kernel.anchor.outputs[0].type.dtype.itemsize
        operations = beside(work, found)
        row = work.dims.get("width", 1) * item
        passes = 2 if kernel.kind == "reduce" and 2 * row > self.npu.ub_size else 1
        waste = padded(row, GRAIN) / row if kernel.kind == "reduce" else 1.0
        cores = min(self.npu.vectors, work.dims["rows"]) if kernel.kind == "reduce" else self.npu.vectors
        if not found:
            moved = passes * work.bytes_read + work.bytes_written
        else:  # what a cube computed goes through the buffers of the vector cores and back
            moved = 2 * item * work.dims["elements"] if operations else 0
        source = rounded_source(kernel, work)
        operations, moved = operations + ROUNDING * source, moved + (item + 1) * source
        return {VECTOR: waste * operations * item / (cores * self.npu.vector), UB: moved / (cores * self.npu.ub)}


def width_of(item: int) -> int:
    """Bytes in L1 and L0 of a number that takes `item` in memory."""
    return min(item, HALF)


@lru_cache(maxsize=65536)
def product_plan(npu: Npu, product: Product, items: tuple[int, int], moved: int) -> Plan:
    """The shortest of all tiles that fit, at all splits of the sum. `items`: bytes of a factor's number, a result's."""
    sides = itertools.product(SIDES, SIDES)
    fitting = [tile for tile in sides if fits(npu, *tile)]
    plans = (tiled(npu, product, items, moved, tile, split) for tile in fitting for split in SPLITS)
    return min(plans, key=lambda plan: plan.longest)


def fits(npu: Npu, rows: int, columns: int) -> bool:
    """Whether two tiles fit into each buffer, at the least depth, whose bytes are the same in fp16 and int8."""
    first, second = STEP * rows, STEP * columns
    loaded = 2 * first <= npu.l0a_size and 2 * second <= npu.l0b_size and 2 * (first + second) <= npu.l1_size
    return loaded and 2 * SUM * rows * columns <= npu.l0c_size


def tiled(npu: Npu, product: Product, items: tuple[int, int], moved: int, tile: tuple[int, int], split: int) -> Plan:
    """The product in tiles dealt out to the cubes; rows of the first factor stay in L1 where half of it holds them."""
    rows, columns = (min(side, padded(size, BLOCK)) for side, size in zip(tile, (product.m, product.n), strict=True))
    factor, result = items
    width = width_of(factor)
    depth = padded(math.ceil(product.k / split), STEP // width)
    strips = product.count * math.ceil(product.m / rows) * split
    tiles = strips * math.ceil(product.n / columns)
    each = math.ceil(tiles / npu.cubes)
    stays = 2 * width * rows * depth <= npu.l1_size
    firsts = math.ceil(strips / npu.cubes) if stays else each
    read = factor * depth * (firsts * rows + each * columns)
    written = (SUM if split > 1 else result) * each * rows * columns
    partial = 2 * SUM * split * product.count * product.m * product.n if split > 1 else 0
    seconds = {
        CUBE: each * 2 * rows * columns * depth / (npu.cube if width == HALF else npu.cube_int8),
        L1: each * width * depth * max(rows, columns) / npu.l1,
        L2: read / npu.l2_read + written / npu.l2_write,
        DRAM: (moved + partial) / npu.dram,
    }
    busy = min(tiles, npu.cubes)
    return Plan(seconds, tiles * width * depth * (rows + columns), busy * (read + written), moved + partial)


MODEL = NpuModel
