"""Ops that treat every element alone, broadcasting their operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.ops.context import Labelling, Labels, ZeroFlow, broadcast
from chipfit.ir.ops.record import Op, carried_zero
from chipfit.ir.ops.signature import overload
from chipfit.ir.unify import unify


def broadcast_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    operands = [context.of(value) for value in node.inputs]
    labels = tuple(broadcast(operands, output.shape) for output in node.outputs)
    origins = [context.origins_of(value) for value in node.inputs]
    if is_residual(node, origins):
        for extent in labels[0]:
            extent.use("hidden")
    else:
        context.origins[node.name] = frozenset().union(*origins)
    return labels


def is_residual(node: Node, origins: Sequence[frozenset[str]]) -> bool:
    """A sum of two values of one shape that were computed apart; x + x^3 in a GELU isn't one."""
    shapes = [value.shape for value in node.inputs]
    return node.kind == "add" and shapes == [node.outputs[0].shape] * 2 and origins[0].isdisjoint(origins[1])


def identity_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """The same entries: an index stays an index."""
    index = context.index(node.inputs[0])
    if index is not None:
        context.indexes[node.outputs[0].name] = index
    return (context.of(node.inputs[0]),)


def prelu_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """One slope for all, or one for each channel, dimension 1."""
    x, slopes = (context.of(value) for value in node.inputs)
    if slopes and slopes[0].size > 1:
        unify(slopes[0], x[1])
    return (x,)


@dataclass(frozen=True, slots=True)
class Operand:
    """Stands for a tensor argument in a probe."""

    dtype: torch.dtype
    place: int  # equal for two uses of one value
    zero: bool

    def sample(self) -> Tensor:
        """Zeros, or numbers of both signs and several sizes."""
        if self.zero:
            return torch.zeros(32, dtype=self.dtype)
        numbers = torch.randn(32, generator=torch.Generator().manual_seed(self.place)) * 3
        return numbers > 0 if self.dtype == torch.bool else numbers.to(self.dtype)


@cache
def gives_zero(op: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> bool:
    """Whether the op is zero for such operands, whatever those that aren't zero hold; found by trying."""
    function = overload(op)
    if function is None:
        return False
    with torch.no_grad():
        result = function(*sampled(args), **{name: sampled(arg) for name, arg in kwargs})
    return isinstance(result, Tensor) and bool((result == 0).all())


def sampled(arg: Any) -> Any:
    if isinstance(arg, Operand):
        return arg.sample()
    return tuple(sampled(item) for item in arg) if isinstance(arg, tuple) else arg


def probed_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """Zero on an atom where f(operands zero there, anything elsewhere) = 0."""
    places = {name: place for place, name in enumerate(dict.fromkeys(value.name for value in node.inputs))}

    def operands(arg: Arg, atom: Extent) -> Any:
        if isinstance(arg, Value):
            return Operand(arg.type.dtype, places[arg.name], atom in flow.zero(arg))
        return tuple(operands(item, atom) for item in arg) if isinstance(arg, tuple) else arg

    def vanishes(atom: Extent) -> bool:
        kwargs = tuple((name, operands(arg, atom)) for name, arg in node.kwargs)
        return gives_zero(node.op, operands(node.args, atom), kwargs)

    reached = frozenset().union(*(flow.zero(value) for value in node.inputs))
    return frozenset(atom for atom in reached & flow.atoms(node.outputs[0]) if vanishes(atom))


POINTWISE = Op("pointwise", broadcast_axes, probed_zero)
IDENTITY = Op("identity", identity_axes, carried_zero)
UNTAGGED = ("fill", "floor_divide", "hardswish", "isin", "lerp", "log_sigmoid", "masked_fill", "polar", "type_as")

OPS = (
    *(replace(IDENTITY, name=name) for name in ("to", "_to_copy", "clone", "contiguous", "detach", "alias")),
    *(replace(POINTWISE, name=name) for name in UNTAGGED),
    Op("prelu", prelu_axes, lambda flow, node: flow.zero(node.inputs[0])),
)
