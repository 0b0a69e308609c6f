"""Folding keeps the numbers, and leaves alone what it may not touch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, at_batch, conv, image, outputs_of, seeded

from chipfit.frontend.importer import import_model
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.passes.base import Context, PassResult
from chipfit.passes.fold_batch_norm import FoldBatchNorm
from chipfit.passes.pipeline import Pipeline


def fold(graph: Graph) -> PassResult:
    return Pipeline((FoldBatchNorm(),)).run(graph, Context(teacher=graph))


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.forward.nodes]


def assert_same_numbers(before: Graph, after: Graph, inputs: tuple[Tensor, ...]) -> None:
    for old, new in zip(outputs_of(emit(before)(*inputs)), outputs_of(emit(after)(*inputs)), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet", 0), ("mobilenet", 0), ("efficientnet", 0), ("resnext", 0), ("shufflenet", 0), ("two-inputs", 0),
     ("densenet", 5)],  # pre-activation norms read a concatenation; the stem's is read by the stem alone
)  # fmt: skip
def test_numbers_and_names_stay(name: str, left: int) -> None:
    model, inputs = ZOO[name]()
    graph = import_model(model, inputs)
    result = fold(graph)
    assert result.modified
    assert kinds(result.graph).count("batch_norm") == left
    assert set(result.graph.forward.producers) < set(graph.forward.producers)
    norms = {value.name for node in result.graph.forward.nodes if node.kind == "batch_norm" for value in node.inputs}
    assert {name for name in result.graph.parameters if "running" in name} == {n for n in norms if "running" in n}
    assert_same_numbers(graph, result.graph, at_batch(inputs, graph.batch))


def test_values_after_a_norm_keep_its_name() -> None:
    model, inputs = seeded(lambda: nn.Sequential(*conv(3, 4), nn.ReLU()), image())
    graph = import_model(model, inputs)
    folded = fold(graph).graph
    (norm,) = (node for node in graph.forward.nodes if node.kind == "batch_norm")
    first = folded.forward.nodes[0]
    assert (first.kind, first.name) == ("conv2d", norm.name)
    assert sorted(folded.parameters) == ["0.bias", "0.weight"]


class NormAfterAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x) + x)
        return out


class TwoReaders(NormAfterAdd):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class SharedWeight(NormAfterAdd):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(torch.relu(self.conv(x))))
        return out


class OtherDimension(nn.Module):
    """The norm's channels are the sequence, not the outputs of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(7)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(x))
        return out


def batch_statistics() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (NormAfterAdd, (2, 3, 4, 4)),
        (TwoReaders, (2, 3, 4, 4)),
        (SharedWeight, (2, 3, 4, 4)),
        (OtherDimension, (2, 7, 6)),
        (batch_statistics, (2, 3, 4, 4)),
    ],
)
def test_untouchable_norms_stay(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    graph = import_model(build(), (image(shape),))
    result = fold(graph)
    assert not result.modified
    assert result.graph.forward == graph.forward
    assert result.graph.parameters == graph.parameters


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_and_norms_without_scale(affine: bool, bias: bool) -> None:
    build = lambda: nn.Sequential(nn.Linear(6, 5, bias=bias), nn.BatchNorm1d(5, affine=affine))  # noqa: E731
    model, inputs = seeded(build, image((3, 6)))
    model[1].running_mean.normal_()
    graph = import_model(model, inputs)
    result = fold(graph)
    assert kinds(result.graph) == ["linear"]
    assert_same_numbers(graph, result.graph, inputs)
