"""The solver's tables against the cost model itself, on whole graphs."""

import random

import pytest
import zoo

from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.search.curves import Level, Sensitivity
from chipfit.search.problem import Landscape
from chipfit.search.sensitivity import candidates
from chipfit.search.solve import Solution
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
    return Landscape(graph, Sensitivity(levels, dict.fromkeys(blocks, 0.0)), get_target("cortex-a76").cost_model)


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
    assert len(found.widths[first]) == -(-analyse(scene.graph).axes[first].size // 2)
