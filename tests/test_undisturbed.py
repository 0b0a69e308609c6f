"""Only passes beside which the small product was fast count, and all of them where there is none."""

from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from chipfit import undisturbed
from chipfit.undisturbed import CALM, PASSES, SHORT_MS, Pace, Stopwatch

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
        self.best_ms = min(self.best_ms, machine.now)  # type: ignore[attr-defined]
        return float(machine.now)  # type: ignore[attr-defined]


def watch(monkeypatch: pytest.MonkeyPatch, speeds: list[float], call_ms: float, seconds: float = 60.0) -> Stopwatch:
    machine = Machine(chain(speeds, repeat(SLOW)), call_ms)
    monkeypatch.setattr(undisturbed, "milliseconds", lambda _: machine.call_ms * machine.now)
    pace = Scripted(machine, None, best_ms=1.0)  # type: ignore[arg-type]
    found = Stopwatch(machine, [], pace)  # type: ignore[arg-type]
    found.run(seconds)
    return found


def test_calm_passes_alone_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, [SLOW, SLOW, 1.0, 1.0, SLOW], 2.0, seconds=0.01)
    assert found.calm.passes == 3  # the one that ended calm, the one in between, the one that began so
    assert found.any.passes > found.calm.passes
    assert found.milliseconds == 2.0


def test_enough_calm_passes_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, [1.0] * 100, 2.0)
    assert found.is_done
    assert found.any.passes == PASSES


def test_without_a_calm_moment_the_least_of_all_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, [], 2.0, seconds=0.0)
    assert (found.calm.passes, found.any.passes) == (0, 1)
    assert found.milliseconds == 2.0 * SLOW


def test_a_long_call_is_the_sum_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    call = 4 * SHORT_MS
    found = watch(monkeypatch, [1.0] * 100, call)
    assert found.milliseconds == pytest.approx(call + 0.75 * call)  # taking the inputs lasts as long as all here


def test_slower_than_the_best_by_more_than_noise_is_disturbed() -> None:
    pace = Pace(None, None, best_ms=2.0)  # type: ignore[arg-type]
    assert pace.is_calm(2.0 * CALM)
    assert not pace.is_calm(2.0 * SLOW)
