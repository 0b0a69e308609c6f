"""Every strategy on small networks: it keeps its limits, repeats itself, and is not the same as another."""

from dataclasses import replace
from functools import cache

import pytest
import zoo

from chipfit.errors import UserError
from chipfit.ir.apply import apply
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.own_strategy import named_strategy
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.pipeline import parse
from chipfit.search.curves import Curves, Rounded
from chipfit.search.forms import Forms
from chipfit.search.problem import Landscape
from chipfit.search.sensitivity import Survey
from chipfit.search.strategies import evopress, knapsack
from chipfit.search.strategies.base import Task, UnreachableError
from chipfit.search.strategies.knapsack import solve_within
from chipfit.search.strategies.registry import available_strategies, code_of, ensure_passes, get_strategy
from chipfit.targets.registry import get_target

pytestmark = pytest.mark.usefixtures("single_precision")

NAMES = ("evopress", "halp", "knapsack", "magnitude", "shortgpt", "sleb", "taylor", "uniform", "ziplm")
DEPTH = ("shortgpt", "sleb")
LANES = 4


@pytest.fixture(autouse=True)
def short_evolution(monkeypatch):
    for name, count in {"GENERATIONS": 2, "FIRST": 4, "OFFSPRING": 4, "SURVIVORS": 2}.items():
        monkeypatch.setattr(evopress, name, count)


def examples(graph):
    return zoo.examples(graph, 16)


@cache
def task(network, surveyed=True, drop=True, seed=0):
    graph = zoo.imported(network)
    survey = Survey(graph, examples(graph)) if surveyed else None
    curves = survey.measure() if survey else Curves({}, {})
    landscape = Landscape(Forms(folded(graph)), curves.offered(LANES), get_target("cortex-a76").cost_model)
    return Task(graph, examples(graph), landscape, LANES, drop=drop, seed=seed, survey=survey)


def limited(given, share):
    whole = given.landscape.cost(Configuration())
    return {"latency": share * whole.latency_ms}


def strategy(name, network, **options):
    cls = available_strategies()[name]
    return cls(task(network, cls.surveyed, **options))


OWN = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from chipfit.ir.configuration import Configuration
from chipfit.search.strategies.base import Proposal, Strategy

@dataclass(frozen=True)
class Nothing(Strategy):
    name: ClassVar[str] = "nothing"

    def propose(self, limits):
        return Proposal(Configuration(), 0.0)
"""


def test_one_in_a_file_of_the_users_is_known_by_its_code(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    found = named_strategy(f"{file}:Nothing")
    assert found(task("resnet")).propose({}).configuration == Configuration()
    before = code_of(found)
    file.write_text(OWN + "\n")
    assert code_of(named_strategy(f"{file}:Nothing")) != before
    with pytest.raises(UserError, match="has no strategy Something"):
        named_strategy(f"{file}:Something")


def test_all_are_found_without_a_list():
    assert tuple(available_strategies()) == NAMES
    for cls in available_strategies().values():
        assert cls.summary
        assert cls.__doc__


@pytest.mark.parametrize("network", ["llama", "resnet"])
@pytest.mark.parametrize("name", NAMES)
def test_keeps_its_limit_and_repeats_itself(name, network):
    share = 0.85 if name in DEPTH else 0.7
    first, second = (strategy(name, network) for _ in range(2))
    found = first.propose(limited(first.task, share))
    assert found.configuration.widths or found.configuration.dropped
    assert first.task.fits(found.configuration, limited(first.task, share))
    assert found == second.propose(limited(second.task, share)) == first.propose(limited(first.task, share))
    apply(first.task.teacher, found.configuration)
    closer = first.propose(limited(first.task, (1 + share) / 2))
    assert closer.loss <= found.loss


@pytest.mark.parametrize("name", NAMES)
def test_all_limits_hold_at_once(name):
    given = strategy(name, "llama")
    whole = given.task.landscape.cost(Configuration())
    limits = {"latency": 0.95 * whole.latency_ms, "size": 0.8 * whole.weight_bytes}
    limits["memory"] = 0.85 * whole.peak_memory_bytes
    assert given.task.fits(given.propose(limits).configuration, limits)


@pytest.mark.parametrize("name", NAMES)
def test_removes_nothing_where_nothing_must_go(name):
    given = strategy(name, "llama")
    assert given.propose(limited(given.task, 1.0)).configuration == Configuration()


@pytest.mark.parametrize("name", NAMES)
def test_tells_the_least_that_it_reaches(name):
    given = strategy(name, "llama")
    with pytest.raises(UnreachableError) as error:
        given.propose(limited(given.task, 0.01))
    quantity, least = error.value.nearest
    assert quantity == "latency"
    given.propose({"latency": 1.05 * least})


def test_no_two_choose_alike():
    found = {}
    for name in NAMES:
        given = strategy(name, "llama")
        found[name] = given.propose(limited(given.task, 0.75)).configuration
    assert len(set(found.values())) == len(NAMES)
    assert all(not found[name].widths for name in DEPTH)
    assert all(not found[name].dropped for name in ("uniform", "magnitude", "taylor", "halp"))


def test_uniform_narrows_every_axis_alike():
    given = strategy("uniform", "resnet")
    widths = given.propose(limited(given.task, 0.6)).configuration.widths
    axes = analyse(given.task.teacher).axes
    shares = [len(kept) / axes[name].size for name, kept in widths.items()]
    assert set(widths) == set(given.task.axes)
    assert max(shares) - min(shares) <= 0.25  # of an axis, by rounding to vectors


def test_taylor_lets_only_like_axes_compete():
    given = strategy("taylor", "llama")
    scopes = {name: given.scope(axis) for name, axis in given.task.axes.items()}
    ffn = [scope for name, scope in scopes.items() if "gate_proj" in name]
    assert len(set(ffn)) == 1
    assert len(set(scopes.values())) > 1


def test_another_seed_is_another_evolution():
    found = [strategy("evopress", "llama", seed=seed) for seed in (0, 1)]
    proposals = [one.propose(limited(one.task, 0.7)) for one in found]
    assert proposals[0] != proposals[1]


def test_sleb_measures_again_after_each_drop():
    given = strategy("sleb", "llama")
    first = given.following(())
    losses = {
        name: given.task.loss(Configuration({}, frozenset({first, name})))
        for name in given.task.layers
        if name != first
    }
    assert given.following((first,)) == min(losses, key=losses.get)


def test_knapsack_measures_dropped_blocks_together():
    given = strategy("knapsack", "llama")
    landscape = given.task.landscape
    limits = limited(given.task, 0.5)
    added = solve_within(landscape, limits, landscape.problem.drops)
    assert len(added.dropped) > 1
    found = given.propose(limits)
    together = given.task.survey.loss(Configuration({}, added.dropped))
    assert together != pytest.approx(sum(landscape.problem.drops[block] for block in added.dropped), rel=1e-3)
    assert found.loss <= landscape.problem.loss(added.levels, frozenset()) + together


def test_knapsack_measures_blocks_in_context_once_for_limits_nearby(monkeypatch):
    asked, losses_beside = [], Survey.losses_beside
    monkeypatch.setattr(
        Survey, "losses_beside", lambda survey, dropped, *rest: asked.append(dropped) or losses_beside(survey, dropped)
    )
    given = strategy("knapsack", "llama")
    given.propose(limited(given.task, 0.5))
    once, near = len(asked), limited(given.task, 0.47)
    assert 1 <= once <= knapsack.CONTEXTS
    found = given.propose(near)
    assert given.task.fits(found.configuration, near)
    assert len(asked) == once
    given.propose(limited(given.task, 0.4))
    assert len(asked) > once


@pytest.mark.parametrize("network", ["llama", "resnet"])
@pytest.mark.parametrize("trusted", [0.0, 1e9])  # refined in any case, and in none
def test_knapsack_refined_is_no_worse_as_a_whole_and_keeps_its_limit(network, trusted, monkeypatch):
    monkeypatch.setattr(knapsack, "TRUSTED", trusted)
    plain = strategy("knapsack", network)
    survey = plain.task.survey
    first, second = (type(plain)(replace(plain.task, tries=6)) for _ in range(2))
    limits = limited(plain.task, 0.6)
    found = first.propose(limits)
    assert found == second.propose(limits)
    assert found.loss == survey.loss(found.configuration)
    assert found.loss <= survey.loss(plain.propose(limits).configuration)
    assert first.task.fits(found.configuration, limits)
    assert trusted == 0 or found.configuration == plain.propose(limits).configuration


def test_what_rounding_loses_is_added_to_what_removal_was_measured_to_lose():
    given = strategy("knapsack", "llama").task
    rounded = {name: Rounded(frozenset({name, f"{name}2"}), loss) for name, loss in (("a", 0.25), ("b", 0.5))}
    landscape = replace(given.landscape, sensitivity=replace(given.landscape.sensitivity, rounded=rounded))
    refinement = knapsack.Refinement(given, landscape, lambda configuration: 1.0, tries=2)
    dropped = frozenset({"block"})
    both = frozenset({"a", "a2", "b", "b2"})
    found = [refinement.loss(Configuration({}, dropped, weights)) for weights in (frozenset(), {"a", "a2"}, both, None)]
    assert found == [1.0, 1.25, 1.75, 1.0]


def test_what_a_strategy_chooses_for_must_be_allowed():
    assert get_strategy("sleb").name == "sleb"
    ensure_passes(get_strategy("sleb"), parse("drop-blocks"))
    with pytest.raises(UserError, match="The strategy sleb chooses for drop-blocks: name that in --passes too"):
        ensure_passes(get_strategy("sleb"), parse("prune-axes"))
    with pytest.raises(UserError, match="There is no strategy luck; the strategies are evopress, halp, knapsack"):
        get_strategy("luck")


def test_without_leave_to_drop_nothing_is_dropped():
    given = strategy("evopress", "llama", drop=False)
    assert not given.propose(limited(given.task, 0.8)).configuration.dropped
