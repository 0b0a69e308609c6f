"""Scores: torch-pruning's own on our axes, and our activation criterion against its definition."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.pruner import function
from torch_pruning.pruner.importance import FPGMImportance
from zoo import ZOO, Sample, at_batch

from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.axes import Axis, analyse
from chipfit.ir.graph import Graph
from chipfit.passes.importance import CRITERIA, best, rank
from chipfit.passes.statistics import Statistics

CNNS = ["resnet", "mobilenet", "efficientnet"]


@cache
def imported(name: str) -> tuple[Sample, Graph]:
    model, inputs = ZOO[name]()
    return (model, inputs), import_model(model, inputs)


def prunable(graph: Graph) -> list[Axis]:
    return [axis for axis in analyse(graph).axes.values() if axis.state != "frozen"]


def examples(inputs: tuple[Tensor, ...], count: int = 4) -> list[tuple[Tensor, ...]]:
    """`count` different examples of batch 1."""
    joined = at_batch(inputs, count)
    return list(zip(*(part.split(1) for part in joined), strict=True))


def root_of(model: nn.Module, axis: Axis) -> tuple[nn.Module, Callable[..., nn.Module]]:
    """The first layer that gives the axis, and torch-pruning's function that prunes its outputs."""
    name = next(name for name, dim in axis.members if dim == 0 and model.get_parameter(name).dim() > 1)
    layer = model.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, nn.Linear):
        return layer, function.prune_linear_out_channels
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    return layer, function.prune_depthwise_conv_out_channels if depthwise else function.prune_conv_out_channels


def set_gradients(model: nn.Module, found: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = found[name]


@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize(
    ("criterion", "scorer"),
    [
        ("magnitude", tp.importance.GroupMagnitudeImportance),
        ("lamp", tp.importance.LAMPImportance),
        ("fpgm", FPGMImportance),
        ("bn-scale", tp.importance.BNScaleImportance),
        ("taylor", tp.importance.GroupTaylorImportance),
        ("hessian", tp.importance.GroupHessianImportance),
    ],
)
def test_scores_are_torch_prunings_own(
    name: str, criterion: str, scorer: Callable[[], tp.importance.Importance]
) -> None:
    (model, inputs), graph = imported(name)
    statistics = Statistics(graph, examples(inputs))
    if criterion == "taylor":
        set_gradients(model, dict(statistics.gradients))
    if criterion == "hessian":
        set_gradients(model, dict(statistics.squared_gradients))
    dependencies = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
    compared = 0
    for axis in prunable(graph):
        expected = scorer()(dependencies.get_pruning_group(*root_of(model, axis), list(range(axis.size))))
        if expected is not None:  # squeeze-excite has no batch norm
            np.testing.assert_allclose(rank(statistics, axis, criterion), expected, rtol=1e-5, err_msg=axis.name)
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "packed-split", "lstm", "two-inputs", "densenet", "resnext"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_axis_is_scored(name: str, criterion: str) -> None:
    (_, inputs), graph = imported(name)
    statistics = Statistics(graph, examples(inputs, 2))
    for axis in prunable(graph):
        scores = rank(statistics, axis, criterion)
        assert scores.shape == (axis.size,)
        assert np.isfinite(scores).all(), axis.name
        assert scores.min() >= 0
        assert scores.max() > 0


@pytest.mark.usefixtures("single_precision")
def test_activation_is_the_energy_that_an_index_adds() -> None:
    """For one reader: the summed squared outputs of the reader with all inputs but one zeroed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    rows = [(torch.randn(1, 5),) for _ in range(8)]
    graph = import_model(model, (torch.randn(2, 5),))
    (axis,) = prunable(graph)
    hidden = torch.relu(model[0](torch.cat([row for (row,) in rows])))
    outputs = hidden[:, :, None] * model[2].weight.T  # [rows, hidden, outputs]
    expected = outputs.square().sum((0, 2)).detach().numpy()
    np.testing.assert_allclose(rank(Statistics(graph, rows), axis, "activation"), expected, rtol=1e-5)


def test_activation_of_query_groups_reads_the_output_projection() -> None:
    model, inputs = ZOO["llama"]()
    graph = import_model(model, inputs)
    axis = next(axis for axis in prunable(graph) if axis.kind == "heads")
    weight = "network.model.layers.0.self_attn.o_proj.weight"
    with torch.no_grad():
        model.get_parameter(weight)[:, 16:] = 0  # the second of two groups of two query heads of size 8
    scores = rank(Statistics(graph, examples(inputs)), axis, "activation")
    assert scores[0] > 0
    assert scores[1] == 0


def test_ranking_is_deterministic_and_ties_go_to_the_lower_index() -> None:
    assert best(np.array([1.0, 3.0, 1.0, 2.0, 1.0]), 3) == (0, 1, 3)
    (_, inputs), graph = imported("packed-select")
    scores = [
        rank(Statistics(graph, examples(inputs), seed=1), axis, "taylor") for axis in prunable(graph) for _ in range(2)
    ]
    for first, second in zip(scores[::2], scores[1::2], strict=True):
        np.testing.assert_array_equal(first, second)


@torch.no_grad()
def test_gradients_are_found_where_none_are_wanted() -> None:
    (_, inputs), graph = imported("two-inputs")
    assert rank(Statistics(graph, examples(inputs)), prunable(graph)[0], "taylor").max() > 0


def test_unknown_criterion_is_named() -> None:
    _, graph = imported("two-inputs")
    with pytest.raises(UserError) as error:
        rank(Statistics(graph, []), prunable(graph)[0], "beauty")
    known = "activation, magnitude, lamp, fpgm, bn-scale, taylor, hessian"
    assert str(error.value) == f"There is no criterion beauty; the criteria are {known}."
