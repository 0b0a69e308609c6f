"""For how long a call of a graph holds each value that is stored, and how much at most at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.fusion import planned
from chipfit.ir.graph import EntryPoint, Graph, Value
from chipfit.ir.images import reads_images, writes_image
from chipfit.ir.kernel import Kernel
from chipfit.ir.memo import per_graph
from chipfit.ir.work import is_view

Steps = NDArray[np.int64]
DENSE, IMAGE, SCRATCH = range(3)
Form = tuple[str, int]  # an input or a kernel, and what is stored: its value, in one form or the other, or its scratch


@dataclass(frozen=True)
class Lifetimes:
    """Of each form that a value lies in, the step that makes it, and the step after which nothing reads it.

    `places` says where a form is in a list that has every input, then every kernel, each three times: dense, as an
    image, and its scratch, which is held while it runs. A
    view has no memory of its own: it holds on to what it reads. The caller holds inputs and outputs throughout.
    """

    forms: tuple[Form, ...]
    places: Steps
    made: Steps
    last_use: Steps


@dataclass(frozen=True)
class Buffers:
    """Bytes of forms, in the order of their lifetimes."""

    bytes: Steps
    lifetimes: Lifetimes

    @property
    def peak(self) -> int:
        """Bytes that are held when the most are held."""
        return int(self._held.max())

    @property
    def at_peak(self) -> tuple[Form, ...]:
        """Those that are held when they hold the most together."""
        peak = int(self._held.argmax())
        alive = (self.lifetimes.made <= peak) & (peak <= self.lifetimes.last_use)
        return tuple(form for form, lives in zip(self.lifetimes.forms, alive.tolist(), strict=True) if lives)

    @property
    def _held(self) -> NDArray[np.float64]:
        """Bytes at each step; whole numbers below 2**53, so exact."""
        steps = int(self.lifetimes.last_use.max()) + 2
        gained = np.bincount(self.lifetimes.made, self.bytes, steps)
        lost = np.bincount(self.lifetimes.last_use + 1, self.bytes, steps)
        return np.cumsum(gained - lost)


def lifetimes_in(entry: EntryPoint, plan: Sequence[Kernel], images: bool) -> Lifetimes:
    """Those of a plan's values. With `images`, what convolutions read and write lies so, and is copied for others."""
    names = [value.name for value in entry.inputs] + [kernel.name for kernel in plan]
    owner = {value.name: value.name for value in entry.inputs}  # value -> the value whose memory it lies in
    lives: dict[Form, list[int]] = {(name, DENSE): [0, 0] for name in owner}  # first and last step

    def read(name: str, lying: int, step: int) -> None:
        form, other = (owner[name], lying), (owner[name], IMAGE - lying)
        if form not in lives:  # copied from the other
            lives[form] = [step, step]
            lives[other][1] = step
        lives[form][1] = step

    def lies(name: str) -> bool:
        return (owner.get(name, ""), IMAGE) in lives

    for step, kernel in enumerate(plan):
        activations = [value.name for value in kernel.inputs if value.name in owner]
        if is_view(kernel) and activations:
            read(activations[0], DENSE, step)
            owner.update((value.name, owner[activations[0]]) for value in kernel.outputs)
            continue
        wanted = reads_images(kernel, lies) if images else frozenset[str]()
        for name in activations:
            read(name, IMAGE if name in wanted else DENSE, step)
        owner.update((value.name, kernel.name) for value in kernel.outputs)
        lives[kernel.name, IMAGE if writes_image(kernel, wanted) else DENSE] = [step, step]
        lives[kernel.name, SCRATCH] = [step, step]
    for name in (value.name for value in entry.outputs if value.name in owner):
        read(name, DENSE, len(plan))
        lives[owner[name], DENSE][0] = 0
    for value in entry.inputs:
        lives[value.name, DENSE][1] = len(plan)
    place = {name: 3 * index for index, name in enumerate(names)}
    places = [place[name] + lying for name, lying in lives]
    first, last = zip(*lives.values(), strict=True)
    return Lifetimes(tuple(lives), *(np.array(column, np.int64) for column in (places, first, last)))


def input_bytes(value: Value, batch: int | None) -> int:
    """None for the batch of the trace. Of inputs nothing else changes."""
    return math.prod(input_shape(value, batch)) * value.type.dtype.itemsize


def input_shape(value: Value, batch: int | None) -> tuple[int, ...]:
    return value.shape if batch is None else (batch, *value.shape[1:])


@per_graph
def lifetimes(graph: Graph) -> dict[bool, Lifetimes]:
    """Those of a graph, whatever its shapes, with images and without."""
    return {images: lifetimes_in(graph.forward, planned(graph), images) for images in (False, True)}
