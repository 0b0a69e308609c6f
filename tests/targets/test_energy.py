"""Energy by a published table: what it is made of, how it scales, and that it ranks as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lone_kernels import Asked, matmul, relu

from chipfit.frontend.importer import import_model
from chipfit.ir.configuration import Configuration
from chipfit.targets.cost import CostModel
from chipfit.targets.energy import BYTE, CACHE, MEMORY, NEAR, PROCESSES, EnergyTable, process_factor
from chipfit.targets.profile import Figure, Profile
from chipfit.targets.registry import get_target
from chipfit.targets.roofline import Roofline

BARE = Profile("bare", "toy", "a chip", {"memory_energy": Figure(100.0, "pJ/B", "test", "unverified")})
ONLY_MEMORY = {MEMORY: 10.0}


def at(process: float) -> EnergyTable:
    return EnergyTable(BARE.with_figures({"process_node": Figure(process, "nm", "test", "unverified")}))


def energy(chip: str, asked: Asked) -> float:
    costs = get_target(chip).cost_model
    assert costs.energy is not None
    return costs.energy.kernel_mj(*asked, costs.model.traffic(*asked))


def test_the_tables_own_process_needs_no_scaling() -> None:
    assert process_factor(45) == 1
    assert process_factor(65) == 1


def test_finer_processes_take_less_and_those_below_the_finest_no_less() -> None:
    factors = [process_factor(process) for process in sorted(PROCESSES)]
    assert factors == sorted(factors)
    assert process_factor(7) == pytest.approx(0.0935, rel=0.01)
    assert process_factor(4) == process_factor(7)
    assert process_factor(12) == process_factor(14), "between two that were fitted the coarser counts"


def test_operations_and_bytes_add_up() -> None:
    kernel, work = matmul(10, 20, 30)
    table = EnergyTable(BARE)
    moved = {MEMORY: 10.0, CACHE: 20.0, NEAR: 30.0}
    picojoules = work.flops * (3.7 + 0.9) / 2 + 10 * 100 + 20 * BYTE[CACHE] + 30 * BYTE[NEAR]
    assert table.kernel_mj(kernel, work, moved) == pytest.approx(1e-9 * picojoules)
    assert not table.scaled


def test_memory_is_not_scaled_with_the_chips_process() -> None:
    kernel, work = relu(8)
    idle = replace(work, flops=0)
    assert at(7).kernel_mj(kernel, idle, ONLY_MEMORY) == at(45).kernel_mj(kernel, idle, ONLY_MEMORY)
    assert at(7).kernel_mj(kernel, work, ONLY_MEMORY) < at(45).kernel_mj(kernel, work, ONLY_MEMORY)


def test_fewer_bits_take_less() -> None:
    table = EnergyTable(BARE)
    found = [table.kernel_mj(*matmul(8, 8, 8, dtype), {}) for dtype in (torch.int8, torch.bfloat16, torch.float32)]
    assert found == sorted(found)
    assert found[0] < found[2] / 10


@pytest.mark.parametrize("chip", ["cortex-a76", "h100-sxm", "ascend-910b3"])
def test_one_row_is_dominated_by_memory_and_many_are_not(chip: str) -> None:
    costs = get_target(chip).cost_model
    assert costs.energy is not None
    byte = costs.energy.profile.figures["memory_energy"].value

    def part(asked: Asked) -> float:
        return 1e-9 * byte * costs.model.traffic(*asked)[MEMORY] / energy(chip, asked)

    assert part(matmul(1, 4096, 4096)) > 0.7
    assert part(matmul(4096, 4096, 4096)) < 0.5


def test_a_graphs_energy_is_the_sum_of_its_kernels_and_falls_with_its_widths() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
    graph, costs = import_model(model, (torch.randn(1, 64),)), get_target("cortex-a76").cost_model
    whole = costs.cost(graph)
    assert whole.energy_mj == pytest.approx(sum(layer.energy_mj or 0 for layer in whole.layers))
    half = costs.cost(graph, Configuration({"0.weight:0": tuple(range(128))}))
    assert whole.energy_mj
    assert half.energy_mj
    assert 0.4 * whole.energy_mj < half.energy_mj < 0.6 * whole.energy_mj


def test_without_a_figure_there_is_no_energy() -> None:
    figures = {"fp32_peak": Figure(1.0, "TFLOP/s", "test", "unverified")}
    bare = Profile("bare", "toy", "a chip", {**figures, "memory_bandwidth": Figure(1.0, "GB/s", "test", "unverified")})
    graph = import_model(torch.nn.Linear(8, 8), (torch.randn(1, 8),))
    assert EnergyTable.of(bare) is None
    assert CostModel(Roofline(bare), EnergyTable.of(bare)).cost(graph).energy_mj is None
