"""What is gone from a graph when a block is dropped, for the solver to count it as nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from chipfit.ir.apply import without
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import kernels, planned
from chipfit.ir.graph import EntryPoint, Graph
from chipfit.ir.memo import per_graph
from chipfit.ir.shapes import replacements, what_if
from chipfit.targets.cost import core

REACH = 2  # kernels beyond which a drop changes nothing in how the rest fuses: its neighbours, and what these gave up

Names = frozenset[str]


def vanishing(graph: Graph, block: str) -> Names:
    """The kernels, by core, and parameters that are gone when a block is dropped; what is left may fuse otherwise."""
    known = _vanishing(graph)
    if block not in known:
        dropped = Configuration({}, frozenset({block}))
        whole, left = what_if(graph, Configuration()), what_if(graph, dropped)
        near = nearby(graph, whole.alive - left.alive)
        cores = _cores(near) - _cores(without(near, replacements(graph, dropped)))
        known[block] = cores | {name for name in graph.parameters if name in whole and name not in left}
    return known[block]


def nearby(graph: Graph, names: Collection[str]) -> EntryPoint:
    """The part of the graph within so many kernels of some nodes, with all that is computed at compile time."""
    entry, plan = graph.forward, planned(graph)
    varying = {node.name for kernel in plan for node in kernel.nodes}
    inside = {node.name for node in entry.nodes if node.name in names or node.name not in varying}
    reached = {value.name for node in entry.nodes if node.name in names for value in (*node.inputs, *node.outputs)}
    for _ in range(1 + REACH):
        reached.difference_update(graph.parameters)
        near = [k for k in plan if not reached.isdisjoint(value.name for value in (*k.inputs, *k.outputs))]
        inside.update(node.name for kernel in near for node in kernel.nodes)
        reached.update(value.name for kernel in near for value in (*kernel.inputs, *kernel.outputs))
    nodes = tuple(node for node in entry.nodes if node.name in inside)
    read = {value.name: value for node in nodes for value in node.inputs if value.name not in graph.parameters}
    made = {value.name: value for node in nodes for value in node.outputs}
    returned = {value.name for value in entry.outputs}
    returned |= {value.name for node in entry.nodes if node.name not in inside for value in node.inputs}
    inputs = tuple(value for name, value in read.items() if name not in made)
    return replace(entry, inputs=inputs, nodes=nodes, outputs=tuple(made[name] for name in made if name in returned))


def _cores(entry: EntryPoint) -> Names:
    return frozenset(map(core, kernels(entry)))


@per_graph
def _vanishing(graph: Graph) -> dict[str, Names]:
    return {}
