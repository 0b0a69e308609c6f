"""What no kernel of ours does: a few nodes through torch.export and TVM's importer, each distinct group once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from chipfit.codegen.program import Stock
from chipfit.errors import UserError
from chipfit.ir.emit import call_arguments, resolve, returns_tensor
from chipfit.ir.graph import Node, Value, map_values


def normalised(stock: Stock) -> Stock:
    """The same computation with its values renamed by position, so that equal groups compare equal."""
    made = [value for node in stock.nodes for value in node.outputs]
    renamed = {value.name: Value(f"v{index}", value.type) for index, value in enumerate([*stock.inputs, *made])}
    nodes = tuple(
        replace(
            node,
            args=tuple(map_values(arg, renamed) for arg in node.args),
            kwargs=tuple((name, map_values(arg, renamed)) for name, arg in node.kwargs),
            outputs=tuple(renamed[value.name] for value in node.outputs),
            module="",
        )
        for node in stock.nodes
    )
    inputs, outputs = (tuple(renamed[value.name] for value in values) for values in (stock.inputs, stock.outputs))
    return Stock(nodes, inputs, outputs)


def relax_function(stock: Stock) -> Any:
    """A Relax function of the group's inputs that returns a tuple of its outputs.

    Raises UserError if TVM has no lowering for one of the ops.
    """
    module = fx.GraphModule(nn.Module(), calls(stock))
    examples = tuple(torch.empty(value.shape, dtype=value.type.dtype) for value in stock.inputs)
    try:
        imported = imported_fast(module, examples) or from_exported_program(torch.export.export(module, examples))
    except (AssertionError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        ops = ", ".join(sorted({node.op for node in stock.nodes}))
        raise UserError(f"TVM cannot compile {ops} ({error}); rewrite that part of the model.") from error
    if len(imported.functions) > 1:
        ops = ", ".join(sorted({node.op for node in stock.nodes}))
        raise UserError(f"TVM compiles {ops} to several functions, which chipfit does not link; rewrite that part.")
    return Bounded().visit_expr(imported["main"]).without_attr("global_symbol")


@relax.expr_functor.mutator
class Bounded(relax.PyExprMutator):  # type: ignore[misc]
    """Rows that are looked up by numbers that are none of the table's: the nearest, not what lies beyond its memory."""

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if getattr(call.op, "name", "") != "relax.take":
            return call
        return relax.op.take(*call.args, axis=call.attrs.axis, mode="clip")


def imported_fast(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> Any:
    """The module decomposed by tracing, or None if TVM lacks one of the ops that tracing ends at.

    TVM's own way, ExportedProgram.run_decompositions, takes half a second whatever the size.
    """
    aten = torch.ops.aten
    table: dict[Any, Any] = core_aten_decompositions() | get_decompositions([aten.native_batch_norm])
    table[aten._unsafe_view.default] = aten.view.default
    core = make_fx(module, decomposition_table=table, tracing_mode="fake")(*examples)
    try:
        return from_exported_program(torch.export.export(core, examples), run_ep_decomposition=False)
    except AssertionError:
        return None


def scaled(value: Any, factor: Any) -> Any:
    return value if factor == 1 else value * factor


def added(first: Any, second: Any, alpha: Any = 1) -> Any:
    return first + scaled(second, alpha)


def subtracted(first: Any, second: Any, alpha: Any = 1) -> Any:
    return first - scaled(second, alpha)


def subtracted_from(first: Any, second: Any, alpha: Any = 1) -> Any:
    return scaled(first, -alpha) + second


# TVM's importer drops alpha, and knows no integer less a tensor of floats.
REWRITTEN: Mapping[str, Callable[..., Any]] = {"add": added, "sub": subtracted, "rsub": subtracted_from}


def nonnegative(node: Node) -> Node:
    """TVM reads before the start of a tensor at a negative index of select."""
    if node.kind != "select" or not isinstance(node.args[2], int) or node.args[2] >= 0:
        return node
    size = node.inputs[0].shape[int(node.args[1])]  # type: ignore[arg-type]
    return replace(node, args=(*node.args[:2], node.args[2] + size))


def calls(stock: Stock) -> fx.Graph:
    graph = fx.Graph()
    held = {value.name: graph.placeholder(value.name) for value in stock.inputs}
    for node in map(nonnegative, stock.nodes):
        args, kwargs = call_arguments(node, held)
        call = graph.call_function(REWRITTEN.get(node.kind) or resolve(node.op), args, kwargs)
        if returns_tensor(node.op):
            held[node.name] = call
        else:
            held |= {v.name: graph.call_function(operator.getitem, (call, i)) for i, v in enumerate(node.outputs)}
    graph.output(tuple(held[value.name] for value in stock.outputs))
    return graph
