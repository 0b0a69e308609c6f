"""What kernels cost on a GPU: tiles of a product dealt out to cores in waves, bytes of L2 and memory, a launch each.

The staircase of the chip lies in the tiles: a product is computed in whole ones, and the last wave takes as long as a
full one (NVIDIA, Matrix Multiplication Background User's Guide, on tile and wave quantization). Where nobody timed the
chip it is uncalibrated, and the peaks are its maker's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.energy import CACHE, MEMORY, NEAR, Traffic
from chipfit.targets.kernel_model import FACTOR, Interval, interval_around
from chipfit.targets.products import Product, beside, padded, products, rounded_source
from chipfit.targets.profile import Profile

# Blocks of the output that a core computes at a time: those of the guide's section on tile dimensions.
TILES = ((256, 128), (128, 256), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64))
SPLITS = (1, 2, 4, 8, 16, 32)  # parts that a long sum is cut into where there are fewer tiles than cores
STEP = 32  # numbers along the sum that a core fetches at a time, into one of two buffers
ALIGNED = 16  # bytes that rows of a tensor core's factors are multiples of; numbers in a step of its sum
SUM = 4  # bytes of a partial sum
ROUNDING = 4 + 1 + 1  # bytes that rounding moves of a number: read as fp32, written in int8, read so by the product
TENSOR, PLAIN, L2, DRAM, LAUNCH = "tensor core", "fp32", "l2", "dram", "launch"


@dataclass(frozen=True, slots=True)
class Gpu:
    """Operations and bytes a second of the whole chip, 0 for what its profile doesn't tell; sizes in bytes."""

    cores: int
    plain: float
    half: float
    byte: float
    l2: float
    dram: float
    l2_size: float
    shared_size: float

    def unit(self, item: int) -> tuple[str, float]:
        """What multiplies numbers of so many bytes, and how fast."""
        rate = {2: self.half, 1: self.byte}.get(item, 0.0)
        return (TENSOR, rate) if rate else (PLAIN, self.plain)


def gpu_of(profile: Profile) -> Gpu:
    def told(name: str) -> float:
        return profile.si(name) if name in profile.figures else 0.0

    matrix, memory = (told(f"{part}_efficiency") or 1.0 for part in ("matrix", "memory"))
    plain, half, byte = (told(f"{kind}_peak") * matrix for kind in ("fp32", "fp16", "int8"))
    cores = int(told("cores"))
    l2 = cores * told("clock") * told("l2_bytes_per_cycle")
    dram, l2_size, shared_size = told("memory_bandwidth") * memory, told("l2_size"), told("shared_size")
    return Gpu(cores, plain, half, byte, l2, dram, l2_size or math.inf, shared_size or math.inf)


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds that a product keeps its unit busy, and bytes that it moves through L2 and to and from memory."""

    unit: str
    busy: float
    l2_bytes: float
    dram_bytes: float

    def seconds(self, gpu: Gpu) -> Mapping[str, float]:
        through_l2 = self.l2_bytes / gpu.l2 if gpu.l2 else 0.0
        return {self.unit: self.busy, L2: through_l2, DRAM: self.dram_bytes / gpu.dram}


@dataclass(frozen=True)
class GpuModel:
    """Each kernel takes the longest of computing, reading L2, reading memory, and a launch.

    Launches are asynchronous (CUDA C++ Programming Guide): one passes while the kernel before it works. What a
    convolution of int8 reads another kernel has rounded before.
    """

    profile: Profile
    granularity: int = ALIGNED // 2  # of fp16, what a tensor core's factors are padded to
    cold: None = None
    storage: None = None

    @property
    def status(self) -> str:
        return "calibrated" if FACTOR in self.profile.figures else "uncalibrated"

    @cached_property
    def gpu(self) -> Gpu:
        return gpu_of(self.profile)

    def call_ms(self, input_bytes: int) -> float:
        """Nothing: inputs are taken to lie in the chip's memory."""
        return 0.0

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        if not work.bytes_written:
            return {LAUNCH: 0.0}
        seconds = self._plan(kernel, work).seconds(self.gpu)
        other = {PLAIN: beside(work, products(kernel, work)) / self.gpu.plain + seconds.get(PLAIN, 0.0)}
        spent = {**seconds, **other, LAUNCH: self.profile.si("launch_time")}
        found = {max(spent, key=lambda unit: spent[unit]): 1e3 * max(spent.values())}
        if rounding := rounding_bytes(kernel, work) / self.gpu.dram:
            unit = DRAM if rounding > spent[LAUNCH] else LAUNCH
            found[unit] = found.get(unit, 0.0) + 1e3 * max(rounding, spent[LAUNCH])
        return found

    def traffic(self, kernel: Kernel, work: Work) -> Traffic:
        if not work.bytes_written:
            return {}
        plan = self._plan(kernel, work)
        rounding = rounding_bytes(kernel, work)
        return {MEMORY: plan.dram_bytes + rounding, CACHE: plan.l2_bytes + rounding, NEAR: plan.l2_bytes + rounding}

    def interval(self, latency_ms: float) -> Interval | None:
        return interval_around(self.profile, latency_ms)

    def _plan(self, kernel: Kernel, work: Work) -> Plan:
        moved = work.bytes_read + work.bytes_written
        item, found = kernel.multiplied.itemsize, products(kernel, work)
        if kernel.kind == "attention":
            return attention_plan(self.gpu, found, item, work.dims["streamed"], moved)
        return product_plan(self.gpu, found[0], item, moved) if found else Plan(PLAIN, 0.0, moved, moved)


def rounding_bytes(kernel: Kernel, work: Work) -> int:
    """Bytes that are moved to round what a kernel reads, before it."""
    return ROUNDING * rounded_source(kernel, work)


@lru_cache(maxsize=65536)
def product_plan(gpu: Gpu, product: Product, item: int, moved: int) -> Plan:
    """The shortest of all tiles and splits of the sum, and of plain rows, which read the second factor again each."""
    plans = [tiled(gpu, product, item, moved, *tile) for tile in tiles(gpu, item)]
    rows = product.m * product.factors[1] * item
    plans.append(Plan(PLAIN, product.operations / gpu.plain, rows, moved))
    return min(plans, key=lambda plan: max(plan.seconds(gpu).values()))


def tiles(gpu: Gpu, item: int) -> Iterable[tuple[tuple[int, int], int]]:
    """Tiles two steps of which fit into a core's shared memory, at every split; the least one fits everywhere."""
    fitting = [tile for tile in TILES if 2 * sum(tile) * STEP * item <= gpu.shared_size]
    return itertools.product(fitting or TILES[-1:], SPLITS)


def tiled(gpu: Gpu, product: Product, item: int, moved: int, tile: tuple[int, int], split: int) -> Plan:
    """The product in tiles, each of whose sums is cut into `split` parts, which pass through memory to be added up."""
    unit, rate = gpu.unit(item)
    rows, columns = tile
    depth = padded(math.ceil(product.k / split), ALIGNED if unit == TENSOR else 1)
    blocks = product.count * math.ceil(product.m / rows) * math.ceil(product.n / columns) * split
    waves = math.ceil(blocks / gpu.cores)
    partial = 2 * SUM * split * product.count * product.m * product.n if split > 1 else 0
    busy = waves * 2 * rows * columns * depth / (rate / gpu.cores) + partial / gpu.dram
    # A wave's tiles lie in a square: what they share is read once, and again in the next wave if L2 can't keep it.
    again = waves * 2 * math.sqrt(gpu.cores * rows * columns) * depth * item
    kept = min(product.factors) * item <= gpu.l2_size
    from_memory = moved + padding(product, item) if unit == TENSOR else moved
    fetched = blocks * (rows + columns) * depth * item
    return Plan(unit, busy, fetched + partial, (from_memory if kept else max(from_memory, again)) + partial)


def padding(product: Product, item: int) -> int:
    """Bytes that align the rows of the second factor for tensor cores."""
    step = ALIGNED // item
    return product.count * item * (padded(product.n, step) * padded(product.k, step) - product.n * product.k)


@lru_cache(maxsize=65536)
def attention_plan(gpu: Gpu, pair: tuple[Product, Product], item: int, streamed: int, moved: int) -> Plan:
    """Both products one after the other on the same rows; keys and values pass by once for each block of rows."""
    plans = [product_plan(gpu, product, item, 0) for product in pair]
    unit = max(plans, key=lambda plan: plan.busy).unit
    blocks = math.ceil(pair[0].m / TILES[0][1])
    return Plan(unit, sum(plan.busy for plan in plans), blocks * streamed + moved, moved)


MODEL = GpuModel
