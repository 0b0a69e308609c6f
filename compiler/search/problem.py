"""From a graph, its sensitivity and a chip's cost model to the solver's problem, and back to a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.apply import can_rebatch
from chipfit.ir.configuration import UNCHANGED, Configuration
from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.search.curves import Level, Sensitivity
from chipfit.search.entries import Entries
from chipfit.search.forms import NOTHING, Forms
from chipfit.search.solve import Item, Problem, Solution, exclusive_pairs
from chipfit.search.tables import Amount, Tabulator, Widths, parameter_bytes, task
from chipfit.targets.cost import Cost, CostModel, core, full_plan
from chipfit.targets.weights import kept_values


@dataclass(frozen=True)
class Landscape:
    """What there is to choose in a model on a chip.

    The weights to round that the sensitivity knows of are a choice; where it knows of none all that can be are rounded.
    """

    forms: Forms
    sensitivity: Sensitivity
    cost_model: CostModel
    batch: int = 1

    @cached_property
    def problem(self) -> Problem:
        """The solver's problem over `latency` (ms) and `size` (bytes)."""
        losses = {axis: tuple(level.loss for level in found) for axis, found in self._levels.items()}
        quantities = {
            "latency": (self._constant, *self._items(self._entries.kernels, self._amount_of_kernels(self._latency))),
            "size": self._items(self._entries.parameters, self._size),
        }
        return Problem(losses, dict(self.sensitivity.drops), quantities, exclusive_pairs(self._entries.inside))

    def cost(self, configuration: Configuration) -> Cost:
        return self.cost_model.cost(self.forms.of(configuration), configuration, self.batch)

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
        items = self._items(self._entries.kernels, self._amount_of_kernels(self._energy))
        return replace(self.problem, quantities={**self.problem.quantities, "energy": items})

    def with_peak(self, problem: Problem, configuration: Configuration) -> tuple[str, Problem]:
        """The problem with one more quantity: what is held at the moment that is the configuration's peak of memory."""
        form, forms = self.forms.of(configuration), dict[str, set[int]]()
        for name, lying in self.cost_model.buffers(form, configuration, self.batch).at_peak:
            forms.setdefault(name, set()).add(lying)
        plan = {core(kernel): kernel for base in (*self._entries.bases, form) for kernel, _ in full_plan(base)}
        batch = self.batch if can_rebatch(form) else None

        def held(entry: str, widths: Widths) -> float:
            """Of a kernel: its packed weight, and what else it holds then."""
            found = task(self._entries.within(widths), entry, widths, self.batch)
            if found is None or entry not in plan:
                return 0.0
            kernel = replace(plan[entry], kind=found[0].kind)  # `task` gives that of a layer built alike
            stored, packed = self.cost_model.stored_bytes(form, kernel, found[1])
            return packed + sum(stored[lying] for lying in forms.get(kernel.name, ()))

        inputs = [(forms.get(v.name, ()), self.cost_model.input_bytes(form, v, batch)) for v in form.forward.inputs]
        fixed = sum(stored[lying] for all_lying, stored in inputs for lying in all_lying)
        kept = {value.name for value in kept_values(form, self.cost_model.model.storage)}
        axes = {name: found for name, found in self._entries.parameters.items() if name in kept}
        parameters = self._items(axes, self._size)
        name = f"memory {len(problem.quantities)}"
        items = (*parameters, Item((), frozenset(), np.array(fixed)), *self._items(self._entries.kernels, held))
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
            found = task(self._entries.within(widths), entry, widths, self.batch)
            if found is None:
                return 0.0
            if id(found) not in known:
                known[id(found)] = amount_of(*found)
            return known[id(found)]

        return amount

    def _size(self, entry: str, widths: Widths) -> float:
        return parameter_bytes(self._entries.within(widths), entry, widths)

    def _items(self, axes_of: Mapping[str, tuple[str, ...]], amount: Amount) -> tuple[Item, ...]:
        """One item per distinct (axes, blocks), holding all that depends on just these."""
        summed: dict[tuple[tuple[str, ...], frozenset[str]], NDArray[np.float64]] = {}
        for entry, (axes, table) in Tabulator(self._levels, axes_of).tabulate(amount):
            key = axes, frozenset(block for block, entries in self._entries.inside.items() if entry in entries)
            summed[key] = summed[key] + table if key in summed else table
        return tuple(Item(axes, blocks, table) for (axes, blocks), table in summed.items())

    @property
    def _constant(self) -> Item:
        """What a call costs besides its kernels."""
        whole = self.cost(UNCHANGED)
        rest = whole.latency_ms - sum(layer.latency_ms for layer in whole.layers)
        return Item((), frozenset(), np.array(rest))

    @cached_property
    def _levels(self) -> dict[str, tuple[Level, ...]]:
        """Of every axis, and of every group of weights that may be rounded: as it is, and rounded."""
        groups = {name: (Level((), 0.0), Level((), one.loss)) for name, one in self.sensitivity.rounded.items()}
        return {**self.sensitivity.levels, **groups}

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self.forms, self.sensitivity)
