"""The cost models of GPUs, NPUs and CPUs that nobody timed: staircases, waves, padding, and bounds that always hold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_kernels import Asked, attention, conv, matmul, relu, rounded_conv, rounded_matmul, softmax, view

from chipfit.targets.cost import KernelModel
from chipfit.targets.energy import MEMORY
from chipfit.targets.gpu import GpuModel, gpu_of, product_plan
from chipfit.targets.npu import NpuModel, npu_of
from chipfit.targets.products import Product
from chipfit.targets.profile import Figure, Profile
from chipfit.targets.registry import get_target
from chipfit.targets.roofline import Roofline

CHIPS = ("cortex-a76", "h100-sxm", "ascend-910b3")
ASCEND, A76 = (get_target(name).profile for name in ("ascend-910b3", "cortex-a76"))
H100 = get_target("h100-sxm").profile.with_figures({"clock": Figure(1.8, "GHz", "test", "unverified")})
HALF, WIDE = torch.bfloat16, torch.float32


def model_of(chip: str) -> KernelModel:
    return get_target(chip).cost_model.model


def ms(model: KernelModel, asked: Asked) -> float:
    return math.fsum(model.terms(*asked).values())


def limit(model: KernelModel, asked: Asked) -> str:
    terms = model.terms(*asked)
    return max(terms, key=lambda term: terms[term])


def without_launch(profile: Profile) -> Profile:
    """So that what a test is about is not lost beside launches."""
    names = [name for name in profile.figures if name.endswith("launch_time")]
    return profile.with_figures({name: replace(profile.figures[name], value=0.0) for name in names})


def changed(profile: Profile, **values: float) -> Profile:
    figures = {name: replace(profile.figures[name], value=value) for name, value in values.items()}
    return profile.with_figures(figures)


# All families


@pytest.mark.parametrize("chip", CHIPS)
def test_nothing_here_looks_measured(chip: str) -> None:
    model = model_of(chip)
    assert model.status == "uncalibrated"
    assert model.interval(1.0) is None


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("asked", [matmul(64, 64, 64), conv(8, 16, 24), attention(4, 32, 16), relu(9), softmax(3, 7)])
def test_every_kind_of_kernel_takes_time_and_moves_its_bytes(chip: str, asked: Asked) -> None:
    model, (_, work) = model_of(chip), asked
    assert ms(model, asked) > 0
    assert all(spent >= 0 for spent in model.terms(*asked).values())
    assert model.traffic(*asked)[MEMORY] >= work.bytes_read + work.bytes_written


@pytest.mark.parametrize("chip", CHIPS)
def test_a_view_takes_no_time(chip: str) -> None:
    assert ms(model_of(chip), view(8, 8)) == 0


@pytest.mark.parametrize("chip", CHIPS)
@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 600), n=st.integers(1, 3000), k=st.integers(1, 3000), dtype=st.sampled_from([WIDE, HALF]))
def test_no_product_beats_the_peak_or_the_bandwidth(chip: str, m: int, n: int, k: int, dtype: torch.dtype) -> None:
    model, (kernel, work) = model_of(chip), matmul(m, n, k, dtype)
    profile = get_target(chip).profile
    peak = max(profile.si(name) for name in ("fp32_peak", "fp16_peak") if name in profile.figures)
    streamed = work.dims["streamed"] / profile.si("memory_bandwidth")
    assert ms(model, (kernel, work)) >= 1e3 * max(work.flops / peak, streamed) * (1 - 1e-9)


@pytest.mark.parametrize("chip", ["h100-sxm", "ascend-910b3"])
@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 700), st.integers(1, 2000), st.integers(1, 2000)),
    more=st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)),
    dtype=st.sampled_from([WIDE, HALF]),
)
def test_larger_products_take_no_less(
    chip: str, sizes: tuple[int, int, int], more: tuple[int, int, int], dtype: torch.dtype
) -> None:
    model = model_of(chip)
    larger = tuple(size + extra for size, extra in zip(sizes, more, strict=True))
    assert ms(model, matmul(*larger, dtype)) >= ms(model, matmul(*sizes, dtype)) * (1 - 1e-9)


@pytest.mark.parametrize("chip", CHIPS)
@given(rows=st.integers(1, 3000), width=st.integers(1, 3000), more=st.integers(0, 500))
def test_larger_vectors_take_no_less(chip: str, rows: int, width: int, more: int) -> None:
    model = model_of(chip)
    assert ms(model, relu(rows + more, width)) >= ms(model, relu(rows, width))
    assert ms(model, relu(rows, width + more)) >= ms(model, relu(rows, width))


def test_a_family_without_a_model_of_its_own_gets_the_roofline(tmp_path: Path) -> None:
    figures = "{ unit = 'GFLOP/s', least = 1, most = 1e6, about = 'peak' }"
    bytes_ = "{ unit = 'GB/s', least = 1, most = 1e6, about = 'bandwidth' }"
    (tmp_path / "profile.toml").write_text(f"[figures]\nfp32_peak = {figures}\nmemory_bandwidth = {bytes_}\n")
    told = "source = 'test', status = 'unverified'"
    (tmp_path / "mine.toml").write_text(
        "name = 'mine'\nfamily = 'profile'\nsummary = 'named as a module that is no model'\n[figures]\n"
        f"fp32_peak = {{ value = 2, unit = 'GFLOP/s', {told} }}\n"
        f"memory_bandwidth = {{ value = 1, unit = 'GB/s', {told} }}\n"
    )
    target = get_target("mine", [tmp_path])
    assert isinstance(target.cost_model.model, Roofline)
    assert (target.granularity, target.status) == (1, "uncalibrated")
    assert ms(target.cost_model.model, matmul(100, 100, 100)) == pytest.approx(1.0)
    assert target.cost_model.energy is None, "no figure says what its memory takes"


@pytest.mark.parametrize(("chip", "step"), [("cortex-a76", 4), ("h100-sxm", 8), ("ascend-910b3", 16)])
def test_widths_worth_trying(chip: str, step: int) -> None:
    assert get_target(chip).granularity == step


# GPU


def test_a_gpu_multiplies_half_precision_on_tensor_cores_and_the_rest_on_its_plain_units() -> None:
    model = GpuModel(H100)
    assert limit(model, matmul(4096, 4096, 4096, HALF)) == "tensor core"
    assert limit(model, matmul(4096, 4096, 4096)) == "fp32"
    assert ms(model, matmul(4096, 4096, 4096, HALF)) < ms(model, matmul(4096, 4096, 4096)) / 8


def test_a_gpu_multiplies_int8_at_its_own_rate_and_reads_a_quarter_of_the_bytes() -> None:
    model = GpuModel(without_launch(H100))
    wide, half, byte = matmul(4096, 4096, 4096), matmul(4096, 4096, 4096, HALF), rounded_matmul(4096, 4096, 4096)
    assert limit(model, byte) == "tensor core"
    assert ms(model, byte) == pytest.approx(ms(model, half) * H100.si("fp16_peak") / H100.si("int8_peak"), rel=0.05)
    few = [ms(model, asked) for asked in (matmul(1, 4096, 4096), rounded_matmul(1, 4096, 4096))]
    assert few[0] / few[1] == pytest.approx(4, rel=0.02)
    assert byte[1].bytes_read < wide[1].bytes_read / 3.9


def test_a_gpu_rounds_what_a_convolution_reads_by_another_kernel() -> None:
    asked = rounded_conv(8, 16, 24)
    once = 1e3 * H100.si("launch_time")
    assert ms(GpuModel(H100), asked) == pytest.approx(2 * once)
    assert ms(GpuModel(without_launch(H100)), asked) > 0
    without = GpuModel(H100.with_figures({name: f for name, f in H100.figures.items() if name != "int8_peak"}))
    assert ms(without, rounded_matmul(4096, 4096, 4096)) >= ms(GpuModel(H100), rounded_matmul(4096, 4096, 4096))


def test_a_gpu_is_limited_by_memory_for_one_row_and_by_launches_for_little() -> None:
    model = GpuModel(H100)
    assert limit(model, matmul(1, 16384, 16384, HALF)) == "dram"
    assert limit(model, relu(64)) == "launch"
    assert ms(model, relu(64)) == ms(model, relu(65)) == pytest.approx(5e-3, rel=0.01)


def test_one_tile_more_than_a_wave_takes_another_wave() -> None:
    """At a depth that makes splitting sums no help and with bytes that cost nothing, time goes by whole waves."""
    chip = gpu_of(changed(without_launch(H100), memory_bandwidth=1e5, l2_bytes_per_cycle=4096))
    rows = 64 * chip.cores

    def busy(m: int) -> float:
        return product_plan(replace(chip, plain=1.0), Product(1, m, 64, 64), 2, 0).busy

    assert busy(rows) == busy(rows - 63)
    assert busy(rows + 1) > busy(rows)


def test_sums_are_split_where_there_are_too_few_tiles() -> None:
    chip = gpu_of(H100)
    one, eight = (product_plan(chip, Product(1, 128, 128, k), 2, 0).busy for k in (4096, 8 * 4096))
    assert eight < 4 * one
    assert one < 2 * 128 * 128 * 4096 / (chip.half / chip.cores), "as long as one core alone would take"


def test_a_product_is_aligned_for_tensor_cores() -> None:
    model = GpuModel(without_launch(H100))
    aligned, odd = ms(model, matmul(64, 16384, 4096, HALF)), ms(model, matmul(64, 16384, 4090, HALF))
    assert odd == pytest.approx(aligned, rel=1e-3)
    assert ms(model, matmul(64, 16384, 4080, HALF)) < odd * 0.999


def test_factors_that_l2_cannot_keep_are_read_again() -> None:
    asked = matmul(16384, 16384, 16384, HALF)
    small, large = (GpuModel(changed(H100, l2_size=size)).traffic(*asked)[MEMORY] for size in (1, 4096))
    assert large == asked[1].bytes_read + asked[1].bytes_written
    assert small > 2 * large


def test_little_shared_memory_leaves_small_tiles() -> None:
    asked = matmul(4096, 4096, 4096, HALF)
    much, little = (GpuModel(changed(H100, shared_size=size)).traffic(*asked)["cache"] for size in (228, 8))
    assert little > 1.5 * much


# NPU


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 300), n=st.integers(1, 300), k=st.integers(1, 300), axis=st.sampled_from([0, 1, 2]))
def test_a_cube_pads_every_size_to_16(m: int, n: int, k: int, axis: int) -> None:
    """With bytes that cost nothing: those are of what is there."""
    model = NpuModel(changed(without_launch(ASCEND), memory_bandwidth=1e5, l2_write_bytes_per_cycle=65536))
    sizes = [m, n, k]
    sizes[axis] = math.ceil(sizes[axis] / 16) * 16
    assert ms(model, matmul(m, n, k, HALF)) == pytest.approx(ms(model, matmul(*sizes, HALF)), rel=0.02)


def test_the_staircase_of_a_cube_shows_in_a_layer() -> None:
    model = NpuModel(without_launch(ASCEND))
    times = [ms(model, matmul(4096, 4096, k, HALF)) for k in (1008, 1009, 1024, 1025)]
    assert times[0] < times[1] == times[2] < times[3]


def test_an_npu_names_what_limits_it() -> None:
    model = NpuModel(ASCEND)
    assert limit(model, matmul(8192, 8192, 8192, HALF)) == "cube"
    assert limit(model, matmul(1, 16384, 16384, HALF)) == "dram"
    assert limit(model, relu(64)) == "launch"
    assert model.terms(*relu(64))["launch"] < model.terms(*matmul(16, 16, 16))["launch"]


def test_a_cube_multiplies_int8_at_its_own_rate_where_it_has_one() -> None:
    """The Ascend 910A's does, at twice that of fp16; of the 910B3's there is no figure."""
    half, byte = matmul(8192, 4096, 4096, HALF), rounded_matmul(8192, 4096, 4096)
    told, untold = (get_target(name).cost_model.model for name in ("ascend-910a", "ascend-910b3"))
    assert ms(told, byte) == pytest.approx(ms(told, half) / 2, rel=0.1)
    assert ms(untold, byte) == pytest.approx(ms(untold, half), rel=0.1)
    assert ms(untold, rounded_matmul(1, 4096, 4096)) < 0.6 * ms(untold, matmul(1, 4096, 4096, HALF))


def test_the_vector_cores_round_what_a_convolution_reads() -> None:
    slow = NpuModel(changed(without_launch(ASCEND), vector_bytes_per_cycle=1))
    assert limit(slow, rounded_conv(64, 16, 16)) == "vector"
    assert ms(slow, rounded_conv(64, 16, 16)) > ms(slow, conv(64, 16, 16))


def test_smaller_buffers_cost_more() -> None:
    asked = matmul(4096, 4096, 4096, HALF)
    whole = ms(NpuModel(ASCEND), asked) * 1.001
    for name, size in (("l0c_size", 2), ("l0a_size", 1)):
        assert ms(NpuModel(changed(ASCEND, **{name: size})), asked) > whole, name
    least = changed(ASCEND, l0a_size=1, l0b_size=1, l0c_size=2, l1_size=2)
    assert ms(NpuModel(least), asked) > 2 * whole


def test_a_row_longer_than_half_a_buffer_passes_twice() -> None:
    model = NpuModel(changed(without_launch(ASCEND), memory_bandwidth=1e5))
    half = int(npu_of(ASCEND).ub_size) // 2 // 4
    assert ms(model, softmax(1, half + 8)) > 1.3 * ms(model, softmax(1, half))


def test_vector_cores_work_while_cubes_multiply() -> None:
    """A softmax beside its products takes what the longer of the two takes."""
    model = NpuModel(without_launch(ASCEND))
    asked = attention(32, 1024, 64, HALF)
    slow = NpuModel(changed(without_launch(ASCEND), vector_bytes_per_cycle=1))
    assert limit(slow, asked) == "vector"
    assert ms(slow, asked) > ms(model, asked)


# CPUs that nobody timed


def test_an_uncalibrated_cpu_counts_the_cycles_of_its_tiles() -> None:
    """The Cortex-A76's tile is 7 x 12: one row or one vector more than whole tiles takes another."""
    model = model_of("cortex-a76")
    whole, more = ms(model, matmul(700, 480, 256)), ms(model, matmul(700, 481, 256))
    assert more > whole
    assert ms(model, matmul(700, 484, 256)) == pytest.approx(more, rel=1e-3)
    ideal = 1e3 * 2 * 700 * 480 * 256 / A76.si("fp32_peak")
    assert ideal < whole < 2 * ideal


def test_half_the_peak_takes_twice_the_time() -> None:
    asked = matmul(512, 512, 512)
    fast, slow = (type(model_of("cortex-a76"))(changed(A76, fp32_peak=peak)) for peak in (153.6, 76.8))  # type: ignore[call-arg]
    assert ms(slow, asked) == pytest.approx(2 * ms(fast, asked), rel=1e-3)


def test_a_cpu_with_measured_coefficients_is_calibrated() -> None:
    measured = {"matmul_cycle_time": Figure(1.0, "ns", "test", "measured")}
    measured |= {"interval_factor": Figure(1.5, "ratio", "test", "measured")}
    model = type(model_of("cortex-a76"))(A76.with_figures(measured))  # type: ignore[call-arg]
    assert model.status == "calibrated"
    assert model.interval(3.0) == (2.0, 4.5)
