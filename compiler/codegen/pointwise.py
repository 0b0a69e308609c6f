"""Pointwise kernels: steps over operands alone, on dense tensors and on images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from tvm.tirx import PrimFunc

from chipfit.codegen.epilogue import Finish, dense_layout, image_layout
from chipfit.codegen.images import zero_halo
from chipfit.codegen.kernel import Buffer, Expr, Simd, channel_blocks, function, jobs, pieces, split
from chipfit.codegen.spec import Epilogue, Operand
from chipfit.codegen.spec_rows import PointwiseSpec
from chipfit.ir.images import Image, Shape
from chipfit.targets.tile import Tile

_CHUNK = 4096  # elements of a flat tensor in one parallel job: 16 kB, well inside a first-level cache
_PARALLEL = 16384  # elements from which waking the other threads pays, even if they lie in a cache


def build_pointwise(spec: PointwiseSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: operands, target."""
    simd = Simd(tile.lanes)

    def dense(*buffers: Buffer) -> None:
        assert not isinstance(spec.target, Image)
        _dense(simd, spec.target, spec.epilogue, buffers)

    def image(*buffers: Buffer) -> None:
        assert isinstance(spec.target, Image)
        _image(simd, spec.target, spec.epilogue, buffers)

    return function(name, spec.arguments(tile), image if isinstance(spec.target, Image) else dense, shapes)


def _image(simd: Simd, target: Image, epilogue: Epilogue, buffers: Sequence[Buffer]) -> None:
    zero_halo(simd, buffers[-1], target)
    finish, layout = Finish(simd, epilogue, buffers[:-1], target.logical), image_layout(target)
    with jobs(target.batch, target.height) as (b, y), jobs(target.width, parallel=False) as (x,):

        def channels(c: Expr, valid: int) -> None:
            where = (b, y, x, c)
            simd.store(buffers[-1], layout.at(where), finish(None, where, valid))

        channel_blocks(target.channels, simd.lanes, channels)


def _dense(simd: Simd, shape: Shape, epilogue: Epilogue, buffers: Sequence[Buffer]) -> None:
    """The innermost dimension in vectors, the outer ones as parallel jobs; a flat tensor is cut into chunks."""
    parallel = math.prod(shape) >= _PARALLEL
    shape, epilogue = collapse(shape, epilogue)
    finish, layout = Finish(simd, epilogue, buffers[:-1], shape), dense_layout(shape, shape)
    *outer, inner = shape

    def run(start: tuple[Expr, ...], first: Expr, length: int) -> None:
        def vector(i: Expr, valid: int) -> None:
            where = (*start, first + i)
            simd.store(buffers[-1], layout.at(where), finish(None, where, valid), valid)

        pieces(length, simd.lanes, vector)

    if outer:
        with jobs(*outer, parallel=parallel) as start:
            run(tuple(start), 0, inner)
    else:
        with jobs(-(-inner // _CHUNK), parallel=parallel) as (chunk,):
            split(inner, _CHUNK, chunk, lambda length: run((), chunk * _CHUNK, length))


def collapse(shape: Shape, epilogue: Epilogue) -> tuple[Shape, Epilogue]:
    """The same kernel with neighbouring dimensions joined where every operand spans both or neither."""
    padded = [_padded(operand, len(shape)) for operand in epilogue.operands]
    sizes = list(zip(shape, *padded, strict=True))
    joined: list[tuple[int, ...]] = []
    for size in (size for size in sizes if size[0] > 1):
        if joined and _spans(joined[-1]) == _spans(size):
            joined[-1] = tuple(itertools.starmap(int.__mul__, zip(joined[-1], size, strict=True)))
        else:
            joined.append(size)
    columns = list(zip(*(joined or [(1,) * (len(padded) + 1)]), strict=True))
    operands = tuple(Operand(column) for column in columns[1:])
    return columns[0], replace(epilogue, operands=operands)


def _padded(operand: Operand, rank: int) -> Shape:
    return (1,) * (rank - len(operand.shape)) + operand.shape


def _spans(sizes: tuple[int, ...]) -> tuple[bool, ...]:
    """For each operand, whether it spans this dimension rather than being broadcast along it."""
    return tuple(size > 1 for size in sizes[1:])
