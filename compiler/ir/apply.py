"""From a configuration, or another batch, to the graph that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from chipfit.ir.axes import Analysis, analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.extent import Extent
from chipfit.ir.graph import EntryPoint, Graph, Node, Parameter, TensorType, Value, map_values, needed
from chipfit.ir.ops import lookup
from chipfit.ir.ops.context import Resize
from chipfit.ir.shapes import final, replacements


def apply(graph: Graph, configuration: Configuration) -> Graph:
    """The graph without the pruned entries and dropped blocks, at the same batch. Names of nodes and parameters stay.

    Raises ValueError for an axis or block that the graph doesn't have, and for an axis that is frozen.
    """
    kept = analyse(graph).kept_atoms(configuration)
    left = resized(drop(graph, replacements(graph, configuration)), analyse(graph), kept, None)
    state = {name: sliced(graph.state[name], Resize({}, kept), analyse(graph), name) for name in left.parameters}
    return replace(left, state=state)


def rebatch(graph: Graph, batch: int) -> Graph:
    """The graph at another batch. Keep the traced graph and derive from it: at batch 1 the way back is lost.

    Raises ValueError where the batch is baked in (see `can_rebatch`).
    """
    analysis = analyse(graph)
    graph = resized(graph, analysis, {}, analysis.batch_at(batch))
    return replace(graph, batch=batch if batch > 1 else None)


def can_rebatch(graph: Graph) -> bool:
    """Whether the batch passes through the graph as one dimension that nothing fixes."""
    return analyse(graph).batch is not None


def mask(graph: Graph, configuration: Configuration) -> Graph:
    """The graph in full size with the same numbers as `apply`: what that removes is zero here.

    Removed slices of parameters are zeroed, statistics over them are taken over the kept entries alone, and the
    branches of dropped blocks are multiplied by zero.
    """
    analysis = analyse(graph)
    kept = analysis.kept_atoms(configuration)
    state = {
        name: zeroed(parameter, graph.state[name], Resize({}, kept), analysis)
        for name, parameter in graph.parameters.items()
    }
    replaced = replacements(graph, configuration)
    entries = {
        name: masked(entry, Resize(analysis.labels[name], kept), replaced) for name, entry in graph.entries.items()
    }
    return replace(graph, entries=entries, state=state)


def masked(entry: EntryPoint, resize: Resize, replaced: Mapping[str, str]) -> EntryPoint:
    nodes = tuple(new for node in entry.nodes for new in lookup(node).mask(resize, node))
    entry = replace(entry, nodes=nodes)
    for exit_, skip in replaced.items():
        entry = silence(entry, skip, exit_)
    return entry


def drop(graph: Graph, replaced: Mapping[str, str]) -> Graph:
    """Each value of `replaced` gives way to its stand-in; nodes and parameters that nothing needs then go.

    Values that the graph doesn't have are passed over; where it has none of them it comes back as it is.
    """
    if all(entry.producers.keys().isdisjoint(replaced) for entry in graph.entries.values()):
        return graph
    entries = {name: without(entry, replaced) for name, entry in graph.entries.items()}
    read = {value.name for entry in entries.values() for node in entry.nodes for value in node.inputs}
    read |= {value.name for entry in entries.values() for value in entry.outputs}
    parameters = {name: parameter for name, parameter in graph.parameters.items() if name in read}
    return replace(
        graph, entries=entries, parameters=parameters, state={name: graph.state[name] for name in parameters}
    )


def without(entry: EntryPoint, replaced: Mapping[str, str]) -> EntryPoint:
    known = {value.name: value for value in entry.inputs} | {
        value.name: value for node in entry.nodes for value in node.outputs
    }
    swap = {name: known[final(name, replaced)] for name in replaced if name in known}
    outputs = tuple(swap.get(value.name, value) for value in entry.outputs)
    nodes = needed([reading(node, swap) for node in entry.nodes], {value.name for value in outputs})
    return replace(entry, nodes=nodes, outputs=outputs)


def reading(node: Node, swap: Mapping[str, Value]) -> Node:
    """The node with its inputs replaced."""
    args = tuple(map_values(arg, swap) for arg in node.args)
    return replace(node, args=args, kwargs=tuple((name, map_values(arg, swap)) for name, arg in node.kwargs))


def resized(
    graph: Graph, analysis: Analysis, kept: Mapping[Extent, Sequence[int]], batch: tuple[Extent, int] | None
) -> Graph:
    """All types and baked constants at other sizes; the state is the caller's."""
    parameters = {name: retyped(parameter, Resize({}, kept), analysis) for name, parameter in graph.parameters.items()}
    entries = {
        name: rewritten(entry, Resize(analysis.labels[name], kept, batch)) for name, entry in graph.entries.items()
    }
    return replace(graph, entries=entries, parameters=parameters)


def retyped(parameter: Parameter, resize: Resize, analysis: Analysis) -> Parameter:
    shape = resize.shape_of(analysis.labels_of(parameter.name))
    return replace(parameter, value=with_shape(parameter.value, shape))


def with_shape(value: Value, shape: tuple[int, ...]) -> Value:
    return Value(value.name, TensorType(shape, value.type.dtype))


def rewritten(entry: EntryPoint, resize: Resize) -> EntryPoint:
    """The entry point with every constant re-evaluated and every value of its new type."""

    def retype(value: Value) -> Value:
        known = value.name in resize.labels  # else a rewrite made it, with its type
        return with_shape(value, resize.shape(value)) if known else value

    nodes: list[Node] = []
    for node in entry.nodes:
        for new in lookup(node).rewrite(resize, node):
            typed = reading(new, {value.name: retype(value) for value in new.inputs})
            nodes.append(replace(typed, outputs=tuple(retype(value) for value in new.outputs)))
    inputs, outputs = (tuple(retype(value) for value in values) for values in (entry.inputs, entry.outputs))
    return replace(entry, inputs=inputs, nodes=tuple(nodes), outputs=outputs)


def sliced(tensor: Tensor, resize: Resize, analysis: Analysis, name: str) -> Tensor:
    """The kept entries of a parameter's tensor."""
    for dim, extent in enumerate(analysis.labels_of(name)):
        indices = resize.indices(extent)
        if indices is not None:
            tensor = tensor.index_select(dim, torch.from_numpy(indices).to(tensor.device))
    return tensor


def zeroed(parameter: Parameter, tensor: Tensor, resize: Resize, analysis: Analysis) -> Tensor:
    """A trained tensor with the entries that aren't kept set to zero; buffers stay as they are."""
    if parameter.role != "parameter":
        return tensor
    for dim, extent in enumerate(analysis.labels_of(parameter.name)):
        indices = resize.indices(extent)
        if indices is not None:
            removed = np.setdiff1d(np.arange(extent.size), indices)
            tensor = tensor.index_fill(dim, torch.from_numpy(removed).to(tensor.device), 0)
    return tensor


def silence(entry: EntryPoint, skip: str, exit_: str) -> EntryPoint:
    """The value `exit_` = `skip` + branch with the branch times zero.

    A block of several branches has no single one to silence: `exit_` itself is taken times zero, plus `skip`.
    """
    end = entry.producers.get(exit_)
    if end is None:
        return entry
    others = [value for value in end.inputs if value.name != skip]
    if end.kind == "add" and len(others) == 1 and len(end.inputs) == 2:
        zero = times_zero(others[0], end)
        return insert(entry, end, (zero, reading(end, {others[0].name: zero.outputs[0]})))
    before = replace(end.outputs[0], name=f"{exit_}_unmasked")
    zero = times_zero(before, end)
    start = next(value for node in entry.nodes for value in (*node.inputs, *node.outputs) if value.name == skip)
    added = Node("aten.add.Tensor", (start, zero.outputs[0]), (), end.outputs, end.module)
    return insert(entry, end, (replace(end, outputs=(before,)), zero, added))


def times_zero(value: Value, near: Node) -> Node:
    return Node("aten.mul.Tensor", (value, 0.0), (), (replace(value, name=f"{value.name}_silenced"),), near.module)


def insert(entry: EntryPoint, at: Node, nodes: Sequence[Node]) -> EntryPoint:
    place = entry.nodes.index(at)
    return replace(entry, nodes=(*entry.nodes[:place], *nodes, *entry.nodes[place + 1 :]))
