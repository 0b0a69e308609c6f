"""Chips with made-up figures, where a test needs every term to count."""

from chipfit.targets.cost import CostModel
from chipfit.targets.cpu import CpuModel
from chipfit.targets.profile import Figure
from chipfit.targets.reading import read_folder
from chipfit.targets.registry import FOLDERS, get_target


def calibrated_arm() -> CostModel:
    """The Cortex-A76 with made-up coefficients, so that every term of the CPU model counts."""
    profile = get_target("cortex-a76").profile
    rules = read_folder(FOLDERS)[0]["cpu"].rules
    made_up = {
        name: Figure(1.0, rule.unit, "test", "measured") for name, rule in rules.items() if name not in profile.figures
    }
    return CostModel(
        CpuModel(profile.with_figures({**made_up, "interval_factor": Figure(1.2, "ratio", "test", "measured")}))
    )
