"""What kernels cost on a CPU: the cycles of the tiles that codegen emits, the bytes that they stream, a launch each.

Every kernel has amounts of a few terms (`matmul_cycle_time`, `pool_byte_time`, ...), each multiplied by the calibrated
coefficient of that name. The staircase of the chip lies in the amounts: tails of tiles, channels padded to vectors,
blocks that don't divide by the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from chipfit.ir.kernels import FLOPS, Kernel, Work
from chipfit.targets.energy import CACHE, MEMORY, NEAR, Traffic
from chipfit.targets.products import products
from chipfit.targets.profile import Profile
from chipfit.targets.tiles import (
    FEW_CHANNELS,
    HALF_BLOCK,
    QUAD,
    STORE_STEPS,
    Tile,
    attention_cycles,
    attention_tile,
    candidates,
    conv_tile,
    depthwise_tile,
    dot_step_cycles,
    lanes,
    matmul_tile,
    matrix_unit_conv_cycles,
    matrix_unit_cycles,
    pixel_block,
    step_cycles,
)
from chipfit.targets.winograd import winograd_cycles, winograd_tile

# How far computing and streaming overlap: 1 not at all, infinity fully. Seen with prefetched weight panels on AVX-512.
OVERLAP = 3.0

PARTS = ("launch", "compute", "memory")
# Terms that belong to no kernel: a call of the library, a byte of its inputs, and what timing one kernel adds to it.
CALL, INPUT, WATCH = "call_time", "input_byte_time", "watch_time"

# Cycles of a vector's exponential, two operations each: the 19 of codegen's polynomial. The other functions are alike.
FUNCTION_CYCLES = 9.5

# Figures that few chips have: of a core's matrix unit and of its vectors.
UNITS = ("bf16_mac_per_cycle", "matrix_int8_mac_per_cycle", "int8_mac_per_cycle", "fp16_flop_per_cycle")

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
    bf16_macs: int = 0  # multiply-adds a cycle of a core's matrix unit
    matrix_int8_macs: int = 0  # likewise
    int8_macs: int = 0  # of its vectors
    fp16_flops: int = 0  # likewise, a multiply-add counting two
    machine: str = ""  # the first part of LLVM's triple


def shape_of(profile: Profile) -> Cpu:
    names = ("vector_bits", "vector_registers", "l1_size", "l2_size", "cores")
    bits, registers, l1, l2, cores = (int(profile.si(name)) for name in names)
    bf16, matrix_int8, int8, fp16 = (int(profile.si(name)) if name in profile.figures else 0 for name in UNITS)
    return Cpu(bits, registers, l1, l2, cores, bf16, matrix_int8, int8, fp16, profile.triple.split("-")[0])


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
    found = {f"{kind}_cycle_time": cycle for kind in CYCLES}
    found |= {f"{kind}_byte_time": byte for kind in FLOPS}
    return {**found, "function_cycle_time": FUNCTION_CYCLES * cycle}


@dataclass(frozen=True)
class CpuModel:
    """The model of one CPU: calibrated if its profile holds measured coefficients, else with derived ones."""

    profile: Profile

    @property
    def status(self) -> str:
        return "calibrated" if is_calibrated(self.profile) else "uncalibrated"

    @property
    def granularity(self) -> int:
        return lanes(self._shape)

    def call_ms(self, input_bytes: int) -> float:
        return 1e3 * (self._seconds(CALL) + input_bytes * self._seconds(INPUT))

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        parts = dict.fromkeys(PARTS, 0.0)
        for term, amount in amounts(kernel, work, self._shape).items():
            parts[part_of(term)] += amount * self._seconds(term)
        body = kernel_seconds(0.0, parts["compute"], parts["memory"])
        limit = "compute" if parts["compute"] > parts["memory"] else "memory"
        return {"launch": 1e3 * parts["launch"], limit: 1e3 * body}

    def traffic(self, kernel: Kernel, work: Work) -> Traffic:
        """Products load their factors from the first-level cache, as often as the largest register tile has to."""
        moved = work.bytes_read + work.bytes_written
        operands = sum(product.operations for product in products(kernel, work)) / 2 * self._loads
        return {MEMORY: moved, CACHE: moved, NEAR: max(moved, operands)}

    def interval(self, latency_ms: float) -> tuple[float, float] | None:
        if not is_calibrated(self.profile):
            return None
        factor = self.profile.si("interval_factor")
        return latency_ms / factor, latency_ms * factor

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


def part_of(term: str) -> str:
    """The part of a kernel's time that a term belongs to, empty for those of no kernel."""
    return {"launch": "launch", "cycle": "compute", "byte": "memory"}.get(term.split("_")[-2], "")


def kernel_seconds(launch: Number, compute: Number, memory: Number) -> Number:
    """The time of a kernel whose streaming partly hides behind its computing."""
    body: Number = (compute**OVERLAP + memory**OVERLAP) ** (1 / OVERLAP)
    total: Number = launch + body
    return total


def amounts(kernel: Kernel, work: Work, cpu: Cpu) -> Amounts:
    """How much of each term one kernel needs; a view needs nothing."""
    if not work.bytes_written:
        return {}
    dims = work.dims
    moved = work.bytes_read + work.bytes_written
    if kernel.kind in (
        "matmul",
        "attention",
    ):  # its rows come from a cache and are used often: the other factor is what streams
        moved = dims["streamed"]
    term = "matmul" if kernel.kind == "attention" else kernel.kind
    found = {"launch_time": 1.0, f"{term}_byte_time": moved / cpu.threads}
    if kernel.kind in CYCLES:
        found[f"{term}_cycle_time"] = CYCLES[kernel.kind](tuple(sorted(dims.items())), cpu)
    functions = sum(node.kind in FUNCTIONS for node in kernel.nodes)
    if functions:
        found["function_cycle_time"] = functions * math.ceil(dims["elements"] / lanes(cpu)) / cpu.threads
    return found


FUNCTIONS = frozenset({"exp", "gelu", "sigmoid", "silu", "tanh", "softmax", "log_softmax", "erf", "cos", "sin", "log"})
FUNCTIONS |= frozenset({"scaled_dot_product_attention"})

Dims = tuple[tuple[str, int], ...]
Parts = tuple[tuple[int, int], ...]  # (count, size)


@lru_cache(maxsize=65536)
def _matmul_cycles(dims: Dims, cpu: Cpu) -> float:
    d = dict(dims)
    names = {"rounded": "int8", "narrow": "bfloat16", "half": "float16"}
    stored = next((stored for name, stored in names.items() if d.get(name)), "float32")
    tile = matmul_tile(cpu, d["m"], d["n"], d["k"], d["batch"], stored, bool(d.get("rounded")))
    if tile.unit == "amx":
        return matrix_unit_cycles(cpu, d["m"], d["n"], d["k"], rounded=bool(d.get("rounded")))
    steps = matmul_steps(cpu, tile, d["k"]) + STORE_STEPS
    return steps * product_cycles(cpu, tile, (d["batch"], d["m"], 1), d["n"], groups=1)


def matmul_steps(cpu: Cpu, tile: Tile, k: int) -> float:
    """Steps along k, in what one of float32 takes."""
    if tile.unit == "half":
        return k + STORE_STEPS * math.ceil(k / HALF_BLOCK)
    return k if tile.unit == "vector" else math.ceil(k / QUAD) * dot_step_cycles(cpu)


@lru_cache(maxsize=65536)
def _attention_cycles(dims: Dims, cpu: Cpu) -> float:
    """Of both products, by the rows of one job and the jobs of the busiest thread."""
    d = dict(dims)
    sizes = [d[name] for name in ("batch", "share", "m", "n", "k", "width")]
    tile = attention_tile(cpu, *sizes)
    return attention_cycles(cpu, (tile.mr, tile.nr // tile.lanes), tile.block, *sizes, causal=bool(d["causal"]))


@lru_cache(maxsize=65536)
def _conv_cycles(dims: Dims, cpu: Cpu) -> float:
    d = dict(dims)
    if d["narrow"] and cpu.bf16_macs:
        return matrix_unit_conv_cycles(cpu, *sizes(d), d["r"] * d["s"], d["stride"])
    if tile := fast_tile(d, cpu):
        return winograd_cycles(cpu, tile, *sizes(d))
    tile = conv_tile(cpu, *(d[name] for name in ("batch", "ho", "wo", "ic", "oc", "r", "s", "groups")))
    steps = d["ic"] // d["groups"] * d["r"] * d["s"]
    return steps * product_cycles(cpu, tile, (d["batch"], d["ho"], d["wo"]), d["oc"] // d["groups"], d["groups"])


def sizes(d: Mapping[str, int]) -> tuple[int, int, int, int, int]:
    return d["batch"], d["ho"], d["wo"], d["ic"], d["oc"]


def fast_tile(d: Mapping[str, int], cpu: Cpu) -> Tile | None:
    """Winograd's tile for a convolution, where codegen takes that way."""
    plain = d["stride"] == d["dilation"] == d["groups"] == 1 and (d["r"], d["s"]) == (3, 3) and not d["narrow"]
    return winograd_tile(cpu, *sizes(d)) if plain and d["ic"] > FEW_CHANNELS else None


def product_cycles(cpu: Cpu, tile: Tile, pixels: tuple[int, int, int], columns: int, groups: int) -> float:
    """Cycles that the busiest thread spends on one reduction step, over all the tiles that it is given.

    pixels: (batch, rows, columns) of the output; a matrix is one pixel wide. TVM gives each thread an equal run of
    consecutive jobs, so the first thread has the most.
    """
    batch, height, width = pixels
    rows, across = pixel_block(tile.mr, height, width)
    panels, strips = parts(-(-columns // tile.lanes), tile.nr // tile.lanes), parts(height, rows)

    def cycles(strip: int, panel: int) -> float:
        return sum(count * step_cycles(cpu, strip * x, panel) for count, x in parts(width, across))

    def run(outer: Parts, inner: Parts, cost: Callable[[int, int], float]) -> list[float]:
        """Cycles of each job in turn, one for each part of `outer`."""
        return [job for count, a in outer for job in [sum(n * cost(a, b) for n, b in inner)] * count]

    if tile.order == "rows":
        jobs = [groups * job for job in run(strips, panels, cycles)] * batch
    else:
        jobs = [batch * job for job in run(panels, strips, lambda panel, strip: cycles(strip, panel))] * groups
    return sum(jobs[: -(-len(jobs) // tile.threads)])


def parts(size: int, step: int) -> Parts:
    """(count, extent) of the whole steps in a size, and of the rest."""
    whole, rest = divmod(size, step)
    return tuple((count, extent) for count, extent in ((whole, step), (1, rest)) if count and extent)


def _depthwise_cycles(dims: Dims, cpu: Cpu) -> float:
    """As of a pool, or by vectors of channels where that is what the threads share out."""
    d = dict(dims)
    if depthwise_tile(cpu, d["batch"], d["ho"], d["wo"], d["oc"]).order == "rows":
        return _window_cycles(dims, cpu)
    vectors = math.ceil(math.ceil(d["oc"] / lanes(cpu)) / cpu.threads)
    return float(vectors * d["batch"] * d["ho"] * d["wo"] * d["r"] * d["s"])


def _window_cycles(dims: Dims, cpu: Cpu) -> float:
    """Vector loads of every tap of every output, rows of which are shared out; a global pool runs on one thread."""
    d = dict(dims)
    rows = math.ceil(d["batch"] * d["ho"] / cpu.threads)
    return rows * d["wo"] * math.ceil(d["oc"] / lanes(cpu)) * d["r"] * d["s"]


CYCLES: Mapping[str, Callable[[Dims, Cpu], float]] = MappingProxyType(
    {
        "matmul": _matmul_cycles,
        "attention": _attention_cycles,
        "conv": _conv_cycles,
        "depthwise": _depthwise_cycles,
        "pool": _window_cycles,
    }
)

MODEL = CpuModel
