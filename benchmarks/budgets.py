"""Compiles models to random budgets, measures each again in a fresh process, and writes docs/benchmarks/budgets.md.

Nothing is trained. A pair's result is kept in docs/benchmarks/budgets.jsonl: the same command goes on after a kill, or
in another checkout, and the page shows what there is.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from cells import Cells, Ran, Record, chipfit, conditions, interruptible, is_answer, table, trim

from chipfit.search.budget import parse_budget

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "bench-budgets"
PAGE = ROOT / "docs" / "benchmarks" / "budgets.md"
MODELS = ("resnet20", "mobilenetv2", "efficientnet_lite0", "minilm", "smollm2")
PASSES = {  # the defaults but recovery, and those without precision as a choice
    "int8": "factorize,prune-axes,drop-blocks,compensate,quantize{activations=true}",
    "float32": "prune-axes,drop-blocks,compensate",
}
COUNT, SEED = 60, 5
LATENCY = 0.35, 0.90  # of the uncompressed model's, drawn evenly
OTHERS = {"memory": (0.60, 0.95), "size": (0.40, 0.95)}
COMBINED = 0.4  # of the pairs have a limit on one of these too
NOISE = 1.02  # of its budget a latency may take
NEAREST = re.compile(r"the nearest feasible budget is (\w+=[-+.\w]+%?)\.$")


@dataclass(frozen=True)
class Pair:
    """A model, the limits that it is to meet, as `latency=50.0%`, and the fewest bits that its weights may have."""

    index: int
    model: str
    limits: tuple[str, ...]
    precision: str

    @property
    def key(self) -> str:
        found = f"{self.index:02d}-{self.model}-{'-'.join(self.limits).replace('%', '').replace('=', '')}"
        return found if self.precision == "float32" else f"{found}-{self.precision}"


def pairs(count: int, precision: str) -> list[Pair]:
    """The same ones each time and at each precision, and the first of more: the models in turn."""
    chance, found = random.Random(SEED), list[Pair]()
    for index in range(count):
        limits = [drawn("latency", LATENCY, chance)]
        if chance.random() < COMBINED:
            quantity = chance.choice(sorted(OTHERS))
            limits.append(drawn(quantity, OTHERS[quantity], chance))
        found.append(Pair(index, MODELS[index % len(MODELS)], tuple(limits), precision))
    return found


def drawn(quantity: str, ends: tuple[float, float], chance: random.Random) -> str:
    return f"{quantity}={100 * chance.uniform(*ends):.1f}%"


def made(pair: Pair) -> Record:
    """Compiles, to the nearest feasible budget if the one that was drawn is none, and measures what came out."""
    folder, log = FOLDER / pair.model, FOLDER / "logs" / f"{pair.key}.log"
    ran = compiled(pair, pair.limits, log)
    limits, attempts = pair.limits, [{"limits": pair.limits, **ran.record()}]
    nearest = loosened(pair.limits, ran.sentence)
    if nearest:
        ran, limits = compiled(pair, nearest, log.with_suffix(".nearest.log")), nearest
        attempts.append({"limits": nearest, **ran.record()})
    record = {**asdict(pair), "attempts": attempts, "exit_code": ran.exit_code}
    trim(FOLDER / f"{pair.model}.work")
    if ran.found is None:
        return record
    timed = chipfit(["bench", str(folder), "--uncompressed", "--against", ""], log.with_suffix(".bench.log"))
    if timed.found is None:
        return {**record, "exit_code": timed.exit_code}
    return {**record, "used": used(limits, ran.found, timed.found), "certificate": timed.found["certificate"]}


def compiled(pair: Pair, limits: Sequence[str], log: Path) -> Ran:
    budgets = [word for limit in limits for word in ("--budget", limit)]
    words = ["compile", pair.model, *budgets, "--passes", PASSES[pair.precision], "--out", str(FOLDER / pair.model)]
    return chipfit(words, log)


def loosened(limits: Sequence[str], sentence: str) -> tuple[str, ...] | None:
    """The limits with the one replaced that the error of an infeasible budget names another for; None if it doesn't."""
    found = NEAREST.search(sentence)
    if not found:
        return None
    quantity = found[1].partition("=")[0]
    return tuple(found[1] if limit.startswith(f"{quantity}=") else limit for limit in limits)


def used(limits: Sequence[str], manifest: Record, timed: Record) -> dict[str, float]:
    """What part of each limit is used: of latency as timed afresh, of the others by the manifest."""
    budget = parse_budget(limits)
    found = {name: limit["used"] for name, limit in manifest["certificate"]["limits"].items()}
    latency = next(limit for limit in budget.limits if limit.quantity == "latency")
    return {**found, "latency": timed["certificate"]["latency_ratio"] / latency.value}


def is_violated(record: Record) -> bool:
    return any(share > (NOISE if name == "latency" else 1.0) for name, share in record["used"].items())


def under(record: Record) -> float:
    """How far below its tightest limit a result lies."""
    return 1.0 - max(record["used"].values())


def page(records: Sequence[Record], count: int) -> str:
    """`count` pairs are wanted at each precision."""
    text = f"""# Budgets, measured afterwards

Random pairs of a model and a budget: latency drawn evenly from {LATENCY[0]:.0%} to {LATENCY[1]:.0%} of the uncompressed
model's, in {COMBINED:.0%} of the cases with a limit on memory or size besides. Each is compiled by `chipfit compile`,
without training, and then timed by `chipfit bench --uncompressed` in a fresh process: the artifact's library beside the
uncompressed model's in one interleaved run, compiled anew. A latency is a violation above {NOISE:.2f} of its limit,
which is for the noise of two measurements; memory and size, which are counted, above 1.00. A budget that nothing meets
is replaced by the nearest feasible one that `compile` names. Seconds by model are a compilation's, in the median."""
    parts = [
        section(precision, [one for one in records if one["precision"] == precision], count) for precision in PASSES
    ]
    return "\n\n".join([text, *parts]) + "\n"


def section(precision: str, records: Sequence[Record], count: int) -> str:
    answers = [one for one in records if is_answer(one)]
    met = [one for one in answers if "used" in one]
    parts = [f"## {precision}: `--passes {PASSES[precision]}`", f"`make bench-budgets`: {conditions(answers)}"]
    parts += [verdicts(met, answers), *([by_model(met), every(met)] if met else [])]
    left = [one for one in answers if "used" not in one]
    parts += [f"- {one['key']}: {one['attempts'][-1]['sentence']}" for one in left]
    if len(answers) < count:
        parts.append(f"{count - len(answers)} of {count} pairs are missing; `make bench-budgets` makes them.")
    return "\n\n".join(parts)


def verdicts(met: Sequence[Record], answers: Sequence[Record]) -> str:
    if not met:
        return "No pair was measured yet."
    first = [one["attempts"][0] for one in answers if len(one["attempts"]) > 1]
    alone = [under(one) for one in met if len(one["limits"]) == 1]
    slowest = f", the slowest of which took {max(one['seconds'] for one in first):.0f} s to tell" if first else ""
    lines = [
        f"Violations: {sum(map(is_violated, met))} of {len(met)} pairs.",
        f"Below the tightest limit: {median(map(under, met)):.1%} in the median, {max(map(under, met)):.1%} at most.",
        f"Latency of its limit: {max(one['used']['latency'] for one in met):.1%} at most.",
        f"Nothing met {len(first)} of {len(answers)} budgets as drawn{slowest}; the nearest feasible one was met by "
        f"{sum(len(one['attempts']) > 1 for one in met)} of these.",
    ]
    if alone:
        lines.insert(2, f"The same where latency alone is limited: {median(alone):.1%} in the median of {len(alone)}.")
    return "\n".join(f"- {line}" for line in lines)


def by_model(met: Sequence[Record]) -> str:
    columns = ("model", "pairs", "violations", "below, median", "below, most", "latency of its limit, most", "seconds")
    rows = []
    for model in dict.fromkeys(one["model"] for one in met):
        of = [one for one in met if one["model"] == model]
        distances, latencies = [under(one) for one in of], [one["used"]["latency"] for one in of]
        figures = (median(distances), max(distances), max(latencies))
        seconds = median(one["attempts"][-1]["seconds"] for one in of)
        violations = str(sum(map(is_violated, of)))
        rows.append((model, str(len(of)), violations, *(f"{figure:.1%}" for figure in figures), f"{seconds:.0f}"))
    return table(columns, rows)


def every(met: Sequence[Record]) -> str:
    columns = ("pair", "budget", "latency, timed", "latency, recorded", "used of each limit", "exit codes", "seconds")
    rows = []
    for one in met:
        now, recorded = (one["certificate"][name] for name in ("latency_ratio", "recorded_latency_ratio"))
        shares = ", ".join(f"{name} {share:.1%}" for name, share in one["used"].items())
        budgets = " then ".join(" ".join(attempt["limits"]) for attempt in one["attempts"])
        codes = ", ".join(str(attempt["exit_code"]) for attempt in one["attempts"])
        seconds = ", ".join(f"{attempt['seconds']:.0f}" for attempt in one["attempts"])
        mark = " VIOLATED" if is_violated(one) else ""
        rows.append(
            (f"{one['index']} {one['model']}", budgets, f"{now:.1%}", f"{recorded:.1%}", shares + mark, codes, seconds)
        )
    return table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="pairs, of which the models take turns")
    parser.add_argument("--models", nargs="*", default=MODELS, help="only these models' pairs; none: only the page")
    options = parser.parse_args()
    cells = Cells(PAGE.with_suffix(".jsonl"))
    wanted = [pair for precision in PASSES for pair in pairs(options.count, precision)]
    cells.fill([pair for pair in wanted if pair.model in options.models], made)
    keys = {pair.key for pair in wanted}
    text = page([one for one in cells.found() if one["key"] in keys], options.count)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    interruptible(main)
