"""The comparison of strategies: its verdicts and its page follow from the cells alone."""

import json
from pathlib import Path

import pytest
import search
import search_page
from cells import Ran
from search import Cell, grid
from search_page import CONTESTS, Section, Spread, compared, loss, sections, verdict

PRECISE, WHOLLY_INT8, PLAIN = CONTESTS
QUALITY = {"metric": "accuracy", "unit": "", "value": 0.9, "retention": 1.0, "parts": {"easy": 0.95, "hard": 0.85}}


def quality(value: float) -> dict[str, object]:
    return {**QUALITY, "value": value, "retention": value / 0.9, "parts": {"easy": value, "hard": value}}


def record(arm: str, seed: int = 0, before: float = 0.6, after: float = 0.8, budget: str = "50%") -> dict[str, object]:
    cell = Cell("resnet20", budget, arm, seed, 120)
    names = {name: getattr(cell, name) for name in search.NAMES}
    state = {
        "began": "2026-11-22 10:00:00+00:00",
        "load": 1.0,
        "machine": "toy",
        "commit": "abc",
        "lineage": {},
        "sentence": "",
    }
    scores = {"before_recovery": {"quality": quality(before)}, "result": {"quality": quality(after)}}
    made = {"baseline": {"quality": QUALITY}, "certificate": {"latency_ratio": 0.48}, "exit_code": 0, **scores}
    return {**names, "key": cell.key, **state, **made}


def unreachable(arm: str) -> dict[str, object]:
    why = "Error: latency=50% can't be met: the nearest feasible budget is latency=61%."
    return {**record(arm), "exit_code": 3, "sentence": why}


def section(*records: dict[str, object]) -> Section:
    expected = [{name: one[name] for name in (*search.NAMES, "key")} for one in records]
    return sections(records, expected)[0]


def test_a_grid_takes_all_of_a_seed_before_the_next() -> None:
    found = grid(["a", "b"], ["50%"], ["knapsack", "sleb"], [0, 1], {"a": 120, "b": 80})
    assert [cell.key for cell in found[:2]] == ["a-50-knapsack-seed0-120steps", "a-50-sleb-seed0-120steps"]
    assert [cell.seed for cell in found] == [0] * 4 + [1] * 4
    assert [cell.steps for cell in found[:4]] == [120, 120, 80, 80]
    assert len({cell.key for cell in found}) == 8


def test_a_cell_is_one_command_of_the_product() -> None:
    words = Cell("minilm", "35%", "sleb", 2, 90).arguments
    assert words[:4] == ["compile", "minilm", "--budget", "latency=35%"]
    assert "factorize,prune-axes,drop-blocks,compensate,distill{steps=90}" in words
    assert words[words.index("--strategy") + 1] == "sleb"
    assert words[words.index("--seed") + 1] == "2"


def test_an_arm_in_int8_has_one_more_pass() -> None:
    words = Cell("minilm", "35%", "sleb+int8", 2, 90).arguments
    assert "factorize,prune-axes,drop-blocks,compensate,distill{steps=90},quantize{activations=true}" in words
    assert words[words.index("--strategy") + 1] == "sleb"


def test_all_strategies_are_arms_and_ours_are_the_first() -> None:
    assert search.arms()[:2] == ["knapsack+int8", "knapsack"]
    assert {"uniform", "magnitude", "taylor", "halp", "shortgpt", "sleb", "evopress"} <= set(search.arms())


def test_loss_is_relative_and_knows_which_way_is_worse() -> None:
    assert loss(record("sleb", after=0.81), "after recovery") == pytest.approx(0.1)
    assert loss(record("sleb", after=0.99), "after recovery") == pytest.approx(-0.1)
    assert loss(record("sleb", after=0.76), "after recovery", "easy") == pytest.approx(0.2)
    bits = {"value": 1.0, "retention": 1.0, "parts": {}}
    worse, better = ({"value": value, "retention": 1 / value, "parts": {}} for value in (1.25, 0.8))
    found = {"baseline": {"quality": bits}, "before_recovery": {"quality": worse}, "result": {"quality": better}}
    assert loss(found, "before recovery") == pytest.approx(0.25)
    assert loss(found, "after recovery") == pytest.approx(-0.2)


def test_a_spread_is_its_mean_with_the_least_and_the_most() -> None:
    assert str(Spread((0.01, 0.03))) == "2.00% (1.00..3.00)"
    assert str(Spread((0.01, 0.01))) == "1.00%"


@pytest.mark.parametrize(
    ("ours", "theirs", "won", "margin", "words"),
    [
        (0.01, 0.02, True, 0.5, "won, 1.00% against 2.00% by sleb: 50% smaller."),
        (0.018, 0.02, True, 0.1, "won, 1.80% against 2.00% by sleb: 10% smaller, where 25% are asked."),
        (0.03, 0.02, False, -0.5, "LOST, 3.00% against 2.00% by sleb: 50% larger."),
        (-0.01, 0.02, True, 1.0, "won, -1.00% against 2.00% by sleb: 100% smaller."),
        (0.0, -0.01, False, None, "LOST, 0.00% against -1.00% by sleb: 1.00 points larger."),
    ],
)
def test_verdicts_say_by_how_much(ours: float, theirs: float, won: bool, margin: float | None, words: str) -> None:
    found = compared("50%", Spread((ours,)), "sleb", Spread((theirs,)))
    assert (found.won, found.text) == (won, words)
    assert found.margin == (None if margin is None else pytest.approx(margin))


def test_a_verdict_compares_with_the_best_of_the_others() -> None:
    cells = section(record("knapsack", after=0.85), record("sleb", after=0.7), record("halp", after=0.8))
    found = verdict(cells, "50%", "after recovery", PLAIN)
    assert found is not None
    assert found.won
    assert "by halp, the best of 2:" in found.text
    assert found.margin == pytest.approx(0.5)


def test_ours_with_precision_has_two_contests() -> None:
    ours, others = record("knapsack+int8", after=0.85), [record("sleb", after=0.7), record("sleb+int8", after=0.84)]
    cells = section(ours, *others, record("knapsack", after=0.6))
    margins = {one: verdict(cells, "50%", "after recovery", one).margin for one in CONTESTS}
    assert margins == {PRECISE: pytest.approx(0.75), WHOLLY_INT8: pytest.approx(1 / 6), PLAIN: pytest.approx(-0.5)}


def test_ranges_that_meet_are_told() -> None:
    ours = [record("knapsack", seed, after=after) for seed, after in enumerate((0.80, 0.82))]
    theirs = [record("sleb", seed, after=after) for seed, after in enumerate((0.76, 0.81))]
    found = verdict(section(*ours, *theirs), "50%", "after recovery", PLAIN)
    assert found is not None
    assert found.text.endswith("; the seeds' ranges meet.")


def test_arms_that_do_not_reach_a_budget() -> None:
    found = verdict(section(record("knapsack"), unreachable("sleb")), "50%", "after recovery", PLAIN)
    assert found is not None
    assert (found.won, found.text) == (True, "won, no other arm reaches it.")
    found = verdict(section(unreachable("knapsack"), record("sleb")), "50%", "after recovery", PLAIN)
    assert found is not None
    assert (found.won, found.text) == (False, "LOST, it isn't reached, but by sleb.")
    assert verdict(section(record("knapsack")), "50%", "after recovery", PLAIN) is None
    assert verdict(section(record("sleb"), record("halp")), "50%", "after recovery", PLAIN) is None


def test_the_page_shows_what_there_is_and_what_is_missing() -> None:
    records = [record("knapsack", after=0.85), record("sleb"), unreachable("shortgpt")]
    broken = {**record("halp"), "exit_code": 1}
    expected = [
        {**{name: getattr(cell, name) for name in search.NAMES}, "key": cell.key}
        for cell in search.expected([*records, broken])
    ]
    text = search_page.page(sections([*records, broken], expected))
    whole = len(search.arms()) * len(search.BUDGETS) * len(search.SEEDS)
    narrowed = sum(search.takes(arm, model) for arm in search.arms() for model in search.MODELS)
    total = narrowed * len(search.BUDGETS) * len(search.SEEDS)
    for part in (
        "3 cells, 2026-11-22, by abc; toy",
        "papers do them: the knapsack's loss is the smallest at 2 of 2 points; at 50% it is smaller by 25% or more at",
        "## resnet20, 120 steps of recovery",
        "accuracy: 0.9 uncompressed.",
        "- 50%, after recovery: won, 5.56% against 11.11% by sleb, the best of 1: 50% smaller.",
        f"That is so far: {total - 3} of {total} cells are missing.",
        "| arm | seeds | latency | before recovery | after recovery | easy, after | hard, after |",
        "| sleb | 1 | 48.00% | 33.33% | 11.11% | 15.79% | 5.88% |",
        "| shortgpt | 1 | unreachable |  |  |  |  |",
        "- shortgpt at 50%: latency=50% can't be met: the nearest feasible budget is latency=61%.",
        f"{whole - 3} of {whole} cells are missing; `python benchmarks/search.py --models resnet20 --steps 120`",
        "halp at 50% (seed 0, 1, 2)",
        "knapsack at 50% (seed 1, 2)",
        "## smollm2, 100 steps of recovery",
    ):
        assert part in text, part


def test_the_picture_has_one_part_for_each_stage() -> None:
    drawn = search_page.drawn([section(record("knapsack", after=0.85), record("sleb"))])
    assert drawn.count("<svg ") == 3
    assert drawn.count("<polyline ") == 4
    assert "resnet20, after recovery (120 steps)" in drawn


def manifest(arguments: list[str], log: Path) -> Ran:
    """What `chipfit compile --json` prints, as far as the benchmark reads it; shortgpt reaches nothing."""
    if "shortgpt" in arguments:
        return Ran(3, 2.0, unreachable("shortgpt")["sentence"], None)
    made = {name: record("knapsack")[name] for name in ("baseline", "before_recovery", "result", "certificate")}
    configuration = {"widths": {"a:0": [0, 1, 2]}, "dropped": ["b"], "rounded": None}
    return Ran(0, 60.0, "done", {**made, "passes": [], "lineage": {}, "configuration": configuration, "files": ["x"]})


def test_the_command_fills_in_what_is_missing_and_writes_the_page(tmp_path, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(search, "chipfit", lambda words, log: asked.append(words) or manifest(words, log))
    monkeypatch.setattr(search, "FOLDER", tmp_path / "build")
    monkeypatch.setattr(search, "PAGE", tmp_path / "search.md")
    few = ["--models", "resnet20", "--budgets", "50%", "--seeds", "0", "--steps", "20", "--arms", "shortgpt"]
    for arms in (few[-1:], ["shortgpt", "knapsack"]):
        monkeypatch.setattr("sys.argv", ["search.py", *few[:-1], *arms])
        search.main()
    assert len(asked) == 2, "one of each arm"
    assert asked[1][-1] == str(tmp_path / "build" / "resnet20")
    lines = (tmp_path / "search.jsonl").read_text().splitlines()
    kept = next(one for one in map(json.loads, lines) if one["arm"] == "knapsack")
    assert (kept["removed"], "files" in kept) == ({"narrowed": 1, "dropped": ["b"], "rounded": None}, False)
    page = (tmp_path / "search.md").read_text()
    assert "## resnet20, 20 steps of recovery" in page
    assert "won, no other arm reaches it." in page
    assert "<polyline" in (tmp_path / "search.svg").read_text()
