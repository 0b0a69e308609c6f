"""The order in which the brain surgeon cuts, against what refitting by hand gives."""

import numpy as np
import pytest
import torch

from chipfit.passes.members import OUTSIDE
from chipfit.passes.surgeon import DAMPING, Reading, Surgeon, order


def reading(columns=1, indices=6, seed=0):
    """Correlated inputs; the last column carries another axis."""
    generator = torch.Generator().manual_seed(seed)
    count = columns * indices + 1
    mix = torch.randn(count, count, generator=generator, dtype=torch.float64)
    rows = torch.randn(200, count, generator=generator, dtype=torch.float64) @ mix
    owners = np.append(np.repeat(np.arange(indices), columns), OUTSIDE)
    return Reading(rows.T @ rows, torch.randn(5, count, generator=generator, dtype=torch.float64), owners)


def damped_error(given, gone):
    """What the best matrix without these indices is off by, damping included, where the whole output has energy 1."""
    left = np.flatnonzero(~np.isin(given.owners, gone))
    squares = given.squares + DAMPING * given.squares.diagonal().mean() * torch.eye(len(given.squares))
    best = torch.linalg.solve(squares[left][:, left], squares[left] @ given.matrix.T).T
    change = given.matrix.clone()
    change[:, left] -= best
    return float((change @ squares * change).sum() / (given.matrix @ given.squares * given.matrix).sum())


@pytest.mark.parametrize("columns", [1, 3])
def test_costs_are_what_refitting_adds_to_the_error(columns):
    given = reading(columns)
    surgeon, gone = Surgeon.of(given), np.array([], int)
    for index in (3, 0):
        costs = surgeon.costs(6)
        added = [damped_error(given, [*gone, one]) - damped_error(given, gone) for one in range(6)]
        assert costs == pytest.approx(np.where(np.isin(range(6), gone), 0.0, added), rel=1e-6, abs=1e-9)
        surgeon.cut(np.array([index]))
        gone = np.append(gone, index)


def test_of_two_that_say_the_same_one_goes_first_and_the_other_counts_for_both():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    rows[:, 1] = rows[:, 0]
    twins = Reading(rows.T @ rows, torch.diag(torch.tensor([3.0, 3.0, 2.0, 1.0])).double(), np.arange(4))
    found = order(4, [twins])
    assert {found[0], found[3]} == {0, 1}
    assert found[1:3] == (2, 3)


def test_an_axis_that_several_layers_read_is_judged_by_all():
    small, large = reading(seed=2), reading(seed=3)
    both = order(6, [small, large])
    assert sorted(both) == list(range(6))
    scaled = Reading(small.squares, 100 * small.matrix, small.owners)
    assert order(6, [scaled, large]) == both  # each by its own output
