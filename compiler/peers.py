"""Other runtimes on the same module, inputs and threads, each with the settings that its makers advise for latency."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chipfit.codegen.arrays import Array
from chipfit.errors import UserError

Call = Callable[[], Sequence[Array]]  # runs on the given inputs; the outputs in the model's order
ONNX = "model.onnx"


def torch_eager(module: nn.Module, inputs: tuple[Tensor, ...], threads: int, folder: Path) -> Call:
    torch.set_num_threads(threads)

    def call() -> Sequence[Array]:
        with torch.inference_mode():
            return _arrays(module(*inputs))

    return call


def inductor(module: nn.Module, inputs: tuple[Tensor, ...], threads: int, folder: Path) -> Call:
    """torch.compile with weights frozen in, which lets it pack them ahead of time."""
    import torch._inductor.config as settings

    torch.set_num_threads(threads)
    with settings.patch(freezing=True), _quiet(), torch.no_grad():
        compiled = torch.compile(module)
        compiled(*inputs)

    def call() -> Sequence[Array]:
        with settings.patch(freezing=True), torch.no_grad():
            return _arrays(compiled(*inputs))

    return call


def onnxruntime(module: nn.Module, inputs: tuple[Tensor, ...], threads: int, folder: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    file = onnx_file(module, inputs, folder)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {slot.name: tensor.numpy() for slot, tensor in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, given)


def openvino(module: nn.Module, inputs: tuple[Tensor, ...], threads: int, folder: Path, precision: str = "f32") -> Call:
    """In float32 like the rest unless told `bf16`: left to itself it would compute in bfloat16 where the CPU can."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    model = openvino.Core().compile_model(onnx_file(module, inputs, folder), "CPU", settings)
    request, given = model.create_infer_request(), [tensor.numpy() for tensor in inputs]

    def call() -> Sequence[Array]:
        results = request.infer(given, share_inputs=True, share_outputs=True)
        return [results[output] for output in model.outputs]

    return call


Peer = Callable[[nn.Module, tuple[Tensor, ...], int, Path], Call]
PEERS: Mapping[str, Peer] = {
    "torch": torch_eager,
    "inductor": inductor,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
PACKAGES = {"inductor": "torch"}  # where a peer's package has another name


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError for a peer that is unknown or not installed."""
    for name in names:
        if name not in PEERS:
            raise UserError(f"There is no runtime {name!r} to compare with: use {', '.join(PEERS)}.")
        try:
            version_of(name)
        except PackageNotFoundError as error:
            raise UserError(f"{name} is not installed: run `pip install 'chipfit[bench]'`.") from error


def version_of(peer: str) -> str:
    return version(PACKAGES.get(peer, peer))


def onnx_file(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> str:
    """The module as an ONNX file, written once for all who read it."""
    file = folder / ONNX
    if not file.exists():
        with _quiet():
            torch.onnx.export(module, inputs, file, dynamo=True, external_data=True, verbose=False)
    return str(file)


def _arrays(outputs: Any) -> list[Array]:
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return [tensor.numpy() for tensor in tensors]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
