"""The main job: a model, a chip and a budget in; the best model that fits out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from chipfit.artifact import Artifact
from chipfit.calibration.host import calibrated
from chipfit.errors import UserError
from chipfit.finish import finish
from chipfit.frontend.data import Data, as_data, load_data
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import Source, load_source
from chipfit.fronts import Comparison, compare, distinct, write_comparison
from chipfit.job import Job
from chipfit.own_strategy import named_strategy
from chipfit.passes.base import Progress, silent
from chipfit.passes.pipeline import Pipeline, parse
from chipfit.search.budget import parse_budget, parse_share
from chipfit.search.strategies.registry import ensure_passes
from chipfit.stages import Stages
from chipfit.study import Study
from chipfit.targets.registry import HOST, get_target
from chipfit.tune import Tuning

DEFAULT_PASSES = "factorize,prune-axes,drop-blocks,compensate,distill{seconds=900},quantize{activations=true}"
DEFAULT_STRATEGY = "knapsack"
DEFAULT_REFINE = 32


def compile(  # noqa: A001
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    target: str = "host",
    budget: str | Sequence[str],
    keep: str | None = None,
    data: str | Data | Mapping[str, Any] | None = None,
    passes: str = DEFAULT_PASSES,
    strategy: str = DEFAULT_STRATEGY,
    refine: int = DEFAULT_REFINE,
    out: str | Path = "build/artifact",
    fresh: bool = False,
    tune: bool = False,
    trials: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> Artifact:
    """The model compressed to `budget` (as `latency=50%`) on `target`, compiled, measured and written to `out`.

    The example inputs are batch first, at the batch to deploy. `data` is a DATA text, or a mapping with `train` and
    `heldout` (input tuples) and perhaps a `metric`; without it inputs are made up. `keep` is the least part of the
    teacher's quality, as `94%`. `refine` is how many configurations may be measured as a whole to correct what the
    solver chose by losses measured one by one; 0 takes its choice as it is. `tune` times a few tiles of every kernel,
    `trials` so many of TVM's schedules of each function that no generator of ours makes; both take minutes. What is
    drawn at random follows from `seed`, but for made-up inputs, which stay the same. Raises UserError, and
    InfeasibleBudgetError for a budget that nothing meets.
    """
    inputs = tuple(example_inputs)
    given = as_data(data, inputs, "data") if isinstance(data, Data | Mapping) else None
    source = Source(type(model).__name__, model, inputs, (lambda: given) if given else None)
    text = data if isinstance(data, str) else None
    load, tuning = (lambda: source), Tuning(tune, trials)
    return _compile(
        load, target, budget, keep, text, passes, strategy, refine, Path(out), fresh, tuning, seed, progress
    )


def compile_source(
    source: str,
    *,
    target: str = "host",
    budget: str | Sequence[str],
    keep: str | None = None,
    data: str | None = None,
    passes: str = DEFAULT_PASSES,
    strategy: str = DEFAULT_STRATEGY,
    refine: int = DEFAULT_REFINE,
    out: str | Path = "build/artifact",
    fresh: bool = False,
    tune: bool = False,
    trials: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> Artifact:
    """`compile` for the model that SOURCE names, on the data that DATA names or else on the source's own."""
    load, tuning = (lambda: load_source(source)), Tuning(tune, trials)
    return _compile(
        load, target, budget, keep, data, passes, strategy, refine, Path(out), fresh, tuning, seed, progress
    )


def _compile(
    load: Callable[[], Source],
    target: str,
    budget: str | Sequence[str],
    keep: str | None,
    data: str | None,
    passes: str,
    strategy: str,
    refine: int,
    out: Path,
    fresh: bool,
    tuning: Tuning,
    seed: int,
    progress: Progress,
) -> Artifact:
    limits = parse_budget([budget] if isinstance(budget, str) else budget)
    share, pipeline, chip = parse_share(keep) if keep else None, parse(passes), get_target(target)
    approach = named_strategy(strategy)
    ensure_passes(approach, pipeline)
    if not (chip.is_host or (chip.family == "cpu" and chip.profile.triple)):
        raise UserError(f"chipfit can cost {chip.name} but not compile for it yet: name a CPU, as {HOST}.")
    tuning.check(chip)
    study, made_from = studied(load, data, pipeline, workplace(out, fresh), progress, seed)
    job = Job(study, calibrated(chip, progress), limits, approach, tuning, refine)
    return finish(job.corrected(), made_from, share, out)


def search_source(
    source: str,
    *,
    targets: Sequence[str] = (HOST,),
    data: str | None = None,
    passes: str = DEFAULT_PASSES,
    out: str | Path = "build/search",
    fresh: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """The Pareto fronts of the model that SOURCE names on all targets, and their regret; pictured in `out` too.

    A later compilation into the same `out` finds what was measured of the model. Raises UserError.
    """
    pipeline, chips = parse(passes), [get_target(name) for name in distinct(targets)]
    study, _ = studied(lambda: load_source(source), data, pipeline, workplace(Path(out), fresh), progress)
    found = compare(source, study, [calibrated(chip, progress) for chip in chips])
    write_comparison(found, Path(out))
    return found


def studied(
    load: Callable[[], Source], data: str | None, pipeline: Pipeline, work: Path, progress: Progress, seed: int = 0
) -> tuple[Study, dict[str, Any]]:
    """The model and its data, ready to be searched, and where they come from."""
    stages = Stages(work, lambda name, found: progress(f"{name}: done before" if found else name, 0.0))
    progress("loading the model", 0.0)
    source = load()
    teacher = import_model(source.model, source.example_inputs)
    examples = source.data() if source.data and data is None else load_data(data, source.example_inputs, source.model)
    study = Study(teacher, source.example_inputs, examples, pipeline, stages, progress, seed)
    return study, lineage(source, examples)


def lineage(source: Source, data: Data) -> dict[str, Any]:
    """Where the model and the data come from."""
    return {"teacher": source.name, **source.lineage, "synthetic_data": data.synthetic}


def workplace(out: Path, fresh: bool) -> Path:
    """The work directory of an artifact, beside it; `fresh` empties it."""
    place = out.with_name(f"{out.name}.work")
    if fresh:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    return place
