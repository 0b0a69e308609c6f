"""The fusion plan: complete, runnable in its order, and the one that the generated kernels can do."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from chipfit.codegen.vector import POINTWISE
from chipfit.frontend.importer import import_model
from chipfit.ir.fusion import folded, kernels
from chipfit.ir.graph import EntryPoint
from chipfit.ir.kernel import Kernel
from chipfit.ir.kinds import EPILOGUE
from chipfit.ir.work import work
from chipfit.passes.fold_batch_norm import FoldBatchNorm

Function = Callable[[Tensor], Tensor]


class Lambda(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def shapes_of(entry: EntryPoint) -> dict[str, tuple[int, ...]]:
    return {value.name: value.shape for node in entry.nodes for value in (*node.inputs, *node.outputs)}


def signature(kernel: Kernel) -> str:
    views = {"reshape", "transpose", "unsqueeze", "expand"}
    return f"{kernel.kind}:{'+'.join(node.kind for node in kernel.nodes if node.kind not in views)}"


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_node_that_depends_on_an_input_is_in_one_kernel(name: str) -> None:
    entry = zoo.imported(name).forward
    plan = kernels(entry)
    counted = Counter(node.name for kernel in plan for node in kernel.nodes)
    fixed = {node.name for node in folded(entry)}
    assert counted == Counter(node.name for node in entry.nodes if node.name not in fixed)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_kernels_run_in_their_order(name: str) -> None:
    graph = zoo.imported(name)
    ready = {value.name for node in folded(graph.forward) for value in node.outputs} | set(graph.parameters)
    ready |= {value.name for value in graph.forward.inputs}
    for kernel in kernels(graph.forward):
        assert {value.name for value in kernel.inputs} <= ready
        ready |= {value.name for value in kernel.outputs}
    assert {value.name for value in graph.forward.outputs} <= ready


def test_a_llama_layer_is_its_matmuls_with_everything_around_them_taken_in() -> None:
    plan = [signature(kernel) for kernel in kernels(zoo.imported("llama").forward)]
    rope = "pointwise:mul+slice+slice+neg+cat+mul+add"
    norm = "reduce:pow+mean+add+rsqrt+mul+mul"
    attention = "scaled_dot_product_attention"
    layer = [norm, "matmul:linear", "matmul:linear", "matmul:linear", rope, rope]
    layer += [f"attention:{attention}", "matmul:linear+add"]
    layer += [norm, "matmul:linear", "matmul:linear+silu+mul", "matmul:linear+add"]
    assert Counter(plan) == Counter(["move:embedding", *3 * layer, norm, "matmul:linear"])


def test_a_convolution_takes_in_the_residual_and_the_activation() -> None:
    graph = FoldBatchNorm().run(zoo.imported("resnet"), None).graph  # type: ignore[arg-type]
    plan = [signature(kernel) for kernel in kernels(graph.forward)]
    assert not [kernel for kernel in plan if kernel.startswith("pointwise")]
    assert any(kernel.startswith("conv:conv2d+add") for kernel in plan)


@pytest.mark.parametrize(
    ("after", "taken_in"),
    [
        (lambda x: x.transpose(1, 2).flatten(2), ["transpose", "flatten"]),
        (lambda x: x.permute(0, 2, 1, 3).reshape(2, 4, 16), ["permute", "reshape"]),
        (lambda x: x.view(2, 4, -1, 4).transpose(1, 2), ["reshape", "transpose"]),
        (lambda x: x.transpose(2, 3).flatten(2), []),
        (lambda x: x.flatten(2), []),
    ],
)
def test_an_attention_takes_in_the_merging_of_its_heads(after: Function, taken_in: list[str]) -> None:
    """Heads, rows and width are equal, so shapes alone don't tell."""
    model = Lambda(lambda x: after(scaled_dot_product_attention(x, x, x)) + 1)
    graph = import_model(model, (torch.randn(2, 4, 4, 4),))
    attention = next(kernel for kernel in kernels(graph.forward) if kernel.kind == "attention")
    assert [node.kind for node in attention.nodes][1:] == taken_in


def test_a_value_that_is_returned_is_not_fused_away() -> None:
    entry = zoo.imported("llama").forward
    linear = next(node for node in entry.nodes if node.kind == "linear")
    silu = next(node for node in entry.nodes if node.kind == "silu")
    returned = (*entry.outputs, silu.inputs[0], linear.outputs[0])
    outputs = {value.name for kernel in kernels(replace(entry, outputs=returned)) for value in kernel.outputs}
    assert {value.name for value in returned} <= outputs


def test_generated_kernels_can_do_every_op_that_the_plan_fuses() -> None:
    assert set(POINTWISE) | {"gelu"} >= EPILOGUE


def test_work_of_attention_is_two_products_and_a_softmax() -> None:
    entry = zoo.imported("llama").forward
    shapes = shapes_of(entry)
    attention = next(kernel for kernel in kernels(entry) if kernel.kind == "attention")
    found = work(attention, shapes)
    batch, heads, rows, width = attention.anchor.inputs[0].shape
    assert found.flops == batch * heads * rows * rows * (4 * width + 5)
    query = 4 * batch * heads * rows * width
    mask = 4 * rows * rows
    assert found.bytes_read == 2 * query + mask  # two query heads share one head of keys and of values
    assert found.bytes_written == query


def test_work_follows_the_shapes_that_it_is_asked_about() -> None:
    entry = zoo.imported("llama").forward
    kernel = next(k for k in kernels(entry) if k.kind == "matmul" and k.anchor.kind == "linear")
    shapes = shapes_of(entry)
    n, k = shapes[kernel.anchor.inputs[1].name]
    whole = work(kernel, shapes)
    halved = shapes | {kernel.anchor.inputs[1].name: (n // 2, k)}
    halved |= {value.name: (*value.shape[:-1], n // 2) for value in kernel.outputs}
    assert work(kernel, halved).flops * 2 == whole.flops
    assert work(kernel, halved).dims["n"] * 2 == whole.dims["n"]
    assert work(kernel, halved).bytes_written * 2 == whole.bytes_written


def test_views_cost_nothing() -> None:
    entry = zoo.imported("gpt2").forward
    shapes = shapes_of(entry)
    views = [kernel for kernel in kernels(entry) if all(node.kind == "reshape" for node in kernel.nodes)]
    assert all(work(kernel, shapes).bytes_read == 0 for kernel in views)
