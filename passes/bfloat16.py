"""bfloat16: linear layers and convolutions multiply in bfloat16, sums and all between them stay float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from chipfit.ir.graph import Graph
from chipfit.ir.precision import LAYERS
from chipfit.passes.base import Context, Pass, PassResult
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.rewriting import with_narrow_layers


@dataclass(frozen=True)
class Bfloat16(Pass):
    """Round both factors of linear layers and convolutions to bfloat16, 8 bits of mantissa, and add up in float32.

    before: y = x W' + b
    after:  y = float32(bfloat16(x) bfloat16(W)') + b

    Chips with units for it (AMX, tensor cores) multiply several times as fast, and weights take half the bytes where
    they stream. Parameters stay float32 and can be trained on. Batch norms become part of the layers before them.
    """

    name: ClassVar[str] = "bfloat16"
    summary: ClassVar[str] = "multiply in bfloat16 in linear layers and convolutions, with sums in float32"

    def run(self, graph: Graph, context: Context) -> PassResult:
        return with_narrow_layers(folded(graph), torch.bfloat16, LAYERS)
