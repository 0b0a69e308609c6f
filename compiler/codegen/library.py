"""Compile a graph: lower it, build the library and write what the runtime needs to run it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import tvm
from safetensors.torch import save_file
from torch import Tensor

from chipfit.codegen.build import Link, build_library
from chipfit.codegen.check import check, probe
from chipfit.codegen.lower import Lowering
from chipfit.codegen.memory import Plan
from chipfit.codegen.program import Call, Effort, Generated, Program, Weight
from chipfit.codegen.runtime import CONSTANTS, LIBRARY, RECORD, Library
from chipfit.errors import UserError
from chipfit.ir.emit import execute
from chipfit.ir.fusion import folded
from chipfit.ir.graph import EntryPoint, Graph
from chipfit.ir.kinds import VIEWS
from chipfit.targets.registry import Target

SCHEMA = 1
NO_EFFORT = Effort()
SAME_NUMBERS = VIEWS | {"to", "_to_copy", "clone", "contiguous"}  # kinds of nodes that change no element


def compile_graph(
    graph: Graph, target: Target, out: Path, inputs: Sequence[Tensor] | None = None, effort: Effort = NO_EFFORT
) -> Library:
    """Writes `library.so`, `library.json` and `constants.safetensors` to `out` and loads them.

    The library's numbers are compared with PyTorch's on `inputs`, or on made-up ones. Raises WrongResult if they
    differ, UserError if the target is no CPU, the graph has no weights or TVM can't compile an op.
    """
    with written(graph, target, out, effort=effort) as made:
        library = Library.load(made, numpy_weights(graph), target.cpu.threads)
        check(library, graph, probe(graph) if inputs is None else inputs)
    return library


@contextmanager
def written(
    graph: Graph, target: Target, out: Path, link: Link | None = None, effort: Effort = NO_EFFORT
) -> Iterator[Path]:
    """A folder with the library's files, to check and to add to; what it holds is in `out` afterwards."""
    if target.family != "cpu":
        raise UserError(f"Target {target.name} is a {target.family}, which chipfit can't compile for yet; use a CPU.")
    if any(tensor.is_meta for tensor in graph.state.values()):
        raise UserError("The model was loaded without its weights; load them to compile it.")
    lowering = Lowering(graph, target.cpu, fixed_values(graph), "forward", effort.choose)
    program = lowering.lower()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        made = Path(folder)
        plan = build_library(program, tvm_target(target), lowering.lanes, made / LIBRARY, link, effort.trials)
        write_constants(program, lowering.constants, made / CONSTANTS)
        write_record(program, graph, lowering.constants, target, plan, made / RECORD)
        yield made
        out.mkdir(exist_ok=True)
        for file in made.iterdir():
            os.replace(file, out / file.name)


def fixed_values(graph: Graph, entry: str = "forward") -> dict[str, Tensor]:
    """The values that depend on no input and that kernels read, computed, and the graph's own constants."""
    point = graph.entries[entry]
    nodes = folded(point)
    tensors = dict(graph.state)
    with torch.no_grad():
        for node in nodes:
            tensors.update(execute(node, tensors))
    inside = {node.name for node in nodes}
    read = {value.name for node in point.nodes if node.name not in inside for value in node.inputs}
    read |= {value.name for value in point.outputs}
    made = {value.name for node in nodes for value in node.outputs}
    own = {name for name, parameter in graph.parameters.items() if parameter.role == "constant"}
    return {name: tensors[name].contiguous() for name in (made | own) & read}


def tvm_target(target: Target) -> Any:
    """LLVM for the chip's processor."""
    settings: dict[str, Any] = {"kind": "llvm", "num-cores": target.cpu.threads}
    chip = target.profile
    named = {"mtriple": chip.triple, "mcpu": chip.arch, "mattr": [f"+{feature}" for feature in chip.features]}
    return tvm.target.Target(settings | {key: value for key, value in named.items() if value})


def numpy_weights(graph: Graph) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in graph.state.items()}


def write_weights(graph: Graph, path: Path) -> None:
    """The graph's parameters and buffers as safetensors under their PyTorch names, atomically."""
    kept = {name: graph.state[name] for name, p in graph.parameters.items() if p.role != "constant"}
    write_tensors(kept, path)


def write_constants(program: Program, constants: Mapping[str, Tensor], path: Path) -> None:
    used = {weight.source for weight in program.weights}
    write_tensors({name: tensor for name, tensor in constants.items() if name in used}, path)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A tensor that shares storage with another, or is not contiguous, is written as a copy."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, partial)
    os.replace(partial, path)


def write_record(
    program: Program, graph: Graph, constants: Mapping[str, Tensor], target: Target, plan: Plan, path: Path
) -> None:
    point, rows = graph.forward, table_rows(graph.forward)
    held = (*program.inputs, *program.outputs, *(weight.tensor for weight in program.weights))
    record = {
        "schema": SCHEMA,
        "target": target.name,
        "threads": target.cpu.threads,
        "arena_bytes": plan.size,
        "memory_bytes": plan.size + sum(tensor.nbytes for tensor in held),
        "places": [asdict(place) for place in plan.places],
        "matrix_unit": any(isinstance(c.kernel, Generated) and c.kernel.tile.unit == "amx" for c in program.calls),
        "inputs": [
            {"name": t.name, "shape": t.shape, "dtype": t.dtype, "rows": rows.get(t.name)} for t in program.inputs
        ],
        "outputs": [
            {"name": v.name, "shape": v.shape, "dtype": t.dtype}
            for v, t in zip(point.outputs, program.outputs, strict=True)
        ],
        "weights": [weight_entry(weight, graph, constants) for weight in program.weights],
        "kernels": [call_entry(call) for call in program.calls],
    }
    path.write_text(json.dumps(record, indent=1))


def table_rows(point: EntryPoint) -> dict[str, int]:
    """Input -> the rows of the smallest table that its elements are numbers of, as tokens are of an embedding.

    Code that looks rows up trusts their numbers: one that is none would read memory that isn't the table's.
    """
    producers, found = point.producers, dict[str, int]()
    for node in point.nodes:
        if node.kind != "embedding":
            continue
        table, index = node.inputs[:2]
        while index.name in producers and producers[index.name].kind in SAME_NUMBERS:
            index = producers[index.name].inputs[0]
        if index.name not in producers:
            found[index.name] = min(table.shape[0], found.get(index.name, table.shape[0]))
    return found


def weight_entry(weight: Weight, graph: Graph, constants: Mapping[str, Tensor]) -> dict[str, Any]:
    tensor = constants[weight.source] if weight.source in constants else graph.state[weight.source]
    packing = {"kind": weight.packing.kind, "params": dict(weight.packing.params)} if weight.packing else None
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"source": weight.source, "source_shape": list(tensor.shape), "dtype": dtype, "packing": packing}


def call_entry(call: Call) -> dict[str, Any]:
    """A kernel by the value that it computes: its spec, or the ops that TVM lowered."""
    if isinstance(call.kernel, Generated):
        kernel = call.kernel
        kind = type(kernel.spec).__name__.removesuffix("Spec").lower()
        return {"value": call.name, "kernel": kind, "spec": repr(kernel.spec), "tile": asdict(kernel.tile)}
    return {"value": call.name, "stock": [node.op for node in call.kernel.nodes]}
