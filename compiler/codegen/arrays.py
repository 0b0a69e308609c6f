"""The arrays that a library is given besides its inputs: its weights, packed, and the places in its arena."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from chipfit.codegen.packing import pack
from chipfit.errors import UserError

ALIGNMENT = 64  # bytes, as TVM's own allocations

Array = npt.NDArray[Any]


def read_tensors(path: Path) -> dict[str, Array]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, which it does not export
        raise UserError(f"{path} is no readable safetensors file ({error}); write or compile it again.") from error


def prepared(entry: Mapping[str, Any], weights: Mapping[str, Array], constants: Mapping[str, Array]) -> Array:
    """One weight argument: found under its name, checked and packed."""
    source, shape = entry["source"], tuple(entry["source_shape"])
    tensor = constants.get(source, weights.get(source))
    if tensor is None:
        raise UserError(f"The weights have no tensor {source}; use the weights that this library was compiled with.")
    if tensor.shape != shape or tensor.dtype.name != entry["dtype"]:
        found = f"{tensor.dtype.name} {tensor.shape}"
        raise UserError(f"Weight {source} is {found}, but the library was compiled for {entry['dtype']} {shape}.")
    packing = entry["packing"]
    return pack(packing["kind"], packing["params"], tensor) if packing else tensor


def together(
    entries: Sequence[Mapping[str, Any]], weights: Mapping[str, Array], constants: Mapping[str, Array]
) -> list[Array]:
    """All weight arguments, those that were packed one after the other in one piece of memory.

    For a large piece numpy asks Linux for pages of 2 MiB: code that streams weights then looks up few of them.
    """
    found = [prepared(entry, weights, constants) for entry in entries]
    packed = [index for index, entry in enumerate(entries) if entry["packing"]]
    memory = aligned_bytes(sum(room(found[index]) for index in packed))
    for index in packed:
        array = found[index]
        place, memory = memory[: array.nbytes].view(array.dtype).reshape(array.shape), memory[room(array) :]
        np.copyto(place, array)
        found[index] = place  # which frees the other: weights never lie in memory thrice
    return found


def placed(record: Mapping[str, Any]) -> Iterator[Array]:
    """The places, in one arena, of what a library computes on the way."""
    arena = aligned(np.zeros(record["arena_bytes"], np.uint8))
    for place in record["places"]:
        dtype, start = np.dtype(place["dtype"]), place["offset"]
        end = start + math.prod(place["shape"]) * dtype.itemsize
        yield arena[start:end].view(dtype).reshape(place["shape"])


def aligned(array: Array) -> Array:
    """A C-contiguous copy that starts where vectors do, or the array itself if it already does."""
    if array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned_bytes(array.nbytes).view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def aligned_bytes(count: int) -> npt.NDArray[np.uint8]:
    """Memory that starts where vectors do."""
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count]


def room(array: Array) -> int:
    """Bytes from where an array starts to where the next one may."""
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT
