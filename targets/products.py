"""Kernels that multiply, seen alike by chips with matrix units: some products of (m, k) by (k, n)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work


@dataclass(frozen=True, slots=True)
class Product:
    """`count` products of (m, k) by (k, n), each with factors of its own."""

    count: int
    m: int
    n: int
    k: int

    @property
    def operations(self) -> int:
        return 2 * self.count * self.m * self.n * self.k

    @property
    def factors(self) -> tuple[int, int]:
        """Numbers in the first and in the second factor."""
        return self.count * self.m * self.k, self.count * self.n * self.k


def products(kernel: Kernel, work: Work, channels: int = 1) -> tuple[Product, ...]:
    """What a kernel multiplies: a convolution as a product of patches, an attention as two products; none elsewhere.

    channels: what the input channels of a convolution are padded to multiples of. Query heads that share keys are rows
    of one product, and of a causal attention a row sees half of the columns in the mean. A depthwise convolution has no
    product: each channel is multiplied by a few numbers of its own.
    """
    d = work.dims
    if kernel.kind == "matmul":
        return (Product(d["batch"], d["m"], d["n"], d["k"]),)
    if kernel.kind == "conv":
        depth = padded(d["ic"] // d["groups"], channels) * d["r"] * d["s"]
        return (Product(d["groups"], d["batch"] * d["ho"] * d["wo"], d["oc"] // d["groups"], depth),)
    if kernel.kind == "attention":
        seen = min(d["n"], math.ceil((d["m"] + 1) / 2)) if d["causal"] else d["n"]
        heads, rows = d["batch"] // d["share"], d["m"] * d["share"]
        return Product(heads, rows, seen, d["k"]), Product(heads, rows, d["width"], seen)
    return ()


def source_pixels(d: Mapping[str, int]) -> int:
    """Of a convolution, its halo among them."""
    rows, columns = (d[out] * d["stride"] + d[kernel] - 1 for out, kernel in (("ho", "r"), ("wo", "s")))
    return d["batch"] * rows * columns


def rounded_source(kernel: Kernel, work: Work) -> int:
    """Numbers that a convolution of int8 rounds before it multiplies; the rows of a matmul come rounded."""
    return source_pixels(work.dims) * work.dims["ic"] if kernel.kind == "conv" and kernel.rounded else 0


def padded(size: int, step: int) -> int:
    return math.ceil(size / step) * step


def beside(work: Work, found: Sequence[Product]) -> int:
    """Operations of a kernel that are in no product: its epilogue, or a softmax."""
    return max(work.flops - sum(product.operations for product in found), 0)
