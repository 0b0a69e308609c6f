"""One static plan of memory: all values between the inputs and the outputs have their places in one arena.

The largest is placed first, each at the lowest offset that is free while it lives: "greedy by size" of Pisarchyk and
Lee, Efficient Memory Management for Deep Neural Net Inference (2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
ALLOCATE = "relax.builtin.alloc_tensor"
AT_ZERO = "vm.builtin.ensure_zero_offset"  # moves the pointer instead: kernels take no offset beside it


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


def arena(lives: Mapping[Any, Life]) -> Arena:
    """Places for buffers so that none that live at the same time overlap."""
    placed: list[tuple[int, Life]] = []
    offsets: dict[Any, int] = {}
    for name in sorted(lives, key=lambda name: -lives[name].size):
        life, offset = lives[name], 0
        for start, end in sorted((start, start + other.size) for start, other in placed if other.meets(life)):
            if offset + life.size <= start:
                break
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        offsets[name] = offset
        placed.append((offset, life))
    return Arena(offsets, max((start + life.size for start, life in placed), default=0))


def plan_memory(module: Any) -> tuple[Any, int]:
    """The module with what `main` allocates moved into one arena, and the arena's bytes. Outputs stay outside."""
    function = module["main"]
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    plan = arena(lives(bindings, function.body.body))
    if not plan.offsets:
        return module, 0
    storage = relax.Var("storage", relax.AnyType())
    held = relax.op.memory.alloc_storage(relax.ShapeExpr([plan.size]), 0, "global", "uint8")
    placed = [relax.VarBinding(storage, held)]
    for binding in bindings:
        placed += moved(binding, storage, plan)
    body = relax.SeqExpr([relax.BindingBlock(placed)], function.body.body)
    module = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    module["main"] = relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
    return module, plan.size


def moved(binding: Any, storage: Any, plan: Arena) -> list[Any]:
    """A binding, its allocation in the arena if it is one that was placed there."""
    if binding.var not in plan.offsets:
        return [binding]
    shape, dtype = binding.value.args[:2]
    place = relax.Var("place", binding.var.ty)
    within = relax.op.memory.alloc_tensor(storage, plan.offsets[binding.var], shape, dtype)
    pointer = relax.Call(relax.ExternFunc(AT_ZERO), [place], ty_args=[binding.var.ty])
    return [relax.VarBinding(place, within), relax.VarBinding(binding.var, pointer)]


def lives(bindings: Sequence[Any], result: Any) -> dict[Any, Life]:
    """Allocated variable -> its life, those left out that the result may lie in.

    What a binding reads it may share memory with, as a reshape does.
    """
    roots: dict[Any, frozenset[Any]] = {}  # variable -> the allocations that it may lie in
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}

    def read(expression: Any) -> frozenset[Any]:
        found = (roots.get(variable, frozenset()) for variable in relax.analysis.free_vars(expression))
        return frozenset[Any]().union(*found)

    for step, binding in enumerate(bindings):
        if is_allocation(binding.value):
            first[binding.var], roots[binding.var] = step, frozenset({binding.var})
        else:
            roots[binding.var] = read(binding.value)
            last.update(dict.fromkeys(roots[binding.var], step))
    returned = read(result)
    return {v: Life(bytes_of(v), start, last.get(v, start)) for v, start in first.items() if v not in returned}


def is_allocation(value: Any) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == ALLOCATE


def bytes_of(variable: Any) -> int:
    elements = math.prod(int(size) for size in variable.ty.shape.values)
    return elements * int(tvm.DataType(str(variable.ty.dtype)).bits) // 8
