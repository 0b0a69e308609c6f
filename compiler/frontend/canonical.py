"""From exported fx nodes to ours: one spelling per operation, nothing written in place, no bookkeeping ops."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from chipfit.errors import UserError
from chipfit.ir.graph import Arg, Node, TensorType, Value, map_values, values_in

# Names of ATen ops and of their arguments, as in PyTorch's native_functions.yaml.
IDENTITIES = frozenset(
    {"alias", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy", "requires_grad_"}
)
DROPOUTS = frozenset({"alpha_dropout", "dropout", "dropout_", "feature_alpha_dropout", "feature_dropout"})
CASTS = frozenset({"_to_copy", "to", "type_as"})
RESHAPES = frozenset({"_reshape_copy", "_unsafe_view", "reshape", "reshape_as", "view", "view_as"})
RENAMED = {"unsafe_chunk": "chunk", "unsafe_split": "split", "unsafe_split_with_sizes": "split_with_sizes"}
PLACEMENT = frozenset({"device", "generator", "layout", "non_blocking", "pin_memory"})
DIMENSIONS = frozenset({"dim", "dim0", "dim1", "dims", "end_dim", "start_dim"})
RANK_RAISING = frozenset({"stack", "unsqueeze"})


class MustFunctionaliseError(Exception):
    """An in-place write reaches other views of the same storage; the exporter's functionalisation has to see it."""


class Lowering:
    """Lowers fx graphs to nodes. `nodes` grows in topological order; `reserved` names are left to others."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.nodes: list[Node] = []
        self._names = set(reserved)
        self._shared: set[str] = set()  # values whose storage other values may see
        self._latest: dict[str, Value] = {}  # a value that was written in place -> the value that it became
        self._owned: set[str] = set()  # values computed here, neither inputs nor parameters

    def lower(self, module: fx.GraphModule, arguments: Sequence[Arg]) -> Arg:
        """The outputs of `module` on `arguments`, one for each placeholder."""
        environment: dict[fx.Node, Any] = {}
        supplied = iter(arguments)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                environment[node] = next(supplied)
            elif node.op == "get_attr":
                environment[node] = getattr(module, str(node.target))
            elif node.op == "output":
                return cast("Arg", self._read(node.args[0], environment))
            else:
                environment[node] = self._call(node, environment)
        raise ValueError("an fx graph without an output")

    def _read(self, argument: Any, environment: dict[fx.Node, Any]) -> Any:
        """An fx argument as ours, each value as it is after the writes so far."""
        if isinstance(argument, fx.Node):
            return self._current(environment[argument])
        if isinstance(argument, (list, tuple)):
            return tuple(self._read(item, environment) for item in argument)
        if isinstance(argument, (torch.device, torch.layout)):
            return None
        if isinstance(argument, complex):
            raise UserError("The model computes with a complex number; write it with real tensors.")
        return argument

    def _current(self, argument: Any) -> Any:
        while isinstance(argument, (Value, tuple)):
            updated = map_values(argument, self._latest)
            if updated == argument:
                break
            argument = updated
        return argument

    def _call(self, node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
        args = self._read(node.args, environment)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            return self.lower(args[1], args[2:])
        if node.target is torch.ops.higher_order.wrap_with_autocast:
            return self._autocast(args)
        if not isinstance(node.target, OpOverload):
            raise UserError(f"The model uses {node.target}, which has no graph form; leave it out of forward.")
        kwargs = {key: self._read(arg, environment) for key, arg in node.kwargs.items() if key not in PLACEMENT}
        return self._op(node, node.target, args, kwargs)

    def _autocast(self, args: tuple[Any, ...]) -> Arg:
        _device, _dtype, enabled, _cache, module, *rest = args
        if enabled:
            raise UserError("The model switches autocast on inside forward; cast its weights to that dtype instead.")
        return self.lower(module, rest)

    def _op(self, node: fx.Node, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = node.meta.get("val")
        kind = target._schema.name.split("::")[1]
        if kind in DROPOUTS and not args[2]:
            return args[0]
        if kind in IDENTITIES:
            self._shared.update(value.name for value in values_in(args[0]))  # perhaps a copy, perhaps the same storage
            return args[0]
        if result is None:
            return None  # an assertion
        if kind in CASTS and isinstance(result, Tensor):
            return self._cast(node, args[0], result)
        if kind in RESHAPES and target._overloadname != "dtype":
            return self._reshape(node, args, result)
        if kind == "expand_as":
            return self._add(node, torch.ops.aten.expand.default, (args[0], tuple(result.shape)), {}, result)
        if kind == "copy":
            return self._copy(node, args, result)
        if kind == "_native_batch_norm_legit_no_training":
            inputs = (*args[:5], False, *args[5:7], False)
            return (self._add(node, torch.ops.aten.batch_norm.default, inputs, {}, result[0]),)
        if target._schema.is_mutable:
            return self._write(node, target, args, kwargs)
        if kind in RENAMED:
            packet = getattr(torch.ops.aten, RENAMED[kind])
            target = getattr(packet, target._overloadname)
        return self._add(node, target, args, kwargs, result)

    def _cast(self, node: fx.Node, source: Value, result: Tensor) -> Value:
        if source.type.dtype == result.dtype:
            self._shared.add(source.name)
            return source
        return cast("Value", self._add(node, torch.ops.aten.to.dtype, (source, result.dtype), {}, result))

    def _reshape(self, node: fx.Node, args: tuple[Any, ...], result: Tensor) -> Arg:
        shape = args[1].shape if isinstance(args[1], Value) else args[1]
        return self._add(node, torch.ops.aten.reshape.default, (args[0], shape), {}, result)

    def _copy(self, node: fx.Node, args: tuple[Any, ...], result: Tensor) -> Value:
        """`copy(old, new)` is `new` in the type of `old`."""
        source = self._cast(node, args[1], result)
        if source.shape == tuple(result.shape):
            return source
        expand = torch.ops.aten.expand.default
        return cast("Value", self._add(node, expand, (source, tuple(result.shape)), {}, result))

    def _write(self, node: fx.Node, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arg:
        """An in-place op on a value that nothing else shares: the functional op, read by everyone from here on."""
        functional = functional_form(target)
        written = args[0]
        tensors = list(values_in((args, tuple(kwargs.values()))))
        promotes = any(value.type.dtype != written.type.dtype and value.shape for value in tensors)
        if functional is None or written.name not in self._owned or written.name in self._shared or promotes:
            raise MustFunctionaliseError
        value = cast("Value", self._add(node, functional, args, kwargs, node.meta["val"]))
        self._latest[written.name] = value
        return value

    def _add(
        self, node: fx.Node, target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Arg:
        """Appends one node whose outputs have the types of `result`, a tensor or a sequence of tensors."""
        outputs = self._outputs(node, result)
        arguments, keywords = nonnegative(target, args, kwargs)
        added = Node(str(target), arguments, tuple(keywords.items()), outputs, module_of(node))
        self.nodes.append(added)
        self._owned.update(value.name for value in outputs)
        if any(returned.alias_info is not None for returned in target._schema.returns):
            self._shared.update(value.name for value in (*outputs, *added.inputs))
        return outputs[0] if isinstance(result, Tensor) else outputs

    def _outputs(self, node: fx.Node, result: Any) -> tuple[Value, ...]:
        if isinstance(result, Tensor):
            return (Value(self._unique(node.name), static_type(node, result)),)
        if not isinstance(result, (list, tuple)) or not all(isinstance(item, Tensor) for item in result):
            raise UserError(f"The model's {node.target} gives a number that depends on its data; keep it a tensor.")
        return tuple(Value(self._unique(f"{node.name}.{i}"), static_type(node, item)) for i, item in enumerate(result))

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._names:
            candidate, count = f"{name}_{count}", count + 1
        self._names.add(candidate)
        return candidate


def static_type(node: fx.Node, tensor: Tensor) -> TensorType:
    if not all(isinstance(size, int) for size in tensor.shape):
        raise UserError(f"The model's {node.target} gives a shape that depends on its data; give it a fixed shape.")
    return TensorType.of(tensor)


def functional_form(target: OpOverload) -> OpOverload | None:
    """`add.Tensor` for `add_.Tensor`; None where an op writes to anything but its first argument."""
    schema = target._schema
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    name = schema.name.split("::")[1].removesuffix("_")
    if written != [True] + [False] * (len(written) - 1) or name == "copy":
        return None
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, target._overloadname, None) if packet else None


def module_of(node: fx.Node) -> str:
    """Qualified name of the innermost module, without the count that a second call of a module adds (`block@1`)."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    path = path.removeprefix("L['self']").lstrip(".")
    return ".".join(part.split("@")[0] for part in path.split("."))


def nonnegative(
    target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with dimension numbers counted from the front."""
    first = next(values_in((args, tuple(kwargs.values()))), None)
    if first is None:
        return args, kwargs
    rank = len(first.shape) + (target._schema.name.split("::")[1] in RANK_RAISING)

    def count_from_front(name: str, argument: Any) -> Any:
        if isinstance(argument, tuple):
            return tuple(count_from_front(name, item) for item in argument)
        negative = name in DIMENSIONS and type(argument) is int and argument < 0
        return argument + rank if negative else argument

    names = [argument.name for argument in target._schema.arguments]
    fixed = tuple(count_from_front(name, argument) for name, argument in zip(names, args, strict=False))
    return fixed, {name: count_from_front(name, argument) for name, argument in kwargs.items()}
