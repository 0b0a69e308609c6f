"""What passes that replace nodes share: who reads what, parameters that nothing reads any more, layers in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from chipfit.ir.graph import Graph, Node
from chipfit.ir.ops.signature import arguments
from chipfit.ir.precision import spelled
from chipfit.passes.base import PassResult


def reads(graph: Graph) -> Counter[str]:
    """How often each value is read, in all entry points; being an output counts."""
    points = graph.entries.values()
    inputs = [value.name for point in points for node in point.nodes for value in node.inputs]
    return Counter(inputs + [value.name for point in points for value in point.outputs])


def without_dead_parameters(graph: Graph, before: Counter[str]) -> Graph:
    """Without the parameters that were read `before` and are not now."""
    now = reads(graph)
    alive = {name: p for name, p in graph.parameters.items() if now[name] or not before[name]}
    return replace(graph, parameters=alive, state={name: graph.state[name] for name in alive})


def with_narrow_layers(graph: Graph, dtype: torch.dtype, kinds: Collection[str]) -> PassResult:
    """The graph with its layers of these kinds multiplying in `dtype`."""
    modified = False
    for point in graph.entries.values():
        chosen = {node.name for node in point.nodes if node.kind in kinds and can_narrow(graph, node)}
        nodes = tuple(new for node in point.nodes for new in (spelled(node, dtype) if node.name in chosen else (node,)))
        graph = graph.with_entry(replace(point, nodes=nodes))
        modified |= bool(chosen)
    return PassResult(graph, modified)


def can_narrow(graph: Graph, node: Node) -> bool:
    """Whether a node is a float32 layer whose weight is a parameter."""
    if node.outputs[0].type.dtype != torch.float32:
        return False
    given = arguments(node)
    weight = given["weight"]
    if given.get("groups", 1) != 1:
        return False  # nothing to gain where each channel has a filter of its own
    return getattr(weight, "name", "") in graph.parameters


def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers and scales as `ir.stored` describes; the largest of a row becomes 127."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    # `clamp_min` does the same, but takes most of the time where a search rounds graphs without weights (on `meta`).
    scale = torch.maximum(scale, torch.full_like(scale, torch.finfo(weight.dtype).tiny))
    return (weight / scale).round().to(torch.int8), scale
