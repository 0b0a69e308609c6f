"""A lowered entry point as plain data: calls of kernels on named tensors, before any TVM object exists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chipfit.codegen.spec import KernelSpec, Packing
from chipfit.ir.graph import Node, Value
from chipfit.ir.images import Shape
from chipfit.targets.tile import Tile

# Picks one of a kernel's tiles, of which analysis ranks the best first.
Choose = Callable[[KernelSpec, Sequence[Tile]], Tile]


def first(_spec: KernelSpec, ranked: Sequence[Tile]) -> Tile:
    """The tile that analysis picks."""
    return ranked[0]


@dataclass(frozen=True)
class Effort:
    """What compiling may time: `choose` picks tiles, and TVM tries `trials` schedules of each function left to it."""

    choose: Choose = first
    trials: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense array in memory; `dtype` is numpy's name of it."""

    name: str
    shape: Shape
    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Weight:
    """An argument of the library that never changes: a parameter or a constant, packed for one kind of kernel."""

    tensor: Tensor
    source: str
    packing: Packing | None = None


@dataclass(frozen=True)
class Generated:
    """One of our kernels at a tile."""

    spec: KernelSpec
    tile: Tile


@dataclass(frozen=True)
class Stock:
    """Nodes left to TVM's own lowering; `inputs` are the values that the call's arguments stand for, in order."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Call:
    """One kernel run: `name` is the value that it computes, the first result; behind it may be the kernel's scratch."""

    name: str
    kernel: Generated | Stock
    arguments: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


@dataclass(frozen=True)
class Program:
    """What becomes a library. An output may be stored under another shape of the same size."""

    inputs: tuple[Tensor, ...]
    weights: tuple[Weight, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]
