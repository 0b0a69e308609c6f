"""One graph on every chip that is known: what it would cost there, and what would limit it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chipfit.calibration.kept import recalled
from chipfit.decoding import TokenLine, tokens
from chipfit.ir.graph import Graph
from chipfit.targets.cost import Cost, LayerCost
from chipfit.targets.energy import STATUS as ENERGY_STATUS
from chipfit.targets.registry import Target, all_targets

MEMORY = "memory_size"


@dataclass(frozen=True)
class LayerLine:
    """A module's share of the latency, and what takes most of its time."""

    name: str
    latency_ms: float
    share: float
    limit: str


@dataclass(frozen=True)
class ChipLine:
    """A graph on a chip. `limits` are the parts of the latency that each unit or path is the limit of.

    `memory_bytes` is what the chip has, None where its profile doesn't tell; `energy_process` whether the energy is
    scaled to the chip's process or that of 45 nm.
    """

    target: str
    family: str
    cost: Cost
    energy_process: bool
    memory_bytes: int | None
    limits: dict[str, float]
    layers: tuple[LayerLine, ...]
    tokens: TokenLine | None

    @property
    def fits(self) -> bool:
        return self.memory_bytes is None or self.cost.peak_memory_bytes <= self.memory_bytes

    def to_json(self) -> dict[str, Any]:
        """All but the layers."""
        names = ("target", "family", "memory_bytes", "fits", "limits", "energy_process")
        written = asdict(self.tokens) if self.tokens else None
        return {**{name: getattr(self, name) for name in names}, "cost": cost_json(self.cost), "tokens": written}


def over_chips(graph: Graph) -> tuple[ChipLine, ...]:
    """The graph, ready to deploy, on every chip; figures of chips that nobody timed are uncalibrated."""
    return tuple(on_chip(graph, recalled(target)) for target in all_targets())


def on_chip(graph: Graph, target: Target) -> ChipLine:
    cost = target.cost_model.cost(graph, batch=graph.batch or 1)
    figures, energy = target.profile.figures, target.cost_model.energy
    memory = int(target.profile.si(MEMORY)) if MEMORY in figures else None
    layers = tuple(by_module(cost.layers, cost.latency_ms))
    scaled = energy is not None and energy.scaled
    return ChipLine(target.name, target.family, cost, scaled, memory, _limits(cost), layers, tokens(graph, cost))


def cost_json(cost: Cost) -> dict[str, Any]:
    """Milliseconds, bytes and millijoules, without the layers."""
    names = ("latency_ms", "interval_ms", "peak_memory_bytes", "weight_bytes", "energy_mj", "status")
    return {**{name: getattr(cost, name) for name in names}, "energy_status": ENERGY_STATUS}


def by_module(layers: Iterable[LayerCost], total_ms: float) -> list[LayerLine]:
    """The kernels summed by their PyTorch module, the slowest first; the limit is that of a module's slowest kernel."""
    modules: dict[str, list[LayerCost]] = {}
    for layer in layers:
        modules.setdefault(layer.module or layer.name, []).append(layer)
    lines = [_line(name, parts, total_ms) for name, parts in modules.items()]
    return sorted(lines, key=lambda line: -line.latency_ms)


def _line(name: str, parts: list[LayerCost], total_ms: float) -> LayerLine:
    latency = math.fsum(part.latency_ms for part in parts)
    slowest = max(parts, key=lambda part: part.latency_ms)
    return LayerLine(name, latency, latency / total_ms, slowest.limit)


def _limits(cost: Cost) -> dict[str, float]:
    """Limiting unit -> the part of the latency in the kernels that it limits, the largest first."""
    shares: dict[str, float] = {}
    for layer in cost.layers:
        shares[layer.limit] = shares.get(layer.limit, 0.0) + layer.latency_ms / cost.latency_ms
    return {limit: shares[limit] for limit in sorted(shares, key=lambda limit: -shares[limit])}


def chips_json(chips: Sequence[ChipLine], layers: int) -> dict[str, Any]:
    """What reports and scripts read: every chip, and what limits the slowest layers on which."""
    slowest = [{"name": name, "limits": limits} for name, limits in slowest_layers(chips, layers)]
    return {"targets": [chip.to_json() for chip in chips], "layers": slowest}


def slowest_layers(chips: Iterable[ChipLine], count: int) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """(layer, limit -> chips) for the layers with the largest share of the latency over all chips.

    Layers that differ in their numbers alone count as one, `model.layers.*.mlp`, perhaps with several limits on a chip.
    """
    shares: dict[str, float] = {}
    limits: dict[str, dict[str, dict[str, None]]] = {}
    for chip in chips:
        for layer in chip.layers:
            name = ".".join("*" if part.isdigit() else part for part in layer.name.split("."))
            shares[name] = shares.get(name, 0.0) + layer.share
            limits.setdefault(name, {}).setdefault(layer.limit, {})[chip.target] = None
    for name in sorted(shares, key=lambda name: -shares[name])[:count]:
        yield name, {limit: list(found) for limit, found in limits[name].items()}
