"""A graph on disk: its text form and its tensors, nothing pickled."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from chipfit.ir.graph import Graph
from chipfit.ir.text import from_text, to_text

TEXT, STATE = "graph.txt", "state.safetensors"


def save(graph: Graph, folder: Path) -> None:
    """Writes the graph into an existing folder."""
    (folder / TEXT).write_text(to_text(graph))
    save_file({name: tensor.detach().contiguous() for name, tensor in graph.state.items()}, folder / STATE)


def load(folder: Path) -> Graph:
    """The graph that `save` wrote, its tensors on the CPU."""
    return from_text((folder / TEXT).read_text()).with_state(load_file(folder / STATE))


def structure_digest(graph: Graph) -> str:
    """SHA-256 over everything but trained tensors: equal for two graphs that compile to the same library."""
    digest = hashlib.sha256(to_text(graph).encode())
    for name, parameter in sorted(graph.parameters.items()):
        if parameter.role != "parameter":
            digest.update(_bytes(graph.state[name]))
    return digest.hexdigest()


def state_digest(graph: Graph) -> str:
    """SHA-256 over all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(graph.state.items()):
        digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
