"""A graph as modules of `torch.nn`, which is what other packages prune."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from chipfit.ir.emit import call_arguments
from chipfit.ir.graph import Graph, Node
from chipfit.ir.ops.signature import arguments
from chipfit.passes.layers import Layer, layers

OPERATORS: dict[str, Callable[..., Any]] = {"add": operator.add, "mul": operator.mul, "sub": operator.sub}


def as_modules(graph: Graph) -> fx.GraphModule:
    """Layers and batch norms as modules by the names of their nodes, all else by the functions that models call.

    Its parameters are copies. Raises ValueError for an op that has no such function.
    """
    holder, made, found = nn.Module(), fx.Graph(), layers(graph)
    values = {value.name: made.placeholder(value.name) for value in graph.forward.inputs}
    for node in graph.forward.nodes:
        layer = layer_module(graph, found[node.name]) if node.name in found else norm_module(graph, node)
        if layer is None:
            args, kwargs = call_arguments(node, values)
            values[node.name] = made.call_function(plain_function(node), args, kwargs)
        else:
            holder.add_module(node.name, layer)
            values[node.name] = made.call_module(node.name, (values[node.inputs[0].name],))
    made.output(values[graph.forward.outputs[0].name])
    return fx.GraphModule(holder, made)


def layer_module(graph: Graph, layer: Layer) -> nn.Module:
    weight, given = graph.state[layer.weight], arguments(layer.node)
    outputs, inputs, *kernel = weight.shape
    made: nn.Module
    if layer.node.kind == "conv2d":
        shape = {name: given[name] for name in ("stride", "padding", "dilation", "groups")}
        made = nn.Conv2d(inputs * layer.groups, outputs, tuple(kernel), bias=bool(layer.bias), **shape)
    elif layer.node.kind == "linear":
        made = nn.Linear(inputs, outputs, bias=bool(layer.bias))
    else:
        raise ValueError(f"{layer.node.op} is no layer of these networks.")
    made.load_state_dict({"weight": weight, **({"bias": graph.state[layer.bias]} if layer.bias else {})})
    return made


def norm_module(graph: Graph, node: Node) -> nn.Module | None:
    """None for a node that is no batch norm."""
    if node.kind != "batch_norm":
        return None
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: graph.state[arguments(node)[name].name] for name in names}
    made = nn.BatchNorm2d(len(tensors["weight"]), eps=arguments(node)["eps"])
    made.load_state_dict({**tensors, "num_batches_tracked": torch.tensor(0)})
    return made


def plain_function(node: Node) -> Callable[..., Any]:
    function = OPERATORS.get(node.kind) or getattr(functional, node.kind, None) or getattr(torch, node.kind, None)
    if function is None:
        raise ValueError(f"PyTorch has no function for {node.op}.")
    return function
