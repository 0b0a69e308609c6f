"""Passes beside which the small product was fast are counted, and the least of all is the time."""

from collections import deque
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from chipfit.calibration import undisturbed
from chipfit.calibration.undisturbed import CALM, FEW, PASSES, RECENT, SHORT_MS, Pace, Stopwatch

CALL_MS = SHORT_MS / 2
SLOW = 1.5  # times that everything takes while a neighbour runs


class Machine:
    """Time goes by as scripted: `speeds` says for one look at the pace or pass after the other how slow it is."""

    def __init__(self, speeds: Iterator[float], call_ms: float) -> None:
        self.speeds, self.call_ms, self.now = speeds, call_ms, 1.0

    def take(self, _inputs: object) -> None: ...

    def __call__(self, *_inputs: object) -> None: ...

    def kernel_times(self, _repeats: int) -> list[tuple[str, float]]:
        return [("a", 0.25 * self.call_ms * self.now), ("b", 0.5 * self.call_ms * self.now)]


class Scripted(Pace):
    def now(self) -> float:
        machine = self.library
        machine.now = next(machine.speeds)  # type: ignore[attr-defined]
        return float(machine.now)  # type: ignore[attr-defined]

    @property
    def best_ms(self) -> float:
        return 1.0


def watch(monkeypatch: pytest.MonkeyPatch, speeds: list[float], call_ms: float, seconds: float = 60.0) -> Stopwatch:
    machine = Machine(chain(speeds, repeat(SLOW)), call_ms)
    monkeypatch.setattr(undisturbed, "milliseconds", lambda _: machine.call_ms * machine.now)
    pace = Scripted(machine, None)  # type: ignore[arg-type]
    found = Stopwatch(machine, [], pace)  # type: ignore[arg-type]
    found.run(seconds)
    return found


def test_calm_passes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, [SLOW, SLOW, 1.0, 1.0, SLOW], CALL_MS, seconds=0.01)
    assert found.calm_passes == FEW  # the one that ended calm, the one in between, the one that began so
    assert found.is_calm
    assert found.least.passes > found.calm_passes
    assert found.milliseconds == CALL_MS


def test_enough_calm_passes_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, [1.0] * 100, CALL_MS)
    assert found.is_done
    assert found.least.passes == PASSES


def test_a_time_without_calm_moments_is_known_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, [], CALL_MS, seconds=0.0)
    assert (found.calm_passes, found.least.passes) == (0, 1)
    assert not found.is_calm
    assert found.milliseconds == CALL_MS * SLOW


def test_a_long_call_is_the_sum_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    call = 4 * SHORT_MS
    found = watch(monkeypatch, [1.0] * 100, call)
    assert found.milliseconds == pytest.approx(call + 0.75 * call)  # taking the inputs lasts as long as all here


def test_the_best_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    times, clock = iter([1.0, 1.0, 2.0, 2.0, 1.5, 1.6]), iter([0.0, RECENT / 2, 1.1 * RECENT])
    monkeypatch.setattr(undisturbed, "milliseconds", lambda _: next(times))
    monkeypatch.setattr(undisturbed.time, "perf_counter", lambda: next(clock))
    pace = Pace(None, None)  # type: ignore[arg-type]
    assert [(pace.now(), pace.best_ms) for _ in range(3)] == [(1.0, 1.0), (2.0, 1.0), (1.5, 1.5)]


def test_slower_than_the_best_by_more_than_noise_is_disturbed() -> None:
    pace = Pace(None, None, deque([(0.0, 2.0)]))  # type: ignore[arg-type]
    assert pace.is_calm(2.0 * CALM)
    assert not pace.is_calm(2.0 * SLOW)
