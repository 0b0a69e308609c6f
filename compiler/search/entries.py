"""What there is in all forms of a graph, kernels and parameters, and what the size of each depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from chipfit.ir.axes import analyse
from chipfit.ir.graph import Graph
from chipfit.passes.factorize import belongs, down_weight
from chipfit.passes.layers import Layer
from chipfit.search.curves import Sensitivity
from chipfit.search.forms import NOTHING, Forms, Names
from chipfit.search.tables import Widths
from chipfit.search.vanishing import vanishing
from chipfit.targets.cost import core, full_plan

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Entries:
    """An axis here is one with a choice: a width, or a group of weights that may be rounded, by its name."""

    forms: Forms
    sensitivity: Sensitivity

    @cached_property
    def kernels(self) -> Mapping[str, Axes]:
        """Kernel, by its core -> the axes in its shapes."""
        found = {core(kernel): self._chosen(base, values) for base in self.bases for kernel, values in full_plan(base)}
        return found | {
            core(kernel): self._of_either(layer, form, values)
            for layer in self.forms.layers
            for form in self._wholes
            for kernel, values in full_plan(form)
            if any(belongs(value, layer) for value in values)
        }

    @cached_property
    def parameters(self) -> Mapping[str, Axes]:
        found = {name: self._chosen(base, [name]) for base in self.bases for name in base.parameters}
        return found | {
            name: self._of_either(layer, form, [name])
            for layer in self.forms.layers
            for form in (*self.bases, *self._wholes)
            for name in form.parameters
            if belongs(name, layer)
        }

    @cached_property
    def inside(self) -> Mapping[str, Names]:
        """Block -> the kernels and parameters that vanish with it."""
        forms = [self.forms.whole(rounded) for rounded in (NOTHING, None)]
        blocks = self.sensitivity.drops
        return {block: frozenset[str]().union(*(vanishing(form, block) for form in forms)) for block in blocks}

    @cached_property
    def bases(self) -> tuple[Graph, ...]:
        """The graph with all layers split, in all the precisions that there are to choose from."""
        return tuple(map(self.forms.split, self._precisions))

    def within(self, widths: Widths) -> Graph:
        """The form in which an entry is of its size at these widths, a group that is rounded being one of them."""
        rounds = not self.sensitivity.rounded or any(name in self.sensitivity.rounded for name in widths)
        return self.forms.form(widths, None if rounds else NOTHING)

    def _of_either(self, layer: Layer, form: Graph, values: Iterable[str]) -> Axes:
        """The axes of values that are there because a layer is split, or isn't: its own and its rank among them."""
        own = self._chosen(self.forms.graph, [layer.input.name, layer.weight, down_weight(layer.node)])
        return self._in_order({*own, *self._chosen(form, values)})

    def _chosen(self, graph: Graph, values: Iterable[str]) -> Axes:
        """The axes of some values, and the groups of weights for which they are there."""
        analysis, names = analyse(graph), list(values)
        owners = {self._owners[name] for name in names if name in self._owners}
        return self._in_order(owners.union(*map(analysis.axes_of, names)))

    def _in_order(self, axes: set[str]) -> Axes:
        return tuple(axis for axis in (*self.sensitivity.levels, *self.sensitivity.rounded) if axis in axes)

    @cached_property
    def _wholes(self) -> tuple[Graph, ...]:
        """The graph with no layer split, in all the precisions that there are to choose from."""
        return tuple(map(self.forms.whole, self._precisions))

    @property
    def _precisions(self) -> tuple[Names | None, ...]:
        """The weights that are rounded in the forms to tabulate: none and all, or where it is no choice all."""
        return (NOTHING, None) if self.sensitivity.rounded else (None,)

    @cached_property
    def _owners(self) -> Mapping[str, str]:
        """Value -> the group of weights for which it is there, or in few bits."""
        owners = {weight: name for name, one in self.sensitivity.rounded.items() for weight in one.weights}
        whole, rounded = self.bases[0], self.bases[-1]
        for name in rounded.parameters.keys() - whole.parameters.keys():
            owners[name] = owners[max((each for each in owners if name.startswith(each)), key=len)]
        plan = [values for _, values in full_plan(rounded)]
        before = {value for _, values in full_plan(whole) for value in values}
        for values in (*reversed(plan), *plan):
            owner = next((owners[value] for value in values if value in owners), None)
            if owner:
                owners = dict.fromkeys((value for value in values if value not in before), owner) | owners
        return owners
