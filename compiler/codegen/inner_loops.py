"""The innermost loop that LLVM makes of a kernel, and what llvm-mca says of it: for checks and for research.

llvm-mca schedules a loop's instructions on LLVM's model of a core, with every load a hit in the first-level cache: its
cycles are good for ranking, never as a time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import tvm

from chipfit.codegen.build import builder
from chipfit.codegen.program import Generated
from chipfit.errors import UserError
from chipfit.ir.images import Shape

MCA = "llvm-mca"
ITERATIONS = 200
PRODUCT = 0.45  # of a loop's instructions that multiply and add, at least, where it is a product's
COMMENT = re.compile(r"\s*(#\s|//).*")  # of x86-64, whose immediates have no #, and of AArch64
MULTIPLY_ADD = re.compile(r"\s(vfmadd|fmla|fmadd)")
BRANCH = re.compile(r"\s+(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s.*?(\.L\w+)\s*$")
STACK = re.compile(r"%rsp|\[sp\b")
STORE = re.compile(r"\s+(v?mov\w*\s+[%$][^(]*,\s*[^,]*\(|st\w+\s)")  # AT&T's order: what is written comes last


@dataclass(frozen=True)
class Loop:
    """The instructions of one turn, the branch included."""

    lines: tuple[str, ...]

    @property
    def multiply_adds(self) -> int:
        return len(self.arithmetic.lines)

    @property
    def arithmetic(self) -> Loop:
        """The multiply-adds alone: what the loop takes at least."""
        return Loop(tuple(line for line in self.lines if MULTIPLY_ADD.search(line)))

    @property
    def spills(self) -> tuple[str, ...]:
        """Instructions that touch the stack or write to memory, as a product's reduction has no reason to."""
        return tuple(line for line in self.lines if STACK.search(line) or STORE.match(line))


def assembly(kernel: Generated, shapes: tuple[Shape, ...] | None, target: Any) -> str:
    """A kernel's assembly for TVM's `target`."""
    function = builder(kernel)(kernel.spec, kernel.tile, "kernel", shapes)
    return str(tvm.compile(tvm.IRModule({"kernel": function}), target=target).mod.inspect_source("asm"))


def product_loops(text: str) -> tuple[Loop, ...]:
    """The loops without branches inside that do little but multiply and add, those that do it most first."""
    lines = [COMMENT.sub("", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line and not re.match(r"\s+\.", line)]
    label, start, found = "", 0, list[Loop]()
    for index, line in enumerate(lines):
        if line.endswith(":"):
            label, start = line[:-1], index
        elif branch := BRANCH.match(line):
            if branch[1] == label:
                found.append(Loop(tuple(lines[start + 1 : index + 1])))
            label = ""  # what follows a branch is no turn of the same loop without one
    products = (loop for loop in found if loop.multiply_adds >= PRODUCT * len(loop.lines))
    return tuple(sorted(products, key=lambda loop: -loop.multiply_adds))


def mca_cycles(loop: Loop, triple: str, processor: str) -> float:
    """Cycles of one turn, by LLVM's model of the processor. Raises UserError where llvm-mca isn't installed."""
    if not shutil.which(MCA):
        raise UserError("llvm-mca is not installed: install LLVM's tools, as the package llvm.")
    command = [MCA, f"-mtriple={triple}", f"-mcpu={processor}", f"-iterations={ITERATIONS}"]
    text = "\n".join(line for line in loop.lines if not BRANCH.match(line))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not cycles:
        raise UserError(f"llvm-mca says nothing of {processor}: {done.stderr.strip()[:200]}")
    return int(cycles[1]) / ITERATIONS
