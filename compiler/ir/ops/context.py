"""What the rules of an op are given: labels to relate, zeros to follow, sizes to write into arguments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from chipfit.ir.extent import Extent, product
from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.unify import unify

Labels = tuple[Extent, ...]


@dataclass
class Labelling:
    """Labels found so far.

    `indexes`: integer values whose entries name positions along an extent. `origins`: the values from which a value
    is computed element by element.
    """

    labels: dict[str, Labels]
    origins: dict[str, frozenset[str]] = field(default_factory=dict)
    indexes: dict[str, Extent] = field(default_factory=dict)
    batch: Extent | None = None
    _understood: set[str] = field(default_factory=set)

    def of(self, value: Arg) -> Labels:
        return self.labels[value.name] if isinstance(value, Value) else ()

    def origins_of(self, value: Value) -> frozenset[str]:
        return self.origins.get(value.name, frozenset({value.name}))

    def index(self, value: Arg) -> Extent | None:
        """What the entries of `value` index; the caller answers for relating it to the outputs."""
        if not isinstance(value, Value):
            return None
        self._understood.add(value.name)
        return self.indexes.get(value.name)

    def freeze_indexes(self, node: Node) -> None:
        """Positions along an extent mean something to an op that doesn't know them as such, so they must not move."""
        for value in node.inputs:
            if value.name in self.indexes and value.name not in self._understood:
                self.indexes[value.name].freeze(f"index read by {node.kind}")
        self._understood.clear()


@dataclass
class ZeroFlow:
    """Where the values of a masked graph are zero: pruning equals masking only if sums run over zeros alone."""

    labels: Mapping[str, Labels]
    zeros: dict[str, frozenset[Extent]]  # value -> atoms along whose removed entries it is zero
    _atoms: dict[str, frozenset[Extent]] = field(default_factory=dict)

    def of(self, value: Arg) -> Labels:
        return self.labels[value.name] if isinstance(value, Value) else ()

    def atoms(self, value: Value) -> frozenset[Extent]:
        """The prunable atoms along the value's dimensions."""
        if value.name not in self._atoms:
            self._atoms[value.name] = prunable(self.labels[value.name])
        return self._atoms[value.name]

    def zero(self, value: Arg) -> frozenset[Extent]:
        return self.zeros[value.name] if isinstance(value, Value) else frozenset()

    def sums_over(self, extents: Iterable[Extent], node: Node, *operands: Arg) -> None:
        """A sum of products of `operands` over `extents` needs one of them zero wherever entries go."""
        safe = frozenset().union(*(self.zero(operand) for operand in operands))
        for atom in prunable(extents) - safe:
            atom.facts.inexact.add(f"{node.kind} sums entries that aren't zero")


def prunable(extents: Iterable[Extent]) -> frozenset[Extent]:
    return frozenset(atom for extent in extents for atom in extent.atoms() if not atom.facts.frozen)


@dataclass
class Resize:
    """Sizes of extents once entries are removed (`kept`: atom -> indices kept) or the batch is another one."""

    labels: Mapping[str, Labels]
    kept: Mapping[Extent, Sequence[int]] = field(default_factory=dict)
    batch: tuple[Extent, int] | None = None
    _sizes: dict[Extent, int] = field(default_factory=dict)

    def of(self, value: Arg) -> Labels:
        if not isinstance(value, Value):
            raise TypeError(f"{value} has no labels.")
        return self.labels[value.name]

    def shape(self, value: Arg) -> tuple[int, ...]:
        return self.shape_of(self.of(value))

    def shape_of(self, labels: Labels) -> tuple[int, ...]:
        return tuple(self.size(extent) for extent in labels)

    def size(self, extent: Extent) -> int:
        root = extent.root
        if root not in self._sizes:
            self._sizes[root] = self._measure(root)
        return self._sizes[root]

    def _measure(self, root: Extent) -> int:
        if root.form == "product":
            return math.prod(self.size(part) for part in root.parts)
        if root.form == "concatenation":
            return sum(self.size(part) for part in root.parts)
        if root in self.kept:
            return len(self.kept[root])
        return self.batch[1] if self.batch and root is self.batch[0] else root.size

    def indices(self, extent: Extent) -> np.ndarray | None:
        """The indices kept along an extent, ascending; None: all."""
        if not any(atom in self.kept for atom in extent.atoms()):
            return None
        return np.flatnonzero(self._mask(extent.root))

    def _mask(self, root: Extent) -> np.ndarray:
        if root.form == "atom":
            mask = np.ones(root.size, dtype=bool)
            if root in self.kept:
                mask[:] = False
                mask[list(self.kept[root])] = True
            return mask
        masks = [self._mask(part.root) for part in root.parts]
        if root.form == "concatenation":
            return np.concatenate(masks)
        mask = masks[0]
        for inner in masks[1:]:
            mask = np.logical_and.outer(mask, inner).ravel()
        return mask

    def before(self, extent: Extent, position: int) -> int:
        """How many entries are left in front of `position`."""
        if position in (0, extent.size):
            return self.size(extent) if position else 0
        indices = self.indices(extent)
        return position if indices is None else int(np.searchsorted(indices, position))

    def ratio(self, extents: Iterable[Extent]) -> float:
        """Share of the entries that pruning left along the product of `extents`; the batch doesn't count."""
        pruned = [extent for extent in extents if any(atom in self.kept for atom in extent.atoms())]
        whole = product(pruned)
        return self.size(whole) / whole.size


def fresh(shape: Iterable[int], reason: str | None = None) -> Labels:
    """New atoms, frozen if a reason is given."""
    extents = tuple(Extent(size) for size in shape)
    if reason:
        for extent in extents:
            extent.freeze(reason)
    return extents


def broadcast(labels: Iterable[Labels], shape: tuple[int, ...]) -> Labels:
    """Labels of the broadcast of several operands: aligned from the right, sizes 1 skipped, the rest unified."""
    out: list[Extent | None] = [None] * len(shape)
    for operand in labels:
        for place in range(-len(operand), 0):
            if shape[place] == 1 or operand[place].size != shape[place]:
                continue
            known = out[place]
            out[place] = operand[place] if known is None else unify(known, operand[place])
    return tuple(extent or Extent(size) for extent, size in zip(out, shape, strict=True))
