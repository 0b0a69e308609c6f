"""When a 3x3 convolution is better done by Winograd's F(2x2, 3x3), and by what blocks: asked as `tiles` is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from chipfit.targets.tiles import (
    STORE_STEPS,
    CpuShape,
    Order,
    Tile,
    candidates,
    conv_cycles,
    lanes,
    sizes_of_parts,
    step_cycles,
)

POSITIONS = 16  # products for each patch of 2x2 outputs
_IN_CYCLES, _OUT_CYCLES = 30, 26  # to transform a vector of channels of one patch: loads, additions, stores
SKEW = 16  # elements between rows of scratch, so that rows of a power of two don't share cache sets
_BYTES_PER_CYCLE = 3  # of weights that stream to one core from beyond its own caches; seen on Sapphire Rapids
_OVERLAP = 3.0  # as in `cpu.OVERLAP`
_MARGIN = 0.95  # of the direct convolution's cycles, before the other way is taken
_BLOCKS = (1, 2, 4)  # patches of a job, in tiles


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

    def product_cycles(self, rows: int, tile: tuple[int, int]) -> float:
        """Of all positions and filters for `rows` patches."""
        parts = itertools.product(sizes_of_parts(rows, tile[0]), sizes_of_parts(self.vectors, tile[1]))
        steps = sum(a * b * step_cycles(self.chip, y, v) for (a, y), (b, v) in parts)
        return POSITIONS * (self.ic + STORE_STEPS) * steps

    def cycles(self, order: Order, tile: tuple[int, int], block: int) -> float:
        """Of the busiest thread, without streaming."""
        ins = math.ceil(self.ic / lanes(self.chip)) * _IN_CYCLES
        turning = self.patches * (ins + self.vectors * _OUT_CYCLES)
        if order == "columns":
            panels = math.ceil(self.vectors / tile[1])
            share = math.ceil(panels / self.chip.threads) / panels
            return self.product_cycles(self.patches, tile) * share + turning / self.chip.threads
        jobs = math.ceil(self.patches / block)
        share = math.ceil(jobs / self.chip.threads) / jobs
        whole = jobs - 1 if self.patches % block else jobs
        products = whole * self.product_cycles(block, tile) + self.product_cycles(self.patches - whole * block, tile)
        return (products + turning) * share

    def time(self, order: Order, tile: tuple[int, int], block: int) -> float:
        """In cycles, streaming included: of filters, and of patches where all of them are more than the cache holds."""
        half, threads = self.chip.l2_bytes / 2, self.chip.threads
        filters, patches = self.weight_bytes(POSITIONS), self.patch_bytes(self.patches)
        if order == "rows":
            passes = math.ceil(math.ceil(self.patches / block) / threads)
            held = self.patch_bytes(block) + 4 * POSITIONS * block * tile[1] * lanes(self.chip)
            streamed = filters * (1 if filters + held <= half else passes)
        else:
            panels = math.ceil(self.vectors / tile[1])
            streamed = filters // threads + (patches * math.ceil(panels / threads) if patches > half else 0)
        return overlapped(self.cycles(order, tile, block), streaming(self.chip, streamed))

    def patch_bytes(self, count: int) -> int:
        """Of transformed patches in scratch."""
        return 4 * POSITIONS * count * (math.ceil(self.ic / lanes(self.chip)) * lanes(self.chip) + SKEW)

    def best(self) -> tuple[float, Order, tuple[int, int], int]:
        """(cycles, order, tile, block)."""
        found: list[tuple[float, Order, tuple[int, int], int]] = []
        for tile in candidates(self.chip, self.patches, min(self.vectors, 4)):
            found.append((self.time("columns", tile, 0), "columns", tile, 0))
            for block in (min(self.patches, tile[0] * count) for count in _BLOCKS):
                if self.patch_bytes(block) <= self.chip.l2_bytes / 4:
                    found.append((self.time("rows", tile, block), "rows", tile, block))
        return min(found)


def streaming(chip: CpuShape, size: int) -> float:
    """Cycles until so many bytes have come to a core; few stay in its cache from one call to the next."""
    return size / _BYTES_PER_CYCLE if size > chip.l2_bytes / 4 else 0.0


def overlapped(computing: float, streaming: float) -> float:
    return float((computing**_OVERLAP + streaming**_OVERLAP) ** (1 / _OVERLAP))


def winograd_tile(chip: CpuShape, batch: int, ho: int, wo: int, ic: int, oc: int) -> Tile | None:
    """The tile and block for a 3x3 convolution, or None where the direct one takes no longer."""
    shape = Convolution(chip, batch, ho, wo, ic, oc)
    streamed = streaming(chip, shape.weight_bytes(9) // chip.threads)
    direct = overlapped(conv_cycles(chip, batch, ho, wo, ic, oc, 3, 3), streamed)
    cycles, order, (mr, nv), block = shape.best()
    if cycles > _MARGIN * direct:
        return None
    prefetch = shape.weight_bytes(POSITIONS) > chip.l2_bytes / 2
    return Tile(lanes(chip), mr, nv * lanes(chip), order, chip.threads, prefetch, block)


def winograd_cycles(chip: CpuShape, tile: Tile, batch: int, ho: int, wo: int, ic: int, oc: int) -> float:
    """Of the busiest thread at this tile."""
    shape = Convolution(chip, batch, ho, wo, ic, oc)
    return shape.cycles(tile.order, (tile.mr, tile.nr // tile.lanes), tile.block)


def patch_bytes(chip: CpuShape, batch: int, ho: int, wo: int, ic: int, oc: int) -> int:
    """Of the transformed patches of a whole image, which lie in scratch between the steps."""
    shape = Convolution(chip, batch, ho, wo, ic, oc)
    return shape.patch_bytes(shape.patches)
