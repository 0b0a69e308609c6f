"""Running a library leaves the process as it found it."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from chipfit.codegen import compile_graph
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.targets.registry import get_target


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system can't bind threads to cores")
def test_a_library_binds_no_thread_to_a_core(tmp_path: Path) -> None:
    """Bound, the caller would pass its one core on to all threads that torch starts later."""
    before = os.sched_getaffinity(0)
    graph = rebatch(import_model(nn.Linear(64, 64), (torch.zeros(1, 64),)), 1)
    library = compile_graph(graph, get_target("host"), tmp_path / "library")
    library(torch.zeros(1, 64).numpy())
    assert os.sched_getaffinity(0) == before
