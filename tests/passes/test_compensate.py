"""Repair lowers the distance to the teacher, exactly as the least-squares formula says, and touches nothing else."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, at_batch, image, outputs_of

from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import Block, smallest_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.passes import compensate
from chipfit.passes.base import Context, Inputs, PassResult, PreconditionError
from chipfit.passes.compensate import Compensate, enough
from chipfit.passes.importance import best, rank, readers
from chipfit.passes.layers import layers
from chipfit.passes.pipeline import Pipeline, parse
from chipfit.passes.repair import masked_repair
from chipfit.passes.statistics import Statistics, held_bytes, trace
from chipfit.passes.streams import behind, streams

EXAMPLES = 40


@cache
def imported(name: str) -> tuple[Graph, list[Inputs]]:
    """The graph and different random examples of batch 1."""
    model, inputs = ZOO[name]()
    generator = torch.Generator().manual_seed(3)
    joined = [
        part if part.is_floating_point() else torch.randint(0, 64, part.shape, generator=generator)
        for part in at_batch(inputs, EXAMPLES)
    ]
    if name == "bert":
        joined[1] = torch.ones_like(joined[1])
    return import_model(model, inputs), list(zip(*(part.split(1) for part in joined), strict=True))


def narrowed(graph: Graph, calibration: list[Inputs], share: float, kinds: set[str]) -> Configuration:
    statistics = Statistics(graph, calibration)
    axes = [a for a in analyse(graph).axes.values() if a.state == "exact" and a.kind in kinds and a.size > 2]
    return Configuration({a.name: best(rank(statistics, a), max(1, round(a.size * share))) for a in axes})


@torch.no_grad()
def distance(graph: Graph, teacher: Graph, inputs: Inputs) -> float:
    """Squared distance of the outputs at the whole batch, relative to that of the teacher's."""
    size = len(inputs[0])
    ours, theirs = (outputs_of(emit(rebatch(each, size))(*inputs))[0] for each in (graph, teacher))
    return float((ours - theirs).square().sum() / theirs.square().sum())


def joined(calibration: list[Inputs]) -> Inputs:
    return tuple(torch.cat(parts) for parts in zip(*calibration, strict=True))


def compensated(
    spec: str, name: str, kinds: set[str], share: float = 0.6
) -> tuple[Graph, PassResult, PassResult, Inputs]:
    graph, calibration = imported(name)
    context = Context(graph, narrowed(graph, calibration[:30], 0.6, kinds), calibration[:30])
    before = parse(spec).run(graph, context)
    after = Pipeline((Compensate(),)).run(before.graph, context)
    return graph, before, after, joined(calibration[30:])


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama", {"ffn"}),
        ("llama", {"head-dim"}),
        ("bert", {"ffn", "heads"}),
        ("gpt2", {"ffn", "hidden"}),
        ("packed-split", {"ffn"}),
        ("resnet", {"channels"}),
        ("mobilenet", {"channels"}),
        ("resnext", {"channels"}),
        ("densenet", {"channels"}),
    ],
)
def test_unseen_examples_come_closer_to_the_teacher(name: str, kinds: set[str]) -> None:
    graph, before, after, unseen = compensated("prune-axes", name, kinds)
    assert after.modified
    assert after.graph.forward == before.graph.forward
    assert distance(after.graph, graph, unseen) < 0.9 * distance(before.graph, graph, unseen)


def test_folded_graphs_are_repaired_too() -> None:
    graph, before, after, unseen = compensated("fold-batch-norm,prune-axes", "resnet", {"channels"})
    assert not any(node.kind == "batch_norm" for node in after.graph.forward.nodes)
    assert distance(after.graph, graph, unseen) < 0.9 * distance(before.graph, graph, unseen)


def test_dropped_blocks_recalibrate_batch_norms_and_refit_the_next_blocks() -> None:
    graph, calibration = imported("resnet")
    blocks = smallest_blocks(graph)
    first, *_ = blocks
    context = Context(graph, Configuration(dropped=frozenset({first})), calibration[:30])
    before = parse("drop-blocks").run(graph, context).graph
    after = parse("drop-blocks,compensate").run(graph, context).graph
    changed = {name for name in after.state if after.state[name] is not before.state[name]}
    ends = [way for way in streams(after.forward, behind(blocks, {first})) if way in layers(after)]
    weights = {layers(after)[name].weight for name in ends}
    assert any("running_" in name for name in changed)
    assert {name for name in changed if "running_" not in name} == weights
    unseen = joined(calibration[30:])
    assert distance(after, graph, unseen) < distance(before, graph, unseen)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_the_next_blocks_make_up_for_a_dropped_one(name: str) -> None:
    graph, calibration = imported(name)
    first, *_ = smallest_blocks(graph)
    context = Context(graph, Configuration(dropped=frozenset({first})), calibration[:30])
    before, after = (parse(spec).run(graph, context).graph for spec in ("drop-blocks", "drop-blocks,compensate"))
    unseen = joined(calibration[30:])
    assert distance(after, graph, unseen) < 0.95 * distance(before, graph, unseen)


class Sums(nn.Module):
    """Residual blocks that are linear, so that one can do the work of two."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.usefixtures("single_precision")
def test_a_linear_block_is_made_up_for_exactly() -> None:
    torch.manual_seed(0)
    graph = import_model(Sums(), (torch.randn(2, 6),))
    calibration = [(row,) for row in torch.randn(60, 6).split(1)]
    context = Context(graph, Configuration(dropped=frozenset({"blocks.1"})), calibration)
    after = parse("drop-blocks,compensate{damping=1e-9,samples=60}").run(graph, context).graph
    assert "blocks.1.weight" not in after.state
    assert distance(after, graph, joined(calibration)) < 1e-8


def test_two_blocks_behind_each_dropped_one_are_near() -> None:
    blocks = {name: Block(name, "mlp", "", "", frozenset(), 0) for name in "abcdefg"}
    assert [block.name for block in behind(blocks, {"b", "c"})] == ["d", "e"]
    assert [block.name for block in behind(blocks, {"a", "c", "g"})] == ["b", "d", "e"]
    assert behind(blocks, set()) == []


@pytest.mark.usefixtures("single_precision")
def test_redundant_channels_are_repaired_exactly() -> None:
    """Every hidden unit twice: with one of each pair gone the other can do the work of both."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[4:], model[0].bias[4:] = model[0].weight[:4].clone(), model[0].bias[:4].clone()
    graph = import_model(model, (torch.randn(2, 6),))
    calibration = [(row,) for row in torch.randn(60, 6).split(1)]
    context = Context(graph, Configuration({"0.weight:0": (0, 1, 2, 3)}), calibration)
    result = parse("prune-axes,compensate{damping=1e-9,samples=60}").run(graph, context)
    expected = model[2].weight[:, :4] + model[2].weight[:, 4:]
    torch.testing.assert_close(result.graph.state["2.weight"], expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.graph.state["2.bias"], model[2].bias.detach(), rtol=1e-4, atol=1e-5)


def test_useless_repairs_are_left_out() -> None:
    """Targets on the judging examples contradict the fitted ones, so nothing may change."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[0].bias.zero_()
    graph = import_model(model, (torch.randn(2, 4),))
    fit, judge = torch.tensor([[1.0, 0, 0, 1]]), torch.tensor([[1.0, 0, 0, -1]])  # the fourth unit is off in the last
    calibration = [(fit,)] * 8 + [(judge,)] * 2
    context = Context(graph, Configuration({"0.weight:0": (0, 1, 2)}), calibration)
    result = parse("prune-axes,compensate").run(graph, context)
    torch.testing.assert_close(result.graph.state["2.weight"], model[2].weight[:, :3].detach(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "lstm", "two-inputs"])
def test_unpruned_graph_is_not_modified(name: str) -> None:
    graph, calibration = imported(name)
    result = parse("compensate").run(graph, Context(graph, calibration=calibration))
    assert not result.modified
    assert all(result.graph.state[key] is tensor for key, tensor in graph.state.items())


def test_repair_needs_data() -> None:
    graph, _ = imported("two-inputs")
    with pytest.raises(PreconditionError) as error:
        parse("compensate").run(graph, Context(graph))
    assert str(error.value) == (
        "Pass compensate can't run (run before it: no other pass): "
        "it needs calibration data; give some inputs with --data."
    )


def test_repair_needs_the_graph_that_the_configuration_says() -> None:
    graph, calibration = imported("llama")
    ffn, hidden = "network.model.layers.0.mlp.gate_proj.weight:0", "network.model.embed_tokens.weight:1"
    pruned = parse("prune-axes").run(graph, Context(graph, Configuration({ffn: (0, 1, 2)}))).graph
    wanted = Configuration({ffn: (0, 1, 2), hidden: (0, 1)})
    with pytest.raises(PreconditionError) as error:
        parse("compensate").run(pruned, Context(graph, wanted, calibration))
    (node,) = (n for n in pruned.forward.nodes if n.inputs[-1].name == "network.model.layers.0.mlp.down_proj.weight")
    assert str(error.value) == (
        "Pass compensate can't run (run before it: no other pass): "
        f"{node.name} has 32 channels where the configuration says 2; run prune-axes before it."
    )


@pytest.mark.parametrize("name", ["llama", "resnet", "mobilenet", "resnext", "packed-split"])
def test_masked_repair_is_the_repair_of_one_axis(name: str) -> None:
    """From the Gram matrices of the full graph the same weights as from the pruned graph's own activations."""
    graph, calibration = imported(name)
    statistics = Statistics(graph, calibration, parts=5)
    axis = next(a for a in analyse(graph).axes.values() if a.state == "exact" and readers(statistics, a) and a.size > 4)
    kept = best(rank(statistics, axis), axis.size - 2)
    grams = statistics.grams(layer.node.name for layer in readers(statistics, axis))
    for layer in readers(statistics, axis):
        found = masked_repair(statistics, layer, grams, axis, kept, 0.01)
        weight = found[layer.weight]
        assert weight.shape == graph.state[layer.weight].shape
        rows = torch.cat([r for layer_, r in statistics.input_rows([layer.node.name])], 1).double()
        gone = torch.from_numpy(np.flatnonzero(layer.matrix(weight).abs().sum((0, 1)).numpy() == 0))
        left = rows.clone()
        left[..., gone] = 0
        before = layer.matrix(graph.state[layer.weight]).double()
        bias = found[layer.bias] - graph.state[layer.bias] if layer.bias else torch.zeros(1)
        repaired = left @ layer.matrix(weight).double().mT + bias.double().reshape(len(before), 1, -1)
        wanted, cut = rows @ before.mT, left @ before.mT
        assert (repaired - wanted).square().sum() < (cut - wanted).square().sum()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 4, 3, stride=2, padding=1), (2, 6, 9, 8)),
        (nn.Conv2d(6, 4, (3, 2), padding="same", dilation=2), (2, 6, 9, 8)),
        (nn.Conv2d(6, 4, 3, padding="valid", groups=2), (2, 6, 9, 8)),
        (nn.Conv1d(6, 4, 5, stride=3, padding=2, groups=2), (2, 6, 17)),
        (nn.Linear(6, 4), (2, 5, 6)),
    ],
)
def test_rows_times_matrix_is_the_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    tensor = image(shape)
    graph = import_model(nn.Sequential(layer), (tensor,))
    (found,) = layers(graph).values()
    weight = graph.state[found.weight]
    product = found.rows(tensor) @ found.matrix(weight).mT
    bias: Tensor = graph.state["0.bias"]
    expected = found.output_rows(layer(tensor)) - bias.reshape(found.groups, 1, -1)
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.weight_of(found.matrix(weight), weight), weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet", "llama", "bert"])
def test_an_example_is_known_to_take_what_a_run_holds_of_it(name: str) -> None:
    graph, calibration = imported(name)
    held = max(
        sum(
            t.numel() * (4 if t.is_floating_point() else t.itemsize)
            for key, t in alive.items()
            if key not in graph.state
        )
        for _, alive in trace(rebatch(graph, 2), joined(calibration[:2]))
    )
    assert held_bytes(graph) == held // 2


def test_as_many_examples_are_fitted_on_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = imported("resnet")
    of_128 = 2 * 128 * held_bytes(graph)
    for bytes_allowed, wanted in ((0, 128), (2 * of_128 - 1, 128), (2 * of_128, 256), (100 * of_128, 512)):
        monkeypatch.setattr(compensate, "HELD", bytes_allowed)
        assert enough(graph) == wanted
