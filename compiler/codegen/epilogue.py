"""Run an epilogue's steps on a vector, reading its operands by numpy's broadcasting rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from chipfit.codegen.kernel import Buffer, Expr, Simd
from chipfit.codegen.spec import Epilogue, Operand, Result, Step, StepArg
from chipfit.codegen.vector import HEAVY, POINTWISE
from chipfit.ir.images import Image, Shape


@dataclass(frozen=True)
class Layout:
    """Offset and strides, in elements, of a tensor over the indices of some logical shape; stride 0 is broadcast."""

    offset: int
    strides: tuple[int, ...]

    def at(self, position: Sequence[Expr]) -> Expr:
        terms = [index * stride for index, stride in zip(position, self.strides, strict=True) if stride]
        return sum(terms, self.offset)


def image_layout(image: Image) -> Layout:
    """The layout of an image over (batch, y, x, channel), y and x counted from inside the halo."""
    top, _, left, _ = image.halo
    if image.planar:
        row, plane = image.columns, image.rows * image.columns
        return Layout(top * row + left, (image.channels * plane, row, 1, plane))
    pixel, row = image.stored_channels, image.columns * image.stored_channels
    return Layout(top * row + left * pixel, (image.rows * row, row, pixel, 1))


def dense_layout(shape: Shape, logical: Shape) -> Layout:
    """The layout of a dense tensor that broadcasts to `logical`. Raises ValueError if it does not."""
    padded = (1,) * (len(logical) - len(shape)) + shape
    if len(padded) != len(logical) or any(own not in (1, size) for own, size in zip(padded, logical, strict=True)):
        raise ValueError(f"An operand of shape {shape} does not broadcast to {logical}.")
    strides, step = [], 1
    for own in reversed(padded):
        strides.append(step if own > 1 else 0)
        step *= own
    return Layout(0, tuple(reversed(strides)))


def operand_layout(operand: Operand, logical: Shape) -> Layout:
    if isinstance(operand.layout, Image):
        return image_layout(operand.layout)
    return dense_layout(operand.layout, logical)


@dataclass(frozen=True)
class Finish:
    """An epilogue bound to its operands' buffers; `logical` is the shape that the operands broadcast to."""

    simd: Simd
    epilogue: Epilogue
    buffers: Sequence[Buffer]
    logical: Shape

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        return tuple(operand_layout(operand, self.logical) for operand in self.epilogue.operands)

    @property
    def heavy(self) -> bool:
        return any(step.op in HEAVY for step in self.epilogue.steps)

    def __call__(self, value: Expr | None, position: Sequence[Expr], valid: int | None = None) -> Expr:
        """The finished vector for the lanes that start at `position`, of which `valid` lie inside."""
        results = [value]
        for step in self.epilogue.steps:
            results.append(self._step(step, results, position, valid))
        return results[-1]

    def _step(self, step: Step, results: list[Expr], position: Sequence[Expr], valid: int | None) -> Expr:
        arguments = (self._argument(arg, results, position, valid) for arg in step.args)
        return POINTWISE[step.op](self.simd, *arguments)

    def _argument(self, arg: StepArg, results: list[Expr], position: Sequence[Expr], valid: int | None) -> Expr:
        if isinstance(arg, Result):
            return results[arg.index + 1]
        if arg == "acc":
            return results[-1]
        if isinstance(arg, float):
            return self.simd.splat(arg)
        layout, buffer = self.layouts[int(arg)], self.buffers[int(arg)]
        return self.simd.vector(buffer, layout.at(position), valid, layout.strides[-1])
