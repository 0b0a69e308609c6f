"""The graph: named entry points over shared parameters, in SSA form. Nothing here is ever changed in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import networkx as nx
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorType:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> TensorType:
        return TensorType(tuple(int(size) for size in tensor.shape), tensor.dtype)


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor in the graph: an input, a parameter or an output of a node. Names are unique in an entry point."""

    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape


Arg = Value | int | float | bool | str | None | torch.dtype | torch.memory_format | tuple["Arg", ...]


@dataclass(frozen=True)
class Node:
    """One application of an op. `op` is ATen's qualified overload, as in `aten.linear.default`."""

    op: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...]
    outputs: tuple[Value, ...]
    module: str = ""  # qualified name of the PyTorch module that the op came from

    @cached_property
    def name(self) -> str:
        return self.outputs[0].name

    @cached_property
    def kind(self) -> str:
        """The op's name without namespace and overload, the key of the op table: `linear`."""
        return self.op.split(".")[1]

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """Every value read, in argument order, repeats included."""
        return tuple(values_in((self.args, tuple(arg for _, arg in self.kwargs))))

    def kwarg(self, name: str, default: Arg = None) -> Arg:
        return dict(self.kwargs).get(name, default)


def values_in(arg: Arg) -> Iterator[Value]:
    """The values inside a possibly nested argument, left to right."""
    if isinstance(arg, Value):
        yield arg
    elif isinstance(arg, tuple):
        for item in arg:
            yield from values_in(item)


def map_values(arg: Arg, mapping: Mapping[str, Value]) -> Arg:
    """`arg` with each value replaced by the one that `mapping` holds under its name, where it holds one."""
    if isinstance(arg, Value):
        return mapping.get(arg.name, arg)
    if isinstance(arg, tuple):
        return tuple(map_values(item, mapping) for item in arg)
    return arg


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor that the graph owns. `value.name` is its qualified PyTorch name; `aliases` are tied names."""

    value: Value
    role: str  # "parameter" (trained), "buffer" or "constant"
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.value.name


def needed(nodes: Sequence[Node], results: Iterable[str], known: Collection[str] = ()) -> tuple[Node, ...]:
    """The nodes that the values named in `results` depend on, in their order; `known` values need no node."""
    wanted = {name for name in results if name not in known}
    kept: list[Node] = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(value.name for value in node.outputs):
            kept.append(node)
            wanted.update(value.name for value in node.inputs if value.name not in known)
    return tuple(reversed(kept))


@dataclass(frozen=True)
class EntryPoint:
    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]  # in topological order
    outputs: tuple[Value, ...]

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Node name -> its place in the order."""
        return {node.name: place for place, node in enumerate(self.nodes)}

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Value name -> the node that computes it."""
        return {value.name: node for node in self.nodes for value in node.outputs}

    @cached_property
    def topology(self) -> nx.DiGraph:
        """Node names as vertices, an edge wherever one node reads another's output; inputs and parameters left out."""
        graph = nx.DiGraph()
        graph.add_nodes_from(node.name for node in self.nodes)
        for node in self.nodes:
            sources = (self.producers.get(value.name) for value in node.inputs)
            graph.add_edges_from((source.name, node.name) for source in sources if source)
        return graph

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Value name -> the nodes that read it, in order."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(value.name for value in node.inputs):
                readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}


@dataclass(frozen=True)
class Graph:
    """Entry points that share parameters, with the parameters' tensors (on `meta` where only shapes are known).

    The shapes in the graph are those of its trace. `batch` is the size that dimension 0 of every input had there, or
    None if the model mixes its examples; `rebatch` gives the graph of another batch.
    """

    entries: Mapping[str, EntryPoint]
    parameters: Mapping[str, Parameter]
    state: Mapping[str, Tensor] = field(repr=False, compare=False)
    batch: int | None = None

    @property
    def forward(self) -> EntryPoint:
        return self.entries["forward"]

    def with_entry(self, entry: EntryPoint) -> Graph:
        return replace(self, entries={**self.entries, entry.name: entry})

    def with_state(self, changed: Mapping[str, Tensor]) -> Graph:
        """The same graph with some tensors replaced by others of the same shape."""
        return replace(self, state={**self.state, **changed})

    @cached_property
    def weightless(self) -> Graph:
        """The same graph with its tensors on `meta`: what it costs depends on shapes alone."""
        return replace(self, state={name: tensor.to("meta") for name, tensor in self.state.items()})

    @property
    def parameter_count(self) -> int:
        return sum(self.state[name].numel() for name, p in self.parameters.items() if p.role == "parameter")
