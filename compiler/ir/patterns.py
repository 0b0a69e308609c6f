"""What nodes are to a kernel beside them: what fusion asks of their arguments and shapes."""

from __future__ import annotations

from chipfit.ir.graph import Node, Value
from chipfit.ir.kinds import kind_of


def is_square(node: Node) -> bool:
    if node.kind == "pow":
        return len(node.inputs) == 1 and node.args[1] == 2
    return node.kind == "mul" and len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]


def is_factor(node: Node, mean: Node) -> bool:
    """A number times a mean, which costs nothing: the mean divides by another count."""
    return mean.kind == "mean" and node.kind == "mul" and len(node.inputs) == 1 and node.inputs[0] == mean.outputs[0]


def over_last_axis(mean: Node, x: Value) -> bool:
    axes, keep = (mean.args[1], mean.args[2]) if len(mean.args) > 2 else (None, False)
    return bool(keep) and axes in ((-1,), (len(x.shape) - 1,))


def is_zero_padding(node: Node) -> bool:
    """Zeros around the last two axes, none cut off."""
    pads = node.args[1]
    constant = node.kind == "constant_pad_nd" or len(node.args) < 3 or node.args[2] == "constant"
    fill = node.args[-1] if node.kind == "constant_pad_nd" and len(node.args) > 2 else 0
    sizes = pads if isinstance(pads, tuple) else ()
    return constant and fill == 0 and 0 < len(sizes) <= 4 and all(isinstance(s, int) and s >= 0 for s in sizes)


def swaps_heads(node: Node) -> bool:
    """(batch, heads, rows, width) to (batch, rows, heads, width)."""
    swap = node.args[1:] in ({"transpose": ((1, 2), (2, 1)), "permute": (((0, 2, 1, 3),),)}.get(node.kind, ()))
    return swap and len(node.inputs[0].shape) == 4


def fuses_epilogue(node: Node) -> bool:
    generated = kind_of(node) in ("matmul", "conv", "depthwise", "pool") or node.kind == "layer_norm"
    return generated and len(node.outputs) == 1


def no_alpha(node: Node) -> bool:
    """add and sub can scale their second operand; rounding modes change div: rare, so left to stock lowering."""
    return all(name == "approximate" for name, _ in node.kwargs)


def joins_epilogue(operand: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Whether an operand broadcasts to the result without the result growing."""
    padded = (1,) * (len(result) - len(operand)) + operand
    return len(padded) == len(result) and all(a in (1, b) for a, b in zip(padded, result, strict=True))


def is_repeated(node: Node, reader: Node) -> bool:
    """Whether a reader would compute each element of a node several times over."""
    if kind_of(reader) == "pointwise":
        return node.outputs[0].shape != reader.outputs[0].shape
    return reader.kind in ("expand", "repeat", "tile")
