"""Convolutions of int8 by int8, a part of quantize: calibration data say what a source's largest number is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from chipfit.ir.graph import Graph, Node, Parameter, TensorType, Value
from chipfit.ir.images import FEW_CHANNELS
from chipfit.ir.precision import biased, unbiased
from chipfit.ir.rounded import LARGEST, LEAST
from chipfit.ir.rounded_conv import spelled
from chipfit.passes.base import Inputs
from chipfit.passes.rewriting import can_narrow, int8, reads
from chipfit.passes.statistics import at_batch, chunked, trace

PARTS = 4  # that calibration examples are run in


def convolutions(graph: Graph) -> list[Node]:
    """Those worth it: of one group, and with more channels than an input image, whose numbers are kept as they are."""
    read = reads(graph)
    found = (node for node in graph.forward.nodes if node.kind == "conv2d" and can_narrow(graph, node))
    return [node for node in found if node.inputs[0].shape[1] > FEW_CHANNELS and read[node.inputs[1].name] == 1]


def with_rounded_convs(graph: Graph, chosen: Sequence[Node], ranges: Mapping[str, float]) -> Graph:
    """The graph with these convolutions in int8: a scale for each output channel, one for the whole of the source.

    `ranges` has the largest number in size of each source; without one it is taken for 1.
    """
    nodes = {node.name: node for node in chosen}
    rewritten: list[Node] = []
    for node in graph.forward.nodes:
        if node.name not in nodes:
            rewritten.append(node)
            continue
        source, weight = node.inputs[:2]
        graph, parameters = _in_int8(graph, weight.name, ranges.get(source.name, 1.0))
        rewritten += spelled(node, source, parameters, unbiased(node))
        rewritten += biased(node)
    return graph.with_entry(replace(graph.forward, nodes=tuple(rewritten)))


def largest(graph: Graph, names: Collection[str], calibration: Sequence[Inputs]) -> dict[str, float]:
    """The largest number in size of some values, over all examples."""
    found = dict.fromkeys(names, LEAST)
    size, chunks = chunked(graph, calibration, PARTS)
    for inputs in chunks:
        for node, alive in trace(at_batch(graph, size), inputs):
            for name in found.keys() & {value.name for value in node.inputs}:
                found[name] = max(found[name], float(alive[name].abs().max()))
    return found


def _in_int8(graph: Graph, weight: str, peak: float) -> tuple[Graph, tuple[Value, Value, Value]]:
    """The graph with a weight in int8, and the parameters that `ir.rounded_conv` describes."""
    whole = graph.state[weight].detach()
    rows, scale = int8(whole.flatten(1))
    numbers, scales = rows.reshape(whole.shape), scale.unsqueeze(-1)
    step = peak / LARGEST
    tensors = {f"{weight}_steps": scales.new_tensor([1 / step]), weight: numbers, f"{weight}_scale": scales * step}
    values = {name: Value(name, TensorType.of(tensor)) for name, tensor in tensors.items()}
    known = {name: graph.parameters.get(name, Parameter(value, "parameter")) for name, value in values.items()}
    parameters = {name: replace(known[name], value=value) for name, value in values.items()}
    steps, quantized, worth = values.values()
    state = {**graph.state, **tensors}
    return replace(graph, parameters={**graph.parameters, **parameters}, state=state), (steps, quantized, worth)
