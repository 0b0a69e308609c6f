"""Tiles by timing: what is picked, what is kept, and that the numbers stay right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from chipfit.cli import run
from chipfit.codegen import schedule
from chipfit.codegen.library import compile_graph, fixed_values
from chipfit.codegen.lower import Lowering
from chipfit.codegen.program import Effort, Generated, Program
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.graph import Graph
from chipfit.targets.registry import get_target
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import TRIES, matmul_tiles
from chipfit.tune import Tiles, fastest, gathered, tuned

INPUTS = (torch.randn(1, 16, 40),)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "chipfit" / "tiles"


def deployed(module: nn.Module) -> Graph:
    return rebatch(import_model(module, INPUTS), 1)


def tiles_of(program: Program) -> list[Tile]:
    kernels = (call.kernel for call in program.calls)
    return [kernel.tile for kernel in kernels if isinstance(kernel, Generated) and isinstance(kernel.spec, MatmulSpec)]


def test_the_tiles_worth_timing_differ_and_the_first_is_the_analysis_pick() -> None:
    found = matmul_tiles(get_target("host").cpu, 128, 576, 576)
    assert len(found) == TRIES == len(set(found))


def test_tuning_times_every_kernel_once_and_keeps_the_numbers_right(tmp_path: Path, cache: Path) -> None:
    graph = deployed(nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 40), nn.Linear(40, 48)))
    target, messages = get_target("host"), list[str]()
    choose = tuned(graph, target, INPUTS, lambda text, share: messages.append(text))
    assert len(list(cache.iterdir())) == 3  # the first has an epilogue, the last has none
    assert messages
    compile_graph(graph, target, tmp_path / "library", INPUTS, Effort(choose))  # compares with torch
    messages.clear()
    tuned(graph, target, INPUTS, lambda text, share: messages.append(text))
    assert not messages


def test_a_kept_tile_is_used() -> None:
    graph, target = deployed(nn.Linear(40, 48)), get_target("host")
    asked = Tiles(target)
    _, (spec,) = lowered(graph, asked)
    ranked = matmul_tiles(target.cpu, 16, 48, 40)
    asked.keep(spec, ranked[-1], dict.fromkeys(ranked, 1.0))
    program, missing = lowered(graph, Tiles(target))
    assert tiles_of(program) == [ranked[-1]]
    assert not missing


def lowered(graph: Graph, tiles: Tiles) -> tuple[Program, list[str]]:
    program = Lowering(graph, tiles.target.cpu, fixed_values(graph), "forward", tiles).lower()
    return program, tiles.missing


def test_equal_kernels_are_timed_together() -> None:
    first, other = (Tile(16, rows, 32, "rows", 2) for rows in (4, 8))

    def calls(tile: Tile) -> list[dict[str, object]]:
        settings = {name: getattr(tile, name) for name in Tile.__dataclass_fields__}
        return [{"value": name, "spec": "s", "tile": settings} for name in ("a", "b")]

    times = gathered([({"a": 1.0, "b": 2.0}, calls(first)), ({"a": 0.5, "b": 1.0}, calls(other))])
    assert times == {"s": {first: 3.0, other: 1.5}}
    assert fastest(times["s"]) == other
    assert fastest({first: 1.0, other: 0.99}) == first


def test_compile_refuses_to_tune_for_another_chip(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", "resnet20", "--target", "cortex-a76", "--budget", "latency=50%", "--tune"]) == 2
    assert "don't tune, or name host" in capsys.readouterr().err


def test_tvm_searches_for_what_no_generator_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search itself takes minutes (importing it, one): `chipfit bench --tune-stock` runs it."""
    asked = []
    monkeypatch.setattr(schedule, "searched", lambda function, target, trials: asked.append(trials))

    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x.flip(1))

    compile_graph(deployed(Turned()), get_target("host"), tmp_path / "library", INPUTS, Effort(trials=4))
    assert asked == [4]
