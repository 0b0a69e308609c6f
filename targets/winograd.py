"""When a 3x3 convolution is better done by Winograd's F(2x2, 3x3), and by what blocks: asked as `tiles` is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from chipfit.targets.tile import CpuShape, Tile, lanes
from chipfit.targets.tiles import STORE_STEPS, candidates, conv_cycles, sizes_of_parts, step_cycles

POSITIONS = 16  # products for each patch of 2x2 outputs
SKEW = 16  # elements between rows of scratch, so that rows of a power of two don't share cache sets
_IN_CYCLES, _OUT_CYCLES = 30, 26  # to transform a vector of channels of one patch: loads, additions, stores
# Bytes a cycle that come to a core from its second-level cache, and of weights from beyond. With the next, those of a
# dozen tried whose picks lost least to the best tile of each of ResNet's layers (a Xeon with AMX, 2 MiB of L2).
_NEAR_BYTES, _FAR_BYTES = 24, 3
_L1_SHARE = 0.75  # of the first-level cache, for what a job writes and reads again
_OVERLAP = 3.0  # as in `cpu.OVERLAP`
_MARGIN = 0.95  # of the direct convolution's cycles, before the other way is taken
_BLOCKS = (1, 2, 4)  # patches of a job, in tiles
_MOST_VECTORS = 4

RowsVectors = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """3x3 taps, stride, dilation and groups 1."""

    chip: CpuShape
    batch: int
    height: int
    width: int
    ic: int
    oc: int

    @property
    def patches(self) -> int:
        return self.batch * math.ceil(self.height / 2) * math.ceil(self.width / 2)

    @property
    def vectors(self) -> int:
        return math.ceil(self.oc / lanes(self.chip))

    def weight_bytes(self, taps: int) -> int:
        return 4 * taps * self.ic * self.vectors * lanes(self.chip)

    def cycles(self, tile: RowsVectors, block: int) -> float:
        """Of the busiest thread, without streaming."""
        whole, rest = divmod(self.patches, block)
        turning = self.patches * (math.ceil(self.ic / lanes(self.chip)) * _IN_CYCLES + self.vectors * _OUT_CYCLES)
        products = whole * self._product_cycles(block, tile) + self._product_cycles(rest, tile)
        return (products + turning) * self._share(block)

    def near_bytes(self, tile: RowsVectors, block: int) -> float:
        """What the busiest thread's jobs take from the second-level cache: scratch and filters that the first lost."""
        panels, filters = math.ceil(self.vectors / tile[1]), self.weight_bytes(POSITIONS)
        turned, products = self._turned_bytes(block), 4 * POSITIONS * block * tile[1] * lanes(self.chip)
        scratch = (turned * (1 + panels) + 2 * products * panels) * self._missed(turned + products)
        return (scratch + filters * self._missed(turned + filters)) * self._jobs(block) * self._share(block)

    def time(self, tile: RowsVectors, block: int) -> float:
        """In cycles, with filters that stream from beyond the core's caches: once, or for each job if large."""
        filters = self.weight_bytes(POSITIONS)
        passes = 1 if filters + self._turned_bytes(block) <= self.chip.l2_bytes / 2 else self._jobs(block)
        near = self.near_bytes(tile, block) / _NEAR_BYTES
        far = filters * math.ceil(passes / self.chip.threads) / _FAR_BYTES
        return overlapped(self.cycles(tile, block) + near, far)

    def best(self) -> tuple[float, RowsVectors, int]:
        """(cycles, tile, block), of blocks whose scratch leaves most of the second-level cache to the filters."""
        tiles = candidates(self.chip, self.patches, min(self.vectors, _MOST_VECTORS))
        blocks = ((tile, min(self.patches, tile[0] * count)) for tile in tiles for count in _BLOCKS)
        fitting = (pair for pair in blocks if self._turned_bytes(pair[1]) <= self.chip.l2_bytes / 4)
        return min(((self.time(*pair), *pair) for pair in fitting), default=(math.inf, (1, 1), 1))

    def _product_cycles(self, rows: int, tile: RowsVectors) -> float:
        """Of all positions and filters for `rows` patches."""
        parts = itertools.product(sizes_of_parts(rows, tile[0]), sizes_of_parts(self.vectors, tile[1]))
        steps = sum(a * b * step_cycles(self.chip, y, v) for (a, y), (b, v) in parts)
        return POSITIONS * (self.ic + STORE_STEPS) * steps

    def _turned_bytes(self, count: int) -> int:
        """Of transformed patches in scratch."""
        return 4 * POSITIONS * count * (math.ceil(self.ic / lanes(self.chip)) * lanes(self.chip) + SKEW)

    def _missed(self, held: int) -> float:
        """The part of so many bytes, read again in turn, that the first-level cache no longer has."""
        return max(0.0, 1 - _L1_SHARE * self.chip.l1_bytes / held)

    def _jobs(self, block: int) -> int:
        return math.ceil(self.patches / block)

    def _share(self, block: int) -> float:
        """Of the jobs, that the busiest thread has."""
        jobs = self._jobs(block)
        return math.ceil(jobs / self.chip.threads) / jobs


def overlapped(computing: float, streaming: float) -> float:
    return float((computing**_OVERLAP + streaming**_OVERLAP) ** (1 / _OVERLAP))


def winograd_tile(chip: CpuShape, batch: int, ho: int, wo: int, ic: int, oc: int) -> Tile | None:
    """The tile and block for a 3x3 convolution, or None where the direct one takes no longer.

    Either's filters are taken to stream at every call: a network's are more than the second-level cache holds.
    """
    shape = Convolution(chip, batch, ho, wo, ic, oc)
    streamed = shape.weight_bytes(9) / chip.threads / _FAR_BYTES
    direct = overlapped(conv_cycles(chip, batch, ho, wo, ic, oc, 3, 3), streamed)
    cycles, (mr, nv), block = shape.best()
    if cycles > _MARGIN * direct:
        return None
    prefetch = shape.weight_bytes(POSITIONS) > chip.l2_bytes / 2
    return Tile(lanes(chip), mr, nv * lanes(chip), "rows", chip.threads, prefetch, block)


def winograd_amounts(chip: CpuShape, tile: Tile, batch: int, ho: int, wo: int, ic: int, oc: int) -> tuple[float, float]:
    """(cycles, bytes from the second-level cache) of the busiest thread at this tile."""
    shape, rows_vectors = Convolution(chip, batch, ho, wo, ic, oc), (tile.mr, tile.nr // tile.lanes)
    return shape.cycles(rows_vectors, tile.block), shape.near_bytes(rows_vectors, tile.block)
