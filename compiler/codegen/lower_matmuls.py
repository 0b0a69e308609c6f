"""Linear layers and products of activations as specs of the matmul kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from chipfit.codegen.program import Tensor
from chipfit.codegen.spec import Operand, View
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.codegen.steps import Steps
from chipfit.codegen.views import Unsupported, strided
from chipfit.ir.graph import Node, Value
from chipfit.ir.kernel import Kernel
from chipfit.ir.precision import Narrow, narrow
from chipfit.ir.stored import Stored, stored_weight
from chipfit.targets.tiles import matmul_tiles, past_caches

if TYPE_CHECKING:
    from chipfit.codegen.lower import Lowering


def lower(low: Lowering, kernel: Kernel) -> None:
    """Raises Unsupported."""
    anchor = kernel.anchor
    a, b, bias = factors(anchor)
    if half := narrow(low.entry, anchor):
        lower_narrow(low, kernel, half)
    elif stored := stored_weight(low.entry, anchor):
        lower_stored(low, kernel, a, stored, bias)
    elif low.is_fixed(b) and len(b.shape) == 2:
        lower_linear(low, kernel, a, b, bias)
    else:
        lower_batched(low, kernel, a, b)


def factors(node: Node) -> tuple[Value, Value, Value | None]:
    """A, B and the bias of A @ B + bias (of A @ B^T for a linear layer)."""
    values = node.inputs
    if node.kind == "addmm":
        if node.kwargs:
            raise Unsupported("addmm with factors")
        return values[1], values[2], values[0]
    return values[0], values[1], values[2] if len(values) > 2 else None


def lower_linear(low: Lowering, kernel: Kernel, a: Value, b: Value, bias: Value | None) -> None:
    transposed = kernel.anchor.kind == "linear"
    n, k = b.shape if transposed else b.shape[::-1]
    m = math.prod(a.shape) // k
    steps = collected(low, kernel, (m, n), bias)
    spec = MatmulSpec(1, m, n, k, "packed", transposed, epilogue=steps.epilogue)
    emit_packed(low, kernel, spec, a, [b], steps)


def lower_stored(low: Lowering, kernel: Kernel, a: Value, b: Stored, bias: Value | None) -> None:
    """A linear layer with a weight in few bits."""
    (n, k), m = b.matrix.shape, math.prod(a.shape[:-1])
    in_epilogue = b.format == "int8"
    steps = collected(low, kernel, (m, n), bias, b.scales if in_epilogue else None)
    rounded = a.name in low.rounded
    spec = MatmulSpec(1, m, n, k, "packed", stored=b.format, epilogue=steps.epilogue, rounded=rounded)
    emit_packed(low, kernel, spec, a, [b.numbers] if in_epilogue else [b.numbers, b.scales], steps)


def lower_narrow(low: Lowering, kernel: Kernel, half: Narrow) -> None:
    """A linear layer in bfloat16 or float16."""
    a, b = half.source, half.weight.inputs[0]
    (n, k), m = b.shape, math.prod(a.shape[:-1])
    steps = collected(low, kernel, (m, n), None, last=half.result)
    stored: Literal["bfloat16", "float16"] = "float16" if half.dtype == torch.float16 else "bfloat16"
    spec = MatmulSpec(1, m, n, k, "packed", stored=stored, epilogue=steps.epilogue)
    emit_packed(low, kernel, spec, a, [b], steps)


def emit_packed(
    low: Lowering, kernel: Kernel, spec: MatmulSpec, a: Value, weights: Sequence[Value], steps: Steps
) -> None:
    spec = replace(spec, nontemporal=kernel.returned and past_caches(low.cpu, spec.m, spec.n))
    tiles = matmul_tiles(low.cpu, spec.m, spec.n, spec.k, stored=spec.stored, rounded=spec.rounded)
    tile = low.choose(spec, tiles)
    arguments = (argument for argument in spec.arguments(tile) if argument.role == "weight")
    packed = [low.weight(value, argument) for value, argument in zip(weights, arguments, strict=True)]
    rows = low.rounded[a.name] if spec.rounded else low.dense(a, kernel.nodes)
    low.emit_dense(kernel.output, spec, tile, [rows, *packed, *operands(low, steps)])


def lower_batched(low: Lowering, kernel: Kernel, a: Value, b: Value) -> None:
    if min(len(a.shape), len(b.shape)) < 2:
        raise Unsupported("a vector")
    if a.shape[:-2] != b.shape[:-2]:
        raise Unsupported("a matmul that broadcasts")
    a_view, a_tensor, _ = matrices(low, kernel, a, shares=False)
    b_view, b_tensor, share = matrices(low, kernel, b)
    stack, m, k, n = math.prod(a.shape[:-2]), a.shape[-2], a.shape[-1], b.shape[-1]
    transposed = b_view.column != 1
    if transposed:
        b_view = replace(b_view, row=b_view.column, column=b_view.row)
    if b_view.column != 1:
        raise Unsupported("a factor strided in both dimensions")
    steps = collected(low, kernel, (stack, m, n), None)
    spec = MatmulSpec(stack, m, n, k, "activation", transposed, share, "float32", steps.epilogue, a_view, b_view)
    tile = low.choose(spec, matmul_tiles(low.cpu, m, n, k, stack))
    low.emit_dense(kernel.output, spec, tile, [a_tensor, b_tensor, *operands(low, steps)])


def matrices(low: Lowering, kernel: Kernel, value: Value, shares: bool = True) -> tuple[View, Tensor, int]:
    """The last two dimensions of a value as matrices where they lie, and how many in a row share one of them."""
    try:
        source = strided(value, kernel.nodes)
        if shares or source.share == 1:
            return source.matrices(), low.dense(source.root), source.share
    except Unsupported:
        pass  # it has to be copied into place
    return strided(value, ()).matrices(), low.dense(value, kernel.nodes), 1


def collected(
    low: Lowering,
    kernel: Kernel,
    shape: tuple[int, ...],
    bias: Value | None,
    scale: Value | None = None,
    last: Node | None = None,
) -> Steps:
    """The epilogue of a product of `shape`, (m, n) or (batch, m, n): what follows the anchor, or `last`."""
    logical = (1,) * (3 - len(shape)) + shape
    last = last or kernel.anchor
    steps = Steps(lambda value: operand(value, logical), last.name)
    if scale is not None:
        steps.prepare("mul", scale, Operand(shape[-1:]))
    if bias is not None:
        steps.prepare("add", bias, operand(bias, logical))
    for node in kernel.nodes[kernel.nodes.index(last) + 1 :]:
        steps.add(node)
    return steps


def operand(value: Value, logical: tuple[int, ...]) -> Operand:
    """A value beside a (batch, m, n) product: a number, a row, a matrix, or the whole."""
    size, shape = math.prod(value.shape), value.shape
    if size == math.prod(logical):
        return Operand(logical)
    if size == 1:
        return Operand((1,))
    while shape[0] == 1:
        shape = shape[1:]
    if shape == logical[-len(shape) :]:
        return Operand(shape)
    raise Unsupported(f"an operand of shape {value.shape} beside {logical}")


def operands(low: Lowering, steps: Steps) -> list[Tensor]:
    return [low.dense(value) for value in steps.values]
