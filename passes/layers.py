"""The nodes of a graph that multiply by a weight, seen alike: rows of inputs times a matrix, group by group.

A linear layer has one group and its input's last dimension as columns. A convolution has a column for each input
channel of its group and each place of its kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chipfit.ir.graph import Arg, Graph, Node, Value
from chipfit.ir.ops.signature import arguments, integers

INPUT_NAMES = {"linear": "input", "addmm": "mat1", "mm": "self", "conv1d": "input", "conv2d": "input"}
WEIGHT_NAMES = {"linear": "weight", "addmm": "mat2", "mm": "mat2", "conv1d": "weight", "conv2d": "weight"}
BIAS_NAMES = {"linear": "bias", "addmm": "self", "conv1d": "bias", "conv2d": "bias"}


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution with the names of its parameters."""

    node: Node
    input: Value
    weight: str
    bias: str | None
    out_dim: int  # of the weight
    in_dim: int
    groups: int

    @property
    def is_convolution(self) -> bool:
        return self.node.kind.startswith("conv")

    @property
    def channel_dim(self) -> int:
        """Of the input and of the output."""
        return 1 if self.is_convolution else len(self.input.shape) - 1

    def is_depthwise(self, weight: Tensor) -> bool:
        """Whether every group has one input channel, so that pruning takes whole groups and leaves no columns out."""
        return self.groups > 1 and weight.shape[self.in_dim] == 1

    def matrix(self, weight: Tensor) -> Tensor:
        """[groups, outputs of a group, columns], a view where that is possible."""
        weight = weight.movedim((self.out_dim, self.in_dim), (0, 1))
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight_of(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The weight whose `matrix` is given, in the shape and dtype of `like`."""
        permuted = like.movedim((self.out_dim, self.in_dim), (0, 1))
        weight = matrix.reshape(permuted.shape).movedim((0, 1), (self.out_dim, self.in_dim))
        return weight.to(like.dtype).contiguous()

    def rows(self, tensor: Tensor) -> Tensor:
        """The input as [groups, rows, columns]."""
        if not self.is_convolution:
            return tensor.reshape(1, -1, tensor.shape[-1])
        patches = self._patches(tensor)  # [batch, channels * kernel, places]
        return self._by_group(patches)

    def output_rows(self, tensor: Tensor) -> Tensor:
        """The output as [groups, rows, outputs of a group]."""
        if not self.is_convolution:
            return tensor.reshape(1, -1, tensor.shape[-1])
        return self._by_group(tensor.flatten(2))

    def _by_group(self, tensor: Tensor) -> Tensor:
        """[batch, groups * columns, places] -> [groups, batch * places, columns]."""
        grouped = tensor.reshape(len(tensor), self.groups, -1, tensor.shape[-1])
        return grouped.permute(1, 0, 3, 2).flatten(1, 2)

    def _patches(self, tensor: Tensor) -> Tensor:
        """Im2col [Chellapilla et al. 2006]: what every output place sees."""
        given = arguments(self.node)
        kernel = list(_kernel(self.node))
        stride, dilation = (_spread(integers(given[name]), len(kernel)) for name in ("stride", "dilation"))
        before, after = _padding(given["padding"], kernel, dilation)
        edges = [edge for pair in zip(reversed(before), reversed(after), strict=True) for edge in pair]
        padded = functional.pad(tensor, edges)
        if self.node.kind == "conv1d":
            padded, kernel, stride, dilation = padded.unsqueeze(2), [1, *kernel], [1, *stride], [1, *dilation]
        return functional.unfold(padded, _pair(kernel), _pair(dilation), 0, _pair(stride))


def layers(graph: Graph) -> Mapping[str, Layer]:
    """Node name -> layer, for every linear layer and 1D or 2D convolution by a parameter, in order."""
    found = (_layer(node, graph) for node in graph.forward.nodes)
    return {layer.node.name: layer for layer in found if layer}


def _layer(node: Node, graph: Graph) -> Layer | None:
    if node.kind not in INPUT_NAMES:
        return None
    given = arguments(node)
    source, weight, bias = given[INPUT_NAMES[node.kind]], given[WEIGHT_NAMES[node.kind]], _bias(node)
    if not isinstance(source, Value) or not isinstance(weight, Value) or weight.name not in graph.parameters:
        return None
    if bias is not None and bias not in graph.parameters:
        return None
    if (given.get("alpha", 1), given.get("beta", 1)) != (1, 1):  # addmm may scale its product and its bias
        return None
    transposed = node.kind in ("addmm", "mm")
    (groups,) = integers(given.get("groups", 1))
    return Layer(node, source, weight.name, bias, int(transposed), 1 - int(transposed), groups)


def _bias(node: Node) -> str | None:
    bias = arguments(node)[BIAS_NAMES[node.kind]] if node.kind in BIAS_NAMES else None
    return bias.name if isinstance(bias, Value) else None


def _kernel(node: Node) -> tuple[int, ...]:
    weight = arguments(node)["weight"]
    assert isinstance(weight, Value)
    return weight.shape[2:]


def _spread(sizes: tuple[int, ...], rank: int) -> list[int]:
    return list(sizes) * rank if len(sizes) == 1 else list(sizes)


def _pair(sizes: list[int]) -> tuple[int, int]:
    first, second = sizes
    return first, second


def _padding(padding: Arg, kernel: list[int], dilation: list[int]) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial dimension; `same` puts the odd one after, as PyTorch does."""
    if padding == "same":
        total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [each // 2 for each in total], [each - each // 2 for each in total]
    sides = [0] * len(kernel) if padding == "valid" else _spread(integers(padding), len(kernel))
    return sides, sides


def with_ones(rows: Tensor) -> Tensor:
    """A last column of ones, which a bias multiplies."""
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], -1)
