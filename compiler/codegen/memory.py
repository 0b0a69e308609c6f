"""One static plan of memory: all values between the inputs and the outputs have their places in one arena.

The largest is placed first: "greedy by size" of Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net
Inference (2020).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import tvm
from tvm import relax

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
TRIES = 50  # of placing all; most graphs take one
ALLOCATE = "relax.builtin.alloc_tensor"


@dataclass(frozen=True)
class Life:
    """Bytes of a buffer, and the steps at which it is first and last needed."""

    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Buffer -> offset, and the bytes that hold them all."""

    offsets: Mapping[Any, int]
    size: int


@dataclass(frozen=True)
class Place:
    """Where in the arena, in bytes from its start, an array of `shape` lies; `dtype` is numpy's name of its type."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Plan:
    """The arena's bytes, and the distinct places in it, in the order of the parameters that stand for them."""

    size: int
    places: tuple[Place, ...]


def arena(lives: Mapping[Any, Life]) -> Arena:
    """Places for buffers so that none that live at the same time overlap.

    Where that takes more than what lives at once, what lies highest is placed first and all is placed again: squeaky
    wheel optimisation (Joslin and Clements, Journal of Artificial Intelligence Research 10, 1999).
    """
    order = sorted(lives, key=lambda name: -lives[name].size)
    best = found = placed(lives, order)
    enough = least(lives)
    for _ in range(TRIES):
        if best.size <= enough:
            break
        top = max(order, key=lambda name: found.offsets[name] + lives[name].size)
        order = [top, *(name for name in order if name is not top)]
        found = placed(lives, order)
        best = min(best, found, key=lambda each: each.size)
    return best


def least(lives: Mapping[Any, Life]) -> int:
    """Bytes that live at once when the most do."""
    changes = Counter[int]()
    for life in lives.values():
        changes[life.first] += life.size
        changes[life.last + 1] -= life.size
    return max(accumulate(changes[step] for step in sorted(changes)), default=0)


def placed(lives: Mapping[Any, Life], order: Sequence[Any]) -> Arena:
    """Each in turn at the lowest offset that is free while it lives."""
    done: list[tuple[int, Life]] = []
    offsets: dict[Any, int] = {}
    for name in order:
        life, offset = lives[name], 0
        for start, end in sorted((start, start + other.size) for start, other in done if other.meets(life)):
            if offset + life.size <= start:
                break
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        offsets[name] = offset
        done.append((offset, life))
    return Arena(offsets, max((start + life.size for start, life in done), default=0))


def plan_memory(module: Any) -> tuple[Any, Plan]:
    """The module with what `main` allocates as further parameters of it, and where in an arena these lie.

    Outputs stay outside. That the caller makes the places, once for all calls, saves making two or three objects for
    each kernel of each call: two microseconds, of which small networks have many.
    """
    function = module["main"]
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    found = arena(lives(bindings, function.body.body))
    places = {variable: place(variable, offset) for variable, offset in found.offsets.items()}
    distinct = dict.fromkeys(places.values())
    parameters = {
        one: relax.Var(f"place{index}", relax.TensorType(one.shape, one.dtype)) for index, one in enumerate(distinct)
    }
    given = [
        relax.VarBinding(binding.var, parameters[places[binding.var]]) if binding.var in places else binding
        for binding in bindings
    ]
    body = relax.SeqExpr([relax.BindingBlock(given)], function.body.body)
    everything = [*function.params, *parameters.values()]
    module = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    module["main"] = relax.Function(everything, body, function.ret_ty, function.is_pure, function.attrs)
    return module, Plan(found.size, tuple(distinct))


def lives(bindings: Sequence[Any], result: Any) -> dict[Any, Life]:
    """Allocated variable -> its life, those left out that the result may lie in.

    What a binding reads it may share memory with, as a reshape does.
    """
    roots: dict[Any, frozenset[Any]] = {}  # variable -> the allocations that it may lie in
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}

    items: dict[Any, Sequence[frozenset[Any]]] = {}  # tuple -> the allocations that each of its items may lie in

    def read(expression: Any) -> frozenset[Any]:
        if isinstance(expression, relax.TupleGetItem) and expression.tuple_value in items:
            return items[expression.tuple_value][int(expression.index)]
        found = (roots.get(variable, frozenset()) for variable in relax.analysis.free_vars(expression))
        return frozenset[Any]().union(*found)

    for step, binding in enumerate(bindings):
        if is_allocation(binding.value):
            first[binding.var], roots[binding.var] = step, frozenset({binding.var})
        elif isinstance(binding.value, relax.Tuple):  # holds on to nothing that is not taken out of it
            items[binding.var] = [read(field) for field in binding.value.fields]
            roots[binding.var] = frozenset[Any]().union(*items[binding.var])
        else:
            roots[binding.var] = read(binding.value)
            last.update(dict.fromkeys(roots[binding.var], step))
    returned = read(result)
    return {v: Life(bytes_of(v), start, last.get(v, start)) for v, start in first.items() if v not in returned}


def is_allocation(value: Any) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == ALLOCATE


def bytes_of(variable: Any) -> int:
    one = place(variable, 0)
    return math.prod(one.shape) * int(tvm.DataType(one.dtype).bits) // 8


def place(variable: Any, offset: int) -> Place:
    return Place(offset, tuple(int(size) for size in variable.ty.shape.values), str(variable.ty.dtype))
