"""The prunable widths of a graph: every dimension of every value is labelled, and labels that must agree are unified.

Pruning an axis removes the same indices from every dimension that carries its atom. It is *exact* where that equals
zeroing the removed slices of the parameters, *inexact* where something along the way isn't zero then, or a statistic
runs over the axis, and *frozen* where it can't be done at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from chipfit.ir.configuration import Configuration
from chipfit.ir.extent import Extent
from chipfit.ir.graph import EntryPoint, Graph
from chipfit.ir.memo import per_graph
from chipfit.ir.ops import is_opaque, lookup
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow, prunable
from chipfit.ir.unify import unify

State = Literal["exact", "inexact", "frozen"]
KINDS = ("experts", "heads", "head-dim", "channels", "hidden", "vocabulary")  # the first that fits names an axis


@dataclass(frozen=True, slots=True)
class Axis:
    """One width. `members` are the dimensions of parameters and buffers that carry it."""

    name: str
    kind: str
    size: int
    state: State
    reasons: tuple[str, ...]
    members: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Analysis:
    """Labels of all values, by entry point; the axes in parameter order; unknown ops with how often they occur."""

    labels: Mapping[str, Mapping[str, Labels]]
    axes: Mapping[str, Axis]
    atoms: Mapping[str, Extent]
    batch: Extent | None
    opaque: Mapping[str, int]

    @cached_property
    def names(self) -> Mapping[Extent, str]:
        """Atom -> axis name."""
        return {atom: name for name, atom in self.atoms.items()}

    @property
    def frozen(self) -> Mapping[str, Axis]:
        return {name: axis for name, axis in self.axes.items() if axis.state == "frozen"}

    def labels_of(self, name: str) -> Labels:
        """Labels of a parameter, or of a value of the first entry point that has one of this name."""
        for labels in self.labels.values():
            if name in labels:
                return labels[name]
        raise KeyError(name)

    def axes_of(self, name: str) -> frozenset[str]:
        """The axes along the dimensions of a value or parameter."""
        atoms = (atom for extent in self.labels_of(name) for atom in extent.atoms())
        return frozenset(self.names[atom] for atom in atoms if atom in self.names)

    def kept(self, name: str, dim: int, configuration: Configuration) -> np.ndarray | None:
        """Indices kept along a dimension of a value or parameter, ascending; None: all."""
        labels = self.labels_of(name)
        return Resize({}, self.kept_atoms(configuration)).indices(labels[dim])

    def kept_atoms(self, configuration: Configuration) -> Mapping[Extent, Sequence[int]]:
        """Atom -> indices kept, for the widths that the configuration names.

        Raises ValueError for an unknown or frozen axis and for an index outside of it.
        """
        for name, kept in configuration.widths.items():
            axis = self.axes.get(name)
            if axis is None:
                raise ValueError(f"The graph has no axis {name}.")
            if axis.state == "frozen":
                raise ValueError(f"The axis {name} can't be pruned: {', '.join(axis.reasons)}.")
            if not 0 <= kept[0] <= kept[-1] < axis.size:
                raise ValueError(f"The axis {name} has indices 0 to {axis.size - 1}, not {kept[0]} to {kept[-1]}.")
        return {self.atoms[name]: kept for name, kept in configuration.widths.items()}

    def batch_at(self, size: int | None) -> tuple[Extent, int] | None:
        """The batch resized. Raises ValueError where the graph's batch is baked in."""
        if size is None:
            return None
        if self.batch is None or size < 1:
            raise ValueError(f"The graph has no batch dimension that could be {size}.")
        return self.batch, size


@per_graph
def analyse(graph: Graph) -> Analysis:
    """Labels every value of every entry point and names the axes."""
    parameters = {name: tuple(Extent(size) for size in p.value.shape) for name, p in graph.parameters.items()}
    batch = Extent(graph.batch) if graph.batch else None
    labels = {entry.name: label(entry, parameters, batch) for entry in graph.entries.values()}
    for entry in graph.entries.values():
        follow_zeros(graph, entry, labels[entry.name])
    opaque = Counter(node.kind for entry in graph.entries.values() for node in entry.nodes if is_opaque(node))
    axes, atoms = name_axes(graph, parameters)
    return Analysis(labels, axes, atoms, free_batch(graph, batch, labels) if batch else None, opaque)


def free_batch(graph: Graph, batch: Extent, labels: Mapping[str, Mapping[str, Labels]]) -> Extent | None:
    """The batch, if it can be resized: whole, in no parameter, fixed by no op, and dimension 0 of every output."""
    root = batch.root
    owned = (extent for name in graph.parameters for known in labels.values() for extent in known[name])
    if root.form != "atom" or root.facts.fixed or any(atom is root for extent in owned for atom in extent.atoms()):
        return None
    outputs = (labels[entry.name][value.name] for entry in graph.entries.values() for value in entry.outputs)
    return root if all(known and known[0].root is root for known in outputs) else None


def label(entry: EntryPoint, parameters: Mapping[str, Labels], batch: Extent | None) -> Mapping[str, Labels]:
    context = Labelling(dict(parameters), batch=batch)
    for value in entry.inputs:
        labels = tuple(Extent(size) for size in value.shape)
        if batch:
            unify(labels[0], batch)
        freeze_all(labels, "graph input")
        context.labels[value.name] = labels
    for node in entry.nodes:
        for value, labels in zip(node.outputs, lookup(node).axes(context, node), strict=True):
            if tuple(extent.size for extent in labels) != value.shape:
                raise ValueError(f"{node.op} labels {value.name} as {[e.size for e in labels]}, not {value.shape}.")
            context.labels[value.name] = labels
        context.freeze_indexes(node)
    for value in entry.outputs:
        freeze_all(context.labels[value.name], "graph output")
        if value.name in context.indexes:
            context.indexes[value.name].freeze("graph output")
    return context.labels


def freeze_all(labels: Labels, reason: str) -> None:
    for extent in labels:
        extent.freeze(reason)


def follow_zeros(graph: Graph, entry: EntryPoint, labels: Mapping[str, Labels]) -> None:
    """Marks the atoms inexact along which something is summed that masking parameters doesn't make zero."""
    flow = ZeroFlow(labels, {value.name: frozenset() for value in entry.inputs})
    for name, parameter in graph.parameters.items():
        flow.zeros[name] = prunable(labels[name]) if parameter.role == "parameter" else frozenset()
    for node in entry.nodes:
        zero = lookup(node).zero(flow, node)
        for value in node.outputs:
            positions = value.type.dtype != node.outputs[0].type.dtype  # of a maximum: 0 is one like any other
            flow.zeros[value.name] = frozenset() if positions else zero & flow.atoms(value)


def name_axes(graph: Graph, parameters: Mapping[str, Labels]) -> tuple[Mapping[str, Axis], Mapping[str, Extent]]:
    """The atoms along live parameters that are widths: larger than 1, and no window of a kernel."""
    names: dict[Extent, str] = {}
    members: dict[Extent, list[tuple[str, int]]] = {}
    for parameter, dim, place, atom in places(graph, parameters):
        if graph.parameters[parameter].role == "parameter":
            names.setdefault(atom, f"{parameter}:{dim}" + ("" if place is None else f".{place}"))
        if (parameter, dim) not in members.setdefault(atom, []):
            members[atom].append((parameter, dim))
    chosen = {name: atom for atom, name in names.items() if is_width(atom)}
    return {name: axis_of(name, atom, members[atom]) for name, atom in chosen.items()}, chosen


def places(graph: Graph, parameters: Mapping[str, Labels]) -> list[tuple[str, int, int | None, Extent]]:
    """Parameter, dimension, position among the atoms of that dimension (None if it is the only one), atom."""
    live = {value.name for entry in graph.entries.values() for node in entry.nodes for value in node.inputs}
    found: list[tuple[str, int, int | None, Extent]] = []
    for name in (name for name in graph.parameters if name in live):
        for dim, extent in enumerate(parameters[name]):
            atoms = list(extent.atoms())
            found += [(name, dim, place if len(atoms) > 1 else None, atom) for place, atom in enumerate(atoms)]
    return found


def is_width(atom: Extent) -> bool:
    return atom.size > 1 and "kernel window" not in atom.facts.fixed


def axis_of(name: str, atom: Extent, members: Sequence[tuple[str, int]]) -> Axis:
    facts = atom.facts
    state: State = "frozen" if facts.frozen else "inexact" if facts.inexact else "exact"
    reasons = tuple(sorted(facts.frozen or facts.inexact))
    return Axis(name, kind_of(facts.roles), atom.size, state, reasons, tuple(members))


def kind_of(roles: set[str]) -> str:
    """What the axis is for, from the ops that use it."""
    fitting = [kind for kind in KINDS if kind in roles]
    if fitting:
        return fitting[0]
    return "ffn" if {"read", "written"} <= roles else "features"
