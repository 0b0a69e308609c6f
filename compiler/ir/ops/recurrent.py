"""Recurrent layers: known only as far as their batch goes, else opaque."""

from __future__ import annotations

import math

from chipfit.ir.extent import unify
from chipfit.ir.graph import Node, Value, values_in
from chipfit.ir.ops.context import Labelling, Labels, fresh
from chipfit.ir.ops.opaque import frozen_axes
from chipfit.ir.ops.record import Op, Shapes, Work, counted
from chipfit.ir.ops.signature import arguments


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


def recurrent_work(node: Node, shapes: Shapes) -> Work:
    """Every weight once for each step of each example."""
    given = arguments(node)
    x = given["input"]
    assert isinstance(x, Value)
    weights = sum(math.prod(shapes[value.name]) for value in values_in(given["params"]))
    return counted(2 * weights * math.prod(shapes[x.name][:-1]), node, shapes)


OPS = tuple(Op(name, recurrent_axes, "opaque", recurrent_work) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
