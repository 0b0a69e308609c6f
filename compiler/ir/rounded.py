"""Rows rounded to int8 where layers read them: how a graph spells it, written and recognised in one place.

A matrix X becomes Y = s Q: each row has one scale s, by which its largest number in size becomes 127, and Q are the
whole numbers nearest to X / s, ties to even. Layers whose weights are int8 by rows (`stored`) then multiply whole
numbers by whole numbers, and what they make of them is scaled once by each row and column.
"""

from __future__ import annotations

from collections.abc import Iterator

from chipfit.ir.graph import EntryPoint, Node, Value
from chipfit.ir.spelling import Writer, cone, same
from chipfit.ir.stored import stored_weight

LARGEST = 127
LEAST = 1e-20  # what stands for the largest number of a row that is all zeros: 127 / LEAST is still a number


def spelled(source: Value, result: Value, module: str = "") -> tuple[Node, ...]:
    """`result` as the rows of `source` along its last dimension, rounded; both float32."""
    return tuple(_nodes(Writer(result, module), source))


def rounded_rows(entry: EntryPoint, value: Value) -> tuple[Node, ...]:
    """The nodes that make `value` as rounded rows of what the first of them reads.

    Empty if it isn't spelled so, or if anything but linear layers with weights of int8 reads the value.
    """
    last = entry.producers.get(value.name)
    numbers = entry.producers.get(last.inputs[0].name) if last and last.kind == "mul" else None
    scaled = entry.producers.get(numbers.inputs[0].name) if numbers and numbers.kind == "round" else None
    if last is None or scaled is None or not scaled.inputs:
        return ()
    source = scaled.inputs[0]
    nodes = cone(entry, last, (source.name,))
    if not same(nodes, spelled(source, value), [source]):
        return ()
    inside = {node.name for node in nodes}
    hidden = all(reader.name in inside for node in nodes[:-1] for reader in entry.consumers[node.name])
    return nodes if hidden and _readers_are_int8(entry, value) else ()


def reads_rounded_rows(entry: EntryPoint, layer: Node) -> bool:
    """Whether a layer is a product of whole numbers."""
    return layer.kind == "linear" and bool(rounded_rows(entry, layer.inputs[0]))


def _readers_are_int8(entry: EntryPoint, value: Value) -> bool:
    readers = entry.consumers.get(value.name, ())
    weights = [stored_weight(entry, reader) for reader in readers if reader.inputs[0] == value]
    returned = any(output.name == value.name for output in entry.outputs)
    return not returned and len(weights) == len(readers) > 0 and all(w and w.format == "int8" for w in weights)


def _nodes(write: Writer, source: Value) -> Iterator[Node]:
    shape, column = source.shape, (*source.shape[:-1], 1)
    yield (size := write.node("size", "aten.abs.default", (source,), shape))
    last = len(shape) - 1
    yield (most := write.node("most", "aten.amax.default", (size.outputs[0], (last,), True), column))
    yield (top := write.node("top", "aten.clamp_min.default", (most.outputs[0], LEAST), column))
    yield (inverse := write.node("inverse", "aten.reciprocal.default", (top.outputs[0],), column))
    yield (steps := write.node("steps", "aten.mul.Tensor", (inverse.outputs[0], float(LARGEST)), column))
    yield (scaled := write.node("scaled", "aten.mul.Tensor", (source, steps.outputs[0]), shape))
    yield (numbers := write.node("numbers", "aten.round.default", (scaled.outputs[0],), shape))
    yield (scale := write.node("scale", "aten.mul.Tensor", (top.outputs[0], 1 / LARGEST), column))
    yield write.last("aten.mul.Tensor", (numbers.outputs[0], scale.outputs[0]))
