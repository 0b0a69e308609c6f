"""Layers in bfloat16: both factors rounded, sums and parameters in float32, one kernel for it all."""

import json

import pytest
import torch
from torch import nn

from chipfit.codegen import compile_graph
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.emit import emit
from chipfit.ir.fusion import kernels
from chipfit.ir.text import from_text, to_text
from chipfit.ir.verify import verify
from chipfit.passes.base import Context
from chipfit.passes.bfloat16 import Bfloat16
from chipfit.targets.registry import get_target


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(40, 70)
        self.down = nn.Linear(70, 40, bias=False)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return import_model(Residual().eval(), (torch.randn(1, 9, 40),))


def narrowed(graph):
    result = Bfloat16().run(graph, Context(teacher=graph))
    assert result.modified
    verify(result.graph)
    return result.graph


def test_both_factors_are_rounded_and_the_rest_is_not(graph):
    x = torch.randn(1, 9, 40)
    up, down = (graph.state[f"{name}.weight"].bfloat16().float() for name in ("up", "down"))
    hidden = torch.nn.functional.gelu(x.bfloat16().float() @ up.T + graph.state["up.bias"])
    exact = x + hidden.bfloat16().float() @ down.T
    found = emit(narrowed(graph))(x)
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
    assert (found - emit(graph)(x)).abs().max() > 0


def test_parameters_stay_float32_and_train(graph):
    module = emit(narrowed(graph))
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    module(torch.randn(1, 9, 40)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_casts_bias_and_activation_are_part_of_the_layers_kernel(graph):
    small = narrowed(graph)
    assert to_text(from_text(to_text(small))) == to_text(small)
    assert [kernel.kind for kernel in kernels(small.forward)] == ["matmul", "matmul"]


@pytest.mark.parametrize("rows", [1, 9])
def test_the_library_is_as_near_as_bfloat16_lets_it(graph, tmp_path, rows):
    small = narrowed(rebatch(import_model(Residual().eval(), (torch.randn(1, rows, 40),)), 1))
    compile_graph(small, get_target("host"), tmp_path / "library", (torch.randn(1, rows, 40),))
    record = json.loads((tmp_path / "library/library.json").read_text())
    assert sum("stored='bfloat16'" in kernel.get("spec", "") for kernel in record["kernels"]) == 2
    assert not any("stock" in kernel for kernel in record["kernels"])


def test_a_batch_norm_is_part_of_the_convolution_before_it():
    layers = nn.Conv2d(8, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
    small = narrowed(import_model(nn.Sequential(*layers).eval(), (torch.randn(1, 8, 9, 9),)))
    assert [kernel.kind for kernel in kernels(small.forward)] == ["conv"]


def test_nothing_to_round_changes_nothing():
    graph = import_model(nn.ReLU(), (torch.zeros(1, 3),))
    result = Bfloat16().run(graph, Context(teacher=graph))
    assert not result.modified
    assert to_text(result.graph) == to_text(graph)
