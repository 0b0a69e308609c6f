"""prune-axes and drop-blocks do what the configuration says, or what their options say."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from zoo import ZOO, at_batch, outputs_of

from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, mask
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.passes.base import Context, Inputs, PreconditionError
from chipfit.passes.drop_blocks import DropBlocks
from chipfit.passes.pipeline import Pipeline, parse
from chipfit.passes.prune_axes import PruneAxes


@cache
def imported(name: str) -> tuple[Graph, Inputs]:
    model, inputs = ZOO[name]()
    graph = import_model(model, inputs)
    return graph, at_batch(inputs, graph.batch)


def halves(graph: Graph) -> Configuration:
    """Every other index of every axis that may be cut."""
    axes = [axis for axis in analyse(graph).axes.values() if axis.state == "exact"]
    return Configuration({axis.name: tuple(range(0, axis.size, 2)) for axis in axes})


def assert_same(ours: Graph, reference: Graph, inputs: tuple[Tensor, ...]) -> None:
    for new, old in zip(outputs_of(emit(ours)(*inputs)), outputs_of(emit(reference)(*inputs)), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_pruning_equals_masking(name: str) -> None:
    graph, inputs = imported(name)
    wanted = halves(graph)
    result = Pipeline((PruneAxes(),)).run(graph, Context(graph, wanted))
    assert result.modified == bool(wanted.widths)
    assert result.configuration == wanted
    assert result.graph.parameter_count < graph.parameter_count
    assert_same(result.graph, mask(graph, wanted), inputs)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "resnet", "mobilenet"])
def test_dropping_equals_masking_in_either_order(name: str) -> None:
    graph, inputs = imported(name)
    block = next(iter(find_blocks(graph)))
    wanted = Configuration(halves(graph).widths, frozenset({block}))
    for passes in ((PruneAxes(), DropBlocks()), (DropBlocks(), PruneAxes())):
        result = Pipeline(passes).run(graph, Context(graph, wanted))
        assert len(result.graph.forward.nodes) < len(graph.forward.nodes)
        assert_same(result.graph, mask(graph, wanted), inputs)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_blocks_of_a_layer_that_was_cut_alone_are_dropped(name: str) -> None:
    """A layer that isn't like the others any more is no layer, and its blocks go by other names."""
    graph, _ = imported(name)
    widths = halves(graph).widths
    for block in find_blocks(graph):
        cut = {axis: kept for axis, kept in widths.items() if axis.startswith(block.rpartition(".")[0])}
        wanted = Configuration(cut, frozenset({block}))
        result = Pipeline((PruneAxes(), DropBlocks())).run(graph, Context(graph, wanted)).graph
        assert {k: t.shape for k, t in result.state.items()} == {
            k: t.shape for k, t in apply(graph, wanted).state.items()
        }


def test_nothing_to_do_is_not_modified() -> None:
    graph, _ = imported("llama")
    result = parse("prune-axes,drop-blocks").run(graph, Context(graph))
    assert not result.modified
    assert result.graph is graph


@pytest.mark.parametrize("name", ["llama", "resnet"])
@pytest.mark.parametrize("criterion", ["magnitude", "activation"])
def test_ratio_cuts_every_exact_axis(name: str, criterion: str) -> None:
    graph, inputs = imported(name)
    context = Context(graph, calibration=[inputs])
    result = parse(f"prune-axes{{ratio=0.5,criterion={criterion}}}").run(graph, context)
    axes = analyse(graph).axes
    assert result.configuration is not None
    assert {n: len(kept) for n, kept in result.configuration.widths.items()} == {
        name: max(1, round(axis.size / 2)) for name, axis in axes.items() if axis.state == "exact"
    }
    assert_same(result.graph, mask(graph, result.configuration), inputs)


def test_last_layers_are_dropped() -> None:
    graph, inputs = imported("llama")
    layers = [name for name, block in find_blocks(graph).items() if block.kind == "layer"]
    assert len(layers) == 3
    result = parse("drop-blocks{last=2}").run(graph, Context(graph))
    assert result.configuration == Configuration(dropped=frozenset(layers[1:]))
    assert not any("layers.1." in name or "layers.2." in name for name in result.graph.parameters)
    assert_same(result.graph, mask(graph, result.configuration), inputs)


AXIS = "network.model.layers.0.mlp.gate_proj.weight:0"


@pytest.mark.parametrize(
    ("spec", "configuration", "message"),
    [
        ("prune-axes", Configuration({"x:0": (0,)}),
         "Pass prune-axes can't run (run before it: no other pass): "
         "the model has no axis x:0; its axes are listed by chipfit explain."),
        ("prune-axes,prune-axes", Configuration({AXIS: tuple(range(24, 48))}),
         "Pass prune-axes can't run (run before it: prune-axes): "
         f"axis {AXIS} is not as wide as in the teacher; prune each axis once."),
        ("drop-blocks", Configuration(dropped=frozenset({"x"})),
         "Pass drop-blocks can't run (run before it: no other pass): "
         "the model has no block x; its blocks are listed by chipfit explain."),
        ("drop-blocks{last=4}", Configuration(),
         "Pass drop-blocks can't run (run before it: no other pass): "
         "it is to drop 4 layers, but there are 3; drop fewer."),
        ("prune-axes{ratio=0.5}", Configuration(),
         "Pass prune-axes can't run (run before it: no other pass): "
         "it needs calibration data; give some inputs with --data."),
    ],
)  # fmt: skip
def test_impossible_wishes_are_explained(spec: str, configuration: Configuration, message: str) -> None:
    graph, _ = imported("llama")
    with pytest.raises(PreconditionError) as error:
        parse(spec).run(graph, Context(graph, configuration))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prune-axes{ratio=1}", "prune-axes can't remove 1.0 of an axis; give a ratio of at least 0 and below 1."),
        ("prune-axes{ratio=nan}", "prune-axes can't remove nan of an axis; give a ratio of at least 0 and below 1."),
        ("drop-blocks{last=-1}", "drop-blocks can't drop -1 layers; give a number of at least 0."),
        ("compensate{samples=-1}",
         "compensate needs samples and a finite damping of at least 0; change them."),
    ],
)  # fmt: skip
def test_impossible_options_are_refused_when_read(spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(spec)
    assert str(error.value) == message
