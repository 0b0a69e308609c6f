"""Tile sizes by analysis: the one place that both the cost model and the code generator ask.

A kernel's inner loop multiplies `rows` scalars by `vectors` vectors into as many accumulators, once for each step of
the reduction. `step_cycles` says what that takes; a tile is the one with the fewest cycles on the busiest thread.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from chipfit.targets.tile import QUAD, CpuShape, Order, Tile, Unit, lanes

TRIES = 6  # tiles of a kernel that are worth timing, where there is time to
HALF_BLOCK = 32  # products whose sum is kept in float16
_PER_CYCLE = 2  # multiply-adds, and likewise loads, that a core starts in one cycle
_LATENCY = 4  # cycles until a multiply-add's result can be added to again
MAX_VECTORS = 8
# Starting and storing a matmul's tile takes as long as this many steps along k; seen where k is 12 to 128 (attention).
STORE_STEPS = 8
_INT4_VECTORS = 4  # words, sums of the group and sums of all take a register each
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}
_AMX_ROWS = 8  # of fewer the matrix unit's tiles are mostly empty, and the weights are what takes the time
_RESIDENT = 0.6  # the part of the second-level cache that weights may fill and still stay there
_BROADCAST_BITS = 256  # from this width on, a multiply-add can take its scalar from memory (AVX2, AVX-512)
_STREAMING_ROWS = 256  # with more rows than this a panel is used so long that its fetch is hidden anyway


def fits(chip: CpuShape, rows: int, vectors: int) -> bool:
    """Whether accumulators, one step's vectors and the scalars in flight leave a register to spare: nothing spills."""
    scalars = 1 if chip.vector_bits >= _BROADCAST_BITS else rows
    return rows * vectors + vectors + scalars < chip.registers


def step_cycles(chip: CpuShape, rows: int, vectors: int) -> float:
    """Cycles of one reduction step: the narrowest of multiply-adds, loads and latency, and a small price for loads.

    The price ranks tiles that are equal otherwise: weights come from the second-level cache, scalars from the first.
    """
    if not rows or not vectors:
        return 0.0
    bound = max(rows * vectors / _PER_CYCLE, (rows + vectors) / _PER_CYCLE, _LATENCY)
    return bound + vectors * lanes(chip) / 64 + rows / 20 + 0.5


def candidates(chip: CpuShape, most_rows: int, most_vectors: int) -> Iterator[tuple[int, int]]:
    """All (rows, vectors) that fit in the registers and are no larger than told."""
    for vectors in range(1, most_vectors + 1):
        for rows in range(1, most_rows + 1):
            if fits(chip, rows, vectors):
                yield rows, vectors


def pixel_block(mr: int, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of output pixels in one tile of at most `mr`: several whole rows, or a row cut evenly."""
    if mr >= width:
        return min(height, mr // width), width
    return 1, -(-width // -(-width // mr))


def sizes_of_parts(size: int, step: int) -> tuple[tuple[int, int], ...]:
    """(count, size) of the whole steps and of the rest."""
    return ((size // step, step), (1, size % step))


@dataclass(frozen=True)
class _Grid:
    """A product to cover with tiles: output pixels (a matrix is one pixel wide) by vectors of output channels.

    `stack` products run independently; `groups` share their output's rows.
    """

    chip: CpuShape
    batch: int
    height: int
    width: int
    vectors: int
    groups: int
    stack: int
    resident: bool
    most_vectors: int

    def ranked(self) -> list[tuple[Order, int, int]]:
        """The orders, rows and vectors that take the busiest thread the fewest cycles, the best first."""
        tiles = list(candidates(self.chip, self.height * self.width, min(self.vectors, self.most_vectors)))
        orders: tuple[Order, Order] = ("columns", "rows")
        return heapq.nsmallest(TRIES, ((order, *tile) for order in orders for tile in tiles), key=self.cycles)

    def cycles(self, choice: tuple[Order, int, int]) -> float:
        """Of one reduction step over the whole output. Whoever re-reads what should stay in cache pays 5% more."""
        order, mr, nv = choice
        rows, columns = pixel_block(mr, self.height, self.width)
        panels, blocks = -(-self.vectors // nv) * self.groups, -(-self.height // rows) * self.batch
        jobs = (panels if order == "columns" else blocks) * self.stack
        penalty = 1.05 if (order == "rows") != self.resident else 1.0
        return self._total(rows, columns, nv) * -(-jobs // self.chip.threads) / jobs * penalty

    def _total(self, rows: int, columns: int, nv: int) -> float:
        parts = itertools.product(
            sizes_of_parts(self.height, rows), sizes_of_parts(self.width, columns), sizes_of_parts(self.vectors, nv)
        )
        cycles = (a * b * c * step_cycles(self.chip, y * x, v) for (a, y), (b, x), (c, v) in parts)
        return sum(cycles) * self.batch * self.groups * self.stack


def matmul_tile(
    chip: CpuShape, m: int, n: int, k: int, batch: int = 1, stored: str = "float32", rounded: bool = False
) -> Tile:
    """The tile for C (m, n) = A (m, k) @ B, `batch` times with different B, whose numbers are `stored` so.

    `rounded`: A and B are int8, to be multiplied as such where the chip can. With float16 the tile is of vectors of
    that, which have twice the lanes.
    """
    return matmul_tiles(chip, m, n, k, batch, stored, rounded)[0]


def matmul_tiles(
    chip: CpuShape, m: int, n: int, k: int, batch: int = 1, stored: str = "float32", rounded: bool = False
) -> tuple[Tile, ...]:
    """The tiles worth timing, that of `matmul_tile` first."""
    if stored == "float16" and chip.fp16_flops:
        found = _tiles(chip, (1, m, 1), -(-n // 2), 2 * n * k, stack=batch)
        return tuple(replace(tile, lanes=2 * tile.lanes, nr=2 * tile.nr, unit="half") for tile in found)
    unit = int8_unit(chip, m) if rounded else "vector"
    if unit == "amx" or (stored == "bfloat16" and chip.bf16_macs and m >= _AMX_ROWS):
        return (Tile(lanes(chip), 32, 32, "columns", chip.threads, True, unit="amx"),)
    most = _INT4_VECTORS if stored == "int4" and m == 1 else MAX_VECTORS
    found = _tiles(chip, (1, m, 1), n, n * k * _BITS[stored] // 8, stack=batch, most_vectors=most)
    return tuple(replace(tile, unit=unit) for tile in found)


def past_caches(chip: CpuShape, rows: int, columns: int) -> bool:
    """Whether a result that only the caller reads is better written past the caches: it doesn't fit the second level.

    With float32 and bfloat16, on 1 and 2 threads, a result of 2 MiB took half the time so, one of 24 MiB a little more
    than half (a Xeon with AMX and 2 MiB of L2). What kernels read again soon is still in a cache, and took up to 1.4
    times as long.
    """
    whole = columns % lanes(chip) == 0
    return chip.machine == "x86_64" and whole and 4 * rows * columns > chip.l2_bytes


def int8_unit(chip: CpuShape, rows: int) -> Unit:
    """What multiplies so many rows of int8 by int8: a unit of the chip, or plain vectors where it has none."""
    if chip.matrix_int8_macs and rows >= _AMX_ROWS:
        return "amx"
    units: Mapping[str, Unit] = {"x86_64": "vnni", "aarch64": "sdot", "arm64": "sdot"}  # by LLVM's name of the machine
    return units.get(chip.machine, "vector") if chip.int8_macs else "vector"


def dot_step_cycles(chip: CpuShape) -> float:
    """Of a step of dot products beside one of multiply-adds, which have the same tile."""
    return max(1.0, _PER_CYCLE * QUAD * lanes(chip) / chip.int8_macs)


def conv_tiles(
    chip: CpuShape, batch: int, ho: int, wo: int, ic: int, oc: int, r: int, s: int, groups: int = 1, item: int = 4
) -> tuple[Tile, ...]:
    """The tiles worth timing for a convolution, the best first; `mr` counts output pixels.

    `ic` and `oc` are the channels of all groups; a weight takes `item` bytes.
    """
    return _tiles(chip, (batch, ho, wo), oc // groups, oc * (ic // groups) * r * s * item, groups)


def conv_cycles(chip: CpuShape, batch: int, ho: int, wo: int, ic: int, oc: int, r: int, s: int) -> float:
    """About what the busiest thread takes at that tile."""
    grid = _Grid(chip, batch, ho, wo, -(-oc // lanes(chip)), 1, 1, True, MAX_VECTORS)
    return grid.cycles(grid.ranked()[0]) * ic * r * s


def _tiles(
    chip: CpuShape,
    pixels: tuple[int, int, int],
    columns: int,
    weight_bytes: int,
    groups: int = 1,
    stack: int = 1,
    most_vectors: int = MAX_VECTORS,
) -> tuple[Tile, ...]:
    width = lanes(chip)
    resident = weight_bytes <= chip.l2_bytes * _RESIDENT
    streams = 1 < math.prod(pixels) <= _STREAMING_ROWS and not resident
    ranked = _Grid(chip, *pixels, -(-columns // width), groups, stack, resident, most_vectors).ranked()
    return tuple(
        Tile(width, mr, nv * width, order, chip.threads, prefetch=streams and order == "columns")
        for order, mr, nv in ranked
    )


def depthwise_tile(chip: CpuShape, batch: int, ho: int, wo: int, channels: int) -> Tile:
    """The tile for a depthwise convolution, which works on one vector of channels at a time.

    Eight sums hide the latency of multiply-adds on two pipes. While one vector of channels of a whole image is
    no more than twice the first-level cache, a thread keeps its channels and their filter; larger images go by rows.
    """
    plane = ho * wo * chip.vector_bits // 8
    few = -(-channels // lanes(chip)) < chip.threads
    order: Order = "rows" if plane > 2 * chip.l1_bytes or few else "columns"
    return Tile(lanes(chip), pixel_block(_PER_CYCLE * _LATENCY, 1, wo)[1], lanes(chip), order, chip.threads)
