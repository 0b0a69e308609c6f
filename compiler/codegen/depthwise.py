"""Depthwise convolution: every channel has its own filter, so vectors run along the channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.conv import check_halo
from chipfit.codegen.epilogue import Finish, image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import Buffer, Expr, Simd, channel_blocks, function, jobs, pieces
from chipfit.codegen.register import Output
from chipfit.codegen.spec_images import DepthwiseSpec
from chipfit.ir.images import Shape
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import pixel_block


def build_depthwise(spec: DepthwiseSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, weight, operands, target. Raises ValueError if the source's halo is too small."""
    check_halo(spec)

    def body(x: Buffer, w: Buffer, *rest: Buffer) -> None:
        simd, target = Simd(tile.lanes), spec.target
        zero_halo(simd, rest[-1], target)
        finish = Finish(simd, spec.epilogue, rest[:-1], target.logical)
        columns = pixel_block(tile.mr, target.height, target.width)[1]
        kernel = _Depthwise(spec, columns, simd, x, w, Output(rest[-1], image_layout(target), finish))
        kernel.emit(tile.order == "rows")

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Depthwise:
    """The state of one kernel's emission."""

    spec: DepthwiseSpec
    columns: int
    simd: Simd
    x: Buffer
    w: Buffer
    output: Output

    def emit(self, by_rows: bool) -> None:
        """Parallel over rows of pixels, or over blocks of channels, which then keep their filter."""
        target = self.spec.target
        outer = (target.batch, target.height)
        if by_rows:
            with jobs(*outer) as (b, y):
                channel_blocks(target.channels, self.simd.lanes, lambda c, valid: self._row(b, y, c, valid))
        else:
            channel_blocks(target.channels, self.simd.lanes, self._channels, parallel=True)

    def _channels(self, c: Expr, valid: int) -> None:
        with jobs(self.spec.target.batch, self.spec.target.height, parallel=False) as (b, y):
            self._row(b, y, c, valid)

    def _row(self, b: Expr, y: Expr, c: Expr, valid: int) -> None:
        pieces(self.spec.target.width, self.columns, lambda x, width: self._tile((b, y, x), width, c, valid))

    def _tile(self, origin: tuple[Expr, Expr, Expr], width: int, c: Expr, valid: int) -> None:
        b, y, x = origin
        sums = [self.simd.register(self.simd.splat(0)) for _ in range(width)]
        with jobs(self.spec.kernel[0], parallel=False) as (r,):
            for s in range(self.spec.kernel[1]):
                weight = T.bind(self.simd.load(self.w, self._weight(r, s, c)))
                for i, total in enumerate(sums):
                    value = self.simd.load(self.x, self._source((b, y, x + i), r, s, c))
                    self.simd.set(total, self.simd.get(total) + value * weight)
        for i, total in enumerate(sums):
            where = (b, y, x + i, c)
            value = self.output.finish(self.simd.get(total), where, valid)
            self.simd.store(self.output.buffer, self.output.layout.at(where), value)

    def _weight(self, r: Expr, s: int, c: Expr) -> Expr:
        return c * math.prod(self.spec.kernel) + (r * self.spec.kernel[1] + s) * self.simd.lanes

    def _source(self, at: tuple[Expr, Expr, Expr], r: Expr, s: int, c: Expr) -> Expr:
        spec, (b, y, x) = self.spec, at
        row = y * spec.stride[0] - spec.padding[0] + r * spec.dilation[0]
        column = x * spec.stride[1] - spec.padding[1] + s * spec.dilation[1]
        return image_layout(spec.source).at((b, row, column, c))
