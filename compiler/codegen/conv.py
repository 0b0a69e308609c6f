"""Convolution as an implicit matrix product: output pixels by output channels, over taps and input channels.

Of int8 the source is rounded first, into scratch, and multiplied as words of four by the chip's dot products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.dots import ARITHMETIC, FLOAT, Arithmetic
from chipfit.codegen.epilogue import Finish, image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.register import Multiply, Number, Output, RegisterTile
from chipfit.codegen.rounded_images import RoundedImage
from chipfit.codegen.spec_images import ConvSpec, DepthwiseSpec
from chipfit.ir.images import Shape
from chipfit.targets.packed import round_up
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import pixel_block


def build_conv(spec: ConvSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, weight, operands, target. Raises ValueError if the source's halo is too small, and for int8
    in groups or planes."""
    check_halo(spec)

    def body(x: Buffer, w: Buffer, *rest: Buffer, scratch: Buffer | None = None) -> None:
        simd = Simd(tile.lanes)
        zero_halo(simd, rest[-1], spec.target)
        if scratch is None:
            output = Output(rest[-1], image_layout(spec.target), finish_of(spec, simd, rest))
            _Conv(spec, tile, simd, x, w, output).emit()
            return
        source = RoundedImage(simd, spec.source, x, rest[0]).written(tile, scratch)
        output = Output(rest[-1], image_layout(spec.target), finish_of(spec, simd, rest[1:]), numbers(simd))
        _Conv(replace(spec, source=source), tile, simd, scratch, w, output).emit()

    return function(name, spec.arguments(tile), body, shapes)


def finish_of(spec: ConvSpec, simd: Simd, rest: Sequence[Buffer]) -> Finish:
    """`rest`: the operands, and the target."""
    return Finish(simd, spec.epilogue, rest[:-1], spec.target.logical)


def numbers(simd: Simd) -> Number:
    """Sums of whole numbers as float32."""
    return lambda total, row: T.cast(total, f"float32x{simd.lanes}")


def check_halo(spec: ConvSpec | DepthwiseSpec) -> None:
    """Raise ValueError unless every tap of every output pixel lies inside the source with its halo, and for int8 in
    groups or planes."""
    source, target = spec.source, spec.target
    if isinstance(spec, ConvSpec) and spec.stored == "int8" and (spec.groups > 1 or source.planar):
        raise ValueError("A convolution of int8 takes no groups and no planes.")
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
    def arithmetic(self) -> Arithmetic:
        return ARITHMETIC[self.tile.unit]

    @property
    def header(self) -> int:
        """Rows of a packed panel before those of the reduction: what sums of int8 start from."""
        return int(self.arithmetic is not FLOAT)

    @property
    def reduction(self) -> int:
        """Its steps."""
        return self.channels_in * self.spec.kernel[0] * self.spec.kernel[1]

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
        tile = RegisterTile(self.simd, size[0] * size[1], channels, padded, self.arithmetic)
        starts = self._vectors(g, n, channels, -1) if self.header else None
        tile.emit(reduce, position, self.output, starts)

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
        (r, s, c), (g, n, channels) = tap, panel
        k, width = (r * self.spec.kernel[1] + s) * self.channels_in + c, round_up(channels, self.simd.lanes)
        vectors = self._vectors(g, n, channels, k)
        if self.tile.prefetch:
            behind = self._panel_start(g, n) + (self.header + self.reduction) * width
            self.simd.prefetch(self.w, behind + self._share(origin, k, self.reduction, width))
        multiply([self._pixel(origin, divmod(i, size[1]), g, tap) for i in range(size[0] * size[1])], vectors)

    def _panel_start(self, g: Expr, n: Expr) -> Expr:
        return (g * round_up(self.channels_out, self.simd.lanes) + n) * (self.header + self.reduction)

    def _vectors(self, g: Expr, n: Expr, channels: int, k: Expr) -> list[Expr]:
        """Row `k` of a packed panel; the header is row -1."""
        width, read = round_up(channels, self.simd.lanes), self.simd.load if self.header else self.simd.load_as_float
        start = self._panel_start(g, n) + (self.header + k) * width
        return [read(self.w, start + j) for j in range(0, width, self.simd.lanes)]

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
