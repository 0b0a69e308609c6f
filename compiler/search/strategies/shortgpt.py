"""shortgpt: drop the layers that change their input the least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from chipfit.ir.blocks import Block, find_blocks
from chipfit.search.strategies.depth import Depth

IMAGE = 4  # dimensions of a batch of images, whose channels come second; elsewhere features come last


@dataclass(frozen=True)
class ShortGpt(Depth):
    """ShortGPT (Men et al. 2024, arXiv 2403.03853): layers by Block Influence, all scored once on the whole model.

    Block Influence is one minus the cosine between a layer's input and output, in the mean over tokens. Departs from
    it where a model has no equal layers: there residual branches are dropped, and images have pixels for tokens.
    """

    name: ClassVar[str] = "shortgpt"
    summary: ClassVar[str] = "drop the layers whose output is most like their input"

    def following(self, dropped: tuple[str, ...]) -> str:
        return min((name for name in self._influences if name not in dropped), key=lambda name: self._influences[name])

    @cached_property
    def _influences(self) -> dict[str, float]:
        blocks = find_blocks(self.task.teacher)
        return {name: self._influence(blocks[name]) for name in self.task.layers}

    def _influence(self, block: Block) -> float:
        before, after = (self._value(name) for name in (block.skip, block.exit))
        dim = 1 if before.dim() == IMAGE else -1
        return float(1 - functional.cosine_similarity(before.float(), after.float(), dim).mean())

    def _value(self, name: str) -> Tensor:
        probe = self.task.probe
        inputs = dict(zip((value.name for value in probe.entry.inputs), probe.inputs, strict=True))
        return {**inputs, **probe.reference}[name]
