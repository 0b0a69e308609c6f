"""Which way a 3x3 convolution goes, and in what blocks."""

from kernel_runner import Chip

from chipfit.targets.winograd import SKEW, winograd_amounts, winograd_tile

AVX512 = Chip()


def test_wide_layers_of_large_images_take_fewer_multiplications() -> None:
    tile = winograd_tile(AVX512, 1, 56, 56, 64, 64)
    assert tile is not None
    assert (tile.order, tile.nr % tile.lanes) == ("rows", 0)
    assert tile.block > 0


def test_filters_that_would_only_stream_stay_as_they_are() -> None:
    assert winograd_tile(AVX512, 1, 7, 7, 512, 512) is None
    assert winograd_tile(AVX512, 1, 7, 7, 16384, 16) is None


def test_jobs_of_few_channels_stay_in_the_first_level_cache() -> None:
    tile = winograd_tile(AVX512, 1, 28, 28, 16, 16)
    assert tile is not None
    turned, products = 16 * tile.block * (16 + SKEW), 16 * tile.block * tile.nr
    assert 4 * (turned + products) <= AVX512.l1_bytes


def test_amounts_grow_with_every_size() -> None:
    tile = winograd_tile(AVX512, 1, 28, 28, 64, 64)
    assert tile is not None
    cycles, near = winograd_amounts(AVX512, tile, 1, 28, 28, 64, 64)
    for larger in ((2, 28, 28, 64, 64), (1, 36, 28, 64, 64), (1, 28, 28, 72, 64), (1, 28, 28, 64, 128)):
        more_cycles, more_near = winograd_amounts(AVX512, tile, *larger)
        assert more_cycles > cycles
        assert more_near > near
