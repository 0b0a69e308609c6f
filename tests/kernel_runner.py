"""Compile one kernel for this machine and run it on numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from chipfit.codegen.images import build_pack_image, build_unpack_image
from chipfit.codegen.library import tvm_target
from chipfit.codegen.packing import pack
from chipfit.codegen.spec import KernelSpec
from chipfit.codegen.spec_images import PackImageSpec, UnpackImageSpec
from chipfit.ir.images import Image, Shape
from chipfit.targets.registry import get_target
from chipfit.targets.tile import Tile

LANES = 8  # AVX2 and wider, or pairs of NEON registers
TILE = Tile(LANES, 3, 2 * LANES, "rows", 2)
GUARD = 64  # elements on either side of an output that no kernel may touch


@dataclass(frozen=True)
class Chip:
    """The figures of a chip that tile choice reads."""

    vector_bits: int = 512
    registers: int = 32
    l1_bytes: int = 48 * 1024
    l2_bytes: int = 2 * 1024 * 1024
    threads: int = 2
    bf16_macs: int = 0
    matrix_int8_macs: int = 0
    int8_macs: int = 0
    fp16_flops: int = 0
    machine: str = ""


def run_kernel(
    build: Callable[..., Any], spec: KernelSpec, *inputs: Any, tile: Tile = TILE, shapes: Sequence[Shape] | None = None
) -> np.ndarray:
    """The output; weights among `inputs` are given as PyTorch stores them. Unwritten elements are NaN.

    Fails if a guard zone beside the output is written.
    """
    function = tvm.compile(tvm.IRModule({"main": build(spec, tile, "main", shapes)}), target=host())["main"]
    given = [argument for argument in spec.arguments(tile) if argument.role != "scratch"]
    scratch = [argument for argument in spec.arguments(tile) if argument.role == "scratch"]
    tensors = [prepare(argument, value) for argument, value in zip(given[:-1], inputs, strict=True)]
    own = [guarded(argument.shape, argument.dtype) for argument in scratch]
    shapes = [argument.shape for argument in given] if shapes is None else shapes[: len(given)]
    outside, inside = guarded(shapes[-1], given[-1].dtype)
    function(*tensors, *(tvm.runtime.from_dlpack(array) for array in (inside, *(array for _, array in own))))
    for whole in (outside, *(whole for whole, _ in own)):
        assert (whole[:GUARD] == 7).all(), "The kernel wrote before its output or its scratch."
        assert (whole[-GUARD:] == 7).all(), "The kernel wrote behind its output or its scratch."
    return inside


def guarded(shape: Shape, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """An array full of NaN, or of their bits, and the memory around it too."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize // 4
    whole = aligned(count + 2 * GUARD)
    whole[GUARD:-GUARD] = np.nan
    return whole, whole[GUARD:-GUARD].view(dtype).reshape(shape)


def aligned(size: int) -> np.ndarray:
    """Sevens in memory aligned as TVM expects it, to 64 bytes."""
    raw = np.full(size + 16, 7, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + size]


def host() -> Any:
    return tvm_target(get_target("host"))


def prepare(argument: Any, value: Any) -> Any:
    array = np.asarray(value) if argument.role == "weight" else np.asarray(value, argument.dtype)
    if argument.packing:
        array = pack(argument.packing.kind, argument.packing.params, array)
        assert (array.shape, array.dtype) == (argument.shape, argument.dtype)
    return tvm.runtime.tensor(np.ascontiguousarray(array))


def to_image(image: Image, dense: Any) -> np.ndarray:
    """Channels first -> physical image, by numpy; the lanes beyond the channels hold NaN, which no kernel may read."""
    top, _, left, _ = image.halo
    dense = np.asarray(dense, np.float32)
    out = np.zeros(image.shape, np.float32)
    if image.planar:
        out[:, :, top : top + image.height, left : left + image.width] = dense
        return out
    out[..., image.channels :] = np.nan
    out[:, top : top + image.height, left : left + image.width, : image.channels] = dense.transpose(0, 2, 3, 1)
    return out


def from_image(image: Image, physical: np.ndarray) -> np.ndarray:
    """Physical image -> channels first; fails unless the halo is zero."""
    top, _, left, _ = image.halo
    data = physical[..., : image.channels].copy()
    inside = data[:, top : top + image.height, left : left + image.width].transpose(0, 3, 1, 2).copy()
    data[:, top : top + image.height, left : left + image.width] = 0
    assert not data.any(), "The halo is not zero."
    return inside


def round_trip(image: Image, dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The packed image and what unpacking it gives, both by our kernels."""
    packed = run_kernel(build_pack_image, PackImageSpec(image), dense)
    return packed, run_kernel(build_unpack_image, UnpackImageSpec(image), packed)
