"""The shapes that a configuration gives, without touching a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chipfit.ir.axes import Analysis, analyse
from chipfit.ir.blocks import Block, find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import EntryPoint, Graph
from chipfit.ir.memo import per_graph
from chipfit.ir.ops.context import Resize


@dataclass(frozen=True)
class Shapes(Mapping[str, tuple[int, ...]]):
    """Value name -> shape, for the values and parameters still alive; `alive` are the names of the nodes left."""

    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    alive: frozenset[str]

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class Traced:
    """What every question about one entry point starts from."""

    shapes: Mapping[str, tuple[int, ...]]
    nodes: frozenset[str]
    users: Mapping[str, tuple[str, ...]]  # axis -> values that carry it
    batched: tuple[str, ...]  # values that carry the batch


@per_graph
def traced(graph: Graph) -> Mapping[str, Traced]:
    return {entry.name: trace_of(graph, entry, analyse(graph)) for entry in graph.entries.values()}


def trace_of(graph: Graph, entry: EntryPoint, analysis: Analysis) -> Traced:
    read = {value.name for node in entry.nodes for value in node.inputs} | {value.name for value in entry.outputs}
    shapes = {name: parameter.value.shape for name, parameter in graph.parameters.items() if name in read}
    shapes |= {value.name: value.shape for value in entry.inputs}
    shapes |= {value.name: value.shape for node in entry.nodes for value in node.outputs}
    users: dict[str, list[str]] = {}
    batched: list[str] = []
    for name in shapes:
        atoms = {atom for extent in analysis.labels[entry.name][name] for atom in extent.atoms()}
        for atom in atoms & analysis.names.keys():
            users.setdefault(analysis.names[atom], []).append(name)
        if analysis.batch in atoms:
            batched.append(name)
    nodes = frozenset(node.name for node in entry.nodes)
    return Traced(shapes, nodes, {axis: tuple(names) for axis, names in users.items()}, tuple(batched))


def what_if(graph: Graph, configuration: Configuration, batch: int | None = None, entry: str = "forward") -> Shapes:
    """Shapes of `apply(graph, configuration)`, at another batch if one is given. Raises ValueError as `apply` does."""
    analysis, known = analyse(graph), traced(graph)[entry]
    resize = Resize(analysis.labels[entry], analysis.kept_atoms(configuration), analysis.batch_at(batch))
    changed = {name for axis in configuration.widths for name in known.users.get(axis, ())}
    if batch is not None and batch != graph.batch:
        changed.update(known.batched)
    shapes = {**known.shapes, **{name: resize.shape_of(analysis.labels[entry][name]) for name in changed}}
    if not configuration.dropped:
        return Shapes(shapes, known.nodes)
    nodes, values = alive(graph.entries[entry], replacements(graph, configuration))
    return Shapes({name: shape for name, shape in shapes.items() if name in values}, nodes)


@per_graph
def blocks_of(graph: Graph) -> Mapping[str, Block]:
    return find_blocks(graph)


def replacements(graph: Graph, configuration: Configuration) -> Mapping[str, str]:
    """Value dropped -> value that stands in for it. Raises ValueError for an unknown block."""
    blocks = blocks_of(graph) if configuration.dropped else {}
    unknown = configuration.dropped - blocks.keys()
    if unknown:
        raise ValueError(f"The graph has no block {min(unknown)}.")
    chosen = sorted((blocks[name] for name in configuration.dropped), key=lambda block: len(block.nodes))
    return {block.exit: block.skip for block in chosen}  # of two with one exit the larger wins


def final(name: str, replaced: Mapping[str, str]) -> str:
    """The value read in place of `name`, through several drops in a row."""
    while name in replaced:
        name = replaced[name]
    return name


def alive(entry: EntryPoint, replaced: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """Nodes still needed, and values still read or computed (inputs always are)."""
    nodes: set[str] = set()
    values = {value.name for value in entry.inputs}
    waiting = [final(value.name, replaced) for value in entry.outputs]
    while waiting:
        name = waiting.pop()
        node = entry.producers.get(name)
        if node is None:
            values.add(name)
        elif node.name not in nodes:
            nodes.add(node.name)
            values.update(value.name for value in node.outputs)
            waiting += [final(value.name, replaced) for value in node.inputs]
    return frozenset(nodes), frozenset(values)
