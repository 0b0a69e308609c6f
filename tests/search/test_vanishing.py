"""What is gone with a block, against the plans of the whole graph with it and without."""

import pytest
import zoo

from chipfit.ir.apply import drop
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import kernels, planned
from chipfit.ir.shapes import blocks_of, replacements
from chipfit.passes.quantize import Quantize
from chipfit.search.forms import Forms
from chipfit.search.vanishing import vanishing
from chipfit.targets.cost import core


@pytest.mark.parametrize("rounded", [frozenset(), None], ids=["float32", "int8"])
@pytest.mark.parametrize("name", ["llama", "bert", "efficientnet", "resnext", "packed-split"])
def test_the_plan_near_a_block_tells_what_the_whole_plan_does(name, rounded):
    graph = Forms(zoo.imported(name), rounding=Quantize(activations=True)).whole(rounded)
    before = set(map(core, planned(graph)))
    for block in blocks_of(graph):
        left = drop(graph, replacements(graph, Configuration({}, frozenset({block}))))
        gone = before - set(map(core, kernels(left.forward)))
        assert vanishing(graph, block) == gone | (graph.parameters.keys() - left.parameters.keys())


def test_a_dropped_block_takes_its_kernels_and_parameters():
    graph = zoo.imported("llama")
    gone = vanishing(graph, "network.model.layers.1.mlp")
    assert "network.model.layers.1.mlp.up_proj.weight" in gone
    assert not any("layers.0" in entry or "layers.2" in entry for entry in gone)
