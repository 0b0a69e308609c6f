"""Tables against amounts computed entry by entry."""

import itertools

import numpy as np
import pytest

from chipfit.search import tables
from chipfit.search.curves import Level
from chipfit.search.tables import Tabulator

SIZES = {"hidden": 8, "ffn0": 6, "ffn1": 4}
AXES = {"up0": ("hidden", "ffn0"), "up1": ("hidden", "ffn1"), "norm": ("hidden",), "embed": ()}
LEVELS = {axis: (Level(tuple(range(size)), 0.0), Level(tuple(range(size // 2)), 0.1)) for axis, size in SIZES.items()}


def width(configuration, axis):
    return len(configuration.widths.get(axis, range(SIZES[axis])))


def product(configuration):
    return {entry: float(np.prod([width(configuration, axis) for axis in axes])) for entry, axes in AXES.items()}


def total(configuration):
    return {entry: float(sum(width(configuration, axis) for axis in axes)) for entry, axes in AXES.items()}


def looked_up(parts, entry, at):
    return sum(table[tuple(at[axis] for axis in axes)] for name, (axes, table) in parts if name == entry)


@pytest.mark.parametrize(("largest", "amounts"), [(1024, product), (0, total)])
def test_tables_give_every_combination(monkeypatch, largest, amounts):
    monkeypatch.setattr(tables, "LARGEST", largest)
    tabulator = Tabulator(LEVELS, AXES)
    parts = list(tabulator.tabulate(amounts))
    for levels in itertools.product((0, 1), repeat=3):
        at = dict(zip(SIZES, levels, strict=True))
        expected = amounts(tabulator.configuration(at))
        assert {entry: looked_up(parts, entry, at) for entry in AXES} == pytest.approx(expected)


def test_axes_that_never_meet_vary_together():
    calls = []
    list(Tabulator(LEVELS, AXES).tabulate(lambda c: calls.append(c) or product(c)))
    assert len(calls) == 4
