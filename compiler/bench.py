"""Our library beside other runtimes: same numbers asked for, same threads, one interleaved run."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from chipfit.artifact import MANIFEST, Artifact
from chipfit.codegen import Library
from chipfit.codegen.arrays import Array
from chipfit.codegen.check import probe
from chipfit.codegen.library import compile_graph, numpy_weights
from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import load_source
from chipfit.ir import store
from chipfit.ir.apply import can_rebatch, rebatch
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.measure import CALM, Timing, copies_of, median_when_calm, over_copies, ratio_when_calm, repeated
from chipfit.passes.base import Progress, silent
from chipfit.passes.fold_batch_norm import folded
from chipfit.peers import PEERS, Call, check_installed, torch_eager
from chipfit.targets.registry import get_target
from chipfit.tune import AS_RANKED, Tuning

OURS = "chipfit"
UNCOMPRESSED = "uncompressed"
SECONDS = 10.0  # of timing
TAKES = 6  # times as long at most, where the machine isn't as calm as when the record was written, or the error large
SETTLED = 0.01  # standard error, relative, of a ratio that is told: SmolLM2's of one take was seen to be off by 6%


@dataclass(frozen=True)
class Subject:
    """What is timed: a graph at its batch, and our library for it; each that `load` gives lies elsewhere in memory."""

    name: str
    graph: Graph
    load: Callable[[], Library]

    @cached_property
    def library(self) -> Library:
        return self.load()

    @cached_property
    def inputs(self) -> Sequence[Array]:
        return [tensor.numpy() for tensor in probe(self.graph)]

    def call(self, library: Library) -> Call:
        return lambda: library(*self.inputs)

    def another(self) -> Call:
        return self.call(self.load())


def bench_model(
    text: str,
    against: Sequence[str],
    progress: Progress = silent,
    seconds: float = SECONDS,
    threads: int | None = None,
    tuning: Tuning = AS_RANKED,
    uncompressed: bool = False,
) -> dict[str, Any]:
    """Times ARTIFACT, or SOURCE compiled as it is for this machine, beside the runtimes named in `against`.

    All run on `threads` threads, one for each core unless told. `rows` hold, per runtime, `best_ms`, `median_ms` and
    `max_abs_error`: the largest difference from torch's output. With `uncompressed` the model that ARTIFACT was made
    from is compiled as it is and timed too, and `certificate` has what part of its latency ARTIFACT takes: the median
    over rounds as `latency_ratio`, with its standard error as `relative_error`, beside the `recorded_latency_ratio` of
    the record.
    Raises UserError for a runtime that is unknown or not installed, and for a model that can't be had any more.
    """
    check_installed(against)
    certified = Artifact.open(Path(text)) if uncompressed else None
    with tempfile.TemporaryDirectory(prefix="chipfit-bench-") as folder:
        progress("compiling", 0.0)
        subject = load_subject(text, Path(folder), threads, tuning, progress)
        calls, errors = callables(subject, against, Path(folder), progress)
        ours = {OURS: subject}
        if certified:
            ours[UNCOMPRESSED] = load_original(certified, Path(folder) / UNCOMPRESSED, threads, progress)
            others, off = callables(ours[UNCOMPRESSED], (), Path(folder), progress)
            calls[UNCOMPRESSED], errors[UNCOMPRESSED] = others[OURS], off[OURS]
        copies = copies_of(sum(one.library.memory_bytes for one in ours.values())) if certified else 1  # as peers have
        load, calm_ms = partial(loaded, calls, ours), {UNCOMPRESSED: slowest_ms(certified)} if certified else {}

        def take() -> Mapping[str, Timing]:
            progress(f"timing {', '.join(calls)}", 0.0)
            return over_copies(load, copies, seconds, calm_ms)

        def is_enough(found: Mapping[str, Timing]) -> bool:
            is_calm = all(median_when_calm(found, name) <= most for name, most in calm_ms.items())
            return is_calm and (not certified or ratio_when_calm(found, OURS, UNCOMPRESSED)[1] <= SETTLED)

        timings = repeated(take, is_enough, TAKES)
    rows = [row(name, timings[name], errors[name]) for name in calls]
    dtype = str(subject.graph.forward.outputs[0].type.dtype).removeprefix("torch.")
    found = {"source": subject.name, "threads": subject.library.threads, "dtype": dtype, "rows": rows}
    return {**found, "certificate": checked(certified, timings)} if certified else found


def loaded(calls: Mapping[str, Call], ours: Mapping[str, Subject]) -> dict[str, Call]:
    """What is timed, our own libraries loaded once more."""
    return {**calls, **{name: one.another() for name, one in ours.items()}}


def slowest_ms(artifact: Artifact) -> float:
    """What the uncompressed model takes at most on a machine as calm as when it was timed for the artifact's record."""
    recorded = artifact.manifest["baseline"]["latency_ms"]
    return CALM * recorded if recorded is not None else math.inf


def checked(artifact: Artifact, timings: Mapping[str, Timing]) -> dict[str, float]:
    """The part of the uncompressed model's latency that the artifact takes, now with its standard error, and by its
    record."""
    recorded = artifact.manifest["certificate"]["latency_ratio"]
    ratio, error = ratio_when_calm(timings, OURS, UNCOMPRESSED)
    return {"latency_ratio": ratio, "relative_error": error, "recorded_latency_ratio": recorded}


def row(name: str, timing: Timing, error: float) -> dict[str, Any]:
    return {"runtime": name, "best_ms": timing.best_ms, "median_ms": timing.median_ms, "max_abs_error": error}


def load_subject(text: str, folder: Path, threads: int | None, tuning: Tuning, progress: Progress) -> Subject:
    """An artifact's own library and graph, or SOURCE compiled."""
    place = Path(text)
    if not (place / MANIFEST).is_file():
        source = load_source(text)
        graph = import_model(source.model, source.example_inputs)
        return compiled(text, graph, source.example_inputs, folder, threads, tuning, progress)
    if tuning != AS_RANKED:
        raise UserError(f"{text} is compiled already: tune it with the `chipfit compile` that makes it.")
    return Subject(text, store.load(place), partial(Library.load, place, place / store.STATE, threads))


def load_original(artifact: Artifact, folder: Path, threads: int | None, progress: Progress) -> Subject:
    """The model that an artifact was made from, compiled as it is."""
    progress("compiling the uncompressed model", 0.0)
    lineage, place = artifact.manifest["lineage"], artifact.folder
    text = lineage.get("source")
    if not text:
        raise UserError(f"{place} was made from a model in memory: only one that has a SOURCE can be compiled again.")
    source = load_source(text)
    graph = import_model(source.model, source.example_inputs)
    if store.digest(graph) != lineage["model"]:
        raise UserError(f"{text} is not the model any more that {place} was made from: compile it again.")
    return compiled(text, graph, source.example_inputs, folder, threads, AS_RANKED, progress)


def compiled(
    name: str,
    model: Graph,
    inputs: Sequence[Tensor],
    folder: Path,
    threads: int | None,
    tuning: Tuning,
    progress: Progress,
) -> Subject:
    """The model as it is, its batch norms folded, at the batch of its example inputs."""
    graph = folded(model)
    graph = rebatch(graph, len(inputs[0])) if can_rebatch(graph) else graph
    host = get_target("host")
    target = host.with_cores(threads) if threads else host
    effort = tuning.effort(graph, target, probe(graph), progress)
    compile_graph(graph, target, folder / "library", effort=effort)
    return Subject(name, graph, partial(Library.load, folder / "library", numpy_weights(graph), threads))


def callables(
    subject: Subject, against: Sequence[str], folder: Path, progress: Progress
) -> tuple[dict[str, Call], dict[str, float]]:
    """Our library and each peer as functions of nothing, all on the same inputs, and how far off torch's outputs."""
    inputs = probe(subject.graph)
    module, threads = emit(subject.graph), subject.library.threads
    calls: dict[str, Call] = {OURS: subject.call(subject.library)}
    for name in against:
        progress(f"preparing {name}", 0.0)
        calls[name] = PEERS[name](module, inputs, threads, folder)
    expected = torch_eager(module, inputs, threads, folder)()
    return calls, {name: max_error(call(), expected) for name, call in calls.items()}


def max_error(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest absolute difference between two sequences of outputs."""
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(np.asarray(ours, np.float64) - theirs).max()) for ours, theirs in pairs)
