"""Convolution as an implicit matrix product: output pixels by output channels, over taps and input channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.register import Multiply, Output, RegisterTile
from chipfit.codegen.spec import ConvSpec, DepthwiseSpec
from chipfit.ir.images import Shape
from chipfit.targets.packed import round_up
from chipfit.targets.tiles import Tile, pixel_block


def build_conv(spec: ConvSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, weight, operands, target. Raises ValueError if the source's halo is too small."""
    check_halo(spec)

    def body(x: Buffer, w: Buffer, *rest: Buffer) -> None:
        simd = Simd(tile.lanes)
        zero_halo(simd, rest[-1], spec.target)
        finish = Finish(simd, spec.epilogue, rest[:-1], spec.target.logical)
        _Conv(spec, tile, simd, x, w, Output(rest[-1], image_layout(spec.target), finish)).emit()

    return function(name, spec.arguments(tile), body, shapes)


def check_halo(spec: ConvSpec | DepthwiseSpec) -> None:
    """Raise ValueError unless every tap of every output pixel lies inside the source with its halo."""
    source, target = spec.source, spec.target
    reach = [(k - 1) * d + 1 for k, d in zip(spec.kernel, spec.dilation, strict=True)]
    bottom = (target.height - 1) * spec.stride[0] - spec.padding[0] + reach[0] - source.height
    right = (target.width - 1) * spec.stride[1] - spec.padding[1] + reach[1] - source.width
    needed = (spec.padding[0], bottom, spec.padding[1], right)
    if any(has < needs for has, needs in zip(source.halo, needed, strict=True)):
        raise ValueError(f"The source's halo {source.halo} must be at least {needed}.")


@dataclass(frozen=True)
class _Conv:
    """The state of one kernel's emission."""

    spec: ConvSpec
    tile: Tile
    simd: Simd
    x: Buffer
    w: Buffer
    output: Output

    @property
    def channels_in(self) -> int:
        return self.spec.source.channels // self.spec.groups

    @property
    def channels_out(self) -> int:
        return self.spec.target.channels // self.spec.groups

    @property
    def block(self) -> tuple[int, int]:
        return pixel_block(self.tile.mr, self.spec.target.height, self.spec.target.width)

    def emit(self) -> None:
        target, nr, rows = self.spec.target, self.tile.nr, self.block[0]
        if self.tile.order == "rows":
            with jobs(target.batch, -(-target.height // rows)) as (b, t):
                split(target.height, rows, t, lambda height: self._row_block(b, t * rows, height))
        else:
            with jobs(self.spec.groups, -(-self.channels_out // nr)) as (g, p):
                split(self.channels_out, nr, p, lambda channels: self._panel(g, p * nr, channels))

    def _row_block(self, b: Expr, y: Expr, height: int) -> None:
        with jobs(self.spec.groups, parallel=False) as (g,):
            pieces(self.channels_out, self.tile.nr, lambda n, channels: self._strip(b, y, height, g, n, channels))

    def _panel(self, g: Expr, n: Expr, channels: int) -> None:
        target = self.spec.target
        with jobs(target.batch, parallel=False) as (b,):
            pieces(target.height, self.block[0], lambda y, height: self._strip(b, y, height, g, n, channels))

    def _strip(self, b: Expr, y: Expr, height: int, g: Expr, n: Expr, channels: int) -> None:
        """One block of rows, across the width."""
        width = self.spec.target.width
        pieces(width, self.block[1], lambda x, w: self._tile((b, y, x), (height, w), g, n, channels))

    def _tile(self, origin: tuple[Expr, Expr, Expr], size: tuple[int, int], g: Expr, n: Expr, channels: int) -> None:
        batch, top, left = origin
        first = g * self.channels_out + n

        def position(pixel: Expr, channel: Expr) -> tuple[Expr, ...]:
            return (batch, top + pixel // size[1], left + pixel % size[1], first + channel)

        def reduce(multiply: Multiply) -> None:
            self._taps(lambda r, s, c: self._step(multiply, origin, size, (g, n, channels), (r, s, c)))

        padded = self.spec.groups == 1 or self.channels_out % self.simd.lanes == 0
        RegisterTile(self.simd, size[0] * size[1], channels, padded).emit(reduce, position, self.output)

    def _taps(self, step: Callable[[Expr, Expr, Expr], None]) -> None:
        """Loops over the kernel's taps and the input channels. A planar source has too few channels for a loop."""
        height, width = self.spec.kernel
        with jobs(height, parallel=False) as (r,), jobs(width, parallel=False) as (s,):
            if self.spec.source.planar:
                for c in range(self.channels_in):
                    step(r, s, c)
            else:
                with T.serial(0, self.channels_in) as c:
                    step(r, s, c)

    def _step(
        self,
        multiply: Multiply,
        origin: tuple[Expr, Expr, Expr],
        size: tuple[int, int],
        panel: tuple[Expr, Expr, int],
        tap: tuple[Expr, Expr, Expr],
    ) -> None:
        spec, (r, s, c), (g, n, channels) = self.spec, tap, panel
        reduction = self.channels_in * spec.kernel[0] * spec.kernel[1]
        k, width = (r * spec.kernel[1] + s) * self.channels_in + c, round_up(channels, self.simd.lanes)
        start = (g * round_up(self.channels_out, self.simd.lanes) + n) * reduction
        vectors = [self.simd.load(self.w, start + k * width + j) for j in range(0, width, self.simd.lanes)]
        if self.tile.prefetch:
            self.simd.prefetch(self.w, start + reduction * width + self._share(origin, k, reduction, width))
        multiply([self._pixel(origin, divmod(i, size[1]), g, tap) for i in range(size[0] * size[1])], vectors)

    def _pixel(self, origin: tuple[Expr, Expr, Expr], at: tuple[int, int], g: Expr, tap: tuple[Expr, ...]) -> Expr:
        """The input that output pixel origin + at multiplies with this tap."""
        spec, (b, top, left), (r, s, c) = self.spec, origin, tap
        y = (top + at[0]) * spec.stride[0] - spec.padding[0] + r * spec.dilation[0]
        x = (left + at[1]) * spec.stride[1] - spec.padding[1] + s * spec.dilation[1]
        return self.x[image_layout(spec.source).at((b, y, x, g * self.channels_in + c))]

    def _share(self, origin: tuple[Expr, Expr, Expr], k: Expr, reduction: int, width: int) -> Expr:
        """How far into the next panel to prefetch now, so that the tiles over this one fetch it all."""
        target, (rows, columns) = self.spec.target, self.block
        down, across = -(-target.height // rows), -(-target.width // columns)
        tile = (origin[0] * down + origin[1] // rows) * across + origin[2] // columns
        return (tile * reduction + k) * width // (target.batch * down * across)
