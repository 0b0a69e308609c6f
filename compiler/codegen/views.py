"""Where the elements of a chain of views lie in the tensor that it starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from chipfit.codegen.spec import Shape, View
from chipfit.ir.emit import execute
from chipfit.ir.graph import Node, Value


class Unsupported(Exception):  # noqa: N818
    """No kernel of ours does this; stock lowering will."""


@dataclass(frozen=True)
class Strided:
    """A tensor of `shape` read by `strides` (in elements) in `root`; each of its heads serves `share` in a row."""

    root: Value
    shape: Shape
    strides: tuple[int, ...]
    share: int = 1

    def matrices(self) -> tuple[View, int]:
        """The view of the last two dimensions, and how many such matrices there are.

        Raises Unsupported if the dimensions before them are not at most two steps.
        """
        *stack, rows, columns = self.shape
        steps = collapse(tuple(stack), self.strides[:-2])
        if len(steps) > 2:
            raise Unsupported(f"matrices of {self.root.name} lie at {len(steps)} strides")
        (_, batch), (heads, head) = ((1, 0),) * (2 - len(steps)) + steps
        if len(steps) < 2:
            heads, head, batch = 1, 0, head
        row, column = self.strides[-2:]
        row = row if rows > 1 or row else columns
        view = View(self.root.shape, row, head, heads, batch, column if columns > 1 else 1)
        return view, math.prod(stack)


def collapse(shape: Shape, strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(size, stride) of the fewest dimensions that visit the same elements in the same order."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(merged)


def strided(value: Value, nodes: Iterable[Node]) -> Strided:
    """`value` as a view of what `nodes` start from. Raises Unsupported where they have to copy.

    Repeated heads, (batch, heads, repeats, rows, width) with a zero stride merged into (batch, heads * repeats, rows,
    width), come back as the heads alone with a `share`.
    """
    producers = {node.name: node for node in nodes}
    chain: list[Node] = []
    while value.name in producers:
        chain.append(producers[value.name])
        value = chain[-1].inputs[0]
    tensor, share = torch.empty(value.shape, device="meta"), 1
    for node in reversed(chain):
        if share > 1:
            raise Unsupported(f"{node.name} views repeated heads")
        result = execute(node, {node.inputs[0].name: tensor})[node.name]
        if result is tensor or result._base is not None:
            tensor = result
        else:
            tensor, share = unrepeated(tensor, result.shape)
    return Strided(value, tuple(tensor.shape), tensor.stride(), share)


def unrepeated(tensor: torch.Tensor, merged: torch.Size) -> tuple[torch.Tensor, int]:
    batch, heads, repeats, rows, width = tensor.shape if tensor.dim() == 5 else (0,) * 5
    if tuple(merged) != (batch, heads * repeats, rows, width) or tensor.stride(2) != 0:
        raise Unsupported("a reshape copies")
    return tensor[:, :, 0], repeats
