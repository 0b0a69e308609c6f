"""Which indices of an axis matter: torch-pruning's criteria and one of our own, all by one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch_pruning as tp
from torch_pruning.pruner.importance import FPGMImportance

from chipfit.errors import UserError
from chipfit.ir.axes import Axis, analyse
from chipfit.passes.factorize import is_factor
from chipfit.passes.layers import Layer
from chipfit.passes.members import OUTSIDE, axis_indices
from chipfit.passes.pruning_group import pruning_group, score
from chipfit.passes.statistics import Statistics

Criterion = Callable[[Statistics, Axis], np.ndarray | None]


def rank(statistics: Statistics, axis: Axis, criterion: str = "activation") -> np.ndarray:
    """A score for each index of the axis, the higher the more it matters; comparable within the axis only.

    Where the criterion looks at nothing that carries the axis (no batch norm, say), an index scores its squared norm.
    The rank of a layer that was split is in order already: its first entries matter most, whatever the criterion.
    Raises `UserError` for an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise UserError(f"There is no criterion {criterion}; the criteria are {', '.join(CRITERIA)}.")
    if is_rank(axis):
        return np.arange(axis.size, 0, -1, dtype=np.float64)
    found = CRITERIA[criterion](statistics, axis)
    return squared_norm(statistics, axis) if found is None else found


def is_rank(axis: Axis) -> bool:
    """Whether it is the rank of a layer that was split."""
    return all(is_factor(name) for name, _ in axis.members)


def best(scores: np.ndarray, count: int) -> tuple[int, ...]:
    """The `count` indices with the highest scores, ascending; of equal scores the lower index."""
    order = np.argsort(-scores, kind="stable")
    return tuple(sorted(order[:count].tolist()))


def activation(statistics: Statistics, axis: Axis) -> np.ndarray | None:
    """What an index adds to the outputs of the layers that read it: energy of the input times the weight's column.

    Wanda's score (Sun et al. 2023, arXiv 2306.11695) squared and summed over each structure, then over the readers.
    """
    scores, found = np.zeros(axis.size), False
    for layer in readers(statistics, axis):
        matrix = layer.matrix(statistics.graph.state[layer.weight]).double()
        columns = statistics.energies[layer.node.name] * matrix.square().sum(1)
        indices = input_indices(statistics, layer, axis)
        channels = columns.reshape(len(indices), -1).sum(1).numpy()
        inside = indices != OUTSIDE
        scores += np.bincount(indices[inside], channels[inside], minlength=axis.size)
        found = True
    return scores if found else None


def readers(statistics: Statistics, axis: Axis) -> list[Layer]:
    """The layers that sum over the axis, in order."""
    weights = {name for name, _ in axis.members}
    carrying = [layer for layer in statistics.layers.values() if layer.weight in weights]
    mixing = [layer for layer in carrying if not layer.is_depthwise(statistics.graph.state[layer.weight])]
    return [layer for layer in mixing if np.any(input_indices(statistics, layer, axis) != OUTSIDE)]


def input_indices(statistics: Statistics, layer: Layer, axis: Axis) -> np.ndarray:
    """The axis index of each input channel of the layer, OUTSIDE where it carries another axis."""
    return axis_indices(analyse(statistics.graph), axis, layer.input.name, layer.channel_dim)


def column_owners(statistics: Statistics, layer: Layer, axis: Axis) -> np.ndarray:
    """The axis index of each column of the layer's matrices, (groups, columns): several columns may read a channel."""
    groups, _, columns = layer.matrix(statistics.graph.state[layer.weight]).shape
    indices = input_indices(statistics, layer, axis)
    return np.repeat(indices, groups * columns // len(indices)).reshape(groups, columns)


def squared_norm(statistics: Statistics, axis: Axis) -> np.ndarray:
    """Sum of squares of all the parameters' entries that go with an index."""
    scores, analysis = np.zeros(axis.size), analyse(statistics.graph)
    for name, dim in dict.fromkeys(axis.members):
        tensor = statistics.graph.state[name].double()
        entries = tensor.square().movedim(dim, 0).reshape(tensor.shape[dim], -1).sum(1).numpy()
        indices = axis_indices(analysis, axis, name, dim)
        scores += np.bincount(indices[indices != OUTSIDE], entries[indices != OUTSIDE], minlength=axis.size)
    return scores


def _weights_only(criterion: Callable[[], tp.importance.Importance]) -> Criterion:
    return lambda statistics, axis: score(criterion(), pruning_group(statistics.graph, axis), axis.size)


def _taylor(statistics: Statistics, axis: Axis) -> np.ndarray | None:
    group = pruning_group(statistics.graph, axis, statistics.gradients)
    return score(tp.importance.GroupTaylorImportance(), group, axis.size)


def _hessian(statistics: Statistics, axis: Axis) -> np.ndarray | None:
    group = pruning_group(statistics.graph, axis, statistics.squared_gradients)
    return score(tp.importance.GroupHessianImportance(), group, axis.size)


CRITERIA: Mapping[str, Criterion] = {
    "activation": activation,
    "magnitude": _weights_only(tp.importance.GroupMagnitudeImportance),
    "lamp": _weights_only(tp.importance.LAMPImportance),
    "fpgm": _weights_only(FPGMImportance),
    "bn-scale": _weights_only(tp.importance.BNScaleImportance),
    "taylor": _taylor,
    "hessian": _hessian,
}
DATA_FREE = frozenset({"magnitude", "lamp", "fpgm", "bn-scale"})
