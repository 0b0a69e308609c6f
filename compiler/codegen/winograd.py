"""3x3 convolution by Winograd's F(2x2, 3x3): sixteen matrix products instead of thirty-six multiplications a tile.

A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv:1509.09308): each 4x4 patch of the
source gives 2x2 outputs, A'[(G g G') * (B' d B)]A. Filters are transformed when they are packed; the patches of a block
are transformed into scratch, multiplied one of the sixteen positions after the other, and transformed back at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, Layout, image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.register import Multiply, Output, RegisterTile
from chipfit.codegen.spec import NO_STEPS
from chipfit.codegen.spec_images import WinogradSpec
from chipfit.ir.images import Shape
from chipfit.targets.packed import round_up
from chipfit.targets.tile import Tile
from chipfit.targets.winograd import SKEW

PATCH, MADE = 4, 2  # pixels in a row of a patch, and of its outputs
POSITIONS = PATCH * PATCH

Pixel = tuple[Expr, Expr, Expr]  # (image, row, column) of a patch, counted in patches


def build_winograd(spec: WinogradSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: source, weight, operands, target."""

    def body(x: Buffer, w: Buffer, *rest: Buffer) -> None:
        simd = Simd(tile.lanes)
        zero_halo(simd, rest[-1], spec.target)
        finish = Finish(simd, spec.epilogue, rest[:-1], spec.target.logical)
        _Winograd(spec, tile, simd, x, w, Output(rest[-1], image_layout(spec.target), finish)).emit()

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Winograd:
    """The state of one kernel's emission. Patches are numbered through the batch, row by row."""

    spec: WinogradSpec
    tile: Tile
    simd: Simd
    x: Buffer
    w: Buffer
    output: Output

    @cached_property
    def down(self) -> int:
        return -(-self.spec.target.height // MADE)

    @cached_property
    def across(self) -> int:
        return -(-self.spec.target.width // MADE)

    @property
    def stride(self) -> int:
        """Of a patch's channels in scratch."""
        return round_up(self.spec.source.channels, self.simd.lanes) + SKEW

    def emit(self) -> None:
        patches, block = self.spec.target.batch * self.down * self.across, self.tile.block
        with jobs(-(-patches // block)) as (t,):
            split(patches, block, t, lambda count: self._block(t * block, count))

    def _block(self, first: Expr, count: int) -> None:
        turned = _Patches(self._scratch(POSITIONS * count * self.stride), count)
        self._transform(turned, first, count)
        channels = self.spec.target.channels
        pieces(channels, self.tile.nr, lambda n, size: self._panel(turned, first, count, n, size))

    def _scratch(self, size: int) -> Buffer:
        return T.alloc_buffer((size,), "float32", scope="global", layout=None)

    def _locate(self, patch: Expr) -> Pixel:
        return patch // (self.down * self.across), patch // self.across % self.down, patch % self.across

    def _transform(self, turned: _Patches, first: Expr, count: int) -> None:
        """B' d B of `count` patches."""
        channels = round_up(self.spec.source.channels, self.simd.lanes)
        with T.serial(0, count) as t, T.serial(0, channels // self.simd.lanes) as vector:
            place, channel = self._locate(first + t), vector * self.simd.lanes
            rows = [[self._load(place, i, j, channel) for j in range(PATCH)] for i in range(PATCH)]
            by_column = [_into(list(column)) for column in zip(*rows, strict=True)]
            for i in range(PATCH):
                for j, value in enumerate(_into([column[i] for column in by_column])):
                    at = turned.row(i * PATCH + j, t) * self.stride + channel
                    self.simd.store(turned.buffer, at, value)

    def _load(self, place: Pixel, i: int, j: int, channel: Expr) -> Expr:
        """A pixel of a patch. Beyond the halo any will do: it reaches only outputs that are outside."""
        source, (top, left) = self.spec.source, self.spec.padding
        y, x = (MADE * at + step - pad for at, step, pad in zip(place[1:], (i, j), (top, left), strict=True))
        y, x = T.min(y, source.height + source.halo[1] - 1), T.min(x, source.width + source.halo[3] - 1)
        return T.bind(self.simd.load(self.x, image_layout(source).at((place[0], y, x, channel))))

    def _panel(self, turned: _Patches, first: Expr, count: int, n: Expr, size: int) -> None:
        """The outputs of `count` patches for `size` filters from `n` on."""
        width = round_up(size, self.simd.lanes)
        products = self._scratch(POSITIONS * count * width)
        with T.serial(0, POSITIONS) as position:
            pieces(
                count,
                self.tile.mr,
                lambda t, rows: self._product(turned, products, (position, t), rows, count, n, size),
            )
        with T.serial(0, count) as t:
            place = self._locate(first + t)
            for j in range(0, width, self.simd.lanes):
                found = [
                    [T.bind(self.simd.load(products, ((i * PATCH + k) * count + t) * width + j)) for k in range(PATCH)]
                    for i in range(PATCH)
                ]
                self._store(place, n + j, min(self.simd.lanes, size - j), found)

    def _product(
        self, turned: _Patches, products: Buffer, at: tuple[Expr, Expr], rows: int, count: int, n: Expr, size: int
    ) -> None:
        """One position's product for `rows` patches from `t` on, into scratch."""
        (position, t), depth = at, self.spec.source.channels
        width = round_up(size, self.simd.lanes)
        panel, whole = n * POSITIONS * depth, POSITIONS * depth * self.tile.nr

        def reduce(multiply: Multiply) -> None:
            with T.serial(0, depth) as k:
                start = panel + (position * depth + k) * width
                vectors = [self.simd.load(self.w, start + j) for j in range(0, width, self.simd.lanes)]
                if self.tile.prefetch:
                    tiles = -(-count // self.tile.mr)
                    share = (t // self.tile.mr * depth + k) * width // tiles
                    self.simd.prefetch(self.w, panel + whole + position * depth * width + share)
                multiply([turned.buffer[turned.row(position, t + i) * self.stride + k] for i in range(rows)], vectors)

        plain = replace(self.output.finish, epilogue=NO_STEPS)
        into = Output(products, Layout((position * count + t) * width, (width, 1)), plain)
        RegisterTile(self.simd, rows, size, padded=True).emit(reduce, lambda row, column: (row, column), into)

    def _store(self, place: Pixel, channel: Expr, valid: int, found: list[list[Expr]]) -> None:
        """A' m A, finished, at the pixels that are inside."""
        target = self.spec.target
        by_column = [_out(list(column)) for column in zip(*found, strict=True)]
        for i in range(MADE):
            for j, value in enumerate(_out([column[i] for column in by_column])):
                y, x = MADE * place[1] + i, MADE * place[2] + j
                inside = [
                    at < size
                    for at, size, step in ((y, target.height, i), (x, target.width, j))
                    if step and size % MADE
                ]
                at = (place[0], y, x, channel)
                if not inside:
                    self._finish(at, value, valid)
                    continue
                with T.If(T.And(*inside) if len(inside) > 1 else inside[0]), T.Then():
                    self._finish(at, value, valid)

    def _finish(self, at: Sequence[Expr], value: Expr, valid: int) -> None:
        self.simd.store(self.output.buffer, self.output.layout.at(at), self.output.finish(value, at, valid))


@dataclass(frozen=True)
class _Patches:
    """Transformed patches in scratch: [position][patch][channel]."""

    buffer: Buffer
    count: int

    def row(self, position: Expr, patch: Expr) -> Expr:
        return position * self.count + patch


def _into(d: list[Expr]) -> list[Expr]:
    """B' d."""
    return [T.bind(d[0] - d[2]), T.bind(d[1] + d[2]), T.bind(d[2] - d[1]), T.bind(d[1] - d[3])]


def _out(m: list[Expr]) -> list[Expr]:
    """A' m."""
    return [T.bind(m[0] + m[1] + m[2]), T.bind(m[1] - m[2] - m[3])]
