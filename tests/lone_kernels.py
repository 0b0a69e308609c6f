"""Single kernels with their work, without a model around them."""

from __future__ import annotations

import torch
from torch import nn

from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.graph import Node, TensorType, Value
from chipfit.ir.kernel import Kernel, kernel_of
from chipfit.ir.work import Work, work
from chipfit.passes.quantize import Quantize
from chipfit.targets.cost import full_plan

Asked = tuple[Kernel, Work]


def value(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Value:
    return Value(name, TensorType(shape, dtype))


def alone(kind: str, node: Node) -> Asked:
    kernel = kernel_of(kind, node, (node,))
    return kernel, work(kernel, {v.name: v.shape for v in (*node.inputs, *node.outputs)})


def matmul(m: int, n: int, k: int, dtype: torch.dtype = torch.float32) -> Asked:
    x, w, y = value("x", m, k, dtype=dtype), value("w", n, k, dtype=dtype), value("y", m, n, dtype=dtype)
    return alone("matmul", Node("aten.linear.default", (x, w), (), (y,)))


def conv(size: int, ic: int, oc: int, dtype: torch.dtype = torch.float32) -> Asked:
    x, w = value("x", 1, ic, size, size, dtype=dtype), value("w", oc, ic, 3, 3, dtype=dtype)
    y = value("y", 1, oc, size, size, dtype=dtype)
    return alone("conv", Node("aten.conv2d.default", (x, w, None, (1, 1), (1, 1), (1, 1), 1), (), (y,)))


def rounded(layer: nn.Module, *shape: int) -> Asked:
    """The product of a layer in int8."""
    graph = rebatch(import_model(layer.eval(), (torch.zeros(shape),)), shape[0])
    graph = Quantize(activations=True).rounded(graph, None, {})
    (kernel,) = (kernel for kernel, _ in full_plan(graph) if kernel.rounded)
    return kernel, work(kernel, {value.name: value.shape for value in kernel_values(kernel)})


def kernel_values(kernel: Kernel) -> list[Value]:
    return [value for node in kernel.nodes for value in (*node.inputs, *node.outputs)]


def rounded_matmul(m: int, n: int, k: int) -> Asked:
    return rounded(nn.Linear(k, n), m, k)


def rounded_conv(size: int, ic: int, oc: int) -> Asked:
    return rounded(nn.Conv2d(ic, oc, 3, padding=1), 1, ic, size, size)


def attention(heads: int, rows: int, width: int, dtype: torch.dtype = torch.float32) -> Asked:
    q, k, v, y = (value(name, 1, heads, rows, width, dtype=dtype) for name in "qkvy")
    return alone("attention", Node("aten.scaled_dot_product_attention.default", (q, k, v), (), (y,)))


def relu(*shape: int) -> Asked:
    return alone("pointwise", Node("aten.relu.default", (value("x", *shape),), (), (value("y", *shape),)))


def softmax(rows: int, width: int) -> Asked:
    shape = (rows, width)
    return alone("reduce", Node("aten.softmax.int", (value("x", *shape), -1), (), (value("y", *shape),)))


def view(rows: int, width: int) -> Asked:
    x, y = value("x", rows, width), value("y", rows * width)
    return alone("move", Node("aten.reshape.default", (x, (rows * width,)), (), (y,)))
