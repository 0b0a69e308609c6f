"""Layers in float16: both factors rounded, one kernel for it all, convolutions left alone."""

import json

import pytest
import torch
from torch import nn

from chipfit.codegen import compile_graph
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.emit import emit
from chipfit.ir.fusion import kernels
from chipfit.ir.text import to_text
from chipfit.ir.work import work
from chipfit.passes.base import Context
from chipfit.passes.float16 import Float16
from chipfit.targets.registry import get_target


def layers(rows):
    torch.manual_seed(0)
    x = torch.randn(1, rows, 40)
    graph = import_model(nn.Sequential(nn.Linear(40, 70), nn.GELU(), nn.Linear(70, 40, bias=False)), (x,))
    result = Float16().run(graph, Context(teacher=graph))
    assert result.modified
    return rebatch(graph, 1), rebatch(result.graph, 1), x


def test_both_factors_are_rounded_in_one_kernel_a_layer():
    graph, small, x = layers(9)
    assert [kernel.kind for kernel in kernels(small.forward)] == ["matmul", "matmul"]
    shapes = {value.name: value.shape for node in small.forward.nodes for value in (*node.inputs, *node.outputs)}
    assert [work(kernel, shapes).dims["half"] for kernel in kernels(small.forward)] == [1, 1]
    error = (emit(small)(x) - emit(graph)(x)).abs().max() / emit(graph)(x).abs().max()
    assert 0 < error < 2e-3


@pytest.mark.parametrize("rows", [1, 9])
def test_the_library_is_as_near_as_float16_lets_it(tmp_path, rows):
    _, small, x = layers(rows)
    target = get_target("host")
    compile_graph(small, target, tmp_path / "library", (x,))
    record = json.loads((tmp_path / "library/library.json").read_text())
    assert ["stored='float16'" in kernel["spec"] for kernel in record["kernels"]] == [True, True]
    unit = "half" if target.cpu.fp16_flops else "vector"
    assert {kernel["tile"]["unit"] for kernel in record["kernels"]} == {unit}


def test_convolutions_stay_as_they_are():
    graph = import_model(nn.Conv2d(3, 8, 3).eval(), (torch.zeros(1, 3, 8, 8),))
    result = Float16().run(graph, Context(teacher=graph))
    assert not result.modified
    assert to_text(result.graph) == to_text(graph)
