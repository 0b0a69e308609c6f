"""Convolutions in int8: batch norms in them, scales by calibration data, one kernel for rounding, sums and scales."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from chipfit.codegen import compile_graph
from chipfit.codegen.check import TOLERANCE_NARROW
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, mask, rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit, run
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph
from chipfit.ir.text import canonical_text, from_text, to_text
from chipfit.ir.verify import verify
from chipfit.passes.base import Context, PreconditionError
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.quantize import Quantize
from chipfit.targets.registry import get_target
from chipfit.targets.tiles import int8_unit

HOST = get_target("host")


class Net(nn.Module):
    """A stem on an image, a residual block behind padding of its own, a depthwise convolution, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 20, 3, 2), nn.Conv2d(20, 24, 3), nn.Conv2d(24, 20, 1)
        self.depthwise, self.last = nn.Conv2d(20, 20, 3, groups=20), nn.Conv2d(20, 36, 3, 2, bias=False)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        inner = self.norm(self.first(nn.functional.pad(x, (1, 1, 1, 1)))).relu()
        x = self.depthwise((x + self.second(inner)).relu())
        return self.head(self.last(x).relu().mean((2, 3)))


def net() -> tuple[Graph, Tensor]:
    torch.manual_seed(0)
    module = Net()
    nn.init.uniform_(module.norm.running_var, 0.5, 2.0)
    x = torch.randn(1, 3, 24, 24)
    return import_model(module.eval(), (x,)), x


def in_int8() -> tuple[Graph, Graph, Tensor]:
    """Its graph in int8, the whole one, and an example."""
    graph, x = net()
    examples = [(torch.cat([x, x / 2]),)]
    result = Quantize(activations=True).run(graph, Context(teacher=graph, calibration=examples))
    assert result.modified
    verify(result.graph)
    return rebatch(result.graph, 1), rebatch(graph, 1), x


def test_numbers_and_scales() -> None:
    small, graph, x = in_int8()
    whole = folded(graph)
    for name in ("first", "second", "last"):
        numbers, scale, steps = (small.state[f"{name}.weight{end}"] for end in ("", "_scale", "_steps"))
        weight = whole.state[f"{name}.weight"].detach()
        assert numbers.dtype == torch.int8
        assert (numbers.abs().flatten(1).amax(1) == 127).all()
        assert ((numbers * (scale * steps).unsqueeze(-1) - weight).abs() <= (scale * steps).unsqueeze(-1) * 0.501).all()
    for name in ("stem", "depthwise"):  # an image of three channels, and a filter for each channel
        assert small.state[f"{name}.weight"].dtype == torch.float32
    assert not any(node.kind == "batch_norm" for node in small.forward.nodes)
    read = run(whole, x, keep=["relu"])["relu"]
    assert small.state["first.weight_steps"].item() == pytest.approx(127 / read.abs().max().item(), rel=0.01)


def test_outputs_are_nearly_those_of_the_whole_numbers_model() -> None:
    small, graph, x = in_int8()
    expected, found = emit(graph)(x), emit(small)(x)
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_rounding_sums_scales_and_what_follows_are_one_kernel() -> None:
    small, _, _ = in_int8()
    plan = kernels(small.forward)
    assert [kernel.kind for kernel in plan if kernel.kind != "reduce"] == [
        "conv",
        "conv",
        "conv",
        "depthwise",
        "conv",
        "matmul",
    ]
    assert [kernel.rounded for kernel in plan if kernel.kind == "conv"] == [False, True, True, True]


def test_what_is_emitted_is_imported_as_it_was() -> None:
    small, _, x = in_int8()
    assert to_text(from_text(to_text(small))) == to_text(small)
    assert canonical_text(rebatch(import_model(emit(small), (x,)), 1)) == canonical_text(small)


def test_pruning_equals_masking() -> None:
    small, _, x = in_int8()
    axis = analyse(small).axes["first.weight:0"]
    assert axis.state == "exact"
    chosen = Configuration({axis.name: tuple(range(0, axis.size, 3))})
    torch.testing.assert_close(emit(apply(small, chosen))(x), emit(mask(small, chosen))(x), rtol=1e-5, atol=1e-5)
    assert apply(small, chosen).state["first.weight_scale"].shape == (8, 1, 1)


@pytest.mark.parametrize("able", [True, False])
def test_the_library_multiplies_int8(tmp_path: Path, able: bool) -> None:
    small, _, x = in_int8()
    figures = {name: figure for name, figure in HOST.profile.figures.items() if able or "int8" not in name}
    target = replace(HOST, profile=replace(HOST.profile, figures=figures))
    library = compile_graph(small, target, tmp_path / "library", (x,))
    (found,) = library(x.numpy())
    expected = emit(small)(x).detach()
    assert (torch.from_numpy(found) - expected).abs().max() <= TOLERANCE_NARROW * expected.abs().max()
    record = json.loads((tmp_path / "library/library.json").read_text())
    convs = [
        kernel for kernel in record["kernels"] if "stored='int8'" in kernel.get("spec", "") and "Conv" in kernel["spec"]
    ]
    assert len(convs) == 3
    assert {kernel["tile"]["unit"] for kernel in convs} == {int8_unit(target.cpu, 100)}
    assert not any("stock" in kernel for kernel in record["kernels"])


def test_calibration_data_are_asked_for() -> None:
    graph, _ = net()
    with pytest.raises(PreconditionError, match="needs calibration data"):
        Quantize(activations=True).requires(graph, Context(teacher=graph))
    Quantize().requires(graph, Context(teacher=graph))


def test_whole_numbers_that_others_read_are_a_value_like_any() -> None:
    """The convolution that reads them is then one of float32."""
    small, _, _ = in_int8()
    point = small.forward
    cut = next(node for node in point.nodes if node.kind == "clamp").outputs[0]
    both = replace(point, outputs=(*point.outputs, cut))
    counts = [[kernel.rounded for kernel in kernels(each)].count(True) for each in (point, both)]
    assert counts == [4, 3]
