"""What calibration times: probes as graphs, and which of a library's times is that of which kernel."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chipfit.calibration.probes import Probe
from chipfit.calibration.undisturbed import Least
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.quantize import Quantize
from chipfit.targets.amounts import DISPATCH, Amounts, amounts
from chipfit.targets.calibrate import Calibration, Sample, fit
from chipfit.targets.cost import full_plan
from chipfit.targets.cpu import terms_of
from chipfit.targets.reading import read_folder
from chipfit.targets.registry import FOLDERS, Target


@dataclass(frozen=True)
class Subject:
    """A probe as a graph, with the input that it is timed on."""

    probe: Probe
    graph: Graph
    input: Tensor
    needs: Mapping[str, Amounts]  # kernel -> its amounts

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.graph.state.values())

    def samples(self, least: Least, calls: Sequence[Mapping[str, Any]], fixed: Amounts) -> Iterator[Sample]:
        """One for the probe as a whole, and if it takes part in the fit one for each kernel.

        `calls` is the library's record of its kernels, `fixed` what a call needs besides them. Functions that TVM
        lowered in between are told apart from ours, not from each other. What a call takes besides its kernels is no
        part of a long one's time, which tells of its kernels alone.
        """
        held_out, kernels = self.probe.held_out, tuple(self.needs.values())
        if held_out or least.is_short:
            yield Sample(self.probe.name, kernels, fixed, least.milliseconds, held_out, self.weight_bytes)
        for values, milliseconds in attributed(calls, least.kernels):
            found = tuple(alone(self.needs[value]) for value in values if value in self.needs)
            if found and not held_out:
                name = f"{self.probe.name}: {' '.join(values)}"
                yield Sample(name, found, {}, milliseconds, False, self.weight_bytes)


def subject(probe: Probe, target: Target) -> Subject:
    torch.manual_seed(0)
    x = torch.randn(probe.shape)
    graph = rebatch(import_model(probe.build(), (x,)), probe.shape[0])
    graph = Quantize(activations=True).rounded(folded(graph), None, {}) if probe.rounded else graph
    return Subject(probe, graph, x, kernel_amounts(graph, target))


def kernel_amounts(graph: Graph, target: Target) -> dict[str, Amounts]:
    """Kernel -> what it needs of each term, views left out."""
    shapes = what_if(graph, Configuration())
    needs = {kernel.name: amounts(kernel, work(kernel, shapes), target.cpu) for kernel, _ in full_plan(graph)}
    return {name: amount for name, amount in needs.items() if amount}


def fitted(samples: Sequence[Sample], target: Target, today: datetime.date) -> Calibration:
    """The coefficients of a CPU's cost model that fit what was timed."""
    units = {name: rule.unit for name, rule in read_folder(FOLDERS)[0][target.family].rules.items()}
    return fit(samples, {name: units[name] for name in terms_of(units)}, today)


def alone(needs: Amounts) -> Amounts:
    """What a kernel needs that is timed on its own."""
    return {term: amount for term, amount in needs.items() if term != DISPATCH}


def attributed(
    calls: Sequence[Mapping[str, Any]], times: Sequence[tuple[str, float]]
) -> Iterator[tuple[tuple[str, ...], float]]:
    """(values computed, milliseconds) of each call in the library's record.

    A kernel of ours is one function, named after its kind. Stock calls become any number of functions with names of
    their own, so those between two kernels of ours are taken together. Changes of layout count as no kernel's.
    """
    rest = list(times)
    stock: list[str] = []
    for call in [*calls, {"value": "", "kernel": "none"}]:
        if "kernel" not in call:
            stock.append(call["value"])
            continue
        count = next((i for i, (name, _) in enumerate(rest) if is_kernel(name, call["kernel"])), len(rest))
        if stock:
            yield tuple(stock), sum(ms for _, ms in rest[:count])
        if count < len(rest) and not call["kernel"].endswith("image"):
            yield (call["value"],), rest[count][1]
        rest, stock = rest[count + 1 :], []


def is_kernel(function: str, kind: str) -> bool:
    return re.fullmatch(rf"{kind}_\d+", function) is not None
