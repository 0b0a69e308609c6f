"""Tables against amounts computed entry by entry."""

import itertools
import random

import numpy as np
import pytest
import zoo

from chipfit.ir.configuration import Configuration
from chipfit.ir.shapes import what_if
from chipfit.ir.work import at, work
from chipfit.search import tables
from chipfit.search.curves import Level
from chipfit.search.sensitivity import candidates
from chipfit.search.tables import Tabulator, task
from chipfit.targets.cost import core, full_plan

SIZES = {"hidden": 8, "ffn0": 6, "ffn1": 4}
AXES = {"up0": ("hidden", "ffn0"), "up1": ("hidden", "ffn1"), "norm": ("hidden",), "embed": ()}
LEVELS = {axis: (Level(tuple(range(size)), 0.0), Level(tuple(range(size // 2)), 0.1)) for axis, size in SIZES.items()}


def width(widths, axis):
    return len(widths.get(axis, range(SIZES[axis])))


def product(entry, widths):
    return float(np.prod([width(widths, axis) for axis in AXES[entry]]))


def total(entry, widths):
    return float(sum(width(widths, axis) for axis in AXES[entry]))


def looked_up(parts, entry, at):
    return sum(table[tuple(at[axis] for axis in axes)] for name, (axes, table) in parts if name == entry)


@pytest.mark.parametrize(("largest", "amount"), [(1024, product), (0, total)])
def test_tables_give_every_combination(monkeypatch, largest, amount):
    monkeypatch.setattr(tables, "LARGEST", largest)
    parts = list(Tabulator(LEVELS, AXES).tabulate(amount))
    for levels in itertools.product((0, 1), repeat=3):
        at = dict(zip(SIZES, levels, strict=True))
        widths = {axis: LEVELS[axis][level].kept for axis, level in at.items()}
        assert {entry: looked_up(parts, entry, at) for entry in AXES} == pytest.approx(
            {entry: amount(entry, widths) for entry in AXES}
        )


def test_only_the_axes_in_a_shape_are_varied():
    calls = []
    list(Tabulator(LEVELS, AXES).tabulate(lambda entry, widths: calls.append(entry) or product(entry, widths)))
    assert {entry: calls.count(entry) for entry in AXES} == {"up0": 4, "up1": 4, "norm": 2, "embed": 1}


@pytest.mark.parametrize("name", ["llama", "resnet", "mobilenet"])
def test_work_of_one_kernel_is_that_of_the_whole_graph(name):
    graph, rng = zoo.imported(name), random.Random(0)
    axes, _ = candidates(graph)
    for _ in range(4):
        widths = {axis.name: tuple(range(rng.randint(1, axis.size))) for axis in axes.values()}
        shapes = what_if(graph, Configuration(widths), 1)
        for kernel, _ in full_plan(graph):
            found, amount = task(graph, core(kernel), widths, 1)
            assert (found.kind, amount) == (at(kernel, shapes).kind, work(kernel, shapes))


def test_layers_that_are_built_alike_share_their_work():
    graph = zoo.imported("llama")
    found = {core(kernel): task(graph, core(kernel), {}, 1) for kernel, _ in full_plan(graph)}
    linears = [name for name in found if found[name][0].kind == "matmul"]
    assert len({id(found[name]) for name in linears}) < len(linears) / 2
