"""The residual stream behind dropped blocks: which layers make up for what those added to it, and what they lack."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chipfit.ir.blocks import Block
from chipfit.ir.emit import execute
from chipfit.ir.graph import EntryPoint, Node, Value
from chipfit.ir.ops.signature import arguments
from chipfit.passes.layers import INPUT_NAMES
from chipfit.passes.precision import autocast

NEAR = 2  # blocks behind a dropped one make up for it: an attention and an MLP; more gained nothing on SmolLM2
RESHAPES = frozenset({"reshape", "squeeze", "unsqueeze"})
FLAT = 1e-4  # a batch norm's slope below which a channel is as good as constant

Alive = Mapping[str, Tensor]  # the tensors of a run in progress, parameters included


@dataclass(frozen=True)
class Stream:
    """The way of a node's output into the residual stream, by batch norms and reshapes to a sum, the last of `path`.

    The linear map from calibration activations that best stands in for removed blocks is from Shopkhoev et al. 2025
    (ReplaceMe, arXiv 2505.02819), who put it before what they remove; here the blocks behind see what is missing, and
    each is refitted on what reaches it.
    """

    path: tuple[Node, ...]

    @property
    def exit(self) -> str:
        return self.path[-1].name

    @torch.no_grad()
    def after(self, alive: Alive) -> Tensor:
        """The sum, where its other side and the node's output are alive."""
        here = dict(alive)
        with autocast():
            for node in self.path:
                here.update(execute(node, here))
        return here[self.exit].float()

    def missing(self, alive: Alive, wanted: Tensor) -> Tensor:
        """What the node's output lacks for the sum to be `wanted`."""
        gap = wanted.float() - self.after(alive)
        for node in reversed(self.path[:-1]):
            if node.kind == "batch_norm":
                slope = _slope(node, alive).reshape(-1, *[1] * (gap.dim() - 2))
                gap = torch.where(slope.abs() > FLAT, gap / slope, 0.0)
            gap = gap.reshape(alive[node.inputs[0].name].shape)
        return gap


def streams(entry: EntryPoint, blocks: Iterable[Block]) -> dict[str, Stream]:
    """Node name -> its way into the stream, for the layer and the batch norms that end each block."""
    return dict(way for block in blocks for way in _ways(entry, block))


def behind(blocks: Mapping[str, Block], dropped: Collection[str]) -> list[Block]:
    """The next blocks behind each dropped one, which make up for it; `blocks` are in order and hold no others."""
    passed, found = NEAR, list[Block]()
    for name, block in blocks.items():
        if name in dropped:
            passed = 0
        elif passed < NEAR:
            passed += 1
            found.append(block)
    return found


def _ways(entry: EntryPoint, block: Block) -> Iterator[tuple[str, Stream]]:
    """From the sum of a block backwards to the layer that it adds; none where something else lies between."""
    path: tuple[Node, ...] = (entry.producers[block.exit],)
    if path[0].kind != "add" or path[0].kwarg("alpha", 1) != 1:
        return
    node = _only_source(entry, path[0].inputs, block)
    while node and len(entry.consumers[node.outputs[0].name]) == 1:
        if node.kind in INPUT_NAMES or node.kind == "batch_norm":
            yield node.name, Stream(path)
        if node.kind != "batch_norm" and node.kind not in RESHAPES:
            return
        path = (node, *path)
        node = _only_source(entry, node.inputs[:1], block)


def _only_source(entry: EntryPoint, values: Collection[Value], block: Block) -> Node | None:
    found = [node for value in values if (node := entry.producers.get(value.name)) and node.name in block.nodes]
    return found[0] if len(found) == 1 else None


def _slope(norm: Node, alive: Alive) -> Tensor:
    """By what a batch norm multiplies each channel."""
    given = arguments(norm)
    names = [value.name if isinstance(value, Value) else None for value in (given["weight"], given["running_var"])]
    weight, variance = (alive[name] if name else torch.ones(()) for name in names)
    eps = given["eps"]
    assert isinstance(eps, float)
    return weight * (variance + eps).rsqrt()
