"""NVIDIA modelopt's FastNAS as a strategy: `chipfit compile MODEL --strategy benchmarks/fastnas.py:FastNas`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import modelopt.torch.nas as mtn
import modelopt.torch.prune as mtp
import torch
from modules import as_modules
from torch import Tensor, nn

from chipfit.ir.apply import rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.importance import best, rank
from chipfit.passes.layers import layers
from chipfit.search.probe import calibration_size, operations
from chipfit.search.strategies.base import Proposal, Strategy

HALVINGS = 7  # of the range of operations
BATCHES = 50  # of calibration, as many as modelopt takes for batch norms


@dataclass(frozen=True)
class FastNas(Strategy):
    """FastNAS of modelopt: widths by the sensitivity of one layer at a time, within a limit on operations.

    The limit is lowered until the chip's cost model says that the latency fits, which modelopt itself doesn't know. Its
    score is how little the outputs move on calibration data. Departs in which channels stay at a width that it chose:
    those of most magnitude, as there, but over all layers that share them.
    """

    name: ClassVar[str] = "fastnas"
    summary: ClassVar[str] = "modelopt's FastNAS, its limit on operations lowered until the latency fits"
    needs: ClassVar[tuple[str, ...]] = ("prune-axes",)

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        if self.task.fits(Configuration(), limits):
            return Proposal(Configuration(), 0.0)
        if not self.task.fits(self._smallest, limits):
            raise self.task.unreachable(self._smallest, limits)
        low, high, found = operations(self.task.teacher, self._smallest) / self._whole, 1.0, self._smallest
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            tried = self._within(middle)
            if tried is None:
                low = middle
            elif self.task.fits(tried, limits):
                low, found = middle, tried
            else:
                high = middle
        return Proposal(found, 1 - low)

    @cached_property
    def _whole(self) -> int:
        return operations(self.task.teacher, Configuration())

    @cached_property
    def _smallest(self) -> Configuration:
        model = mtn.convert(as_modules(self._graph), self._mode)
        mtn.sample(model, min)
        return self._configuration(model)

    @cached_property
    def _graph(self) -> Graph:
        return rebatch(self.task.teacher, max(2, calibration_size(self.task.teacher) // BATCHES))

    @property
    def _mode(self) -> list[tuple[str, dict[str, Any]]]:
        step = self.task.granularity
        channels, features = {"*": {"channel_divisor": step}}, {"*": {"feature_divisor": step}}
        return [("fastnas", {"nn.Conv2d": channels, "nn.BatchNorm2d": features})]

    def _within(self, share: float) -> Configuration | None:
        """What FastNAS chooses within that share of the operations; None where it finds that too few.

        Layers are judged once for all shares.
        """
        settings = {
            "data_loader": [(batch,) for batch in self._batches],
            "score_func": self._score,
            "checkpoint": str(Path(self._folder.name) / "fastnas.pth"),
            "verbose": False,
        }
        limit, model = {"flops": f"{100 * share}%"}, as_modules(self._graph)
        try:
            pruned, _ = mtp.prune(model, self._mode, limit, self._batches[0], settings)
        except ValueError:  # as it says, for want of a type of its own
            return None
        return self._configuration(pruned)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="chipfit-fastnas-")

    @cached_property
    def _batches(self) -> Sequence[Tensor]:
        """The first examples, again and again if they are fewer."""
        joined, size = torch.cat([inputs[0] for inputs in self.task.examples]), self._graph.batch
        assert size
        return joined[torch.arange(BATCHES * size) % len(joined)].split(size)

    @cached_property
    def _answers(self) -> Sequence[Tensor]:
        model = as_modules(self._graph).eval()
        with torch.no_grad():
            return [model(batch) for batch in self._batches]

    def _score(self, model: nn.Module) -> float:
        """The higher the better: minus the squared error of the outputs."""
        model.eval()
        with torch.no_grad():
            pairs = zip(self._batches, self._answers, strict=True)
            return -sum(float((model(batch) - wanted).square().mean()) for batch, wanted in pairs)

    def _configuration(self, model: nn.Module) -> Configuration:
        """The widths of a model that modelopt narrowed, by our axes."""
        found, widths = layers(self.task.teacher), dict[str, tuple[int, ...]]()
        outputs = {(layer.weight, layer.out_dim): name for name, layer in found.items()}
        for name, axis in self.task.axes.items():
            members = [outputs[member] for member in axis.members if member in outputs]
            width = min((model.get_submodule(member).weight.shape[0] for member in members), default=axis.size)
            if width < axis.size:
                widths[name] = best(rank(self.task.statistics, axis, "magnitude"), width)
        return Configuration(widths)
