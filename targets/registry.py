"""Targets by name or by file: every chip that has a file, and the machine that this runs on."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from chipfit.errors import UserError
from chipfit.targets.amounts import Cpu, shape_of
from chipfit.targets.cost import CostModel
from chipfit.targets.detect import detect_host
from chipfit.targets.energy import EnergyTable
from chipfit.targets.folders import SHIPPED, all_folders
from chipfit.targets.kernel_model import KernelModel
from chipfit.targets.profile import Family, Profile
from chipfit.targets.reading import check_complete, read_folder, read_profile
from chipfit.targets.roofline import Roofline

FOLDERS = (SHIPPED,)
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


def target_names(folders: Sequence[Path] | None = None) -> tuple[str, ...]:
    """Every chip that has a file in these folders, or in any that is known; the host first, then by family and name."""
    return _ordered(_described(folders)[1])


def all_targets(folders: Sequence[Path] | None = None) -> Iterator[Target]:
    """The chips of `target_names`, from one reading of the files."""
    families, profiles = _described(folders)
    for name in _ordered(profiles):
        yield _target(profiles[name], families)


def get_target(name: str, folders: Sequence[Path] | None = None) -> Target:
    """The chip of that name, or the one in a TOML file; UserError with the closest names if there is none.

    `host` is detected, uncalibrated.
    """
    if name.endswith(".toml") or os.sep in name:
        return read_target(Path(name), folders)
    families, profiles = _described(folders)
    if name not in profiles:
        named = name.lower()
        begun = sorted(one for one in profiles if one.startswith(named))  # h100: one of several that are built
        close = begun or difflib.get_close_matches(named, profiles, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ": `chipfit targets list` has all."
        raise UserError(f"Target {name!r} is unknown{hint}")
    return _target(profiles[name], families)


def read_target(path: Path, folders: Sequence[Path] | None = None) -> Target:
    """The chip that a file describes, whose base and family are known; UserError if the file is wrong."""
    families, profiles = _described(folders)
    return _target(read_profile(path, families, profiles), families)


def _described(folders: Sequence[Path] | None) -> tuple[Mapping[str, Family], Mapping[str, Profile]]:
    return read_folder(all_folders() if folders is None else folders)


def _ordered(profiles: Mapping[str, Profile]) -> tuple[str, ...]:
    return tuple(sorted(profiles, key=lambda name: (name != HOST, profiles[name].family, name)))


def _target(profile: Profile, families: Mapping[str, Family]) -> Target:
    if profile.name == HOST:
        profile = detect_host(profile)
    check_complete(profile, families[profile.family])
    return Target(profile.name, profile.family, profile)
