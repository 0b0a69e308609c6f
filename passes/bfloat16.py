"""bfloat16: linear layers and convolutions multiply in bfloat16, sums and all between them stay float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from chipfit.ir.graph import Graph, Node
from chipfit.ir.ops.signature import arguments
from chipfit.ir.precision import LAYERS, spelled
from chipfit.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class Bfloat16(Pass):
    """Round both factors of linear layers and convolutions to bfloat16, 8 bits of mantissa, and add up in float32.

    before: y = x W' + b
    after:  y = float32(bfloat16(x) bfloat16(W)') + b

    Chips with units for it (AMX, tensor cores) multiply several times as fast, and weights take half the bytes where
    they stream. Parameters stay float32 and can be trained on.
    """

    name: ClassVar[str] = "bfloat16"
    summary: ClassVar[str] = "multiply in bfloat16 in linear layers and convolutions, with sums in float32"

    def run(self, graph: Graph, context: Context) -> PassResult:
        modified = False
        for point in graph.entries.values():
            chosen = {node.name for node in point.nodes if is_layer(graph, node)}
            nodes = tuple(new for node in point.nodes for new in (spelled(node) if node.name in chosen else (node,)))
            graph = graph.with_entry(replace(point, nodes=nodes))
            modified |= bool(chosen)
        return PassResult(graph, modified)


def is_layer(graph: Graph, node: Node) -> bool:
    """Whether a node is a float32 layer whose weight is a parameter."""
    if node.kind not in LAYERS or node.outputs[0].type.dtype != torch.float32:
        return False
    given = arguments(node)
    weight = given["weight"]
    if given.get("groups", 1) != 1:
        return False  # nothing to gain where each channel has a filter of its own
    return getattr(weight, "name", "") in graph.parameters
