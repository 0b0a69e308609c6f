"""An artifact's record as people read it: the same tables on the terminal and in `report.md` beside the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT = "report.md"
LEAST_SHARE = 0.05  # of the latency, of a limit that is worth naming
NAMED = 3  # chips of one limit, of more only the number


@dataclass(frozen=True)
class TextTable:
    """A table of finished text; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{body}\n"


def write_report(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `report.md` into the artifact's folder; `record` is the manifest, with or without its list of files."""
    told = [f"# {headline(record)}", verdict(record), chosen(record), origin(record)]
    parts = [*told, *(table.markdown() for table in tables(record))]
    (folder / REPORT).write_text("\n\n".join(part.rstrip() for part in parts) + "\n", encoding="utf-8")


def tables(record: Mapping[str, Any]) -> list[TextTable]:
    found = [cost_table(record), quality_table(record), pass_table(record)]
    found += [attempt_table(record)] if record["certificate"].get("attempts") else []
    stock = [stock_table(record)] if record["stock"] else []
    return [*found, *stock, *chip_tables(record.get("chips"))]


def headline(record: Mapping[str, Any]) -> str:
    limits = " ".join(record["budget"]["limits"])
    return f"{record['source']} for {record['target']['name']} at {limits}"


def verdict(record: Mapping[str, Any]) -> str:
    """One sentence: whether each limit holds, and how that is known."""
    certificate = record["certificate"]
    held = [f"{name} takes {limit['used']:.1%} of it ({limit['by']})" for name, limit in certificate["limits"].items()]
    return f"The budget is {'met' if certificate['met'] else 'NOT met'}: {', '.join(held)}."


def chosen(record: Mapping[str, Any]) -> str:
    """What became of the model, in one sentence."""
    found = record["configuration"]
    kinds = {"widths": "widths narrowed", "dropped": "blocks dropped", "rounded": "weights kept in few bits"}
    counts = [f"{what}: {len(found[kind])}" for kind, what in kinds.items() if found[kind] is not None]
    return f"Of the model: {', '.join(counts)}."


def origin(record: Mapping[str, Any]) -> str:
    """What it was made for and by."""
    target, by = record["target"], record["lineage"]
    return (
        f"Made for {target['processor']} ({target['threads']} threads) on {by['made'].partition('T')[0]} by chipfit "
        f"{by['chipfit']}, TVM {by['tvm']} and torch {by['torch']}."
    )


def cost_table(record: Mapping[str, Any]) -> TextTable:
    columns = {"baseline": record["baseline"], "predicted": record["predicted"], "measured": record["result"]}
    quantities = (
        ("latency", "latency_ms", milliseconds),
        ("peak memory", "peak_memory_bytes", megabytes),
        ("weights", "weight_bytes", megabytes),
        ("energy, uncalibrated", "energy_mj", millijoules),
        ("energy, by the machine's counter", "measured_mj", millijoules),
    )
    known = [row for row in quantities if any(costs.get(row[1]) is not None for costs in columns.values())]
    rows = tuple((label, *(show(costs.get(key)) for costs in columns.values())) for label, key, show in known)
    if record["baseline"]["latency_ms"] is None:
        guess = f"{milliseconds(record['predicted']['baseline_ms'])}, predicted"
        rows = (("latency", guess, rows[0][2], "not run"), *rows[1:])
    return TextTable("Cost", ("", *columns), rows)


def quality_table(record: Mapping[str, Any]) -> TextTable:
    """The teacher, the compressed model before its recovery, and after it, with the part of the teacher's kept."""
    stages = {"teacher": "baseline", "before recovery": "before_recovery", "after recovery": "result"}
    found = {label: record[key]["quality"] for label, key in stages.items()}
    parts = tuple(found["teacher"]["parts"])
    rows = tuple(
        (label, *(f"{score:.4g}" for score in (one["value"], *one["parts"].values())), f"{one['retention']:.1%}")
        for label, one in found.items()
    )
    made_up = ", on made-up inputs" if record["lineage"].get("synthetic_data") else ""
    return TextTable(f"Quality: {found['teacher']['metric']}{made_up}", ("", "score", *parts, "kept"), rows)


def pass_table(record: Mapping[str, Any]) -> TextTable:
    rows = tuple((one["pass"], "yes" if one.get("modified") else "no", _seconds(one)) for one in record["passes"])
    return TextTable("Passes", ("pass", "changed the graph", "seconds"), rows)


def attempt_table(record: Mapping[str, Any]) -> TextTable:
    """What was compiled and measured until a configuration fitted, each beside the uncompressed model."""
    scale, attempts = record["predicted"]["scale"], record["certificate"]["attempts"]
    rows = tuple(
        (
            str(number),
            *(milliseconds(scale * one[name]) for name in ("aimed_ms", "predicted_ms")),
            milliseconds(one["measured_ms"]),
            f"{one['error']:.1%}",
        )
        for number, one in enumerate(attempts, 1)
    )
    return TextTable("Attempts", ("", "aimed at", "predicted", "measured", "standard error"), rows)


def stock_table(record: Mapping[str, Any]) -> TextTable:
    shares = (("not run" if one["share"] is None else f"{one['share']:.1%}") for one in record["stock"])
    rows = tuple((one["function"], share) for one, share in zip(record["stock"], shares, strict=True))
    return TextTable("Left to TVM's own lowering", ("function", "share of the kernels' time"), rows)


def chip_tables(chips: Mapping[str, Any] | None) -> list[TextTable]:
    """The graph on every chip, and what limits its slowest layers there; none in records that were made without."""
    return [chip_table(chips["targets"]), limit_table(chips["layers"])] if chips else []


def chip_table(chips: Sequence[Mapping[str, Any]]) -> TextTable:
    """Latencies say for themselves where nothing was measured; of energies that holds everywhere."""
    columns = ("chip", "latency", "memory", "energy, uncalibrated", "limited by")
    spoken = any(chip["tokens"] for chip in chips)
    rows = tuple((*_chip_row(chip), *((_tokens(chip),) if spoken else ())) for chip in chips)
    return TextTable("On every chip", (*columns, "tokens/s") if spoken else columns, rows)


def _chip_row(chip: Mapping[str, Any]) -> tuple[str, ...]:
    cost = chip["cost"]
    interval = (
        f"{' to '.join(map(milliseconds, cost['interval_ms']))} at 95%" if cost["interval_ms"] else cost["status"]
    )
    memory = megabytes(cost["peak_memory_bytes"])
    if not chip["fits"]:
        memory += f", more than its {megabytes(chip['memory_bytes'])}"
    energy = millijoules(cost["energy_mj"]) + ("" if chip["energy_process"] else " at 45 nm")
    limits = ", ".join(f"{limit} {share:.0%}" for limit, share in chip["limits"].items() if share >= LEAST_SHARE)
    return chip["target"], f"{milliseconds(cost['latency_ms'])}, {interval}", memory, energy, limits


def _tokens(chip: Mapping[str, Any]) -> str:
    return _short(chip["tokens"]["tokens_per_second"]) if chip["tokens"] else ""


def limit_table(layers: Sequence[Mapping[str, Any]]) -> TextTable:
    limits = ("; ".join(f"{limit}: {_names(chips)}" for limit, chips in layer["limits"].items()) for layer in layers)
    rows = tuple((layer["name"], text) for layer, text in zip(layers, limits, strict=True))
    return TextTable("What limits the slowest layers", ("layer", "limit: chips"), rows)


def _names(chips: Sequence[str]) -> str:
    return ", ".join(chips) if len(chips) <= NAMED else f"{len(chips)} chips"


def _seconds(one: Mapping[str, Any]) -> str:
    return f"{one['seconds']:.0f}" if one.get("seconds") is not None else ""


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{_short(value)} ms"


def megabytes(value: float | None) -> str:
    return "" if value is None else f"{_short(value / 1e6)} MB"


def millijoules(value: float | None) -> str:
    return "" if value is None else f"{_short(value)} mJ"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def timing_table(title: str, rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """The rows of `chipfit bench`, the fastest first."""
    ordered = sorted(rows, key=lambda row: row["median_ms"])
    cells = tuple(
        (row["runtime"], milliseconds(row["best_ms"]), milliseconds(row["median_ms"]), f"{row['max_abs_error']:.1e}")
        for row in ordered
    )
    return TextTable(title, ("runtime", "best", "median", "largest error"), cells)
