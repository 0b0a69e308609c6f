"""Tile sizes follow from registers, vectors, caches and threads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_runner import Chip

from chipfit.targets.tiles import conv_tiles, depthwise_tile, fits, matmul_tile, pixel_block

AVX512, AVX2, NEON = Chip(), Chip(256, 16), Chip(128, 32)


@pytest.mark.parametrize(("chip", "mr", "nr"), [(AVX512, 14, 32), (AVX2, 6, 16), (NEON, 7, 12)])
def test_large_matrices_get_the_tile_known_to_be_best(chip: Chip, mr: int, nr: int) -> None:
    tile = matmul_tile(chip, 1008, 1536, 1024)
    assert (tile.mr, tile.nr) == (mr, nr)


@given(st.sampled_from([AVX512, AVX2, NEON]), st.integers(1, 300), st.integers(1, 5000), st.integers(1, 5000))
def test_tiles_never_spill_and_hold_whole_vectors(chip: Chip, m: int, n: int, k: int) -> None:
    tile = matmul_tile(chip, m, n, k)
    assert tile.nr % tile.lanes == 0
    assert tile.mr <= m
    assert fits(chip, tile.mr, tile.nr // tile.lanes)


def test_one_row_is_spread_over_columns() -> None:
    tile = matmul_tile(AVX512, 1, 4096, 576)
    assert (tile.mr, tile.order) == (1, "columns")
    assert tile.nr >= 64


def test_few_columns_are_spread_over_rows() -> None:
    assert matmul_tile(AVX512, 1024, 16, 64).order == "rows"


def test_weights_beyond_the_cache_stay_with_their_thread_and_are_prefetched() -> None:
    tile = conv_tiles(AVX512, 1, 7, 7, 512, 512, 3, 3)[0]
    assert (tile.mr, tile.nr, tile.order, tile.prefetch) == (14, 32, "columns", True)
    tile = conv_tiles(AVX512, 1, 56, 56, 64, 64, 3, 3)[0]
    assert (tile.mr, tile.nr, tile.order, tile.prefetch) == (14, 32, "rows", False)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40))
def test_pixel_blocks_hold_no_more_than_the_tile(mr: int, height: int, width: int) -> None:
    rows, columns = pixel_block(mr, height, width)
    assert rows * columns <= mr
    assert rows == 1 or columns == width


def test_depthwise_goes_by_rows_where_a_plane_leaves_the_cache_or_channels_are_few() -> None:
    assert depthwise_tile(AVX512, 1, 28, 28, 192).order == "columns"
    assert depthwise_tile(AVX512, 1, 56, 56, 144).order == "rows"
    assert depthwise_tile(AVX512, 1, 28, 28, 16).order == "rows"
    assert depthwise_tile(AVX512, 1, 56, 56, 144).mr == 8


def test_int8_goes_to_what_the_chip_has() -> None:
    amx, vnni = Chip(matrix_int8_macs=1024, int8_macs=128, machine="x86_64"), Chip(int8_macs=128, machine="x86_64")
    arm = Chip(128, 32, int8_macs=32, machine="aarch64")
    units = {
        name: [matmul_tile(chip, m, 384, 384, stored="int8", rounded=True).unit for m in (1, 128)]
        for name, chip in {"amx": amx, "vnni": vnni, "arm": arm, "none": NEON}.items()
    }
    assert units == {"amx": ["vnni", "amx"], "vnni": ["vnni"] * 2, "arm": ["sdot"] * 2, "none": ["vector"] * 2}
    assert matmul_tile(amx, 128, 384, 384, stored="int8").unit == "vector"
