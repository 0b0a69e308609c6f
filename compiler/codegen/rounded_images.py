"""A convolution's source rounded to int8, by the operations of `ir.rounded_conv` in their order."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Buffer, Expr, Simd, jobs, pieces
from chipfit.codegen.rounding import store_words
from chipfit.ir.images import Image
from chipfit.ir.rounded import LARGEST
from chipfit.targets.packed import words
from chipfit.targets.tile import QUAD, Tile


@dataclass(frozen=True)
class RoundedImage:
    """An image and the number that it is multiplied by before it is rounded."""

    simd: Simd
    image: Image
    x: Buffer
    steps: Buffer

    def whole(self, start: Expr, valid: int) -> Expr:
        """The whole numbers from `start` in memory on, as float32; zeros in the lanes beyond `valid`."""
        value = self.simd.where(valid, self.simd.load(self.x, start), 0.0)
        number = T.nearbyint(value * self.simd.splat(self.steps[0]))
        largest = self.simd.splat(LARGEST)
        return T.max(T.min(number, largest), self.simd.splat(0) - largest)

    def int8(self, start: Expr, valid: int, zero: int = 0) -> Expr:
        """The same as int8, with `zero` added."""
        whole = T.cast(self.whole(start, valid), f"int32x{self.simd.lanes}")
        return T.cast(whole + T.broadcast(T.int32(zero), self.simd.lanes), f"int8x{self.simd.lanes}")

    def written(self, tile: Tile, scratch: Buffer) -> Image:
        """Writes all of it, its halo too, as words of int8 for dot products or as float32, and says how it lies."""
        stored = self.image if tile.unit == "vector" else words(self.image)
        channels = self.image.stored_channels

        def vector(pixel: Expr, c: Expr, valid: int) -> None:
            start = pixel * channels + c
            if tile.unit == "vector":
                self.simd.store(scratch, start, self.whole(start, valid))
            else:
                at = pixel * stored.stored_channels + c // QUAD
                store_words(self.simd, scratch, at, self.int8(start, valid, tile.zero))

        with jobs(self.image.batch, self.image.rows) as (b, row), T.serial(0, self.image.columns) as column:
            pixel = (b * self.image.rows + row) * self.image.columns + column
            pieces(self.image.channels, self.simd.lanes, lambda c, valid: vector(pixel, c, valid))
        return stored
