"""The chips that chipfit ships: complete, sourced, and true to what their figures say of each other."""

import pytest

from chipfit.targets.profile import STATUSES
from chipfit.targets.reading import check_complete, read_folder
from chipfit.targets.registry import FOLDERS, get_target, target_names

FAMILIES, PROFILES = read_folder(FOLDERS)
CHIPS = sorted(set(PROFILES) - {"host"})
NAMED = """sapphire-rapids cortex-a53 cortex-a76 cortex-a78 cortex-x4 neoverse-n1 neoverse-v2 raspberry-pi-5
snapdragon-8-gen-3 kirin-9000s h100-sxm h100-pcie h200 a100 jetson-orin mi300x ascend-310b ascend-310p3 ascend-910a
ascend-910b1 ascend-910b2 ascend-910b3 ascend-910b4 ascend-910c ascend-950pr br100"""


def test_every_chip_that_was_asked_for_is_there() -> None:
    assert set(NAMED.split()) | {"host"} <= set(PROFILES)
    assert target_names(FOLDERS)[0] == "host"


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_is_complete_and_sourced(name: str) -> None:
    profile = PROFILES[name]
    check_complete(profile, FAMILIES[profile.family])
    assert all(figure.source and figure.status in STATUSES for figure in profile.figures.values())
    assert profile.path is not None
    assert profile.path.stem == name


def test_chips_that_nobody_timed_are_uncalibrated() -> None:
    assert all(get_target(name).status == "uncalibrated" for name in CHIPS)


@pytest.mark.parametrize("name", [name for name in CHIPS if PROFILES[name].family == "cpu"])
def test_a_cpus_figures_agree(name: str) -> None:
    """The peak is that of all cores; halves of a register's lanes double what starts in a cycle."""
    chip = PROFILES[name]
    product = chip.si("cores") * chip.si("clock") * chip.si("flop_per_cycle")
    assert chip.si("fp32_peak") == pytest.approx(product, rel=0.01)
    assert chip.si("l1_size") < chip.si("l2_size")
    if "fp16_flop_per_cycle" in chip.figures:
        assert chip.si("fp16_flop_per_cycle") == 2 * chip.si("flop_per_cycle")
        assert chip.si("int8_mac_per_cycle") == 2 * chip.si("flop_per_cycle")
    assert chip.triple.endswith("-linux-gnu")
    assert chip.arch


@pytest.mark.parametrize("name", [name for name in CHIPS if PROFILES[name].family == "gpu"])
def test_a_gpus_figures_agree(name: str) -> None:
    chip = PROFILES[name]
    assert chip.si("fp32_peak") < chip.si("fp16_peak") < chip.si("int8_peak")
    assert chip.si("int8_peak") == pytest.approx(2 * chip.si("fp16_peak"), rel=0.01)


@pytest.mark.parametrize("name", [name for name in CHIPS if PROFILES[name].family == "npu"])
def test_an_npus_peak_is_that_of_its_cubes(name: str) -> None:
    """The Ascend 910A's and 310B4's data sheets round down to a power of two."""
    chip = PROFILES[name]
    assert chip.si("fp16_peak") == pytest.approx(chip.si("cube_cores") * chip.si("clock") * 2 * 16**3, rel=0.03)
    assert chip.si("l0a_size") <= chip.si("l1_size")


def test_a_board_is_its_core_and_what_it_adds() -> None:
    core, board = PROFILES["cortex-a76"], PROFILES["raspberry-pi-5"]
    own = {"l3_size", "process_node"}
    assert {name: figure for name, figure in board.figures.items() if name not in own} == core.figures
    assert (board.triple, board.arch, board.family) == (core.triple, core.arch, core.family)
    assert get_target("raspberry-pi-5").cpu == get_target("cortex-a76").cpu


def test_the_core_that_code_is_checked_on_is_as_it_was() -> None:
    """What kernels for the Cortex-A76 are tiled by."""
    cpu = get_target("cortex-a76").cpu
    assert (cpu.vector_bits, cpu.registers, cpu.threads, cpu.bf16_macs) == (128, 32, 4, 0)
    assert (cpu.l1_bytes, cpu.l2_bytes) == (64 * 2**10, 512 * 2**10)


@pytest.mark.parametrize("name", [name for name in CHIPS if PROFILES[name].triple])
def test_llvm_knows_the_processor(name: str) -> None:
    from tvm.target import Target, codegen

    triple, arch = PROFILES[name].triple, PROFILES[name].arch
    known = codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple, "mcpu": arch}))
    assert arch in {str(one) for one in known}
