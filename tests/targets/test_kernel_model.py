"""What is read from memory because caches can't hold it from one call to the next."""

import random
from dataclasses import replace

import pytest
import torch
from made_up import calibrated_arm
from torch import nn

from chipfit.frontend.importer import import_model
from chipfit.targets.cpu import CACHED
from chipfit.targets.kernel_model import cold_share
from chipfit.targets.profile import Figure


def simulated(lines: int, cache: int, calls: int = 60) -> float:
    """The share of misses of a cache that replaces at random, read through from start to end again and again."""
    chance = random.Random(0)
    held: list[int] = []
    where: dict[int, int] = {}
    misses = reads = 0
    for call in range(calls):
        for line in range(lines):
            counts = call >= calls // 2
            reads += counts
            if line in where:
                continue
            misses += counts
            slot = len(held) if len(held) < cache else chance.randrange(cache)
            if slot == len(held):
                held.append(line)
            else:
                del where[held[slot]]
                held[slot] = line
            where[line] = slot
    return misses / reads


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.2, 1.5, 2.0, 4.0])
def test_the_share_is_that_of_random_replacement(ratio: float) -> None:
    cache = 2000
    assert cold_share(ratio * cache, cache) == pytest.approx(simulated(round(ratio * cache), cache), abs=0.03)


def test_a_model_that_overflows_the_cache_pays_for_its_weights() -> None:
    model, graph = calibrated_arm(), import_model(nn.Linear(64, 64), (torch.randn(1, 64),))
    profile = model.model.profile  # type: ignore[attr-defined]

    def latency(cached: float) -> float:
        figures = {CACHED: Figure(cached, "MiB", "test", "measured")}
        other = replace(model.model, profile=profile.with_figures(figures))  # type: ignore[type-var]
        return replace(model, model=other).cost(graph).latency_ms

    weights = model.cost(graph).weight_bytes / 2**20
    assert latency(weights * 2) < latency(weights / 1.5) < latency(weights / 100)
