"""How parameters are laid out for the kernels, done at load time: numpy only, no compiler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack(kind: str, params: Mapping[str, int | bool], weight: Array) -> Array:
    """The flat array that a kernel reads, from a parameter as PyTorch stores it. Raises KeyError for an unknown kind.

    kinds and params are those of `spec.Packing`.
    """
    return _PACKERS[kind](params, weight)


def _matrix(params: Mapping[str, int | bool], weight: Array) -> Array:
    """(n, k) if `transposed` else (k, n) -> panels."""
    matrix = weight.reshape(-1, weight.shape[-1])
    return panels(matrix.T if params["transposed"] else matrix, params["lanes"], params["nr"])


def _nibbles(params: Mapping[str, int | bool], weight: Array) -> Array:
    """Bytes of `ir.stored`'s int4, (n, groups * group / 2), -> panels of int32. Lane j of word w holds column j's
    numbers 8 w to 8 w + 7, the first in its lowest bits; the last word is filled up with zeros."""
    group, k = params["group"], params["k"]
    pairs = weight.reshape(len(weight), -1, group // 2)
    numbers = np.concatenate([pairs & 15, pairs >> 4], -1).reshape(len(weight), -1)[:, :k]
    numbers = np.pad(numbers, ((0, 0), (0, -k % 8))).reshape(len(weight), -1, 8)
    words = (numbers.astype(np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return panels(words.T, params["lanes"], params["nr"]).view(np.int32)


def _quads(params: Mapping[str, int | bool], weight: Array) -> Array:
    """int8 (n, k) -> panels of int32. The first row of a panel are -zero times the sums of its columns, the others have
    in lane j four neighbouring numbers of column j, the last filled up with zeros."""
    filled = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4)))
    rows = np.concatenate([corrections(params["zero"], weight), filled.view(np.int32)], axis=1)
    return panels(rows.T, params["lanes"], params["nr"])


def _quad_pairs(params: Mapping[str, int | bool], weight: Array) -> Array:
    """int8 (n, k) -> int32, for each 32 columns: their corrections as in `_quads`, then [k / 64][2][16][16], for each
    step along k two of AMX's tiles, whose rows hold four neighbouring k for each of 16 columns."""
    whole = np.pad(weight, ((0, -weight.shape[0] % 32), (0, -weight.shape[1] % 64)))
    words = whole.view(np.int32).reshape(-1, 2, 16, whole.shape[1] // 64, 16)
    tiles = words.transpose(0, 3, 1, 4, 2).reshape(len(words), -1)
    return np.ravel(np.concatenate([corrections(params["zero"], whole).reshape(-1, 32), tiles], axis=1))


def corrections(zero: int, weight: Array) -> Array:
    """What makes the product with x of that with x + zero, (n, 1)."""
    sums: Array = weight.sum(1, dtype=np.int32, keepdims=True)
    return -zero * sums


def _halves(params: Mapping[str, int | bool], weight: Array) -> Array:
    """As `panels`, in bfloat16."""
    return bfloat16(_matrix(params, weight))


def _float16(params: Mapping[str, int | bool], weight: Array) -> Array:
    """As `panels`, in float16."""
    return _matrix(params, weight).astype(np.float16)


def _pairs(params: Mapping[str, int | bool], weight: Array) -> Array:
    """(n, k) if `transposed` else (k, n) -> bfloat16, [n / 32][k / 32][2][16][16][2]: for each panel and step along k
    two of AMX's tiles, whose rows hold two neighbouring k for each of 16 columns. Filled up with zeros."""
    return pairs(weight.T if params["transposed"] else weight)


def _conv_pairs(params: Mapping[str, int | bool], weight: Array) -> Array:
    """(OC, IC, R, S) -> pairs over the reduction (R, S, IC), filled up to 32 at each tap, or if `planar` each row."""
    taps = weight.transpose(2, 3, 1, 0)
    if params["planar"]:
        taps = taps.reshape(taps.shape[0], 1, -1, taps.shape[-1])
    filled = np.pad(taps, ((0, 0), (0, 0), (0, -taps.shape[2] % 32), (0, 0)))
    return pairs(filled.reshape(-1, weight.shape[0]))


def pairs(matrix: Array) -> Array:
    """(k, n) as `_pairs` describes."""
    k, n = matrix.shape
    whole = np.pad(matrix, ((0, -k % 32), (0, -n % 32))).reshape(-(-k // 32), 16, 2, -(-n // 32), 2, 16)
    return bfloat16(np.ravel(whole.transpose(3, 0, 4, 1, 5, 2)))


def bfloat16(values: Array) -> Array:
    """The upper halves of float32 as uint16, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype(np.uint16)


def _conv(params: Mapping[str, int | bool], weight: Array) -> Array:
    """(OC, IC / groups, R, S) -> for each group, panels over the reduction (R, S, IC / groups)."""
    if params["half"]:
        weight = (bfloat16(weight).astype(np.uint32) << 16).view(np.float32).reshape(weight.shape)
    groups = np.split(weight, params["groups"])
    flat = [group.transpose(2, 3, 1, 0).reshape(-1, group.shape[0]) for group in groups]
    return np.concatenate([panels(matrix, params["lanes"], params["nr"]) for matrix in flat])


def _conv_quads(params: Mapping[str, int | bool], weight: Array) -> Array:
    """int8 (OC, IC, R, S) -> as `_quads` over the reduction (R, S, IC), filled up to four at each tap."""
    return _quads(params, _taps(weight, 4))


def _conv_tiles(params: Mapping[str, int | bool], weight: Array) -> Array:
    """int8 (OC, IC, R, S) -> [OC / 32][R S IC / 64][2][16][16][4], IC filled up: as `_quad_pairs`, without sums."""
    flat = _taps(weight, 64)
    whole = np.pad(flat, ((0, -len(flat) % 32), (0, 0))).reshape(-1, 2, 16, flat.shape[1] // 64, 16, 4)
    return np.ravel(whole.transpose(0, 3, 1, 4, 2, 5))


def _taps(weight: Array, step: int) -> Array:
    """(OC, IC, R, S) -> (OC, R S IC), IC filled up to a multiple of `step`."""
    taps = weight.transpose(0, 2, 3, 1)
    filled = np.pad(taps, ((0, 0), (0, 0), (0, 0), (0, -taps.shape[-1] % step)))
    return filled.reshape(len(weight), -1)


def _winograd(params: Mapping[str, int | bool], weight: Array) -> Array:
    """(OC, IC, 3, 3) -> G g G' of each filter, as panels over (position, IC)."""
    turned = np.einsum("ir,ocrs,js->ijco", _FILTER, weight.astype(np.float64), _FILTER, optimize=True)
    matrix = turned.reshape(-1, weight.shape[0]).astype(weight.dtype)
    return panels(matrix, params["lanes"], params["nr"])


def _depthwise(params: Mapping[str, int | bool], weight: Array) -> Array:
    """(C, 1, R, S) -> one panel of one vector for each `lanes` channels: [C / lanes][R][S][lanes]."""
    return panels(weight.reshape(weight.shape[0], -1).T, params["lanes"], params["lanes"])


def panels(matrix: Array, lanes: int, nr: int) -> Array:
    """(k, n) -> consecutive panels [k][nr] of nr columns each; the last is as wide as its columns, rounded up to a
    whole vector and filled with zeros."""
    k, n = matrix.shape
    whole = np.zeros((k, -(-n // lanes) * lanes), matrix.dtype)
    whole[:, :n] = matrix
    return np.concatenate([np.ravel(whole[:, start : start + nr]) for start in range(0, whole.shape[1], nr)])


_FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G of Winograd's F(2x2, 3x3)
_PACKERS = {
    "panels": _matrix,
    "nibbles": _nibbles,
    "quads": _quads,
    "quad_pairs": _quad_pairs,
    "halves": _halves,
    "float16": _float16,
    "pairs": _pairs,
    "conv_pairs": _conv_pairs,
    "conv": _conv,
    "conv_quads": _conv_quads,
    "conv_tiles": _conv_tiles,
    "winograd": _winograd,
    "depthwise": _depthwise,
}
