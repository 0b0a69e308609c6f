"""Which way a 3x3 convolution goes, and in what blocks."""

from kernel_runner import Chip

from chipfit.targets.winograd import winograd_cycles, winograd_tile

AVX512 = Chip()


def test_wide_layers_of_large_images_take_fewer_multiplications() -> None:
    tile = winograd_tile(AVX512, 1, 56, 56, 64, 64)
    assert tile is not None
    assert (tile.order, tile.nr % tile.lanes) == ("rows", 0)
    assert tile.block > 0


def test_filters_that_would_only_stream_stay_as_they_are() -> None:
    assert winograd_tile(AVX512, 1, 7, 7, 512, 512) is None


def test_many_filters_over_few_patches_are_shared_out_by_panels() -> None:
    tile = winograd_tile(AVX512, 1, 14, 14, 256, 256)
    assert tile is not None
    assert (tile.order, tile.prefetch) == ("columns", True)


def test_cycles_grow_with_every_size() -> None:
    tile = winograd_tile(AVX512, 1, 28, 28, 64, 64)
    assert tile is not None
    least = winograd_cycles(AVX512, tile, 1, 28, 28, 64, 64)
    for larger in ((2, 28, 28, 64, 64), (1, 36, 28, 64, 64), (1, 28, 28, 72, 64), (1, 28, 28, 64, 128)):
        assert winograd_cycles(AVX512, tile, *larger) > least
