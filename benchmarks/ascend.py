"""Compares the cost model's tiles and bytes for an Ascend with those that Huawei's compiler plans.

Nothing runs on an NPU here. AscendNPU-IR (https://pypi.org/project/ascendnpu-ir) compiles a kernel up to its last step,
which needs closed software: by then buffers are placed and transfers are fixed, and both can be read off. Writes
docs/benchmarks/ascend.md.
"""

import math
import random
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
from cells import table
from scipy.stats import spearmanr

from chipfit.targets.amounts import parts
from chipfit.targets.npu import BLOCK, HALF, SIDES, SUM, Npu, fits, npu_of, tiled
from chipfit.targets.products import Product, padded
from chipfit.targets.registry import get_target

CHIP, TARGET = "ascend-910b3", "Ascend910B3"
COMPILER = Path(sysconfig.get_path("platlib")) / "ascendnpuir" / "bin" / "bishengir-compile"
OPTIONS = ("--enable-hfusion-compile=true", "--enable-hivm-compile=true", "--enable-triton-kernel-compile=true")
PLANNED = "module.hivm.opt.mlir"  # what the compiler would hand to its closed last step
# (m, n, k) of layers: MiniLM, SmolLM2, ResNet-50 as products of patches; others are made up, multiples of nothing.
LAYERS = ((128, 384, 384), (128, 1536, 384), (128, 576, 1536), (128, 1536, 576), (3136, 64, 576), (784, 512, 128))
RANDOM = 14
DEPTH = 64  # of a step along k, at most
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "ascend.md"


@dataclass(frozen=True)
class Kernel:
    """What was planned for one tile: bytes that its buffers take, and bytes that it moves from and to memory."""

    l1: int
    l0c: int
    read: int
    written: int


@dataclass(frozen=True)
class Row:
    """A product in tiles: whether our model says that they fit, and bytes; `planned` is None where they overflow."""

    product: Product
    tile: tuple[int, int]
    fits: bool
    predicted: float
    planned: float | None


def products() -> list[Product]:
    chance = random.Random(0)
    made_up = [tuple(chance.randint(17, most) for most in (700, 2000, 2000)) for _ in range(RANDOM)]
    return [Product(1, *sizes) for sizes in (*LAYERS, *made_up)]


def rows(npu: Npu) -> Iterator[Row]:
    """Every product in every tile that is no larger than it."""
    for one in products():
        limits = [max(BLOCK, padded(size, BLOCK)) for size in (one.m, one.n)]
        for tile in product(SIDES, SIDES):
            if tile[0] <= limits[0] and tile[1] <= limits[1]:
                yield Row(one, tile, fits(npu, *tile), moved_by_us(npu, one, tile), moved_by_compiler(one, tile))


def moved_by_us(npu: Npu, one: Product, tile: tuple[int, int]) -> float:
    """Between memory and the cubes, in bytes; with an L1 in which no row stays, as the compiler's kernels have it."""
    return tiled(replace(npu, cubes=1, l1_size=0), one, (HALF, HALF), 0, tile, 1).l2_bytes


def moved_by_compiler(one: Product, tile: tuple[int, int]) -> float | None:
    """The tiles at the edges are kernels of their own sizes."""
    total = 0.0
    for (down, rows), (across, columns) in product(parts(one.m, tile[0]), parts(one.n, tile[1])):
        found = kernel(rows, columns, one.k)
        if found is None:
            return None
        total += down * across * (found.read + found.written)
    return total


@cache
def kernel(rows: int, columns: int, k: int) -> Kernel | None:
    """One tile of a product as the compiler plans it; None where a buffer overflows, which it says."""
    deep, rest = divmod(k, DEPTH)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "k.mlir").write_text(mlir(rows, columns, deep * DEPTH, rest))
        command = [str(COMPILER), str(place / "k.mlir"), *OPTIONS, f"--target={TARGET}"]
        done = subprocess.run(
            [*command, f"--save-temps={folder}", "-o", str(place / "k.o")], capture_output=True, text=True, check=False
        )
        wrong = [line for line in (done.stdout + done.stderr).splitlines() if "error:" in line and "hivmc" not in line]
        if any("overflow" in line for line in wrong):
            return None
        if wrong or not (place / PLANNED).exists():
            raise RuntimeError(f"{rows} x {columns} x {k}: {wrong or done.stderr[-500:]}")
        return read_plan((place / PLANNED).read_text(), max(1, deep))


def read_plan(text: str, steps: int) -> Kernel:
    """What lies in a kernel's buffers, and what its transfers move; those in the loop do it `steps` times."""
    ends: dict[str, int] = {"cbuf": 0, "cc": 0}
    names = dict(re.findall(r"(%c\S+) = arith\.constant (\d+) : i64", text))
    for offset, shape, kind, space in re.findall(
        r"pointer_cast\((%\S+?)\) : memref<([\dx]+)x(f16|f32), #hivm\.address_space<(cbuf|cc)>>", text
    ):
        size = math.prod(map(int, shape.split("x"))) * (HALF if kind == "f16" else SUM)
        ends[space] = max(ends[space], int(names[offset]) + size)
    moved, loop = {"nd2nz": 0, "fixpipe": 0}, 0
    views: dict[str, int] = {}
    for line in text.splitlines():
        loop += ("scf.for" in line) - (loop > 0 and line.strip().startswith("}"))
        if view := re.search(r"(%\S+) = memref\.reinterpret_cast .* sizes: \[(\d+), (\d+)\]", line):
            views[view[1]] = int(view[2]) * int(view[3]) * HALF
        if cast := re.search(r"(%\S+) = memref\.cast (%\S+) : memref<\d+x\d+xf16, strided", line):
            views[cast[1]] = views[cast[2]]
        if called := re.search(r"call @(nd2nz|fixpipe)\w*\((%\S+), (%[^\s,)]+)", line):
            source = called[2] if called[1] == "nd2nz" else called[3]
            moved[called[1]] += views[source] * (steps if loop else 1)
    return Kernel(ends["cbuf"], ends["cc"], moved["nd2nz"], moved["fixpipe"])


def mlir(rows: int, columns: int, deep: int, rest: int) -> str:
    """A tile C = A B in float16, sums in float32: a loop over `deep` by steps of DEPTH, then what is left of k."""
    k, sums = deep + rest, f"tensor<{rows}x{columns}xf32>"
    pointer = "memref<?xf16> {tt.divisibility = 16 : i32}"
    grid = ", ".join(f"%g{axis}: i32" for axis in "abcdef")
    body = ""
    if deep:
        body += f"""
  %acc = scf.for %i = %c0 to %deep step %step iter_args(%it = %first) -> ({sums}) {{
{step(rows, columns, k, DEPTH, "%i", "%it", "loop")}
    scf.yield %loop_sum : {sums}
  }}"""
    last = "%acc" if deep else "%first"
    if rest:
        body += "\n" + step(rows, columns, k, rest, "%deep", last, "rest")
        last = "%rest_sum"
    return f"""module {{
func.func @tile(%lock: memref<?xi8> {{hacc.arg_type = #hacc.arg_type<sync_block_lock>}},
    %space: memref<?xi8> {{hacc.arg_type = #hacc.arg_type<workspace>}},
    %a: {pointer}, %b: {pointer}, %c: {pointer}, {grid})
    attributes {{SyncBlockLockArgIdx = 0 : i64, WorkspaceArgIdx = 1 : i64, global_kernel = "local", mix_mode = "mix",
    parallel_mode = "simd", hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>}} {{
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %deep = arith.constant {deep} : index
  %step = arith.constant {DEPTH} : index
  %width = arith.constant {columns} : index
  %none = tensor.empty() : {sums}
  %first = linalg.fill ins(%zero : f32) outs(%none : {sums}) -> {sums}{body}
  %half = arith.truncf {last} : {sums} to tensor<{rows}x{columns}xf16>
  %out = memref.reinterpret_cast %c to offset: [%c0], sizes: [{rows}, {columns}], strides: [{columns}, 1]
    : memref<?xf16> to memref<{rows}x{columns}xf16, strided<[{columns}, 1], offset: ?>>
  bufferization.materialize_in_destination %half in writable %out
    : (tensor<{rows}x{columns}xf16>, memref<{rows}x{columns}xf16, strided<[{columns}, 1], offset: ?>>) -> ()
  return
}}
}}
"""


def step(rows: int, columns: int, k: int, depth: int, at: str, before: str, name: str) -> str:
    """One step along k added to what was there `before`: both factors copied, then multiplied."""
    sums, lines = f"tensor<{rows}x{columns}xf32>", [f"    %{name}_at = arith.muli {at}, %width : index"]
    factors = (("a", at, rows, depth, k), ("b", f"%{name}_at", depth, columns, columns))
    for factor, offset, height, width, stride in factors:
        view, own = f"memref<{height}x{width}xf16, strided<[{stride}, 1], offset: ?>>", f"memref<{height}x{width}xf16>"
        one = f"%{name}_{factor}"
        lines += [
            f"    {one} = memref.reinterpret_cast %{factor} to offset: [{offset}], sizes: [{height}, {width}], "
            f"strides: [{stride}, 1] : memref<?xf16> to {view}",
            f"    {one}_own = memref.alloc() : {own}",
            f"    memref.copy {one}, {one}_own : {view} to {own}",
            f"    {one}_tensor = bufferization.to_tensor {one}_own restrict writable : {own}",
        ]
    inputs = f"%{name}_a_tensor, %{name}_b_tensor : tensor<{rows}x{depth}xf16>, tensor<{depth}x{columns}xf16>"
    lines.append(f"    %{name}_sum = linalg.matmul ins({inputs}) outs({before} : {sums}) -> {sums}")
    return "\n".join(lines)


def page(found: Sequence[Row]) -> str:
    count, both = len({row.product for row in found}), [row for row in found if row.planned is not None]
    ratios = np.array([row.predicted / row.planned for row in both if row.planned])
    ranks = [spearmanr(*pair).statistic for pair in by_product(both).values() if len(pair[0]) > 3]
    fitting = [row for row in found if row.fits]
    refused = [row for row in found if not row.fits]
    lines = [
        ("our model says that they fit", str(len(fitting)), str(sum(row.planned is not None for row in fitting))),
        ("our model says that they don't", str(len(refused)), str(sum(row.planned is not None for row in refused))),
    ]
    rank = spearmanr([row.predicted for row in both], [row.planned for row in both]).statistic
    return f"""# Tiles and bytes of an Ascend, by the cost model and by Huawei's compiler

`make bench-ascend` on {date.today()}: ascendnpu-ir {version("ascendnpu-ir")}, {TARGET}. Nothing was run on an NPU, and
no figure here is a time.

{count} products of float16, of layers and of random sizes, each cut into every tile of powers of two that is no
larger; the compiler planned each kind of tile, those at the edges too, as a kernel that reads both factors along the
sum and writes once. Our model keeps two tiles of sums at once, so that one can be written while the next is added up;
these kernels have one, and a tile may fit for them that doesn't for us.

{table(("tiles", "of products", "the compiler agrees to"), lines)}

Bytes between memory and the cubes: ours are {np.median(ratios):.3f} times the compiler's in the median,
{ratios.min():.3f} to {ratios.max():.3f} of {len(ratios)}. We count a tile at the edge as a whole one; the compiler
moves what is there. Rank correlation over all is {rank:.3f}; among the tiles of one product, which is what the model
chooses by, {np.median(ranks):.3f} in the median and {min(ranks):.3f} at worst.
"""


def by_product(found: Sequence[Row]) -> Mapping[Product, tuple[list[float], list[float]]]:
    """Bytes of each product's tiles, ours and the compiler's."""
    pairs: dict[Product, tuple[list[float], list[float]]] = {}
    for row in found:
        ours, theirs = pairs.setdefault(row.product, ([], []))
        ours.append(row.predicted)
        theirs.append(row.planned or 0.0)
    return pairs


def main() -> None:
    text = page(list(rows(npu_of(get_target(CHIP).profile))))
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
