"""From the fusion plan to a program: which of our kernels each planned kernel becomes, and in what layout values lie.

A value lies dense, as PyTorch has it, or as an image: channels last, channels padded to vectors, with the halo of
zeros that its widest reader needs. It is converted where a reader wants the other form, once. What products of whole
numbers read lies as rows of int8 and in no other form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch

from chipfit.codegen import lower_attention, lower_images, lower_matmuls, lower_rows
from chipfit.codegen.program import Call, Choose, Generated, Program, Stock, Tensor, Weight, first
from chipfit.codegen.spec import Argument, KernelSpec
from chipfit.codegen.spec_images import PackImageSpec, UnpackImageSpec
from chipfit.codegen.views import Unsupported
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph, Node, TensorType, Value
from chipfit.ir.images import NO_HALO, Image, Shape, halos, planar_values
from chipfit.ir.kernel import Kernel, kernel_of, masks, outside
from chipfit.ir.kinds import VIEWS
from chipfit.ir.rounded_conv import rounded_conv
from chipfit.ir.stored import stored_weight
from chipfit.targets.tile import CpuShape, Tile, lanes

Rule = Callable[["Lowering", Kernel], None]
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "attention": lower_attention.lower,
        "matmul": lower_matmuls.lower,
        "conv": lower_images.lower_conv,
        "depthwise": lower_images.lower_conv,
        "pool": lower_images.lower_pool,
        "reduce": lower_rows.lower_reduce,
        "pointwise": lower_rows.lower_pointwise,
    }
)


def lower(graph: Graph, cpu: CpuShape, constants: Mapping[str, torch.Tensor], entry: str = "forward") -> Program:
    """The program of an entry point; `constants` are the values that depend on no input, by name."""
    return Lowering(graph, cpu, constants, entry).lower()


class Lowering:
    """Walks the plan, emitting calls. Rules read values through `dense` and `image` and write through `emit`."""

    def __init__(
        self,
        graph: Graph,
        cpu: CpuShape,
        constants: Mapping[str, torch.Tensor],
        entry: str,
        choose: Choose = first,
    ) -> None:
        self.graph = graph
        self.entry = graph.entries[entry]
        self.cpu = cpu
        self.lanes = lanes(cpu)
        self.choose = choose
        self.constants = dict(constants)
        self.plan = kernels(self.entry)
        self.halos = halos(self.plan)
        self.planar = planar_values(self.plan, self.lanes)
        self.inputs = tuple(tensor_of(value) for value in self.entry.inputs)
        self.tensors = {tensor.name: tensor for tensor in self.inputs}
        self.images: dict[str, tuple[Tensor, Image]] = {}
        self.rounded: dict[str, Tensor] = {}  # values that are kept as rows of int8
        self.weights: dict[str, Weight] = {}
        self.calls: list[Call] = []

    def lower(self) -> Program:
        for kernel in self.plan:
            self.lower_kernel(kernel)
        outputs = tuple(self.dense(value) for value in self.entry.outputs)
        return Program(self.inputs, tuple(self.weights.values()), tuple(self.calls), outputs)

    def lower_kernel(self, kernel: Kernel) -> None:
        """By our kernel if there is one; else the anchor and its epilogue apart; else by stock lowering."""
        if all(node.kind in VIEWS for node in kernel.nodes):
            source = self.dense(kernel.inputs[0])
            self.tensors[kernel.name] = replace(source, shape=kernel.output.shape)
            return
        try:
            self.lower_generated(kernel)
        except Unsupported:
            parts = apart(kernel)
            for part in parts:
                self.lower_kernel(part)
            if not parts:
                self.stock(kernel.nodes, kernel.outputs)

    def lower_generated(self, kernel: Kernel) -> None:
        found, rounded = stored_weight(self.entry, kernel.anchor), rounded_conv(self.entry, kernel.anchor)
        stored = (found.numbers, found.scales) if found else (*masks(kernel), *conditions(kernel))
        stored += (rounded.numbers,) if rounded else ()
        values = (value for value in (*kernel.inputs, kernel.output) if value not in stored)
        if kernel.kind not in RULES or any(value.type.dtype != torch.float32 for value in values):
            raise Unsupported(f"{kernel.kind} of other than float32")
        RULES[kernel.kind](self, kernel)

    def emit(self, name: str, spec: KernelSpec, tile: Tile, arguments: Sequence[Tensor], result: Tensor) -> None:
        own = [argument for argument in spec.arguments(tile) if argument.role == "scratch"]
        scratch = (Tensor(f"{name}.scratch", argument.shape, argument.dtype) for argument in own)
        self.calls.append(Call(name, Generated(spec, tile), tuple(arguments), (result, *scratch)))

    def emit_dense(
        self, value: Value, spec: KernelSpec, tile: Tile, arguments: Sequence[Tensor], shape: Shape | None = None
    ) -> None:
        """A call whose result is `value`, dense, stored under another shape of the same size if told."""
        stored = Tensor(value.name, value.shape if shape is None else shape)
        self.emit(value.name, spec, tile, arguments, stored)
        self.tensors[value.name] = tensor_of(value)

    def emit_image(self, value: Value, spec: KernelSpec, tile: Tile, arguments: Sequence[Tensor], image: Image) -> None:
        result = Tensor(f"{value.name}.image", image.shape)
        self.emit(value.name, spec, tile, arguments, result)
        self.images[value.name] = result, image

    @property
    def plain_tile(self) -> Tile:
        """For kernels without a register tile."""
        return Tile(self.lanes, 1, self.lanes, "rows", self.cpu.threads)

    def is_fixed(self, value: Value) -> bool:
        """Whether a value is a parameter or a constant."""
        return value.name in self.graph.parameters or value.name in self.constants

    def weight(self, value: Value, argument: Argument | None = None) -> Tensor:
        """The library's argument that holds a fixed value, packed as a kernel's argument wants it if told."""
        if argument is None or argument.packing is None:
            stored, packing = tensor_of(value), None
        else:
            packing = argument.packing
            details = (f"{key}{int(setting)}" for key, setting in sorted(packing.params.items()))
            name = ".".join((value.name, packing.kind, *details))
            stored = Tensor(name, argument.shape, argument.dtype)
        return self.weights.setdefault(stored.name, Weight(stored, value.name, packing)).tensor

    def dense(self, value: Value, views: Sequence[Node] = ()) -> Tensor:
        """A value as PyTorch lays it out; `views` are nodes that a kernel took in, run here if the value needs them."""
        if value.name in self.tensors:
            return self.tensors[value.name]
        if self.is_fixed(value):
            return self.weight(value)
        if value.name in self.images:
            source, image = self.images[value.name]
            self.emit_dense(value, UnpackImageSpec(image), self.plain_tile, [source])
            return self.tensors[value.name]
        producers = {node.name: node for node in views}
        node = producers[value.name]
        for source_value in node.inputs:
            self.dense(source_value, views)
        self.stock((node,), node.outputs)
        return self.tensors[value.name]

    def image(self, value: Value) -> tuple[Tensor, Image]:
        """A value of shape (batch, channels, height, width) as an image with the halo that its readers need."""
        if value.name not in self.images:
            batch, channels, height, width = value.shape
            planar = value.name in self.planar
            image = Image(batch, height, width, channels, self.lanes, self.halo(value), planar)
            dense = self.dense(value)
            if (planar or height * width == 1) and math.prod(image.shape) == math.prod(value.shape):
                self.images[value.name] = dense, image  # the same bytes
            else:
                self.emit_image(value, PackImageSpec(image), self.plain_tile, [dense], image)
        return self.images[value.name]

    def additive_mask(self, mask: Value, kernel: Kernel) -> Tensor:
        """A mask as numbers to add to the scores; a boolean one, true where attended, as its logarithm."""
        producers = {node.name: node for node in kernel.nodes}
        while mask.name in producers and producers[mask.name].kind == "expand":
            mask = producers[mask.name].inputs[0]
        if mask.type.dtype != torch.bool:
            return self.dense(mask, kernel.nodes)
        added = Value(f"{mask.name}.added", TensorType(mask.shape, torch.float32))
        if self.is_fixed(mask):
            self.constants.setdefault(added.name, self.constant(mask).float().log())
            return self.weight(added)
        if added.name not in self.tensors:
            number = self.number(mask, kernel.nodes)
            self.stock((Node("aten.log.default", (number,), (), (added,)),), (added,))
        return self.tensors[added.name]

    def number(self, condition: Value, views: Sequence[Node] = ()) -> Value:
        """A boolean as ones and zeros of float32."""
        number = Value(f"{condition.name}.number", TensorType(condition.shape, torch.float32))
        if self.is_fixed(condition):
            self.constants.setdefault(number.name, self.constant(condition).float())
        elif number.name not in self.tensors:
            self.dense(condition, views)
            self.stock((Node("aten.to.dtype", (condition, torch.float32), (), (number,)),), (number,))
        return number

    def constant(self, value: Value) -> torch.Tensor:
        return self.constants[value.name] if value.name in self.constants else self.graph.state[value.name]

    def halo(self, value: Value) -> tuple[int, int, int, int]:
        return self.halos.get(value.name, NO_HALO)

    def stock(self, nodes: tuple[Node, ...], outputs: tuple[Value, ...]) -> None:
        """Leaves nodes to TVM's own lowering."""
        inputs = outside(nodes)
        results = tuple(tensor_of(value) for value in outputs)
        arguments = tuple(self.dense(value) for value in inputs)
        self.calls.append(Call(outputs[0].name, Stock(nodes, inputs, outputs), arguments, results))
        self.tensors |= {tensor.name: tensor for tensor in results}


def conditions(kernel: Kernel) -> tuple[Value, ...]:
    """What a pointwise kernel reads to choose by."""
    if kernel.kind != "pointwise":
        return ()
    return tuple(node.inputs[0] for node in kernel.nodes if lower_rows.chooses(node))


def apart(kernel: Kernel) -> tuple[Kernel, ...]:
    """A kernel with an epilogue as two: up to the anchor, and the rest. Empty if there is nothing to cut off."""
    after = kernel.nodes.index(kernel.anchor) + 1
    head, tail = kernel.nodes[:after], kernel.nodes[after:]
    if not tail or kernel.kind in ("attention", "pointwise", "move") or kernel.anchor.kind == "mean":
        return ()
    first = replace(kernel_of(kernel.kind, kernel.anchor, head), rounded=kernel.rounded)
    return first, kernel_of("pointwise", tail[-1], tail)


def dtype_name(value: Value) -> str:
    return str(value.type.dtype).removeprefix("torch.")


def tensor_of(value: Value) -> Tensor:
    return Tensor(value.name, value.shape, dtype_name(value))
