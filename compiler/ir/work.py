"""What each kernel of the fusion plan does, at any shapes: operations, bytes, and the sizes that tiles depend on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from chipfit.ir.graph import Arg, Node, Value, needed
from chipfit.ir.kernel import Kernel, masks, origin, rounds_rows
from chipfit.ir.kinds import STRIDED, conv_kind
from chipfit.ir.ops.signature import arguments
from chipfit.ir.patterns import is_factor

Shapes = Mapping[str, tuple[int, ...]]
Dims = dict[str, int]

SCALE_BYTES = 4
FREE = STRIDED - {"expand", "transpose", "permute", "t"}


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations (a multiply-add is two), bytes, and sizes by name.

    `dims` of a matmul: batch, m, n, k, streamed, the bytes of its second factor, and whether it multiplies in fewer
    bits: narrow, in bfloat16, half, in float16, rounded, in int8; returned, if only the caller reads it. Of an
    attention: batch, counting heads, share, m, n, k, width, causal, and streamed, the bytes of keys and values. Of a
    conv, depthwise or pool: batch, ho, wo, ic, oc, r, s, stride, groups; of a conv dilation, narrow and rounded too.
    Of a reduce: rows, width. Everywhere `elements` is the size of the output, and `fused` counts the pointwise ops in
    the kernel. `shape` is the (first) output's.
    """

    flops: int
    bytes_read: int
    bytes_written: int
    dims: Dims
    shape: tuple[int, ...]


def at(kernel: Kernel, shapes: Shapes) -> Kernel:
    """The kernel as planned for `shapes`: a convolution may be depthwise at some and not at others."""
    if kernel.kind not in ("conv", "depthwise"):
        return kernel
    source, weight = (shapes[value.name] for value in kernel.anchor.inputs[:2])
    return replace(kernel, kind=conv_kind(source, weight))


def work(kernel: Kernel, shapes: Shapes) -> Work:
    """The kernel's work if its values have `shapes` (of parameters too)."""
    if kernel.kind == "attention":
        return attention_work(kernel, shapes)
    elements = sum(math.prod(shapes[value.name]) for value in kernel.outputs)
    dims = DIMS[kernel.kind](kernel.anchor, shapes) | {"elements": elements, "fused": len(counted(kernel)) - 1}
    read = read_bytes(kernel, shapes)
    if kernel.kind == "matmul":
        dims["streamed"] = streamed_bytes(kernel, shapes)
    if kernel.kind in ("matmul", "conv"):
        dims["narrow"] = int(kernel.anchor.outputs[0].type.dtype == torch.bfloat16)
        dims["rounded"] = int(kernel.rounded)
    if kernel.kind == "matmul":
        dims["half"] = int(kernel.anchor.outputs[0].type.dtype == torch.float16)
        dims["returned"] = int(kernel.returned)
    if is_view(kernel):
        return Work(0, 0, 0, dims, shapes[kernel.name])
    flops = FLOPS[kernel.kind](dims) + pointwise_flops(kernel) * elements
    return Work(flops, read, written_bytes(kernel, shapes), dims, shapes[kernel.name])


def written_bytes(kernel: Kernel, shapes: Shapes) -> int:
    """Of its outputs; rows rounded to int8 are stored so, each with a scale."""
    return bytes_of_rows(shapes[kernel.name]) if rounds_rows(kernel) else size_in_bytes(kernel.outputs, shapes)


def bytes_of_rows(shape: tuple[int, ...]) -> int:
    """Of rows rounded to int8, each with a scale."""
    *rows, width = shape
    return math.prod(rows) * (width + SCALE_BYTES)


def is_view(kernel: Kernel) -> bool:
    """Whether a kernel does nothing: its output is what it reads, seen in another shape."""
    return all(node.kind in FREE for node in kernel.nodes)


def streamed_bytes(kernel: Kernel, shapes: Shapes) -> int:
    """Of a product's second factor, or of what it is kept as in few bits, with its scales."""
    anchor, second = kernel.anchor, kernel.anchor.inputs[1]
    cone = needed(kernel.nodes, [second.name])
    made = {node.name for node in cone}
    leaves = {value for node in cone for value in node.inputs if value.name not in made}
    if any(not value.type.dtype.is_floating_point for value in leaves):
        return size_in_bytes(leaves, shapes)
    dims = matmul_dims(anchor, shapes)
    return dims["batch"] * dims["n"] * dims["k"] * second.type.dtype.itemsize


def read_bytes(kernel: Kernel, shapes: Shapes) -> int:
    """Every input once, rounded rows as they are stored; of a table that is looked up in, only the rows that are."""
    looked_up = {node.inputs[0].name for node in kernel.nodes if node.kind == "embedding"}
    rounded = {kernel.anchor.inputs[0].name} if kernel.rounded and kernel.kind == "matmul" else set[str]()
    rest = size_in_bytes((value for value in kernel.inputs if value.name not in looked_up | rounded), shapes)
    rows = (node.outputs for node in kernel.nodes if node.kind == "embedding")
    whole = (bytes_of_rows(shapes[name]) for name in rounded)
    return rest + sum(whole) + sum(size_in_bytes(outputs, shapes) for outputs in rows)


def attention_work(kernel: Kernel, shapes: Shapes) -> Work:
    """Two products and a softmax; key and value heads that queries share are read once, scores stay in caches."""
    query, key, value = (shapes[value.name] for value in kernel.anchor.inputs[:3])
    stack, m, n, k, width = math.prod(query[:-2]), query[-2], key[-2], query[-1], value[-1]
    item = kernel.anchor.outputs[0].type.dtype.itemsize
    roots = [origin(v, kernel.nodes) for v in kernel.anchor.inputs[:3]]
    shared = sum(math.prod(shapes[root.name]) for root in roots[1:]) * item
    own = math.prod(shapes[roots[0].name]) * item
    causal = bool(arguments(kernel.anchor)["is_causal"])
    share = stack * n * (k + width) * item // shared
    dims = {"batch": stack, "share": share, "m": m, "n": n, "k": k, "width": width, "causal": int(causal)}
    dims |= {"elements": stack * m * n, "fused": 1, "streamed": shared}
    flops = 2 * stack * m * n * (k + width) + FLOPS["reduce"]({"rows": stack * m, "width": n})
    read = own + shared + size_in_bytes(masks(kernel), shapes)
    return Work(flops, read, stack * m * width * item, dims, shapes[kernel.name])


def size_in_bytes(values: Iterable[Value], shapes: Shapes) -> int:
    return sum(math.prod(shapes[value.name]) * value.type.dtype.itemsize for value in values)


def counted(kernel: Kernel) -> list[Node]:
    """The nodes that do something: all but a factor on a mean."""
    means = [node for node in kernel.nodes if node.kind == "mean"]
    return [node for node in kernel.nodes if not any(is_factor(node, mean) for mean in means)]


def pointwise_flops(kernel: Kernel) -> int:
    """Operations for each element of the output beyond the anchor's, one for each pointwise op."""
    others = sum(1 for node in counted(kernel) if node is not kernel.anchor and node.kind not in STRIDED)
    return others + (kernel.kind == "pointwise")


def matmul_dims(node: Node, shapes: Shapes) -> Dims:
    if node.kind == "linear":
        n, k = shapes[node.inputs[1].name]
        return {"batch": 1, "m": math.prod(shapes[node.inputs[0].name]) // k, "n": n, "k": k}
    first, second = node.inputs[-2:]
    a, b = shapes[first.name], shapes[second.name]
    m, n, k = a[-2] if len(a) > 1 else 1, b[-1] if len(b) > 1 else 1, a[-1]
    if len(b) == 2:
        return {"batch": 1, "m": math.prod(a) // k, "n": n, "k": k}
    return {"batch": math.prod(shapes[node.name]) // (m * n), "m": m, "n": n, "k": k}


def conv_dims(node: Node, shapes: Shapes) -> Dims:
    batch, _, ho, wo = shapes[node.name]
    oc, group_ic, r, s = shapes[node.inputs[1].name]
    ic = shapes[node.inputs[0].name][1]
    given = arguments(node)
    stride, dilation = first_of(given["stride"]), first_of(given["dilation"])
    sizes = {"batch": batch, "ho": ho, "wo": wo, "ic": ic, "oc": oc, "r": r, "s": s}
    return sizes | {"stride": stride, "dilation": dilation, "groups": ic // group_ic}


def pool_dims(node: Node, shapes: Shapes) -> Dims:
    batch, channels, ho, wo = shapes[node.name]
    height, width = shapes[node.inputs[0].name][-2:]
    adaptive = node.kind == "adaptive_avg_pool2d"
    r, s = (height // ho, width // wo) if adaptive else (first_of(node.args[1]), last_of(node.args[1]))
    stride = r if adaptive or len(node.args) < 3 or not node.args[2] else first_of(node.args[2])
    sizes = {"batch": batch, "ho": ho, "wo": wo, "ic": channels, "oc": channels, "r": r, "s": s}
    return sizes | {"stride": stride, "groups": channels}


def reduce_dims(node: Node, shapes: Shapes) -> Dims:
    """Rows of the last axis; a reduction over other axes does the same work in another order."""
    shape = shapes[node.inputs[0].name] or (1,)
    return {"rows": math.prod(shape[:-1]), "width": shape[-1]}


def first_of(argument: Arg) -> int:
    return int(argument[0] if isinstance(argument, tuple) else argument)  # type: ignore[arg-type]


def last_of(argument: Arg) -> int:
    return int(argument[-1] if isinstance(argument, tuple) else argument)  # type: ignore[arg-type]


def conv_flops(d: Dims) -> int:
    return int(2 * d["batch"] * d["ho"] * d["wo"] * d["oc"] * (d["ic"] // d["groups"]) * d["r"] * d["s"])


DIMS: Mapping[str, Callable[[Node, Shapes], Dims]] = {
    "matmul": matmul_dims,
    "conv": conv_dims,
    "depthwise": conv_dims,
    "pool": pool_dims,
    "reduce": reduce_dims,
    **dict.fromkeys(("pointwise", "move", "opaque"), lambda node, shapes: {}),
}

FLOPS: Mapping[str, Callable[[Dims], int]] = {
    "matmul": lambda d: 2 * d["batch"] * d["m"] * d["n"] * d["k"],
    "conv": conv_flops,
    "depthwise": conv_flops,
    "pool": conv_flops,
    "reduce": lambda d: 5 * d["rows"] * d["width"],  # a softmax or norm takes about five passes
    **dict.fromkeys(("pointwise", "move", "opaque"), lambda d: 0),
}
