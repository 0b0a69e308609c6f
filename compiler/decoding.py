"""What a language model's graph does with tokens: read many at once (prefill) or make one more (decode)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from chipfit.ir.graph import Graph, Node, Value
from chipfit.targets.cost import Cost

WRITES = frozenset({"where", "cat", "slice_scatter", "select_scatter", "index_put", "index_copy", "scatter"})


@dataclass(frozen=True)
class TokenLine:
    """`step` is `prefill` or `decode`; `context` counts the positions that are read at once, or that the cache holds.

    `cache_bytes` is what keys and values take at that context, all layers together; 0 where the graph keeps none.
    """

    step: str
    context: int
    tokens_per_second: float
    cache_bytes: int


def tokens(graph: Graph, cost: Cost) -> TokenLine | None:
    """The speed of a graph that looks up tokens, at the length that it was traced with; None for any other graph.

    A decode step is known by its caches. They count in the cost's peak memory, as inputs and again as outputs: a step
    hands back a new cache.
    """
    shape = _tokens(graph)
    if shape is None:
        return None
    each_second = 1e3 * math.prod(shape) / cost.latency_ms
    caches = list(_caches(graph))
    if not caches:
        return TokenLine("prefill", shape[-1], each_second, 0) if shape[-1] > 1 else None
    held = sum(math.prod(cache.shape) * cache.type.dtype.itemsize for cache, _ in caches)
    return TokenLine("decode", max(cache.shape[dim] for cache, dim in caches), each_second, held)


def _tokens(graph: Graph) -> tuple[int, ...] | None:
    """The shape of the token ids, [batch, length]: whole numbers among the inputs with which rows are looked up."""
    names = {value.name for value in graph.forward.inputs}
    looked_up = (node.inputs[1] for node in graph.forward.nodes if node.kind == "embedding")
    return next((value.shape for value in looked_up if value.name in names and len(value.shape) > 1), None)


def _caches(graph: Graph) -> Iterator[tuple[Value, int]]:
    """The inputs that come back as outputs with more written to them, and the dimension that counts positions."""
    entry = graph.forward
    inputs = {value.name: value for value in entry.inputs}
    for output in dict.fromkeys(entry.outputs):
        node = entry.producers.get(output.name)
        if node and node.kind in WRITES:
            for value in node.inputs:
                dim = _written_dim(node, value) if value.name in inputs else None
                if dim is not None:
                    yield value, dim


def _written_dim(node: Node, cache: Value) -> int | None:
    """The one dimension in which what is written is smaller than the cache, or the result larger; None if none is."""
    result, others = node.outputs[0].shape, [value.shape for value in node.inputs if value != cache]
    if len(result) != len(cache.shape) or len(result) < 3 or not others:
        return None
    grown = [dim for dim, size in enumerate(cache.shape) if result[dim] > size]
    fresh = [shape for shape in others if len(shape) == len(result)]
    partial = [d for d, size in enumerate(cache.shape) if any(s[d] < size and s[-1] == cache.shape[-1] for s in fresh)]
    found = grown or partial
    return found[0] if len(found) == 1 else None
