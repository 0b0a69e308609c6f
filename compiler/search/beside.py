"""What each block costs where others are dropped, and the blocks behind these make up for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from chipfit.ir.apply import mask
from chipfit.ir.blocks import Block
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.streams import behind
from chipfit.search.probe import Probe
from chipfit.search.refit import refits


def masked(probe: Probe, configuration: Configuration, parameters: Mapping[str, Tensor]) -> Graph:
    """Of the whole graph at a probe's batch."""
    return mask(probe.graph.with_state(parameters), configuration)


@dataclass(frozen=True)
class Refitting:
    """Blocks, in order, that are refitted where those before them are dropped, on the probe's examples."""

    probe: Probe
    blocks: Mapping[str, Block]
    repair: bool = True  # otherwise none is

    def parameters(self, configuration: Configuration, repaired: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The repaired parameters with those by which blocks make up for the dropped ones before them."""
        near = behind(self.blocks, configuration.dropped) if self.repair else []
        found = refits(self.probe, masked(self.probe, configuration, repaired), near) if near else {}
        return {**repaired, **found}


@dataclass(frozen=True)
class Beside:
    """A graph without the `dropped` blocks: the blocks behind all of these are refitted once.

    For each other block only those that it is for are refitted anew.
    """

    fitting: Refitting
    probe: Probe  # on which losses are measured
    dropped: frozenset[str]

    def loss(self, name: str) -> float:
        """What dropping the block costs if just the others of `dropped` are gone too."""
        other, blocks = Configuration({}, self.dropped ^ {name}), self.fitting.blocks
        left = {key: one for key, one in blocks.items() if key == name or key not in self.dropped}
        near = [*([blocks[name]] if name in self.dropped else []), *behind(left, {name})] if self.fitting.repair else []
        fitted, measured = self._probes
        changed = masked(self.fitting.probe, other, self._parameters)
        parameters = self._parameters | refits(fitted, changed, near)
        loss = measured.loss(masked(self.probe, other, parameters))
        return max(0.0, self._whole - loss if name in self.dropped else loss - self._whole)

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        return self.fitting.parameters(Configuration({}, self.dropped), {})

    @cached_property
    def _probes(self) -> tuple[Probe, Probe]:
        """To fit and to measure on, from the graph without these blocks on."""
        together = Configuration({}, self.dropped)
        fitted, measured = (one.at(masked(one, together, self._parameters)) for one in (self.fitting.probe, self.probe))
        return fitted, measured

    @cached_property
    def _whole(self) -> float:
        return self._probes[1].loss(self._probes[1].graph)
