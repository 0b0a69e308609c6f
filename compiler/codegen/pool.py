"""Pooling over windows and over whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import Buffer, Expr, Simd, channel_blocks, function, jobs
from chipfit.codegen.spec_images import GlobalPoolSpec, PoolSpec
from chipfit.ir.images import Shape
from chipfit.targets.tile import Tile

_LOWEST = -3.4028234663852886e38


def build_pool(spec: PoolSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, operands, target."""

    def body(x: Buffer, *rest: Buffer) -> None:
        simd, target, y = Simd(tile.lanes), spec.target, rest[-1]
        zero_halo(simd, y, target)
        finish = Finish(simd, spec.epilogue, rest[:-1], target.logical)
        window = _Window(spec, simd, x)
        with jobs(target.batch, target.height) as (b, upwards), jobs(target.width, parallel=False) as (column,):
            row = target.height - 1 - upwards  # the last rows of a large source are the ones that a cache still has

            def channels(c: Expr, valid: int) -> None:
                value = finish(window.value(b, row, column, c), (b, row, column, c), valid)
                simd.store(y, image_layout(target).at((b, row, column, c)), value)

            channel_blocks(target.channels, simd.lanes, channels)

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Window:
    """One window's maximum or mean. Taps outside the image are moved to its edge, where they change no maximum, and
    are weighted zero in a mean."""

    spec: PoolSpec
    simd: Simd
    x: Buffer

    def value(self, b: Expr, row: Expr, column: Expr, c: Expr) -> Expr:
        spec, simd = self.spec, self.simd
        top, left = row * spec.stride[0] - spec.padding[0], column * spec.stride[1] - spec.padding[1]
        total = simd.register(simd.splat(_LOWEST if spec.op == "max" else 0))
        with jobs(spec.kernel[0], parallel=False) as (r,), jobs(spec.kernel[1], parallel=False) as (s,):
            y, x = _inside(top + r, spec.source.height), _inside(left + s, spec.source.width)
            tap = simd.load(self.x, image_layout(spec.source).at((b, y, x, c)))
            if spec.op == "max":
                simd.set(total, T.max(simd.get(total), tap))
            else:
                inside = T.cast(y == top + r, "float32") * T.cast(x == left + s, "float32")
                simd.set(total, simd.get(total) + simd.splat(inside) * tap)
        return simd.get(total) if spec.op == "max" else simd.get(total) / simd.splat(self._count(top, left))

    def _count(self, top: Expr, left: Expr) -> Expr:
        """The elements that the mean divides by: PyTorch counts the padding, but no more than that."""
        spec, source = self.spec, self.spec.source
        y, x = spec.padding if spec.count_include_pad else (0, 0)
        height = T.min(top + spec.kernel[0], source.height + y) - T.max(top, -y)
        width = T.min(left + spec.kernel[1], source.width + x) - T.max(left, -x)
        return T.cast(height * width, "float32")


def _inside(index: Expr, size: int) -> Expr:
    return T.min(T.max(index, 0), size - 1)


def build_global_pool(spec: GlobalPoolSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, operands, output (batch, channels)."""

    def body(x: Buffer, *rest: Buffer) -> None:
        simd, source = Simd(tile.lanes), spec.source
        finish = Finish(simd, spec.epilogue, rest[:-1], (source.batch, source.channels))

        def channels(b: Expr, c: Expr, valid: int) -> None:
            value = finish(_reduce(spec, simd, x, b, c), (b, c), valid)
            simd.store(rest[-1], b * source.channels + c, value, valid)

        with jobs(source.batch, parallel=source.batch > 1) as (b,):
            channel_blocks(source.channels, simd.lanes, lambda c, valid: channels(b, c, valid))

    return function(name, spec.arguments(tile), body, shapes)


def _reduce(spec: GlobalPoolSpec, simd: Simd, x: Buffer, b: Expr, c: Expr) -> Expr:
    """The mean or maximum of one vector of channels."""
    source = spec.source
    total = simd.register(simd.splat(_LOWEST if spec.op == "max" else 0))
    with jobs(source.height, parallel=False) as (row,), jobs(source.width, parallel=False) as (column,):
        value = simd.load(x, image_layout(source).at((b, row, column, c)))
        simd.set(total, T.max(simd.get(total), value) if spec.op == "max" else simd.get(total) + value)
    return simd.get(total) if spec.op == "max" else simd.get(total) * simd.splat(1 / (source.height * source.width))
