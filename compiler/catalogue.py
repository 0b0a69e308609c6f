"""The commands of `chipfit targets` and `chipfit passes`: what is known, and how far it can be trusted."""

from __future__ import annotations

from pathlib import Path

import click

from chipfit import display
from chipfit.options import HOST, json_option, print_json


@click.group()
def targets() -> None:
    """The chips that are known."""


@targets.command("list")
@json_option
def list_targets(as_json: bool) -> None:
    """List every chip, its family, and whether its costs are calibrated."""
    from chipfit.calibration.kept import recalled
    from chipfit.targets.registry import all_targets

    found = [recalled(target) for target in all_targets()]
    if as_json:
        print_json([{"name": target.name, "family": target.family, "status": target.status} for target in found])
    else:
        display.targets(found)


@targets.command("show")
@click.argument("name")
@json_option
def show_target(name: str, as_json: bool) -> None:
    """Show every figure of a chip, with its unit, source and status."""
    from chipfit.calibration.kept import recalled
    from chipfit.targets.registry import get_target

    profile = recalled(get_target(name)).profile
    if as_json:
        print_json(display.profile_json(profile))
    else:
        display.profile(profile)


@targets.command("validate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def validate_target(file: Path, as_json: bool) -> None:
    """Check the TOML FILE of a chip or a family."""
    from chipfit.targets.reading import is_family, read_family
    from chipfit.targets.registry import Target, read_target
    from chipfit.targets.toml_file import read_toml

    found = read_family(file) if is_family(read_toml(file)) else read_target(file)
    kind = f"{found.family} chip" if isinstance(found, Target) else "family"
    if as_json:
        print_json({"file": str(file), "name": found.name, "ok": True})
    else:
        click.echo(f"{file} is a valid {kind}, {found.name}.")


@targets.command("calibrate")
@click.argument("name", default=HOST)
@click.option("--rpc", metavar="HOST:PORT", help="Where TVM's RPC server listens on a board with this chip.")
@json_option
def calibrate_target(name: str, rpc: str | None, as_json: bool) -> None:
    """Time kernels on the chip NAME, fit its cost model to them, and show its error where it was not fitted.

    NAME is this machine if not told; else the chip of a board, or of this machine's GPU.
    """
    from chipfit.calibration.at_hand import calibrate
    from chipfit.progress import shown
    from chipfit.targets.registry import get_target

    with shown() as progress:
        found = calibrate(get_target(name), rpc, progress)
    if as_json:
        print_json(display.calibration_json(found))
    else:
        display.calibration(found)


@click.group()
def passes() -> None:
    """What may rewrite a model."""


@passes.command("list")
@json_option
def list_passes(as_json: bool) -> None:
    """List every pass with its options."""
    from chipfit.passes.registry import available_passes

    rows = [display.pass_json(cls) for cls in available_passes().values()]
    if as_json:
        print_json(rows)
    else:
        display.table("Passes", [{**row, "options": ", ".join(row["options"])} for row in rows])


@passes.command("show")
@click.argument("name")
@json_option
def show_pass(name: str, as_json: bool) -> None:
    """Show what a pass does and the defaults of its options."""
    from chipfit.passes.pipeline import parse

    cls = type(parse(name).passes[0])
    if as_json:
        print_json(display.pass_json(cls))
    else:
        display.pass_(cls)
