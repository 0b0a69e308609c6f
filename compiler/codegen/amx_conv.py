"""Convolution on Intel's AMX, in bfloat16 or int8, without patches: a tile of A is 16 pixels in a row of memory.

The source is rounded into scratch with its halo, one image for each remainder of rows and columns by the stride. There
the inputs of neighbouring outputs are neighbours for every tap, also across the end of a row: outputs are numbered
through the width of scratch, and those that fall into the halo are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.amx import BFLOAT16, TILE_BYTES, A, B, Numbers, configure, instruction, load, rounded
from chipfit.codegen.conv import check_halo, finish_of
from chipfit.codegen.epilogue import image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import LINE, Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.register import Output
from chipfit.codegen.rounded_images import RoundedImage
from chipfit.codegen.spec_images import ConvSpec
from chipfit.ir.images import Shape
from chipfit.targets.packed import AMX_PANEL, AMX_SIDE, ROW_STEP, image_depth, round_up
from chipfit.targets.tile import Tile

BLOCK = 2 * AMX_SIDE  # outputs of one square of sums
INT8 = Numbers(ROW_STEP, 1, "tdpbssd", "int32")  # both factors with a sign


def build_amx_conv(spec: ConvSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, weight, operands, target, scratch. Raises ValueError for groups, planes, too small a halo."""
    if spec.groups > 1 or spec.source.planar:
        raise ValueError(f"Kernel {name} takes no groups and no planes.")
    return build_with(AmxConv, spec, tile, name, shapes)


def build_with(
    emitter: type[AmxConv], spec: ConvSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None
) -> PrimFunc:
    check_halo(spec)

    def body(x: Buffer, w: Buffer, *rest: Buffer, scratch: Buffer) -> None:
        simd = Simd(tile.lanes)
        zero_halo(simd, rest[-1], spec.target)
        source = RoundedImage(simd, spec.source, x, rest[0]) if spec.stored == "int8" else None
        finish = finish_of(spec, simd, rest[1:] if source else rest)
        emitter(spec, tile, simd, x, w, Output(rest[-1], image_layout(spec.target), finish), scratch, source).emit()

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class AmxConv:
    """The state of one kernel's emission."""

    spec: ConvSpec
    tile: Tile
    simd: Simd
    x: Buffer
    w: Buffer
    output: Output
    scratch: Buffer
    source: RoundedImage | None

    @property
    def numbers(self) -> Numbers:
        return INT8 if self.source else BFLOAT16

    @cached_property
    def depth(self) -> int:
        """Channels of a pixel in scratch."""
        return image_depth(self.spec.source.channels, self.spec.stored)

    @cached_property
    def rows(self) -> int:
        """Of one image in scratch."""
        return -(-self.spec.source.rows // self.spec.stride[0])

    @cached_property
    def columns(self) -> int:
        return -(-self.spec.source.columns // self.spec.stride[1])

    @property
    def remainders(self) -> int:
        """Images in scratch for each of the source."""
        return self.spec.stride[0] * self.spec.stride[1]

    @property
    def taps(self) -> tuple[int, int]:
        """Rows and columns of taps that are summed up one after the other."""
        return self.spec.kernel

    @cached_property
    def plane(self) -> int:
        """Pixels of the images of a batch for one remainder."""
        return self.spec.source.batch * self.rows * self.columns

    @cached_property
    def outputs(self) -> int:
        """Positions from the first output to the last."""
        target = self.spec.target
        return ((target.batch - 1) * self.rows + target.height - 1) * self.columns + target.width

    def emit(self) -> None:
        halves = self.scratch
        with jobs(self.spec.source.batch, self.rows) as (b, row):
            self._round(halves, b, row)
        panels, span = -(-self.spec.target.channels // AMX_PANEL), self.tile.block
        spans, by_rows = -(-self.outputs // span), self.tile.order == "rows"
        with jobs(*((spans, panels) if by_rows else (panels, spans))) as at:
            t, p = at if by_rows else reversed(at)
            configure()
            split(self.outputs, span, t, lambda count: self._span(halves, p, t * span, count))
            instruction("tilerelease")

    def offsets(self, dim: int) -> list[int]:
        """Of each tap, where the source with its halo starts to be read along rows (0) or columns (1)."""
        spec = self.spec
        before = spec.source.halo[2 * dim] - spec.padding[dim]
        return [before + tap * spec.dilation[dim] for tap in range(spec.kernel[dim])]

    def _round(self, halves: Buffer, b: Expr, row: Expr) -> None:
        """The rows of the source that become `row` of each remainder's image, where a tap reads it."""
        down, source = self.spec.stride[0], self.spec.source
        for i in sorted({offset % down for offset in self.offsets(0)}):
            y = row * down + i
            if self.rows * down - down + i < source.rows:
                self.round_row(halves, b, row, y, i)
            else:
                with T.If(y < source.rows), T.Then():
                    self.round_row(halves, b, row, y, i)

    def round_row(self, halves: Buffer, b: Expr, row: Expr, y: Expr, i: int) -> None:
        across, source = self.spec.stride[1], self.spec.source
        for j in sorted({offset % across for offset in self.offsets(1)}):
            with T.serial(0, len(range(j, source.columns, across))) as column:
                pixel = (i * across + j) * self.plane + (b * self.rows + row) * self.columns + column
                start = ((b * source.rows + y) * source.columns + column * across + j) * source.stored_channels
                self._round_pixel(halves, pixel * self.depth, start)

    def _round_pixel(self, halves: Buffer, to: Expr, start: Expr) -> None:
        """The channels of a pixel, and zeros behind them."""
        lanes, channels = self.simd.lanes, self.spec.source.channels
        zeros = T.broadcast(T.cast(T.int32(0), halves.dtype), lanes)

        def vector(c: Expr, valid: int) -> None:
            T.buffer_store(halves, self._rounded(start + c, valid), [T.ramp(to + c, 1, lanes)])

        pieces(channels, lanes, vector)
        for c in range(round_up(channels, lanes), self.depth, lanes):
            T.buffer_store(halves, zeros, [T.ramp(to + c, 1, lanes)])

    def _rounded(self, start: Expr, valid: int) -> Expr:
        """A vector of the source as it is multiplied, zeros beyond `valid`."""
        if self.source:
            return self.source.int8(start, valid)
        return rounded(self.simd, self.simd.where(valid, self.simd.load(self.x, start), 0.0))

    def _span(self, halves: Buffer, p: Expr, start: Expr, count: int) -> None:
        channels = self.spec.target.channels
        sums = T.alloc_buffer((BLOCK * AMX_PANEL,), self.numbers.sums, scope="global", layout=None)
        T.buffer_store(sums, T.cast(T.int32(0), self.numbers.sums), [BLOCK * AMX_PANEL - 1])

        def panel(size: int) -> None:
            def block(m: Expr, rows: int) -> None:
                self._multiply(halves, sums, start + m, p, (-(-rows // AMX_SIDE), -(-size // AMX_SIDE)), m, count)
                with T.serial(0, rows) as row:
                    self._store(sums, row, start + m + row, p * AMX_PANEL, size)

            pieces(count, BLOCK, block)

        split(channels, AMX_PANEL, p, panel)

    def _multiply(
        self, halves: Buffer, sums: Buffer, first: Expr, p: Expr, tiles: tuple[int, int], m: Expr, count: int
    ) -> None:
        """The sums of `tiles` (down, across) of outputs from `first` on, into scratch."""
        (down, across), numbers = tiles, self.numbers
        square = [(i, j) for i in range(down) for j in range(across)]
        for i, j in square:
            instruction("tilezero", T.int8(2 * i + j))
        (height, width), steps = self.taps, self.depth // numbers.depth
        step, blocks = AMX_PANEL * numbers.row, -(-count // BLOCK)
        with T.serial(0, height) as r, T.serial(0, width) as s, T.serial(0, steps) as k:
            pixel = first + self.tap(r, s)
            here = ((p * height + r) * width + s) * steps + k
            for i in range(down):
                at = (pixel + i * AMX_SIDE) * self.depth + k * numbers.row
                load(A + i, halves, at, numbers.item * self.depth)
            for j in range(across):
                load(B + j, self.w, here * step + j * AMX_SIDE * numbers.row, TILE_BYTES)
            for i, j in square:
                instruction(numbers.instruction, T.int8(2 * i + j), T.int8(A + i), T.int8(B + j))
            self._prefetch((here + height * width * steps) * step, m // BLOCK, step, blocks)
        for i, j in square:
            address = T.address_of(sums[i * AMX_SIDE * AMX_PANEL + j * AMX_SIDE])
            instruction("tilestored64", T.int8(2 * i + j), address, T.int64(4 * AMX_PANEL))

    def tap(self, r: Expr, s: Expr) -> Expr:
        """How many pixels of scratch lie between an output's position and what it multiplies with this tap."""
        (down, across), (up, left) = self.spec.stride, (self.offsets(0)[0], self.offsets(1)[0])
        y, x = up + r * self.spec.dilation[0], left + s * self.spec.dilation[1]
        remainder = (y % down * across if down > 1 else 0) + (x % across if across > 1 else 0)
        return remainder * self.plane + y // down * self.columns + x // across

    def _prefetch(self, offset: Expr, block: Expr, step: int, blocks: int) -> None:
        """This step of the next panel, shared out among the blocks of outputs."""
        item = self.numbers.item
        share = -(-step * item // LINE // blocks)
        for line in range(share):
            self.simd.prefetch(self.w, offset + (block * share + line) * (LINE // item))

    def _store(self, sums: Buffer, row: Expr, position: Expr, n: Expr, size: int) -> None:
        target, lanes = self.spec.target, self.simd.lanes
        line, x = position // self.columns, position % self.columns
        b, y = line // self.rows, line % self.rows
        with T.If(T.And(x < target.width, y < target.height)), T.Then():
            for j in range(0, size, lanes):
                at = (b, y, x, n + j)
                value = T.bind(self.simd.load_as_float(sums, row * AMX_PANEL + j))
                finished = self.output.finish(value, at, min(lanes, size - j))
                self.simd.store(self.output.buffer, self.output.layout.at(at), finished)
