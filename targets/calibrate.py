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
from scipy.optimize import nnls

from chipfit.targets.profile import UNITS, Figure, Profile


@dataclass(frozen=True)
class Sample:
    """A graph that was timed: how much of each term its kernels need, and how long it took."""

    name: str
    amounts: Mapping[str, float]
    measured_ms: float
    held_out: bool


@dataclass(frozen=True)
class Calibration:
    """Fitted figures and the errors on samples that took no part in the fit, as ratios (0.05 is 5%)."""

    figures: Mapping[str, Figure]
    samples: tuple[Sample, ...]
    predicted_ms: tuple[float, ...]
    median_error: float
    p95_error: float
    seconds: float

    @property
    def rows(self) -> tuple[tuple[str, bool, float, float], ...]:
        """(name, held out, predicted ms, measured ms) for the report."""
        pairs = zip(self.samples, self.predicted_ms, strict=True)
        return tuple((sample.name, sample.held_out, ms, sample.measured_ms) for sample, ms in pairs)


def fit(samples: Sequence[Sample], units: Mapping[str, str], today: datetime.date, seconds: float) -> Calibration:
    """Non-negative least squares on relative error: each coefficient is a time, and no time is negative.

    units: the terms to fit and the unit of each coefficient. Terms that no sample has are left out.
    """
    fitted = [sample for sample in samples if not sample.held_out]
    terms = [term for term in units if any(sample.amounts.get(term) for sample in fitted)]
    rows = np.array([[sample.amounts.get(term, 0.0) / sample.measured_ms for term in terms] for sample in fitted])
    scale = rows.max(axis=0)  # columns differ by many orders of magnitude
    coefficients = nnls(rows / scale, np.ones(len(fitted)))[0] / scale  # ms per amount
    per_term = dict(zip(terms, coefficients.tolist(), strict=True))
    predicted = tuple(math.fsum(per_term.get(t, 0.0) * a for t, a in sample.amounts.items()) for sample in samples)
    held_out = [(ms, sample.measured_ms) for ms, sample in zip(predicted, samples, strict=True) if sample.held_out]
    errors = np.array([abs(ms / measured - 1) for ms, measured in held_out])
    source = f"calibration of {today}: {len(fitted)} graphs fitted, {len(held_out)} held out"
    figures = {
        term: Figure(value * 1e-3 / UNITS[units[term]], units[term], source, "measured")
        for term, value in per_term.items()
    }
    median, p95 = float(np.median(errors)), float(np.quantile(errors, 0.95))
    figures["error_median"] = Figure(median, "ratio", source, "measured")
    figures["error_p95"] = Figure(p95, "ratio", source, "measured")
    figures["interval_factor"] = Figure(_interval_factor(held_out), "ratio", source, "measured")
    return Calibration(figures, tuple(samples), predicted, median, p95, seconds)


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
