"""Which values depend on which: the questions that the search for blocks asks of an entry point."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from chipfit.ir.graph import EntryPoint, Graph, Node, Value


@dataclass(frozen=True, eq=False)
class Flow:
    """The data flow of `entry`. A vertex is an input's name or a node's."""

    graph: Graph
    entry: EntryPoint

    @cached_property
    def edges(self) -> nx.DiGraph:
        """Inputs and the nodes that depend on them, in order; what is computed from parameters alone is left out."""
        flow = nx.DiGraph()
        flow.add_nodes_from(value.name for value in self.entry.inputs)
        for node in self.entry.nodes:
            sources = {self.vertex(value) for value in node.inputs} & flow.nodes
            flow.add_edges_from((source, node.name) for source in sources)
        return flow

    @cached_property
    def order(self) -> Mapping[str, int]:
        names = [*(value.name for value in self.entry.inputs), *(node.name for node in self.entry.nodes)]
        return {name: i for i, name in enumerate(names)}

    def vertex(self, value: Value) -> str:
        producer = self.entry.producers.get(value.name)
        return producer.name if producer else value.name

    def depends(self, value: Value, source: Value) -> bool:
        """Whether `value` is computed from `source`; only what lies between the two is searched."""
        end, start = self.vertex(value), self.vertex(source)
        if start not in self.edges or end not in self.edges:
            return False
        found, waiting = {end}, [end]
        while waiting and start not in found:
            sources = (name for name in self.edges.pred[waiting.pop()] if self.order[name] >= self.order[start])
            waiting += (new := [name for name in sources if name not in found])
            found.update(new)
        return start in found and start != end

    def dying(self, skip: Value, end: Value) -> tuple[Node, ...]:
        """The nodes that nothing needs once `skip` stands for `end`, in order."""
        kept = {self.vertex(skip), *(self.vertex(value) for value in self.entry.outputs)}
        last = self.entry.producers[end.name]
        dead, pending = {last.name}, [last]
        while pending:
            for value in pending.pop().inputs:
                source = self.entry.producers.get(value.name)
                if source and source.name not in kept | dead and dead.issuperset(self.readers(source)):
                    dead.add(source.name)
                    pending.append(source)
        return tuple(self.entry.producers[name] for name in sorted(dead, key=self.entry.places.__getitem__))

    def readers(self, node: Node) -> set[str]:
        return {reader.name for value in node.outputs for reader in self.entry.consumers.get(value.name, ())}

    def weights(self, node: Node) -> list[Value]:
        """The trained parameters that a node reads, as they are or through what is computed of parameters alone."""
        found = []
        for value in node.inputs:
            parameter, source = self.graph.parameters.get(value.name), self.entry.producers.get(value.name)
            if parameter and parameter.role == "parameter":
                found.append(value)
            elif source and source.name not in self.edges:
                found += self.weights(source)
        return found

    def unused_parameters(self, nodes: Collection[str]) -> int:
        """Elements of the trained parameters that only `nodes` read."""
        read = {value.name for name in nodes for value in self.weights(self.entry.producers[name])}
        unused = [name for name in read if all(reader.name in nodes for reader in self.entry.consumers[name])]
        return sum(self.graph.state[name].numel() for name in unused)
