"""Quantised weights: int8 beside a scale for each row, rounded to the nearest step, shared tables included."""

import json

import pytest
import torch
from torch import nn

from chipfit.codegen import compile_graph
from chipfit.codegen.check import TOLERANCE
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.text import from_text, to_text
from chipfit.ir.verify import verify
from chipfit.passes.base import Context
from chipfit.passes.quantize import Quantize
from chipfit.targets.registry import get_target

HOST = get_target("host")


class Tied(nn.Module):
    """A language model in small: a table that is looked up in and multiplied by, and a layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 24)
        self.middle = nn.Linear(24, 40)
        self.back = nn.Linear(40, 24, bias=False)

    def forward(self, ids):
        x = self.table(ids)
        x = x + self.back(torch.relu(self.middle(x)))
        return nn.functional.linear(x, self.table.weight)


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return import_model(Tied().eval(), (IDS,))


IDS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def quantized(graph):
    result = Quantize().run(graph, Context(teacher=graph))
    assert result.modified
    verify(result.graph)
    return result.graph


def test_weights_are_a_quarter_and_rounded_to_the_nearest_step(graph):
    small = quantized(graph)
    for name in ("table.weight", "middle.weight", "back.weight"):
        stored, scale, weight = small.state[name], small.state[f"{name}_scale"], graph.state[name]
        assert stored.dtype == torch.int8
        assert ((stored * scale - weight).abs() <= scale / 2 + 1e-7).all()
        assert (stored.abs().amax(1) == 127).all()
    assert small.state["middle.bias"].dtype == torch.float32


def test_outputs_are_those_of_the_rounded_weights(graph):
    small = quantized(graph)
    rounded = {n: small.state[n] * small.state[f"{n}_scale"] for n in graph.state if f"{n}_scale" in small.state}
    expected = emit(graph.with_state(rounded))(IDS)
    torch.testing.assert_close(emit(small)(IDS), expected, rtol=1e-5, atol=1e-6)
    whole = emit(graph)(IDS)
    assert 0 < (expected - whole).norm() < 0.02 * whole.norm()


def test_text_and_pruning_take_it_as_any_graph(graph):
    small = quantized(graph)
    assert to_text(from_text(to_text(small))) == to_text(small)
    assert "middle.weight:0" in analyse(small).axes
    narrow = apply(small, Configuration({"middle.weight:0": tuple(range(16))}))
    assert narrow.state["middle.weight"].shape == (16, 24)
    assert narrow.state["middle.weight_scale"].shape == (16, 1)
    emit(narrow)(IDS)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_library_reads_int8(graph, tmp_path, rows):
    small = quantized(import_model(Tied().eval(), (IDS[:, :rows],)))
    library = compile_graph(small, HOST, tmp_path / "library", (IDS[:, :rows],))
    (found,) = library(IDS[:, :rows].numpy())
    expected = emit(small)(IDS[:, :rows]).detach()
    assert (torch.from_numpy(found) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    record = json.loads((tmp_path / "library/library.json").read_text())
    assert sum("stored='int8'" in kernel.get("spec", "") for kernel in record["kernels"]) == 3
    assert {entry["dtype"] for entry in record["weights"] if entry["source"].endswith(".weight")} == {"int8"}


def test_nothing_to_quantize_changes_nothing():
    graph = import_model(nn.Conv2d(3, 8, 3).eval(), (torch.zeros(1, 3, 8, 8),))
    result = Quantize().run(graph, Context(teacher=graph))
    assert not result.modified
    assert to_text(result.graph) == to_text(graph)
