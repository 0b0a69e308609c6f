"""How many numbers a packed weight takes, and a kernel's scratch: asked by codegen and by the cost model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType

from chipfit.ir.images import Image
from chipfit.ir.stored import groups
from chipfit.targets.tile import QUAD, Tile
from chipfit.targets.winograd import POSITIONS

WORD = 8  # int4 in an int32
ROW_STEP, ROW_BLOCK = 64, 16  # int8 and rows that rounded rows are filled up to: what a tile of AMX takes
AMX_SIDE = 16  # rows of a tile, and words in each
AMX_SKEW = 32  # elements between rows in scratch, so that rows of a power of two don't share cache sets
AMX_PANEL, AMX_DEPTH = 32, 32  # columns of a panel of bfloat16 pairs, and rows that one step along k takes
BYTES = MappingProxyType({"float32": 4, "int32": 4, "float16": 2, "uint16": 2, "int8": 1})


@dataclass(frozen=True, slots=True)
class Packed:
    """`size` numbers of numpy's `dtype`."""

    size: int
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        return self.size * BYTES[self.dtype]


def round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def row_words(width: int) -> int:
    """Of a rounded row with its scale."""
    return scale_word(width) + ROW_STEP // QUAD


def scale_word(width: int) -> int:
    """Where in a rounded row its scale is."""
    return round_up(width, ROW_STEP) // QUAD


def matrix(tile: Tile, n: int, k: int, stored: str, rounded: bool) -> tuple[Packed, ...]:
    """Of B (k, n), whose numbers are `stored` so; the scales of int4 lie apart."""
    columns = round_up(n, tile.lanes)
    if stored == "bfloat16":
        amx = tile.unit == "amx"
        return (Packed(round_up(n, AMX_PANEL) * round_up(k, AMX_DEPTH) if amx else columns * k, "uint16"),)
    if rounded and tile.unit == "amx":  # words of four int8, after the sums of the columns
        return (Packed(round_up(n, AMX_PANEL) * (1 + round_up(k, ROW_STEP) // QUAD), "int32"),)
    if rounded and tile.unit != "vector":
        return (Packed(columns * (1 + -(-k // QUAD)), "int32"),)
    if stored == "int4":
        return Packed(columns * -(-k // WORD), "int32"), Packed(columns * groups(k), "float16")
    return (Packed(columns * k, stored),)


def rounded_matrix(tile: Tile, m: int, k: int, stored: str, rounded: bool) -> Packed | None:
    """Scratch for A (m, k) as it is multiplied, where that is otherwise than it lies."""
    if rounded:
        return Packed(m * k) if tile.unit == "vector" else None
    if tile.unit == "amx":
        return Packed(round_up(m, AMX_SIDE) * (round_up(k, AMX_DEPTH) + AMX_SKEW), "uint16")
    return Packed(m * round_up(k, tile.lanes), "float16") if tile.unit == "half" else None


def rounded_image(tile: Tile, source: Image, stride: tuple[int, int], width: int, stored: str) -> Packed | None:
    """Scratch for a convolution's source as it is multiplied; `width` is the output's.

    On AMX an image for each remainder by the stride, elsewhere of int8 alone: words of four for dot products.
    """
    if tile.unit == "amx":
        rows, columns = -(-source.rows // stride[0]), -(-source.columns // stride[1])
        remainders, depth = stride[0] * stride[1], image_depth(source.channels, stored)
        if source.planar:
            remainders, columns, depth = stride[0], width, AMX_DEPTH
        pixels = remainders * source.batch * rows * columns + columns + 4 * AMX_SIDE
        return Packed(pixels * depth, "int8" if stored == "int8" else "uint16")
    if stored != "int8":
        return None
    return Packed(math.prod(source.shape)) if tile.unit == "vector" else Packed(math.prod(words(source).shape), "int32")


def image_depth(channels: int, stored: str) -> int:
    """What AMX takes of a pixel's channels, filled up."""
    return round_up(channels, ROW_STEP if stored == "int8" else AMX_DEPTH)


def words(image: Image) -> Image:
    """The image whose channels are words of four numbers of int8, as dot products take them."""
    return replace(image, channels=-(-image.channels // QUAD), lanes=image.lanes // QUAD)


def filters(tile: Tile, oc: int, ic: int, kernel: tuple[int, int], split: int, planar: bool, stored: str) -> Packed:
    """Of a convolution in `split` groups, whose source may be planar."""
    group_out, group_in, (rows, columns) = oc // split, ic // split, kernel
    if tile.unit == "amx":
        row = round_up(columns * group_in, AMX_DEPTH) if planar else columns * image_depth(group_in, stored)
        return Packed(round_up(group_out, AMX_PANEL) * rows * row, "int8" if stored == "int8" else "uint16")
    taps, outputs = rows * columns, split * round_up(group_out, tile.lanes)
    if tile.unit != "vector":  # words of four, after the sums of the columns
        return Packed(outputs * (1 + -(-group_in // QUAD) * taps), "int32")
    return Packed(outputs * group_in * taps, "int8" if stored == "int8" else "float32")


def transformed_filters(lanes: int, oc: int, ic: int) -> Packed:
    """Of a convolution by Winograd's way."""
    return Packed(POSITIONS * ic * round_up(oc, lanes))


def depthwise_filters(lanes: int, channels: int, kernel: tuple[int, int]) -> Packed:
    return Packed(round_up(channels, lanes) * math.prod(kernel))
