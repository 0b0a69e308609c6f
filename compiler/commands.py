"""The commands of `chipfit`. Each imports what it needs as it runs: help is instant and `run` needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chipfit import display
from chipfit.catalogue import passes, targets
from chipfit.errors import UserError
from chipfit.options import (
    FOLDER,
    HOST,
    data_option,
    json_option,
    passes_option,
    print_json,
    target_option,
    tune_option,
)

ALL = "all"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chipfit")
def chipfit() -> None:
    """Compress a PyTorch model until it fits a chip and a budget, and compile it."""


chipfit.add_command(targets)
chipfit.add_command(passes)


@chipfit.command("compile")
@click.argument("source")
@target_option
@click.option("--budget", "budgets", multiple=True, metavar="LIMIT", help="As latency=50% or memory=64MB; repeatable.")
@click.option("--keep", metavar="SHARE", help="The least part of the quality to keep, as 94%.")
@data_option
@passes_option
@click.option(
    "--strategy",
    metavar="NAME",
    help="What chooses: knapsack if not told, a published method, or your own, as FILE.py:CLASS.",
)
@click.option("--refine", default=32, show_default=True, metavar="N", help="Choices to measure whole, for the solver.")
@click.option("--out", type=FOLDER, default=Path("build/artifact"), show_default=True, help="The artifact's folder.")
@click.option("--fresh", is_flag=True, help="Use no stage of an earlier run.")
@click.option("--seed", default=0, show_default=True, help="What is drawn at random follows from it.")
@tune_option
@json_option
def compile_(
    source: str, budgets: tuple[str, ...], as_json: bool, passes: str | None, strategy: str | None, **options: Any
) -> None:
    """Compress SOURCE to its budgets on a chip, compile it, and write an artifact.

    SOURCE is FILE.py:FUNCTION (returns a model and example inputs), hf:DIR, gguf:FILE, pt2:FILE or a built-in's name.
    """
    from chipfit.api import DEFAULT_PASSES, DEFAULT_STRATEGY, compile_source
    from chipfit.progress import shown

    options |= {"passes": passes or DEFAULT_PASSES, "strategy": strategy or DEFAULT_STRATEGY}
    with shown() as progress:
        artifact = compile_source(source, budget=budgets, progress=progress, **options)
    if as_json:
        print_json(artifact.manifest)
    else:
        display.outcome(artifact.manifest)
        click.echo(f"The artifact is in {artifact.folder}; try `chipfit run` or `chipfit report {artifact.folder}`.")


@chipfit.command()
@click.argument("source")
@click.option("--target", "targets", multiple=True, default=(HOST,), show_default=True, help="A chip; repeatable.")
@data_option
@passes_option
@click.option("--out", type=FOLDER, default=Path("build/search"), show_default=True, help="The folder for the picture.")
@click.option("--fresh", is_flag=True, help="Use no stage of an earlier run.")
@json_option
def search(source: str, as_json: bool, passes: str | None, **options: Any) -> None:
    """Show what SOURCE can have on each chip at which quality, and what one chip's choice costs on another.

    Nothing is trained or compiled. `compile` into the same --out uses what was measured here.
    """
    from chipfit.api import DEFAULT_PASSES, search_source
    from chipfit.progress import shown

    with shown() as progress:
        found = search_source(source, passes=passes or DEFAULT_PASSES, progress=progress, **options)
    if as_json:
        print_json(found.to_json())
    else:
        display.fronts(found)
        click.echo(f"The fronts are drawn in {options['out']}.")


@chipfit.command()
@click.argument("source")
@click.option("--target", default=HOST, show_default=True, help=f"A chip of `chipfit targets list`, or {ALL} of them.")
@json_option
def explain(source: str, target: str, as_json: bool) -> None:
    """Show SOURCE's axes, blocks and where the time goes on a chip, or its cost on all chips, from its shapes alone."""
    from chipfit import explain as explained

    if target == ALL:
        compared = explained.compare(source)
        print_json(compared.to_json()) if as_json else display.comparison(compared)
        return
    found = explained.explain(source, target)
    if as_json:
        print_json(found.to_json())
    else:
        display.explanation(found)


@chipfit.command()
@click.argument("artifact", type=FOLDER)
@click.option("--input", "file", type=FOLDER, metavar="FILE.npz", help="Arrays by input name; zeros if none is given.")
@click.option("--output", type=FOLDER, metavar="FILE.npz", help="Where to write the outputs.")
@json_option
def run(artifact: Path, file: Path | None, output: Path | None, as_json: bool) -> None:
    """Run an ARTIFACT with TVM's runtime alone."""
    from chipfit.run import run_artifact

    result = run_artifact(artifact, file, output)
    if as_json:
        print_json(result)
    else:
        display.run(result)


@chipfit.command()
@click.argument("model", metavar="ARTIFACT|SOURCE")
@click.option("--against", default="torch", show_default=True, metavar="NAMES", help="Of onnxruntime,openvino,torch.")
@click.option("--uncompressed", is_flag=True, help="Time what ARTIFACT was made from too: does its record hold?")
@click.option("--threads", type=click.IntRange(1), help="For all alike; one for each core if not told.")
@tune_option
@json_option
def bench(model: str, against: str, tune: bool, trials: int, as_json: bool, **options: Any) -> None:
    """Time an ARTIFACT, or SOURCE compiled as it is, beside other runtimes in one interleaved run."""
    from chipfit.bench import bench_model
    from chipfit.progress import shown
    from chipfit.tune import Tuning

    with shown() as progress:
        names, tuning = [name for name in against.split(",") if name], Tuning(tune, trials)
        result = bench_model(model, names, progress, tuning=tuning, **options)
    if as_json:
        print_json(result)
    else:
        display.bench(result)


@chipfit.command()
@click.argument("artifact", type=FOLDER)
@json_option
def verify(artifact: Path, as_json: bool) -> None:
    """Check every file of an ARTIFACT against its manifest."""
    from chipfit.artifact import Artifact

    problems = Artifact.open(artifact).verify()
    if as_json:
        print_json({"artifact": str(artifact), "ok": not problems, "problems": problems})
    if problems:
        raise UserError(f"{artifact} is damaged: {' '.join(problems)}")
    if not as_json:
        click.echo(f"{artifact} is whole: every file is the one recorded.")


@chipfit.command()
@click.argument("artifact", type=FOLDER)
@json_option
def report(artifact: Path, as_json: bool) -> None:
    """Show what an ARTIFACT costs, keeps and was made from."""
    from chipfit.artifact import Artifact

    record = Artifact.open(artifact).manifest
    if as_json:
        print_json(record)
    else:
        display.record(record)
