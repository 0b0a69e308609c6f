"""The solver's tables against the cost model itself, on whole graphs."""

import random
from dataclasses import replace

import pytest
import zoo

from chipfit.ir.axes import analyse
from chipfit.ir.configuration import UNCHANGED, Configuration
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.quantize import Quantize
from chipfit.search.curves import Level, Rounded, Sensitivity
from chipfit.search.forms import Forms
from chipfit.search.problem import Landscape
from chipfit.search.sensitivity import candidates
from chipfit.search.solve import Solution, solve
from chipfit.targets.registry import get_target


def landscape(name):
    """Three levels of every axis, at losses that don't matter here, on an uncalibrated chip."""
    graph = zoo.imported(name)
    axes, blocks = candidates(graph)
    levels = {
        axis.name: tuple(
            Level(tuple(range(width)), 0.0) for width in (axis.size, -(-axis.size // 2), -(-axis.size // 3))
        )
        for axis in axes.values()
    }
    return Landscape(Forms(graph), Sensitivity(levels, dict.fromkeys(blocks, 0.0)), get_target("cortex-a76").cost_model)


def total(items, levels, dropped):
    return sum(float(i.amounts[tuple(levels[a] for a in i.axes)]) for i in items if not i.blocks & dropped)


@pytest.mark.parametrize("name", ["llama", "bert", "resnet", "mobilenet"])
def test_items_add_up_to_the_cost(name):
    scene, rng = landscape(name), random.Random(0)
    for _ in range(6):
        levels = {axis: rng.randrange(len(found)) for axis, found in scene.sensitivity.levels.items()}
        solution = Solution(levels, frozenset(), 0.0, 0.0)
        cost = scene.cost(scene.configuration(solution))
        items = scene.problem.quantities
        assert total(items["latency"], levels, frozenset()) == pytest.approx(cost.latency_ms, rel=1e-6)
        assert total(items["size"], levels, frozenset()) == cost.weight_bytes


def rounding(name):
    """The same landscape, with a loss for each group of weights that may be kept in int8."""
    plain = landscape(name)
    graph, quantize = folded(zoo.imported(name)), Quantize(activations=True)
    groups = {min(group): Rounded(group, 0.1) for group in quantize.groups(graph)}
    sensitivity = replace(plain.sensitivity, rounded=groups)
    return replace(plain, forms=Forms(graph, rounding=quantize), sensitivity=sensitivity)


@pytest.mark.parametrize("name", ["llama", "bert", "resnet", "mobilenet"])
def test_items_add_up_to_the_cost_in_whatever_precision(name):
    scene, rng = rounding(name), random.Random(0)
    groups = scene.sensitivity.rounded
    assert groups
    for share in (0.0, 0.3, 0.7, 1.0):
        levels = {axis: rng.randrange(len(found)) for axis, found in scene.sensitivity.levels.items()}
        levels |= {name: int(rng.random() < share) for name in groups}
        found = scene.configuration(Solution(levels, frozenset(), 0.0, 0.0))
        assert found.rounded == frozenset().union(*(one.weights for name, one in groups.items() if levels[name]))
        items, cost = scene.problem.quantities, scene.cost(found)
        assert total(items["latency"], levels, frozenset()) == pytest.approx(cost.latency_ms, rel=0.01)
        assert total(items["size"], levels, frozenset()) == pytest.approx(cost.weight_bytes, rel=0.01)


def test_all_is_rounded_where_nothing_chooses():
    scene = replace(rounding("resnet"), sensitivity=Sensitivity({}, {}))
    whole, rounded = scene.cost(UNCHANGED), scene.cost(Configuration())
    assert rounded.weight_bytes < 0.5 * whole.weight_bytes
    items = scene.problem.quantities
    assert total(items["size"], {}, frozenset()) == rounded.weight_bytes
    assert total(items["latency"], {}, frozenset()) == pytest.approx(rounded.latency_ms, rel=1e-6)


def test_the_solver_rounds_what_loses_least():
    scene = rounding("bert")
    names = list(scene.sensitivity.rounded)
    groups = {name: replace(scene.sensitivity.rounded[name], loss=1.0 + i) for i, name in enumerate(names)}
    scene = replace(scene, sensitivity=Sensitivity({}, {}, groups))
    whole = scene.cost(UNCHANGED)
    found = scene.configuration(solve(scene.problem, {"size": 0.99 * whole.weight_bytes}))
    assert found.rounded == groups[names[0]].weights
    assert not found.widths


@pytest.mark.parametrize("name", ["llama", "bert", "resnet"])
def test_dropping_a_block_takes_its_items_away(name):
    scene = landscape(name)
    full = dict.fromkeys(scene.sensitivity.levels, 0)
    for block in scene.sensitivity.drops:
        cost = scene.cost(Configuration({}, frozenset({block})))
        items = scene.problem.quantities
        assert total(items["size"], full, frozenset({block})) == cost.weight_bytes
        # what is left may fuse a little differently, which only the cost of the whole configuration knows
        assert total(items["latency"], full, frozenset({block})) == pytest.approx(cost.latency_ms, rel=0.05)


def test_energy_is_tabulated_where_it_is_limited():
    scene = landscape("bert")
    levels = dict.fromkeys(scene.sensitivity.levels, 1)
    cost = scene.cost(scene.configuration(Solution(levels, frozenset(), 0.0, 0.0)))
    items = scene.limited({"energy": 1.0, "latency": 1.0}).quantities
    assert total(items["energy"], levels, frozenset()) == pytest.approx(cost.energy_mj, rel=1e-6)
    assert scene.limited({"latency": 1.0}) is scene.problem


def test_configuration_leaves_full_widths_out():
    scene = landscape("llama")
    first, *rest = scene.sensitivity.levels
    found = scene.configuration(Solution({first: 1, **dict.fromkeys(rest, 0)}, frozenset(), 0.0, 0.0))
    assert set(found.widths) == {first}
    assert len(found.widths[first]) == -(-analyse(scene.forms.graph).axes[first].size // 2)
