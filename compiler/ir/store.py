"""A graph on disk: its text form and its tensors, nothing pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chipfit.ir.graph import Graph
from chipfit.ir.text import from_text, to_text

TEXT, STATE = "graph.txt", "weights.safetensors"


def save(graph: Graph, folder: Path) -> None:
    """Writes the graph into an existing folder."""
    (folder / TEXT).write_text(to_text(graph))
    save_file({name: tensor.detach().contiguous() for name, tensor in graph.state.items()}, folder / STATE)


def load(folder: Path) -> Graph:
    """The graph that `save` wrote, its tensors on the CPU."""
    return from_text((folder / TEXT).read_text()).with_state(load_file(folder / STATE))


def digest(graph: Graph) -> str:
    """SHA-256 of structure and tensors."""
    return hashlib.sha256((to_text(graph) + tensors_digest(graph.state)).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
