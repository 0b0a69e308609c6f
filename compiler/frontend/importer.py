"""A PyTorch model as a Graph, through torch.export's training IR, which keeps linear, conv and attention whole."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from chipfit.errors import UserError
from chipfit.frontend.canonical import Lowering, MustFunctionaliseError
from chipfit.ir.graph import EntryPoint, Graph, Parameter, TensorType, Value, needed, values_in

SAME = {torch.float64: 1e-8, torch.float32: 1e-3}  # relative; kernels may sum in another order at another batch
SAME_HALF = 5e-2


def import_model(model: nn.Module, example_inputs: Sequence[Tensor], entry: str = "forward") -> Graph:
    """The graph of `model(*example_inputs)` in evaluation mode; its state shares storage with the model.

    A model that treats its examples alike is traced at a batch of at least 2 (the examples are repeated if there is
    only one), any other one as given, with `batch` None. Models on the meta device work: shapes without weights.
    The model is left in evaluation mode. Raises UserError if it doesn't export, writes to its own buffers, or has
    shapes or branches that depend on its data.
    """
    model.eval()
    inputs = tuple(example_inputs)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise UserError("The example inputs must be tensors, at least one; bind other arguments in a module around it.")
    batch = common_batch(inputs)
    if batch is not None:
        batched = enlarge(inputs, max(batch, 2))
        if treats_examples_alike(model, batched):
            try:
                return lower(export(model, batched), model, entry, max(batch, 2))
            except UserError:
                pass  # the larger batch alone may be what fails; the trace as given decides
    return lower(export(model, inputs), model, entry, None)


def common_batch(inputs: tuple[Tensor, ...]) -> int | None:
    """The size that dimension 0 of every input has, if they have one."""
    sizes = {tensor.shape[0] if tensor.dim() else None for tensor in inputs}
    return sizes.pop() if len(sizes) == 1 else None


def enlarge(inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """The inputs with their examples repeated up to `batch`."""
    return tuple(tensor[torch.arange(batch, device=tensor.device) % tensor.shape[0]] for tensor in inputs)


def treats_examples_alike(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether an example's outputs depend neither on its place in the batch nor on its neighbours.

    Compares the outputs of examples [a, b, ...] with those of [b, ..., c]; on meta tensors, their shapes only.
    """
    first = enlarge(varied(inputs, 0), inputs[0].shape[0])
    first = tuple(torch.cat([first_[:1], tensor[1:]]) for first_, tensor in zip(first, inputs, strict=True))
    moved = tuple(torch.cat([a[1:], c[:1]]) for a, c in zip(first, varied(inputs, 1), strict=True))
    try:
        with torch.no_grad():
            before, after = outputs_of(model(*first)), outputs_of(model(*moved))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError):  # it takes no other batch
        return False
    batch = inputs[0].shape[0]
    if not all(tensor.dim() and tensor.shape[0] == batch for tensor in (*before, *after)):
        return False
    return all(tensor.is_meta or close(tensor[1:], other[:-1]) for tensor, other in zip(before, after, strict=True))


def varied(inputs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Other examples of the same kind: noise for floating inputs, the same integers at other places for the rest."""
    generator = torch.Generator().manual_seed(seed)

    def vary(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(tensor)
        order = torch.randperm(tensor[0].numel(), generator=generator).to(tensor.device)
        return tensor.flatten(1)[:, order].reshape(tensor.shape) if tensor.dim() > 1 else tensor

    return tuple(vary(tensor) for tensor in inputs)


def close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return bool((a == b).all())
    finite = a.isfinite()
    tolerance = SAME.get(a.dtype, SAME_HALF) * float(a[finite].abs().max()) if finite.any() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True)


def outputs_of(result: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The exported program, its normalisations in evaluation mode. Raises UserError with the exporter's first line."""
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(model, inputs, strict=False)
    except Exception as error:  # the exporter documents no error type of its own
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"The model doesn't export with torch.export: {reason.rstrip('.')}.") from error
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default:
            by_batch = node.args[3] is None  # it keeps no running mean
            node.args = (*node.args[:5], by_batch, *node.args[6:])
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's warnings and logs are about its own affairs; what went wrong is in its exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@dataclass(frozen=True)
class Binding:
    """What each placeholder of an exported program stands for."""

    arguments: tuple[Value, ...]
    inputs: tuple[Value, ...]
    parameters: Mapping[str, Parameter]
    state: Mapping[str, Tensor]


def lower(program: ExportedProgram, model: nn.Module, entry: str, batch: int | None) -> Graph:
    binding = bind(program, model)
    lowering = Lowering(value.name for value in binding.arguments)
    try:
        results = lowering.lower(program.graph_module, binding.arguments)
    except MustFunctionaliseError:
        with quiet():
            program = program.run_decompositions({})
        lowering = Lowering(value.name for value in binding.arguments)
        results = lowering.lower(program.graph_module, binding.arguments)
    outputs = user_outputs(program, cast("tuple[Any, ...]", results))
    if not outputs:
        raise UserError("The model returns no tensor.")
    nodes = needed(lowering.nodes, [value.name for value in outputs])
    used = {value.name for node in nodes for value in node.inputs} | {value.name for value in outputs}
    parameters = {name: parameter for name, parameter in binding.parameters.items() if name in used}
    state = {name: binding.state[name] for name in parameters}
    return Graph({entry: EntryPoint(entry, binding.inputs, nodes, outputs)}, parameters, state, batch)


def user_outputs(program: ExportedProgram, results: tuple[Any, ...]) -> tuple[Value, ...]:
    """The results that the caller sees. A write to a buffer would be lost, so it is refused."""
    specs = program.graph_signature.output_specs
    written = [spec.target for spec in specs if spec.kind is OutputKind.BUFFER_MUTATION]
    if written:
        raise UserError(f"The model writes to its buffer {written[0]} in forward; pass that state in and out instead.")
    pairs = zip(specs, results, strict=True)
    return tuple(value for spec, result in pairs if spec.kind is OutputKind.USER_OUTPUT for value in values_in(result))


def bind(program: ExportedProgram, model: nn.Module) -> Binding:
    """The values of the placeholders; tied tensors become one parameter under the name that comes first."""
    tensors = {**program.state_dict, **program.constants}
    tied = tied_names(model)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    arguments: list[Value] = []
    inputs: list[Value] = []
    parameters: dict[str, Parameter] = {}
    state: dict[str, Tensor] = {}
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(input_value(node, tensors))
            arguments.append(inputs[-1])
            continue
        held = tensors.get(str(spec.target))
        if not isinstance(held, Tensor):
            raise UserError(f"The model holds {spec.target or node.name}, which is no tensor; leave it out of forward.")
        names = tied.get(str(spec.target), (str(spec.target),))
        value = Value(names[0], TensorType.of(held))
        arguments.append(value)
        parameters[value.name] = Parameter(value, role_of(spec), names[1:])
        state[value.name] = held.detach()
    return Binding(tuple(arguments), tuple(inputs), parameters, state)


def input_value(node: fx.Node, taken: Collection[str]) -> Value:
    if not isinstance(node.meta.get("val"), Tensor):
        raise UserError(f"The model's input {node.name} is not a tensor; bind it in a module around the model.")
    name = f"{node.name}_input" if node.name in taken else node.name
    return Value(name, TensorType.of(node.meta["val"]))


def role_of(spec: InputSpec) -> str:
    """Buffers outside the state dict are constants: they can be computed again from the model's code."""
    if spec.kind is InputKind.PARAMETER:
        return "parameter"
    return "buffer" if spec.kind is InputKind.BUFFER and spec.persistent else "constant"


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name -> all names of the same tensor, for parameters and buffers, in the order of the model's modules."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    members = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in members:
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        groups.setdefault(place, []).append(name)
    return {name: tuple(names) for names in groups.values() for name in names}
