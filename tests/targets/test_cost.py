"""Costs of whole graphs: what-if is fact, memory is the peak of what lives, statuses are honest."""

import random
from dataclasses import replace

import pytest
import torch
import zoo
from made_up import calibrated_arm
from torch import Tensor, nn

from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.targets.cost import CostModel
from chipfit.targets.registry import get_target


class Residual(nn.Module):
    """Two convolutions and a residual, or two linear layers and one."""

    def __init__(self, first: nn.Module, *inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = first, nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.inner(x)


def convolutions() -> Graph:
    layers = (
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.Conv2d(24, 16, 1),
    )
    model = nn.Sequential(Residual(nn.Conv2d(3, 16, 3, padding=1), *layers), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return import_model(model, (torch.randn(1, 3, 8, 8),))


def perceptron() -> Graph:
    branch = (nn.LayerNorm(32), nn.Linear(32, 80), nn.GELU(), nn.Linear(80, 32))
    return import_model(nn.Sequential(Residual(nn.Linear(20, 32), *branch), nn.Linear(32, 7)), (torch.randn(1, 5, 20),))


def configurations(graph: Graph, count: int, seed: int = 0) -> list[Configuration]:
    """Random widths, the first time the least everywhere; every other configuration drops some blocks too."""
    random_, found = random.Random(seed), []
    axes = {name: axis.size for name, axis in analyse(graph).axes.items() if axis.state != "frozen"}
    blocks = sorted(find_blocks(graph))
    for index in range(count):
        kept = {name: random_.randint(1, size if index else 1) for name, size in axes.items()}
        widths = {name: tuple(sorted(random_.sample(range(axes[name]), keep))) for name, keep in kept.items()}
        dropped = random_.sample(blocks, random_.randint(0, len(blocks))) if index % 2 else ()
        found.append(Configuration(widths, frozenset(dropped)))
    return found


@pytest.mark.parametrize("build", [convolutions, perceptron])
@pytest.mark.parametrize("model", [calibrated_arm(), get_target("h100-sxm").cost_model])
def test_what_if_is_fact(build: type[Graph], model: CostModel) -> None:
    graph = build()
    costs = set()
    for configuration in configurations(graph, 6):
        cost = model.cost(graph, configuration)
        assert cost == model.cost(apply(graph, configuration))
        costs.add((cost.latency_ms, cost.weight_bytes))
    assert len(costs) > 3


@pytest.mark.parametrize("name", zoo.ZOO)
def test_what_if_is_fact_on_every_kind_of_network(name: str) -> None:
    graph, model = zoo.imported(name), calibrated_arm()
    for configuration in configurations(graph, 6, seed=1):
        assert model.cost(graph, configuration) == model.cost(apply(graph, configuration))


def test_dropping_a_block_and_narrowing_an_axis_cost_less() -> None:
    graph, model = perceptron(), calibrated_arm()
    full = model.cost(graph)
    dropped = model.cost(graph, Configuration({}, frozenset(find_blocks(graph))))
    assert dropped.latency_ms < full.latency_ms
    assert dropped.weight_bytes < full.weight_bytes
    axis = next(name for name, axis in analyse(graph).axes.items() if axis.size == 80)
    assert model.cost(graph, Configuration({axis: tuple(range(40))})).latency_ms < full.latency_ms


def test_weights_and_activations_are_counted_in_bytes() -> None:
    """Input (5, 20), hidden (5, 30) and output (5, 10); weights are packed to vectors of four."""
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    graph = import_model(model, (torch.randn(1, 5, 20),))
    cost = calibrated_arm().cost(graph)
    assert cost.weight_bytes == 4 * (20 * 30 + 30 + 30 * 10 + 10)
    held = 4 * (20 * 32 + 30 + 30 * 12 + 10)
    assert cost.peak_memory_bytes == held + 4 * 5 * (20 + 30 + 10)
    assert calibrated_arm().cost(graph, batch=3).peak_memory_bytes == held + 3 * 4 * 5 * (20 + 30 + 10)
    assert get_target("h100-sxm").cost_model.cost(graph).peak_memory_bytes == cost.weight_bytes + 4 * 5 * (20 + 30 + 10)


def test_the_cost_at_a_batch_is_that_of_the_graph_at_that_batch() -> None:
    graph, model = convolutions(), calibrated_arm()
    assert model.cost(graph, batch=4) == model.cost(rebatch(graph, 4), batch=4)


def test_layers_add_up_to_the_kernels_time() -> None:
    cost = calibrated_arm().cost(perceptron())
    assert 0 < sum(layer.latency_ms for layer in cost.layers) <= cost.latency_ms
    assert {layer.kind for layer in cost.layers} == {"matmul", "reduce"}
    assert {layer.limit for layer in cost.layers} <= {"compute", "memory", "launch"}


def test_a_chip_that_nobody_timed_states_neither_calibration_nor_interval() -> None:
    cost = get_target("ascend-910b3").cost_model.cost(convolutions())
    assert (cost.status, cost.interval_ms) == ("uncalibrated", None)


@pytest.mark.parametrize("model", [calibrated_arm(), get_target("ascend-910b3").cost_model])
def test_a_question_asked_before_is_answered_the_same(model: CostModel) -> None:
    """Kernels, weights and lifetimes that are looked up again are those of a graph that nobody asked about."""
    graph, batches = convolutions(), (1, 3)
    for configuration in configurations(graph, 4, seed=2):
        for batch in batches:
            fresh = replace(graph)
            assert model.cost(graph, configuration, batch) == model.cost(fresh, configuration, batch)


def test_a_configuration_of_another_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="no axis nothing"):
        calibrated_arm().cost(convolutions(), Configuration({"nothing": (0,)}))


def test_a_calibrated_cpu_states_its_interval() -> None:
    cost = calibrated_arm().cost(perceptron())
    assert cost.status == "calibrated"
    assert cost.interval_ms == pytest.approx((cost.latency_ms / 1.2, cost.latency_ms * 1.2))
