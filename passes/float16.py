"""float16: linear layers multiply in float16, all between them stays float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from chipfit.ir.graph import Graph
from chipfit.passes.base import Context, Pass, PassResult
from chipfit.passes.rewriting import with_narrow_layers


@dataclass(frozen=True)
class Float16(Pass):
    """Round both factors of linear layers to float16, 11 bits of mantissa up to 65504.

    before: y = x W' + b
    after:  y = float32(float16(x) float16(W)') + b

    Chips whose vectors multiply float16 (ARM's since version 8.2) do twice as many numbers at once, and weights take
    half the bytes where they stream. Parameters stay float32. Numbers beyond 65504 become infinite: where a network has
    such, `bfloat16` is what it needs.
    """

    name: ClassVar[str] = "float16"
    summary: ClassVar[str] = "multiply in float16 in linear layers, for chips whose vectors do"

    def run(self, graph: Graph, context: Context) -> PassResult:
        return with_narrow_layers(graph, torch.float16, ("linear",))
