"""Discovery of passes: our own, an installed plug-in, and two owners of one name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chipfit.errors import UserError
from chipfit.passes.pipeline import parse
from chipfit.passes.registry import KEBAB_CASE, available_passes

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from chipfit.passes.base import Pass, PassResult

@dataclass(frozen=True)
class Toy(Pass):
    name: ClassVar[str] = "{name}"
    summary: ClassVar[str] = "does nothing"
    times: int = 1

    def run(self, graph, context):
        return PassResult(graph, False)
"""


def install(folder: Path, distribution: str, name: str, target: str = "Toy") -> None:
    """What an installer leaves of a distribution with one module and one entry point."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(PLUGIN.format(name=name))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[chipfit.passes]\n{name or 'x'} = {module}:{target}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_our_passes_are_found_and_well_named() -> None:
    found = available_passes()
    assert {"compensate", "drop-blocks", "fold-batch-norm", "prune-axes"} <= set(found)
    assert all(KEBAB_CASE.fullmatch(name) and cls.name == name and cls.summary for name, cls in found.items())
    for cls in found.values():
        cls()  # every option has a default


def test_plug_in_is_found_and_parsed(site: Path) -> None:
    install(site, "chipfit-toy", "toy-pass")
    (toy,) = parse("toy-pass{times=2}").passes
    assert (type(toy).__module__, str(parse("toy-pass{times=2}"))) == ("chipfit_toy", "toy-pass{times=2}")


@pytest.mark.parametrize(
    ("distributions", "name", "target", "message"),
    [
        (["one-toy", "two-toy"], "toy", "Toy", "Two passes are named toy, by {} and by {}; uninstall or rename one."),
        (["one-toy"], "compensate", "Toy",
         "Two passes are named compensate, by chipfit.passes.compensate and by one-toy; uninstall or rename one."),
        (["one-toy"], "toy", "Missing",
         "The plug-in one_toy:Missing of one-toy can't be loaded: "
         "module 'one_toy' has no attribute 'Missing'; uninstall it."),
        (["one-toy"], "toy", "PassResult",
         "The plug-in one_toy:PassResult of one-toy is no subclass of chipfit's Pass; uninstall it."),
        (["one-toy"], "Toy_Pass", "Toy", "The pass one_toy:Toy of one-toy has no kebab-case name; uninstall it."),
    ],
)  # fmt: skip
def test_bad_plug_ins_are_named(site: Path, distributions: list[str], name: str, target: str, message: str) -> None:
    for distribution in distributions:
        install(site, distribution, name, target)
    with pytest.raises(UserError) as error:
        available_passes()
    orders = (distributions, distributions[::-1])
    assert str(error.value) in [message.format(*order) for order in orders]
