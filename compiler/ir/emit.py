"""Back to PyTorch: a graph as a trainable module, or executed value by value."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from chipfit.ir.graph import EntryPoint, Graph, Node, Parameter, Value, needed

TRAINING_FLAG = 5  # the place of `training` among aten.batch_norm's arguments


def emit(graph: Graph, entry: str = "forward", training: bool = False) -> fx.GraphModule:
    """A module of ATen calls with the graph's parameters under their qualified names, tied names included.

    The module's tensors share storage with `graph.state`. One output comes as a tensor, several as a tuple. With
    `training`, batch norms normalise by the batch and update their running statistics.
    """
    holder = nn.Module()
    attach_all(holder, graph)
    module = fx.GraphModule(holder, calls(graph, graph.entries[entry], training))
    attach_all(module, graph)  # GraphModule copies neither tied names nor which buffers are constants
    return module


def attach_all(module: nn.Module, graph: Graph) -> None:
    for name, parameter in graph.parameters.items():
        tensor = owned(graph.state[name], parameter)
        for path in (name, *parameter.aliases):
            attach(module, path, tensor, persistent=parameter.role != "constant")


def owned(tensor: Tensor, parameter: Parameter) -> Tensor:
    return nn.Parameter(tensor, tensor.is_floating_point()) if parameter.role == "parameter" else tensor


def calls(graph: Graph, point: EntryPoint, training: bool) -> fx.Graph:
    """The entry point as an fx graph that reads parameters by `get_attr`."""
    made = fx.Graph()
    nodes = {value.name: made.placeholder(value.name) for value in point.inputs}
    nodes |= {name: made.get_attr(name) for name in graph.parameters}
    for node in point.nodes:
        args, kwargs = call_arguments(node, nodes)
        if training and node.kind == "batch_norm":
            args = (*args[:TRAINING_FLAG], True, *args[TRAINING_FLAG + 1 :])
        call = made.call_function(resolve(node.op), args, kwargs)
        if returns_tensor(node.op):
            nodes[node.name] = call
        else:
            nodes |= {
                value.name: made.call_function(operator.getitem, (call, i)) for i, value in enumerate(node.outputs)
            }
    outputs = tuple(nodes[value.name] for value in point.outputs)
    made.output(outputs[0] if len(outputs) == 1 else outputs)
    return made


def attach(module: nn.Module, path: str, tensor: Tensor, persistent: bool) -> None:
    """Registers `tensor` under its qualified name, making the modules on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(module, parent):
            module.add_module(parent, nn.Module())
        module = getattr(module, parent)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor, persistent)


def collect(graph: Graph, module: nn.Module) -> Graph:
    """`graph` with copies of the tensors that `module`, emitted from a graph of the same structure, holds now."""
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return graph.with_state({name: tensors[name].detach().clone() for name in graph.parameters})


def run(
    graph: Graph,
    *inputs: Tensor,
    keep: Collection[str] = (),
    entry: str = "forward",
    overrides: Mapping[str, Tensor] | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The outputs and the values named in `keep`, by name; each value is freed after its last reader.

    `overrides` replaces parameters for this run. `given` holds values that are known already: what only they need is
    not executed, and inputs may then be left out. Raises KeyError if a value that is needed has no tensor.
    """
    point = graph.entries[entry]
    known = {**{value.name: tensor for value, tensor in zip(point.inputs, inputs, strict=False)}, **(given or {})}
    results = dict.fromkeys([*(value.name for value in point.outputs), *keep])
    tensors = {**graph.state, **(overrides or {}), **known}
    plan = needed(point.nodes, results, known)
    last_reader = {value.name: node for node in plan for value in node.inputs}
    with torch.no_grad():
        for node in plan:
            tensors.update(execute(node, tensors))
            for name in {value.name for value in node.inputs}:
                if last_reader[name] is node and name not in results:
                    del tensors[name]
    return {name: tensors[name] for name in results}


def execute(node: Node, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The node's outputs by name, computed from the tensors of its inputs."""
    args, kwargs = call_arguments(node, tensors)
    result = resolve(node.op)(*args, **kwargs)
    results = [result] if isinstance(result, Tensor) else result
    return {value.name: tensor for value, tensor in zip(node.outputs, results, strict=True)}


def call_arguments(node: Node, held: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments with each value replaced by what `held` has under its name; sequences become lists."""

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            return held[argument.name]
        return [fill(item) for item in argument] if isinstance(argument, tuple) else argument

    return tuple(fill(argument) for argument in node.args), {name: fill(argument) for name, argument in node.kwargs}


@cache
def resolve(op: str) -> OpOverload:
    """`aten.linear.default` as the callable that PyTorch registers."""
    namespace, name, overload = op.split(".")
    return cast("OpOverload", getattr(getattr(getattr(torch.ops, namespace), name), overload))


@cache
def returns_tensor(op: str) -> bool:
    """Whether the op returns one tensor, rather than a sequence of them."""
    returns = resolve(op)._schema.returns
    return len(returns) == 1 and returns[0].type.kind() == "TensorType"
