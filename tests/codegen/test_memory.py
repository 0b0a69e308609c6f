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
from chipfit.codegen.memory import ALIGNMENT, Life, arena, least, placed
from chipfit.codegen.runtime import read_record
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.passes.base import Context, Pass
from chipfit.passes.bfloat16 import Bfloat16
from chipfit.passes.quantize import Quantize
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


class Images(nn.Module):
    """Convolutions of several kinds with a residual and a gate, and a dense output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.plain = nn.Conv2d(3, 20, 3, 2, 1), nn.Conv2d(20, 20, 3, 1, 1)
        self.depthwise, self.point = nn.Conv2d(20, 20, 5, 1, 2, groups=20), nn.Conv2d(20, 36, 1)
        self.squeeze, self.pool, self.grouped = (
            nn.Conv2d(36, 36, 1),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(36, 24, 3, groups=4),
        )
        self.head = nn.Linear(24 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.plain(x)).relu()
        x = self.point(self.depthwise(x).relu())
        x = x * self.squeeze(functional.adaptive_avg_pool2d(x, 1)).sigmoid()
        return self.head(self.grouped(self.pool(x)).relu().flatten(1))


PLAIN: tuple[Pass, ...] = ()
MODELS = [
    pytest.param(Block(), (16, 64), PLAIN, id="block"),
    pytest.param(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 96)), (16, 64), PLAIN, id="perceptron"),
    pytest.param(Images(), (3, 20, 20), PLAIN, id="images"),
    pytest.param(Images(), (3, 20, 20), (Bfloat16(),), id="images in bfloat16"),
    pytest.param(Images(), (3, 20, 20), (Quantize(activations=True),), id="images in int8"),
    pytest.param(Block(), (16, 64), (Quantize(),), id="int8"),
    pytest.param(Block(), (16, 64), (Quantize(bits=4),), id="int4"),
    pytest.param(Block(), (16, 64), (Quantize(activations=True),), id="int8 by int8"),
    pytest.param(Block(), (16, 64), (Bfloat16(),), id="bfloat16"),
]


@pytest.mark.parametrize(("module", "shape", "passes"), MODELS)
def test_the_cost_model_says_what_is_held(
    module: nn.Module, shape: tuple[int, ...], passes: tuple[Pass, ...], tmp_path: Path
) -> None:
    inputs = (torch.randn(1, *shape),)
    graph = rebatch(import_model(module.eval(), inputs), 1)
    for each in passes:
        graph = each.run(graph, Context(teacher=graph, calibration=[inputs])).graph
    library = compile_graph(graph, get_target("host"), tmp_path / "library", inputs)
    assert (
        get_target("host").cost_model.cost(graph).peak_memory_bytes == read_record(tmp_path / "library")["memory_bytes"]
    )
    first, second = (library(inputs[0].numpy())[0] for _ in range(2))  # the output is none of the arena's
    assert (first == second).all()


def test_what_lies_highest_is_placed_anew() -> None:
    """Greedy by size leaves a hole between two that live together."""
    sizes = {"a": (4, 1, 3), "b": (2, 0, 1), "c": (2, 3, 4), "d": (2, 1, 2), "e": (1, 2, 3), "f": (1, 4, 4)}
    lives = {name: Life(size * ALIGNMENT, first, last) for name, (size, first, last) in sizes.items()}
    assert placed(lives, sorted(lives, key=lambda name: -lives[name].size)).size > least(lives)
    assert arena(lives).size == least(lives)
