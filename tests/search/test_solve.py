"""The solver against brute force on random small problems."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chipfit.search import parts
from chipfit.search.bounds import lower_bounds
from chipfit.search.program import InfeasibleError
from chipfit.search.solve import LOSSLESS, Item, Problem, binding, exclusive_pairs, smallest, solve


def choices(problem):
    axes, blocks = list(problem.levels), list(problem.drops)
    for picked in itertools.product(*(range(len(problem.levels[a])) for a in axes)):
        for drops in itertools.product((False, True), repeat=len(blocks)):
            dropped = frozenset(b for b, on in zip(blocks, drops, strict=True) if on)
            if not any(a in dropped and b in dropped for a, b in problem.exclusive):
                yield dict(zip(axes, picked, strict=True)), dropped


def problems():
    return st.integers(0, 10_000).map(made_by)


def made_by(seed):
    rng = np.random.default_rng(seed)
    levels = {axis: (0.0, *np.sort(rng.random(2))) for axis in "abc"}
    drops = {block: float(rng.random() * 2) for block in ("first", "second", "both")}
    groups = [("a",), ("a", "b"), ("b", "c"), (), ("a", "b", "c")]
    insides = [{"first", "both"}, set(), {"second", "both"}, {"both"}, {"second", "both"}]
    items = tuple(Item(g, frozenset(i), rng.random([3] * len(g))) for g, i in zip(groups, insides, strict=True))
    exclusive = (("both", "first"), ("both", "second"))
    return Problem(levels, drops, {"latency": items, "size": items[:3]}, exclusive)


@pytest.fixture(params=["by parts", "by states", "by products"])
def way(request, monkeypatch):
    """Both programs, whatever the problem: small parts need several states, and with none allowed there are none."""
    if request.param == "by states":
        monkeypatch.setattr(parts, "CHOICES", 30)
    if request.param == "by products":
        monkeypatch.setattr(parts, "STATES", 0)


@settings(max_examples=30, deadline=None)
@given(problem=problems(), latency=st.floats(0.1, 1.0), loss=st.floats(0.0, 2.0))
def test_no_choice_is_better_than_its_bound(problem, latency, loss):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "CHOICES", 30)
        whole = problem.separated(("latency", "loss", "size"))
    assert len(whole.states) > 1
    limits = {"latency": latency * problem.amount("latency", dict.fromkeys("abc", 0), frozenset()), "loss": loss}
    for state, bound in zip(whole.states, lower_bounds(whole, limits, "size"), strict=True):
        inside = [(levels, dropped) for levels, dropped in choices(problem) if state.items() <= levels.items()]
        fits = [c for c in inside if problem.amount("latency", *c) <= limits["latency"] and problem.loss(*c) <= loss]
        assert bound <= min((problem.amount("size", *c) for c in fits), default=np.inf) + 1e-9


def test_a_bound_is_what_fractions_give():
    """Two parts that can each save 1 of latency for a loss of 1 or 3: half of the dearer one is 1.5."""
    items = tuple(Item((axis,), frozenset(), np.array([2.0, 1.0])) for axis in "ab")
    problem = Problem({"a": (0.0, 1.0), "b": (0.0, 3.0)}, {}, {"latency": items})
    whole = problem.separated(("latency", "loss"))
    assert lower_bounds(whole, {"latency": 2.5}, "loss") == pytest.approx([2.5], abs=0.05)
    assert lower_bounds(whole, {"latency": 1.9}, "loss").tolist() == [np.inf]
    assert lower_bounds(whole, {}, "loss").tolist() == [0.0]


NO_FIXTURE = [HealthCheck.function_scoped_fixture]  # the way stays the same for all examples


@pytest.mark.usefixtures("way")
@settings(max_examples=40, deadline=None, suppress_health_check=NO_FIXTURE)
@given(problem=problems(), latency=st.floats(0.2, 1.0), size=st.floats(0.2, 1.0))
def test_equals_brute_force(problem, latency, size):
    full = dict.fromkeys(problem.levels, 0)
    limits = {
        "latency": latency * problem.amount("latency", full, frozenset()),
        "size": size * problem.amount("size", full, frozenset()),
    }

    def fitting(tolerance):  # what lies on a limit may or may not pass the solver's own tolerance
        bounds = {quantity: limit * (1 + tolerance) for quantity, limit in limits.items()}
        return [c for c in choices(problem) if all(problem.amount(q, *c) <= bounds[q] for q in bounds)]

    strict, loose = fitting(-1e-6), fitting(1e-6)
    if not loose:
        with pytest.raises(InfeasibleError):
            solve(problem, limits)
        return
    if not strict:
        return
    found = solve(problem, limits)
    least_losses = [min(problem.loss(*c) for c in fits) for fits in (loose, strict)]
    assert least_losses[0] - 1e-3 <= problem.loss(found.levels, found.dropped) <= least_losses[1] + 1e-3
    for quantity, limit in limits.items():
        assert problem.amount(quantity, found.levels, found.dropped) <= limit * (1 + 1e-6)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("seed", "latency", "size"),
    [
        (2799, 0.7750844232445091, 0.3622287440280519),
        (5671, 0.8130884024367855, 0.35718180792320153),
        (6781, 0.9738496482882897, 0.7507183151271895),
    ],
)
def test_what_a_presolve_lost(seed, latency, size):
    """HiGHS 1.12 took losses of up to twice the least here, as optimal."""
    problem, full = made_by(seed), dict.fromkeys("abc", 0)
    shares = {"latency": latency, "size": size}
    limits = {name: share * problem.amount(name, full, frozenset()) for name, share in shares.items()}
    fits = [c for c in choices(problem) if all(problem.amount(name, *c) <= limits[name] for name in limits)]
    assert solve(problem, limits).objective == pytest.approx(min(problem.loss(*c) for c in fits), rel=1e-3)


@pytest.mark.usefixtures("way")
@settings(max_examples=10, deadline=None, suppress_health_check=NO_FIXTURE)
@given(problem=problems())
def test_smallest_is_the_smallest(problem):
    least = min(problem.amount("latency", *choice) for choice in choices(problem))
    assert smallest(problem, "latency").objective == pytest.approx(least, abs=1e-4)


@pytest.mark.usefixtures("way")
@settings(max_examples=40, deadline=None, suppress_health_check=NO_FIXTURE)
@given(problem=problems(), bound=st.floats(0.0, 3.0))
def test_smallest_at_a_loss_equals_brute_force(problem, bound):
    def least(loss):
        return min(problem.amount("latency", *choice) for choice in choices(problem) if problem.loss(*choice) <= loss)

    found = smallest(problem, "latency", bound)
    assert problem.loss(found.levels, found.dropped) <= bound * (1 + 1e-6) + 2 * LOSSLESS
    assert least(bound * (1 + 1e-6) + 2 * LOSSLESS) - 1e-3 <= found.objective <= least(bound * (1 - 1e-6)) + 1e-3


def test_binding_names_the_limit_to_loosen():
    item = Item(("a",), frozenset(), np.array([10.0, 4.0]))
    problem = Problem({"a": (0.0, 1.0)}, {}, {"latency": (item,), "size": (item,)})
    with pytest.raises(InfeasibleError):
        solve(problem, {"latency": 1.0, "size": 20.0})
    assert binding(problem, {"latency": 1.0, "size": 20.0}) == ("latency", pytest.approx(4.0))
    assert binding(problem, {"latency": 1.0, "size": 1.0}) is None


def test_exclusive_pairs_share_nodes():
    nodes = {"layer": frozenset("xyz"), "mlp": frozenset("x"), "attention": frozenset("y")}
    assert exclusive_pairs(nodes) == (("attention", "layer"), ("layer", "mlp"))


def test_a_shared_axis_is_fixed_and_the_rest_falls_apart():
    rng = np.random.default_rng(0)
    layers = range(8)
    levels = {"hidden": (0.0, 0.3), **{f"ffn{i}": (0.0, 0.1, 0.2) for i in layers}}
    items = tuple(Item(("hidden", f"ffn{i}"), frozenset({f"mlp{i}"}), rng.random((2, 3))) for i in layers)
    problem = Problem(levels, {f"mlp{i}": 1.0 for i in layers}, {"latency": items})
    found = problem.separated(("latency", "loss"))
    assert [part.axes for part in found.parts] == [(f"ffn{i}",) for i in layers]
    assert len(found.states) == 2
    assert all(0 < len(listed.places) <= 4 for state in found.listed for listed in state)


def test_a_problem_without_a_choice_is_solved_too():
    problem = Problem({}, {}, {"latency": (Item((), frozenset(), np.array(2.0)),)})
    assert solve(problem, {"latency": 2.5}).objective == 0.0
    with pytest.raises(InfeasibleError):
        solve(problem, {"latency": 1.5})
