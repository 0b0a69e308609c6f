"""Arguments of a node by the names of ATen's schema, whichever way the trace passed them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from chipfit.ir.graph import Arg, Node


@cache
def overload(op: str) -> torch._ops.OpOverload | None:
    """`aten.linear.default` as PyTorch's object; None where this process has no such op."""
    found: Any = torch.ops
    for part in op.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found if isinstance(found, torch._ops.OpOverload) else None


@cache
def parameters(op: str) -> tuple[tuple[str, Arg], ...]:
    """Argument names of an op with their defaults, in order."""
    found = overload(op)
    if found is None:
        raise ValueError(f"PyTorch has no op {op}.")
    return tuple((argument.name, frozen(argument.default_value)) for argument in found._schema.arguments)


def frozen(default: Any) -> Arg:
    return tuple(default) if isinstance(default, list) else default


def arguments(node: Node) -> dict[str, Arg]:
    """Schema name -> argument, defaults included. Raises ValueError for an op that PyTorch doesn't know."""
    defaults = parameters(node.op)
    given = {name: arg for (name, _), arg in zip(defaults, node.args, strict=False)}
    return {**dict(defaults), **given, **dict(node.kwargs)}


def with_arguments(node: Node, **changed: Arg) -> Node:
    """The node with some arguments replaced, by name."""
    names = [name for name, _ in parameters(node.op)]
    args, kwargs = list(node.args), dict(node.kwargs)
    for name, arg in changed.items():
        place = names.index(name)
        if place < len(args):
            args[place] = arg
        else:
            kwargs[name] = arg
    return replace(node, args=tuple(args), kwargs=tuple(kwargs.items()))


def trimmed(node: Node) -> Node:
    """The node without defaults at the end of its arguments, as traces have it."""
    args, defaults = list(node.args), [default for _, default in parameters(node.op)]
    while args and args[-1] == defaults[len(args) - 1]:
        args.pop()
    return replace(node, args=tuple(args))


def is_pointwise(op: str) -> bool:
    """Whether ATen tags the op as one that treats every element alone."""
    found = overload(op)
    return found is not None and torch.Tag.pointwise in found.tags


def integers(arg: Arg) -> tuple[int, ...]:
    """An argument of type `int[1]?` as a tuple; None is empty."""
    if arg is None:
        return ()
    if isinstance(arg, tuple):
        return tuple(item for item in arg if isinstance(item, int))
    if isinstance(arg, int):
        return (arg,)
    raise TypeError(f"{arg} is not a list of integers.")
