"""What the commands print for people; `--json` prints the same for scripts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from chipfit import report
from chipfit.report import TextTable

if TYPE_CHECKING:
    from chipfit.decoding import TokenLine
    from chipfit.explain import Comparison, Explanation
    from chipfit.fronts import Comparison as Fronts
    from chipfit.passes.base import Pass
    from chipfit.targets.calibrate import Calibration
    from chipfit.targets.profile import Profile
    from chipfit.targets.registry import Target

SHOWN = 12  # lines of a long list
DIGITS = "+-0123456789"  # how a cell that holds a number begins


def show(table: TextTable) -> None:
    drawn = Table(title=table.title, title_justify="left", title_style="bold")
    for index, column in enumerate(table.columns):
        numbers = all(row[index][:1] in DIGITS for row in table.rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    Console(highlight=False).print(drawn, markup=False)


def say(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = tuple(rows[0]) if rows else ()
    show(TextTable(title, columns, tuple(tuple(str(row[column]) for column in columns) for row in rows)))


def outcome(manifest: Mapping[str, Any]) -> None:
    """What a user waits for; `record` has the rest."""
    say(report.headline(manifest))
    show(report.cost_table(manifest))
    show(report.quality_table(manifest))
    say(report.verdict(manifest))


def record(manifest: Mapping[str, Any]) -> None:
    say(report.headline(manifest))
    for one in report.tables(manifest):
        show(one)
    say(report.chosen(manifest))
    say(report.origin(manifest))
    say(report.verdict(manifest))


def explanation(found: Explanation) -> None:
    from chipfit.targets.energy import STATUS as ENERGY_STATUS

    cost = found.cost
    say(
        f"{found.source} on {found.target}: {found.parameters / 1e6:.1f} M parameters, {found.flops / 1e9:.2f} GFLOP, "
        f"{found.nodes} nodes; {report.milliseconds(cost.latency_ms)} ({cost.status}), "
        f"{report.megabytes(cost.weight_bytes)} of weights, {report.megabytes(cost.peak_memory_bytes)} at its peak, "
        f"{report.millijoules(cost.energy_mj)} ({ENERGY_STATUS})."
    )
    if found.tokens:
        say(f"{_length(found.tokens)} {found.tokens.tokens_per_second:.3g} tokens a second.")
    axes = [(axis.name, axis.kind, str(axis.size), str(axis.step), str(len(axis.members))) for axis in found.axes]
    show(_cut("Axes that can be pruned", ("axis", "kind", "size", "step", "dimensions"), axes))
    blocks = [(block.name, block.kind, f"{block.parameters:,}") for block in found.blocks]
    show(_cut("Blocks that can be dropped", ("block", "kind", "parameters"), blocks))
    frozen = [(line.dimension, line.reason) for line in found.frozen]
    show(_cut("Frozen", ("dimension", "reason"), frozen))
    layers = [
        (line.name, report.milliseconds(line.latency_ms), f"{line.share:.1%}", line.limit) for line in found.layers
    ]
    show(_cut("Where the time goes", ("module", "latency", "share", "limit"), layers))
    if found.opaque:
        say(f"Opaque ops, run and costed as they are: {', '.join(found.opaque)}.")


def comparison(found: Comparison) -> None:
    from chipfit.chips import chips_json

    weights = report.megabytes(found.chips[0].cost.weight_bytes)
    say(f"{found.source}: {found.parameters / 1e6:.1f} M parameters, {weights}, {found.flops / 1e9:.2f} GFLOP.")
    if found.chips[0].tokens:
        say(_length(found.chips[0].tokens))
    for one in report.chip_tables(chips_json(found.chips, SHOWN)):
        show(one)


def _length(tokens: TokenLine) -> str:
    if tokens.step == "prefill":
        return f"It reads {tokens.context} tokens at once."
    held = report.megabytes(tokens.cache_bytes)
    return f"It makes one token with {tokens.context} positions in its cache, {held} of keys and values."


def fronts(found: Fronts) -> None:
    for name, front in found.fronts.items():
        rows = tuple(
            (
                report.milliseconds(point.latency_ms),
                f"{point.latency_ms / front.whole_ms:.0%}",
                f"{point.quality_loss:.3g}",
                report.megabytes(point.weight_bytes),
                str(len(point.configuration.widths)),
                str(len(point.configuration.dropped)),
                str(len(point.configuration.rounded or ())),
            )
            for point in front.points
        )
        title = f"{found.source} on {name} ({front.status}), {front.seconds:.1f} s"
        columns = ("latency", "part", "loss", "weights", "axes cut", "blocks dropped", "weights rounded")
        show(TextTable(title, columns, rows))
    if len(found.fronts) > 1:
        show(regrets(found))


def regrets(found: Fronts) -> TextTable:
    """Rows choose, columns run."""
    rows = tuple((name, *(f"{row[other]:.2f}" for other in found.fronts)) for name, row in found.regret.items())
    on = tuple(f"on {name} ({front.status})" for name, front in found.fronts.items())
    return TextTable("Latency of one chip's choice over that of the own, at one loss", ("chosen for", *on), rows)


def _cut(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> TextTable:
    left_out = len(rows) - SHOWN
    title = f"{title} ({len(rows)}{f', the first {SHOWN}' if left_out > 0 else ''})"
    return TextTable(title, columns, tuple(rows[:SHOWN]))


def run(result: Mapping[str, Any]) -> None:
    say(f"{result['artifact']}: {result['latency_ms']:.3g} ms on {result['threads']} threads.")
    rounded = [{key: f"{row[key]:.4g}" for key in ("min", "max", "mean")} for row in result["outputs"]]
    table("Outputs", [{**row, **figures} for row, figures in zip(result["outputs"], rounded, strict=True)])


def bench(result: Mapping[str, Any]) -> None:
    title = f"{result['source']}, {result['threads']} threads, {result['dtype']}"
    show(report.timing_table(title, result["rows"]))
    if "certificate" in result:
        names = ("latency_ratio", "relative_error", "recorded_latency_ratio")
        now, error, recorded = (result["certificate"][name] for name in names)
        spread = f"standard error {now * error:.1%}"
        say(f"It takes {now:.1%} of the uncompressed model's latency ({spread}); its record says {recorded:.1%}.")


def targets(found: Sequence[Target]) -> None:
    """Every chip with what it is. Whether its costs are calibrated is said below the table, since few are."""
    rows = [(target.name, target.family, target.profile.summary) for target in found]
    show(TextTable(f"Targets ({len(rows)})", ("name", "family", "what it is"), tuple(rows)))
    calibrated = ", ".join(target.name for target in found if target.status == "calibrated") or "none"
    say(f"Calibrated: {calibrated}. The costs of a chip that isn't are uncalibrated: estimates from its figures.")


def profile_json(chip: Profile) -> dict[str, Any]:
    figures = {name: {key: getattr(f, key) for key in ("value", "unit", "source", "status")} for name, f in _all(chip)}
    header = {key: getattr(chip, key) for key in ("name", "family", "summary", "triple", "arch")}
    return {**header, "figures": figures}


def profile(chip: Profile) -> None:
    say(f"{chip.name} ({chip.family}): {chip.summary}")
    if chip.triple:
        say(f"LLVM compiles for it as {chip.triple}, {chip.arch}.")
    rows = tuple((name, f"{f.value:g}", f.unit, f.status, f.source) for name, f in _all(chip))
    show(TextTable("Figures", ("figure", "value", "unit", "status", "source"), rows))


def _all(chip: Profile) -> list[tuple[str, Any]]:
    return sorted(chip.figures.items())


def calibration_json(found: Calibration) -> dict[str, Any]:
    from chipfit.calibration.host import UNDISTURBED

    rows = [dict(zip(("name", "held_out", "predicted_ms", "measured_ms"), row, strict=True)) for row in found.rows]
    figures = {"median_error": found.median_error, "p95_error": found.p95_error}
    told = {UNDISTURBED: found.figures[UNDISTURBED].value} if UNDISTURBED in found.figures else {}
    return {**figures, **told, "samples": rows}


def calibration(found: Calibration) -> None:
    from chipfit.calibration.host import ENOUGH, UNDISTURBED

    held_out = tuple(
        (name, report.milliseconds(predicted), report.milliseconds(measured), f"{predicted / measured - 1:+.1%}")
        for name, left_out, predicted, measured in found.rows
        if left_out
    )
    show(TextTable("What took no part in the fit", ("what", "predicted", "measured", "error"), held_out))
    say(f"Their median error is {found.median_error:.1%}, the 95th percentile {found.p95_error:.1%}.")
    if UNDISTURBED not in found.figures:
        return
    share = found.figures[UNDISTURBED].value
    say(f"{share:.0%} of all graphs ran undisturbed at some time.")
    if share < ENOUGH:
        say("That is too few: all times may be up to half too long. Calibrate again when nothing else runs.")


def pass_json(cls: type[Pass]) -> dict[str, Any]:
    options = {field.name: None if field.default is MISSING else field.default for field in fields(cls)}
    return {"name": cls.name, "summary": cls.summary, "options": options}


def pass_(cls: type[Pass]) -> None:
    say(f"{cls.name}: {cls.summary}\n\n{inspect.getdoc(cls)}\n")
    table("Options", [{"option": name, "default": value} for name, value in pass_json(cls)["options"].items()])
