"""Structured extents: what the entries along one tensor dimension are made of.

An extent is an atom, a row-major product of extents (heads x head dim) or a concatenation of extents (packed q, k, v).
Two dimensions that must agree entry by entry are unified (`unify.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["atom", "product", "concatenation"]


@dataclass(slots=True)
class Facts:
    """What is known of an atom. Unified atoms pool their facts, and the parts of a split atom inherit them."""

    frozen: set[str] = field(default_factory=set)  # why its entries can't be removed
    fixed: set[str] = field(default_factory=set)  # why its size can't change at all, not even as a batch
    inexact: set[str] = field(default_factory=set)  # why removing entries differs from zeroing them
    roles: set[str] = field(default_factory=set)  # what it is used for

    def add(self, other: Facts) -> None:
        self.frozen |= other.frozen
        self.fixed |= other.fixed
        self.inexact |= other.inexact
        self.roles |= other.roles

    def copy(self) -> Facts:
        return Facts(set(self.frozen), set(self.fixed), set(self.inexact), set(self.roles))


@dataclass(eq=False, slots=True)
class Extent:
    """A node of the union-find forest. Read through `root`; compare roots by identity."""

    size: int
    form: Form = "atom"
    parts: tuple[Extent, ...] = ()
    facts: Facts = field(default_factory=Facts)
    parent: Extent | None = None

    @property
    def root(self) -> Extent:
        top = self
        while top.parent is not None:
            top = top.parent
        extent = self
        while extent.parent is not None:  # path compression
            extent.parent, extent = top, extent.parent
        return top

    def atoms(self) -> Iterator[Extent]:
        """The atoms that it is built of, left to right, repeats included."""
        extent = self.root
        if extent.form == "atom":
            yield extent
        for part in extent.parts:
            yield from part.atoms()

    def freeze(self, reason: str) -> None:
        """No entry may be removed."""
        for atom in self.atoms():
            atom.facts.frozen.add(reason)

    def fix(self, reason: str) -> None:
        """No entry may be removed and the size never changes."""
        for atom in self.atoms():
            atom.facts.frozen.add(reason)
            atom.facts.fixed.add(reason)

    def soften(self, reason: str) -> None:
        """Removing entries isn't the same as zeroing them."""
        for atom in self.atoms():
            atom.facts.inexact.add(reason)

    def use(self, role: str) -> None:
        for atom in self.atoms():
            atom.facts.roles.add(role)

    def divide(self, form: Form, left: int, right: int) -> tuple[Extent, Extent]:
        """Turns an atom into a structure of two new atoms, which inherit what is known of it."""
        parts = (Extent(left, facts=self.facts.copy()), Extent(right, facts=self.facts.copy()))
        self.form, self.parts = form, parts
        return parts


def product(extents: Iterable[Extent]) -> Extent:
    """The row-major product, first extent outermost; factors of size 1 vanish."""
    parts = [extent for extent in flat("product", extents) if extent.size != 1]
    return assemble("product", parts, math.prod(part.size for part in parts))


def concatenation(extents: Iterable[Extent]) -> Extent:
    parts = flat("concatenation", extents)
    return assemble("concatenation", parts, sum(part.size for part in parts))


def flat(form: Form, extents: Iterable[Extent]) -> list[Extent]:
    """The roots of `extents`, with nested structures of the same form spliced in."""
    out: list[Extent] = []
    for extent in extents:
        root = extent.root
        out += flat(form, root.parts) if root.form == form else [root]
    return out


def assemble(form: Form, parts: list[Extent], size: int) -> Extent:
    if len(parts) == 1:
        return parts[0]
    return Extent(size, form, tuple(parts)) if parts else Extent(1)


def conflict(reason: str, *extents: Extent) -> None:
    for extent in extents:
        extent.fix(f"conflict: {reason}")
