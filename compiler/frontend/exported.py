"""Programs that `torch.export.save` wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from chipfit.errors import UserError


def from_pt2(path: Path) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The program as a module, and the example inputs saved with it. Raises UserError if it is no such file."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no exported program: write it with torch.export.save(program, file).")
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise UserError(f"{path} can't be read as an exported program: {reason}; export it again.") from error
    args, kwargs = program.example_inputs or ((), {})
    inputs = (*args, *kwargs.values())
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise UserError(f"{path} holds no example tensors: export the model with tensors as its arguments.")
    module = program.module(check_guards=False)
    return fx.GraphModule(module, module.graph), inputs  # without the hooks that refuse any batch but the traced one
