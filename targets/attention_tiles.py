"""The tile and the rows of a job for attention, by the cycles of both its products and of turning the keys."""

from __future__ import annotations

import itertools

from chipfit.targets.tile import CpuShape, Tile, lanes
from chipfit.targets.tiles import MAX_VECTORS, STORE_STEPS, candidates, sizes_of_parts, step_cycles

TRANSPOSE_CYCLES = 4  # of a vector of keys, a shuffle for each of the rounds of interleaving, with its load and store


def attention_tile(chip: CpuShape, stack: int, share: int, m: int, n: int, k: int, width: int) -> Tile:
    """The tile and the rows of a job for attention of `stack` heads, `share` of which use one head of K (n, k)."""
    most = min(MAX_VECTORS, -(-max(n, width) // lanes(chip)))
    blocks = sorted({-(-m // count) for count in range(1, min(m, 4 * chip.threads) + 1)})
    choices = itertools.product(candidates(chip, m, most), blocks)
    tile, block = min(choices, key=lambda c: attention_cycles(chip, *c, stack, share, m, n, k, width))
    return Tile(lanes(chip), tile[0], tile[1] * lanes(chip), "rows", chip.threads, block=block)


def attention_cycles(
    chip: CpuShape,
    tile: tuple[int, int],
    block: int,
    *sizes: int,
    causal: bool = False,
) -> float:
    """Cycles of the busiest thread in both products and in turning K, at tiles of (rows, vectors).

    sizes: stack, share, m, n, k and width. A causal attention leaves out the columns that no row of a job sees.
    """
    stack, share, m, n, k, width = sizes
    vectors = lanes(chip)
    starts = range(0, m, block)
    jobs = [(min(block, m - start), min(n, start + block) if causal else n) for start in starts] * (stack // share)
    cycles = {job: _job_cycles(chip, tile, share, *job, k, width, vectors) for job in set(jobs)}
    return sum(cycles[job] for job in jobs[: -(-len(jobs) // chip.threads)])


def _job_cycles(
    chip: CpuShape, tile: tuple[int, int], share: int, rows: int, n: int, k: int, width: int, vector: int
) -> float:
    def product(columns: int, depth: int) -> float:
        steps = (
            a * b * step_cycles(chip, y, v)
            for (a, y), (b, v) in itertools.product(
                sizes_of_parts(rows, tile[0]), sizes_of_parts(-(-columns // vector), tile[1])
            )
        )
        return (depth + STORE_STEPS) * sum(steps) * share

    return product(n, k) + product(width, n) + -(-n // vector) * k * TRANSPOSE_CYCLES
