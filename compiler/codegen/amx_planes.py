"""Convolution in bfloat16 on AMX of an input of few channels: a pixel of scratch holds what all taps of a row read.

Such an input would fill a tenth of a tile. Here each output column has its own window of width times channels numbers,
so that only the taps of a column are summed up one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tvm.tirx import PrimFunc, Shuffle
from tvm.tirx.script import builder as T

from chipfit.codegen.amx import rounded
from chipfit.codegen.amx_conv import AmxConv, build_with
from chipfit.codegen.epilogue import image_layout
from chipfit.codegen.kernel import Buffer, Expr, pieces
from chipfit.codegen.spec_images import ConvSpec
from chipfit.codegen.transpose import transpose
from chipfit.ir.images import Shape
from chipfit.targets.packed import AMX_DEPTH, AMX_SIDE
from chipfit.targets.tile import Tile


def build_amx_planes(spec: ConvSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, weight, operands, target, scratch. Raises ValueError where a window exceeds a tile's row."""
    if not spec.source.planar or spec.stored != "bfloat16" or spec.kernel[1] * spec.source.channels > AMX_DEPTH:
        raise ValueError(f"Kernel {name} takes planes in bfloat16, and at most {AMX_DEPTH} numbers in a row of taps.")
    return build_with(AmxPlanes, spec, tile, name, shapes)


@dataclass(frozen=True)
class AmxPlanes(AmxConv):
    """The state of one kernel's emission."""

    @cached_property
    def depth(self) -> int:
        return AMX_DEPTH

    @cached_property
    def columns(self) -> int:
        return self.spec.target.width

    @property
    def remainders(self) -> int:
        return self.spec.stride[0]

    @property
    def taps(self) -> tuple[int, int]:
        return self.spec.kernel[0], 1

    def tap(self, r: Expr, s: Expr) -> Expr:
        down, y = self.spec.stride[0], self.offsets(0)[0] + r * self.spec.dilation[0]
        return (y % down * self.plane if down > 1 else 0) + y // down * self.columns

    def round_row(self, halves: Buffer, b: Expr, row: Expr, y: Expr, i: int) -> None:
        """The windows of all output columns in row `y` of the source, 16 columns at a time."""
        first = i * self.plane + (b * self.rows + row) * self.columns
        pieces(self.columns, AMX_SIDE, lambda x, count: self._windows(halves, first + x, b, y, x, count))

    def _windows(self, halves: Buffer, pixel: Expr, b: Expr, y: Expr, x: Expr, count: int) -> None:
        """Numbers as vectors over columns, two rounded ones to a lane, turned so that each column has its window."""
        wide = f"uint32x{AMX_SIDE}"
        numbers = [T.cast(rounded(self.simd, value), wide) for value in self._numbers(b, y, x, count)]
        numbers += [T.broadcast(T.uint32(0), AMX_SIDE)] * (AMX_DEPTH - len(numbers))
        half = T.broadcast(T.uint32(16), AMX_SIDE)
        pairs = [
            T.bind(T.bitwise_or(low, T.shift_left(high, half)))
            for low, high in zip(numbers[::2], numbers[1::2], strict=True)
        ]
        for column, window in enumerate(transpose(AMX_SIDE, pairs)[:count]):
            at = (pixel + column) * AMX_DEPTH
            T.buffer_store(halves, T.reinterpret(f"uint16x{AMX_DEPTH}", window), [T.ramp(at, 1, AMX_DEPTH)])

    def _numbers(self, b: Expr, y: Expr, x: Expr, count: int) -> list[Expr]:
        """For each tap of a row and each channel what `count` columns from `x` on read."""
        layout, across = image_layout(self.spec.source), self.spec.stride[1]
        top, _, left, _ = self.spec.source.halo
        found = []
        for offset in self.offsets(1):
            for channel in range(self.spec.source.channels):
                start = layout.at((b, y - top, x * across + offset - left, channel))
                found.append(T.bind(self._column(start, across, count)))
        return found

    def _column(self, start: Expr, across: int, count: int) -> Expr:
        if across == 1:
            return self.simd.load(self.x, start, count)
        if count == AMX_SIDE:  # whole vectors, of which one number in `across` counts: TVM would load them one by one
            needed = across * (AMX_SIDE - 1) + 1
            starts = range(0, needed, AMX_SIDE)
            vectors = [T.bind(self.simd.load(self.x, start + at, min(needed - at, AMX_SIDE))) for at in starts]
            return Shuffle(vectors, list(range(0, needed, across)))
        picked = [self.x[start + min(i, count - 1) * across] for i in range(AMX_SIDE)]
        return Shuffle(picked, list(range(AMX_SIDE)))
