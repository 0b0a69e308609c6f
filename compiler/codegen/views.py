"""Where the elements of a chain of views lie in the tensor that it starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from chipfit.codegen.spec import View
from chipfit.ir.emit import execute
from chipfit.ir.graph import Node, Value
from chipfit.ir.images import Shape


class Unsupported(Exception):  # noqa: N818
    """No kernel of ours does this; stock lowering will."""


@dataclass(frozen=True)
class Strided:
    """A tensor of `shape` read by `strides` (in elements) in `root`; each of its heads serves `share` in a row."""

    root: Value
    shape: Shape
    strides: tuple[int, ...]
    share: int = 1

    def matrices(self) -> View:
        """The view of the last two dimensions.

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
        return View(self.root.shape, row, head, heads, batch, column if columns > 1 else 1)


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
        result = execute(node, {node.inputs[0].name: tensor})[node.name]
        if share > 1 and not keeps_heads(result, node, share):
            raise Unsupported(f"{node.name} views repeated heads")
        if result is tensor or result._base is not None:
            tensor = result
        elif share > 1:
            raise Unsupported("a reshape of repeated heads copies")
        else:
            tensor, share = unrepeated(tensor, result.shape)
    return Strided(value, tuple(tensor.shape), tensor.stride(), share)


def keeps_heads(tensor: torch.Tensor, node: Node, share: int) -> bool:
    """Whether a view did to the heads alone what it does to the repeated ones: swap rows and width."""
    shape = tuple(tensor.shape)
    swaps = node.kind in ("transpose", "permute") and len(shape) == 4
    return swaps and (shape[0], shape[1] * share, *shape[2:]) == node.outputs[0].shape


def unrepeated(tensor: torch.Tensor, merged: torch.Size) -> tuple[torch.Tensor, int]:
    batch, heads, repeats, rows, width = tensor.shape if tensor.dim() == 5 else (0,) * 5
    if tuple(merged) != (batch, heads * repeats, rows, width) or tensor.stride(2) != 0:
        raise Unsupported("a reshape copies")
    return tensor[:, :, 0], repeats
