"""Repeated layers: the longest run of equal segments along the stream of values that everything goes through."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, takewhile

import networkx as nx

from chipfit.ir.flow import Flow
from chipfit.ir.graph import Node, Value

SINK = ""  # the vertex behind every output; no node has an empty name


def repeated(flow: Flow, first: Value) -> Iterator[tuple[Value, Value]]:
    """(entry, exit) of each repetition, seen from `first`: what doesn't depend on it comes in from the side."""
    root = flow.vertex(first)
    reached = flow.edges.subgraph(nx.descendants(flow.edges, root) | {root}).copy()
    outputs = [flow.vertex(value) for value in flow.entry.outputs]
    reached.add_edges_from((output, SINK) for output in outputs if output in reached)
    cuts = [first, *(value for value in stream(flow, reached, root) if value.type == first.type)]
    start, period, count = longest_run([signature(nodes) for nodes in segments(flow, reached, cuts)])
    for i in range(start, start + period * count, period):
        yield cuts[i], cuts[i + period]


def stream(flow: Flow, reached: nx.DiGraph, root: str) -> list[Value]:
    """The values behind `root` that every way to a result goes through: the dominators of the sink, in order."""
    dominators = nx.immediate_dominators(reached, root)
    chain, name = [], dominators[SINK]
    while name != root:
        chain.append(flow.entry.producers[name])
        name = dominators[name]
    return [node.outputs[0] for node in reversed(chain) if len(node.outputs) == 1]


def segments(flow: Flow, reached: nx.DiGraph, cuts: Sequence[Value]) -> Iterator[list[Node]]:
    """The nodes behind each cut up to and with the next. Cuts dominate what follows, so the order tells them apart."""
    nodes = [node for node in flow.entry.nodes if node.name in reached]
    order = [flow.order[node.name] for node in nodes]
    for start, end in pairwise(bisect_right(order, flow.order[flow.vertex(cut)]) for cut in cuts):
        yield nodes[start:end]


def signature(nodes: Iterable[Node]) -> tuple[tuple[str, ...], ...]:
    """What two segments that do the same work have in common: their ops and the types that these read."""
    return tuple(sorted((node.op, *(str(value.type) for value in node.inputs)) for node in nodes))


def longest_run(items: Sequence[object]) -> tuple[int, int, int]:
    """(start, period, count) of the repetition that covers most items, the shortest and first of several."""
    best = (0, 1, 0)
    for period in range(1, len(items) // 2 + 1):
        for start in range(len(items) - 2 * period + 1):
            pairs = zip(items[start:], items[start + period :], strict=False)
            equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            count = equal // period + 1
            if count > 1 and count * period > best[1] * best[2]:
                best = (start, period, count)
    return best
