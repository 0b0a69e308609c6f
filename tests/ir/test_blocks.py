import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

from chipfit.examples import resnet20
from chipfit.frontend.importer import import_model
from chipfit.ir.blocks import Block, find_blocks, smallest_blocks
from chipfit.ir.emit import run
from chipfit.ir.graph import Graph
from chipfit.ir.layers import longest_run
from chipfit.ir.text import canonical_text, from_text, to_text
from chipfit.passes.layers import layers
from chipfit.passes.quantize import Quantize

EXPECTED = {
    "llama": {"layer": 3, "attention": 3, "mlp": 3},
    "llama-eager": {"layer": 3, "attention": 3, "mlp": 3},
    "bert": {"layer": 3, "attention": 3, "mlp": 3},
    "gpt2": {"layer": 2, "attention": 2, "mlp": 2},
    "packed-split": {"layer": 2, "attention": 2, "mlp": 2},
    "packed-select": {"layer": 2, "attention": 2, "mlp": 2},
    "resnet": {"branch": 2},
    "resnext": {"branch": 1},
    "mobilenet": {"branch": 2},
    "efficientnet": {"branch": 2},
    "densenet": {},
    "shufflenet": {},
    "two-inputs": {},
    "lstm": {},
}


def kinds(graph: Graph) -> dict[str, int]:
    return dict(Counter(block.kind for block in find_blocks(graph).values()))


def test_every_zoo_model_has_an_expectation():
    assert set(EXPECTED) == set(zoo.ZOO)


@pytest.mark.parametrize("name", EXPECTED)
def test_all_blocks_are_found(name):
    assert kinds(zoo.imported(name)) == EXPECTED[name]


def test_resnet20_has_its_seven_identity_branches():
    graph = import_model(*resnet20.model())
    assert list(find_blocks(graph)) == [f"blocks.{i}" for i in (0, 1, 2, 4, 5, 7, 8)]


def test_names_follow_the_modules():
    assert list(find_blocks(zoo.imported("llama")))[2:5] == [
        "network.model.layers.2",
        "network.model.layers.0.self_attn",
        "network.model.layers.0.mlp",
    ]
    assert {"network.encoder.layer.1", "network.encoder.layer.1.attention", "network.encoder.layer.1.mlp"} <= set(
        find_blocks(zoo.imported("bert"))
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_dropping_equals_a_branch_of_zeros(name):
    _, inputs = zoo.ZOO[name]()
    graph = zoo.imported(name)
    inputs = zoo.at_batch(inputs, graph.batch)
    before = run(graph, *inputs)
    for block in find_blocks(graph).values():
        dropped = drop(graph, block, inputs)
        assert not same(dropped, before)
        if block.kind != "layer":
            end = graph.forward.producers[block.exit]
            (branch,) = {value.name for value in end.inputs} - {block.skip}
            zeros = torch.zeros(graph.forward.producers[branch].outputs[0].shape)
            assert same(run(graph, *inputs, given={branch: zeros}), dropped)


def drop(graph: Graph, block: Block, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    skipped = run(graph, *inputs, keep=[block.skip])[block.skip]
    return run(graph, *inputs, given={block.exit: skipped})


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "packed-select"])
def test_a_layer_is_its_attention_and_its_mlp(name):
    graph = zoo.imported(name)
    blocks = list(find_blocks(graph).values())
    layers = [block for block in blocks if block.kind == "layer"]
    branches = [block for block in blocks if block.kind != "layer"]
    for layer, attention, mlp in zip(layers, branches[::2], branches[1::2], strict=True):
        assert (attention.kind, mlp.kind) == ("attention", "mlp")
        assert attention.nodes | mlp.nodes <= layer.nodes
        assert layer.parameters >= attention.parameters + mlp.parameters
    assert [layer.skip for layer in layers[1:]] == [layer.exit for layer in layers[:-1]]


@pytest.mark.parametrize("name", ["llama", "bert", "resnet", "efficientnet"])
def test_nodes_and_parameters_are_what_dies(name):
    graph = zoo.imported(name)
    entry = graph.forward
    for block in find_blocks(graph).values():
        alive = {value.name for value in entry.outputs}
        for node in reversed(entry.nodes):
            if node.name in alive and node.name != block.exit:
                alive |= {block.skip if value.name == block.exit else value.name for value in node.inputs}
        assert block.nodes == {node.name for node in entry.nodes if not alive & {v.name for v in node.outputs}}
        dead = [name for name, held in graph.parameters.items() if held.role == "parameter" and name not in alive]
        assert block.parameters == sum(graph.state[name].numel() for name in dead)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "packed-split", "efficientnet", "resnext"])
def test_branches_keep_their_names_and_kinds_when_some_weights_are_rounded(name):
    """Layers of which other weights are rounded are no repetition any more."""
    graph, rng = zoo.imported(name), random.Random(0)
    branches = {name: block.kind for name, block in smallest_blocks(graph).items()}
    weights = [weight for layer in layers(graph).values() if (weight := layer.weight)]
    for _ in range(3):
        rounded = Quantize(activations=True).rounded(
            graph.weightless, frozenset(rng.sample(weights, len(weights) // 2)), {}
        )
        found = {name: block.kind for name, block in find_blocks(rounded).items() if block.kind != "layer"}
        assert found == branches


def test_blocks_survive_the_text():
    graph = zoo.imported("llama")
    assert find_blocks(from_text(to_text(graph))) == find_blocks(graph)
    assert canonical_text(graph)


class Parallel(nn.Module):
    """Attention and MLP side by side behind one norm, as in GPT-J."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        y = self.norm(x)
        attended = F.scaled_dot_product_attention(y, y, self.mix(y))
        return x + attended + self.down(F.gelu(self.up(y)))


def test_branches_that_share_a_norm_are_dropped_apart():
    graph = import_model(Parallel(), (torch.randn(2, 4, 8),))
    blocks = find_blocks(graph)
    assert {name: block.kind for name, block in blocks.items()} == {"mix": "attention", "add_1": "mlp"}
    assert not any("layer_norm" in block.nodes for block in blocks.values())


class Decoys(nn.Module):
    """Sums that are no residual branches: without parameters, without a skip, or scaled on the skip's side."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = x + 0.04 * x**3
        x = self.a(x) + self.b(x)
        return torch.add(self.a(x), x, alpha=2)


def test_other_sums_are_no_blocks():
    assert kinds(import_model(Decoys(), (torch.randn(2, 4, 8),))) == {}


def test_longest_run():
    assert longest_run("xababab") == (1, 2, 3)
    assert longest_run("aaaa") == (0, 1, 4)
    assert longest_run("abcabcdd") == (0, 3, 2)
    assert longest_run("abc")[2] == 0
    assert longest_run("") == (0, 1, 0)
