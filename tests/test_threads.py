"""Running a library leaves the process as it found it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from chipfit.codegen import compile_graph
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.targets.registry import get_target


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system can't bind threads to cores")
def test_a_library_does_not_bind_its_caller_to_a_core(tmp_path: Path) -> None:
    """Bound, the caller would pass its one core on to all threads that torch starts later."""
    before = os.sched_getaffinity(0)
    graph = rebatch(import_model(nn.Linear(64, 64), (torch.zeros(1, 64),)), 1)
    library = compile_graph(graph, get_target("host"), tmp_path / "library")
    library(torch.zeros(1, 64).numpy())
    assert os.sched_getaffinity(0) == before


PROGRAM = """
import os, sys
import numpy as np
from pathlib import Path
from chipfit.codegen.runtime import Library

def bound():
    return sorted(min(a) for t in os.listdir("/proc/self/task") if len(a := os.sched_getaffinity(int(t))) == 1)

folder, threads = Path(sys.argv[1]), int(sys.argv[2])
library = Library.load(folder, {"weight": np.ones((64, 64), np.float32), "bias": np.ones(64, np.float32)}, threads)
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # what the caller chooses for itself is left alone
library(np.zeros((1, 64), np.float32))
print(len(os.sched_getaffinity(0)), bound())
"""


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", set)(0)) < 2, reason="there is one core, or no way to bind")
def test_each_worker_has_a_core_where_there_are_as_many_threads_as_cores(tmp_path: Path) -> None:
    graph = rebatch(import_model(nn.Linear(64, 64), (torch.zeros(1, 64),)), 1)
    compile_graph(graph, get_target("host"), tmp_path / "library")
    cores = sorted(os.sched_getaffinity(0))
    found = {}
    for threads in (1, len(cores)):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "library"), str(threads)]
        found[threads] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert found == {1: f"1 {[cores[-1]]}", len(cores): f"1 {sorted([*cores[1:], cores[-1]])}"}
