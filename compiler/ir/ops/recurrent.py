"""Recurrent layers: known only as far as their batch goes, else opaque."""

from __future__ import annotations

from chipfit.ir.graph import Node, values_in
from chipfit.ir.ops.context import Labelling, Labels, fresh
from chipfit.ir.ops.opaque import frozen_axes
from chipfit.ir.ops.record import Op
from chipfit.ir.ops.signature import arguments
from chipfit.ir.unify import unify


def recurrent_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """x (b, t, f) or (t, b, f), states (layers, b, h); all but b is frozen."""
    given = arguments(node)
    x = context.of(given["input"])
    if "batch_first" not in given or len(x) != 3:
        return frozen_axes(context, node)
    place = 0 if given["batch_first"] else 1
    batch = x[place]
    for state in values_in(given["hx"]):
        unify(context.of(state)[1], batch)
    reason = f"op {node.kind}"
    for value in node.inputs:
        for extent in context.of(value):
            extent.freeze(reason) if extent.root is batch.root else extent.fix(reason)
    first, *states = (fresh(output.shape, reason) for output in node.outputs)
    return ((*first[:place], batch, *first[place + 1 :]), *((state[0], batch, state[2]) for state in states))


OPS = tuple(Op(name, recurrent_axes, opaque=True) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
