"""How much of each calibrated term a CPU kernel needs: cycles of the tiles that codegen emits, bytes that they stream.

The staircase of the chip lies in these amounts: tails of tiles, channels padded to vectors, blocks that don't divide by
the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from chipfit.ir.images import FEW_CHANNELS
from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.attention_tiles import attention_cycles, attention_tile
from chipfit.targets.matrix_unit import (
    convolution_tiles,
    image_rounding_cycles,
    matrix_unit_conv_cycles,
    matrix_unit_cycles,
)
from chipfit.targets.products import source_pixels
from chipfit.targets.profile import Profile
from chipfit.targets.tile import QUAD, Tile, lanes
from chipfit.targets.tiles import (
    HALF_BLOCK,
    STORE_STEPS,
    depthwise_tile,
    dot_step_cycles,
    matmul_tile,
    past_caches,
    pixel_block,
    step_cycles,
)
from chipfit.targets.winograd import POSITIONS, winograd_amounts, winograd_tile

PARTS = ("launch", "compute", "memory")
# A byte of weights costs so much more where no cache holds it from one call to the next.
COLD = "cold_byte_time"
DISPATCH = "dispatch_time"  # between kernels, where one that is timed on its own takes none
ROUNDED = ("rounded_matmul", "rounded_conv")  # products of int8, with the rounding of a convolution's source
TAPS = 9  # of the filters that Winograd's transform widens to POSITIONS

# Figures that few chips have: of a core's matrix unit and of its vectors.
UNITS = ("bf16_mac_per_cycle", "matrix_int8_mac_per_cycle", "int8_mac_per_cycle", "fp16_flop_per_cycle")

Amounts = Mapping[str, float]


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


def part_of(term: str) -> str:
    """The part of a kernel's time that a term belongs to, empty for those of no kernel."""
    parts = {"launch": "launch", "dispatch": "launch", "cycle": "compute", "byte": "memory"}
    return parts.get(term.split("_")[-2], "")


def amounts(kernel: Kernel, work: Work, cpu: Cpu) -> Amounts:
    """How much of each term one kernel needs; a view needs nothing. COLD counts only where weights come from memory."""
    if not work.bytes_written:
        return {}
    dims, term = tuple(sorted(work.dims.items())), kernel.kind
    rounded = bool(work.dims.get("rounded"))
    launches = 2.0 if rounded and kernel.kind == "conv" else 1.0  # its source is rounded first, by all threads
    found = {"launch_time": launches, DISPATCH: launches}
    for name, moved in streams(kernel, work, cpu).items():
        found[name] = moved / cpu.threads
    if kernel.kind in CYCLES:
        term = "winograd" if kernel.kind == "conv" and fast_tile(work.dims, cpu) else kernel.kind
        term = f"rounded_{term}" if rounded else term
        found[f"{term}_cycle_time"] = CYCLES[kernel.kind](dims, cpu)
    functions = sum(node.kind in FUNCTIONS for node in kernel.nodes)
    if functions:
        found["function_cycle_time"] = functions * math.ceil(work.dims["elements"] / lanes(cpu)) / cpu.threads
    return found


def streams(kernel: Kernel, work: Work, cpu: Cpu) -> Amounts:
    """Bytes by the term that prices them.

    The rows of a product come from a cache and are used often: its other factor is what streams, and a result that
    goes past the caches. Of the factor only a layer's weights are the same at every call.
    """
    moved = work.bytes_read + work.bytes_written
    if kernel.kind in ("matmul", "attention"):
        streamed = float(work.dims["streamed"])
        found = {f"{kernel.kind}_byte_time": streamed}
        if kernel.anchor.kind == "linear":
            found[COLD] = streamed
        if work.dims.get("returned") and past_caches(cpu, work.dims["batch"] * work.dims["m"], work.dims["n"]):
            found["result_byte_time"] = float(work.bytes_written)
        return found
    if kernel.kind == "conv":
        filters, tile = filter_bytes(work.dims), fast_tile(work.dims, cpu)
        packed = filters * POSITIONS / TAPS if tile else filters
        scratch = {"patch_byte_time": cpu.threads * winograd_amounts(cpu, tile, *sizes(work.dims))[1]} if tile else {}
        return {"conv_byte_time": moved - filters, "filter_byte_time": packed, COLD: packed, **scratch}
    return {f"{kernel.kind}_byte_time": moved}


def filter_bytes(d: Mapping[str, int]) -> int:
    """Of a convolution's weights."""
    item = 1 if d["rounded"] else 2 if d["narrow"] else 4
    return item * d["oc"] * d["ic"] // d["groups"] * d["r"] * d["s"]


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
    if fast := fast_tile(d, cpu):
        return winograd_amounts(cpu, fast, *sizes(d))[0]
    tile = convolution_tiles(cpu, sizes(d), (d["r"], d["s"]), d["groups"], multiplied_in(d))[0]
    if tile.unit == "amx":
        return matrix_unit_conv_cycles(cpu, sizes(d), d["r"] * d["s"], d["stride"], bool(d["rounded"]))
    steps = matmul_steps(cpu, tile, d["ic"] // d["groups"]) * d["r"] * d["s"]
    pixels = (d["batch"], d["ho"], d["wo"])
    products = steps * product_cycles(cpu, tile, pixels, d["oc"] // d["groups"], d["groups"])
    return products + (image_rounding_cycles(cpu, source_pixels(d), d["ic"]) if d["rounded"] else 0.0)


def multiplied_in(d: Mapping[str, int]) -> str:
    """What a convolution multiplies."""
    return "int8" if d["rounded"] else "bfloat16" if d["narrow"] else "float32"


def sizes(d: Mapping[str, int]) -> tuple[int, int, int, int, int]:
    return d["batch"], d["ho"], d["wo"], d["ic"], d["oc"]


def fast_tile(d: Mapping[str, int], cpu: Cpu) -> Tile | None:
    """Winograd's tile for a convolution, where codegen takes that way."""
    plain = d["stride"] == d["dilation"] == d["groups"] == 1 and multiplied_in(d) == "float32"
    plain = plain and (d["r"], d["s"]) == (3, 3)
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
