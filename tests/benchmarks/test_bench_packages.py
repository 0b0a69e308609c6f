"""Other packages as strategies: they get the model that we have, and choose for it what keeps the limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import zoo
from modules import as_modules
from torch_pruner import TorchPruning

from chipfit.ir.apply import apply, rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.passes.fold_batch_norm import folded
from chipfit.search.curves import Sensitivity
from chipfit.search.forms import Forms
from chipfit.search.problem import Landscape
from chipfit.search.strategies.base import Task, UnreachableError
from chipfit.targets.registry import get_target


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_modules_compute_what_the_graph_does(name: str) -> None:
    graph = rebatch(zoo.imported(name), 2)
    x = torch.randn(graph.forward.inputs[0].shape)
    with torch.no_grad():
        torch.testing.assert_close(as_modules(graph).eval()(x), emit(graph)(x))


def task(name: str) -> Task:
    graph = zoo.imported(name)
    landscape = Landscape(Forms(folded(graph)), Sensitivity({}, {}), get_target("cortex-a76").cost_model)
    shape = (1, *graph.forward.inputs[0].shape[1:])
    examples = [(torch.randn(shape, generator=torch.Generator().manual_seed(seed)),) for seed in range(8)]
    return Task(graph, examples, landscape, granularity=4)


def test_torch_pruning_keeps_its_limit() -> None:
    given = task("resnet")
    whole = given.landscape.cost(Configuration()).latency_ms
    found = TorchPruning(given).propose({"latency": 0.7 * whole}).configuration
    assert found.widths
    assert given.landscape.cost(found).latency_ms <= 0.7 * whole
    small = rebatch(apply(given.teacher, found), 2)
    assert torch.isfinite(emit(small)(torch.randn(small.forward.inputs[0].shape))).all()


def test_torch_pruning_says_what_it_cannot_reach() -> None:
    given = replace(task("resnet"), seed=1)
    with pytest.raises(UnreachableError) as raised:
        TorchPruning(given).propose({"latency": 1e-9})
    assert raised.value.nearest
