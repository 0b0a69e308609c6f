"""From a graph, its sensitivity and a chip's cost model to the solver's problem, and back to a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.kernels import kernels
from chipfit.ir.shapes import what_if
from chipfit.passes.factorize import down_weight, rank_axis, tall_layers, with_factors
from chipfit.passes.layers import Layer
from chipfit.search.sensitivity import Sensitivity
from chipfit.search.solve import Item, Problem, Solution, exclusive_pairs
from chipfit.search.tables import Amounts, Tabulator
from chipfit.targets.cost import Cost, CostModel, core


@dataclass(frozen=True)
class Landscape:
    """What there is to choose in a graph on a chip. The graph is the one that codegen plans kernels for.

    Where layers were split to give them a rank, `plain` is the graph without the splits: a rank that isn't cut costs
    what the whole layer does.
    """

    graph: Graph
    sensitivity: Sensitivity
    cost_model: CostModel
    batch: int = 1
    plain: Graph | None = None

    @cached_property
    def problem(self) -> Problem:
        """The solver's problem over `latency` (ms) and `size` (bytes)."""
        losses = {axis: tuple(level.loss for level in found) for axis, found in self.sensitivity.levels.items()}
        quantities = {
            "latency": (self._constant, *self._items(self.latencies, self._kernel_axes)),
            "size": self._items(self.sizes, self._parameter_axes),
        }
        return Problem(losses, dict(self.sensitivity.drops), quantities, exclusive_pairs(self._inside))

    def cost(self, configuration: Configuration) -> Cost:
        return self.cost_model.cost(self.form(configuration), configuration, self.batch)

    def form(self, configuration: Configuration) -> Graph:
        """The graph that the configuration is applied to: with those layers split whose rank it cuts."""
        if self.plain is None:
            return self.graph
        ranks = frozenset(rank_axis(layer.node) for layer in self._split).intersection(configuration.widths)
        if ranks not in self._forms:
            self._forms[ranks] = with_factors(self.plain, self.graph, ranks)
        return self._forms[ranks]

    def configuration(self, solution: Solution) -> Configuration:
        """What the solver chose; axes that keep their full width, or vanish with a block, are left out."""
        levels = self.sensitivity.levels
        widths = {axis: levels[axis][level].kept for axis, level in solution.levels.items() if level}
        return Configuration(widths, solution.dropped)

    def latencies(self, configuration: Configuration) -> dict[str, float]:
        """Kernel, by its core -> milliseconds."""
        return {layer.core: layer.latency_ms for layer in self.cost(configuration).layers}

    def energies(self, configuration: Configuration) -> dict[str, float]:
        """Kernel, by its core -> millijoules, as far as they are known."""
        return {layer.core: layer.energy_mj or 0.0 for layer in self.cost(configuration).layers}

    def sizes(self, configuration: Configuration) -> dict[str, float]:
        """Parameter -> bytes."""
        graph = self.form(configuration)
        shapes = what_if(graph, configuration, self.batch)
        return {
            name: float(np.prod(shapes[name], dtype=np.int64)) * parameter.value.type.dtype.itemsize
            for name, parameter in graph.parameters.items()
            if name in shapes
        }

    def limited(self, quantities: Iterable[str]) -> Problem:
        """The problem over what is limited too: energy (mJ) is tabulated only where someone asks for it."""
        return self._with_energy if "energy" in quantities else self.problem

    @cached_property
    def _with_energy(self) -> Problem:
        items = self._items(self.energies, self._kernel_axes)
        return replace(self.problem, quantities={**self.problem.quantities, "energy": items})

    def with_peak(self, problem: Problem, configuration: Configuration) -> tuple[str, Problem]:
        """The problem with one more quantity: what is held at the moment that is the configuration's peak of memory."""
        held = self.cost_model.buffers(self.form(configuration), configuration, self.batch).at_peak

        def amounts_of(other: Configuration) -> dict[str, float]:
            sizes = self.cost_model.buffers(self.form(other), other, self.batch).size
            return {name: float(sizes[name]) for name in held if name in sizes}

        axes = {name: self._kernel_axes.get(name, ()) for name in (*amounts_of(Configuration()), *held)}
        name = f"memory {len(problem.quantities)}"
        items = (*problem.quantities["size"], *self._items(amounts_of, axes))
        return name, replace(problem, quantities={**problem.quantities, name: items})

    def _items(self, amounts_of: Amounts, axes_of: Mapping[str, tuple[str, ...]]) -> tuple[Item, ...]:
        """One item per distinct (axes, blocks), holding all that depends on just these."""
        summed: dict[tuple[tuple[str, ...], frozenset[str]], NDArray[np.float64]] = {}
        for entry, (axes, table) in Tabulator(self.sensitivity.levels, axes_of).tabulate(amounts_of):
            key = axes, frozenset(block for block, entries in self._inside.items() if entry in entries)
            summed[key] = summed[key] + table if key in summed else table
        return tuple(Item(axes, blocks, table) for (axes, blocks), table in summed.items())

    @property
    def _constant(self) -> Item:
        """What a call costs besides its kernels."""
        whole = self.cost(Configuration())
        rest = whole.latency_ms - sum(layer.latency_ms for layer in whole.layers)
        return Item((), frozenset(), np.array(rest))

    @cached_property
    def _kernel_axes(self) -> dict[str, tuple[str, ...]]:
        """Kernel, by core and by name -> the axes with a choice that occur in its shapes."""
        found = {
            name: self._chosen(value.name for node in kernel.nodes for value in (*node.inputs, *node.outputs))
            for kernel in kernels(self.graph.forward)
            for name in (core(kernel), kernel.name)
        }
        whole = {layer.node.name: self._chosen([layer.input.name, down_weight(layer.node)]) for layer in self._split}
        return found | whole

    @cached_property
    def _parameter_axes(self) -> dict[str, tuple[str, ...]]:
        whole = {layer.weight: self._chosen([layer.input.name, down_weight(layer.node)]) for layer in self._split}
        return whole | {name: self._chosen([name]) for name in self.graph.parameters}

    def _chosen(self, values: Iterable[str]) -> tuple[str, ...]:
        analysis = analyse(self.graph)
        axes = set[str]().union(*(analysis.axes_of(value) for value in values))
        return tuple(axis for axis in self.sensitivity.levels if axis in axes)

    @cached_property
    def _split(self) -> list[Layer]:
        """The layers of `plain` that are split in `graph`; whole they depend on what their two halves do."""
        found = tall_layers(self.plain) if self.plain else []
        return [layer for layer in found if down_weight(layer.node) in self.graph.parameters]

    @cached_property
    def _forms(self) -> dict[frozenset[str], Graph]:
        return {}

    @cached_property
    def _inside(self) -> dict[str, frozenset[str]]:
        """Block -> the kernels and parameters that vanish with it."""
        full = self._present(Configuration())
        drops = self.sensitivity.drops
        return {block: full - self._present(Configuration({}, frozenset({block}))) for block in drops}

    def _present(self, configuration: Configuration) -> frozenset[str]:
        layers = self.cost(configuration).layers
        kernels_left = (name for layer in layers for name in (layer.name, layer.core))
        return frozenset(kernels_left) | frozenset(self.sizes(configuration))
