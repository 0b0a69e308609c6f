"""Sensitivity: what each width of an axis and each dropped block costs in quality, measured on calibration data.

A candidate is the graph with some of its weights masked and their readers repaired, or with one branch dropped and the
blocks behind it repaired. Only the part of the graph behind the change is run again; everything before it is taken from
one run of the whole. No chip has a say in what is measured: each takes the widths that suit it from the same curves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from chipfit.ir.axes import Axis, analyse
from chipfit.ir.blocks import Block, smallest_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Inputs, Progress, Rounding, silent
from chipfit.passes.importance import is_rank, rank, readers
from chipfit.passes.layers import Layer
from chipfit.passes.repair import masked_repair
from chipfit.passes.statistics import Statistics
from chipfit.passes.surgeon import order, readings
from chipfit.search.beside import Beside, Refitting, masked
from chipfit.search.curves import Curve, Curves, Rounded, measured_widths
from chipfit.search.known import Known
from chipfit.search.probe import Probe, calibration_size, operations
from chipfit.search.roundings import Roundings
from chipfit.stages import write_json

REPAIRED = 16  # readers of an axis, at most, that are repaired to measure it
REMEMBERED = 2**30  # bytes of repaired weights that are kept for the next configuration
SAVE_EVERY = 8  # candidates between checkpoints
LEAST_SAVING = 0.003  # of all operations, by the narrowest width: an axis that saves less is not worth measuring
STATISTICS = 64  # examples for scores and repair, which look at every token or pixel
FITTED = 32  # the same for blocks behind dropped ones, held at every border of blocks

Candidate = Axis | Block | frozenset[str]


def candidates(graph: Graph) -> tuple[dict[str, Axis], dict[str, Block]]:
    """The axes worth narrowing, with the rest computing what it did, and the smallest droppable blocks."""
    exact = {name: axis for name, axis in analyse(graph).axes.items() if axis.state == "exact" and axis.size > 1}
    whole = operations(graph, Configuration())
    narrowest = {axis.name: tuple(range(measured_widths(axis.size)[-1])) for axis in exact.values()}
    left = {name: operations(graph, Configuration({name: kept})) / whole for name, kept in narrowest.items()}
    return {name: axis for name, axis in exact.items() if 1 - left[name] >= LEAST_SAVING}, smallest_blocks(graph)


@dataclass(frozen=True)
class Survey:
    """How to measure: on what, and what the passes at hand can do."""

    graph: Graph
    examples: Sequence[Inputs]
    narrow: bool = True
    drop: bool = True
    repair: bool = True
    rounding: Rounding | None = None
    plain: Graph | None = None  # without the splits, where layers of the graph were split to give them a rank
    known: Known = field(default_factory=Known)  # losses of wholes

    def measure(self, checkpoint: Path | None = None, progress: Progress = silent) -> Curves:
        """Goes through all candidates; what `checkpoint` holds from a run that was stopped is not measured again."""
        axes, blocks = self._offered
        tasks: list[tuple[str, Candidate]] = [*axes.items(), *blocks.items(), *self._groups.items()]
        found = Curves.kept_in(checkpoint)
        began = time.perf_counter() - found.seconds
        for done, (name, candidate) in enumerate(tasks):
            progress("sensitivity", done / len(tasks))
            if not any(name in known for known in (found.axes, found.drops, found.rounded)):
                found = self._with(found, candidate, began)
                if checkpoint and (done % SAVE_EVERY == 0 or done == len(tasks) - 1):
                    write_json(checkpoint, found.to_json())
        return found

    @property
    def unmeasured(self) -> Curves:
        """All that `measure` would go through, as if removing it cost nothing."""
        axes, blocks = self._offered
        curves = {
            name: Curve(tuple(range(axis.size)), dict.fromkeys(measured_widths(axis.size), 0.0))
            for name, axis in axes.items()
        }
        rounded = {name: Rounded(weights, 0.0) for name, weights in self._groups.items()}
        return Curves(curves, dict.fromkeys(blocks, 0.0), rounded)

    def loss(self, configuration: Configuration) -> float:
        """How far the outputs move with all of this removed and what is left repaired; what rounding loses adds to it.

        A layer that reads several axes is repaired for the first of them.
        """
        removed = replace(configuration, rounded=frozenset())
        return self.known.of(removed.digest, partial(self._loss, removed))

    def loss_of_rounding(self, weights: frozenset[str]) -> float:
        """How far the outputs move with these weights rounded, nothing removed."""
        if self._roundings is None:
            return 0.0
        return max(0.0, self._exact.loss(self._roundings.rounded(self._exact.graph, weights)))

    def losses_beside(self, dropped: frozenset[str], progress: Progress = silent) -> dict[str, float]:
        """Of each block what dropping it costs if just the others of `dropped` are gone too."""
        context, beside = Configuration({}, dropped).digest, Beside(self._refitting, self._probe, dropped)
        losses = dict[str, float]()
        for name in self._blocks:
            progress("measuring blocks in context", len(losses) / len(self._blocks))
            losses[name] = self.known.of(f"{context} {name}", partial(beside.loss, name))
        return losses

    def _loss(self, configuration: Configuration) -> float:
        repaired: dict[str, Tensor] = {}
        for name, kept in configuration.widths.items():
            repaired = self._remembered(self._axes[name], kept) | repaired
        parameters = self._refitting.parameters(configuration, repaired)
        return self._probe.loss(masked(self._probe, configuration, parameters))

    def _remembered(self, axis: Axis, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """The repaired readers of an axis; configurations have many of them in common."""
        key = axis.name, kept
        if key in self._repairs:
            return self._repairs[key]
        found = self._repaired(axis, kept)
        held = sum(tensor.nbytes for known in self._repairs.values() for tensor in known.values())
        if held + sum(tensor.nbytes for tensor in found.values()) <= REMEMBERED:
            self._repairs[key] = found
        return found

    def _with(self, found: Curves, candidate: Candidate, began: float) -> Curves:
        if isinstance(candidate, Axis):
            found = replace(found, axes={**found.axes, candidate.name: self._curve(candidate)})
        elif isinstance(candidate, frozenset):
            one = Rounded(candidate, self.loss_of_rounding(candidate))
            found = replace(found, rounded={**found.rounded, min(candidate): one})
        else:
            loss = self.loss(Configuration({}, frozenset({candidate.name})))
            found = replace(found, drops={**found.drops, candidate.name: loss})
        return replace(found, seconds=time.perf_counter() - began)

    def _curve(self, axis: Axis) -> Curve:
        indices, losses = self._order(axis), {axis.size: 0.0}
        for width in measured_widths(axis.size)[1:]:
            kept = tuple(sorted(indices[:width]))
            narrowed = masked(self._probe, Configuration({axis.name: kept}), self._repaired(axis, kept))
            losses[width] = self._probe.loss(narrowed)
        return Curve(indices, losses)

    def _order(self, axis: Axis) -> tuple[int, ...]:
        """Its indices, those that matter most first: by what is lost after repair where its readers are repaired."""
        if self._repairable(axis) and not is_rank(axis):
            return order(axis.size, readings(self._statistics, axis, self._grams))
        return tuple(np.argsort(-rank(self._statistics, axis), kind="stable").tolist())

    def _repaired(self, axis: Axis, kept: tuple[int, ...]) -> dict[str, Tensor]:
        repaired: dict[str, Tensor] = {}
        for layer in self._repairable(axis):
            repaired |= masked_repair(self._statistics, layer, self._grams, axis, kept)
        return repaired

    def _repairable(self, axis: Axis) -> list[Layer]:
        """The layers to repair: none where nearly the whole model reads the axis, as the residual stream."""
        found = readers(self._statistics, axis) if self.repair else []
        return found if len(found) <= REPAIRED else []

    @cached_property
    def _repairs(self) -> dict[tuple[str, tuple[int, ...]], dict[str, Tensor]]:
        return {}

    @cached_property
    def _offered(self) -> tuple[dict[str, Axis], dict[str, Block]]:
        """What may be narrowed and dropped."""
        axes, blocks = candidates(self.graph)
        return axes if self.narrow else {}, blocks if self.drop else {}

    @cached_property
    def _roundings(self) -> Roundings | None:
        examples = self._unmeasured[:STATISTICS]
        return Roundings(self.rounding, self.graph, self.plain, examples) if self.rounding else None

    @property
    def _groups(self) -> dict[str, frozenset[str]]:
        return self._roundings.groups if self._roundings else {}

    @property
    def _axes(self) -> dict[str, Axis]:
        return self._offered[0]

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        return smallest_blocks(self.graph)

    @cached_property
    def _probe(self) -> Probe:
        return Probe.on(self.graph, self._measured)

    @cached_property
    def _exact(self) -> Probe:
        """For what rounding costs: bfloat16 makes more of any change than rounding does."""
        whole = self._roundings.whole if self._roundings else self.graph
        return replace(Probe.on(whole, self._measured), exact=True)

    @cached_property
    def _refitting(self) -> Refitting:
        """On as many examples as it takes to refit a layer."""
        return Refitting(Probe.on(self.graph, self._unmeasured[:FITTED]), self._blocks, self.repair)

    @property
    def _measured(self) -> Sequence[Inputs]:
        """Examples that losses are measured on, at most half of all: the others are left to fit to."""
        return self.examples[: max(1, min(calibration_size(self.graph), len(self.examples) // 2))]

    @property
    def _unmeasured(self) -> Sequence[Inputs]:
        """The others, where there are some: a fit is always good at its own."""
        return self.examples[len(self._measured) :] or self.examples

    @cached_property
    def _statistics(self) -> Statistics:
        return Statistics(self.graph, self._unmeasured[:STATISTICS])

    @cached_property
    def _grams(self) -> Mapping[str, Tensor]:
        reading = (self._repairable(axis) for axis in self._axes.values())
        return self._statistics.grams(layer.node.name for found in reading for layer in found)
