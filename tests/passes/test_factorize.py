"""A split layer computes what it did, its first directions are the best ones, and uncut it costs what the whole did."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.ir.verify import verify
from chipfit.passes.base import Context, Inputs, PreconditionError
from chipfit.passes.factorize import Factorize, factorized, split_weights, with_factors
from chipfit.passes.importance import CRITERIA, best, rank
from chipfit.passes.losses import divergence
from chipfit.passes.pipeline import Pipeline
from chipfit.passes.quantize import Quantize
from chipfit.passes.statistics import Statistics
from chipfit.search.forms import Forms
from chipfit.search.problem import Landscape
from chipfit.search.sensitivity import Survey
from chipfit.search.solve import Solution
from chipfit.targets.registry import get_target

WIDTH, CLASSES = 24, 256
RANK = "head.low_rank.down.weight:0"


class Tied(nn.Module):
    """Tokens [batch, 6] to logits through one weight, read by the embedding and by the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.embedding(tokens)
        logits: Tensor = self.head(states + self.mix(states).tanh() * torch.linspace(0.05, 1, WIDTH))
        return logits


@pytest.fixture(scope="module")
def sample() -> tuple[Graph, list[Inputs]]:
    torch.manual_seed(0)
    graph = import_model(Tied(), (torch.zeros(1, 6, dtype=torch.int64),))
    return graph, [(torch.randint(0, 40, (1, 6)),) for _ in range(64)]


def logits(graph: Graph, examples: list[Inputs]) -> Tensor:
    with torch.no_grad():
        found: Tensor = emit(rebatch(graph, len(examples)))(torch.cat([tokens for (tokens,) in examples]))
    return found.flatten(0, 1)


def loss(graph: Graph, teacher: Graph, examples: list[Inputs]) -> float:
    return float(divergence(logits(graph, examples), logits(teacher, examples)))


def test_it_computes_what_it_did_and_the_embedding_keeps_its_weight(sample: tuple[Graph, list[Inputs]]) -> None:
    graph, examples = sample
    split = factorized(graph, examples)
    verify(split)
    assert set(split.parameters) == {*graph.parameters, "head.low_rank.down.weight", "head.low_rank.up.weight"}
    torch.testing.assert_close(logits(split, examples), logits(graph, examples), rtol=1e-4, atol=1e-4)
    names = set(dict(emit(split).named_parameters(remove_duplicate=False)))
    assert {"embedding.weight", "head.low_rank.up.weight"} <= names
    assert "head.weight" not in names


def test_its_first_directions_lose_less_than_those_of_a_plain_decomposition(
    sample: tuple[Graph, list[Inputs]],
) -> None:
    graph, examples = sample
    split = factorized(graph, examples[:48])
    weight = graph.state["embedding.weight"]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    plain = split.with_state({"head.low_rank.up.weight": left * values, "head.low_rank.down.weight": right})
    for width in (8, 12, 16):
        cut = Configuration({RANK: tuple(range(width))})
        ours, theirs = (loss(apply(each, cut), graph, examples[48:]) for each in (split, plain))
        assert ours < 0.9 * theirs


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_keeps_the_first_directions(criterion: str, sample: tuple[Graph, list[Inputs]]) -> None:
    graph, examples = sample
    split = factorized(graph, examples)
    axis = analyse(split).axes[RANK]
    assert axis.state == "exact"
    assert best(rank(Statistics(split, examples), axis, criterion), 5) == (0, 1, 2, 3, 4)


def test_the_pass_splits_what_the_configuration_cuts(sample: tuple[Graph, list[Inputs]]) -> None:
    graph, examples = sample
    pipeline = Pipeline((Factorize(),))
    untouched = pipeline.run(graph, Context(graph, calibration=examples))
    assert (untouched.graph, untouched.modified) == (graph, False)
    cut = Configuration({RANK: (0, 1, 2)})
    found = pipeline.run(graph, Context(graph, cut, calibration=examples))
    again = pipeline.run(graph, Context(graph, cut, calibration=examples, factored=factorized(graph, examples)))
    assert found.modified
    torch.testing.assert_close(
        found.graph.state["head.low_rank.up.weight"], again.graph.state["head.low_rank.up.weight"]
    )
    with pytest.raises(PreconditionError, match="calibration data"):
        pipeline.run(graph, Context(graph, cut))


def test_a_layer_that_is_not_tall_stays() -> None:
    graph = import_model(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10)).eval(), (torch.zeros(1, 16),))
    assert factorized(graph, [(torch.ones(1, 16),)]) is graph


def test_uncut_it_costs_the_search_what_the_whole_layer_does(sample: tuple[Graph, list[Inputs]]) -> None:
    graph, examples = sample
    split = factorized(graph, examples)
    levels = Survey(split, examples, drop=False).measure().offered(8)
    model = get_target("cortex-a76").cost_model
    landscape = Landscape(Forms(split, graph), levels, model)
    assert landscape.cost(Configuration()) == model.cost(graph)
    kept = levels.levels[RANK][-1].kept
    cut = Configuration({RANK: kept})
    assert landscape.cost(cut) == model.cost(with_factors(graph, split, {RANK}), cut)
    whole, less = landscape.cost(Configuration()), landscape.cost(cut)
    for quantity, saved in (
        ("latency", whole.latency_ms - less.latency_ms),
        ("size", whole.weight_bytes - less.weight_bytes),
    ):
        items = landscape.problem.quantities[quantity]
        tabled = {place: sum(amount_at(item, place) for item in items if RANK in item.axes) for place in (0, -1)}
        assert tabled[0] - tabled[-1] == pytest.approx(saved)


def amount_at(item, place: int) -> float:
    """At the first or last level of the rank, every other axis at its full width."""
    return float(item.amounts[tuple(place if axis == RANK else 0 for axis in item.axes)])


@pytest.mark.parametrize("chip", ["cortex-a76", "h100-sxm"])
def test_a_tied_vocabulary_is_tabled_as_it_is_costed(chip: str, sample: tuple[Graph, list[Inputs]]) -> None:
    """Its rank cut or not, in int8 or not: where the rank is cut the embedding is no layer's, and stays as it is."""
    graph, examples = sample
    split, rounding = factorized(graph, examples), Quantize(activations=True)
    curves = Survey(split, examples, drop=False, rounding=rounding, plain=graph).unmeasured
    landscape = Landscape(Forms(split, graph, rounding), curves.offered(8), get_target(chip).cost_model)
    problem = landscape.problem
    assert RANK in problem.levels
    assert "embedding.weight" in landscape.sensitivity.rounded
    for levels in itertools.product(*(sorted({0, len(found) - 1}) for found in problem.levels.values())):
        solution = Solution(dict(zip(problem.levels, levels, strict=True)), frozenset(), 0.0, 0.0)
        cost = landscape.cost(landscape.configuration(solution))
        assert problem.amount("latency", solution.levels, frozenset()) == pytest.approx(cost.latency_ms)
        assert problem.amount("size", solution.levels, frozenset()) == pytest.approx(cost.weight_bytes)


def test_a_layer_and_its_halves_are_told_together(sample: tuple[Graph, list[Inputs]]) -> None:
    assert split_weights(sample[0]) == [
        frozenset({"embedding.weight", "head.low_rank.down.weight", "head.low_rank.up.weight"})
    ]
