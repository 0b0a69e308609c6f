"""Whole graphs to libraries: PyTorch's numbers, in the layouts and kernels that make them fast."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from chipfit.codegen import check, compile_graph
from chipfit.codegen.library import fixed_values
from chipfit.codegen.lower import lower
from chipfit.codegen.program import Generated, Program, Stock
from chipfit.codegen.spec_matmuls import AttentionSpec, MatmulSpec
from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.emit import run
from chipfit.ir.graph import Graph
from chipfit.passes.fold_batch_norm import FoldBatchNorm
from chipfit.targets.registry import get_target

HOST = get_target("host")


@cache
def folded_graph(name: str) -> Graph:
    """A zoo model as it is deployed: batch norms folded, one example."""
    graph = FoldBatchNorm().run(zoo.imported(name), None).graph  # type: ignore[arg-type]
    return rebatch(graph, 1) if graph.batch else graph


@cache
def program(name: str) -> Program:
    graph = folded_graph(name)
    return lower(graph, HOST.cpu, fixed_values(graph))


def kinds(name: str) -> Counter[str]:
    specs = (call.kernel for call in program(name).calls)
    return Counter(type(kernel.spec).__name__ if isinstance(kernel, Generated) else "Stock" for kernel in specs)


@pytest.mark.parametrize(
    "name",
    [
        *("llama", "llama-eager", "bert", "gpt2", "packed-split", "packed-select"),
        *("mobilenet", "efficientnet", "densenet", "shufflenet", "resnext"),
    ],
)
def test_a_library_gives_the_numbers_of_pytorch(name: str, tmp_path: Path) -> None:
    graph = folded_graph(name)
    library = compile_graph(graph, HOST, tmp_path / "library", check.probe(graph))
    assert [slot.shape for slot in library.outputs] == [value.shape for value in graph.forward.outputs]


@pytest.mark.parametrize(("rows", "columns", "read", "past"), [(128, 8192, 0, 1), (128, 8192, 1, 0), (1, 8192, 0, 0)])
def test_only_a_large_result_that_nothing_reads_goes_past_the_caches(
    rows: int, columns: int, read: int, past: int
) -> None:
    layers = [nn.Linear(16, columns), nn.Linear(columns, 8)][: 1 + read]
    graph = import_model(nn.Sequential(*layers), (torch.randn(rows, 16),))
    cpu = replace(get_target("sapphire-rapids").cpu, l2_bytes=2 * 2**20)
    specs = [call.kernel.spec for call in lower(graph, cpu, {}).calls if isinstance(call.kernel, Generated)]
    assert [spec.nontemporal for spec in specs if isinstance(spec, MatmulSpec)] == [bool(past)] + [False] * read


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # of PyTorch's own decomposition pass
@pytest.mark.parametrize("name", ["two-inputs", "lstm"])
def test_several_inputs_and_opaque_ops_at_the_batch_of_the_trace(name: str, tmp_path: Path) -> None:
    compile_graph(zoo.imported(name), HOST, tmp_path / "library")


class Corners(nn.Module):
    """What is easy to get wrong: negative indices, an asymmetric padding, a mask of booleans, causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.pool(self.conv(nn.functional.pad(x, (0, 1, 1, 2))))
        rows = y.flatten(2)[:, None, :, :4]
        attended = nn.functional.scaled_dot_product_attention(rows, rows, rows, attn_mask=self.mask)
        causal = nn.functional.scaled_dot_product_attention(rows, rows, rows, is_causal=True)
        return y[:, -1], attended - causal + 1, nn.functional.hardtanh(y).clamp(max=0.5)


def test_corners(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 11, 13),)
    compile_graph(import_model(Corners().eval(), inputs), HOST, tmp_path / "library", inputs)


class Scalars(nn.Module):
    """Integers beside floats and factors of the second operand, in float64 so that TVM lowers them, and in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x.double()
        factors = (torch.add(y, y[0], alpha=3), torch.sub(y, x.int(), alpha=2), torch.rsub(y, y[1], alpha=2))
        return 1 - x, torch.rsub(x, 1, alpha=2), 1 - y, torch.rsub(y, 3, alpha=2), 2 - x.int(), *factors


def test_integers_beside_floats_and_factors(tmp_path: Path) -> None:
    inputs = (torch.randn(3, 5),)
    compile_graph(import_model(Scalars(), inputs), HOST, tmp_path / "library", inputs)


def test_only_embedding_and_rotation_of_a_llama_are_left_to_stock_lowering() -> None:
    stock = [call.kernel.nodes for call in program("llama").calls if isinstance(call.kernel, Stock)]
    assert all(nodes[0].kind == "embedding" or "neg" in {node.kind for node in nodes} for nodes in stock)


def test_shared_key_heads_are_read_where_they_are() -> None:
    specs = [call.kernel.spec for call in program("llama").calls if isinstance(call.kernel, Generated)]
    assert [spec.share for spec in specs if isinstance(spec, AttentionSpec)] == [2] * 3


def test_images_stay_in_their_layout_from_the_first_convolution_to_the_last() -> None:
    counted = kinds("resnet")
    assert counted["UnpackImageSpec"] == counted["Stock"] == counted["PointwiseSpec"] == 0
    assert counted["PackImageSpec"] == 1


def test_equal_kernels_are_generated_once() -> None:
    calls = [call.kernel for call in program("llama").calls if isinstance(call.kernel, Generated)]
    assert len({repr(kernel) for kernel in calls}) < len(calls) / 2


def test_a_wrong_result_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TOLERANCE", -1.0)
    monkeypatch.setattr(check, "NUDGES", 0)
    graph = rebatch(import_model(nn.Linear(4, 4), (torch.zeros(1, 4),)), 1)
    with pytest.raises(check.WrongResult, match="differs from PyTorch"):
        compile_graph(graph, HOST, tmp_path / "library")
    assert not list(tmp_path.iterdir())


class Difference(nn.Module):
    """Of two layers that are almost alike: what is left is mostly their rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(256, 32), nn.Linear(256, 32)
        with torch.no_grad():
            self.second.weight.copy_(self.first.weight * (1 + 1e-5 * torch.randn(32, 256)))
            self.second.bias.copy_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) - self.second(x)


def test_a_network_that_makes_much_of_last_bits_may_differ_by_as_much_and_no_more(tmp_path: Path) -> None:
    inputs = (torch.randn(4, 256),)
    graph = import_model(Difference(), inputs)
    expected = run(graph, *inputs)
    right = expected[graph.forward.outputs[0].name].numpy()
    allowed = check.tolerance(graph, inputs, expected)
    assert 10 * check.TOLERANCE < allowed < 0.5
    compile_graph(graph, HOST, tmp_path / "library", inputs)
    check.check(lambda _: [right * (1 + allowed / 2)], graph, inputs)
    with pytest.raises(check.WrongResult):
        check.check(lambda _: [right * (1 + 2 * allowed)], graph, inputs)


def test_a_sound_network_may_differ_by_no_more_than_sums_do() -> None:
    graph = zoo.imported("llama")
    inputs = check.probe(graph)
    assert check.tolerance(graph, inputs, run(graph, *inputs)) == check.TOLERANCE


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    graph = zoo.imported("llama")
    empty = replace(graph, state={name: tensor.to("meta") for name, tensor in graph.state.items()})
    with pytest.raises(UserError, match="load them to compile"):
        compile_graph(empty, HOST, tmp_path / "library")


def test_a_target_that_is_no_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use a CPU"):
        compile_graph(zoo.imported("llama"), replace(HOST, family="npu"), tmp_path / "library")


def test_check_sees_a_difference() -> None:
    found, expected = torch.ones(3).numpy(), torch.ones(3).numpy()
    assert check.relative_error(found, expected) == 0
    assert check.relative_error(found * 1.01, expected) == pytest.approx(0.01, rel=1e-3)
    assert check.relative_error(found * float("nan"), expected) == float("inf")


class Choice(nn.Module):
    """Picks by a condition that several kernels read, from a view among others."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        positive = y > 0
        return torch.where(positive, x.reshape(1, 3, 5), y) * 2, torch.where(positive, y, -y), y + positive


def test_choosing_is_a_generated_kernel(tmp_path: Path) -> None:
    inputs = (torch.randn(3, 5), torch.randn(4, 3, 5))
    graph = import_model(Choice(), inputs)
    library = compile_graph(graph, HOST, tmp_path / "library", inputs)
    for found, expected in zip(library(*(x.numpy() for x in inputs)), Choice()(*inputs), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    calls = lower(graph, HOST.cpu, fixed_values(graph)).calls
    assert sum(isinstance(call.kernel, Generated) for call in calls) >= 2
