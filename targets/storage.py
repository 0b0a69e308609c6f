"""How a CPU's library keeps things in memory: weights packed for the tiles that read them, images padded to vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from chipfit.ir.images import NO_HALO, Image, Shape, geometry, pools_globally
from chipfit.ir.kernel import Kernel, rounds_rows
from chipfit.ir.work import Work
from chipfit.targets.amounts import Cpu, Dims, fast_tile, multiplied_in, sizes
from chipfit.targets.matrix_unit import convolution_tiles
from chipfit.targets.packed import (
    ROW_BLOCK,
    Packed,
    depthwise_filters,
    filters,
    matrix,
    round_up,
    rounded_image,
    rounded_matrix,
    row_words,
    transformed_filters,
)
from chipfit.targets.tile import lanes
from chipfit.targets.tiles import matmul_tile
from chipfit.targets.weights import Layout

NUMBERS: Mapping[torch.dtype, str] = {torch.int8: "int8", torch.uint8: "int4"}
WORD_BYTES = 4


@dataclass(frozen=True)
class Storage:
    """Bytes, for one chip."""

    cpu: Cpu

    @property
    def lanes(self) -> int:
        """What the channels of an image are filled up to."""
        return lanes(self.cpu)

    def output_bytes(self, kernel: Kernel, work: Work, known: Layout) -> tuple[int, int]:
        """Of what a kernel writes, dense and as an image."""
        if rounds_rows(kernel):
            rows = round_up(math.prod(work.shape[:-1]), ROW_BLOCK)
            return rows * row_words(work.shape[-1]) * WORD_BYTES, 0
        if kernel.output.type.dtype != torch.float32:
            return work.bytes_written, 0
        image = self.image_bytes(kernel.name, work.shape, known)
        dense_first = kernel.kind in ("reduce", "matmul") or pools_globally(kernel.anchor)
        return work.bytes_written, 0 if dense_first and image == work.bytes_written else image

    def image_bytes(self, name: str, shape: Shape, known: Layout) -> int:
        """Of a value of float32; only (batch, channels, height, width) may lie so."""
        if len(shape) != 4:
            return 0
        batch, channels, height, width = shape
        halo, planar = known.halos.get(name, NO_HALO), name in known.planar
        return 4 * math.prod(Image(batch, height, width, channels, self.lanes, halo, planar).shape)

    def own_bytes(self, kernel: Kernel, work: Work, known: Layout) -> tuple[int, int]:
        """Of what a product or a convolution has for itself: its packed weight, its scratch."""
        if kernel.anchor.name not in known.packing:
            return 0, 0
        dims = tuple(sorted(work.dims.items()))
        if shape := geometry(kernel):
            (height, width), name = shape.source.shape[2:], shape.source.name
            halo, planar = known.halos.get(name, NO_HALO), name in known.planar
            source = Image(work.dims["batch"], height, width, work.dims["ic"], self.lanes, halo, planar)
            return _convolution(dims, kernel.kind == "depthwise", source, shape.stride, self.cpu)
        found = (NUMBERS[value.type.dtype] for value in kernel.inputs if value.type.dtype in NUMBERS)
        return _product(dims, next(found, "float32"), self.cpu)


@lru_cache(maxsize=65536)
def _product(dims: Dims, numbers: str, cpu: Cpu) -> tuple[int, int]:
    d = dict(dims)
    stored = "bfloat16" if d["narrow"] else "float16" if d["half"] else numbers
    rounded = bool(d["rounded"])
    tile = matmul_tile(cpu, d["m"], d["n"], d["k"], 1, stored, rounded)
    weight = sum(packed.bytes for packed in matrix(tile, d["n"], d["k"], stored, rounded))
    return weight, size_of(rounded_matrix(tile, d["m"], d["k"], stored, rounded))


@lru_cache(maxsize=65536)
def _convolution(dims: Dims, depthwise: bool, source: Image, stride: tuple[int, int], cpu: Cpu) -> tuple[int, int]:
    d = dict(dims)
    kernel, (_, _, wo, ic, oc) = (d["r"], d["s"]), sizes(d)
    if depthwise:
        return depthwise_filters(lanes(cpu), oc, kernel).bytes, 0
    stored = multiplied_in(d)
    if stored == "float32" and not source.planar and fast_tile(d, cpu):
        return transformed_filters(lanes(cpu), oc, ic).bytes, 0
    tile = convolution_tiles(cpu, sizes(d), kernel, d["groups"], stored, source.planar)[0]
    weight = filters(tile, oc, ic, kernel, d["groups"], source.planar, stored).bytes
    return weight, size_of(rounded_image(tile, source, stride, wo, stored))


def size_of(scratch: Packed | None) -> int:
    return scratch.bytes if scratch else 0
