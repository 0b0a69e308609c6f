"""How often graphs are timed beside the uncompressed model, with ratios that are made up."""

import pytest

from chipfit.codegen.runtime import LIBRARY
from chipfit.job import Job
from chipfit.measure import PATIENCE, Timing
from chipfit.passes.base import silent
from chipfit.search.budget import parse_budget
from chipfit.search.choose import Choice
from chipfit.stages import Done, Stages
from chipfit.targets.registry import get_target
from chipfit.workbench import COMPARISONS, DRIFT, ENOUGH, Pair, Workbench, pooled


class Bench(Workbench):
    """Libraries whose code is their graph's name, and which take what they are said to."""

    def library(self, graph):
        folder = self.study.stages.root / graph
        (folder / "library").mkdir(parents=True, exist_ok=True)
        (folder / "library" / LIBRARY).write_text(graph.partition("'")[0])
        return Done("library", graph, folder)

    def upper_ms(self, graph):
        return 11.0

    def _timed(self, libraries, baseline_ms, patience):
        if "result" not in libraries:
            return {"baseline": Timing((self.study.alone.pop(0),) * 16)}
        self.study.taken.append(libraries["result"][1])
        self.study.patience.append(patience)
        ratio, slower = self.study.ratios[len(self.study.taken) - 1], self.study.slower
        return {"baseline": Timing((10.0 + slower,) * 16), "result": Timing((10.0 * ratio + slower,) * 16)}


class Ratios:
    teacher, progress = "whole", staticmethod(silent)
    slower = 0.0  # ms by which every call takes longer

    def __init__(self, root, *ratios):
        self.stages, self.ratios, self.taken, self.patience, self.alone = Stages(root), ratios, [], [], [10.0]


class Disturbed(Ratios):
    """Something makes every call take 4 ms more during some of the comparisons."""

    def __init__(self, root, during, *ratios):
        super().__init__(root, *ratios)
        self.during = during

    @property
    def slower(self):
        return 4.0 if len(self.taken) in self.during else 0.0


def bench(root, *ratios):
    return Bench(Ratios(root, *ratios), None)


def test_what_is_far_from_the_limit_is_timed_once(tmp_path):
    found = bench(tmp_path, 0.45)
    assert found.compared("half", [0.5]) == Pair(10.0, 4.5, 0.45, DRIFT)
    assert found.study.taken == ["half"]


def test_a_glance_takes_the_slower_of_two_and_waits_for_nothing(tmp_path):
    found = bench(tmp_path, 0.45, 0.4)
    glanced = found.glanced("half")
    assert glanced == found.glanced("half") == Pair(10.0, 4.5, 0.45, DRIFT)
    assert glanced.at_most == pytest.approx(0.45 * (1 + 2 * DRIFT))
    assert found.study.patience == [0.0, 0.0]


def test_what_is_near_the_limit_is_timed_again(tmp_path):
    """At 0.49 the first may be above the limit, the first two together are not."""
    found = bench(tmp_path, 0.49, 0.47, 0.47)
    assert found.compared("half", [0.5]).ratio == pytest.approx(0.48)


def test_without_a_limit_a_result_is_what_all_its_comparisons_say_together(tmp_path):
    found = bench(tmp_path, 0.450, 0.500, 0.501, 0.504)
    assert found.compared("half", [0.55]).ratio == pytest.approx(0.450)
    assert found.study.taken == ["half"]
    after = found.compared("half'")  # other weights, the same code: those that are missing
    assert after.ratio == pytest.approx(0.48875)
    assert found.study.taken == ["half"] + ["half'"] * (COMPARISONS - 1)
    assert found.compared("half'") == after
    assert len(found.study.taken) == COMPARISONS


def test_what_lies_between_two_limits_near_each_other_is_timed_as_often_as_a_result(tmp_path):
    """Else what came out too fast by chance would be taken for a candidate, and its result be too slow."""
    found = bench(tmp_path, 0.485, 0.485, 0.500, 0.510)
    candidate = found.compared("half", [0.485, 0.5])
    assert candidate.ratio == pytest.approx(0.495)
    assert len(found.study.taken) == COMPARISONS
    assert found.compared("half'") == candidate  # other weights, the same code
    assert len(found.study.taken) == COMPARISONS


def test_what_is_timed_while_the_machine_is_disturbed_does_not_count(tmp_path):
    found = Bench(Disturbed(tmp_path, (1, 2), *[0.45] * ENOUGH), None)
    assert found.compared("half", [0.5]).ratio == pytest.approx(0.45)
    assert len(found.study.taken) == 3


def test_nor_does_it_where_only_one_comparison_was_calm(tmp_path):
    found = Bench(Disturbed(tmp_path, range(2, ENOUGH + 1), *[0.49] * ENOUGH), None)
    assert found.compared("half", [0.5]).ratio == pytest.approx(0.49)
    assert len(found.study.taken) == ENOUGH


def test_unless_it_is_never_calm(tmp_path):
    found = Bench(Disturbed(tmp_path, range(1, ENOUGH + 1), *[0.5] * ENOUGH), None)
    assert found.compared("half", [0.5]).ratio == pytest.approx(9 / 14)
    assert len(found.study.taken) == ENOUGH
    assert found.study.patience == [PATIENCE / (1 + index) for index in range(ENOUGH)]


@pytest.mark.parametrize(
    ("taken", "found", "left"),
    [
        ([10.0, 9.0], 10.0, 1),
        ([14.0, 13.0, 10.0, 9.0], 10.0, 1),
        ([14.0, *[13.0] * ENOUGH], 13.0, 1),
    ],
)
def test_the_uncompressed_model_is_timed_again_while_it_takes_longer_than_predicted(tmp_path, taken, found, left):
    timed = bench(tmp_path)
    timed.study.alone = list(taken)
    assert timed.alone_ms("whole") == found
    assert len(timed.study.alone) == left


def test_errors_of_comparisons_fall_together():
    one = Pair(10.0, 5.0, 0.5, 0.01)
    assert pooled([one]).error == pytest.approx((0.01**2 + DRIFT**2) ** 0.5)
    assert pooled([one] * 4).error == pytest.approx(pooled([one]).error / 2)


@pytest.mark.parametrize(("ratio", "excess"), [(0.499, 1.0), (0.51, 0.51 / 0.49)])
def test_a_result_that_is_slower_than_its_choice_was_is_chosen_anew(tmp_path, ratio, excess):
    job = Job(Ratios(tmp_path), get_target("host"), parse_budget(["latency=50%"]), None)
    job.__dict__.update(
        baseline_ms=10.0,
        baseline={"latency": 10.0},
        choice=Choice(None, 4.8, 4.9, None, 0.1),
        measured=Pair(10.0, 10 * ratio, ratio, 0.001),
    )
    assert job.corrected().excess == pytest.approx(excess)
