"""The CPU model's amounts: cycles of the busiest thread, counted against a plain simulation of what kernels run."""

import itertools
from dataclasses import replace

import pytest

from chipfit.targets.amounts import CYCLES, Cpu, product_cycles
from chipfit.targets.cpu import kernel_seconds
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import pixel_block, step_cycles

CPU = Cpu(vector_bits=512, registers=32, l1_bytes=48 * 1024, l2_bytes=2 * 1024**2, threads=2)


def simulated(tile: Tile, pixels: tuple[int, int, int], columns: int) -> float:
    """Walks every tile of every job in the order in which the generators emit them."""
    batch, height, width = pixels
    rows, across = pixel_block(tile.mr, height, width)
    vectors, wide = -(-columns // tile.lanes), tile.nr // tile.lanes
    jobs: dict[tuple[int, int], float] = {}
    for image, y, x, panel in itertools.product(
        range(batch), range(0, height, rows), range(0, width, across), range(0, vectors, wide)
    ):
        job = (image, y) if tile.order == "rows" else (0, panel)
        size = min(rows, height - y) * min(across, width - x)
        jobs[job] = jobs.get(job, 0.0) + step_cycles(CPU, size, min(wide, vectors - panel))
    each = -(-len(jobs) // tile.threads)
    costs = [jobs[job] for job in sorted(jobs)]
    return max(sum(costs[start : start + each]) for start in range(0, len(costs), each))


@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("pixels", [(1, 128, 1), (1, 17, 1), (2, 9, 13), (1, 7, 7), (1, 1, 1)])
@pytest.mark.parametrize("columns", [16, 40, 100])
def test_cycles_are_those_of_the_busiest_thread(order: str, pixels: tuple[int, int, int], columns: int) -> None:
    tile = Tile(16, 14, 32, order, 2)  # type: ignore[arg-type]
    assert product_cycles(CPU, tile, pixels, columns, groups=1) == pytest.approx(simulated(tile, pixels, columns))


def test_an_odd_block_out_makes_its_thread_the_last() -> None:
    tile = Tile(16, 14, 32, "columns", 2)
    even, odd = (product_cycles(CPU, tile, (1, 14, 1), columns, groups=1) for columns in (128, 160))
    assert odd == pytest.approx(even * 3 / 2)


def test_streaming_hides_behind_computing_in_part() -> None:
    assert kernel_seconds(1.0, 5.0, 0.0) == pytest.approx(6.0)
    assert kernel_seconds(0.0, 0.0, 7.0) == pytest.approx(7.0)
    assert 7.0 < kernel_seconds(0.0, 5.0, 7.0) < 8.0


@pytest.mark.parametrize(("machine", "macs", "matrix"), [("x86_64", 128, 1024), ("x86_64", 128, 0), ("x86_64", 64, 0)])
def test_int8_takes_the_cycles_of_its_unit(machine: str, macs: int, matrix: int) -> None:
    able = replace(CPU, matrix_int8_macs=matrix, int8_macs=macs, machine=machine)
    sizes = {"batch": 1, "m": 128, "n": 384, "k": 1536, "narrow": 0}
    whole, eight = (CYCLES["matmul"](tuple((sizes | {"rounded": each}).items()), able) for each in (0, 1))
    faster = (matrix or macs) / 32  # multiply-adds of float32 in a cycle
    assert 0.5 * faster < whole / eight <= 1.6 * faster
    assert CYCLES["matmul"](tuple((sizes | {"rounded": 1}).items()), CPU) == pytest.approx(whole, rel=0.05)
