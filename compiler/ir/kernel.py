"""A kernel of the fusion plan: the nodes that are computed together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from chipfit.ir.graph import Node, Value


@dataclass(frozen=True)
class Kernel:
    """One kernel: `nodes` in topological order, what they read from outside, and what others read of them.

    `rounded`: it is a product of whole numbers, whose first factor another kernel rounded to int8, or a convolution of
    whole numbers, which rounds its own source. `returned`: nothing but the caller reads what it computes.
    """

    kind: str  # matmul, attention, conv, depthwise, pool, reduce, pointwise, move or opaque
    anchor: Node
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    rounded: bool = False
    returned: bool = False

    @property
    def output(self) -> Value:
        return self.outputs[0]

    @property
    def name(self) -> str:
        return self.output.name

    @property
    def multiplied(self) -> torch.dtype:
        """What it multiplies, if it is a product."""
        return torch.int8 if self.rounded else self.anchor.outputs[0].type.dtype


def kernel_of(kind: str, anchor: Node, nodes: tuple[Node, ...]) -> Kernel:
    """The kernel of some nodes in order; only the last one's outputs are read from outside."""
    return Kernel(kind, anchor, nodes, outside(nodes), nodes[-1].outputs)


def rounds_rows(kernel: Kernel) -> bool:
    """Whether a kernel rounds rows to int8 for products of whole numbers, and nothing else."""
    return kernel.anchor.kind == "amax" and len(kernel.nodes) > 1


def outside(nodes: Sequence[Node]) -> tuple[Value, ...]:
    """What nodes read and do not compute, in order, once each."""
    made = {value.name for node in nodes for value in node.outputs}
    return tuple(dict.fromkeys(value for node in nodes for value in node.inputs if value.name not in made))


def masks(kernel: Kernel) -> tuple[Value, ...]:
    """What an attention reads besides queries, keys and values."""
    if kernel.kind != "attention":
        return ()
    roots = [origin(value, kernel.nodes) for value in kernel.anchor.inputs[:3]]
    return tuple(value for value in kernel.inputs if value not in roots)


def origin(value: Value, nodes: Iterable[Node]) -> Value:
    """The value that `value` is a view of, going back through `nodes`."""
    producers = {node.name: node for node in nodes}
    while value.name in producers:
        value = producers[value.name].inputs[0]
    return value
