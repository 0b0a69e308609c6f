"""Quantised weights: int8 beside a scale for each row, rounded to the nearest step, shared tables included; and rows of
what layers read in int8 too."""

import json
from dataclasses import replace

import pytest
import torch
import zoo
from torch import nn

from chipfit.codegen import compile_graph
from chipfit.codegen.check import TOLERANCE, TOLERANCE_NARROW, WrongResult, check, tolerance
from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit, run
from chipfit.ir.fusion import kernels
from chipfit.ir.text import canonical_text, from_text, to_text
from chipfit.ir.verify import verify
from chipfit.passes.base import Context, PassResult
from chipfit.passes.quantize import Quantize
from chipfit.targets.registry import get_target
from chipfit.targets.tiles import int8_unit

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


class Shared(nn.Module):
    """Two layers that read one value, and one that reads what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 70), nn.Linear(40, 70, bias=False)
        self.last = nn.Linear(70, 40)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)) * self.second(x))


def eight_bits(rows):
    """A graph that multiplies int8 by int8, the module's own and an example."""
    torch.manual_seed(0)
    x = torch.randn(1, rows, 40)
    graph = import_model(Shared().eval(), (x,))
    result = Quantize(activations=True).run(graph, Context(teacher=graph))
    verify(result.graph)
    return rebatch(result.graph, 1), rebatch(graph, 1), x


def test_layers_read_rows_rounded_once():
    small, graph, x = eight_bits(9)
    assert sum(node.kind == "round" for node in small.forward.nodes) == 2
    assert [kernel.rounded for kernel in kernels(small.forward)] == [False, True, True, False, True]
    top = x.abs().amax(-1, keepdim=True)
    hidden = emit(small)(x) - emit(graph)(x)
    assert 0 < hidden.abs().max() < 0.02 * emit(graph)(x).abs().max()
    given = run(small, x, keep=["x.rounded"])["x.rounded"]
    assert ((given - x).abs() <= top / 127 / 2 * 1.001).all()


def test_what_is_emitted_is_imported_as_it_was():
    torch.manual_seed(0)
    graph = import_model(Shared().eval(), (torch.randn(1, 9, 40),))
    small = Quantize(activations=True).run(graph, Context(teacher=graph)).graph
    assert to_text(from_text(to_text(small))) == to_text(small)
    again = import_model(emit(small), (torch.randn(1, 9, 40),))
    assert canonical_text(again) == canonical_text(small)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("able", [True, False])
def test_the_library_multiplies_int8(tmp_path, rows, able):
    small, _, x = eight_bits(rows)
    figures = {name: figure for name, figure in HOST.profile.figures.items() if able or "int8" not in name}
    target = replace(HOST, profile=replace(HOST.profile, figures=figures))
    library = compile_graph(small, target, tmp_path / "library", (x,))
    (found,) = library(x.numpy())
    expected = emit(small)(x).detach()
    assert (torch.from_numpy(found) - expected).abs().max() <= TOLERANCE_NARROW * expected.abs().max()
    record = json.loads((tmp_path / "library/library.json").read_text())
    products = [kernel for kernel in record["kernels"] if "rounded=True" in kernel.get("spec", "")]
    assert len(products) == 3
    assert {kernel["tile"]["unit"] for kernel in products} == {int8_unit(target.cpu, rows)}
    assert not any("stock" in kernel for kernel in record["kernels"])


def test_the_check_allows_what_last_bits_do_and_no_more():
    small, _, x = eight_bits(9)
    expected = run(small, x)
    right = [expected[value.name].numpy() for value in small.forward.outputs]
    assert TOLERANCE_NARROW <= tolerance(small, (x,), expected) < 0.1
    check(lambda _: [array * (1 + TOLERANCE_NARROW / 2) for array in right], small, (x,))
    with pytest.raises(WrongResult):
        check(lambda _: [array * 1.2 for array in right], small, (x,))


def test_a_rounded_value_that_others_read_is_a_value_like_any():
    small, _, _ = eight_bits(9)
    point = small.forward
    rows = next(node for node in point.nodes if node.name == "x.rounded").outputs[0]
    both = replace(point, outputs=(*point.outputs, rows))
    assert [kernel.rounded for kernel in kernels(point)].count(True) == 3
    assert [kernel.rounded for kernel in kernels(both)].count(True) == 1


def test_rounding_what_layers_read_needs_eight_bits():
    with pytest.raises(UserError, match="use it with bits=8"):
        Quantize(bits=4, activations=True)


def test_layers_that_read_one_value_are_rounded_together(graph):
    quantize = Quantize(activations=True)
    groups = quantize.groups(graph)
    assert sorted(map(sorted, groups)) == [["back.weight"], ["middle.weight"], ["table.weight"]]
    assert sorted(map(sorted, Quantize().groups(graph))) == [["back.weight"], ["middle.weight"], ["table.weight"]]
    attention = zoo.imported("bert")
    joint = [group for group in quantize.groups(attention) if len(group) > 1]
    assert joint
    assert all(len({name.rsplit(".", 2)[0] for name in group}) == 1 for group in joint)


def test_only_the_chosen_weights_are_rounded(graph):
    chosen = Configuration(rounded=frozenset({"middle.weight"}))
    found = Quantize(activations=True).run(graph, Context(teacher=graph, configuration=chosen))
    assert found.modified
    verify(found.graph)
    kept = {name for name, tensor in found.graph.state.items() if tensor.dtype == torch.int8}
    assert kept == {"middle.weight"}
    none = Context(teacher=graph, configuration=Configuration(rounded=frozenset()))
    assert Quantize(activations=True).run(graph, none) == PassResult(graph, False)
