"""From timed graphs to a profile delta: fit the few coefficients, and say how far off they are where not fitted.

Nothing here compiles or times anything; whoever can (`chipfit.calibration`) hands in samples.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from chipfit.targets.amounts import COLD, PARTS, Amounts, part_of
from chipfit.targets.cpu import CACHED, kernel_seconds
from chipfit.targets.kernel_model import cold_share
from chipfit.targets.profile import UNITS, Figure, Profile

CACHES = tuple(float(size) for size in np.geomspace(2**29, 2**19, 21))  # bytes, as a program may find
NOISE_SECONDS = 2e-6  # how far a timing may be off whatever its size: weighs down kernels that hardly take longer


@dataclass(frozen=True)
class Sample:
    """A graph or kernel that was timed: what each kernel needs of each term, and the time that belongs to none.

    `weight_bytes` are those of the whole graph that it ran in, all read between two calls of the same kernel.
    """

    name: str
    kernels: tuple[Amounts, ...]
    fixed: Amounts
    measured_ms: float
    held_out: bool
    weight_bytes: int = 0


@dataclass(frozen=True)
class Calibration:
    """Fitted figures and the errors on samples that took no part in the fit, as ratios (0.05 is 5%)."""

    figures: Mapping[str, Figure]
    samples: tuple[Sample, ...]
    predicted_ms: tuple[float, ...]

    @property
    def median_error(self) -> float:
        return self.figures["error_median"].value

    @property
    def p95_error(self) -> float:
        return self.figures["error_p95"].value

    @property
    def rows(self) -> tuple[tuple[str, bool, float, float], ...]:
        """(name, held out, predicted ms, measured ms) for the report."""
        pairs = zip(self.samples, self.predicted_ms, strict=True)
        return tuple((sample.name, sample.held_out, ms, sample.measured_ms) for sample, ms in pairs)


def fit(samples: Sequence[Sample], units: Mapping[str, str], today: datetime.date) -> Calibration:
    """Non-negative least squares on relative error: each coefficient is a time, and no time is negative.

    units: the terms to fit and the unit of each coefficient. Terms that no fitted sample has are left out.
    """
    fitted = [sample for sample in samples if not sample.held_out]
    seen = {term for sample in fitted for amounts in (*sample.kernels, sample.fixed) for term in amounts}
    terms = [term for term in units if term in seen]
    cached, coefficients = _solve_with_cache(fitted, terms)
    predicted = tuple((_design(samples, terms, cached).predict(coefficients) * 1e3).tolist())
    source = f"calibration of {today}: {told(samples)}"
    figures = dict(errors(samples, predicted, source))
    figures[CACHED] = Figure(cached / UNITS["MiB"], "MiB", source, "measured")
    for term, value in zip(terms, coefficients.tolist(), strict=True):
        figures[term] = Figure(value / UNITS[units[term]], units[term], source, "measured")
    return Calibration(figures, tuple(samples), predicted)


def told(samples: Sequence[Sample]) -> str:
    """How many graphs took part in a fit and how many didn't."""
    held_out = sum(sample.held_out for sample in samples)
    return f"{len(samples) - held_out} graphs fitted, {held_out} held out"


def errors(samples: Sequence[Sample], predicted_ms: Sequence[float], source: str) -> Mapping[str, Figure]:
    """How far off predictions are on the samples that were held out."""
    pairs = [(ms, one.measured_ms) for ms, one in zip(predicted_ms, samples, strict=True) if one.held_out]
    off = [abs(ms / measured - 1) for ms, measured in pairs]
    median, p95 = float(np.median(off)), float(np.quantile(off, 0.95))
    ratios = {"error_median": median, "error_p95": p95, "interval_factor": _interval_factor(pairs)}
    return {name: Figure(value, "ratio", source, "measured") for name, value in ratios.items()}


@dataclass(frozen=True)
class _Design:
    """Amounts as arrays, so that all samples are predicted at once."""

    parts: Mapping[str, np.ndarray]  # part of a kernel's time -> (kernels, terms), COLD left out
    cold: np.ndarray  # (kernels, terms), of COLD alone
    shares: np.ndarray  # (kernels), of weights that come from memory
    sums: np.ndarray  # (samples, kernels), one where the sample has the kernel
    fixed: np.ndarray  # (samples, terms)

    def predict(self, coefficients: np.ndarray) -> np.ndarray:
        """Seconds of each sample."""
        launch, compute, memory = (self.parts[part] @ coefficients for part in PARTS)
        warm = kernel_seconds(launch, compute, memory)
        cold = kernel_seconds(launch, compute, memory + self.cold @ coefficients)
        result: np.ndarray = self.sums @ (warm + self.shares * (cold - warm)) + self.fixed @ coefficients
        return result

    @property
    def totals(self) -> np.ndarray:
        """(samples, terms), how much of each term."""
        shares = self.shares[:, None] * self.cold
        result: np.ndarray = self.sums @ (sum(self.parts.values()) + shares) + self.fixed
        return result


def _design(samples: Sequence[Sample], terms: Sequence[str], cached: float) -> _Design:
    kernels = [(row, amounts) for row, sample in enumerate(samples) for amounts in sample.kernels]
    sums = np.zeros((len(samples), len(kernels)))
    sums[[row for row, _ in kernels], range(len(kernels))] = 1
    fixed = np.array([[sample.fixed.get(term, 0.0) for term in terms] for sample in samples])
    needs = np.array([[amounts.get(term, 0.0) for term in terms] for _, amounts in kernels])
    cold = np.array([term == COLD for term in terms])
    parts = {part: needs * (np.array([part_of(term) == part for term in terms]) & ~cold) for part in PARTS}
    shares = np.array([cold_share(samples[row].weight_bytes, cached) for row, _ in kernels])
    return _Design(parts, needs * cold, shares, sums, fixed)


def _solve_with_cache(samples: Sequence[Sample], terms: Sequence[str]) -> tuple[float, np.ndarray]:
    """The size of cache, in bytes, with which the fit is best, and the fitted coefficients.

    A cache that is shared with others holds less for one program than it says. Without graphs that overflow it, any
    size fits and the largest is taken.
    """
    sizes = CACHES if COLD in terms else CACHES[:1]
    fits = {size: _solve(samples, terms, size) for size in sizes}
    best = min(fits, key=lambda size: fits[size][0])
    return best, fits[best][1]


def _solve(samples: Sequence[Sample], terms: Sequence[str], cached: float) -> tuple[float, np.ndarray]:
    """The misfit, and coefficients in seconds.

    The search starts from what each could be at most: all of some sample's time. A sample counts as often as it has
    kernels: kernels timed one by one, each at its best, add up to less than the graph that they make up.
    """
    weights = np.array([len(sample.kernels) for sample in samples])
    design, measured = _design(samples, terms, cached), np.array([sample.measured_ms * 1e-3 for sample in samples])
    with np.errstate(divide="ignore"):
        most = np.min(measured[:, None] / design.totals, axis=0)
    most[~np.isfinite(most)] = 0.0  # of a term that no sample here has

    def residuals(scaled: np.ndarray) -> np.ndarray:
        off: np.ndarray = weights * (design.predict(scaled * most) - measured) / (measured + NOISE_SECONDS)
        return off

    result = least_squares(residuals, np.full(len(terms), 0.5), bounds=(0, np.inf), loss="soft_l1", f_scale=0.1)
    return float(result.cost), result.x * most


def _interval_factor(held_out: Sequence[tuple[float, float]], level: float = 0.95) -> float:
    """f so that measured times lie within predicted / f and predicted * f at that level, by split conformal prediction.

    The score is |log(measured / predicted)|; its rank ceil((n + 1) level) covers new samples at that level if they are
    exchangeable with these (Lei et al., JASA 113, 2018). With too few samples the largest score stands in.
    """
    scores = sorted(abs(math.log(measured / predicted)) for predicted, measured in held_out)
    rank = math.ceil((len(scores) + 1) * level)
    return math.exp(scores[min(rank, len(scores)) - 1])


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again (XDG base directories; Apple's and Microsoft's places)."""
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "chipfit"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/chipfit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "chipfit"
    return Path.home() / ".cache/chipfit"


def to_toml(profile: Profile, figures: Mapping[str, Figure]) -> str:
    """A delta that `read_profile` reads: the profile's names and these figures."""
    header = [f"{key} = {json.dumps(getattr(profile, key))}" for key in ("name", "family", "summary")]
    lines = [f"{name} = {{ {_inline(figure)} }}" for name, figure in figures.items()]
    return "\n".join([*header, "", "[figures]", *lines, ""])


def _inline(figure: Figure) -> str:
    fields = ("value", "unit", "source", "status")
    return ", ".join(f"{field} = {json.dumps(getattr(figure, field))}" for field in fields)
