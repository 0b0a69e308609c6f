from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chipfit.ir.extent import Extent, concatenation, product
from chipfit.ir.ops.context import Resize
from chipfit.ir.ops.shape import regroup
from chipfit.ir.unify import cut, pieces, split, unify


def kept_at_random(extents: list[Extent], seed: int) -> Resize:
    """Some entries removed from every atom that may be pruned."""
    chance = random.Random(seed)
    atoms = {atom for extent in extents for atom in extent.atoms() if not atom.facts.frozen}
    sizes = {atom: chance.randint(1, atom.size) for atom in atoms}
    return Resize({}, {atom: sorted(chance.sample(range(atom.size), size)) for atom, size in sizes.items()})


def mask(resize: Resize, extent: Extent) -> np.ndarray:
    indices = resize.indices(extent)
    out = np.ones(extent.size, bool)
    if indices is not None:
        out[:] = False
        out[indices] = True
    return out


def outer(masks: list[np.ndarray]) -> np.ndarray:
    out = np.ones(1, bool)
    for one in masks:
        out = np.logical_and.outer(out, one).ravel()
    return out


factors = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@given(factors, st.integers(0, 9))
def test_a_regrouped_extent_keeps_the_entries_that_the_whole_keeps(shape: list[int], seed: int) -> None:
    whole = Extent(math.prod(shape))
    labels = regroup([whole], tuple(shape))
    resize = kept_at_random([whole], seed)
    assert [extent.size for extent in labels] == shape
    assert (outer([mask(resize, extent) for extent in labels]) == mask(resize, whole)).all()


@given(st.permutations([2, 2, 3, 2]), st.permutations([2, 2, 3, 2]), st.integers(0, 9))
def test_unified_products_keep_the_same_entries(first: list[int], second: list[int], seed: int) -> None:
    left, right = product(map(Extent, first)), product(map(Extent, second))
    unify(left, right)
    resize = kept_at_random([left, right], seed)
    assert (mask(resize, left) == mask(resize, right)).all()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data(), st.integers(0, 9))
def test_unified_concatenations_keep_the_same_entries(sizes: list[int], data: st.DataObject, seed: int) -> None:
    left, right = concatenation(map(Extent, sizes)), concatenation(map(Extent, data.draw(st.permutations(sizes))))
    unify(left, right)
    resize = kept_at_random([left, right], seed)
    assert not any(atom.facts.frozen for atom in left.atoms())
    assert (mask(resize, left) == mask(resize, right)).all()
    assert resize.size(left) == resize.size(right) == mask(resize, left).sum()


def test_grouped_query_heads_are_a_product() -> None:
    heads, groups = Extent(8), Extent(2)
    outer_part, inner = split(heads, 2, 4)
    unify(outer_part, groups)
    assert [atom.size for atom in heads.atoms()] == [2, 4]
    assert next(heads.atoms()) is groups.root
    assert inner.root.size == 4


def test_a_packed_projection_is_a_concatenation_of_products() -> None:
    packed = Extent(24)
    query, key, _value = pieces(packed, [8, 8, 8])
    heads = [split(part, 2, 4)[0] for part in (query, key)]
    unify(*heads)
    sizes = [atom.size for atom in packed.atoms()]
    assert sizes == [2, 4, 2, 4, 8]
    assert len(set(packed.atoms())) == 4


def test_equal_halves_share_the_inner_factor() -> None:
    packed = concatenation([Extent(6), Extent(6)])
    _, inner = split(packed, 2, 6)
    assert list(packed.atoms()) == [inner.root, inner.root]


def test_a_cut_through_a_product_takes_whole_outer_entries() -> None:
    first, second = Extent(4), Extent(3)
    left, right = cut(product([first, second]), 6)
    assert (left.size, right.size) == (6, 6)
    assert [atom.size for atom in first.atoms()] == [2, 2]


def test_facts_are_pooled_and_inherited() -> None:
    frozen, free = Extent(6), Extent(6)
    frozen.freeze("graph output")
    unify(free, frozen)
    left, _ = cut(free, 2)
    assert left.root.facts.frozen == {"graph output"}


@pytest.mark.parametrize(("first", "second"), [((4, 6), (6, 4)), ((2, 3), (3, 2))])
def test_products_without_a_common_refinement_freeze(first: tuple[int, int], second: tuple[int, int]) -> None:
    left, right = product(map(Extent, first)), product(map(Extent, second))
    unify(left, right)
    assert all(atom.facts.fixed for extent in (left, right) for atom in extent.atoms())


def test_a_cut_inside_an_inner_factor_freezes() -> None:
    whole = product([Extent(2), Extent(5)])
    halves = cut(whole, 3)
    assert [half.size for half in halves] == [3, 7]
    assert all(atom.facts.fixed for atom in whole.atoms())


def test_different_sizes_cannot_be_the_same() -> None:
    with pytest.raises(ValueError, match="Extents of 3 and 4 can't be the same"):
        unify(Extent(3), Extent(4))


def test_what_lies_before_a_position_is_counted() -> None:
    whole = product([Extent(3), Extent(2)])
    first, _ = whole.parts
    resize = Resize({}, {first: [0, 2]})
    assert resize.before(whole, 4) == 2
    assert resize.before(whole, 6) == 4
    assert np.flatnonzero(mask(resize, whole)).tolist() == [0, 1, 4, 5]
