"""The shell of every kernel: a TVM function over flat buffers, and the vector loads and stores in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import DataType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc, Select
from tvm.tirx import op as tirx_op
from tvm.tirx.script import builder as T

from chipfit.codegen.spec import Argument
from chipfit.ir.images import Shape

Expr = Any  # a TVM expression or a Python number; TVM's operators accept both and carry no types
Buffer = Any

LINE = 64  # bytes of a cache line
AHEAD = 4096  # bytes


def function(
    name: str, arguments: Sequence[Argument], body: Callable[..., None], shapes: Sequence[Shape] | None = None
) -> PrimFunc:
    """A function with one buffer per argument; `body` gets each as a flat one-dimensional buffer, scratch by its name.

    The root block lets it live in a Relax module. Raises ValueError if `shapes` has other sizes than the arguments.
    """
    shapes = [argument.shape for argument in arguments] if shapes is None else list(shapes)
    if [math.prod(shape) for shape in shapes] != [math.prod(argument.shape) for argument in arguments]:
        raise ValueError(f"Kernel {name} takes {[a.shape for a in arguments]}, which {shapes} are no views of.")
    given = sum(argument.role != "scratch" for argument in arguments)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        pairs = list(zip(shapes, (argument.dtype for argument in arguments), strict=True))
        tensors = [T.arg(f"p{i}", T.buffer(shape, dtype, layout=None)) for i, (shape, dtype) in enumerate(pairs)]
        with T.sblock("root"):
            T.reads()
            T.writes()
            flat = [_flat(tensor, *pair) for tensor, pair in zip(tensors, pairs, strict=True)]
            body(*flat[:given], **dict.fromkeys(["scratch"][: len(flat) - given], flat[-1]))
    return builder.get()


def _flat(tensor: Buffer, shape: Shape, dtype: str) -> Buffer:
    return T.decl_buffer((math.prod(shape),), dtype, data=tensor.data, layout=None)


@contextmanager
def jobs(*extents: int, parallel: bool = True) -> Iterator[list[Expr]]:
    """One loop over the product of `extents`, over the threads if `parallel`; yields an index for each extent."""
    with (T.parallel if parallel else T.serial)(0, math.prod(extents)) as job:
        yield unravel(job, extents)


def unravel(flat: Expr, extents: Sequence[int]) -> list[Expr]:
    """The row-major indices of `flat`; an extent of one gives the plain number 0."""
    indices: list[Expr] = []
    for extent in reversed(extents):
        last = len(indices) == len(extents) - 1
        indices.append(0 if extent == 1 else flat if last else flat % extent)
        flat = flat if extent == 1 else flat // extent
    return indices[::-1]


def split(size: int, step: int, index: Expr, block: Callable[[int], None]) -> None:
    """Emit `block(extent)` for piece `index` of ceil(size / step) pieces; the last one is shorter if need be."""
    full, tail = divmod(size, step)
    if not tail:
        block(step)
    elif not full:
        block(tail)
    else:
        with T.If(index < full):
            with T.Then():
                block(step)
            with T.Else():
                block(tail)


def pieces(size: int, step: int, block: Callable[[Expr, int], None]) -> None:
    """Emit a serial loop of `block(start, step)` over `size`, then `block(start, rest)` where a rest remains."""
    full, tail = divmod(size, step)
    if full == 1:
        block(0, step)
    elif full:
        with T.serial(0, full) as i:
            block(i * step, step)
    if tail:
        block(full * step, tail)


def channel_blocks(channels: int, lanes: int, block: Callable[[Expr, int], None], parallel: bool = False) -> None:
    """Emit one loop of `block(first channel, valid lanes)` over the vectors of channels, the last perhaps partial."""
    with jobs(-(-channels // lanes), parallel=parallel) as (i,):
        split(channels, lanes, i, lambda valid: block(i * lanes, valid))


@dataclass(frozen=True)
class Simd:
    """Vectors of `lanes` float32 values. Offsets are in elements; `valid` lanes are touched, all where it is None."""

    lanes: int

    def splat(self, value: Expr) -> Expr:
        return T.broadcast(T.float32(value) if isinstance(value, int | float) else value, self.lanes)

    def load(self, buffer: Buffer, offset: Expr, valid: Expr | None = None) -> Expr:
        """The lanes beyond `valid` read as zero, and memory there is not touched."""
        index = T.ramp(offset, 1, self.lanes)
        if self._whole(valid):
            return buffer[index]
        return tirx_op.masked_load(f"float32x{self.lanes}", buffer, index, self._mask(valid))

    def load_as_float(self, buffer: Buffer, offset: Expr) -> Expr:
        """A whole vector of a buffer of any type of number."""
        return T.cast(self.load(buffer, offset), f"float32x{self.lanes}")

    def load_bfloat16(self, buffer: Buffer, offset: Expr) -> Expr:
        """A whole vector of the bits of bfloat16, which are the upper halves of float32."""
        bits = T.cast(self.load(buffer, offset), f"uint32x{self.lanes}")
        return T.reinterpret(f"float32x{self.lanes}", T.shift_left(bits, T.broadcast(T.uint32(16), self.lanes)))

    def store(self, buffer: Buffer, offset: Expr, value: Expr, valid: Expr | None = None) -> None:
        index = T.ramp(offset, 1, self.lanes)
        if self._whole(valid):
            T.buffer_store(buffer, value, [index])
        else:
            T.evaluate(tirx_op.masked_store(buffer, value, index, self._mask(valid)))

    def vector(self, buffer: Buffer, offset: Expr, valid: Expr | None, stride: int) -> Expr:
        """The vector at `offset`, or one element in all lanes where `stride` is 0."""
        return self.load(buffer, offset, valid) if stride else self.splat(buffer[offset])

    def where(self, valid: Expr | None, value: Expr, other: float) -> Expr:
        """`value` with the lanes beyond `valid` replaced."""
        return value if self._whole(valid) else Select(self._mask(valid), value, self.splat(other))

    def register(self, start: Expr | None = None, dtype: str = "float32") -> Buffer:
        """A vector variable. One buffer each, in global scope: what LLVM keeps in registers without spilling."""
        variable = T.alloc_buffer((self.lanes,), dtype, scope="global", layout=None)
        if start is not None:
            self.set(variable, start)
        return variable

    def get(self, variable: Buffer) -> Expr:
        return variable[T.ramp(0, 1, self.lanes)]

    def set(self, variable: Buffer, value: Expr) -> None:
        T.buffer_store(variable, value, [T.ramp(0, 1, self.lanes)])

    def prefetch(self, buffer: Buffer, offset: Expr) -> None:
        """Ask for the cache line at `offset`, into the second-level cache; harmless beyond the buffer's end."""
        intrinsic = T.llvm_lookup_intrinsic_id("llvm.prefetch")
        read, locality, data = T.int32(0), T.int32(2), T.int32(1)
        T.evaluate(T.call_llvm_intrin("void", intrinsic, T.address_of(buffer[offset]), read, locality, data))

    def prefetch_ahead(self, buffer: Buffer, offset: Expr, count: int) -> None:
        """Ask for `count` elements as far behind `offset` as covers the latency of a stream that is read once.

        Without it streams of int8 reached half the bandwidth of streams of float32, and with it all of it, at any
        distance from 4 to 16 KiB (Sapphire Rapids, matrices of 1 MiB from the third-level cache).
        """
        item = DataType(buffer.dtype).bits // 8
        for line in range(0, count * item, LINE):
            self.prefetch(buffer, offset + (AHEAD + line) // item)

    def _whole(self, valid: Expr | None) -> bool:
        return valid is None or (isinstance(valid, int) and valid >= self.lanes)

    def _mask(self, valid: Expr) -> Expr:
        limit = T.int32(valid) if isinstance(valid, int) else valid
        return T.ramp(0, 1, self.lanes) < T.broadcast(limit, self.lanes)
