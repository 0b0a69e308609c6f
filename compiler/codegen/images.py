"""Images in memory: zeroing the halo, and the way from and to PyTorch's dense channels-first layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import dense_layout, image_layout
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces
from chipfit.codegen.spec_images import PackImageSpec, UnpackImageSpec
from chipfit.codegen.transpose import Matrix, transpose_matrix
from chipfit.ir.images import Image, Shape, planar_shape
from chipfit.targets.tile import Tile


def zero_halo(simd: Simd, buffer: Buffer, image: Image) -> None:
    """Write the zeros around every image of the batch; a planar image has a halo around each channel."""
    planes, size = image.batch, image.rows * image.columns * image.stored_channels
    if image.planar:
        planes, size = image.batch * image.channels, image.rows * image.columns
    if any(image.halo):
        with T.serial(0, planes) as plane:
            for start, count, step, length in _halo_spans(image):
                with T.serial(0, count) as i:
                    offset = plane * size + start + i * step
                    pieces(length, simd.lanes, partial(_zeros, simd, buffer, offset))


def _zeros(simd: Simd, buffer: Buffer, start: Expr, i: Expr, valid: int) -> None:
    simd.store(buffer, start + i, simd.splat(0), valid)


def _halo_spans(image: Image) -> Iterator[tuple[int, int, int, int]]:
    """(start, count, step, length) of the runs of zeros in one plane, none empty; neighbouring runs are joined."""
    pixel = 1 if image.planar else image.stored_channels
    top, bottom, left, right = image.halo
    row = image.columns * pixel
    first, last = top * row + left * pixel, right * pixel + bottom * row
    between = (first + image.width * pixel, image.height - 1, row, (left + right) * pixel)
    spans = ((0, 1, 0, first), between, (image.rows * row - last, 1, 0, last))
    return (span for span in spans if span[1] and span[3])


def build_pack_image(spec: PackImageSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Dense channels-first -> Image."""
    image, simd = spec.target, Simd(tile.lanes)
    dense = dense_layout(planar_shape(image), planar_shape(image))
    layout = image_layout(image)

    def planar(x: Buffer, y: Buffer) -> None:
        zero_halo(simd, y, image)
        with jobs(image.batch, image.channels, image.height) as (b, c, row):
            start, to = dense.at((b, c, row, 0)), layout.at((b, row, 0, c))
            pieces(image.width, simd.lanes, lambda i, n: simd.store(y, to + i, simd.load(x, start + i, n), n))

    def channels_last(x: Buffer, y: Buffer) -> None:
        zero_halo(simd, y, image)
        with jobs(image.batch, image.height) as (b, row):
            source = Matrix(x, dense.at((b, 0, row, 0)), image.height * image.width)
            target = Matrix(y, layout.at((b, row, 0, 0)), image.stored_channels)
            transpose_matrix(simd, source, target, (image.channels, image.width), padded=True)

    return function(name, spec.arguments(tile), planar if image.planar else channels_last, shapes)


def build_unpack_image(spec: UnpackImageSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Image (not planar) -> dense channels-first."""
    image, simd = spec.source, Simd(tile.lanes)
    dense = dense_layout(planar_shape(image), planar_shape(image))
    layout = image_layout(image)

    def body(x: Buffer, y: Buffer) -> None:
        with jobs(image.batch, image.height) as (b, row):
            source = Matrix(x, layout.at((b, row, 0, 0)), image.stored_channels)
            target = Matrix(y, dense.at((b, 0, row, 0)), image.height * image.width)
            transpose_matrix(simd, source, target, (image.width, image.channels), padded=False)

    return function(name, spec.arguments(tile), body, shapes)
