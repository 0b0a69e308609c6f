"""Targets by name: every chip file in this folder, and the machine that this runs on."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from chipfit.errors import UserError
from chipfit.targets.cost import CostModel, KernelModel
from chipfit.targets.cpu import Cpu, shape_of
from chipfit.targets.detect import detect_host
from chipfit.targets.energy import EnergyTable
from chipfit.targets.profile import Profile, check_complete, read_folder
from chipfit.targets.roofline import Roofline

FOLDERS = (Path(__file__).parent,)
HOST = "host"


@dataclass(frozen=True)
class Target:
    """A chip to compile for, and what work costs on it."""

    name: str
    family: str
    profile: Profile

    @property
    def is_host(self) -> bool:
        """Whether it is the machine that this runs on, which can time what it compiles."""
        return self.name == HOST

    @property
    def status(self) -> str:
        """`calibrated` if its kernel times were measured on the chip itself, else `uncalibrated`."""
        return self.cost_model.status

    @cached_property
    def cost_model(self) -> CostModel:
        return CostModel(kernel_model(self.profile), EnergyTable.of(self.profile))

    @property
    def granularity(self) -> int:
        """What widths are worth being multiples of on this chip."""
        return self.cost_model.model.granularity

    @property
    def cpu(self) -> Cpu:
        """What the tile picker asks about a CPU."""
        return shape_of(self.profile)

    def with_cores(self, count: int) -> Target:
        """The chip with another number of cores to run on."""
        cores = replace(self.profile.figures["cores"], value=count, source="as told", status="derived")
        return self.with_profile(self.profile.with_figures({"cores": cores}))

    def with_profile(self, profile: Profile) -> Target:
        return replace(self, profile=profile)


def kernel_model(profile: Profile) -> KernelModel:
    """`MODEL` of the module here that is named after the chip's family; the plain roofline if there is none."""
    modules = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    module = importlib.import_module(f"chipfit.targets.{profile.family}") if profile.family in modules else None
    model: KernelModel = getattr(module, "MODEL", Roofline)(profile)
    return model


def target_names(folders: Sequence[Path] = FOLDERS) -> tuple[str, ...]:
    """Every chip that has a file, sorted, the host first."""
    return tuple(sorted(read_folder(folders)[1], key=lambda name: (name != HOST, name)))


def get_target(name: str, folders: Sequence[Path] = FOLDERS) -> Target:
    """The chip of that name; UserError with the closest names if there is none. `host` is detected, uncalibrated."""
    families, profiles = read_folder(folders)
    if name not in profiles:
        close = difflib.get_close_matches(name.lower(), profiles, cutoff=0.4) or sorted(profiles)
        raise UserError(f"Target {name!r} is unknown; did you mean {' or '.join(close)}?")
    profile = profiles[name]
    if name == HOST:
        profile = detect_host(profile)
    check_complete(profile, families[profile.family])
    return Target(name, profile.family, profile)
