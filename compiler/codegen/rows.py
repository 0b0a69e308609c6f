"""Softmax and normalisation over the last axis: rows in parallel, several sums in flight within each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc, Shuffle
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, dense_layout
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces
from chipfit.codegen.spec_rows import NormSpec, SoftmaxSpec
from chipfit.codegen.vector import exp, log
from chipfit.ir.images import Shape
from chipfit.targets.tile import Tile

_LOWEST = -3.4028234663852886e38
_TINY = 1.1754943508222875e-38
_IN_FLIGHT = 4  # independent sums, about the latency of an addition in cycles
PARALLEL = 16384  # elements from which waking the other threads pays

Value = Callable[[Expr, int], Expr]  # (first element, valid lanes) -> vector
Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Row:
    """The vectors of one row of `width` elements."""

    simd: Simd
    width: int

    def each(self, visit: Callable[[Expr, int, int], None]) -> None:
        """Emit a loop of `visit(first element, valid lanes, slot)`, `_IN_FLIGHT` slots to a turn."""
        lanes = self.simd.lanes

        def turn(start: Expr, length: int) -> None:
            for slot in range(-(-length // lanes)):
                visit(start + slot * lanes, min(lanes, length - slot * lanes), slot)

        pieces(self.width, _IN_FLIGHT * lanes, turn)

    def total(self, value: Value) -> Expr:
        """The sum of `value` over the row, in every lane."""
        return self._reduce(value, lambda a, b: a + b, 0.0)

    def maximum(self, value: Value) -> Expr:
        """The maximum of `value` over the row, in every lane."""
        return self._reduce(value, lambda a, b: T.max(a, b), _LOWEST)

    def _reduce(self, value: Value, combine: Combine, start: float) -> Expr:
        simd = self.simd
        partial = [simd.register(simd.splat(start)) for _ in range(_IN_FLIGHT)]

        def visit(i: Expr, valid: int, slot: int) -> None:
            inside = simd.where(valid, value(i, valid), start)
            simd.set(partial[slot], combine(simd.get(partial[slot]), inside))

        self.each(visit)
        vector = simd.get(partial[0])
        for other in partial[1:]:
            vector = combine(vector, simd.get(other))
        return self._across(T.bind(vector), combine)

    def _across(self, vector: Expr, combine: Combine) -> Expr:
        """All lanes combined, by log2(lanes) rotations."""
        lanes = self.simd.lanes
        for step in (1 << i for i in range(lanes.bit_length() - 1)):
            vector = T.bind(combine(vector, Shuffle([vector], [(i + step) % lanes for i in range(lanes)])))
        return vector


def build_softmax(spec: SoftmaxSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: x, mask if there is one, output."""
    simd, layout = Simd(tile.lanes), dense_layout(spec.shape, spec.shape)

    def body(x: Buffer, *rest: Buffer) -> None:
        with jobs(*spec.shape[:-1], parallel=math.prod(spec.shape) >= PARALLEL) as at:
            start, scores = layout.at((*at, 0)), _scores(spec, simd, x, rest, at)
            softmax_row(Row(simd, spec.shape[-1]), spec.log, scores, rest[-1], start)

    return function(name, spec.arguments(tile), body, shapes)


def _scores(spec: SoftmaxSpec, simd: Simd, x: Buffer, rest: Sequence[Buffer], at: Sequence[Expr]) -> Value:
    """scale * x + mask, along the row at these outer indices."""
    start = dense_layout(spec.shape, spec.shape).at((*at, 0))

    def score(i: Expr, valid: int) -> Expr:
        value = simd.load(x, start + i, valid)
        if spec.scale != 1.0:
            value = value * simd.splat(spec.scale)
        if spec.mask is not None:
            mask = dense_layout(spec.mask, spec.shape)
            value = value + simd.vector(rest[0], mask.at((*at, i)), valid, mask.strides[-1])
        return T.bind(value)

    return score


def softmax_row(row: Row, logarithm: bool, score: Value, y: Buffer, start: Expr) -> None:
    """Writes the softmax, or its logarithm, of the scores along a row to `y` from `start` on."""
    simd, most = row.simd, row.maximum(score)

    def exponential(i: Expr, valid: int) -> Expr:
        value = exp(simd, score(i, valid) - most)
        if not logarithm:
            simd.store(y, start + i, value, valid)
        return value

    total = T.bind(T.max(row.total(exponential), simd.splat(_TINY)))
    if logarithm:
        shift = T.bind(log(simd, total))
        row.each(lambda i, valid, _: simd.store(y, start + i, score(i, valid) - most - shift, valid))
    else:
        factor = T.bind(simd.splat(1) / total)
        row.each(lambda i, valid, _: simd.store(y, start + i, simd.load(y, start + i, valid) * factor, valid))


def build_norm(spec: NormSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: x, weight and bias if there are, the epilogue's operands, output."""
    simd, affine = Simd(tile.lanes), spec.weight + spec.bias

    def body(x: Buffer, *rest: Buffer) -> None:
        weight = rest[0] if spec.weight else None
        bias = rest[affine - 1] if spec.bias else None
        finish = Finish(simd, spec.epilogue, rest[affine:-1], (spec.rows, spec.width))

        def scale(value: Expr, i: Expr, valid: int) -> Expr:
            value = value if weight is None else value * simd.load(weight, i, valid)
            return value if bias is None else value + simd.load(bias, i, valid)

        with jobs(spec.rows, parallel=spec.rows * spec.width >= PARALLEL) as (r,):
            start = r * spec.width
            normal = _normal(spec, Row(simd, spec.width), lambda i, valid: simd.load(x, start + i, valid))

            def store(i: Expr, valid: int, slot: int) -> None:
                value = T.bind(scale(normal(i, valid), i, valid))
                simd.store(rest[-1], start + i, finish(value, (r, i), valid), valid)

            Row(simd, spec.width).each(store)

    return function(name, spec.arguments(tile), body, shapes)


def _normal(spec: NormSpec, row: Row, value: Value) -> Value:
    """The row less its mean (layer norm only), over the root of its mean square. Reduces the row first."""
    simd, share = row.simd, row.simd.splat(1 / (spec.count or spec.width))
    mean = T.bind(row.total(value) * share) if spec.kind == "layer" else None

    def centred(i: Expr, valid: int) -> Expr:
        return T.bind(value(i, valid) if mean is None else value(i, valid) - mean)

    def squared(i: Expr, valid: int) -> Expr:
        deviation = centred(i, valid)
        return deviation * deviation

    variance = row.total(squared) * share
    factor = T.bind(simd.splat(1) / T.sqrt(variance + simd.splat(spec.eps)))
    return lambda i, valid: centred(i, valid) * factor
