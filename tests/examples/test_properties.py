"""The properties that always hold, on the real models with random configurations. Libraries are in test_compile."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from chipfit.examples import efficientnet_lite0, minilm, mobilenetv2, resnet20, smollm2
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, mask
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.ir.verify import verify
from chipfit.passes.fold_batch_norm import folded
from chipfit.search.sensitivity import candidates
from chipfit.targets.registry import get_target

MODELS = {
    "resnet20": resnet20.model,
    "mobilenetv2": mobilenetv2.model,
    "efficientnet_lite0": efficientnet_lite0.model,
    "minilm": minilm.model,
    "smollm2": smollm2.model,
}


@cache
def example(name: str) -> tuple[Graph, nn.Module, tuple[Tensor, ...]]:
    """The graph, the model and inputs that differ from each other, at the batch of the example."""
    torch.manual_seed(0)
    module, inputs = MODELS[name]()
    given = tuple(torch.randn_like(x) if x.is_floating_point() else _tokens(x) for x in inputs)
    return import_model(module, inputs), module, given


def _tokens(example: Tensor) -> Tensor:
    """Ids where the example holds ids; a mask of ones stays one."""
    return torch.ones_like(example) if bool((example == 1).all()) else torch.randint(1000, 5000, example.shape)


def random_configuration(graph: Graph, seed: int) -> Configuration:
    """About half of the axes that a search would cut, at random widths, and now and then a block dropped."""
    chance = random.Random(seed)
    axes, blocks = candidates(graph)
    chosen = {name: axis for name, axis in axes.items() if axis.kind != "hidden" and chance.random() < 0.5}
    widths = {n: tuple(sorted(chance.sample(range(a.size), chance.randint(1, a.size)))) for n, a in chosen.items()}
    return Configuration(widths, frozenset(block for block in blocks if chance.random() < 0.1))


def outputs(graph: Graph, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        found = emit(graph)(*(torch.cat([x] * (graph.batch or 1)) for x in inputs))
    first: Tensor = found[0] if isinstance(found, tuple) else found
    return first[: len(inputs[0])]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_emitted_it_computes_what_the_model_does_under_its_names(name: str) -> None:
    graph, module, inputs = example(name)
    verify(graph)
    with torch.no_grad():
        expected = module(*inputs)
    assert_close(outputs(graph, inputs), expected[0] if isinstance(expected, tuple) else expected)
    known = dict(module.named_parameters(remove_duplicate=False))
    assert {*dict(emit(graph).named_parameters(remove_duplicate=False))} <= {*known}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [1, 2])
def test_pruning_equals_masking_and_what_if_is_fact(name: str, seed: int) -> None:
    graph, _, inputs = example(name)
    configuration = random_configuration(graph, seed)
    assert configuration.widths
    pruned = apply(graph, configuration)
    verify(pruned)
    assert_close(outputs(pruned, inputs), outputs(mask(graph, configuration), inputs))
    model, ready = get_target("cortex-a76").cost_model, folded(graph)
    assert model.cost(ready, configuration) == model.cost(apply(ready, configuration))


@pytest.mark.parametrize("name", MODELS)
def test_there_is_something_to_cut_and_to_drop(name: str) -> None:
    graph, _, _ = example(name)
    assert any(axis.state == "exact" for axis in analyse(graph).axes.values())
    assert find_blocks(graph)
