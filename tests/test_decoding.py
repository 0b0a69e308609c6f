"""Language models' graphs: reading at once and making one more are told apart, caches are counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from chipfit.decoding import tokens
from chipfit.frontend.importer import import_model
from chipfit.ir.graph import Graph
from chipfit.targets.registry import get_target

HEADS, WIDTH, CONTEXT = 2, 8, 12


class Reader(nn.Module):
    """Ids [batch, length] to logits, without attention: what counts here is what goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, 50)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(ids))
        return logits


class Step(Reader):
    """One token with a cache of keys [1, heads, positions, width], which grows or is written to."""

    places: Tensor

    def __init__(self, grows: bool) -> None:
        super().__init__()
        self.grows = grows
        self.register_buffer("places", torch.arange(CONTEXT), persistent=False)

    def forward(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = self.embed(token)
        key = x.reshape(1, 1, HEADS, WIDTH).transpose(1, 2)
        if self.grows:
            kept = torch.cat([cache, key], 2)
        else:
            kept = torch.where((self.places == position)[None, None, :, None], key, cache)
        seen = nn.functional.scaled_dot_product_attention(key, kept, kept)
        return self.head(x + seen.transpose(1, 2).reshape(1, 1, -1)), kept


def step(grows: bool) -> Graph:
    inputs = torch.ones(1, 1, dtype=torch.int64), torch.tensor([3]), torch.zeros(1, HEADS, CONTEXT, WIDTH)
    return import_model(Step(grows), inputs)


@pytest.mark.parametrize("grows", [False, True])
def test_a_step_is_known_by_its_cache(grows: bool) -> None:
    graph = step(grows)
    cost = get_target("h100-sxm").cost_model.cost(graph)
    found = tokens(graph, cost)
    assert found is not None
    held = 4 * HEADS * CONTEXT * WIDTH
    assert (found.step, found.context, found.cache_bytes) == ("decode", CONTEXT, held)
    assert found.tokens_per_second == pytest.approx(1e3 / cost.latency_ms)
    assert cost.peak_memory_bytes >= cost.weight_bytes + 2 * held, "the cache as it was and as it is"


def test_reading_counts_every_token() -> None:
    graph = import_model(Reader(), (torch.zeros(2, 16, dtype=torch.int64),))
    cost = get_target("h100-sxm").cost_model.cost(graph, batch=2)
    found = tokens(graph, cost)
    assert found is not None
    assert (found.step, found.context, found.cache_bytes) == ("prefill", 16, 0)
    assert found.tokens_per_second == pytest.approx(32 * 1e3 / cost.latency_ms)


def test_other_networks_have_no_tokens() -> None:
    graph = import_model(nn.Linear(8, 8), (torch.randn(1, 8),))
    assert tokens(graph, get_target("h100-sxm").cost_model.cost(graph)) is None
