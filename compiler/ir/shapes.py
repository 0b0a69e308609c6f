"""The shapes that a configuration gives, without touching a weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chipfit.ir.axes import Analysis, analyse
from chipfit.ir.blocks import Block, find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.extent import Extent
from chipfit.ir.graph import EntryPoint, Graph, Value
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
class Sized(Mapping[str, tuple[int, ...]]):
    """Value name -> shape, put together when it is asked for: most questions are about few values."""

    places: Mapping[str, tuple[int, ...]]  # value -> its dimensions as places in `sizes`
    sizes: Sequence[int]

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return tuple([self.sizes[place] for place in self.places[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Trace:
    """What every question about one entry point starts from."""

    nodes: frozenset[str]
    extents: tuple[Extent, ...]  # the different ones along all dimensions
    places: Mapping[str, tuple[int, ...]]  # value -> its dimensions as places in `extents`
    sized: Mapping[Extent, tuple[int, ...]]  # atom -> the extents that it is part of
    sources: Mapping[str, tuple[str, ...]]  # value -> the values that it is computed from


@per_graph
def traces(graph: Graph) -> Mapping[str, Trace]:
    return {entry.name: trace(graph, entry, analyse(graph)) for entry in graph.entries.values()}


def trace(graph: Graph, entry: EntryPoint, analysis: Analysis) -> Trace:
    values = values_of(graph, entry)
    roots = {name: tuple(extent.root for extent in analysis.labels[entry.name][name]) for name in values}
    extents = tuple(dict.fromkeys(root for labels in roots.values() for root in labels))
    number = {root: place for place, root in enumerate(extents)}
    sized: dict[Extent, list[int]] = {}
    for place, root in enumerate(extents):
        for atom in dict.fromkeys(root.atoms()):
            sized.setdefault(atom, []).append(place)
    return Trace(
        frozenset(node.name for node in entry.nodes),
        extents,
        {name: tuple(number[root] for root in labels) for name, labels in roots.items()},
        {atom: tuple(places) for atom, places in sized.items()},
        {out.name: tuple(value.name for value in node.inputs) for node in entry.nodes for out in node.outputs},
    )


def values_of(graph: Graph, entry: EntryPoint) -> Mapping[str, Value]:
    """The parameters that the entry point reads, its inputs and whatever it computes."""
    read = {value.name for node in entry.nodes for value in node.inputs} | {value.name for value in entry.outputs}
    values = {name: parameter.value for name, parameter in graph.parameters.items() if name in read}
    computed = (value for node in entry.nodes for value in node.outputs)
    return values | {value.name: value for value in (*entry.inputs, *computed)}


def what_if(graph: Graph, configuration: Configuration, batch: int | None = None, entry: str = "forward") -> Shapes:
    """Shapes of `apply(graph, configuration)`, at another batch if one is given. Raises ValueError as `apply` does."""
    analysis, known = analyse(graph), traces(graph)[entry]
    resize = Resize({}, analysis.kept_atoms(configuration), analysis.batch_at(batch))
    changed = [*resize.kept, *(resize.batch or ())[:1]]
    sizes = [extent.size for extent in known.extents]
    for place in {place for atom in changed for place in known.sized.get(atom, ())}:
        sizes[place] = resize.size(known.extents[place])
    shapes = Sized(known.places, sizes)
    if not configuration.dropped:
        return Shapes(shapes, known.nodes)
    point = graph.entries[entry]
    needed = alive(point, known.sources, replacements(graph, configuration))
    nodes = [node for node in point.nodes if any(value.name in needed for value in node.outputs)]
    needed |= {value.name for value in (*point.inputs, *(out for node in nodes for out in node.outputs))}
    left = {name: shape for name, shape in shapes.items() if name in needed}
    return Shapes(left, frozenset(node.name for node in nodes))


def some_shapes(
    graph: Graph,
    names: Iterable[str],
    widths: Mapping[str, Sequence[int]],
    batch: int | None = None,
    entry: str = "forward",
) -> dict[str, tuple[int, ...]]:
    """What `what_if` says of some values, in their order, if these axes are narrowed; unknown names are left out.

    Only the axes of these values matter. Raises ValueError for a batch that can't be.
    """
    analysis, known = analyse(graph), traces(graph)[entry]
    kept = {analysis.atoms[axis]: indices for axis, indices in widths.items() if axis in analysis.atoms}
    resize = Resize({}, kept, analysis.batch_at(batch))
    places = {name: known.places[name] for name in names if name in known.places}
    return {name: tuple([resize.size(known.extents[place]) for place in found]) for name, found in places.items()}


def alive(entry: EntryPoint, sources: Mapping[str, tuple[str, ...]], replaced: Mapping[str, str]) -> set[str]:
    """The values that the outputs depend on once some are replaced."""
    found: set[str] = set()
    waiting = [value.name for value in entry.outputs]
    while waiting:
        name = final(waiting.pop(), replaced)
        if name not in found:
            found.add(name)
            waiting += sources.get(name, ())
    return found


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
