"""What LLVM makes of the innermost loops: nothing spills, and multiply-adds keep their ports busy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import tvm
from kernel_runner import Chip
from torch import Tensor, nn
from torch.nn import functional

from chipfit.codegen.inner_loops import MCA, Loop, assembly, mca_cycles, product_loops
from chipfit.codegen.lower import lower
from chipfit.codegen.program import Generated, Program
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch


@dataclass(frozen=True)
class Core:
    """A chip with LLVM's names of it; `model` is what llvm-mca knows it as."""

    chip: Chip
    triple: str
    processor: str
    model: str

    @property
    def target(self) -> Any:
        return tvm.target.Target({"kind": "llvm", "mtriple": self.triple, "mcpu": self.processor})


AVX512 = Core(Chip(), "x86_64-linux-gnu", "sapphirerapids", "sapphirerapids")
# The same core in all that counts here; LLVM schedules cortex-a76 by the model of an older one.
NEON = Core(Chip(128, 32, 64 << 10, 512 << 10, 4), "aarch64-linux-gnu", "cortex-a76", "neoverse-n1")
CORES = {"avx512": AVX512, "neon": NEON}
BUSY = 0.8  # of a turn's cycles, at least, that its multiply-adds would take alone


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q = x.unflatten(-1, (3, 64)).transpose(1, 2)
        return functional.scaled_dot_product_attention(q, q, q)


NETS = {
    "linear": (nn.Linear(320, 333), (1, 128, 320)),
    "conv 1x1": (nn.Conv2d(96, 71, 1), (1, 96, 28, 28)),
    "conv 3x3, stride 2": (nn.Conv2d(61, 128, 3, 2, 1), (1, 61, 28, 28)),
    "conv 3x3": (nn.Conv2d(64, 64, 3, 1, 1), (1, 64, 56, 56)),
    "attention": (Attention(), (1, 128, 192)),
}


def products(program: Program) -> list[tuple[Generated, tuple[tuple[int, ...], ...]]]:
    """The kernels that multiply, with the shapes of what they read and write."""
    found = []
    for call in program.calls:
        if isinstance(call.kernel, Generated) and "image" not in type(call.kernel.spec).__name__.lower():
            found.append((call.kernel, tuple(t.shape for t in (*call.arguments, *call.results))))
    return found


@pytest.fixture(scope="module", params=[(core, net) for core in CORES for net in NETS], ids=" ".join)
def loops(request: pytest.FixtureRequest) -> tuple[Core, tuple[Loop, ...]]:
    core, (module, shape) = CORES[request.param[0]], NETS[request.param[1]]
    program = lower(rebatch(import_model(module, (torch.zeros(shape),)), shape[0]), core.chip, {})
    ((kernel, shapes),) = products(program)
    return core, product_loops(assembly(kernel, shapes, core.target))


def test_nothing_spills(loops: tuple[Core, tuple[Loop, ...]]) -> None:
    assert loops[1]
    assert [loop.spills for loop in loops[1]] == [()] * len(loops[1])


@pytest.mark.skipif(not shutil.which(MCA), reason="llvm-mca is not installed")
def test_multiply_adds_keep_their_ports_busy(loops: tuple[Core, tuple[Loop, ...]]) -> None:
    core, (largest, *_) = loops
    least, cycles = (mca_cycles(loop, core.triple, core.model) for loop in (largest.arithmetic, largest))
    assert least / cycles >= BUSY


def test_spills_are_seen() -> None:
    text = ".LBB0_1:\n\tvfmadd231ps\t(%rax), %zmm1, %zmm2\n\tvmovups\t%zmm2, 64(%rsp)\n\tjne\t.LBB0_1\n"
    lines = text.replace("\tvm", 2 * "\tvfmadd231ps\t%zmm1, %zmm1, %zmm3 # zmm3\n" + "\tvm").splitlines()
    assert len(product_loops("\n".join(lines))[0].spills) == 1
    add = "\tfmla\tv0.4s, v1.4s, v2.s[0]\n"
    text = f".LBB0_1:\n{add}{add}\tldr\tq2, [x2, #16]\n\tstr\tq0, [x1]\n{add}\tb.ne\t.LBB0_1 // again\n"
    assert product_loops(text)[0].spills == ("\tstr\tq0, [x1]",)
