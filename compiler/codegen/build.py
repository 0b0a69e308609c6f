"""From a program to a shared library: one Relax function that calls our kernels and TVM's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tvm
from tvm import relax

from chipfit.codegen.amx import build_amx_matmul
from chipfit.codegen.amx_conv import build_amx_conv
from chipfit.codegen.amx_planes import build_amx_planes
from chipfit.codegen.attention import build_attention
from chipfit.codegen.conv import build_conv
from chipfit.codegen.depthwise import build_depthwise
from chipfit.codegen.half import build_half_matmul
from chipfit.codegen.images import build_pack_image, build_unpack_image
from chipfit.codegen.matmul import build_matmul
from chipfit.codegen.memory import Plan, plan_memory
from chipfit.codegen.pointwise import build_pointwise
from chipfit.codegen.pool import build_global_pool, build_pool
from chipfit.codegen.program import Call, Generated, Program, Stock, Tensor
from chipfit.codegen.rounding import build_rounding
from chipfit.codegen.rows import build_norm, build_softmax
from chipfit.codegen.schedule import OURS, schedule_stock
from chipfit.codegen.spec_images import (
    ConvSpec,
    DepthwiseSpec,
    GlobalPoolSpec,
    PackImageSpec,
    PoolSpec,
    UnpackImageSpec,
    WinogradSpec,
)
from chipfit.codegen.spec_matmuls import AttentionSpec, MatmulSpec
from chipfit.codegen.spec_rows import NormSpec, PointwiseSpec, RoundSpec, SoftmaxSpec
from chipfit.codegen.stock import normalised, relax_function
from chipfit.codegen.winograd import build_winograd
from chipfit.ir.images import Shape

Link = Callable[..., None]  # (output, objects)
# TVM's way from calls with memory to its virtual machine, as its own pipeline has it.
LOWERING = (
    *(relax.transform.LowerAllocTensor(), relax.transform.KillAfterLastUse(), relax.transform.LowerRuntimeBuiltin()),
    *(relax.transform.ComputePrimValue(), relax.transform.VMShapeLower(), relax.transform.AttachGlobalSymbol()),
)
OPAQUE = 8  # relax's OpPatternKind: never fused with its neighbours
BUILDERS: Mapping[type, Callable[..., Any]] = MappingProxyType(
    {
        AttentionSpec: build_attention,
        ConvSpec: build_conv,
        DepthwiseSpec: build_depthwise,
        GlobalPoolSpec: build_global_pool,
        MatmulSpec: build_matmul,
        NormSpec: build_norm,
        PackImageSpec: build_pack_image,
        PointwiseSpec: build_pointwise,
        PoolSpec: build_pool,
        RoundSpec: build_rounding,
        SoftmaxSpec: build_softmax,
        UnpackImageSpec: build_unpack_image,
        WinogradSpec: build_winograd,
    }
)


def builder(kernel: Generated) -> Callable[..., Any]:
    """The generator for a spec and the unit that its tile is for."""
    spec = kernel.spec
    if kernel.tile.unit == "half":
        return build_half_matmul
    if kernel.tile.unit != "amx" or isinstance(spec, RoundSpec):
        return BUILDERS[type(spec)]
    if isinstance(spec, ConvSpec):
        return build_amx_planes if spec.source.planar else build_amx_conv
    return build_amx_matmul


def build_library(
    program: Program, target: Any, lanes: int, path: Path, link: Link | None = None, trials: int = 0
) -> Plan:
    """Writes the shared library; returns where in an arena it wants what it computes on the way.

    `target` is TVM's; `link` makes the library from object files, else this machine's. TVM tries `trials` schedules of
    each function that is not ours, timing them here.
    """
    module, plan = planned(optimised(Linker(program).link(), target, lanes, trials), target)
    with tvm.transform.PassContext(opt_level=3):
        executable = tvm.compile(module, target=target, relax_pipeline=tvm.transform.Sequential(LOWERING))
    executable.export_library(str(path), fcompile=link)
    return plan


def planned(module: Any, target: Any) -> tuple[Any, Plan]:
    """The module with its calls given memory by our plan in place of TVM's, which takes a quarter more; the plan."""
    steps = relax.transform
    dispatch = [relax.backend.DispatchSampling(), relax.backend.DispatchSortScan(), steps.LegalizeOps()]
    allocate = [steps.RewriteDataflowReshape(), steps.ToNonDataflow(), steps.RemovePurityChecking()]
    with target:
        return plan_memory(tvm.transform.Sequential([*dispatch, *allocate, steps.CallTIRRewrite()])(module))


def optimised(module: Any, target: Any, lanes: int, trials: int) -> Any:
    """Stock ops as scheduled functions, all inlined into one Relax function."""
    steps = relax.transform
    fuse = [steps.LegalizeOps(), steps.AnnotateTIROpPattern(), steps.FoldConstant(), steps.FuseOps(), steps.FuseTIR()]
    tidy = [steps.InlinePrivateFunctions(), steps.CanonicalizeBindings(), steps.DeadCodeElimination(["main"])]
    with target:
        return schedule_stock(tvm.transform.Sequential([*fuse, *tidy])(module), lanes, target, trials)


class Linker:
    """Emits the calls of a program; equal kernels become one function."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = relax.BlockBuilder()
        self.functions: dict[Any, Any] = {}
        self.variables: dict[str, Any] = {}
        self.stored: dict[str, Shape] = {}

    def link(self) -> Any:
        arguments = (*self.program.inputs, *(weight.tensor for weight in self.program.weights))
        parameters = [relax.Var(f"p{index}", type_of(tensor)) for index, tensor in enumerate(arguments)]
        for tensor, variable in zip(arguments, parameters, strict=True):
            self.define(tensor, variable)
        with self.builder.function("main", parameters):
            with self.builder.dataflow():
                for call in self.program.calls:
                    self.emit(call)
                outputs = [self.variables[tensor.name] for tensor in self.program.outputs]
                result = self.builder.emit_output(relax.Tuple(outputs))
            self.builder.emit_func_output(result)
        return self.builder.finalize()

    def define(self, tensor: Tensor, variable: Any) -> None:
        self.variables[tensor.name] = variable
        self.stored[tensor.name] = tensor.shape

    def emit(self, call: Call) -> None:
        if isinstance(call.kernel, Generated):
            self.emit_generated(call, call.kernel)
        else:
            self.emit_stock(call, call.kernel)

    def emit_generated(self, call: Call, kernel: Generated) -> None:
        result, *scratch = call.results
        arguments = [self.variables[tensor.name] for tensor in call.arguments]
        shapes = (*(self.stored[tensor.name] for tensor in call.arguments), *(made.shape for made in call.results))
        types = [type_of(made) for made in call.results] if scratch else type_of(result)
        made = self.builder.emit(relax.call_tir(self.generated(kernel, shapes), arguments, out_ty=types))
        self.define(result, self.builder.emit(relax.TupleGetItem(made, 0)) if scratch else made)

    def generated(self, kernel: Generated, shapes: tuple[Shape, ...]) -> Any:
        key = (repr(kernel), shapes)
        if key not in self.functions:
            name = f"{type(kernel.spec).__name__.removesuffix('Spec').lower()}_{len(self.functions)}"
            function = builder(kernel)(kernel.spec, kernel.tile, name, shapes)
            function = function.without_attr("global_symbol").with_attrs({"op_pattern": OPAQUE, OURS: True})
            self.functions[key] = self.builder.add_func(function, name)
        return self.functions[key]

    def emit_stock(self, call: Call, stock: Stock) -> None:
        arguments = [self.shaped(tensor) for tensor in call.arguments]
        results = self.builder.emit(relax.Call(self.stock(stock), arguments))
        for index, tensor in enumerate(call.results):
            self.define(tensor, self.builder.emit(relax.TupleGetItem(results, index)))

    def stock(self, stock: Stock) -> Any:
        key = normalised(stock)
        if key not in self.functions:
            name = f"stock_{len(self.functions)}"
            self.functions[key] = self.builder.add_func(relax_function(key), name)
        return self.functions[key]

    def shaped(self, tensor: Tensor) -> Any:
        variable = self.variables[tensor.name]
        if self.stored[tensor.name] == tensor.shape:
            return variable
        return self.builder.emit(relax.op.reshape(variable, tensor.shape))


def type_of(tensor: Tensor) -> Any:
    return relax.TensorType(tensor.shape, tensor.dtype)
