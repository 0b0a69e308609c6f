"""What passes that replace nodes share: who reads what, and which parameters nothing reads any more."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from chipfit.ir.graph import Graph


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
