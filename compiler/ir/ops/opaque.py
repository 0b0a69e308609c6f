"""Ops that the table doesn't know: everything that they touch is frozen; a batch can still be followed through them."""

from __future__ import annotations

import torch

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.ops.context import Labelling, Labels
from chipfit.ir.ops.record import Op
from chipfit.ir.ops.signature import overload


def frozen_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    reason = f"op {node.kind}"
    outputs = follow_batch(context, node)
    for labels in (*(context.of(value) for value in node.inputs), *outputs):
        for extent in labels:
            is_batch = context.batch is not None and extent.root is context.batch.root
            extent.freeze(reason) if is_batch else extent.fix(reason)
    return outputs


def follow_batch(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Fresh labels, except where an output dimension grows with the batch: there it is the batch."""
    batch = context.batch.root if context.batch else None
    touched = batch is not None and any(e.root is batch for value in node.inputs for e in context.of(value))
    larger = shapes_at(context, node, batch) if batch and touched else None
    if batch and touched and larger is None:
        batch.fix(f"op {node.kind}")
    shapes = [value.shape for value in node.outputs]
    return tuple(
        tuple(batch if batch and new == size + 1 else Extent(size) for size, new in zip(shape, grown, strict=True))
        for shape, grown in zip(shapes, larger or shapes, strict=True)
    )


def shapes_at(context: Labelling, node: Node, batch: Extent) -> list[tuple[int, ...]] | None:
    """Output shapes for a batch that is larger by one, from PyTorch's own shape rule; None where it has none."""

    def grown(arg: Arg) -> object:
        if isinstance(arg, Value):
            shape = [extent.size + (extent.root is batch) for extent in context.of(arg)]
            return torch.empty(shape, dtype=arg.type.dtype, device="meta")
        return [grown(item) for item in arg] if isinstance(arg, tuple) else arg

    function = overload(node.op)
    if function is None:
        return None
    try:
        result = function(*(grown(arg) for arg in node.args), **{name: grown(arg) for name, arg in node.kwargs})
    except (RuntimeError, NotImplementedError):
        return None
    results = result if isinstance(result, (tuple, list)) else [result]
    shapes = [tuple(tensor.shape) for tensor in results]
    ranks = [len(value.shape) for value in node.outputs]
    return shapes if [len(shape) for shape in shapes] == ranks else None


OPAQUE = Op("opaque", frozen_axes, opaque=True)
