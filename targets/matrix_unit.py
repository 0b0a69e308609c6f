"""Tiles and cycles of matrix units, and which convolutions they take: asked as `tiles` is."""

from __future__ import annotations

import math
from dataclasses import replace

from chipfit.ir.images import FEW_CHANNELS
from chipfit.targets.packed import AMX_DEPTH, AMX_PANEL, AMX_SIDE, ROW_STEP, round_up
from chipfit.targets.tile import CpuShape, Order, Tile, Unit, lanes
from chipfit.targets.tiles import conv_tiles, int8_unit

_ROUND_CYCLES = 4  # to load a vector, round it to bfloat16 or int8 and store it
_NUMBER_CYCLES = 4  # to make float32 of a vector of sums of whole numbers, and scale it


def convolution_tiles(
    chip: CpuShape,
    sizes: tuple[int, int, int, int, int],
    kernel: tuple[int, int],
    groups: int = 1,
    stored: str = "float32",
    planar: bool = False,
) -> tuple[Tile, ...]:
    """The tiles worth timing of a convolution that multiplies in `stored`, the best first.

    sizes: (batch, ho, wo, ic, oc). Only bfloat16 has a way for the windows of a planar source on the matrix unit, and
    only if they fill no more than a tile's row.
    """
    batch, ho, wo, ic, _ = sizes
    unit: Unit = "vector"
    if stored == "int8":
        unit = int8_unit(chip, batch * ho * wo)
    elif stored == "bfloat16" and chip.bf16_macs and groups == 1 and not (planar and kernel[1] * ic > AMX_DEPTH):
        unit = "amx"
    if unit == "amx":
        return (matrix_unit_tile(chip, *sizes, math.prod(kernel)),)
    found = conv_tiles(chip, *sizes, *kernel, groups, item=1 if stored == "int8" else 4)
    return tuple(replace(tile, unit=unit) for tile in found)


def matrix_unit_tile(chip: CpuShape, batch: int, ho: int, wo: int, ic: int, oc: int, taps: int) -> Tile:
    """For a convolution.

    Threads share out what is larger: the filters (`columns`), or the outputs (`rows`), so that each reads again the
    part of the source that it rounded itself.
    """
    outputs = batch * (ho + 2) * (wo + 2)
    by_rows = taps * oc <= 2 * outputs
    panels = math.ceil(oc / AMX_PANEL)
    uneven = panels % chip.threads > 0 and panels < 4 * chip.threads
    chunks = chip.threads if by_rows or uneven else 1
    block = round_up(math.ceil(outputs / chunks), 2 * AMX_SIDE)
    order: Order = "rows" if by_rows else "columns"
    return Tile(lanes(chip), 2 * AMX_SIDE, AMX_PANEL, order, chip.threads, True, block, "amx")


def matrix_unit_cycles(chip: CpuShape, m: int, n: int, k: int, rounded: bool = False) -> float:
    """Of the busiest thread: whole tiles of 16 x 16 x 32 (64 of int8), panels of 32 columns shared out, and either the
    rounding of A, or what makes numbers of whole ones."""
    columns, rows = AMX_PANEL * math.ceil(math.ceil(n / AMX_PANEL) / chip.threads), round_up(m, AMX_SIDE)
    if rounded:
        products = columns * rows * round_up(k, ROW_STEP) / chip.matrix_int8_macs
        return products + columns * m / lanes(chip) * _NUMBER_CYCLES
    products = columns * rows * round_up(k, AMX_DEPTH) / chip.bf16_macs
    return products + m * k / lanes(chip) / chip.threads * _ROUND_CYCLES


def matrix_unit_conv_cycles(
    chip: CpuShape, sizes: tuple[int, int, int, int, int], taps: int, stride: int, rounded: bool = False
) -> float:
    """As `matrix_unit_cycles`, for outputs numbered through rows with a halo of a pixel on either side; of int8 there
    are both, rounding and making numbers."""
    batch, ho, wo, ic, oc = sizes
    outputs, width = batch * ho * (wo + 2), round_up(oc, AMX_PANEL)
    depth = ic * 4 if ic <= FEW_CHANNELS else round_up(ic, ROW_STEP if rounded else AMX_DEPTH)
    macs = chip.matrix_int8_macs if rounded else chip.bf16_macs
    products = round_up(outputs, AMX_SIDE) * taps * depth * width / macs / chip.threads
    numbers = outputs * width / lanes(chip) / chip.threads * _NUMBER_CYCLES if rounded else 0.0
    return products + numbers + image_rounding_cycles(chip, outputs * stride**2, depth)


def image_rounding_cycles(chip: CpuShape, pixels: int, channels: int) -> float:
    """Of the busiest thread that rounds its share of a convolution's source."""
    return pixels * channels / lanes(chip) / chip.threads * _ROUND_CYCLES
