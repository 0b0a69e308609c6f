"""The static plan of memory: places don't overlap, and the plan is what the cost model says."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from chipfit.codegen import compile_graph
from chipfit.codegen.memory import ALIGNMENT, Life, arena
from chipfit.codegen.runtime import read_record
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.targets.registry import get_target

LIVES = st.lists(
    st.builds(
        lambda size, first, steps: Life(size, first, first + steps), *(st.integers(1, 999), *[st.integers(0, 9)] * 2)
    )
)


@given(LIVES)
def test_what_lives_together_does_not_overlap(lives: list[Life]) -> None:
    plan = arena(dict(enumerate(lives)))
    held = [sum(life.size for life in lives if life.first <= step <= life.last) for step in range(20)]
    assert plan.size >= max(held)
    for a, b in combinations(range(len(lives)), 2):
        if lives[a].meets(lives[b]):
            before, after = sorted((a, b), key=lambda each: plan.offsets[each])
            assert plan.offsets[before] + lives[before].size <= plan.offsets[after]
    assert all(offset % ALIGNMENT == 0 for offset in plan.offsets.values())
    assert all(plan.offsets[index] + life.size <= plan.size for index, life in enumerate(lives))


class Block(nn.Module):
    """A transformer's block, with a reshaped output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.up, self.down = (
            nn.LayerNorm(64),
            nn.Linear(64, 192),
            nn.Linear(64, 256),
            nn.Linear(256, 64),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (x + self.down(functional.gelu(self.up(x)))).flatten(1)


@pytest.mark.parametrize("module", [Block(), nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 96))])
def test_the_cost_model_says_what_is_planned(module: nn.Module, tmp_path: Path) -> None:
    inputs = (torch.randn(1, 16, 64),)
    graph = rebatch(import_model(module.eval(), inputs), 1)
    library = compile_graph(graph, get_target("host"), tmp_path / "library", inputs)
    ends = sum(tensor.nbytes for tensor in (*inputs, module(*inputs)))
    cost = get_target("host").cost_model.cost(graph)
    assert cost.peak_memory_bytes - cost.weight_bytes == ends + read_record(tmp_path / "library")["arena_bytes"]
    first, second = (library(inputs[0].numpy())[0] for _ in range(2))  # the output is none of the arena's
    assert (first == second).all()
