"""Interleaved timing: fairness of the order, pairing, limits. No test asserts how long anything takes."""

import gc
import math
import os
import random
import threading
from collections.abc import Callable
from itertools import groupby

import pytest

from chipfit import measure
from chipfit.measure import (
    COPIES,
    HELD,
    PATIENCE,
    Timing,
    calm,
    copies_of,
    hand_over,
    interleave,
    over_copies,
    paired_error,
    paired_ratio,
    ratio_when_calm,
)


def test_every_callable_has_a_turn_a_round_and_the_order_turns() -> None:
    calls: list[str] = []
    timings = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4, seconds=60)  # type: ignore[misc]
    assert all(len(timing.samples) == 4 for timing in timings.values())
    turns = "".join(name for name, _ in groupby(calls))  # the untimed round first, then one that begins as it ended
    assert turns == "abcabcbcacababc"
    assert len(calls) > len(turns)


def test_copies_are_loaded_anew_and_timed_together() -> None:
    loaded: list[int] = []

    def load() -> dict[str, Callable[[], object]]:
        loaded.append(len(loaded))
        return {"a": lambda: None, "b": lambda: None}

    timings = over_copies(load, 3, seconds=0)
    assert loaded == [0, 1, 2]
    assert {name: len(timing.samples) for name, timing in timings.items()} == {"a": 9, "b": 9}


def test_a_disturbed_machine_is_waited_for_but_not_for_ever(monkeypatch) -> None:
    """The second copy takes 3 ms until work was handed over twice, the third one always."""
    rests: list[float] = []
    monkeypatch.setattr(measure, "hand_over", rests.append)
    taken = {1: lambda: 2.0, 2: lambda: 3.0 if len(rests) < 2 else 2.0, 3: lambda: 3.0}
    monkeypatch.setattr(measure, "turn_ms", lambda copy: taken[copy]())
    monkeypatch.setattr(measure, "interleave", lambda callables, **_: {"a": Timing((callables["a"],))})
    copies = iter(taken)
    found = over_copies(lambda: {"a": next(copies)}, 3, seconds=0, calm_ms={"a": 2.5})
    assert found == {"a": Timing((1, 2, 3))}
    assert sum(rests) == pytest.approx(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no thread can be bound to a processor")
def test_a_baton_goes_round_on_every_processor(monkeypatch) -> None:
    bound, before, running = list[set[int]](), os.sched_getaffinity(0), threading.active_count()
    bind = os.sched_setaffinity
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, places: (bind(thread, places), bound.append(places)))
    hand_over(0.0)
    assert sorted(bound, key=min) == [{place} for place in sorted(before)]
    assert os.sched_getaffinity(0) == before
    assert threading.active_count() == running


def test_as_many_copies_as_may_be_held() -> None:
    assert copies_of(0) == copies_of(1000) == COPIES
    assert copies_of(HELD // 3) == 3
    assert copies_of(5 * HELD) == 1


def test_it_stops_by_the_clock_after_three_rounds() -> None:
    assert len(interleave({"a": lambda: None}, rounds=1000, seconds=0)["a"].samples) == 3


def test_garbage_collection_is_off_inside_and_back_on_outside() -> None:
    seen: list[bool] = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, rounds=3)
    assert not any(seen[1:])
    assert gc.isenabled()


def test_a_failing_callable_leaves_garbage_collection_on() -> None:
    def fail_when_timed() -> None:
        if not gc.isenabled():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interleave({"a": fail_when_timed})
    assert gc.isenabled()


def test_a_paired_ratio_cancels_load_that_both_felt() -> None:
    timings = {"a": Timing((1.0, 10.0, 2.0)), "b": Timing((2.0, 20.0, 4.0))}
    assert paired_ratio(timings, "a", "b") == 0.5
    assert timings["a"].best_ms == 1.0
    assert timings["a"].median_ms == 2.0


def test_rounds_in_which_something_slowed_the_machine_down_do_not_count() -> None:
    """It makes both take 5 ms more, for most of the time."""
    slow = [0.0] * 10 + [5.0] * 30
    timings = {"a": Timing(tuple(5 + more for more in slow)), "b": Timing(tuple(10 + more for more in slow))}
    assert paired_ratio(timings, "a", "b") == pytest.approx(2 / 3)
    assert paired_ratio(calm(timings, "b"), "a", "b") == 0.5


def test_noise_that_each_side_has_for_itself_moves_no_ratio() -> None:
    """Rounds in which the baseline alone was fast by chance would show the other too slow: by a tenth here."""
    chance = random.Random(0)
    a, b = (tuple(ms * math.exp(chance.gauss(0.0, 0.1)) for _ in range(10_000)) for ms in (85.0, 100.0))
    timings = {"a": Timing(a), "b": Timing(b)}
    assert ratio_when_calm(timings, "a", "b")[0] == pytest.approx(0.85, rel=0.02)
    assert paired_ratio(calm(timings, "b"), "a", "b") > 0.92


def test_three_rounds_count_whatever_they_take() -> None:
    timings = {"a": Timing((3.0, 1.0, 7.0, 2.0)), "b": Timing((30.0, 10.0, 70.0, 20.0))}
    assert calm(timings, "b") == {"a": Timing((3.0, 1.0, 2.0)), "b": Timing((30.0, 10.0, 20.0))}


def test_the_error_is_that_of_rounds_taken_together() -> None:
    """The first half of the rounds ran in a disturbance that moved the ratio: many rounds make that no less."""
    ratios = [1.1] * 80 + [0.9] * 80
    timings = {"a": Timing(tuple(ratios)), "b": Timing((1.0,) * 160)}
    assert paired_error(timings, "a", "b") == pytest.approx(0.2 / 2 * (8 / 7) ** 0.5 / 8**0.5)
    assert paired_error({"a": Timing((1.0, 1.0, 1.0)), "b": Timing((2.0, 2.0, 2.0))}, "a", "b") == 0.0
