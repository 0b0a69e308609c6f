"""The host's profile is complete, within the bounds of the possible, and never calibrated by detection alone."""

import os
from dataclasses import replace

import pytest
import tvm

from chipfit.codegen.amx import build_amx_matmul
from chipfit.codegen.library import tvm_target
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.targets.detect import has_int8, identity, usable_cores
from chipfit.targets.reading import read_folder
from chipfit.targets.registry import FOLDERS, get_target
from chipfit.targets.tile import Tile


def test_the_host_is_detected_within_bounds() -> None:
    target = get_target("host")
    rules = read_folder(FOLDERS)[0]["cpu"].rules
    for name, figure in target.profile.figures.items():
        assert rules[name].least <= figure.value <= rules[name].most
        assert figure.unit == rules[name].unit
    assert target.profile.arch
    assert target.profile.triple
    assert target.cpu.vector_bits in (128, 256, 512)
    assert target.cpu.l1_bytes < target.cpu.l2_bytes


def test_llvm_is_told_of_units_that_its_name_of_the_processor_may_not_have() -> None:
    """A virtual machine may call a processor with AMX by the number of one without, whose instructions LLVM refuses."""
    target = get_target("host")
    assert has_int8() == ({"amx-int8", "avx512vnni"} <= set(target.profile.features))
    if has_int8():
        masked = replace(target, profile=replace(target.profile, arch="rocketlake"))
        spec, tile = MatmulSpec(1, 16, 32, 64, stored="int8", rounded=True), Tile(16, 32, 32, "columns", 1, unit="amx")
        module = tvm.IRModule({"main": build_amx_matmul(spec, tile, "main")})
        assert "tdpbusd" in tvm.compile(module, target=tvm_target(masked)).mod.inspect_source("asm")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_cores_follow_affinity() -> None:
    allowed, before = os.sched_getaffinity(0), identity()
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
        assert (identity() == before) == (len(allowed) == 1)
    finally:
        os.sched_setaffinity(0, allowed)
