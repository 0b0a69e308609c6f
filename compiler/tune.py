"""Tiles by timing: the few that analysis ranks best, timed inside the whole network, and the fastest kept for later.

Alone a kernel finds its weights in a cache where the network around it would have evicted them. So the network is
compiled once for each rank, every kernel at its tile of that rank, and timed kernel by kernel.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from chipfit.calibration.kept import kernels_digest
from chipfit.calibration.subjects import attributed
from chipfit.codegen.library import compile_graph, fixed_values
from chipfit.codegen.lower import Lowering
from chipfit.codegen.program import Choose, Effort
from chipfit.codegen.runtime import RECORD, Library
from chipfit.codegen.spec import KernelSpec
from chipfit.errors import UserError
from chipfit.ir.graph import Graph
from chipfit.passes.base import Progress, silent
from chipfit.stages import write_json
from chipfit.targets.calibrate import cache_folder
from chipfit.targets.detect import identity
from chipfit.targets.registry import HOST, Target
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import TRIES

ROUNDS, RUNS = 4, 5  # passes over all libraries, and timed calls of each in one pass
WORTH = 0.97  # of the time at the tile that analysis picks, below which another one is taken

Times = dict[str, dict[Tile, float]]  # kernel -> milliseconds in all at each tile


@dataclass(frozen=True)
class Tuning:
    """What a user wants timed: `tiles` of every kernel, and `trials` schedules of each function that is left to TVM."""

    tiles: bool = False
    trials: int = 0

    def check(self, target: Target) -> None:
        """UserError for a chip that is not here."""
        if (self.tiles or self.trials) and not target.is_host:
            raise UserError(f"Kernels are timed on this machine, not on {target.name}: don't tune, or name {HOST}.")
        if self.trials and not find_spec("cloudpickle"):
            raise UserError("TVM's search needs cloudpickle: install chipfit[tune].")

    def effort(self, graph: Graph, target: Target, inputs: Sequence[Tensor], progress: Progress = silent) -> Effort:
        """The fastest tile of every kernel of the graph, those timed now that never were on this machine."""
        return Effort(tuned(graph, target, inputs, progress), self.trials) if self.tiles else Effort(trials=self.trials)


AS_RANKED = Tuning()


@dataclass
class Tiles:
    """Picks tiles for `target`: the fastest that was ever timed here, else the one of `rank`."""

    target: Target
    rank: int = 0
    missing: list[str] = field(default_factory=list)  # kernels with several tiles that were never timed

    def __call__(self, spec: KernelSpec, ranked: Sequence[Tile]) -> Tile:
        if len(ranked) == 1:
            return ranked[0]
        known = self.recalled(repr(spec))
        if known is not None and known in ranked:
            return known
        self.missing.append(repr(spec))
        return ranked[min(self.rank, len(ranked) - 1)]

    def recalled(self, spec: str) -> Tile | None:
        path = self.path(spec)
        return Tile(**json.loads(path.read_text())["tile"]) if path.is_file() else None

    def keep(self, spec: str, tile: Tile, times: Mapping[Tile, float]) -> None:
        path = self.path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        timed = [{"tile": asdict(each), "ms": ms} for each, ms in times.items()]
        write_json(path, {"kernel": spec, "tile": asdict(tile), "timed": timed})

    def path(self, spec: str) -> Path:
        """Changes with the kernel, the processor, the threads and the code that makes kernels."""
        parts = (spec, repr(self.target.cpu), identity(), kernels_digest())
        return cache_folder() / "tiles" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def tuned(graph: Graph, target: Target, inputs: Sequence[Tensor], progress: Progress = silent) -> Choose:
    """Picks the fastest tile for every kernel of the graph, timing those that never were on this machine."""
    tiles = Tiles(target)
    Lowering(graph, target.cpu, fixed_values(graph), "forward", tiles).lower()
    if tiles.missing:
        with tempfile.TemporaryDirectory() as folder:
            times = timed(graph, target, inputs, Path(folder), progress)
        for spec in dict.fromkeys(tiles.missing):
            tiles.keep(spec, fastest(times[spec]), times[spec])
    return Tiles(target)


def timed(graph: Graph, target: Target, inputs: Sequence[Tensor], folder: Path, progress: Progress) -> Times:
    libraries = []
    for rank in range(TRIES):
        progress("compiling kernels at other tiles", rank / TRIES)
        library = compile_graph(graph, target, folder / str(rank), inputs, Effort(Tiles(target, rank)))
        library(*(tensor.numpy() for tensor in inputs))
        libraries.append((library, json.loads((folder / str(rank) / RECORD).read_text())["kernels"]))
    best = [dict[str, float]() for _ in libraries]
    for turn in range(ROUNDS):
        progress("timing kernels at other tiles", turn / ROUNDS)
        for found, (library, calls) in zip(best, libraries, strict=True):
            for value, ms in kernel_times(library, calls).items():
                found[value] = min(ms, found.get(value, ms))
    return gathered([(found, calls) for found, (_, calls) in zip(best, libraries, strict=True)])


def kernel_times(library: Library, calls: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Value that a kernel of ours computes -> milliseconds."""
    made = {call["value"] for call in calls if "tile" in call}
    return {values[0]: ms for values, ms in attributed(calls, library.kernel_times(RUNS)) if values[0] in made}


def gathered(runs: Sequence[tuple[Mapping[str, float], Sequence[Mapping[str, Any]]]]) -> Times:
    """The times of equal kernels at equal tiles, summed over the network, of one library each."""
    times: Times = {}
    for found, calls in runs:
        sums: dict[tuple[str, Tile], float] = {}
        for call in calls:
            if call["value"] in found and "tile" in call:
                key = call["spec"], Tile(**call["tile"])
                sums[key] = sums.get(key, 0.0) + found[call["value"]]
        for (spec, tile), ms in sums.items():
            known = times.setdefault(spec, {})
            known[tile] = min(ms, known.get(tile, ms))
    return times


def fastest(times: Mapping[Tile, float]) -> Tile:
    """The tile that takes least; the first, which analysis picks, unless another is clearly faster."""
    picked = next(iter(times))
    best = min(times, key=lambda tile: times[tile])
    return best if times[best] < WORTH * times[picked] else picked
