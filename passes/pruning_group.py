"""The one adapter between our axes and torch-pruning: an axis as its `Group`, so that its criteria score our axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.dependency import Dependency, Group, Node
from torch_pruning.pruner import function

from chipfit.ir.axes import Axis, analyse
from chipfit.ir.graph import Graph, Value
from chipfit.ir.ops.signature import arguments
from chipfit.passes.layers import Layer, layers
from chipfit.passes.members import OUTSIDE, axis_indices

NORMS = {
    "batch_norm": (nn.BatchNorm2d, function.prune_batchnorm_out_channels),
    "layer_norm": (nn.LayerNorm, function.prune_layernorm_out_channels),
}


def pruning_group(graph: Graph, axis: Axis, gradients: Mapping[str, Tensor] | None = None) -> Group:
    """The layers that carry `axis` as torch-pruning sees them, with `gradients` for the criteria that read them.

    A member that torch-pruning has no layer type for is left out; so is a depthwise convolution, which it skips too.
    """
    analysis, group = analyse(graph), Group()
    for name, dim, layer, prune in _members(graph, axis, gradients or {}):
        indices = axis_indices(analysis, axis, name, dim)
        positions = np.flatnonzero(indices != OUTSIDE)
        item = Dependency(prune, prune, Node(layer, None, name), Node(layer, None, name))
        group.add_dep(item, positions.tolist())
        group[-1].root_idxs = indices[positions].tolist()
    return group


def structure(graph: Graph, axis: Axis) -> tuple[str, ...]:
    """What kinds of layers carry the axis, as outputs or inputs: equal for isomorphic groups."""
    found = pruning_group(graph, axis)
    return tuple(f"{type(item.target.module).__name__} {item.handler.__name__}" for item, _ in found)


Member = tuple[str, int, nn.Module, object]


def _members(graph: Graph, axis: Axis, gradients: Mapping[str, Tensor]) -> Iterator[Member]:
    members = dict.fromkeys(axis.members)
    for layer in layers(graph).values():
        if layer.is_depthwise(graph.state[layer.weight]):
            continue
        weight = _oriented(layer, graph.state[layer.weight], gradients.get(layer.weight))
        if (layer.weight, layer.out_dim) in members:
            yield layer.weight, layer.out_dim, *_as_module(layer, weight, outputs=True)
        if (layer.weight, layer.in_dim) in members:
            yield layer.weight, layer.in_dim, *_as_module(layer, weight, outputs=False)
    for node in graph.forward.nodes:
        weight_value = arguments(node)["weight"] if node.kind in NORMS else None
        if isinstance(weight_value, Value) and (weight_value.name, 0) in members:
            kind, prune = NORMS[node.kind]
            weight = _parameter(graph.state[weight_value.name], gradients.get(weight_value.name))
            yield weight_value.name, 0, _holding(kind(1, device="meta"), weight), prune


def _oriented(layer: Layer, weight: Tensor, gradient: Tensor | None) -> nn.Parameter:
    """The weight with its outputs in dimension 0 and its inputs in dimension 1."""
    dims = (layer.out_dim, layer.in_dim)
    turned = None if gradient is None else gradient.movedim(dims, (0, 1))
    return _parameter(weight.movedim(dims, (0, 1)), turned)


def _parameter(tensor: Tensor, gradient: Tensor | None) -> nn.Parameter:
    parameter = nn.Parameter(tensor.detach())
    parameter.grad = gradient
    return parameter


def _as_module(layer: Layer, weight: nn.Parameter, outputs: bool) -> tuple[nn.Module, object]:
    """A convolution is shown without its groups: the axis says for each entry of the weight where it belongs."""
    if layer.is_convolution:
        module: nn.Module = nn.Conv2d(1, 1, 1, device="meta")
        prune = function.prune_conv_out_channels if outputs else function.prune_conv_in_channels
    else:
        module = nn.Linear(1, 1, device="meta")
        prune = function.prune_linear_out_channels if outputs else function.prune_linear_in_channels
    return _holding(module, weight), prune


def _holding(module: nn.Module, weight: nn.Parameter) -> nn.Module:
    module.register_parameter("weight", weight)
    module.register_parameter("bias", None)
    return module


def score(criterion: tp.importance.Importance, group: Group, size: int) -> np.ndarray | None:
    """The criterion's scores of the `size` indices; None if it scores none of the group's layers."""
    found = criterion(group) if len(group) else None
    return None if found is None else found[:size].to(torch.float64).numpy()
