"""Fitting on synthetic times: known coefficients are found again, errors are those of what was held out."""

import datetime
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from chipfit.targets.calibrate import Calibration, Sample, cache_folder, fit, to_toml
from chipfit.targets.profile import UNITS, Profile
from chipfit.targets.reading import read_folder, read_profile
from chipfit.targets.registry import FOLDERS

TERM_UNITS = {"launch_time": "us", "matmul_cycle_time": "ns", "opaque_byte_time": "ps"}
TRUE = {"launch_time": 3.0, "matmul_cycle_time": 0.4, "opaque_byte_time": 90.0}


def synthetic(count: int, noise: float) -> list[Sample]:
    random_ = random.Random(0)
    samples = []
    for index in range(count):
        amounts = {"launch_time": random_.randint(1, 9), "matmul_cycle_time": 10 ** random_.uniform(3, 6)}
        if index % 3:
            amounts["opaque_byte_time"] = 10 ** random_.uniform(2, 6)
        kernels = (amounts, {"launch_time": amounts["launch_time"]})
        launch, compute, memory = (TRUE[t] * UNITS[TERM_UNITS[t]] * amounts.get(t, 0) for t in TRUE)
        seconds = 2 * launch + (compute**3 + memory**3) ** (1 / 3)
        samples.append(
            Sample(f"s{index}", kernels, {}, 1e3 * seconds * math.exp(random_.gauss(0, noise)), index % 4 == 0)
        )
    return samples


def fitted(samples: list[Sample]) -> Calibration:
    return fit(samples, TERM_UNITS, datetime.date(2026, 11, 21))


def test_known_coefficients_are_found_again() -> None:
    result = fitted(synthetic(40, noise=0))
    assert {term: result.figures[term].value for term in TRUE} == pytest.approx(TRUE, rel=1e-3)
    assert result.p95_error == pytest.approx(0, abs=1e-3)
    assert result.figures["interval_factor"].value == pytest.approx(1, abs=1e-3)


def test_errors_are_those_of_held_out_samples_alone() -> None:
    doubled = [replace(s, measured_ms=s.measured_ms * 2) if s.held_out else s for s in synthetic(40, noise=0)]
    result = fitted(doubled)
    assert result.median_error == pytest.approx(0.5, rel=1e-2)
    assert result.figures["interval_factor"].value == pytest.approx(2, rel=1e-2)
    assert result.figures["matmul_cycle_time"].value == pytest.approx(TRUE["matmul_cycle_time"], rel=1e-2)


def test_one_disturbed_timing_moves_little() -> None:
    samples = synthetic(40, noise=0.01)
    samples[1] = replace(samples[1], measured_ms=samples[1].measured_ms * 10)
    assert fitted(samples).figures["matmul_cycle_time"].value == pytest.approx(TRUE["matmul_cycle_time"], rel=0.05)


def test_the_interval_covers_new_samples_at_its_level() -> None:
    samples = synthetic(600, noise=0.1)
    factor = fitted(samples[:200]).figures["interval_factor"].value
    result = fitted(samples)
    pairs = [(ms, s.measured_ms) for ms, s in zip(result.predicted_ms, samples, strict=True)][200:]
    covered = sum(ms / factor <= measured <= ms * factor for ms, measured in pairs) / len(pairs)
    assert 0.9 < covered < 0.995


def test_unseen_terms_are_left_out_and_no_time_is_negative() -> None:
    samples = [s for s in synthetic(60, noise=0.5) if "opaque_byte_time" not in s.kernels[0]]
    result = fitted(samples)
    assert "opaque_byte_time" not in result.figures
    assert all(figure.value >= 0 for figure in result.figures.values())


def test_a_delta_is_a_profile_that_reads_back(tmp_path: Path) -> None:
    result = fitted(synthetic(40, noise=0.05))
    path = tmp_path / "delta.toml"
    path.write_text(to_toml(Profile("host", "cpu", 'a "quoted" processor', {}), result.figures))
    profile = read_profile(path, read_folder(FOLDERS)[0])
    assert result.figures.items() <= profile.figures.items(), "beside what the family gives every chip"
    assert all(figure.status == "measured" and "2026-11-21" in figure.source for figure in result.figures.values())


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "chipfit"
