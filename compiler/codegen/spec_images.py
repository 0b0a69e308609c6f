"""What kernels on images compute, as plain data: convolutions, pooling, and the way into and out of that layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chipfit.codegen.spec import NO_STEPS, Argument, Epilogue, Packing, read_by, scratch, weight
from chipfit.ir.images import Image, planar_shape
from chipfit.targets.packed import depthwise_filters, filters, rounded_image, transformed_filters
from chipfit.targets.tile import Tile

Multiplied = Literal["float32", "bfloat16", "int8"]  # what a convolution multiplies


@dataclass(frozen=True)
class ConvSpec:
    """2-D convolution, (groups, any channels); `padding` is (top, left), bottom and right follow from the sizes.

    Of a weight `stored` in bfloat16 only that many bits count, and the source may be rounded too. With int8 the source
    is rounded as `ir.rounded_conv` describes, by a number that is an argument behind the weight. The source's halo must
    cover the padding on all sides; a planar source (groups = 1) is for few channels.
    """

    source: Image
    target: Image
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    epilogue: Epilogue = NO_STEPS
    stored: Multiplied = "float32"

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        planar, channels = self.source.planar, (self.target.channels, self.source.channels)
        size = filters(tile, *channels, self.kernel, self.groups, planar, self.stored)
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        steps = (Argument("operand", (1,)),) if self.stored == "int8" else ()
        own = rounded_image(tile, self.source, self.stride, self.target.width, self.stored)
        factors = (source, weight(size, self._packing(tile)), *steps)
        return (*factors, *read_by(self.epilogue), target, *scratch(own))

    def _packing(self, tile: Tile) -> Packing:
        if tile.unit == "amx":
            return (
                Packing("conv_tiles")
                if self.stored == "int8"
                else Packing("conv_pairs", {"planar": self.source.planar})
            )
        shape = {"lanes": tile.lanes, "nr": tile.nr}
        if tile.unit != "vector":
            return Packing("conv_quads", {**shape, "zero": tile.zero})
        return Packing("conv", {**shape, "groups": self.groups, "half": self.stored == "bfloat16"})


@dataclass(frozen=True)
class WinogradSpec:
    """2-D convolution of 3x3 taps, one group, stride and dilation 1; `padding` is (top, left)."""

    source: Image
    target: Image
    padding: tuple[int, int] = (0, 0)
    epilogue: Epilogue = NO_STEPS

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        size = transformed_filters(tile.lanes, self.target.channels, self.source.channels)
        filters = weight(size, Packing("winograd", {"lanes": tile.lanes, "nr": tile.nr}))
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        return (source, filters, *read_by(self.epilogue), target)


@dataclass(frozen=True)
class DepthwiseSpec:
    """Depthwise convolution, one filter per channel (source.channels == target.channels == groups)."""

    source: Image
    target: Image
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    epilogue: Epilogue = NO_STEPS

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        size = depthwise_filters(tile.lanes, self.source.channels, self.kernel)
        filters = weight(size, Packing("depthwise", {"lanes": tile.lanes}))
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        return (source, filters, *read_by(self.epilogue), target)


@dataclass(frozen=True)
class PoolSpec:
    """Window pooling; `op` is `max` or `avg`. Windows are clipped to the image, so the source needs no halo."""

    op: Literal["max", "avg"]
    source: Image
    target: Image
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    count_include_pad: bool = True
    epilogue: Epilogue = NO_STEPS

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        return (source, *read_by(self.epilogue), target)


@dataclass(frozen=True)
class GlobalPoolSpec:
    """The mean (or max) over height and width: Image -> dense (batch, channels)."""

    op: Literal["max", "avg"]
    source: Image
    epilogue: Epilogue = NO_STEPS

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        output = Argument("output", (self.source.batch, self.source.channels))
        return (Argument("activation", self.source.shape), *read_by(self.epilogue), output)


@dataclass(frozen=True)
class PackImageSpec:
    """Dense (batch, channels, height, width) -> Image (planar or not), halo zeroed."""

    target: Image

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        return (Argument("activation", planar_shape(self.target)), Argument("output", self.target.shape))


@dataclass(frozen=True)
class UnpackImageSpec:
    """Image -> dense (batch, channels, height, width)."""

    source: Image

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        return (Argument("activation", self.source.shape), Argument("output", planar_shape(self.source)))
