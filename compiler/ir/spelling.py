"""Several nodes that stand for one thing: writing them, and recognising them whatever their values are called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch

from chipfit.ir.graph import Arg, EntryPoint, Node, TensorType, Value, map_values

LONGEST = 16  # nodes of no spelling

Named = tuple[tuple[str, Arg], ...]


@dataclass(frozen=True)
class Writer:
    """Makes the nodes of one result, all of float32."""

    result: Value
    module: str

    def node(self, name: str, op: str, args: tuple[Arg, ...], shape: Sequence[int], kwargs: Named = ()) -> Node:
        value = Value(f"{self.result.name}.{name}", TensorType(tuple(shape), torch.float32))
        return Node(op, args, kwargs, (value,), self.module)

    def last(self, op: str, args: tuple[Arg, ...]) -> Node:
        return Node(op, args, (), (self.result,), self.module)


def cone(entry: EntryPoint, last: Node, leaves: Collection[str] = ()) -> tuple[Node, ...]:
    """The nodes that `last` depends on and itself, in order, up to `leaves`; empty if a spelling has fewer."""
    found, waiting = {last.name}, [last]
    while waiting and len(found) < LONGEST:
        for value in waiting.pop().inputs:
            producer = entry.producers.get(value.name)
            if producer and producer.name not in found and value.name not in leaves:
                found.add(producer.name)
                waiting.append(producer)
    return () if waiting else tuple(entry.nodes[place] for place in sorted(entry.places[name] for name in found))


def same(first: Sequence[Node], second: Sequence[Node], leaves: Iterable[Value]) -> bool:
    """Whether nodes compute the same from the same leaves."""
    leaves = tuple(leaves)
    return _normalised(first, leaves) == _normalised(second, leaves)


def _normalised(nodes: Sequence[Node], leaves: Iterable[Value]) -> list[tuple[Arg, ...]]:
    """What the nodes compute, whatever their values are called."""
    names = [*(value.name for value in leaves), *(node.name for node in nodes)]
    numbered = {name: Value(str(index), TensorType((), torch.float32)) for index, name in enumerate(names)}
    return [(node.kind, *(map_values(arg, numbered) for arg in node.args), *node.outputs[0].shape) for node in nodes]
