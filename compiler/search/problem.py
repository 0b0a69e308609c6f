"""From a graph, its sensitivity and a chip's cost model to the solver's problem, and back to a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.apply import can_rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import UNCHANGED, Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.kernel import Kernel
from chipfit.ir.memo import per_graph
from chipfit.ir.work import Work
from chipfit.passes.base import Rounding
from chipfit.passes.factorize import belongs, down_weight, rank_axis, tall_layers, with_factors
from chipfit.passes.layers import Layer
from chipfit.search.curves import Level, Sensitivity
from chipfit.search.solve import Item, Problem, Solution, exclusive_pairs
from chipfit.search.tables import Amount, Tabulator, Widths, parameter_bytes, task, vanishing
from chipfit.targets.cost import Cost, CostModel, core, full_plan
from chipfit.targets.weights import kept_values

NOTHING = frozenset[str]()


@dataclass(frozen=True)
class Landscape:
    """What there is to choose in a graph on a chip. The graph is the one that codegen plans kernels for.

    Where layers were split to give them a rank, `plain` is the graph without the splits: a rank that isn't cut costs
    what the whole layer does. `rounding` is the pass that keeps weights in few bits, if there is one: those that the
    sensitivity knows of are a choice, and where it knows of none the pass rounds what it can.
    """

    graph: Graph
    sensitivity: Sensitivity
    cost_model: CostModel
    batch: int = 1
    plain: Graph | None = None
    rounding: Rounding | None = None

    @cached_property
    def problem(self) -> Problem:
        """The solver's problem over `latency` (ms) and `size` (bytes)."""
        losses = {axis: tuple(level.loss for level in found) for axis, found in self._levels.items()}
        quantities = {
            "latency": (self._constant, *self._items(self._kernel_axes, self._amount_of_kernels(self._latency))),
            "size": self._items(self._parameter_axes, self._size),
        }
        return Problem(losses, dict(self.sensitivity.drops), quantities, exclusive_pairs(self._inside))

    def cost(self, configuration: Configuration) -> Cost:
        return self.cost_model.cost(self.form(configuration), configuration, self.batch)

    def form(self, configuration: Configuration) -> Graph:
        """The graph that a configuration is cut in: with those layers split whose rank it cuts, and rounded."""
        return self._form(self._ranks.intersection(configuration.widths), configuration.rounded)

    def _form(self, ranks: frozenset[str], rounded: frozenset[str] | None) -> Graph:
        if ranks not in self._forms:
            self._forms[ranks] = with_factors(self.plain, self.graph, ranks) if self.plain else self.graph
        return rounded_form(self._forms[ranks], self.rounding, rounded)

    def configuration(self, solution: Solution) -> Configuration:
        """What the solver chose; axes that keep their full width, or vanish with a block, are left out."""
        levels, groups = self._levels, self.sensitivity.rounded
        narrowed = (axis for axis, level in solution.levels.items() if level and axis not in groups)
        widths = {axis: levels[axis][solution.levels[axis]].kept for axis in narrowed}
        rounded = (group.weights for name, group in groups.items() if solution.levels[name])
        return Configuration(widths, solution.dropped, frozenset().union(*rounded) if groups else None)

    def loss_of_rounding(self, configuration: Configuration) -> float:
        """What the weights that it keeps in few bits lose, one by one: it adds up."""
        rounded = configuration.rounded or NOTHING
        return sum(one.loss for one in self.sensitivity.rounded.values() if one.weights <= rounded)

    def limited(self, quantities: Iterable[str]) -> Problem:
        """The problem over what is limited too: energy (mJ) is tabulated only where someone asks for it."""
        return self._with_energy if "energy" in quantities else self.problem

    @cached_property
    def _with_energy(self) -> Problem:
        items = self._items(self._kernel_axes, self._amount_of_kernels(self._energy))
        return replace(self.problem, quantities={**self.problem.quantities, "energy": items})

    def with_peak(self, problem: Problem, configuration: Configuration) -> tuple[str, Problem]:
        """The problem with one more quantity: what is held at the moment that is the configuration's peak of memory."""
        form, forms = self.form(configuration), dict[str, set[int]]()
        for name, lying in self.cost_model.buffers(form, configuration, self.batch).at_peak:
            forms.setdefault(name, set()).add(lying)
        plan = {core(kernel): kernel for base in (*self._bases, form) for kernel, _ in full_plan(base)}
        batch = self.batch if can_rebatch(form) else None

        def held(entry: str, widths: Widths) -> float:
            """Of a kernel: its packed weight, and what else it holds then."""
            found = task(self._within(widths), entry, widths, self.batch)
            if found is None or entry not in plan:
                return 0.0
            kernel = replace(plan[entry], kind=found[0].kind)  # `task` gives that of a layer built alike
            stored, packed = self.cost_model.stored_bytes(form, kernel, found[1])
            return packed + sum(stored[lying] for lying in forms.get(kernel.name, ()))

        inputs = [(forms.get(v.name, ()), self.cost_model.input_bytes(form, v, batch)) for v in form.forward.inputs]
        fixed = sum(stored[lying] for all_lying, stored in inputs for lying in all_lying)
        kept = {value.name for value in kept_values(form, self.cost_model.model.storage)}
        axes = {name: found for name, found in self._parameter_axes.items() if name in kept}
        parameters = self._items(axes, self._size)
        name = f"memory {len(problem.quantities)}"
        items = (*parameters, Item((), frozenset(), np.array(fixed)), *self._items(self._kernel_axes, held))
        return name, replace(problem, quantities={**problem.quantities, name: items})

    def _latency(self, kernel: Kernel, work: Work) -> float:
        return self.cost_model.kernel_ms(kernel, work, self._cold)

    @cached_property
    def _cold(self) -> float:
        """The share of weights that comes from memory, taken as it is before anything is removed."""
        return self.cost_model.cold_share(self.cost(UNCHANGED).weight_bytes)

    def _energy(self, kernel: Kernel, work: Work) -> float:
        model, table = self.cost_model.model, self.cost_model.energy
        return table.kernel_mj(kernel, work, model.traffic(kernel, work)) if table else 0.0

    def _amount_of_kernels(self, amount_of: Callable[[Kernel, Work], float]) -> Amount:
        """Of the kernel with a core or a name, each distinct piece of work asked about once."""
        known: dict[int, float] = {}  # by identity: `task` gives the same object for the same work

        def amount(entry: str, widths: Widths) -> float:
            found = task(self._within(widths), entry, widths, self.batch)
            if found is None:
                return 0.0
            if id(found) not in known:
                known[id(found)] = amount_of(*found)
            return known[id(found)]

        return amount

    def _size(self, entry: str, widths: Widths) -> float:
        return parameter_bytes(self._within(widths), entry, widths)

    def _within(self, widths: Widths) -> Graph:
        """The form in which an entry is of its size at these widths, a group that is rounded being one of them."""
        rounds = not self.sensitivity.rounded or any(name in self.sensitivity.rounded for name in widths)
        return self._form(self._ranks.intersection(widths), None if rounds else NOTHING)

    def _items(self, axes_of: Mapping[str, tuple[str, ...]], amount: Amount) -> tuple[Item, ...]:
        """One item per distinct (axes, blocks), holding all that depends on just these."""
        summed: dict[tuple[tuple[str, ...], frozenset[str]], NDArray[np.float64]] = {}
        for entry, (axes, table) in Tabulator(self._levels, axes_of).tabulate(amount):
            key = axes, frozenset(block for block, entries in self._inside.items() if entry in entries)
            summed[key] = summed[key] + table if key in summed else table
        return tuple(Item(axes, blocks, table) for (axes, blocks), table in summed.items())

    @property
    def _constant(self) -> Item:
        """What a call costs besides its kernels."""
        whole = self.cost(UNCHANGED)
        rest = whole.latency_ms - sum(layer.latency_ms for layer in whole.layers)
        return Item((), frozenset(), np.array(rest))

    @cached_property
    def _kernel_axes(self) -> dict[str, tuple[str, ...]]:
        """Kernel, by its core -> the axes with a choice that occur in its shapes."""
        found = {core(kernel): self._chosen(base, values) for base in self._bases for kernel, values in full_plan(base)}
        return found | {
            core(kernel): self._of_either(layer, form, values)
            for layer in self._split
            for form in self._wholes
            for kernel, values in full_plan(form)
            if any(belongs(value, layer) for value in values)
        }

    @cached_property
    def _parameter_axes(self) -> dict[str, tuple[str, ...]]:
        found = {name: self._chosen(base, [name]) for base in self._bases for name in base.parameters}
        return found | {
            name: self._of_either(layer, form, [name])
            for layer in self._split
            for form in (*self._bases, *self._wholes)
            for name in form.parameters
            if belongs(name, layer)
        }

    def _of_either(self, layer: Layer, form: Graph, values: Iterable[str]) -> tuple[str, ...]:
        """The axes of values that are there because a layer is split, or isn't: its own and its rank among them."""
        own = self._chosen(self.graph, [layer.input.name, layer.weight, down_weight(layer.node)])
        axes = {*own, *self._chosen(form, values)}
        return tuple(axis for axis in self._levels if axis in axes)

    @cached_property
    def _wholes(self) -> tuple[Graph, ...]:
        """The graph with no layer split, in all the precisions that there are to choose from."""
        return tuple(self._form(NOTHING, rounded) for rounded in self._precisions)

    def _chosen(self, graph: Graph, values: Iterable[str]) -> tuple[str, ...]:
        """The axes with a choice of some values, and the groups of weights that may be rounded."""
        analysis, names = analyse(graph), list(values)
        axes = {self._owners[name] for name in names if name in self._owners}.union(*map(analysis.axes_of, names))
        return tuple(axis for axis in self._levels if axis in axes)

    @cached_property
    def _levels(self) -> dict[str, tuple[Level, ...]]:
        """Of every axis, and of every group of weights that may be rounded: as it is, and rounded."""
        groups = {name: (Level((), 0.0), Level((), one.loss)) for name, one in self.sensitivity.rounded.items()}
        return {**self.sensitivity.levels, **groups}

    @cached_property
    def _bases(self) -> tuple[Graph, ...]:
        """The graph with all layers split, in all the precisions that there are to choose from."""
        return tuple(rounded_form(self.graph, self.rounding, rounded) for rounded in self._precisions)

    @property
    def _precisions(self) -> tuple[frozenset[str] | None, ...]:
        """The weights that are rounded in the forms to tabulate: none and all, or where it is no choice all."""
        return (NOTHING, None) if self.sensitivity.rounded else (None,)

    @cached_property
    def _owners(self) -> dict[str, str]:
        """Value -> the group of weights for which it is there, or in few bits."""
        owners = {weight: name for name, one in self.sensitivity.rounded.items() for weight in one.weights}
        whole, rounded = self._bases[0], self._bases[-1]
        for name in rounded.parameters.keys() - whole.parameters.keys():
            owners[name] = owners[max((each for each in owners if name.startswith(each)), key=len)]
        plan = [values for _, values in full_plan(rounded)]
        before = {value for _, values in full_plan(whole) for value in values}
        for values in (*reversed(plan), *plan):
            owner = next((owners[value] for value in values if value in owners), None)
            if owner:
                owners = dict.fromkeys((value for value in values if value not in before), owner) | owners
        return owners

    @cached_property
    def _ranks(self) -> frozenset[str]:
        return frozenset(rank_axis(layer.node) for layer in self._split)

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
        forms = [self._form(NOTHING, rounded) for rounded in (NOTHING, None)]
        blocks = self.sensitivity.drops
        return {block: frozenset[str]().union(*(vanishing(form, block) for form in forms)) for block in blocks}


def rounded_form(graph: Graph, rounding: Rounding | None, rounded: frozenset[str] | None) -> Graph:
    """The graph with these weights rounded; that with all of them is made once, as chips share what it comes to."""
    if rounding is None or rounded == NOTHING:
        return graph
    if rounded is not None:
        return rounding.rounded(graph, rounded, {})
    if rounding not in _wholly_rounded(graph):
        _wholly_rounded(graph)[rounding] = rounding.rounded(graph, None, {})
    return _wholly_rounded(graph)[rounding]


@per_graph
def _wholly_rounded(graph: Graph) -> dict[Rounding, Graph]:
    return {}
