from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_nets import convolutional, sequential
from torch import Tensor, nn
from zoo import ZOO, Sample, at_batch, outputs_of

from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, can_rebatch, mask, rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import run
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import what_if
from chipfit.ir.verify import verify
from chipfit.ir.work import work

Inputs = tuple[Tensor, ...]
few = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def sample(name: str) -> tuple[Graph, Inputs, Sample]:
    """A model of the zoo in double precision: its graph, and inputs at the batch of the trace."""
    model, inputs = ZOO[name]()
    inputs = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    graph = import_model(model.double(), inputs)
    given_inputs = tuple(t.double() if t.is_floating_point() else t for t in at_batch(inputs, graph.batch))
    return graph, given_inputs, (model, inputs)


def random_widths(graph: Graph, seed: int, inexact: frozenset[str] = frozenset()) -> Configuration:
    """Some axes at random widths of at least 2: exact ones, and those inexact for no other reason than `inexact`."""
    chance = random.Random(seed)
    widths: dict[str, tuple[int, ...]] = {}
    for name, axis in analyse(graph).axes.items():
        if axis.state != "frozen" and set(axis.reasons) <= inexact and chance.random() < 0.8:
            widths[name] = tuple(sorted(chance.sample(range(axis.size), chance.randint(2, axis.size))))
    return Configuration(widths)


def largest_difference(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Relative to the largest entry."""
    pairs = [(some[name].double(), others[name].double()) for name in others]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in pairs)


def shapes_of(graph: Graph) -> dict[str, tuple[int, ...]]:
    entry = graph.forward
    values = [*entry.inputs, *(value for node in entry.nodes for value in node.outputs)]
    return {v.name: v.shape for v in [*values, *(parameter.value for parameter in graph.parameters.values())]}


def check(graph: Graph, configuration: Configuration, inputs: Inputs, tolerance: float = 1e-5) -> Graph:
    """Pruning equals masking, every shape is the one foretold, and the result is a graph like any other."""
    pruned, masked, shapes = apply(graph, configuration), mask(graph, configuration), what_if(graph, configuration)
    verify(pruned)
    verify(masked)
    assert largest_difference(run(pruned, *inputs), run(masked, *inputs)) < tolerance
    left = shapes_of(pruned)
    assert {name: left[name] for name in shapes} == dict(shapes)
    assert shapes.alive == {node.name for node in pruned.forward.nodes} & {n.name for n in graph.forward.nodes}
    assert set(left) - set(shapes) == {name for name in left if name.endswith("_of_kept")}
    return pruned


def check_axes(graph: Graph, pruned: Graph, configuration: Configuration) -> None:
    """The pruned graph has the same axes at their new sizes."""
    before, after = analyse(graph).axes, analyse(pruned).axes
    assert {name: axis.members for name, axis in before.items()} == {name: a.members for name, a in after.items()}
    for name, axis in after.items():
        assert axis.size == len(configuration.widths.get(name, range(before[name].size)))
        assert (axis.kind, axis.state) == (before[name].kind, before[name].state)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("seed", [1, 2])
def test_pruning_a_model_equals_masking_it(name: str, seed: int) -> None:
    graph, inputs, _ = sample(name)
    configuration = random_widths(graph, seed, frozenset({"normalised"}))
    pruned = check(graph, configuration, inputs)
    check_axes(graph, pruned, configuration)
    if configuration.widths:
        assert pruned.parameter_count < graph.parameter_count or name == "lstm"


@pytest.mark.parametrize("name", ["llama", "llama-eager", "bert", "gpt2", "mobilenet", "efficientnet"])
def test_a_pruned_model_has_the_kernels_that_were_foretold(name: str) -> None:
    graph, _, _ = sample(name)
    configuration = random_widths(graph, 1, frozenset({"normalised"}))
    pruned = apply(graph, configuration)
    foretold, shapes = what_if(graph, configuration), what_if(pruned, Configuration())
    before = [(kernel.kind, kernel.name, work(kernel, foretold)) for kernel in kernels(graph.forward)]
    assert [(kernel.kind, kernel.name, work(kernel, shapes)) for kernel in kernels(pruned.forward)] == before


@pytest.mark.parametrize("name", ["llama", "gpt2", "resnet", "densenet", "packed-select"])
def test_masking_changes_the_outputs(name: str) -> None:
    graph, inputs, _ = sample(name)
    masked = mask(graph, random_widths(graph, 1, frozenset({"normalised"})))
    assert largest_difference(run(masked, *inputs), run(graph, *inputs)) > 1e-3


@few
@given(convolutional(), st.integers(0, 99))
def test_pruning_a_random_convolutional_net_equals_masking_it(model: nn.Module, seed: int) -> None:
    check_random(model, torch.randn(2, 3, 6, 6, dtype=torch.double), seed)


@few
@given(sequential(), st.integers(0, 99))
def test_pruning_a_random_sequence_net_equals_masking_it(model: nn.Module, seed: int) -> None:
    check_random(model, torch.randn(2, 4, 5, dtype=torch.double), seed)


def check_random(model: nn.Module, inputs: Tensor, seed: int) -> None:
    graph = import_model(model, (inputs,))
    pruned = check(graph, random_widths(graph, seed), (inputs,), 1e-9)
    if graph.batch:
        assert can_rebatch(graph)
        single = rebatch(pruned, 1)
        verify(single)
        expected = {name: tensor[:1] for name, tensor in run(pruned, inputs).items()}
        assert largest_difference(run(single, inputs[:1]), expected) < 1e-9


@pytest.mark.parametrize("name", ZOO)
def test_dropping_a_block_equals_silencing_its_branch(name: str) -> None:
    graph, inputs, _ = sample(name)
    for block in list(find_blocks(graph))[:5]:
        dropped = check(graph, Configuration(dropped=frozenset({block})), inputs)
        assert dropped.parameter_count < graph.parameter_count


def test_widths_and_depth_together() -> None:
    graph, inputs, _ = sample("llama")
    blocks = find_blocks(graph)
    layer = next(name for name, block in blocks.items() if block.kind == "layer")
    inner = next(name for name, block in blocks.items() if block.exit == blocks[layer].exit and name != layer)
    other = [name for name, block in blocks.items() if block.kind == "mlp"][-1]
    widths = random_widths(graph, 3).widths
    check(graph, Configuration(widths, frozenset({layer, inner, other})), inputs)


@pytest.mark.parametrize("name", ZOO)
def test_a_graph_at_batch_one_is_the_model(name: str) -> None:
    graph, _, (model, inputs) = sample(name)
    assert graph.batch == 2
    single = rebatch(graph, 1)
    verify(single)
    assert single.batch is None
    with torch.no_grad():
        expected = outputs_of(model(*inputs))
    got = run(single, *inputs)
    assert largest_difference(got, dict(zip(got, expected, strict=True))) < 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_shapes_at_another_batch_are_those_of_the_graph_at_it(name: str) -> None:
    graph, _, _ = sample(name)
    configuration = random_widths(graph, 5)
    larger = rebatch(apply(graph, configuration), 5)
    verify(larger)
    shapes, left = what_if(graph, configuration, batch=5), shapes_of(larger)
    assert {name: left[name] for name in shapes} == dict(shapes)
    assert larger.batch == 5


def test_applying_twice_is_applying_once() -> None:
    graph, inputs, _ = sample("llama")
    axis = next(axis for axis in analyse(graph).axes.values() if axis.kind == "hidden")
    half, rest = tuple(range(0, axis.size, 2)), tuple(range(0, axis.size, 4))
    twice = apply(apply(graph, Configuration({axis.name: half})), Configuration({axis.name: tuple(range(0, 16, 2))}))
    verify(twice)
    once = run(apply(graph, Configuration({axis.name: rest})), *inputs)
    assert largest_difference(run(twice, *inputs), once) < 1e-5


def test_shapes_are_known_without_weights() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = import_model(model, (torch.zeros(2, 4, device="meta"),))
    configuration = Configuration({"0.weight:0": (1, 3)})
    assert what_if(graph, configuration)["0.weight"] == (2, 4)
    assert apply(graph, configuration).state["2.weight"].shape == (3, 2)


def test_what_cannot_be_done_is_said() -> None:
    graph, _, _ = sample("resnet")
    with pytest.raises(ValueError, match="no axis nonsense"):
        apply(graph, Configuration({"nonsense": (0,)}))
    with pytest.raises(ValueError, match=r"axis 7\.weight:0 can't be pruned: graph output"):
        what_if(graph, Configuration({"7.weight:0": (0,)}))
    with pytest.raises(ValueError, match="has indices 0 to 7, not 0 to 8"):
        mask(graph, Configuration({"0.0.weight:0": (0, 8)}))
    with pytest.raises(ValueError, match="no block nonsense"):
        apply(graph, Configuration(dropped=frozenset({"nonsense"})))


class Pairs(nn.Module):
    """Reads its two examples by number."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:1] * 2 + x[1:]


def test_a_batch_that_is_baked_in_stays() -> None:
    graph = import_model(Pairs(), (torch.randn(2, 3),))
    assert not can_rebatch(graph)
    with pytest.raises(ValueError, match="no batch dimension that could be 1"):
        rebatch(graph, 1)
