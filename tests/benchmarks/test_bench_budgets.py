"""Random budgets: drawn the same each time, and the page follows from the cells alone."""

from dataclasses import asdict
from pathlib import Path

import budgets
import pytest
from budgets import Pair, is_violated, loosened, page, pairs, under, used
from cells import Ran

from chipfit.search.budget import parse_budget


def record(latency: float, **more: float) -> dict[str, object]:
    pair = Pair(0, "resnet20", ("latency=50%", *(f"{name}=80%" for name in more)), "int8")
    attempt = {"limits": pair.limits, "exit_code": 0, "seconds": 40.0, "sentence": ""}
    state = {"began": "2026-11-22 10:00:00+00:00", "load": 1.0, "machine": "toy", "commit": "abc"}
    shares = {"latency": latency, **more}
    certificate = {"latency_ratio": latency / 2, "recorded_latency_ratio": 0.49}
    names = {**asdict(pair), "key": pair.key}
    made = {"attempts": [attempt], "exit_code": 0, "used": shares, "certificate": certificate}
    return {**names, **state, **made}


def test_pairs_are_the_same_each_time_and_within_their_ends() -> None:
    drawn = pairs(60, "int8")
    assert drawn == pairs(60, "int8")
    assert drawn[:10] == pairs(10, "int8")
    assert [pair.limits for pair in drawn] == [pair.limits for pair in pairs(60, "float32")]
    assert len({pair.key for precision in budgets.PASSES for pair in pairs(60, precision)}) == 120
    assert [sum(pair.model == model for pair in drawn) for model in budgets.MODELS] == [12] * 5
    for pair in drawn:
        limits = {limit.quantity: limit.value for limit in parse_budget(pair.limits).limits}
        assert 0.35 <= limits["latency"] <= 0.9
        assert set(limits) <= {"latency", "memory", "size"}
    assert {len(pair.limits) for pair in drawn} == {1, 2}


@pytest.mark.parametrize(
    ("sentence", "limits"),
    [
        ("latency=50% can't be met: the nearest feasible budget is latency=61.2%.", ("latency=61.2%", "size=60%")),
        ("size=60% can't be met: the nearest feasible budget is size=4.056MB.", ("latency=50%", "size=4.056MB")),
        ("No configuration meets latency=50% size=60%, not even with one of its limits left out.", None),
        ("", None),
    ],
)
def test_the_nearest_feasible_budget_is_read_off_the_sentence(sentence: str, limits: tuple[str, ...] | None) -> None:
    assert loosened(("latency=50%", "size=60%"), f"Error: {sentence}" if sentence else "") == limits


def test_latency_counts_as_timed_afresh_and_the_rest_as_recorded() -> None:
    manifest = {"certificate": {"limits": {"latency": {"used": 0.98}, "size": {"used": 0.9}}}}
    found = used(("latency=50%", "size=60%"), manifest, {"certificate": {"latency_ratio": 0.51}})
    assert found == pytest.approx({"latency": 1.02, "size": 0.9})


def test_only_latency_has_noise() -> None:
    assert not is_violated(record(1.019))
    assert is_violated(record(1.021))
    assert is_violated(record(0.9, memory=1.001))
    assert under(record(0.9, memory=0.97)) == pytest.approx(0.03)


def test_the_page_counts_violations_and_distances() -> None:
    infeasible = record(0.99)
    first = {"limits": ("latency=35%",), "exit_code": 3, "seconds": 12.0, "sentence": "Error: ..."}
    infeasible["attempts"] = [first, *infeasible["attempts"]]
    unmet = {name: value for name, value in record(0.5).items() if name not in ("used", "certificate")}
    unmet |= {"exit_code": 3, "attempts": [{**first, "sentence": "Error: No configuration was measured."}]}
    failed = {**record(0.5), "exit_code": 1}
    text = page([record(0.97), record(1.05), infeasible, record(0.8, size=0.9), unmet, failed], 60)
    for part in (
        "5 cells, 2026-11-22, by abc; toy",
        "- Violations: 1 of 4 pairs.",
        "- Below the tightest limit: 2.0% in the median, 10.0% at most.",
        "- The same where latency alone is limited: 1.0% in the median of 3.",
        "- Latency of its limit: 105.0% at most.",
        "- Nothing met 1 of 5 budgets as drawn, the slowest of which took 12 s to tell; the nearest feasible one was "
        "met by 1 of these.",
        "| resnet20 | 4 | 1 | 2.0% | 10.0% | 105.0% | 40 |",
        "| 0 resnet20 | latency=35% then latency=50% | 49.5% | 49.0% | latency 99.0% | 3, 0 | 12, 40 |",
        "latency 105.0% VIOLATED",
        "No configuration was measured.",
        "55 of 60 pairs are missing; `make bench-budgets` makes them.",
    ):
        assert part in text, part


def test_the_page_of_nothing() -> None:
    text = page([], 60)
    assert "No pair was measured yet." in text
    assert "60 of 60 pairs are missing" in text


def test_the_command_takes_the_nearest_budget_and_measures_what_came_out(tmp_path, monkeypatch, capsys) -> None:
    """The first pair can't be met as drawn."""
    first, second, *_ = pairs(2, "int8")
    asked = []

    def chipfit(words: list[str], log: Path) -> Ran:
        asked.append(words)
        if words[0] == "bench":
            return Ran(0, 20.0, "", {"certificate": {"latency_ratio": 0.7, "recorded_latency_ratio": 0.7}})
        if first.limits[0] in words:
            return Ran(3, 9.0, "Error: it can't be met: the nearest feasible budget is latency=71%.", None)
        return Ran(0, 40.0, "", {"certificate": {"limits": {"latency": {"used": 0.98}}}})

    monkeypatch.setattr(budgets, "chipfit", chipfit)
    monkeypatch.setattr(budgets, "PASSES", {"int8": "prune-axes"})
    monkeypatch.setattr(budgets, "FOLDER", tmp_path / "build")
    monkeypatch.setattr(budgets, "PAGE", tmp_path / "budgets.md")
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["budgets.py", "--count", "2"])
        budgets.main()
    assert [words[:2] for words in asked] == [
        ["compile", first.model],
        ["compile", first.model],
        ["bench", str(tmp_path / "build" / first.model)],
        ["compile", second.model],
        ["bench", str(tmp_path / "build" / second.model)],
    ]
    assert "latency=71%" in asked[1]
    page = (tmp_path / "budgets.md").read_text()
    assert "- Violations: 0 of 2 pairs." in page
    assert f"| 0 {first.model} | {first.limits[0]} then latency=71% | 70.0% |" in page
