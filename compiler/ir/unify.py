"""Two dimensions that must agree entry by entry: their extents are refined until both are built of the same atoms.

Where no common refinement exists, both are frozen, so nothing wrong can come of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from chipfit.ir.extent import Extent, Form, concatenation, conflict, flat, product


def split(extent: Extent, outer: int, inner: int) -> tuple[Extent, Extent]:
    """`extent` read as a row-major (outer, inner), refining its atoms as needed."""
    extent = extent.root
    if extent.size != outer * inner:
        raise ValueError(f"An extent of {extent.size} can't be split into {outer} x {inner}.")
    if outer == 1:
        return Extent(1), extent
    if inner == 1:
        return extent, Extent(1)
    if extent.form == "atom":
        return extent.divide("product", outer, inner)
    if extent.form == "product":
        parts = flat("product", [extent])
        right = take(parts, inner)
        return (product(parts), right) if right else unsplit(extent, outer, inner)
    return split_concatenation(extent, outer, inner)


def take(parts: list[Extent], size: int) -> Extent | None:
    """Removes factors of `size` in all from the right end of the row-major `parts`; None where they don't align."""
    taken: list[Extent] = []
    while size > 1:
        if not parts:
            return None
        last = parts.pop()
        if size % last.size == 0:
            size //= last.size
            taken.append(last)
        elif last.size % size == 0:
            outer, inner = split(last, last.size // size, size)
            parts.append(outer)
            taken.append(inner)
            size = 1
        else:
            conflict("factors don't align", last)
            return None
    return product(reversed(taken))


def split_concatenation(extent: Extent, outer: int, inner: int) -> tuple[Extent, Extent]:
    """Factors `inner` out of every part: (a x i) + (b x i) is (a + b) x i, where all parts then share i."""
    parts = flat("concatenation", [extent])
    if any(part.size % inner for part in parts):
        return unsplit(extent, outer, inner)
    pairs = [split(part, part.size // inner, inner) for part in parts]
    for _, right in pairs[1:]:
        unify(pairs[0][1], right)
    return concatenation(left for left, _ in pairs), pairs[0][1].root


def unsplit(extent: Extent, outer: int, inner: int) -> tuple[Extent, Extent]:
    halves = Extent(outer), Extent(inner)
    conflict("can't be split", extent, *halves)
    return halves


def cut(extent: Extent, at: int) -> tuple[Extent, Extent]:
    """`extent` read as the concatenation of its first `at` entries and the rest, neither empty."""
    extent = extent.root
    if not 0 < at < extent.size:
        raise ValueError(f"An extent of {extent.size} can't be cut at {at}.")
    if extent.form == "atom":
        return extent.divide("concatenation", at, extent.size - at)
    if extent.form == "concatenation":
        return cut_concatenation(flat("concatenation", [extent]), at)
    first, *rest = flat("product", [extent])
    inner = extent.size // first.size
    if at % inner == 0:
        left, right = cut(first, at // inner)
        return product([left, *rest]), product([right, *rest])
    halves = Extent(at), Extent(extent.size - at)
    conflict("can't be cut", extent, *halves)
    return halves


def cut_concatenation(parts: list[Extent], at: int) -> tuple[Extent, Extent]:
    left: list[Extent] = []
    while at > 0:
        part = parts.pop(0)
        if part.size > at:
            part, rest = cut(part, at)
            parts.insert(0, rest)
        left.append(part)
        at -= part.size
    return concatenation(left), concatenation(parts)


def pieces(extent: Extent, sizes: Iterable[int]) -> list[Extent]:
    """`extent` cut into consecutive pieces of the given sizes, which sum to its own."""
    out: list[Extent] = []
    rest = extent
    for size in sizes:
        if size == rest.size:
            out.append(rest)
        else:
            piece, rest = cut(rest, size)
            out.append(piece)
    return out


def unify(left: Extent, right: Extent) -> Extent:
    """States that the two agree entry by entry; returns the common extent."""
    left, right = left.root, right.root
    if left is right:
        return left
    if left.size != right.size:
        raise ValueError(f"Extents of {left.size} and {right.size} can't be the same.")
    if left.form == "atom":
        return bind(left, right)
    if right.form == "atom":
        return bind(right, left)
    if left.form != right.form:
        whole = left if left.form == "concatenation" else right
        other = right if whole is left else left
        parts = flat("concatenation", [whole])
        for part, piece in zip(parts, pieces(other, [part.size for part in parts]), strict=True):
            unify(part, piece)
    elif not align(left.form, left, right):
        return left
    left, right = left.root, right.root
    if left is not right:
        left.parent = right
    return right


def bind(atom: Extent, other: Extent) -> Extent:
    """The atom takes the structure of the other, whose atoms take the facts of the atom."""
    atom.parent = other
    for part in other.atoms():
        part.facts.add(atom.facts)
    return other


def align(form: Form, left: Extent, right: Extent) -> bool:
    """Unifies two structures of one form part by part from the right, refining the longer part at each step."""
    ours, theirs = flat(form, [left]), flat(form, [right])
    while ours and theirs:
        longer, shorter = ours.pop().root, theirs.pop().root
        if longer.size < shorter.size:
            longer, shorter, ours, theirs = shorter, longer, theirs, ours
        if longer.size > shorter.size:
            if form == "product" and longer.size % shorter.size:
                conflict("products don't align", left, right)
                return False
            outer, longer = detach(form, longer, shorter.size)
            ours.append(outer)
        unify(longer, shorter)
    return True


def detach(form: Form, extent: Extent, size: int) -> tuple[Extent, Extent]:
    if form == "product":
        return split(extent, extent.size // size, size)
    return cut(extent, extent.size - size)
