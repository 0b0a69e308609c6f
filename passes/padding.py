"""Which positions of a batch of texts matter: what a model computes where a text is padded is no matter to its outputs.

Those would be most rows that a repair is fitted on: a sentence leaves most of MiniLM's 128 positions empty.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from chipfit.ir.blocks import find_blocks
from chipfit.ir.emit import execute, run
from chipfit.ir.graph import Graph, needed
from chipfit.passes.base import Inputs
from chipfit.passes.matching import find_head, relevant


def relevant_rows(graph: Graph, inputs: Inputs) -> Tensor | None:
    """Where in a batch of texts [batch, positions] the outputs depend on the residual stream; None: everywhere."""
    if find_head(graph):
        return None
    point = graph.forward
    exits = {block.exit for block in find_blocks(graph).values()}
    last = next((node.outputs[0] for node in reversed(point.nodes) if node.outputs[0].name in exits), None)
    if last is None or len(last.shape) != 3:
        return None
    whole = graph.with_entry(replace(point, outputs=(last,)))
    stream = run(whole, *inputs)[last.name].float().requires_grad_()
    given = {value.name: tensor for value, tensor in zip(point.inputs, inputs, strict=True)}
    alive = {**graph.state, **given, last.name: stream}
    with torch.enable_grad():
        for node in needed(point.nodes, [point.outputs[0].name], {*given, last.name}):
            alive.update(execute(node, alive))
        return relevant(alive[point.outputs[0].name], stream)
