"""torch-pruning's pruner as a strategy: `chipfit compile MODEL --strategy benchmarks/torch_pruner.py:TorchPruning`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import torch_pruning as tp
from modules import as_modules
from torch import nn

from chipfit.ir.apply import rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.passes.layers import Layer, layers
from chipfit.passes.members import axis_indices
from chipfit.search.strategies.base import Proposal, Strategy

ROUND_TO = 8  # channels, as its users are advised
RATIOS = [step / 32 for step in range(1, 32)]


@dataclass(frozen=True)
class TorchPruning(Strategy):
    """`BasePruner`, global and isomorphic, with `GroupTaylorImportance`, its ratio raised until the latency fits.

    It finds its groups itself. Departs from its README in a loss that needs no labels. A layer that it would remove
    altogether it leaves whole, so that higher ratios need not be faster: all are tried in turn.
    """

    name: ClassVar[str] = "torch-pruning"
    summary: ClassVar[str] = "torch-pruning's BasePruner, its ratio raised until the latency fits"
    needs: ClassVar[tuple[str, ...]] = ("prune-axes",)

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        for ratio, configuration in self._tried:
            if self.task.fits(configuration, limits):
                return Proposal(configuration, ratio)
        fastest = min((one for _, one in self._tried), key=lambda one: self.task.landscape.cost(one).latency_ms)
        raise self.task.unreachable(fastest, limits)

    @cached_property
    def _tried(self) -> Sequence[tuple[float, Configuration]]:
        return [(0.0, Configuration()), *((ratio, self._at(ratio)) for ratio in RATIOS)]

    def _at(self, ratio: float) -> Configuration:
        sizes = {name: axis.size for name, axis in self.task.axes.items()}
        removed = self._removed(ratio)
        return Configuration({name: tuple(sorted({*range(sizes[name])} - gone)) for name, gone in removed.items()})

    def _removed(self, ratio: float) -> dict[str, set[int]]:
        """Axis -> the indices that the pruner removes."""
        model = self._model
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        pruner = tp.pruner.BasePruner(
            model,
            torch.zeros(self._shape),
            importance=tp.importance.GroupTaylorImportance(),
            global_pruning=True,
            isomorphic=True,
            pruning_ratio=ratio,
            round_to=ROUND_TO,
            ignored_layers=linears[-1:],
        )
        names, found = {module: name for name, module in model.named_modules()}, defaultdict[str, set[int]](set)
        for group in pruner.step(interactive=True):
            for dependency, places in group:
                name = names.get(dependency.target.module, "")
                if name in self._outputs and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                    axis, indices = self._outputs[name]
                    found[axis].update(indices[places].tolist())
        return found

    @property
    def _model(self) -> nn.Module:
        """With the loss's gradients."""
        graph = rebatch(self.task.teacher, 1)
        model = as_modules(graph)
        for name, layer in self._layers.items():
            module = model.get_submodule(name)
            module.weight.grad = self.task.statistics.gradients[layer.weight]
            if layer.bias:
                module.bias.grad = self.task.statistics.gradients[layer.bias]
        return model

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return rebatch(self.task.teacher, 1).forward.inputs[0].shape

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        return dict(layers(self.task.teacher))

    @cached_property
    def _outputs(self) -> dict[str, tuple[str, np.ndarray]]:
        """Layer -> the axis of its outputs, and the index of each of them."""
        analysis, found = analyse(self.task.teacher), {}
        for axis_name, axis in self.task.axes.items():
            for name, layer in self._layers.items():
                if (layer.weight, layer.out_dim) in axis.members:
                    found[name] = axis_name, axis_indices(analysis, axis, layer.weight, layer.out_dim)
        return found
